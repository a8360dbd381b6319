"""Telling samples of another distribution by a score, usually the highest probability."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mixwell.checks import check_range
from mixwell.errors import InputError
from mixwell.metrics._checks import check_numbers

__all__ = ["auroc", "false_positive_rate"]


def auroc(inliers: Tensor, outliers: Tensor) -> Tensor:
    """Return the probability that an inlier scores higher than an outlier; ties count a half.

    Args:
        inliers: (N,) scores of the known distribution's samples: their highest probability, say.
        outliers: (M,) scores of the others.

    Returns:
        A scalar in [0, 1], float64: the area under the ROC curve.

    Raises:
        InputError: a tensor is empty, not one-dimensional, or holds NaN.

    >>> auroc(torch.tensor([0.9, 0.8, 0.5]), torch.tensor([0.5, 0.4]))
    tensor(0.9167, dtype=torch.float64)
    """
    inliers, outliers = _checked(inliers, outliers)
    ordered = outliers.sort().values
    below = torch.searchsorted(ordered, inliers)
    up_to = torch.searchsorted(ordered, inliers, right=True)
    return (below + up_to).double().mean() / (2 * len(outliers))


def false_positive_rate(inliers: Tensor, outliers: Tensor, recall: float = 0.95) -> Tensor:
    """Return the share of outliers that pass for inliers when ``recall`` of these are let pass.

    FPR95 by default. The threshold is the highest score that at least this share of the inliers
    reaches.

    Args:
        inliers: (N,) scores, as for :func:`auroc`, like ``outliers`` and errors.
        outliers: (M,) scores.
        recall: in (0, 1].

    Returns:
        A scalar in [0, 1], float64: less is better.
    """
    inliers, outliers = _checked(inliers, outliers)
    recall = check_range("recall", recall, 0, 1, open=True)
    needed = max(1, math.ceil(recall * len(inliers) - 1e-9))
    threshold = inliers.sort(descending=True).values[needed - 1]
    return (outliers >= threshold).double().mean()


def _checked(inliers: Tensor, outliers: Tensor) -> tuple[Tensor, Tensor]:
    """Return both in one precision, so that none is rounded before they are compared."""
    check_numbers("floating", inliers=inliers, outliers=outliers)
    for name, scores in (("inliers", inliers), ("outliers", outliers)):
        if scores.ndim != 1 or not len(scores):
            raise InputError(
                f"{name} must be floating scores of shape (N,), N ≥ 1; got {scores.dtype} of "
                f"shape {tuple(scores.shape)}"
            )
        if scores.device.type == "cpu" and bool(scores.isnan().any()):
            raise InputError(f"{name} holds NaN")
    common = torch.promote_types(inliers.dtype, outliers.dtype)
    return inliers.to(common), outliers.to(common)
