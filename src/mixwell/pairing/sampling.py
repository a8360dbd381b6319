"""Drawing partners by weights: exactly, and without a matrix of all pairs."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["DENSE", "blocks", "draw_by_weight", "draw_near"]

DENSE = 512
"""Up to so many samples the matrix of all pairs is the faster way."""

BLOCK = 1 << 21
"""Entries of a matrix of pairs that are held at a time."""

ROWS = 1 << 14
"""Samples whose partners :func:`draw_near` draws at a time."""

CELL, REACH, TERMS = 0.5, 24, 24
"""Of the sums of a Gaussian: a cell's width in bandwidths, how many cells on either side are
looked at (12 bandwidths), and the terms of each series (to 1e-11 of its sum)."""

LONELY, NEIGHBOURS = 9.0, 64
"""A sample that has no other within so many bandwidths is drawn a partner from so many nearest on
either side. (Others are beyond reach with a weight of e^-31 of the nearest's.)"""


def blocks(count: int, width: int) -> list[slice]:
    """Return slices of ``count`` rows of a matrix so wide, of at most :data:`BLOCK` entries."""
    rows = max(1, BLOCK // max(width, 1))
    return [slice(start, min(start + rows, count)) for start in range(0, count, rows)]


def draw_by_weight(log_weight: Callable[[slice], Tensor], u: Tensor, width: int) -> Tensor:
    """Draw j with probability ∝ exp(log_weight_ij) for each row i, a block of rows at a time.

    Args:
        log_weight: gives (n, width) of a slice of n rows; -inf where j must not be drawn, finite
            somewhere in each row.
        u: (N,) uniform numbers in [0, 1), one for each row.
        width: how many there are to draw from.

    Returns:
        (N,) int64.
    """
    drawn = []
    for rows in blocks(len(u), width):
        weight = log_weight(rows)
        weight = torch.exp(weight - weight.amax(1, keepdim=True))
        drawn.append(_invert(weight, u[rows]))
    return torch.cat(drawn)


def _invert(weight: Tensor, u: Tensor) -> Tensor:
    """Return the first place where the running sum of ``weight`` (n, m) exceeds u of its total."""
    precise = weight.dtype if weight.device.type == "mps" else torch.float64
    total = weight.cumsum(1, dtype=precise)
    # The last of the places that have a weight, not one after it, if rounding makes it the total.
    place = torch.searchsorted(total, (u.to(precise) * total[:, -1])[:, None], right=True)
    last = torch.searchsorted(total, total[:, -1:].contiguous())
    return torch.minimum(place, last)[:, 0]


def draw_near(
    y: Tensor, pool: Tensor, bandwidth: float, u: Tensor, own: Tensor | None = None
) -> Tensor:
    """Draw j with probability ∝ exp(-(y_i - pool_j)² / 2h²) for each i, in O((N + M) log M).

    The pool is sorted, and its line divided into cells of half a bandwidth. The sum of the weights
    of the members of a cell is a series in the distance to its centre,

    .. code-block:: text

        t = (y - c) / h,   v = (p - c) / h
        exp(-(y - p)² / 2h²) = e^(-t²/2) Σ_k t^k / k! · v^k e^(-v²/2)

    whose terms are differences of running sums over the pool; so is the sum over a part of a cell.
    u then chooses a cell, and by bisection a member: the inverse of the distribution function, to
    1e-11. It is the same on any device, in a fixed number of operations: no device waits.

    Args:
        y: (N,) targets, or (N, 1).
        pool: (M,) or (M, 1), those of the samples to draw from. Sorting the same tensor once more
            is saved.
        bandwidth: h > 0, in their units.
        u: (N,) uniform numbers in [0, 1).
        own: optional (N,), the place of each sample in the pool, which is not drawn unless it is
            the only one.

    Returns:
        (N,) int64 places in the pool.
    """
    device = y.device
    if own is not None and len(pool) == 1:
        return torch.zeros(len(y), dtype=torch.int64, device=device)
    line = _line_of(pool, bandwidth)
    y, u = (value.detach().flatten().to(line.places.device) for value in (y, u))
    y = (y.double() - line.low) / line.unit
    rank = None if own is None else line.rank[own.to(line.rank.device)]
    drawn = [
        line.draw(y[rows], u[rows], None if rank is None else rank[rows])
        for rows in (slice(start, start + ROWS) for start in range(0, len(y), ROWS))
    ]
    return line.order[torch.cat(drawn)].to(device)


_LAST: list[tuple[weakref.ref[Tensor], int, float, _Line]] = []
"""The pool that was last drawn from: a training set is drawn from in each step."""


def _line_of(pool: Tensor, bandwidth: float) -> _Line:
    """Return a pool's line: the last one, if it is the same tensor, not written to since."""
    if torch.compiler.is_compiling():
        return _Line(pool, bandwidth)
    for known, version, width, line in _LAST:
        if known() is pool and version == pool._version and width == bandwidth:
            return line
    line = _Line(pool, bandwidth)
    # It goes with its pool.
    _LAST[:] = [(weakref.ref(pool, _forget), pool._version, bandwidth, line)]
    return line


def _forget(pool: weakref.ref[Tensor]) -> None:
    _LAST[:] = [last for last in _LAST if last[0] is not pool]


class _Line:
    """A sorted pool in units of the bandwidth, and the running sums of its cells' series.

    Args:
        pool: (M,).
        bandwidth: h > 0.
    """

    def __init__(self, pool: Tensor, bandwidth: float) -> None:
        pool = pool.detach().flatten()
        pool = pool.cpu() if pool.device.type == "mps" else pool
        ordered, self.order = torch.sort(pool.double())  # which Apple's devices don't have
        self.rank = torch.empty_like(self.order)
        self.rank[self.order] = torch.arange(len(pool), device=pool.device)
        self.low, span = ordered[0], ordered[-1] - ordered[0]
        # A bandwidth of less than a 2^40th of the range is taken for that: places are of 53 bits.
        self.unit = (span * 2.0**-40).clamp_min(max(bandwidth, torch.finfo(torch.float64).tiny))
        self.places = places = (ordered - self.low) / self.unit
        self.cells = (places / CELL).floor()
        offset = places - (self.cells + 0.5) * CELL  # from the centre, at most half a cell
        power = torch.arange(TERMS, device=places.device)
        terms = (2 / CELL * offset)[:, None].pow(power) * torch.exp(-offset.square() / 2)[:, None]
        zero = terms.new_zeros(1, TERMS)
        self.sums = torch.cat([zero, terms]).cumsum(0)
        self.columns = self.sums.T.contiguous()
        factorial = torch.lgamma(power.double() + 1)
        self.factor = torch.exp(power * math.log(CELL / 2) - factorial)

    def draw(self, y: Tensor, u: Tensor, rank: Tensor | None) -> Tensor:
        """Return the ranks that are drawn: (n,)."""
        cell = (y / CELL).floor()
        step = torch.arange(-REACH, REACH + 1, device=y.device, dtype=y.dtype)
        ends = torch.arange(-REACH, REACH + 2, device=y.device, dtype=y.dtype)
        bounds = torch.searchsorted(self.cells, cell[:, None] + ends)
        if rank is not None:  # the own cell in three parts: the own sample is one of them
            rank = rank[:, None]
            bounds = torch.cat([bounds[:, : REACH + 1], rank, rank + 1, bounds[:, REACH + 1 :]], 1)
            step = torch.cat([step[: REACH + 1], step[REACH : REACH + 1], step[REACH:]])
        start, stop = bounds[:, :-1], bounds[:, 1:]
        gap = (y - (cell + 0.5) * CELL)[:, None] - step * CELL
        weight = torch.zeros_like(gap)
        for k in range(TERMS - 1, -1, -1):  # Horner's scheme, of what is e^(gap v) at last
            scale = CELL / 2 / (k + 1) * gap
            weight = self.columns[k][bounds].diff(dim=1).addcmul_(weight, scale)
        if rank is not None:
            weight[:, REACH + 1] = 0
        weight = torch.where(stop > start, weight.clamp_min(0) * torch.exp(-gap.square() / 2), 0.0)
        chosen = _invert(weight, u)[:, None]
        before = (weight.cumsum(1) - weight).gather(1, chosen)[:, 0]
        rest = u.double() * weight.sum(1) - before
        gap, start, stop = (part.gather(1, chosen)[:, 0] for part in (gap, start, stop))
        found = self._bisect(gap, start, stop, rest)
        return self._or_nearest(y, u, rank, found)

    def _bisect(self, gap: Tensor, start: Tensor, stop: Tensor, rest: Tensor) -> Tensor:
        """Return the member of a cell, from ``start`` on, at which the sum exceeds ``rest``."""
        power = torch.arange(TERMS, device=gap.device)
        factor = self.factor * gap[:, None].pow(power) * torch.exp(-gap.square() / 2)[:, None]
        first = self.sums[start]
        low, high = start + 1, torch.maximum(stop, start + 1)
        for _ in range(len(self.places).bit_length()):
            middle = (low + high).div(2, rounding_mode="floor").clamp_max(len(self.places))
            beyond = (factor * (self.sums[middle] - first)).sum(1) > rest
            low = torch.where(beyond, low, torch.minimum(middle + 1, high))
            high = torch.where(beyond, middle, high)
        return (low - 1).clamp_max(len(self.places) - 1)

    def _or_nearest(self, y: Tensor, u: Tensor, rank: Tensor | None, found: Tensor) -> Tensor:
        """Return ``found``, and of who has no other near one of the nearest."""
        beside = torch.arange(NEIGHBOURS, device=y.device)
        if rank is None:
            after = torch.searchsorted(self.places, y)[:, None]
            near = torch.cat([after - NEIGHBOURS + beside, after + beside], 1)
        else:
            near = torch.cat([rank - NEIGHBOURS + beside, rank + 1 + beside], 1)
        there = (near >= 0) & (near < len(self.places))
        near = near.clamp(0, len(self.places) - 1)
        gap = torch.where(there, (y[:, None] - self.places[near]).abs(), torch.inf)
        nearest = gap.amin(1, keepdim=True)
        weight = torch.exp((nearest.square() - gap.square()) / 2)
        chosen = near.gather(1, _invert(weight, u)[:, None])[:, 0]
        return torch.where(nearest[:, 0] > LONELY, chosen, found)
