"""Partners by their target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from mixwell.batch import Batch
from mixwell.checks import Range, as_numbers, check_choice, check_range, shown
from mixwell.errors import InputError
from mixwell.functional import pairwise_distance
from mixwell.pairing.base import Pairing, draw_partner, uniform
from mixwell.pairing.sampling import DENSE, draw_by_weight, draw_near

__all__ = ["LabelKernel"]

_EXACT = "donot_use_mm_for_euclid_dist"


class LabelKernel(Pairing):
    """A partner drawn with a Gaussian kernel density on the target (C-Mixup, arXiv:2210.05775).

    ``P(σ(i) = j) ∝ exp(-‖y_i - y_j‖² / (2 h²))`` over the other samples of the batch. Where each
    sample has one target it takes no matrix of all pairs, and O(B log B) operations.

    Published bandwidths are of targets as their authors have them: 1.75 decibels of Airfoil's sound
    level (``bandwidth=1.75, units="raw"``), which is 0.248 of its standard deviation, and 0.05 of
    Exchange-Rate's series, each divided by its largest value (``units="largest"``).

    Args:
        bandwidth: h > 0.
        units: what h is measured in: "standardised", the units that y is given in, which are
            standard deviations where targets are standardised; "raw", the data's own, of which
            ``target_std`` are one unit of y; or "largest", the data's own divided by the largest
            absolute value of each target.
        target_std: what targets were divided by, a number or (K,); needed for "raw" and "largest".
            The trainer tells it of its data; where y is not standardised it is 1.
        target_largest: the largest absolute value of each target in the data's own units, a number
            or (K,); needed for "largest". The trainer tells it, too.
        partners: "batch"; or "data", all other training samples, as the authors have it, where a
            step is given them (``method(model, x, y, data=(X, Y))``), else the batch's.
    """

    ranges: ClassVar = {"bandwidth": Range(0.05, 10, log=True)}
    needs_of_data: ClassVar = ("target_std", "target_largest")

    target_std: Tensor | None
    target_largest: Tensor | None

    def __init__(
        self,
        bandwidth: float = 0.25,
        units: str = "standardised",
        target_std: float | Sequence[float] | Tensor | None = None,
        partners: str = "batch",
        target_largest: float | Sequence[float] | Tensor | None = None,
    ) -> None:
        super().__init__()
        self.partners = check_choice("partners", partners, ("batch", "data"))
        self.bandwidth = check_range("bandwidth", bandwidth, open=True)
        self.units = check_choice("units", units, ("standardised", "raw", "largest"))
        if units != "standardised" and target_std is None:
            raise InputError(
                f"units={units!r} needs to know what one unit of y is: give target_std, what "
                "targets were divided by (1 where they are not standardised)"
            )
        if units == "largest" and target_largest is None:
            raise InputError(
                "units='largest' needs to know the largest absolute value of each target: give "
                "target_largest"
            )
        deviation = _amounts("target_std", target_std)
        largest = _amounts("target_largest", target_largest)
        self.register_buffer("target_std", deviation, persistent=False)
        self.register_buffer("target_largest", largest, persistent=False)
        unit = self._unit
        self._deviation = float(unit) if unit is not None and unit.numel() == 1 else None

    @property
    def _unit(self) -> Tensor | None:
        """How many of the bandwidth's units one unit of y is, (K,) or one; None for one each."""
        if self.units == "standardised" or self.target_std is None:
            return None
        if self.units == "raw" or self.target_largest is None:
            return self.target_std
        if len({self.target_std.numel(), self.target_largest.numel()} - {1}) > 1:
            raise InputError(
                f"target_std has {self.target_std.numel()} entries and target_largest "
                f"{self.target_largest.numel()}: each must be one number, or one for each target"
            )
        return self.target_std / self.target_largest

    def forward(self, batch: Batch) -> Tensor:
        size, y = len(batch), batch.y
        if size <= DENSE or not y.is_floating_point():
            scaled = self._scaled(y)
            squared = batch.measure_all("label") if scaled is y else pairwise_distance(scaled)
            return draw_partner(batch, -squared / (2 * self._width(y) ** 2))
        own = torch.arange(size, device=batch.device)
        return self._draw(y, y, batch.rand(size), own)

    def draw_from(
        self,
        y: Tensor,
        pool: Tensor,
        *,
        own: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        return self._draw(y, pool, uniform(y, generator), own)

    def _width(self, y: Tensor) -> float:
        """Return the bandwidth in units of y; of several deviations :meth:`_scaled` sees to it."""
        if self._deviation is not None and y.is_floating_point():
            return self.bandwidth / self._deviation
        return self.bandwidth

    def _scaled(self, y: Tensor) -> Tensor:
        """Return y in the bandwidth's units where each target has a unit of its own."""
        unit = self._unit
        if unit is None or unit.numel() == 1 or not y.is_floating_point():
            return y
        if tuple(unit.shape) != tuple(y.shape[1:2]):
            several = self.target_std is not None and self.target_std.numel() > 1
            raise InputError(
                f"{'target_std' if several else 'target_largest'} has {len(unit)} entries, but y "
                f"has shape {tuple(y.shape)}: it must hold one for each target of a sample"
            )
        return y * unit.to(y).view(-1, *[1] * (y.ndim - 2))

    def _draw(self, y: Tensor, pool: Tensor, u: Tensor, own: Tensor | None) -> Tensor:
        """Draw places in a pool (M, ...) for targets (N, ...)."""
        width = self._width(pool)
        if pool[0].numel() == 1:
            return draw_near(y, pool, width, u, own)
        y, pool = (self._scaled(value.detach()).flatten(1).float() for value in (y, pool))

        def log_weight(rows: slice) -> Tensor:
            squared = torch.cdist(y[rows], pool, compute_mode=_EXACT).square()
            if own is not None and len(pool) > 1:
                squared.scatter_(1, own[rows, None], torch.inf)
            return -squared / (2 * width**2)

        return draw_by_weight(log_weight, u, len(pool))


def _amounts(name: str, given: Any) -> Tensor | None:
    if given is None:
        return None
    wanted = "be a positive number, or one for each target (K,)"
    value = as_numbers(name, given, wanted)
    if value.ndim > 1 or value.numel() == 0 or not bool((value > 0).all()):
        raise InputError(f"{name} must {wanted}, got {shown(given)}")
    return value
