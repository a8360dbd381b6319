"""People's doubt: how near a classifier comes to how often people named each class."""

from __future__ import annotations

import torch
from torch import Tensor

from mixwell.errors import InputError
from mixwell.metrics._checks import check_numbers, wide

__all__ = [
    "people_cross_entropy",
    "people_divergence",
    "people_entropy_correlation",
    "rank_correlation",
]


def people_cross_entropy(logits: Tensor, counts: Tensor) -> Tensor:
    """Return the mean of -Σ_c p_c log q_c: people's distribution p, the classifier's q.

    At least the mean entropy of people's distribution, by however little it is certain.

    Args:
        logits: (N, C).
        counts: (N, C) how many people named each class, ≥ 0, some for each sample; shares will do.

    Returns:
        A scalar in nats, differentiable.

    Raises:
        InputError: a shape, dtype or count is wrong, or there are no samples.

    Source: Peterson et al., "Human uncertainty makes classification more robust",
    arXiv:1908.07086.
    """
    shares, log_probs = _distributions(logits, counts)
    return -(shares * log_probs).sum(1).mean()


def people_divergence(logits: Tensor, counts: Tensor) -> Tensor:
    """Return the mean of KL(p ‖ q) = Σ_c p_c log(p_c / q_c): 0 where q is people's distribution.

    Arguments, errors and source as of :func:`people_cross_entropy`.

    Returns:
        A scalar from 0 on, in nats, differentiable.
    """
    shares, log_probs = _distributions(logits, counts)
    return (torch.xlogy(shares, shares) - shares * log_probs).sum(1).mean()


def people_entropy_correlation(logits: Tensor, counts: Tensor) -> Tensor:
    """Return Spearman's ρ of the classifier's entropies and people's: whether they doubt alike.

    Arguments and errors as of :func:`people_cross_entropy`.

    Returns:
        A scalar in [-1, 1]; NaN where either's entropies are all the same.
    """
    _, log_probs = _distributions(logits, counts)
    own = -(log_probs.exp() * log_probs).sum(1)
    shares = counts.double() / counts.double().sum(1, keepdim=True)
    people = -torch.xlogy(shares, shares).sum(1)
    # The same answers in another order of the classes differ in the last digit: they are ties.
    return rank_correlation(own, people.round(decimals=9))


def rank_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Return Spearman's ρ: the correlation of the ranks, those of ties averaged.

    Args:
        first: (N,).
        second: (N,).

    Returns:
        A scalar in [-1, 1], float64; NaN where either is the same throughout.

    Raises:
        InputError: the shapes differ, or aren't (N,), N ≥ 1.
    """
    check_numbers(first=first, second=second)
    if first.ndim != 1 or first.shape != second.shape or len(first) == 0:
        raise InputError(
            f"first and second must both have shape (N,), N ≥ 1, got {tuple(first.shape)} and "
            f"{tuple(second.shape)}"
        )
    a, b = (ranks - ranks.mean() for ranks in (_ranks(first), _ranks(second)))
    return (a * b).sum() / (a.square().sum() * b.square().sum()).sqrt()


def _ranks(values: Tensor) -> Tensor:
    """Return the ranks (N,) from 1 to N, of ties their mean: float64."""
    _, place, count = values.unique(return_inverse=True, return_counts=True)
    last = count.cumsum(0).double()
    return (last - (count.double() - 1) / 2)[place]


def _distributions(logits: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Return people's shares and the classifier's log-probabilities, (N, C) each."""
    check_numbers("floating", logits=logits)
    check_numbers(counts=counts, logits=logits)
    if logits.ndim != 2 or logits.numel() == 0:
        raise InputError(
            "logits must be a floating tensor of shape (N, C) with N ≥ 1, "
            f"got {logits.dtype} of shape {tuple(logits.shape)}"
        )
    if counts.shape != logits.shape:
        raise InputError(
            f"counts must have the shape of logits, {tuple(logits.shape)}, got "
            f"{tuple(counts.shape)}"
        )
    logits = wide(logits)
    shares = counts.to(logits)
    total = shares.sum(1, keepdim=True)
    if counts.device.type == "cpu":
        right = bool((shares >= 0).all() and (total > 0).all() and total.isfinite().all())
        if not right:
            raise InputError("counts must be 0 or more, and of some people for each sample")
        if not bool(logits.isfinite().all()):
            raise InputError("logits holds NaN or infinite numbers")
    return shares / total, logits.log_softmax(1)
