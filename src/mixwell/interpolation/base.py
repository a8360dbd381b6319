"""The base class of the interpolations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from mixwell import functional
from mixwell.batch import Batch
from mixwell.mix import Mix

__all__ = ["Interpolation"]


class Interpolation(nn.Module):
    """Base class of the interpolations: at the input, by a weighted mean, unless overridden.

    Attributes:
        layers: where it may mix: "input", "head", names of layers, or ["auto"].
    """

    layers: Sequence[str] = ("input",)

    def layer(self, batch: Batch, model: nn.Module) -> str | None:
        """Return where this step mixes.

        None for the input, "head" for the classifier's input, or the name of a layer, whose
        output is mixed.
        """
        return None

    def shape(self, batch: Batch, mix: Mix) -> Mix:
        """Return the mix with what this way of mixing adds: a mask, and the true λ of it."""
        return mix

    def forward(self, x: Any, mix: Mix) -> Any:
        """Return ``x``, a tensor or pytree of tensors (B, ...), mixed."""
        return functional.mix(x, mix)
