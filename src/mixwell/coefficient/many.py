"""Weights for mixes of more than two samples."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from mixwell import functional
from mixwell.batch import Batch
from mixwell.checks import Per, Range, check_range, check_whole
from mixwell.coefficient.base import Coefficient
from mixwell.errors import InputError

__all__ = ["Dirichlet", "PSeries"]


_MOST = 1 << 20  # samples that are mixed into one: weights (B, k) are drawn for each


class _ManySamples(Coefficient):
    """Weights for mixes of k samples, the own and k - 1 partners."""

    kept_as: ClassVar = {"k": "samples"}

    def __init__(self, k: int, per: Per = "sample") -> None:
        super().__init__(per)
        self.samples = check_whole("k", k, 2, _MOST)

    def forward(self, batch: Batch, partner: Tensor) -> Tensor:
        if self.samples > 2:
            raise InputError(
                f"{type(self).__name__}(k={self.samples}) has no one λ for a pair: ask weights()"
            )
        return self.weights(batch)[:, 0]


class Dirichlet(_ManySamples):
    """Weights ~ Dirichlet(α, ..., α) of the own sample and k - 1 partners; of two, Beta(α, α).

    The mean weight of each is 1 / k: with α ≥ 1 the own sample is hardly more than one of k. A
    small α gives nearly all to one of them.

    Args:
        alpha: α > 0.
        k: how many samples are mixed into one; ≥ 2.
        per: "sample" or "batch".
    """

    ranges: ClassVar = {"alpha": Range(0.05, 20, log=True)}

    def __init__(self, alpha: float = 1.0, k: int = 3, per: Per = "sample") -> None:
        super().__init__(k, per)
        self.alpha = check_range("alpha", alpha, open=True)

    def weights(self, batch: Batch) -> Tensor:
        rows = 1 if self.per == "batch" else len(batch)
        alpha = torch.full(
            (rows, self.samples), self.alpha, dtype=torch.float32, device=batch.device
        )
        return functional.sample_dirichlet(alpha, batch.generator).expand(len(batch), -1)


class PSeries(_ManySamples):
    """Weights in proportion to 1, 2^-γ, 3^-γ, ...: the own sample's first (ζ-mixup).

    For γ ≥ 1.72865 the own sample weighs more than all others together, however many.

    Args:
        gamma: γ ≥ 0.
        k: how many samples are mixed into one; ≥ 2.

    Source: "Multi-Sample ζ-mixup", arXiv:2204.03323.
    """

    ranges: ClassVar = {"gamma": Range(1.7, 6)}

    def __init__(self, gamma: float = 2.8, k: int = 8) -> None:
        super().__init__(k)
        self.gamma = check_range("gamma", gamma)

    def weights(self, batch: Batch) -> Tensor:
        place = torch.arange(1, self.samples + 1, device=batch.device, dtype=torch.float32)
        weights = place.pow(-self.gamma)
        return (weights / weights.sum()).expand(len(batch), -1)
