"""Mixing by place: what is where one sample's, and where the other's."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mixwell import kernels
from mixwell.batch import Batch
from mixwell.checks import Per, check_choice, check_whole
from mixwell.errors import InputError
from mixwell.interpolation.base import Interpolation, image_size, positions
from mixwell.mix import Box, Mix, tensors
from mixwell.saliency import spectral_residual

__all__ = [
    "CutMix",
    "GridMix",
    "MaskMix",
    "ResizeMix",
    "SaliencyMix",
    "SmoothMix",
    "draw_box",
    "lam_of_spread",
    "spread_of_lam",
]


class _ByPlace(Interpolation):
    """What the policies by place share: a random place for each sample, or one for all."""

    def __init__(self, per: Per = "sample") -> None:
        super().__init__()
        self.per = check_choice("per", per, ("sample", "batch"))

    def _size(self, batch: Batch) -> tuple[int, int]:
        return image_size(type(self).__name__, batch)

    def _positions(self, batch: Batch) -> tuple[int, ...]:
        return positions(type(self).__name__, batch)

    def _rand(self, batch: Batch, *shape: int) -> Tensor:
        """Return uniform numbers in [0, 1), (B, *shape): the same for all samples if per batch."""
        draws = 1 if self.per == "batch" else len(batch)
        return batch.rand(draws, *shape).expand(len(batch), *shape)


# ------------------------------------------------------------------------------------------- boxes


def draw_box(lam: Tensor, centre: Tensor, height: int, width: int) -> tuple[Box, Tensor]:
    """Return boxes of area 1 - λ, clipped to the image, and the share that is truly left, (B,).

    Args:
        lam: (B,), the share of the own sample that is asked for.
        centre: (B, 2) in [0, 1), the box's centre down and across.
        height: H in pixels.
        width: W in pixels.
    """
    drawn = kernels.draw_boxes(lam, centre, height, width)
    if drawn is not None:
        return Box(drawn[0], height, width), drawn[1]
    size: Tensor | int = height
    if height != width:  # (H, W), made where it is needed: a copy to a GPU would be waited for
        size = torch.arange(2, device=lam.device).mul_(width - height).add_(height)
    side = ((1 - lam).clamp_(0, 1).sqrt_()[:, None] * size).round_()
    # Twice the half-width would round odd boxes down: the far side takes the rest.
    low = (centre * size).floor_().sub_(side.div(2, rounding_mode="floor"))
    high = (low + side).clamp_max_(size)
    edges = torch.stack([low.clamp_min_(0), high], 2)
    box = Box(edges.flatten(1).long(), height, width)
    return box, box.share().to(lam.dtype)


def draw_interval(lam: Tensor, centre: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Return masks without an interval of 1 - λ, clipped, and the share that is truly left, (B,).

    Args:
        lam: (B,), the share of the own sample that is asked for.
        centre: (B, 1) in [0, 1), the interval's centre.
        length: L in samples.

    Returns:
        (B, 1, L) bool, True where the own sample is; and (B,), like ``lam``.
    """
    side = ((1 - lam).clamp(0, 1)[:, None] * length).round()
    low = (centre * length).floor() - side.div(2, rounding_mode="floor")
    place = torch.arange(length, device=lam.device)
    own = (place < low) | (place >= low + side)
    return own[:, None], own.sum(1, dtype=lam.dtype) / length


class CutMix(_ByPlace):
    """Paste a box of the partner: CutMix (arXiv:1905.04899).

    The box has the area 1 - λ and a uniform centre, and is clipped at the image's border; λ is
    then corrected to the share of the own sample that is truly left. The last two dimensions are
    the image's; of signals (B, C, L) an interval of 1 - λ is pasted, through all channels.

    Args:
        per: "sample" draws one box for each sample; "batch" one for all (with one λ for all).
    """

    def shape(self, batch: Batch, mix: Mix) -> Mix:
        size = self._positions(batch)
        centre = self._rand(batch, len(size))
        if len(size) == 1:
            mask, lam = draw_interval(mix.lam, centre, *size)
            return Mix(mix.partner, lam, mask=mask)
        box, lam = draw_box(mix.lam, centre, size[0], size[1])
        return Mix(mix.partner, lam, box=box)


class ResizeMix(_ByPlace):
    """Paste the whole partner, made smaller: ResizeMix (arXiv:2012.11101).

    The partner is resized by √(1 - λ) and pasted at a uniform place inside the image, so that
    nothing of it is lost; λ is then corrected to whole pixels.

    Args:
        per: "sample" draws one place for each sample; "batch" one for all (with one λ for all).
    """

    def shape(self, batch: Batch, mix: Mix) -> Mix:
        height, width = self._size(batch)
        size = torch.arange(2, device=mix.lam.device).mul_(width - height).add_(height)
        side = ((1 - mix.lam).clamp(0, 1).sqrt()[:, None] * size).round_()
        low = (self._rand(batch, 2) * (size - side + 1)).floor_()
        edges = torch.stack([low, low + side], 2).flatten(1).long()
        whole = torch.stack([torch.zeros_like(size), size], 1).flatten().expand(len(batch), 4)
        box = Box(edges, height, width, source=whole)
        return Mix(mix.partner, box.share().to(mix.lam.dtype), box=box)


class SaliencyMix(_ByPlace):
    """Paste a box around what is salient in the partner: SaliencyMix (arXiv:2006.01791).

    The box has the area 1 - λ and the partner's most salient pixel as its centre, and goes to the
    same place; it is clipped at the image's border and λ is corrected, as in CutMix.

    Args:
        saliency: "spectral" looks at the images alone (:func:`spectral_residual
            <mixwell.saliency.spectral_residual>`); "gradient" at the size of the loss's gradient
            at each pixel, for which the model runs forward and backward once more.
        per: "sample" has one box for each sample; "batch" one for all, around the most salient
            pixel of the first sample's partner.
    """

    def __init__(self, saliency: str = "spectral", per: Per = "sample") -> None:
        super().__init__(per)
        self.saliency = check_choice("saliency", saliency, ("spectral", "gradient"))
        self.needs_model = saliency == "gradient"

    def shape(self, batch: Batch, mix: Mix) -> Mix:
        height, width = self._size(batch)
        if self.needs_model:
            saliency = batch.look("gradient")
        else:
            images = [x for x in tensors(batch.x) if x.ndim > 2]
            saliency = spectral_residual(images[0])
        peak = saliency.flatten(1).argmax(1).index_select(0, mix.partner)
        if self.per == "batch":
            peak = peak[:1].expand(len(batch))
        # The middle of the pixel, so that rounding can't make it the one before.
        down = (peak.div(width, rounding_mode="floor") + 0.5) / height
        across = (peak.remainder(width) + 0.5) / width
        box, lam = draw_box(mix.lam, torch.stack([down, across], 1), height, width)
        return Mix(mix.partner, lam, box=box)


# ---------------------------------------------------------------------------------- cells of a grid


def _plane(size: tuple[int, ...]) -> tuple[int, int]:
    """Return the height and width of images; a signal is a line."""
    return (1, size[0]) if len(size) == 1 else (size[0], size[1])


def _by_cells(mix: Mix, own: Tensor, row: Tensor, column: Tensor, size: tuple[int, ...]) -> Mix:
    """Return the mix with a mask that is the same all over each cell of a grid.

    Args:
        mix: the pairs.
        own: (B, n, m) bool, whether a cell is the own sample's.
        row: (B, H) int64, the cell's row that each row of the image is in.
        column: (B, W) int64, likewise.
        size: the positions, (H, W), or (L,) where there is one row.
    """
    count, rows, columns = own.shape
    lines = own.gather(2, column[:, None, :].expand(-1, rows, -1))
    # Whole lines are copied: to pick each position by itself takes about eight times as long.
    line = row + torch.arange(0, count * rows, rows, device=row.device)[:, None]
    mask = lines.flatten(0, 1).index_select(0, line.flatten()).unflatten(0, row.shape)
    # The mean of the mask, in whole numbers of pixels.
    high, wide = (
        torch.zeros(count, cells, dtype=torch.int64, device=row.device).scatter_add_(
            1, place, torch.ones_like(place)
        )
        for place, cells in ((row, rows), (column, columns))
    )
    pixels = (own * high[:, :, None] * wide[:, None, :]).sum((1, 2))
    lam = pixels.to(mix.lam.dtype) / (row.shape[1] * column.shape[1])
    return Mix(mix.partner, lam, mask=mask.reshape(count, 1, *size))


_MOST_CELLS = 1024  # n x n of them are drawn


class GridMix(_ByPlace):
    """Give each cell of a grid to one sample or the other: GridMix (Pattern Recognition 109, 2021).

    A cell is the own sample's with probability λ; λ is then corrected to the share of pixels that
    are. The grid has n x n cells, n uniform in a range, of equal size to a pixel; signals (B, C, L)
    are divided into n intervals.

    Args:
        cells: n, or its range (least, greatest).
        per: "sample" draws a grid and its cells for each sample; "batch" once for all (with one λ
            for all).
    """

    def __init__(self, cells: int | tuple[int, int] = (2, 6), per: Per = "sample") -> None:
        super().__init__(per)
        ends = cells if isinstance(cells, Sequence) else (cells, cells)
        if len(ends) != 2:
            raise InputError(f"cells must be one number or (least, greatest), got {cells!r}")
        self.cells = (
            check_whole("cells", ends[0], 1, _MOST_CELLS),
            check_whole("cells", ends[1], 1, _MOST_CELLS),
        )
        if self.cells[0] > self.cells[1]:
            raise InputError(f"cells must be (least, greatest), got {cells!r}")

    def shape(self, batch: Batch, mix: Mix) -> Mix:
        size = self._positions(batch)
        height, width = _plane(size)
        low, high = self.cells
        count = low + (self._rand(batch, 1) * (high - low + 1)).long()
        own = self._rand(batch, high, high) < mix.lam[:, None, None]
        row = torch.arange(height, device=own.device) * count // height
        column = torch.arange(width, device=own.device) * count // width
        return _by_cells(mix, own, row, column, size)


class MaskMix(_ByPlace):
    """Shuffle patches between the two samples: MaskMix (of MixPro, arXiv:2304.12043).

    Of n patches a random subset, round((1 - λ) n) of them, is the partner's; λ is then corrected
    to the share of pixels. Those at the right and at the bottom may be cut off. Of signals
    (B, C, L) a patch is an interval.

    Args:
        patch: a patch's side in pixels. The default is a quarter of the image's longer side, and of
            images from 64 pixels on a multiple of 16, so that the patches of a vision transformer
            are not divided: 64 of 224 pixels, as published. Of signals it is a sixteenth, so that
            there are as many patches.
        per: "sample" draws a subset for each sample; "batch" one for all (with one λ for all).
    """

    def __init__(self, patch: int | None = None, per: Per = "sample") -> None:
        super().__init__(per)
        self.patch = None if patch is None else check_whole("patch", patch, 1)

    def shape(self, batch: Batch, mix: Mix) -> Mix:
        size = self._positions(batch)
        height, width = _plane(size)
        longer = max(height, width)
        if self.patch is not None and self.patch >= longer > 1:
            raise InputError(
                f"patch={self.patch} makes one patch of {' x '.join(map(str, size))} positions, "
                "which would be all the one sample's or all the other's; give a smaller one"
            )
        patch = self.patch or (_quarter(longer) if len(size) == 2 else -(-longer // 16))
        rows, columns = -(-height // patch), -(-width // patch)
        count = rows * columns
        kept = (mix.lam * count).round()[:, None] > torch.arange(count, device=mix.lam.device)
        order = self._rand(batch, count).argsort(1)
        own = torch.empty_like(kept).scatter_(1, order, kept).unflatten(1, (rows, columns))
        row = torch.arange(height, device=own.device) // patch
        column = torch.arange(width, device=own.device) // patch
        return _by_cells(mix, own, row.expand(len(batch), -1), column.expand(len(batch), -1), size)


def _quarter(side: int) -> int:
    """Return a quarter of a side in pixels, rounded up; of a long one to a multiple of 16."""
    return -(-side // 64) * 16 if side >= 64 else -(-side // 4)


# ------------------------------------------------------------------------------------- soft masks


def lam_of_spread(spread: Tensor) -> Tensor:
    """Return λ, the mean of 1 - exp(-d²/2σ²) over a unit square, d the distance to its centre.

    Args:
        spread: σ > 0, in sides of the square.
    """
    reach = 1 / (math.sqrt(8) * spread)
    return 1 - (math.sqrt(math.pi) / 2 * torch.erf(reach) / reach).square()


def spread_of_lam(lam: Tensor) -> Tensor:
    """Return the σ whose :func:`lam_of_spread` is λ: infinite at 0, next to nothing at 1.

    Args:
        lam: λ in [0, 1].
    """
    # r = √(1 - λ) = c erf(q) / q with c = √π/2 and q = 1 / √8σ. The first guess is right at both
    # ends and to 3 % between, from where two of Newton's steps reach six digits.
    c = math.sqrt(math.pi) / 2
    r = (1 - lam).clamp(1e-8, 1).sqrt()
    guess = q = c / r * (1 - r**3.82).sqrt()
    for _ in range(2):
        q = q - (c * torch.erf(q) - r * q) / (torch.exp(-q * q) - r).clamp_max(-1e-12)
    # Near λ = 0 the steps are differences of numbers that agree to their last digit.
    q = torch.where(lam > 1e-3, q, guess)
    return 1 / (math.sqrt(8) * q)


class SmoothMix(_ByPlace):
    """Blend the partner in under a Gaussian: SmoothMix (CVPR Workshops 2020).

    The own sample's weight is 1 - exp(-d²/2σ²), d the distance to a uniform centre, across and
    down in sides of the image. σ is the one for which the mean of that is λ where the centre is
    the image's; what the border cuts off is the own sample's, and λ is corrected to the true mean,
    as in CutMix. Signals (B, C, L) have one distance, along L.

    Args:
        per: "sample" draws one centre for each sample; "batch" one for all.
    """

    def shape(self, batch: Batch, mix: Mix) -> Mix:
        size = self._positions(batch)
        if len(size) == 1:
            return self._along(batch, mix, size[0])
        height, width = size
        spread, centre = spread_of_lam(mix.lam)[:, None], self._rand(batch, 2)
        down, across = (
            torch.exp(-((_middles(mix.lam, pixels) - centre[:, side, None]) / spread).square() / 2)
            for side, pixels in enumerate((height, width))
        )
        # At λ = 1 the centre may still be a pixel's.
        down = torch.where(mix.lam[:, None] < 1, down, 0.0)
        one = torch.ones((), dtype=down.dtype, device=down.device)
        mask = torch.addcmul(one, down[:, None, :, None], across[:, None, None, :], value=-1)
        return Mix(mix.partner, 1 - down.mean(1) * across.mean(1), mask=mask)

    def _along(self, batch: Batch, mix: Mix, length: int) -> Mix:
        """Return the mix of signals."""
        # On a line the mean is one axis's, of which a square's is the product of two.
        spread = spread_of_lam(1 - (1 - mix.lam).square())[:, None]
        theirs = torch.exp(
            -((_middles(mix.lam, length) - self._rand(batch, 1)) / spread).square() / 2
        )
        theirs = torch.where(mix.lam[:, None] < 1, theirs, 0.0)
        return Mix(mix.partner, 1 - theirs.mean(1), mask=1 - theirs[:, None])


def _middles(like: Tensor, size: int) -> Tensor:
    """Return where the pixels of an axis are, in (0, 1)."""
    return (torch.arange(size, dtype=like.dtype, device=like.device) + 0.5) / size
