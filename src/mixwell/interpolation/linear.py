"""The weighted mean of two samples, at the input or at a layer inside the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import nn

from mixwell import functional
from mixwell.batch import Batch
from mixwell.checks import shown
from mixwell.errors import InputError, say
from mixwell.interpolation.base import Interpolation
from mixwell.view import named_as_layer, stages

__all__ = ["Linear"]


class Linear(Interpolation):
    """``λ x_i + (1 - λ) x_σ(i)``, of the input or of a hidden feature.

    Args:
        layer: where to mix. "input"; "head", the input of the classifier; the name of any layer,
            whose output is mixed (a dot before it says that a layer is meant, where it is called
            "input", "head" or "auto"); a list of these, one of them drawn at random for each batch;
            or "auto": the input and the first half of the model's stages, as Manifold Mixup does
            (without the input, where that holds whole numbers, as tokens are).
    """

    kept_as: ClassVar = {"layer": "where"}

    def __init__(self, layer: str | Sequence[str] = "input") -> None:
        super().__init__()
        names: list[Any] = list(layer) if isinstance(layer, (list, tuple)) else [layer]
        if not names or not all(isinstance(name, str) and name for name in names):
            raise InputError(
                "layer must be 'input', 'head', 'auto', the name of a layer or a list of these, "
                f"got {shown(layer)}"
            )
        self.layers: Sequence[str] = names

    @property
    def where(self) -> str | list[str]:
        """Where to mix, as it was given: one name, or several."""
        return self.layers[0] if len(self.layers) == 1 else list(self.layers)

    def layer(self, batch: Batch, model: nn.Module) -> str | None:
        names = self._names(batch, model)
        name = names[batch.choose(len(names))] if len(names) > 1 else names[0]
        return None if name == "input" else name

    def _names(self, batch: Batch, model: nn.Module) -> Sequence[str]:
        """Return where it may mix, of which one is drawn."""
        auto, others = self.layers == ["auto"], self.candidates(batch, model)
        names = ["input", *others] if auto else self.layers
        alone = len(others) in (0, len(names))  # the input, or layers
        if alone or functional.interpolates(batch.x):
            return names
        if not auto:  # now, and not in the step in which it is drawn
            raise InputError(
                f"layer={self.where!r} has the input, whose whole numbers (tokens, masks) can't be "
                "interpolated: leave 'input' out"
            )
        if batch.view is not None:
            batch.view.known("whole numbers", lambda: say(
                "layer='auto': the input holds whole numbers (tokens, masks), which can't be "
                f"interpolated: it is mixed at {', '.join(others)} alone"
            ))  # fmt: skip
        return others

    def candidates(self, batch: Batch, model: nn.Module) -> list[str]:
        names = self._stages(batch, model) if self.layers == ["auto"] else self.layers
        return [name for name in names if name != "input"]

    @staticmethod
    def _stages(batch: Batch, model: nn.Module) -> list[str]:
        names = stages(model, batch.x) if batch.view is None else batch.view.stages()
        return [named_as_layer(name) for name in names]
