"""λ by itself, whatever the pair: drawn, or constant."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from mixwell import functional
from mixwell.batch import Batch
from mixwell.checks import Per, Range, check_range
from mixwell.coefficient.base import Coefficient
from mixwell.errors import InputError

__all__ = ["Beta", "Constant", "SkewedBeta", "TruncatedBeta"]


class Beta(Coefficient):
    """λ ~ Beta(α, α) (mixup, arXiv:1710.09412).

    Args:
        alpha: α > 0: small values mix little, 1 is uniform, large ones mix near half and half.
        per: "sample" or "batch".
    """

    ranges: ClassVar = {"alpha": Range(0.05, 20, log=True)}

    def __init__(self, alpha: float = 1.0, per: Per = "sample") -> None:
        super().__init__(per)
        self.alpha = check_range("alpha", alpha, open=True)

    def forward(self, batch: Batch, partner: Tensor) -> Tensor:
        return self._symmetric(batch, self.alpha)


class TruncatedBeta(Beta):
    """λ ~ Beta(α, α) restricted to [low, high], by the inverse distribution function.

    Args:
        alpha: α > 0.
        low: the least λ; the default 1/2 keeps the own sample the heavier one.
        high: the greatest λ.
        per: "sample" or "batch".
    """

    ranges: ClassVar = {"alpha": Range(0.05, 20, log=True)}

    def __init__(
        self, alpha: float = 1.0, low: float = 0.5, high: float = 1.0, per: Per = "sample"
    ) -> None:
        super().__init__(alpha, per)
        self.low = check_range("low", low, 0, 1)
        self.high = check_range("high", high, 0, 1)
        if self.low >= self.high:
            raise InputError(f"low must be below high, got low={low!r} and high={high!r}")
        ends = torch.tensor([self.low, self.high], dtype=torch.float64, device="cpu")
        own = torch.tensor(self.alpha, dtype=torch.float64, device="cpu")
        self._first, self._last = functional.beta_cdf(ends, own).tolist()

    def forward(self, batch: Batch, partner: Tensor) -> Tensor:
        u = self._first + (self._last - self._first) * self._uniform(batch).double()
        lam = functional.beta_icdf(u, torch.full_like(u, self.alpha))
        return lam.float().clamp(self.low, self.high)


class SkewedBeta(Coefficient):
    """1 - λ ~ Beta(α, 1): small α leaves the own sample nearly as it is (Balanced-MixUp).

    Args:
        alpha: α > 0; the mean of 1 - λ is α / (α + 1).
        per: "sample" or "batch".

    Source: "Balanced-MixUp for Highly Imbalanced Medical Image Classification", arXiv:2109.09850.
    """

    ranges: ClassVar = {"alpha": Range(0.05, 2, log=True)}

    def __init__(self, alpha: float = 0.1, per: Per = "sample") -> None:
        super().__init__(per)
        self.alpha = check_range("alpha", alpha, open=True)

    def forward(self, batch: Batch, partner: Tensor) -> Tensor:
        return 1 - self._uniform(batch).pow(1 / self.alpha)


class Constant(Coefficient):
    """The same λ for every pair of every batch.

    Args:
        lam: λ in [0, 1].
    """

    def __init__(self, lam: float = 0.5) -> None:
        super().__init__()
        self.lam = check_range("lam", lam, 0, 1)

    def forward(self, batch: Batch, partner: Tensor) -> Tensor:
        return torch.full((len(batch),), self.lam, dtype=torch.float32, device=batch.device)
