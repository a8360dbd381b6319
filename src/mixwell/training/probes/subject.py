"""What a probe looks at, and what it leaves."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mixwell.data import Dataset, FolderSplit, Split, TensorSplit
from mixwell.data.splits import IMAGENET_MEAN, IMAGENET_STD
from mixwell.methods import Method
from mixwell.training.config import RunConfig
from mixwell.training.predict import predict

__all__ = ["Findings", "Subject", "moments"]


@dataclass
class Findings:
    """What was measured of a run.

    Attributes:
        measures: name to value.
        details: what takes more than a number: accuracy by class, by corruption and severity.
        arrays: predictions and all else that figures are drawn from.
    """

    measures: dict[str, float] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Subject:
    """A trained model that is being measured.

    Attributes:
        model: in whichever mode; it is left in it.
        dataset: what it was trained on.
        device: where it is.
        config: says what is measured beside.
        method: how it was trained; None where that is not known.
        outputs: (N, C) of the test split.
        features: (N, d) of the test split.
    """

    model: nn.Module
    dataset: Dataset
    device: torch.device
    config: RunConfig
    method: Method | None
    outputs: Tensor
    features: Tensor

    @cached_property
    def trained(self) -> tuple[Tensor, Tensor]:
        """Features (M, d) and targets (M,) of the training split."""
        _, targets, features = predict(self.model, self.dataset.train, self.device, features=True)
        assert features is not None
        return features, targets


def moments(split: Split) -> tuple[Tensor, Tensor]:
    """Return mean and std (1, C, 1, 1) that a split of images is normalised by."""
    if isinstance(split, (TensorSplit, FolderSplit)):
        mean, std = split.mean, split.std
    else:
        mean, std = IMAGENET_MEAN, IMAGENET_STD
    assert mean is not None
    assert std is not None
    return torch.tensor(mean).view(1, -1, 1, 1), torch.tensor(std).view(1, -1, 1, 1)
