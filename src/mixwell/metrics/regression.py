"""The errors of predicted numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from mixwell.errors import InputError
from mixwell.metrics._checks import check_numbers, wide

__all__ = [
    "mean_absolute_error",
    "mean_absolute_percentage_error",
    "r2_score",
    "root_mean_squared_error",
]


def root_mean_squared_error(predictions: Tensor, targets: Tensor) -> Tensor:
    """Return ``sqrt(mean (ŷ - y)²)``, in the targets' unit: a scalar.

    Args:
        predictions: (N,) or (N, 1), or (N, K) for K targets, all of which are averaged.
        targets: (N,), (N, 1) or (N, K).

    Raises:
        InputError: the shapes don't fit, or there are no samples.
    """
    predictions, targets = _pair(predictions, targets)
    return (predictions - targets).square().mean().sqrt()


def mean_absolute_error(predictions: Tensor, targets: Tensor) -> Tensor:
    """Return ``mean |ŷ - y|``, in the targets' unit: a scalar.

    Arguments and errors as of :func:`root_mean_squared_error`.
    """
    predictions, targets = _pair(predictions, targets)
    return (predictions - targets).abs().mean()


def mean_absolute_percentage_error(predictions: Tensor, targets: Tensor) -> Tensor:
    """Return ``mean |ŷ - y| / |y|``, 1 for 100 %: a scalar; not finite where a target is 0.

    Arguments and errors as of :func:`root_mean_squared_error`.
    """
    predictions, targets = _pair(predictions, targets)
    return ((predictions - targets) / targets).abs().mean()


def r2_score(predictions: Tensor, targets: Tensor) -> Tensor:
    """Return ``R² = 1 - Σ (ŷ - y)² / Σ (y - ȳ)²``, averaged over K targets: a scalar, at most 1.

    Where the targets are all the same, it is 1 if the predictions are right and 0 if not.
    Arguments and errors as of :func:`root_mean_squared_error`.
    """
    predictions, targets = _pair(predictions, targets)
    error = (predictions - targets).square().sum(0)
    spread = (targets - targets.mean(0)).square().sum(0)
    constant = (error == 0).to(error.dtype)
    same = spread == 0  # NaN is neither, and stays NaN
    return torch.where(same, constant, 1 - error / torch.where(same, 1.0, spread)).mean()


def _pair(predictions: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return both as (N,) or (N, K) in float32 at least."""
    check_numbers(predictions=predictions, targets=targets)
    shapes = tuple(predictions.shape), tuple(targets.shape)
    predictions, targets = (
        x[:, 0] if x.ndim == 2 and x.shape[1] == 1 else x for x in (predictions, targets)
    )
    # Broadcasting (N, 1) against (N,) would average N² differences in silence.
    if predictions.shape != targets.shape or predictions.ndim not in (1, 2) or not len(targets):
        raise InputError(
            "predictions and targets must have the same shape (N,), (N, 1) or (N, K), N ≥ 1; got "
            f"{shapes[0]} and {shapes[1]}"
        )
    return wide(predictions), wide(targets)
