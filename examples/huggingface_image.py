"""Hugging Face: a small vision transformer, trained by the Trainer with a method of mixwell's.

python examples/huggingface_image.py --method sk_mixup --epochs 8

Needs ``pip install 'mixwell[huggingface]' scikit-learn``; the model is made from a config.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F
from transformers import TrainingArguments, ViTConfig, ViTForImageClassification

from mixwell.compat.huggingface import MixupTrainer


def digits() -> list[dict[str, Any]]:
    """Return handwritten digits as the model takes them: images (1, 32, 32) and labels."""
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images / 8 - 1, dtype=torch.float32).view(-1, 1, 8, 8)
    x = F.interpolate(x, size=(32, 32), mode="bilinear")
    return [{"pixel_values": image, "labels": int(y)} for image, y in zip(x, labels, strict=True)]


def vision_transformer() -> ViTForImageClassification:
    """Return a ViT of two layers, with random weights."""
    return ViTForImageClassification(
        ViTConfig(
            image_size=32,
            patch_size=8,
            num_channels=1,
            hidden_size=48,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            initializer_range=0.1,
            id2label=dict(enumerate("0123456789")),
        )
    )


def accuracy(found: Any) -> dict[str, float]:
    """Return the share of right predictions."""
    return {"accuracy": float((found.predictions.argmax(1) == found.label_ids).mean())}


def main(argv: list[str] | None = None) -> float:
    """Train on handwritten digits; return the accuracy on those held out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", default="sk_mixup")
    parser.add_argument("--epochs", type=int, default=8)
    args = parser.parse_args(argv)

    torch.manual_seed(0)
    samples = digits()
    random.Random(0).shuffle(samples)
    with tempfile.TemporaryDirectory() as folder:
        trainer = MixupTrainer(
            vision_transformer(),
            TrainingArguments(
                folder,
                num_train_epochs=args.epochs,
                per_device_train_batch_size=64,
                learning_rate=3e-3,
                lr_scheduler_type="cosine",
                warmup_steps=20,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                seed=0,
            ),
            train_dataset=samples[500:],
            eval_dataset=samples[:500],
            compute_metrics=accuracy,
            mixup=args.method,  # this is all
        )
        trainer.train()
        found = trainer.evaluate()
    print(f"{args.method}: accuracy {found['eval_accuracy']:.1%} on the digits held out")
    return found["eval_accuracy"]


if __name__ == "__main__":
    main()
