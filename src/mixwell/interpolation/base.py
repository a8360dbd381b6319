"""The base class of the interpolations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from mixwell import functional
from mixwell.batch import Batch
from mixwell.errors import InputError
from mixwell.mix import Mix, MixedTarget, MultiTarget, tensors

__all__ = ["Interpolation", "image_size"]


def image_size(owner: str, batch: Batch) -> tuple[int, int]:
    """Return (H, W), the last two dimensions, of the batch's images.

    Of several tensors those of two dimensions or fewer are no images, and are passed over.

    Args:
        owner: who asks, for the message.
        batch: whose inputs must be images (B, ..., H, W) of one size.
    """
    shapes = [tuple(leaf.shape) for leaf in tensors(batch.x)]
    images = [shape for shape in shapes if len(shape) > 2]
    if len({shape[-2:] for shape in images}) != 1:
        raise InputError(
            f"{owner} mixes by place: x must be images (B, ..., H, W) of one size, got "
            f"{' and '.join(str(shape) for shape in shapes)}; for other inputs mix linearly"
        )
    return images[0][-2], images[0][-1]


class Interpolation(nn.Module):
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
