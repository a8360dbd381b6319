"""Hugging Face: a small BERT on sentences of a made-up language, their embeddings mixed.

python examples/huggingface_text.py --layer bert.embeddings --epochs 4

Words can't be interpolated, but what they are embedded as can, or the input of the classifier
(``--layer head``). Mixed embeddings are read to the end of the longer sentence: the two attention
masks are joined.

Needs ``pip install 'mixwell[huggingface]'``; the model is made from a config.
"""

from __future__ import annotations

import argparse
import tempfile
from typing import Any

import torch
from transformers import BertConfig, BertForSequenceClassification, TrainingArguments

from mixwell.compat.huggingface import MixupTrainer

TOPICS, LENGTH, WORDS, START = 4, 16, 100, 99


def sentences(count: int, seed: int) -> list[dict[str, Any]]:
    """Return sentences of 5 to 16 words, START first; two of them are among their topic's five.

    The end is filled with zeros, which the attention mask leaves out.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int, *shape: int) -> torch.Tensor:
        return torch.randint(low, high, shape, generator=generator)

    topic, lengths = draw(0, TOPICS, count), draw(5, LENGTH + 1, count)
    words = draw(1 + 5 * TOPICS, START, count, LENGTH)
    first = draw(1, 3, count)
    for place in (first, first + 2):
        words[torch.arange(count), place] = 1 + 5 * topic + draw(0, 5, count)
    words[:, 0] = START
    mask = (torch.arange(LENGTH) < lengths[:, None]).long()
    return [
        {"input_ids": ids, "attention_mask": seen, "labels": y}
        for ids, seen, y in zip(words * mask, mask, topic.tolist(), strict=True)
    ]


def bert() -> BertForSequenceClassification:
    """Return a BERT of two layers, with random weights."""
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=WORDS,
            max_position_embeddings=LENGTH,
            hidden_size=48,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            initializer_range=0.1,
            id2label={topic: f"topic {topic}" for topic in range(TOPICS)},
        )
    )


def accuracy(found: Any) -> dict[str, float]:
    """Return the share of right predictions."""
    return {"accuracy": float((found.predictions.argmax(1) == found.label_ids).mean())}


def main(argv: list[str] | None = None) -> float:
    """Train on 1,000 sentences; return the accuracy on 500 others."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", default="mixup")
    parser.add_argument("--layer", default="bert.embeddings")
    parser.add_argument("--epochs", type=int, default=4)
    args = parser.parse_args(argv)

    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        trainer = MixupTrainer(
            bert(),
            TrainingArguments(
                folder,
                num_train_epochs=args.epochs,
                per_device_train_batch_size=32,
                learning_rate=2e-3,
                lr_scheduler_type="cosine",
                warmup_steps=20,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                seed=0,
            ),
            train_dataset=sentences(1000, seed=0),
            eval_dataset=sentences(500, seed=1),
            compute_metrics=accuracy,
            mixup=args.method,
            mixup_arguments={"layer": args.layer},
        )
        trainer.train()
        found = trainer.evaluate()
    print(f"{args.method} at {args.layer}: accuracy {found['eval_accuracy']:.1%} on new sentences")
    return found["eval_accuracy"]


if __name__ == "__main__":
    main()
