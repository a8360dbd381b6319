"""One class for each position of a sample."""

from __future__ import annotations

from torch import Tensor

from mixwell.errors import InputError
from mixwell.losses import MixedCrossEntropy
from mixwell.tasks.base import Task, register
from mixwell.tasks.classification import sum_of_known

__all__ = ["Segmentation"]


@register
class Segmentation(Task):
    """A class for each position: class maps (B, H, W), for logits (B, C, H, W)."""

    name = "segmentation"
    loss = MixedCrossEntropy
    by_position = True

    def check_y(self, y: Tensor, num_classes: int | None) -> None:
        if y.is_floating_point() or y.is_complex() or y.ndim < 3:
            raise InputError(
                "y must hold class indices (B, H, W), one for each position, in segmentation, "
                f"got {y.dtype} of shape {tuple(y.shape)}"
            )

    def check_logits(self, logits: Tensor, num_classes: int | None, owner: str) -> None:
        if logits.ndim < 4:
            raise InputError(
                f"{owner} must return logits (B, C, H, W); it returned shape {tuple(logits.shape)}"
            )
        self._check_width(logits, num_classes, owner)

    def summed_loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return sum_of_known(logits, y)
