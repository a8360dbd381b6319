"""Mixing by place: each position is one sample's or the other's."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from mixwell.batch import Batch, check_choice
from mixwell.coefficient import Per
from mixwell.errors import InputError
from mixwell.interpolation.base import Interpolation
from mixwell.mix import Box, Mix

__all__ = ["CutMix", "draw_box"]


def draw_box(lam: Tensor, centre: Tensor, height: int, width: int) -> Box:
    """Return boxes of area 1 - λ, clipped to the image.

    Args:
        lam: (B,), the share of the own sample that is asked for.
        centre: (B, 2) in [0, 1), the box's centre down and across.
        height: H in pixels.
        width: W in pixels.
    """
    # (H, W), made where it is needed: a copy to a GPU would be waited for.
    size = torch.arange(2, device=lam.device).mul_(width - height).add_(height)
    side = ((1 - lam).clamp(0, 1).sqrt()[:, None] * size).round_()
    # Twice the half-width would round odd boxes down: the far side takes the rest.
    low = (centre * size).floor_() - side.div(2, rounding_mode="floor")
    edges = torch.stack([low.clamp_min(0), torch.minimum(low + side, size)], 2)
    return Box(edges.flatten(1).long(), height, width)


class CutMix(Interpolation):
    """Paste a box of the partner: CutMix (arXiv:1905.04899).

    The box has the area 1 - λ and a uniform centre, and is clipped at the image's border; λ is
    then corrected to the share of the own sample that is truly left. The last two dimensions are
    the image's.

    Args:
        per: "sample" draws one box for each sample; "batch" one for all (with one λ for all).
    """

    def __init__(self, per: Per = "sample") -> None:
        super().__init__()
        self.per = check_choice("per", per, ("sample", "batch"))

    def shape(self, batch: Batch, mix: Mix) -> Mix:
        sizes = {
            tuple(leaf.shape[-2:]) if leaf.ndim >= 3 else tuple(leaf.shape)
            for leaf in pytree.tree_leaves(batch.x)
        }
        leaf = pytree.tree_leaves(batch.x)[0]
        if len(sizes) != 1 or leaf.ndim < 3:
            raise InputError(
                "CutMix pastes boxes: x must be images (B, ..., H, W) of one size, got "
                f"{' and '.join(str(tuple(x.shape)) for x in pytree.tree_leaves(batch.x))}; "
                "for other inputs mix linearly"
            )
        height, width = leaf.shape[-2:]
        boxes = 1 if self.per == "batch" else len(batch)
        centre = batch.rand(boxes, 2).expand(len(batch), 2)
        box = draw_box(mix.lam, centre, height, width)
        return Mix(mix.partner, box.share().to(mix.lam.dtype), box=box)

    def extra_repr(self) -> str:
        return f"per={self.per!r}"
