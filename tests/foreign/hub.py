"""Networks of transformers, and peft's adapters."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from foreign.truths import (
    CLASSES,
    NO_CAM,
    SIZE,
    Keywords,
    foreign,
    lively,
    make_images,
    make_tokens,
    plain,
)
from foreign.vision import vision_transformer
from torch import Tensor, nn

# -------------------------------------------------------------------------------- transformers


def transformers() -> Any:
    return pytest.importorskip("transformers")


BERT = {
    "vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 32, "max_position_embeddings": 16, "num_labels": CLASSES,
}  # fmt: skip
VIT = {
    "image_size": 32, "patch_size": 8, "hidden_size": 16, "num_hidden_layers": 2,
    "num_attention_heads": 2, "intermediate_size": 32, "num_labels": CLASSES,
}  # fmt: skip


@foreign("classifier", inner="vit.embeddings", vit=True)
def hf_vit():
    hf = transformers()
    return lively(hf.ViTForImageClassification(hf.ViTConfig(**VIT)))


@foreign(None, rivals=("cls_classifier", "distillation_classifier"), inner="deit.embeddings")
def hf_distilled_deit():
    """The mean of two heads, of which neither is called so."""
    hf = transformers()
    return lively(hf.DeiTForImageClassificationWithTeacher(hf.DeiTConfig(**VIT)))


TEXT = {"images": False}


@foreign(
    "model.classifier", x=lambda: make_tokens(padded=True), inner="model.bert.embeddings", **TEXT
)
def hf_bert():
    hf = transformers()
    return Keywords(lively(hf.BertForSequenceClassification(hf.BertConfig(**BERT))))


def batch_encoding() -> Any:
    return transformers().BatchEncoding(make_tokens(padded=True))


@foreign("model.classifier", x=batch_encoding, inner="model.bert.embeddings", **TEXT)
def hf_bert_of_batch_encoding():
    """What a tokenizer returns: a mapping, no dict."""
    hf = transformers()
    return Keywords(lively(hf.BertForSequenceClassification(hf.BertConfig(**BERT))))


@foreign(
    "model.classifier",
    x=lambda: make_tokens(padded=True),
    inner="model.distilbert.embeddings",
    **TEXT,
)
def hf_distilbert():
    """Before the classifier is another linear layer of the whole sequence's first position."""
    hf = transformers()
    config = hf.DistilBertConfig(
        vocab_size=30, dim=16, n_layers=2, n_heads=2, hidden_dim=32, max_position_embeddings=16,
        num_labels=CLASSES,
    )  # fmt: skip
    return Keywords(lively(hf.DistilBertForSequenceClassification(config)))


def gpt2() -> nn.Module:
    hf = transformers()
    config = hf.GPT2Config(
        vocab_size=30, n_positions=16, n_embd=16, n_layer=2, n_head=2, num_labels=CLASSES,
        pad_token_id=0,
    )  # fmt: skip
    return Keywords(lively(hf.GPT2ForSequenceClassification(config)))


# Its score is taken of all positions, and the last one's picked, by rows of the input ids: these go
# around all layers, and in padded sentences differ.
GPT2 = dict.fromkeys(("head", "head_rows", "named", "features", "inner"), "either")


@foreign("model.score", x=make_tokens, inner="model.transformer.drop", expect=GPT2, **TEXT)
def hf_gpt2():
    return gpt2()


def last_words(core: nn.Module, x: Any) -> Tensor:
    hidden = core.model.transformer(**x).last_hidden_state
    return hidden[torch.arange(SIZE), x["attention_mask"].sum(1) - 1]


@foreign(
    "model.score",
    x=lambda: make_tokens(padded=True),
    expect=GPT2,
    apart=(last_words, lambda core, features: core.model.score(features)),
    **TEXT,
)
def hf_gpt2_padded():
    """Sentences of several lengths: the position that is picked is another for each."""
    return gpt2()


@foreign(
    "classifier",
    x=lambda: make_images(200),
    inner="wav2vec2.feature_projection.projection",
    images=False,
)
def hf_wav2vec2():
    hf = transformers()
    config = hf.Wav2Vec2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        conv_dim=(8, 8), conv_stride=(5, 2), conv_kernel=(10, 3), num_feat_extract_layers=2,
        num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, classifier_proj_size=12,
        num_labels=CLASSES,
    )  # fmt: skip
    return lively(hf.Wav2Vec2ForSequenceClassification(config))


@foreign("classifier")
def hf_segformer():
    hf = transformers()
    config = hf.SegformerConfig(
        num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1], hidden_sizes=[8, 16],
        patch_sizes=[7, 3], strides=[4, 2], num_attention_heads=[1, 2], mlp_ratios=[2, 2],
        num_labels=CLASSES,
    )  # fmt: skip
    return lively(hf.SegformerForImageClassification(config))


# ---------------------------------------------------------------------------------------- peft


def lora(model: nn.Module, **arguments: Any) -> nn.Module:
    peft = pytest.importorskip("peft")
    return lively(peft.get_peft_model(model, peft.LoraConfig(r=4, **arguments)))


BASE = "base_model.model."


@foreign(f"{BASE}head", inner=f"{BASE}blocks.0", vit=True)
def peft_lora_on_backbone():
    net = vision_transformer()
    return lora(net, target_modules=["qkv"])


@foreign(f"{BASE}head.modules_to_save.default", inner=f"{BASE}blocks.0", vit=True)
def peft_head_saved():
    """Inside a wrapper are two heads, of which the second one runs."""
    net = vision_transformer()
    return lora(net, target_modules=["qkv"], modules_to_save=["head"])


@foreign(f"{BASE}fc", inner=f"{BASE}body.0", maps=f"{BASE}body.1", expect=NO_CAM)
def peft_lora_on_head():
    """The head's last linear layer to run is of rank 4, and its output a part of the logits."""
    return lora(plain(), target_modules=["fc"])


@foreign(f"{BASE}fc", inner=f"{BASE}body.0", maps=f"{BASE}body.1", expect=NO_CAM)
def peft_dora_on_head():
    return lora(plain(), target_modules=["fc"], use_dora=True)


@foreign(f"{BASE}model.classifier", x=make_tokens, inner=f"{BASE}model.bert.embeddings", **TEXT)
def peft_lora_on_bert_and_head():
    hf = transformers()
    net = Keywords(hf.BertForSequenceClassification(hf.BertConfig(**BERT)))
    return lora(net, target_modules=["query", "value", "classifier"])
