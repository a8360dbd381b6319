"""Masks of random shapes, from noise of low frequency."""

from __future__ import annotations

import torch
from torch import Tensor

from mixwell.batch import Batch
from mixwell.checks import Per, check_choice, check_range
from mixwell.interpolation.base import Interpolation, positions
from mixwell.mix import Mix

__all__ = ["FMix", "lowest", "noise"]

NEGLIGIBLE = 1e-6
"""The share of the noise's energy that may be left out, at its highest frequencies."""

BLOCK = 1 << 19
"""Pixels that the CPU ranks at a time: their bins stay in its cache."""


def noise(batch: Batch, count: int, height: int, width: int, decay_power: float) -> Tensor:
    """Return random images of low frequency, (count, H, W) float32.

    Their spectrum is complex normal, divided by frequency to the power of ``decay_power``, the
    frequency in cycles a pixel and at least that of one cycle over the longer side.

    Args:
        batch: draws.
        count: how many.
        height: H.
        width: W.
        decay_power: δ ≥ 0.
    """
    device, longer = batch.device, max(height, width)
    # Of the energy a share of about K^(2 - 2δ) is beyond K cycles over the longer side.
    most = longer
    if decay_power > 1.5:
        most = min(longer, round(NEGLIGIBLE ** (1 / (2 - 2 * decay_power))))
    low, high = min(most, (height - 1) // 2), min(most, width // 2)
    # Down come 0, 1, ..., then the negative ones.
    up = min(most, height // 2)
    down, across = (
        torch.cat(parts).float()
        for parts in (
            [torch.arange(up + 1, device=device), torch.arange(-low, 0, device=device)],
            [torch.arange(high + 1, device=device)],
        )
    )
    cycles = torch.hypot(down[:, None] * (longer / height), across * (longer / width))
    normal = torch.view_as_complex(batch.randn(count, *cycles.shape, 2))
    columns = normal * cycles.clamp_min(1).pow(-decay_power)
    rest = height - columns.shape[1]
    if rest:
        zeros = columns.new_zeros(count, rest, columns.shape[2])
        columns = torch.cat([columns[:, : up + 1], zeros, columns[:, up + 1 :]], 1)
    # One after the other: columns of no energy need no transform.
    return torch.fft.irfft(torch.fft.ifft(columns, dim=1), n=width, dim=2)


def lowest(values: Tensor, count: Tensor) -> Tensor:
    """Return a mask of each sample's ``count`` lowest values: (B, N) bool, exactly so many.

    Each sample's values are ranked by a histogram, which takes a tenth of the time of sorting them:
    those that agree to a thousandth of the sample's range come in the order of their positions.

    Args:
        values: (B, N) floating; or (1, N), the same for all, which are sorted.
        count: (B,) int64 in [0, N].
    """
    if len(values) == 1:
        rank = torch.arange(values.shape[1], device=values.device)
        return torch.empty_like(rank).scatter_(0, values[0].argsort(), rank) < count[:, None]
    if values.device.type == "cpu" and not torch.compiler.is_compiling():
        rows = max(1, BLOCK // values.shape[1])
        blocks = zip(values.split(rows), count.split(rows), strict=True)
        return torch.cat([_lowest(*block) for block in blocks])
    return _lowest(values, count)


def _lowest(values: Tensor, count: Tensor) -> Tensor:
    bins, count = max(1024, values.shape[1] // 8), count[:, None]
    least, most = values.amin(1, keepdim=True), values.amax(1, keepdim=True)
    scale = (bins - 1) / (most - least).clamp_min(torch.finfo(values.dtype).tiny * bins)
    place = (values - least).mul_(scale).long()
    filled = torch.zeros(len(values), bins, dtype=torch.int32, device=values.device)
    one = torch.ones(1, 1, dtype=torch.int32, device=values.device).expand_as(place)
    filled = filled.scatter_add_(1, place, one).cumsum(1, dtype=torch.int32)
    # The bin of which some are among the lowest and some are not, and how many are below it.
    last = torch.searchsorted(filled, count.int(), right=True)
    below = torch.where(last > 0, filled.gather(1, (last - 1).clamp_min(0)), 0)
    within = place == last
    return (place < last) | (within & (within.cumsum(1, dtype=torch.int32) <= count - below))


class FMix(Interpolation):
    """Give regions of random shape to the partner: FMix (arXiv:2002.12047).

    The round(λ H W) pixels where noise of low frequency is lowest are the own sample's, and λ is
    corrected to that. Of signals (B, C, L) it is the noise of one dimension.

    Args:
        decay_power: δ ≥ 0 of the noise's spectrum: the greater, the larger the regions.
        per: "sample" draws noise for each sample; "batch" once for all (with one λ for all).
    """

    def __init__(self, decay_power: float = 3.0, per: Per = "sample") -> None:
        super().__init__()
        self.decay_power = check_range("decay_power", decay_power)
        self.per = check_choice("per", per, ("sample", "batch"))

    def shape(self, batch: Batch, mix: Mix) -> Mix:
        size = positions("FMix", batch)
        height, width = size if len(size) == 2 else (1, *size)
        count = 1 if self.per == "batch" else len(batch)
        field = noise(batch, count, height, width, self.decay_power).flatten(1)
        own = (mix.lam * (height * width)).round().long()
        mask = lowest(field, own).view(-1, 1, *size)
        return Mix(mix.partner, own.to(mix.lam.dtype) / (height * width), mask=mask)
