"""How far a regression's predicted standard deviations can be trusted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mixwell.checks import check_range, shown
from mixwell.errors import InputError
from mixwell.metrics._checks import check_bins, check_numbers, wide

__all__ = [
    "CalibrationCurve",
    "calibration_curve",
    "expected_normalized_calibration_error",
    "fit_variance_scale",
    "gaussian_nll",
    "pinball_loss",
    "uncertainty_calibration_error",
]

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)

CalibrationCurve = tuple[Tensor, Tensor, Tensor]
"""Of each bin: root mean predicted variance, root mean squared error, number of predictions."""


def gaussian_nll(mean: Tensor, std: Tensor, targets: Tensor) -> Tensor:
    """Return the mean of ``-log N(y; mean, std²)``, in nats: a scalar.

    Args:
        mean: (N,) or (N, K) predictions.
        std: their predicted standard deviations, > 0; of the same shape, like ``targets``.
        targets: the true values.

    Raises:
        InputError: the shapes differ, there are no predictions, or a ``std`` is not above 0.
    """
    mean, std, targets = _triple(mean, std, targets)
    z = (targets - mean) / std
    return (0.5 * z.square() + std.log()).mean() + 0.5 * math.log(2 * math.pi)


def pinball_loss(
    mean: Tensor, std: Tensor, targets: Tensor, quantiles: tuple[float, ...] = QUANTILES
) -> Tensor:
    """Return the mean quantile loss of the Gaussians that are predicted, in the targets' unit.

    ``max(q (y - ŷ_q), (q - 1)(y - ŷ_q))`` with ŷ_q the q-quantile of N(mean, std²), averaged over
    predictions and quantiles.

    Args:
        mean: as of :func:`gaussian_nll`, like ``std``, ``targets`` and errors.
        std: see ``mean``.
        targets: see ``mean``.
        quantiles: each in (0, 1).
    """
    mean, std, targets = _triple(mean, std, targets)
    quantiles = _between(quantiles)
    q = torch.tensor(quantiles, dtype=mean.dtype, device=mean.device)
    # In Python's own floats: a q near 1 would be 1 in float32, and its quantile infinite.
    z = torch.tensor([NormalDist().inv_cdf(value) for value in quantiles]).to(q)
    error = (targets - mean)[..., None] - std[..., None] * z
    return torch.maximum(q * error, (q - 1) * error).mean()


def uncertainty_calibration_error(
    mean: Tensor, std: Tensor, targets: Tensor, bins: int = 15
) -> Tensor:
    """Return the UCE: ``Σ_b (n_b / N) |MSE_b - mean variance_b|``, in the targets' unit squared.

    The bins have equal width in predicted variance, from the least to the greatest.

    Args:
        mean: as of :func:`gaussian_nll`, like ``std``, ``targets`` and errors.
        std: see ``mean``.
        targets: see ``mean``.
        bins: how many.

    Source: Laves et al., "Well-calibrated regression uncertainty in medical imaging with deep
    learning", MIDL 2020.
    """
    mean, std, targets = (value.flatten() for value in _triple(mean, std, targets))
    bins = check_bins(bins)
    variance, error = std.square(), (targets - mean).square()
    low, high = variance.aminmax()
    edges = low + (high - low) * torch.arange(1, bins, device=low.device, dtype=low.dtype) / bins
    place = torch.bucketize(variance.detach(), edges.detach())
    gap = error - variance
    gaps = gap.new_zeros(bins).index_add(0, place, gap)
    return gaps.abs().sum() / len(variance)


def expected_normalized_calibration_error(
    mean: Tensor, std: Tensor, targets: Tensor, bins: int = 15
) -> Tensor:
    """Return the ENCE: the mean over bins of ``|RMV_b - RMSE_b| / RMV_b``, without unit.

    RMV is the root of the mean predicted variance. The bins hold equally many predictions, sorted
    by their standard deviation: see :func:`calibration_curve`.

    Args:
        mean: as of :func:`gaussian_nll`, like ``std``, ``targets`` and errors.
        std: see ``mean``.
        targets: see ``mean``.
        bins: how many; with fewer predictions each is a bin.

    Source: Levi et al., "Evaluating and Calibrating Uncertainty Prediction in Regression Tasks",
    arXiv:1905.11659.
    """
    rmv, rmse, _ = calibration_curve(mean, std, targets, bins)
    return ((rmv - rmse).abs() / rmv).mean()


def calibration_curve(
    mean: Tensor, std: Tensor, targets: Tensor, bins: int = 15
) -> CalibrationCurve:
    """Return what a regression's calibration curve shows, for bins of equally many predictions.

    Args:
        mean: as of :func:`gaussian_nll`, like ``std``, ``targets`` and errors.
        std: see ``mean``.
        targets: see ``mean``.
        bins: how many; with fewer predictions each is a bin.

    Returns:
        Root mean variance, root mean squared error and number of predictions of each bin, by
        growing variance: three tensors (bins,).
    """
    mean, std, targets = (value.flatten() for value in _triple(mean, std, targets))
    bins = check_bins(bins)
    bins = min(bins, len(std))
    std, order = std.sort(stable=True)
    error = (targets - mean)[order].square()
    # Predictions of the same deviation share their mean error: their order doesn't matter.
    total = F.pad(error.cumsum(0), (1, 0))
    first, end = torch.searchsorted(std, std), torch.searchsorted(std, std, right=True)
    error = (total[end] - total[first]) / (end - first)
    place = torch.arange(len(std), device=std.device) * bins // len(std)

    def per_bin(values: Tensor) -> Tensor:
        return values.new_zeros(bins).index_add(0, place, values)

    count = per_bin(torch.ones_like(std))
    rmv, rmse = (per_bin(std.square()) / count).sqrt(), (per_bin(error) / count).sqrt()
    return rmv, rmse, count.long()


def fit_variance_scale(mean: Tensor, std: Tensor, targets: Tensor) -> float:
    """Return the s > 0 at which N(mean, (s · std)²) makes the targets most likely.

    ``s² = mean ((y - mean) / std)²``. Fit it on held-out samples, never on those that it is
    measured on; apply it by ``s * std``. Where all errors are 0 there is no such s, and it is 1.

    Args:
        mean: as of :func:`gaussian_nll`, like ``std``, ``targets`` and errors.
        std: see ``mean``.
        targets: see ``mean``.

    Source: Levi et al., as of :func:`expected_normalized_calibration_error`.
    """
    mean, std, targets = (value.detach() for value in _triple(mean, std, targets))
    scale = float(((targets - mean).double() / std.double()).square().mean().sqrt())
    return scale or 1.0


def _between(quantiles: Sequence[float]) -> tuple[float, ...]:
    """Return quantiles as numbers in (0, 1), some of them."""
    wanted = "quantiles must hold numbers between 0 and 1"
    try:
        given: list[Any] = [] if isinstance(quantiles, (str, bytes)) else list(quantiles)
    except TypeError:  # it is no sequence
        given = []
    found = tuple(check_range("quantiles", q, 0, 1, open=True) for q in given)
    if not found or 1.0 in found:
        raise InputError(f"{wanted}, got {shown(quantiles)}")
    return found


def _triple(mean: Tensor, std: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    check_numbers(mean=mean, std=std, targets=targets)
    shapes = [tuple(value.shape) for value in (mean, std, targets)]
    if len(set(shapes)) > 1 or mean.ndim not in (1, 2) or not mean.numel():
        raise InputError(
            "mean, std and targets must have the same shape (N,) or (N, K), N ≥ 1; got "
            f"{shapes[0]}, {shapes[1]} and {shapes[2]}"
        )
    if std.device.type == "cpu" and not bool((std > 0).all()):
        raise InputError(f"std must be above 0 everywhere, got a minimum of {float(std.min()):.4g}")
    return wide(mean), wide(std), wide(targets)
