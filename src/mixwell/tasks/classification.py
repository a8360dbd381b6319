"""One class a sample."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mixwell.errors import InputError
from mixwell.losses import MixedCrossEntropy
from mixwell.losses.base import check_classes
from mixwell.tasks.base import Task, register

__all__ = ["Classification"]


@register
class Classification(Task):
    """One class a sample: class indices (B,), or soft labels (B, C)."""

    name = "classification"
    loss = MixedCrossEntropy
    one_class = True

    def check_y(self, y: Tensor, num_classes: int | None) -> None:
        if y.is_floating_point():
            if y.ndim != 2 or num_classes not in (None, y.shape[1]):
                classes = "C" if num_classes is None else num_classes
                raise InputError(
                    f"y must be class indices (B,) int64 or soft labels (B, {classes}), got "
                    f"{y.dtype} of shape {tuple(y.shape)}; for real targets use task='regression'"
                )
        elif y.ndim != 1 or y.dtype == torch.bool or y.is_complex():
            raise InputError(
                "y must be class indices (B,) int64 or soft labels (B, C) floating, got "
                f"{y.dtype} of shape {tuple(y.shape)}"
            )
        elif num_classes is not None:
            check_classes("y", y, num_classes)

    def check_values(self, y: Tensor) -> None:
        super().check_values(y)
        if y.is_floating_point() and float(y.min()) < 0:
            raise InputError(
                f"y must hold soft labels, probabilities ≥ 0, got values down to {float(y.min()):g}"
            )

    def summed_loss(self, logits: Tensor, y: Tensor) -> Tensor:
        if y.is_floating_point():
            return F.cross_entropy(logits, y.to(logits.dtype), reduction="sum")
        return sum_of_known(logits, y)


def sum_of_known(logits: Tensor, y: Tensor) -> Tensor:
    """Return the summed cross-entropy; positions of no class (255, -100) have no loss."""
    known = (y >= 0) & (y < logits.shape[1])
    losses = F.cross_entropy(logits, torch.where(known, y, 0).long(), reduction="none")
    return torch.where(known, losses, 0.0).sum()
