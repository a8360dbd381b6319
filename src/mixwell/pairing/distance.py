"""Partners by the distance of two samples."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from mixwell.batch import Batch, Distance
from mixwell.checks import Range, check_choice, check_range
from mixwell.functional import pairwise_distance
from mixwell.pairing.base import Pairing, draw_partner, without_own
from mixwell.pairing.sampling import DENSE, blocks, draw_by_weight

__all__ = ["DistanceKernel", "NearestNeighbour", "Quantile"]


_DISTANCES = ("features", "input", "label")

_PAIRS = 1 << 16
"""Of how many pairs a large batch's quantile is."""


class ByDistance(Pairing):
    """Pairings that look at the distances of all pairs."""

    def __init__(self, distance: Distance = "features") -> None:
        super().__init__()
        self.distance = check_choice("distance", distance, _DISTANCES)
        self.needs_features = distance == "features"


class NearestNeighbour(ByDistance):
    """One of the ``k`` nearest other samples, drawn uniformly.

    Args:
        k: how many neighbours to draw from; a smaller batch gives all of its others.
        distance: between "features", "input" or "label".
    """

    def __init__(self, k: int = 1, distance: Distance = "features") -> None:
        super().__init__(distance)
        self.k = int(check_range("k", k, 1))

    def forward(self, batch: Batch) -> Tensor:
        size, compared = len(batch), batch.measured(self.distance)
        count = min(self.k, max(size - 1, 1))
        neighbours = torch.cat(
            [
                without_own(pairwise_distance(compared, rows), rows, torch.inf)
                .topk(count, largest=False)
                .indices
                for rows in blocks(size, size)
            ]
        )
        drawn = (batch.rand(size) * count).long()
        return neighbours.gather(1, drawn[:, None])[:, 0]


class Quantile(ByDistance):
    """A partner drawn from those nearer, or farther, than a quantile of the batch's distances.

    The ablation of "Tailoring Mixup to Data for Calibration" (arXiv:2311.01434v3): choosing whom
    to mix instead of how much. A sample with no partner on that side takes its nearest (farthest).
    As in the authors' code a sample is at distance 0 from itself: that counts in the quantile, and
    it may be its own partner. (There the side is "above" by default; it has to be named.)

    Of batches of more than 512 samples the quantile is that of 2^16 random pairs.

    Args:
        q: the quantile of all pairs' distances, in [0, 1].
        side: "below" for similar partners, "above" for dissimilar ones.
        distance: between "features", "input" or "label".
        self_pairs: False leaves pairs of a sample with itself out of both.
    """

    ranges: ClassVar = {"q": Range(0.1, 0.9)}

    def __init__(
        self,
        q: float = 0.5,
        side: str = "below",
        distance: Distance = "features",
        self_pairs: bool = True,
    ) -> None:
        super().__init__(distance)
        self.q = check_range("q", q, 0, 1)
        self.side = check_choice("side", side, ("below", "above"))
        self.self_pairs = self_pairs

    def forward(self, batch: Batch) -> Tensor:
        size = len(batch)
        if size == 1:
            return torch.zeros(1, dtype=torch.int64, device=batch.device)
        compared = batch.measured(self.distance)
        if size <= DENSE:
            distance = self._signed(pairwise_distance(compared))
            limit = self._quantile(distance if self.self_pairs else _off_diagonal(distance))
            weight = self._log_weight(distance, slice(0, size), limit)
            return draw_partner(batch, weight, self.self_pairs)
        limit = self._quantile(self._signed(self._of_some(batch, compared)))

        def log_weight(rows: slice) -> Tensor:
            distance = self._signed(pairwise_distance(compared, rows))
            return self._log_weight(distance, rows, limit)

        return draw_by_weight(log_weight, batch.rand(size), size)

    def _signed(self, distance: Tensor) -> Tensor:
        """Return distances such that partners are those below a limit."""
        return distance if self.side == "below" else -distance

    def _quantile(self, values: Tensor) -> Tensor:
        share = self.q if self.side == "below" else 1 - self.q
        flat = values.flatten()
        return flat.sort().values[round(share * (flat.numel() - 1))]

    def _of_some(self, batch: Batch, compared: Tensor) -> Tensor:
        """Return the distances of random pairs."""
        size = len(batch)
        first, second = (batch.rand(2, _PAIRS).double() * size).long().clamp_max(size - 1)
        if not self.self_pairs:
            second = torch.where(first == second, (second + 1) % size, second)
        flat = compared.detach().reshape(size, -1).float()
        found = [
            (flat[first[some]] - flat[second[some]]).square().sum(1)
            for some in blocks(_PAIRS, flat.shape[1])
        ]
        return torch.cat(found)

    def _log_weight(self, distance: Tensor, rows: slice, limit: Tensor) -> Tensor:
        if not self.self_pairs:
            distance = without_own(distance, rows, torch.inf)
        limit = torch.maximum(limit, distance.min(1, keepdim=True).values)
        return torch.where(distance <= limit, 0.0, -torch.inf)


def _off_diagonal(matrix: Tensor) -> Tensor:
    """Return a (B, B) matrix without its diagonal: a (B-1, B+1) view without its first element."""
    size = len(matrix)
    return matrix.flatten()[1:].view(size - 1, size + 1)[:, :-1].flatten()


class DistanceKernel(ByDistance):
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
        size, compared = len(batch), batch.measured(self.distance)
        pairs = max(size * (size - 1), 1)
        if size <= DENSE:
            squared = pairwise_distance(compared)
            return draw_partner(batch, -squared / self._scale(squared.sum() / pairs))
        flat = compared.detach().reshape(size, -1).float()
        # All pairs' distances have the sum of those to the mean, 2B times.
        total = 2 * size * (flat - flat.mean(0)).square().sum()
        scale = self._scale(total / pairs)

        def log_weight(rows: slice) -> Tensor:
            return without_own(-pairwise_distance(compared, rows) / scale, rows, -torch.inf)

        return draw_by_weight(log_weight, batch.rand(size), size)

    def _scale(self, mean: Tensor) -> Tensor:
        """Return 2 h² in units of the mean squared distance."""
        mean = torch.where(mean > 0, mean, 1.0)  # identical samples are drawn alike
        return 2 * self.bandwidth**2 * mean
