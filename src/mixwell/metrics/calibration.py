"""Accuracy, and how far a classifier's confidence can be trusted."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mixwell.errors import InputError
from mixwell.metrics._checks import check_bins, check_labels, wide

__all__ = [
    "ReliabilityDiagram",
    "accuracy",
    "adaptive_calibration_error",
    "brier_score",
    "expected_calibration_error",
    "fit_temperature",
    "negative_log_likelihood",
    "reliability_diagram",
]


def accuracy(scores: Tensor, labels: Tensor) -> Tensor:
    """Return the share of samples whose highest score is their class's: a scalar in [0, 1].

    Args:
        scores: (N, C) logits or probabilities.
        labels: (N,) class indices.

    Raises:
        InputError: a shape, dtype or label is wrong, or there are no samples.

    >>> accuracy(torch.tensor([[0.9, 0.1], [0.6, 0.4]]), torch.tensor([0, 1]))
    tensor(0.5000)
    """
    check_labels("scores", scores, labels)
    return (scores.argmax(1) == labels).to(wide(scores).dtype).mean()


def negative_log_likelihood(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean of -log softmax(logits)[label], in nats: a scalar.

    Args:
        logits: (N, C); not probabilities.
        labels: (N,) class indices.

    Raises:
        InputError: a shape, dtype or label is wrong, or there are no samples.
    """
    check_labels("logits", logits, labels)
    return F.cross_entropy(wide(logits), labels.long())


def brier_score(probs: Tensor, labels: Tensor) -> Tensor:
    """Return the mean over samples of ``Σ_c (p_c - [c = y])²``: a scalar in [0, 2].

    Args:
        probs: (N, C) probabilities.
        labels: (N,) class indices.

    Raises:
        InputError: a shape, dtype, probability or label is wrong, or there are no samples.

    Source: Brier, "Verification of forecasts expressed in terms of probability", 1950.
    """
    _check_probabilities(probs, labels)
    probs = wide(probs)
    own = probs.gather(1, labels.long()[:, None])[:, 0]
    # Σ p² - p_y² + (1 - p_y)², without the one-hot matrix.
    return (probs.square().sum(1) + 1 - 2 * own).mean()


# ------------------------------------------------------------------------ binned by confidence


@dataclass(frozen=True)
class ReliabilityDiagram:
    """What a reliability diagram shows, for each bin of confidence.

    Attributes:
        confidence: (bins,) mean confidence; NaN in an empty bin.
        accuracy: (bins,) share of right predictions; NaN in an empty bin.
        count: (bins,) int64 samples.
        edges: (bins + 1,) from 0 to 1.
    """

    confidence: Tensor
    accuracy: Tensor
    count: Tensor
    edges: Tensor


def reliability_diagram(probs: Tensor, labels: Tensor, bins: int = 15) -> ReliabilityDiagram:
    """Return confidence and accuracy in bins of equal width, each closed on its right.

    Args:
        probs: (N, C) probabilities.
        labels: (N,) class indices.
        bins: how many.

    Raises:
        InputError: a shape, dtype, probability or label is wrong, or there are no samples.
    """
    bins = check_bins(bins)
    confidence, correct = _confidence(probs, labels)
    edges = torch.linspace(0, 1, bins + 1, dtype=confidence.dtype, device=confidence.device)
    place = torch.bucketize(confidence.detach(), edges[1:-1])

    def per_bin(values: Tensor) -> Tensor:
        return values.new_zeros(bins).index_add(0, place, values)

    count = per_bin(torch.ones_like(confidence))
    return ReliabilityDiagram(
        per_bin(confidence) / count, per_bin(correct) / count, count.long(), edges
    )


def expected_calibration_error(probs: Tensor, labels: Tensor, bins: int = 15) -> Tensor:
    """Return the ECE: the gap of confidence and accuracy in bins of equal width, in [0, 1].

    ``Σ_b (n_b / N) |accuracy_b - confidence_b|``; confidence is the highest probability. The
    gradient is that of the confidences, with bins and accuracy held.

    Args:
        probs: (N, C) probabilities.
        labels: (N,) class indices.
        bins: how many.

    Raises:
        InputError: a shape, dtype, probability or label is wrong, or there are no samples.

    Source: "On Calibration of Modern Neural Networks", arXiv:1706.04599.

    >>> expected_calibration_error(torch.tensor([[0.75, 0.25]] * 2), torch.tensor([0, 1]))
    tensor(0.2500)
    """
    bins = check_bins(bins)
    confidence, correct = _confidence(probs, labels)
    edges = torch.linspace(0, 1, bins + 1, dtype=confidence.dtype, device=confidence.device)
    return _gap(confidence, correct, torch.bucketize(confidence.detach(), edges[1:-1]), bins)


def adaptive_calibration_error(probs: Tensor, labels: Tensor, bins: int = 15) -> Tensor:
    """Return the adaptive ECE: like the ECE, in bins of equally many samples.

    Of N samples sorted by confidence, the first N mod bins bins hold one more than the others.
    Samples of the same confidence share their mean accuracy, so that their order doesn't matter.

    Args:
        probs: (N, C) probabilities.
        labels: (N,) class indices.
        bins: how many; with fewer samples each is a bin.

    Raises:
        InputError: a shape, dtype, probability or label is wrong, or there are no samples.

    Source: "Measuring Calibration in Deep Learning", arXiv:1904.01685.
    """
    bins = check_bins(bins)
    confidence, correct = _confidence(probs, labels)
    confidence, order = confidence.sort()
    values = confidence.detach()
    total = F.pad(correct[order].cumsum(0), (1, 0))
    first, end = torch.searchsorted(values, values), torch.searchsorted(values, values, right=True)
    correct = (total[end] - total[first]) / (end - first)
    size, longer = divmod(len(values), bins)
    position = torch.arange(len(values), device=values.device)
    start = longer * (size + 1)  # of the shorter bins
    place = torch.where(
        position < start, position // (size + 1), longer + (position - start) // max(size, 1)
    )
    return _gap(confidence, correct, place, bins)


def _gap(confidence: Tensor, correct: Tensor, place: Tensor, bins: int) -> Tensor:
    """Return the mean over samples of the bins' gaps; no division by an empty bin's count."""
    gaps = confidence.new_zeros(bins).index_add(0, place, correct - confidence)
    return gaps.abs().sum() / len(confidence)


def _confidence(probs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the highest probability of each sample, and 1.0 where it is the right class's."""
    _check_probabilities(probs, labels)
    confidence, predicted = wide(probs).max(1)
    return confidence, (predicted == labels).to(confidence.dtype)


def _check_probabilities(probs: Tensor, labels: Tensor) -> None:
    check_labels("probs", probs, labels)
    if probs.device.type != "cpu":
        return
    probs = wide(probs.detach())
    low, sums = float(probs.min()), probs.sum(1)
    # bfloat16 keeps three digits, so that rows of many classes are off by a per cent or two.
    if low < 0 or float((sums - 1).abs().max()) > 0.05:
        raise InputError(
            f"probs must be probabilities, rows from 0 to 1 that sum to 1; got a minimum of "
            f"{low:.4g} and sums of {float(sums.min()):.4g} to {float(sums.max()):.4g}. "
            "Of logits, take logits.softmax(1)"
        )


# ------------------------------------------------------------------------- temperature scaling


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the T > 0 at which ``softmax(logits / T)`` is most likely to give the labels.

    Fit it on held-out samples, never on those that it is measured on. The negative log-likelihood
    is convex in 1/T: Newton's method within a bracket finds its minimum.

    Where all samples are right, the likelihood has no maximum (T → 0). The labels are then smoothed
    by 1/(N + 2), as Platt scaling does, and T says what N right answers in a row can support. Where
    the logits are no better than chance, T is 1,000 times their largest size. Logits that are all
    the same, or of one class, have T = 1.

    Args:
        logits: (N, C), of any size.
        labels: (N,) class indices.

    Returns:
        T; apply it by ``logits / T``.

    Raises:
        InputError: a shape, dtype or label is wrong, or there are no samples.

    Source: "On Calibration of Modern Neural Networks", arXiv:1706.04599; Platt, "Probabilistic
    outputs for support vector machines", 1999.
    """
    # On the CPU in float64: the result is a number of the host's, and Apple's devices lack it.
    check_labels("logits", logits, labels)
    z, labels = logits.detach().cpu().double(), labels.detach().cpu().long()
    z = z - z.mean(1, keepdim=True)
    scale = float(z.abs().max())
    if scale == 0:
        return 1.0
    z = z / scale
    own = z.gather(1, labels[:, None])[:, 0]
    if bool((own >= z.amax(1)).all()):
        smoothing = 1 / (len(z) + 2)
        others = -own / (z.shape[1] - 1)  # their mean, as the rows are centred
        own = (1 - smoothing) * own + smoothing * others
    low, high = 1e-3, 1e9
    beta = 1.0
    for _ in range(100):
        probs = torch.softmax(beta * z, 1)
        mean = (probs * z).sum(1)
        slope = float((mean - own).mean())
        low, high = (low, beta) if slope > 0 else (beta, high)
        curvature = float(((probs * z.square()).sum(1) - mean.square()).mean())
        following = beta - slope / curvature if curvature > 0 else math.nan
        if not low < following < high:
            following = math.sqrt(low * high)
        if abs(following - beta) <= 1e-12 * beta:
            break
        beta = following
    return scale / beta
