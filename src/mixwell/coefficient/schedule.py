"""λ by the progress of the training."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from mixwell.batch import Batch
from mixwell.checks import Range, check_choice, check_range
from mixwell.coefficient.base import Coefficient

__all__ = ["Midpoint"]


class Midpoint(Coefficient):
    """A schedule from the own sample to the midpoint of the pair (AM, arXiv:2401.14696).

    .. code-block:: text

        asymptotic   λ_t = 1/2 + (λ_0 - 1/2) · exp(-k t)
        linear       λ_t = 1/2 + (λ_0 - 1/2) · (1 - t)
        cosine       λ_t = 1/2 + (λ_0 - 1/2) · (1 + cos πt) / 2
        constant     λ_t = λ_0

    with t in [0, 1] the training progress told by ``method.set_progress(t)``.

    Args:
        schedule: one of the four.
        lam0: λ_0 in [1/2, 1], so that the own label stays the right one.
        k: the asymptotic schedule's rate; ≥ 0.
    """

    ranges: ClassVar = {"k": Range(1, 20, log=True)}

    def __init__(self, schedule: str = "asymptotic", lam0: float = 1.0, k: float = 5.0) -> None:
        super().__init__()
        schedules = ("asymptotic", "linear", "cosine", "constant")
        self.schedule = check_choice("schedule", schedule, schedules)
        self.lam0 = check_range("lam0", lam0, 0.5, 1)
        self.k = check_range("k", k)

    def value(self, progress: Tensor) -> Tensor:
        """Return λ_t at this progress, a tensor like ``progress``."""
        if self.schedule == "asymptotic":
            rest = torch.exp(-self.k * progress)
        elif self.schedule == "linear":
            rest = 1 - progress
        elif self.schedule == "cosine":
            rest = (1 + torch.cos(math.pi * progress)) / 2
        else:
            rest = torch.ones_like(progress)
        return 0.5 + (self.lam0 - 0.5) * rest

    def forward(self, batch: Batch, partner: Tensor) -> Tensor:
        return self.value(batch.progress.to(batch.device, torch.float32)).expand(len(batch))
