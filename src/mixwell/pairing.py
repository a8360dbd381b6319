"""Who mixes with whom? Each answer maps a batch to its partners σ: (B,) int64."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from mixwell.batch import Batch, Distance, Range, check_choice, check_range

__all__ = [
    "Flip",
    "InterClass",
    "LabelKernel",
    "NearestNeighbour",
    "Pairing",
    "PerfectMatching",
    "Quantile",
    "Shuffle",
]

_DISTANCES = ("features", "input", "label")


class Pairing(nn.Module):
    """Base class of the pairings. A sample that is given no partner is its own: ``σ(i) = i``."""

    needs_features = False
    """Whether :meth:`forward` reads ``batch.features``."""

    def forward(self, batch: Batch) -> Tensor:
        """Return (B,) int64, the index of each sample's partner."""
        raise NotImplementedError


class Shuffle(Pairing):
    """A random permutation of the batch; a sample may stay alone (one in B does, on average)."""

    def forward(self, batch: Batch) -> Tensor:
        return batch.randperm()


class Flip(Pairing):
    """The batch in reverse order: no randomness, for batches that are shuffled already."""

    def forward(self, batch: Batch) -> Tensor:
        return torch.arange(len(batch) - 1, -1, -1, device=batch.device)


class PerfectMatching(Pairing):
    """Random disjoint pairs, ``σ(σ(i)) = i``; of an odd batch one sample stays alone."""

    def forward(self, batch: Batch) -> Tensor:
        order = batch.randperm()
        place = torch.arange(len(batch), device=batch.device)
        neighbour = (place ^ 1).clamp_max(len(batch) - 1)
        return torch.empty_like(order).scatter_(0, order, order[neighbour])


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


class _ByDistance(Pairing):
    """Pairings that look at the distances of all pairs."""

    def __init__(self, distance: Distance = "features") -> None:
        super().__init__()
        self.distance = check_choice("distance", distance, _DISTANCES)
        self.needs_features = distance == "features"

    def _distances(self, batch: Batch) -> Tensor:
        return batch.measure_all(self.distance)

    def extra_repr(self) -> str:
        return f"distance={self.distance!r}"


def _draw_partner(batch: Batch, log_weight: Tensor) -> Tensor:
    """Draw ``σ(i) = j`` with probability ∝ exp(log_weight[i, j]), j ≠ i, by the Gumbel maximum."""
    gumbel = -torch.log(-torch.log(batch.rand(*log_weight.shape).clamp(1e-20, 1 - 1e-7)))
    score = log_weight + gumbel
    if len(batch) > 1:
        score = score.fill_diagonal_(-torch.inf)
    return score.argmax(1)


class NearestNeighbour(_ByDistance):
    """One of the ``k`` nearest other samples, drawn uniformly.

    Args:
        k: how many neighbours to draw from; a smaller batch gives all of its others.
        distance: between "features", "input" or "label".
    """

    def __init__(self, k: int = 1, distance: Distance = "features") -> None:
        super().__init__(distance)
        self.k = int(check_range("k", k, 1))

    def forward(self, batch: Batch) -> Tensor:
        distance = self._distances(batch).fill_diagonal_(torch.inf)
        neighbours = distance.topk(min(self.k, max(len(batch) - 1, 1)), largest=False).indices
        drawn = (batch.rand(len(batch)) * neighbours.shape[1]).long()
        return neighbours.gather(1, drawn[:, None])[:, 0]

    def extra_repr(self) -> str:
        return f"k={self.k}, {super().extra_repr()}"


class Quantile(_ByDistance):
    """A partner drawn from those nearer, or farther, than a quantile of the batch's distances.

    The ablation of "Tailoring Mixup to Data for Calibration" (arXiv:2311.01434v3): choosing whom
    to mix instead of how much. A sample with no partner on that side takes its nearest (farthest).

    Args:
        q: the quantile of all pairs' distances, in [0, 1].
        side: "below" for similar partners, "above" for dissimilar ones.
        distance: between "features", "input" or "label".
    """

    ranges: ClassVar = {"q": Range(0.1, 0.9)}

    def __init__(
        self, q: float = 0.5, side: str = "below", distance: Distance = "features"
    ) -> None:
        super().__init__(distance)
        self.q = check_range("q", q, 0, 1)
        self.side = check_choice("side", side, ("below", "above"))

    def forward(self, batch: Batch) -> Tensor:
        size = len(batch)
        if size == 1:
            return torch.zeros(1, dtype=torch.int64, device=batch.device)
        distance = self._distances(batch)
        if self.side == "above":
            distance = -distance
        # Off the diagonal: a (B-1, B+1) view of a (B, B) matrix without its first element.
        others = distance.flatten()[1:].view(size - 1, size + 1)[:, :-1].flatten()
        rank = round((self.q if self.side == "below" else 1 - self.q) * (others.numel() - 1))
        limit = others.sort().values[rank]
        distance = distance.fill_diagonal_(torch.inf)
        limit = torch.maximum(limit, distance.min(1, keepdim=True).values)
        return _draw_partner(batch, torch.where(distance <= limit, 0.0, -torch.inf))

    def extra_repr(self) -> str:
        return f"q={self.q}, side={self.side!r}, {super().extra_repr()}"


class LabelKernel(Pairing):
    """A partner drawn with a Gaussian kernel density on the target (C-Mixup, arXiv:2210.05775).

    ``P(σ(i) = j) ∝ exp(-‖y_i - y_j‖² / (2 h²))`` over the other samples of the batch.

    Args:
        bandwidth: h, in units of the (standardised) target; > 0.
    """

    ranges: ClassVar = {"bandwidth": Range(0.05, 10, log=True)}

    def __init__(self, bandwidth: float = 1.75) -> None:
        super().__init__()
        self.bandwidth = check_range("bandwidth", bandwidth, open=True)

    def forward(self, batch: Batch) -> Tensor:
        return _draw_partner(batch, -batch.measure_all("label") / (2 * self.bandwidth**2))

    def extra_repr(self) -> str:
        return f"bandwidth={self.bandwidth}"
