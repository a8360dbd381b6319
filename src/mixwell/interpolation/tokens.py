"""Mixing by the tokens of a vision transformer: TokenMix."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from mixwell.batch import Batch
from mixwell.checks import Per, shown
from mixwell.errors import InputError
from mixwell.interpolation.masks import _ByPlace
from mixwell.mix import Mix

__all__ = ["TokenMix", "draw_blocks"]

_BLOCKS = 12
"""How many blocks are tried: few tokens are left after them, whatever λ is."""

_LEAST_ASPECT = 0.3


def draw_blocks(count: Tensor, blocks: Tensor, order: Tensor) -> Tensor:
    """Return random regions of so many tokens: (B, h, w) bool, each of several blocks.

    As in BEiT's block-wise masking a block has a uniform area between one token and as many as are
    still to be chosen, an aspect ratio between 0.3 and 1/0.3, uniform in its logarithm, and a
    uniform place; one that would choose too many, or spans the image, is passed over. What is left
    after the last is chosen token by token, so that their number is exact.

    Args:
        count: (B,), how many tokens to choose.
        blocks: (B, n, 4) uniform numbers in [0, 1), for n blocks.
        order: (B, h, w) uniform numbers in [0, 1), for the tokens that are left.
    """
    height, width = order.shape[1:]
    row = torch.arange(height, device=order.device)
    column = torch.arange(width, device=order.device)
    chosen = torch.zeros_like(order, dtype=torch.bool)
    left = count
    for area, aspect, down, across in (block.unbind(1) for block in blocks.unbind(1)):
        area = 1 + area * (left - 1).clamp_min(0)
        ratio = torch.exp((2 * aspect - 1) * -math.log(_LEAST_ASPECT))
        tall, wide = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
        top = (down * (height - tall + 1)).floor()[:, None]
        start = (across * (width - wide + 1)).floor()[:, None]
        rows = (row >= top) & (row < top + tall[:, None])
        columns = (column >= start) & (column < start + wide[:, None])
        new = rows[:, :, None] & columns[:, None, :] & ~chosen
        number = new.sum((1, 2))
        fits = (tall < height) & (wide < width) & (number <= left)
        chosen = chosen | (new & fits[:, None, None])
        left = left - torch.where(fits, number, 0)
    # The first in the order among those not chosen, which come before all others.
    free = torch.where(chosen, 2.0, order).flatten(1)
    rank = free.argsort(1).argsort(1).view_as(chosen)
    return chosen | (rank < left[:, None, None])


class TokenMix(_ByPlace):
    """Take several regions of tokens from the partner: TokenMix (arXiv:2207.08409).

    The regions are blocks of whole tokens (:func:`draw_blocks`), (1 - λ) h w of them, rounded; λ is
    then corrected to the share of the pixels. The last two dimensions are the image's.

    Args:
        grid: (h, w), the tokens of an image down and across, or one number for both. By default
            the model is asked, which must be a vision transformer then.
        per: "sample" draws regions for each sample; "batch" the same for all (with one λ for all).

    Raises:
        InputError: there is no model to ask, or it has no tokens.
    """

    def __init__(self, grid: int | tuple[int, int] | None = None, per: Per = "sample") -> None:
        super().__init__(per)
        self.grid = _pair(grid)
        self.needs_model = grid is None

    def shape(self, batch: Batch, mix: Mix) -> Mix:
        height, width = self._size(batch)
        down, across = self._tokens(batch)
        count = ((1 - mix.lam) * (down * across)).round().long()
        blocks = self._rand(batch, _BLOCKS, 4)
        theirs = draw_blocks(count, blocks, self._rand(batch, down, across))
        row = torch.arange(height, device=batch.device) * down // height
        column = torch.arange(width, device=batch.device) * across // width
        mask = ~theirs[:, row[:, None], column[None, :]][:, None]
        lam = mask.sum((1, 2, 3)).to(mix.lam.dtype) / (height * width)
        return Mix(mix.partner, lam, mask)

    def _tokens(self, batch: Batch) -> tuple[int, int]:
        if self.grid is not None:
            return self.grid
        if batch.view is None:
            raise InputError(
                "TokenMix asks the model for its grid of tokens: call method(model, x, y), or "
                "preview(x, y, model=model), or give the grid, grid=14"
            )
        return batch.view.token_grid()


_MOST = 4096  # tokens along a side


def _pair(grid: Any) -> tuple[int, int] | None:
    if grid is None:
        return None
    sides = grid if isinstance(grid, (tuple, list)) else (grid, grid)
    if len(sides) != 2 or not all(type(side) is int and 0 < side <= _MOST for side in sides):
        raise InputError(
            f"grid must be a number of tokens from 1 to {_MOST}, two (down, across), or None, got "
            f"{shown(grid)}"
        )
    return sides[0], sides[1]
