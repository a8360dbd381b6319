"""The base class of the interpolations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from mixwell import functional
from mixwell.batch import Batch
from mixwell.errors import InputError
from mixwell.mix import Mix, MixedTarget, MultiTarget, tensors
from mixwell.parts import Part

__all__ = ["Interpolation", "image_size", "positions"]


def positions(owner: str, batch: Batch) -> tuple[int, ...]:
    """Return the positions that the batch is mixed at: (L,) of signals, (H, W) of images.

    A tensor of three dimensions is a signal (B, C, L), and what has more an image (B, ..., H, W).
    Beside an image (B, H, W) is one, too, without channels. Of several tensors those of two
    dimensions or fewer have no positions, and are passed over.

    Args:
        owner: who asks, for the message.
        batch: whose inputs must be signals of one length, or images of one size.
    """
    shapes = [tuple(leaf.shape) for leaf in tensors(batch.x)]
    placed = [shape for shape in shapes if len(shape) > 2]
    count = 2 if any(len(shape) > 3 for shape in placed) else 1
    ends = {shape[-count:] for shape in placed}
    if len(ends) != 1:
        raise InputError(
            f"{owner} mixes by place: x must be images (B, ..., H, W) of one size, or signals "
            f"(B, C, L) of one length, got {' and '.join(str(shape) for shape in shapes)}; for "
            "other inputs mix linearly"
        )
    return ends.pop()


def image_size(owner: str, batch: Batch) -> tuple[int, int]:
    """Return (H, W), for what mixes images alone: :func:`positions`, but no signal's.

    Args:
        owner: who asks, for the message.
        batch: whose inputs must be images of one size.
    """
    size = positions(owner, batch)
    if len(size) != 2:
        shapes = " and ".join(str(tuple(leaf.shape)) for leaf in tensors(batch.x))
        raise InputError(
            f"{owner} is for images (B, ..., H, W), got {shapes}: three dimensions are a signal "
            "(B, C, L), which CutMix, GridMix, MaskMix, SmoothMix, FMix and Linear mix; images "
            "without channels are x[:, None]"
        )
    return size[0], size[1]


class Interpolation(Part):
    """Base class of the interpolations: at the input, by a weighted mean, unless overridden.

    Attributes:
        layers: where it may mix: "input", "head", names of layers, or ["auto"].
        needs_model: whether :meth:`shape` asks the model where it looks (the dynamic policies).
        learns: whether :meth:`learn` wants to be called in each training step.
    """

    layers: Sequence[str] = ("input",)
    needs_model: bool = False
    learns: bool = False

    def layer(self, batch: Batch, model: nn.Module) -> str | None:
        """Return where this step mixes.

        None for the input, "head" for the classifier's input, or the name of a layer, whose
        output is mixed.
        """
        return None

    def candidates(self, batch: Batch, model: nn.Module) -> list[str]:
        """Return all that :meth:`layer` may return in some step, but for None."""
        return [name for name in self.layers if name != "input"]

    def shape(self, batch: Batch, mix: Mix) -> Mix:
        """Return the mix with what this way of mixing adds: a mask, and the true λ of it."""
        return mix

    def learn(self, batch: Batch, mix: Mix, target: MixedTarget | MultiTarget) -> None:
        """Train what makes the masks on a step's mix, where ``learns`` is true (AutoMix).

        Called once in each training step, when the batch has been drawn and before the model runs.
        """

    def forward(self, x: Any, mix: Mix) -> Any:
        """Return ``x``, a tensor or pytree of tensors (B, ...), mixed."""
        return functional.mix(x, mix)
