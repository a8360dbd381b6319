"""Losses for mixed real targets."""

from __future__ import annotations

import torch
from torch import Tensor

from mixwell.errors import InputError
from mixwell.losses.base import Loss, check_target, wide
from mixwell.mix import MixedTarget

__all__ = ["MixedL1", "MixedMSE"]


class _Elementwise(Loss):
    tasks = ("regression",)

    def forward(self, logits: Tensor, target: MixedTarget) -> Tensor:
        """Return the loss of predictions for mixed real targets.

        Args:
            logits: (B,), (B, 1) or (B, K) predictions.
            target: real targets, (B,) or (B, K).

        Returns:
            A scalar; with ``reduction="none"`` one value for each target.
        """
        owner = type(self).__name__
        check_target(owner, logits, target)
        if target.is_index:
            raise InputError(
                f"{owner}: the target must hold real numbers, got {target.a.dtype}; "
                "convert y to a floating dtype"
            )
        prediction = wide(logits)
        mixed = target.dense().to(prediction.dtype)
        if prediction.ndim == mixed.ndim + 1 and prediction.shape[-1] == 1:
            prediction = prediction[..., 0]
        if prediction.shape != mixed.shape:
            # Broadcasting (B, 1) against (B,) would average B² differences in silence.
            raise InputError(
                f"{owner}: logits, the predictions, of shape {tuple(logits.shape)} don't fit "
                f"targets of shape {tuple(mixed.shape)}"
            )
        return self._reduce(self._loss(prediction - mixed), target)

    def _loss(self, difference: Tensor) -> Tensor:
        raise NotImplementedError


class MixedMSE(_Elementwise):
    """``(f(x̃) - (λ y_i + (1 - λ) y_σ(i)))²``.

    Args:
        reduction: "mean", "sum" or "none".
    """

    def _loss(self, difference: Tensor) -> Tensor:
        return difference.square()


class MixedL1(_Elementwise):
    """``|f(x̃) - (λ y_i + (1 - λ) y_σ(i))|``.

    Args:
        reduction: "mean", "sum" or "none".
    """

    def _loss(self, difference: Tensor) -> Tensor:
        return torch.abs(difference)
