"""Several classes a sample."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mixwell.errors import InputError
from mixwell.losses import MixedBCE
from mixwell.tasks.base import Task, register

__all__ = ["Multilabel"]


@register
class Multilabel(Task):
    """Several classes a sample: (B, C) of 0 and 1, or between."""

    name = "multilabel"
    loss = MixedBCE

    def check_y(self, y: Tensor, num_classes: int | None) -> None:
        if y.ndim != 2 or y.is_complex() or num_classes not in (None, y.shape[1]):
            classes = "C" if num_classes is None else num_classes
            raise InputError(
                f"y must be (B, {classes}) of 0 and 1, or between, in a multilabel task, got "
                f"{y.dtype} of shape {tuple(y.shape)}; for one class a sample use "
                "task='classification'"
            )

    def check_values(self, y: Tensor) -> None:
        super().check_values(y)
        low, high = (float(end) for end in torch.aminmax(y))
        if low < 0 or high > 1:
            raise InputError(
                f"y must hold 0 and 1, or numbers between, got values from {low:g} to {high:g}"
            )

    def prepare(self, y: Tensor) -> Tensor:
        return y if y.is_floating_point() else y.float()

    def summed_loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, y.to(logits.dtype), reduction="sum")
