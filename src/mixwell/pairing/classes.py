"""Partners by their class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from mixwell.batch import Batch
from mixwell.checks import Range, check_counts, check_range
from mixwell.pairing.base import Pairing

__all__ = ["ClassBalanced", "InterClass", "InverseFrequency"]


class InterClass(Pairing):
    """A partner drawn uniformly from the other classes' samples (AM, arXiv:2401.14696).

    A sample whose class is the only one in the batch stays alone.
    """

    def forward(self, batch: Batch) -> Tensor:
        size = len(batch)
        classes = batch.classes
        # Sorted by class, the samples of other classes are what lies outside one's own block:
        # a uniform draw from them is a shift past it. O(B log B), and no (B, B) mask.
        ordered, order = torch.sort(classes, stable=True)
        start = torch.searchsorted(ordered, classes)
        count = torch.searchsorted(ordered, classes, right=True) - start
        others = size - count
        place = (batch.rand(size).double() * others).long().clamp_max(size - 1)
        place = torch.where(place >= start, place + count, place).clamp_max(size - 1)
        own = torch.arange(size, device=batch.device)
        return torch.where(others > 0, order[place], own)


def _draw_alike(batch: Batch, weight: Tensor) -> Tensor:
    """Draw B partners independently, ``P(σ(i) = j) ∝ weight[j]``, whatever i is."""
    total = weight.double().cumsum(0)
    place = torch.searchsorted(total, batch.rand(len(batch)).double() * total[-1], right=True)
    return place.clamp_max(len(batch) - 1)


class ClassBalanced(Pairing):
    """A partner whose class is drawn uniformly from the batch's classes, then one of its samples.

    The class-balanced half of Balanced-MixUp (arXiv:2109.09850), within the batch: classes that it
    lacks can't be drawn. A sample may be its own partner.
    """

    def forward(self, batch: Batch) -> Tensor:
        ordered = batch.classes.sort().values
        start, stop = (
            torch.searchsorted(ordered, batch.classes, right=right) for right in (False, True)
        )
        return _draw_alike(batch, 1 / (stop - start))


class InverseFrequency(Pairing):
    """A partner drawn by its class's frequency: ``P(σ(i) = j) ∝ n_{y_j}^τ`` (UniMix's sampler).

    In a batch that is like the training set, that is n^(τ + 1) over classes: with τ = 0 mixup's
    random partner, with τ = -1 all classes alike, below that the rare ones more often than the
    others. A sample may be its own partner.

    Args:
        class_counts: (C,) training samples of each class.
        tau: τ; 0 draws from the samples alike, -1 from the classes alike, less favours the rare.

    Source: "Towards Calibrated Model for Long-Tailed Visual Recognition from Prior Perspective",
    arXiv:2111.03874.
    """

    class_counts: Tensor

    ranges: ClassVar = {"tau": Range(-2, 0)}
    needs_of_data: ClassVar = ("class_counts",)

    def __init__(self, class_counts: Tensor | Sequence[float], tau: float = -1.0) -> None:
        super().__init__()
        self.register_buffer("class_counts", check_counts(class_counts), persistent=False)
        self.tau = check_range("tau", tau, -10, 10)

    def forward(self, batch: Batch) -> Tensor:
        # In units of the commonest class: no power overflows.
        share = batch.count(self.class_counts / self.class_counts.max())
        return _draw_alike(batch, share.double().pow(self.tau))
