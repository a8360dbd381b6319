"""Who mixes with whom? Each answer maps a batch to its partners σ: (B,) int64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from mixwell.batch import Batch, Distance
from mixwell.checks import Range, check_choice, check_counts, check_range
from mixwell.functional import pairwise_distance
from mixwell.parts import Part
from mixwell.saliency import check_blur, smoothed

__all__ = [
    "ClassBalanced",
    "DistanceKernel",
    "Flip",
    "InterClass",
    "InverseFrequency",
    "LabelKernel",
    "NearestNeighbour",
    "Pairing",
    "PerfectMatching",
    "Quantile",
    "SalientCycle",
    "Shuffle",
]

_DISTANCES = ("features", "input", "label")


class Pairing(Part):
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


class DistanceKernel(_ByDistance):
    """A partner drawn with a Gaussian kernel on the distance of inputs or features.

    ``P(σ(i) = j) ∝ exp(-d_ij² / (2 h²))`` over the other samples of the batch, with d in units of
    the root mean square distance of the batch's pairs: what C-Mixup's paper compares its kernel on
    labels with (arXiv:2210.05775). The unit is ours: features have no scale of their own.

    Args:
        bandwidth: h > 0; large values draw any partner alike.
        distance: between "features", "input" or "label".
    """

    ranges: ClassVar = {"bandwidth": Range(0.05, 2, log=True)}

    def __init__(self, bandwidth: float = 0.5, distance: Distance = "input") -> None:
        super().__init__(distance)
        self.bandwidth = check_range("bandwidth", bandwidth, open=True)

    def forward(self, batch: Batch) -> Tensor:
        squared = self._distances(batch)
        pairs = max(len(batch) * (len(batch) - 1), 1)
        mean = squared.sum() / pairs
        mean = torch.where(mean > 0, mean, 1.0)  # identical samples are drawn alike
        return _draw_partner(batch, -squared / (2 * self.bandwidth**2 * mean))


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
        tau: τ.

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


class SalientCycle(Pairing):
    """One cycle through the batch, from each sample to one that is salient elsewhere.

    GuidedMixup's greedy pairing (arXiv:2306.16612): it starts with the pair whose smoothed saliency
    maps are farthest apart, and goes on from each sample to the farthest of those that have not
    been a partner yet, and at last back to the first; so everyone is a partner once. B steps
    follow each other, of O(B) each, without waiting for a device; a sample is alone only in a
    batch of one.

    Args:
        saliency: "spectral" or "gradient", as of :class:`GuidedMix
            <mixwell.interpolation.GuidedMix>`.
        blur: the side in pixels of the Gaussian that the saliency is smoothed with, odd.
        sigma: its standard deviation in pixels; > 0.
    """

    def __init__(self, saliency: str = "spectral", blur: int = 7, sigma: float = 3.0) -> None:
        super().__init__()
        self.saliency = check_choice("saliency", saliency, ("spectral", "gradient"))
        self.blur = check_blur(blur)
        self.sigma = check_range("sigma", sigma, open=True)

    def forward(self, batch: Batch) -> Tensor:
        seen = smoothed("SalientCycle", batch, self.saliency, self.blur, self.sigma)
        distance = pairwise_distance(seen).fill_diagonal_(-torch.inf)
        partner = torch.arange(len(batch), device=batch.device)
        first = row = distance.amax(1).argmax(0, keepdim=True)
        for _ in range(len(batch) - 1):
            distance.index_fill_(1, row, -torch.inf)
            column = distance.index_select(0, row).argmax(1)
            partner.scatter_(0, row, column)
            row = column
        return partner.scatter_(0, row, first)
