"""Collapse: how the trained model sees what it was trained on."""

from __future__ import annotations

from typing import Any

import torch

from mixwell.data.splits import seeded
from mixwell.metrics.evidence import Trained
from mixwell.training.predict import predict
from mixwell.training.probes.subject import Findings, Subject

__all__ = ["collapse"]

_SEEN = 50_000  # training samples at most: all of CIFAR, and what memory holds of ImageNet


def collapse(subject: Subject, found: Findings) -> dict[str, Any]:
    """Return the features of the training split, neither mixed nor augmented, of a classifier."""
    train = subject.dataset.train
    if not subject.dataset.classes:
        return {}
    if len(train) <= _SEEN:
        return {"trained": Trained(*subject.trained)}
    chosen = torch.randperm(len(train), generator=seeded("collapse"))[:_SEEN].sort().values
    _, targets, features = predict(
        subject.model, train.subset(chosen), subject.device, features=True
    )
    assert features is not None
    return {"trained": Trained(features, targets)}
