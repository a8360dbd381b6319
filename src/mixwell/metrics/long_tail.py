"""Measures of long-tailed training: by the classes' shares, and with equal weight for each."""

from __future__ import annotations

import torch
from torch import Tensor

from mixwell.checks import check_whole
from mixwell.errors import InputError
from mixwell.metrics._checks import check_bins, check_numbers
from mixwell.metrics.calibration import _confidence, _gap

__all__ = [
    "balanced_accuracy",
    "balanced_calibration_error",
    "class_accuracies",
    "shot_accuracies",
    "shot_means",
]


def class_accuracies(probs: Tensor, labels: Tensor) -> Tensor:
    """Return the share of each class's samples that are classified rightly: (C,).

    Args:
        probs: (N, C) probabilities.
        labels: (N,) class indices.

    Returns:
        (C,) in [0, 1]; NaN for a class without samples.

    Raises:
        InputError: a shape, dtype, probability or label is wrong, or there are no samples.
    """
    _, correct = _confidence(probs, labels)
    zeros = correct.new_zeros(probs.shape[1])
    count = zeros.index_add(0, labels.long(), torch.ones_like(correct))
    return zeros.index_add(0, labels.long(), correct) / count


def balanced_accuracy(probs: Tensor, labels: Tensor) -> Tensor:
    """Return the mean of the classes' accuracies, over the classes that have samples: a scalar.

    Arguments and errors as of :func:`class_accuracies`.
    """
    return class_accuracies(probs, labels).nanmean()


def shot_accuracies(
    probs: Tensor, labels: Tensor, class_counts: Tensor, many: int = 100, few: int = 20
) -> dict[str, Tensor]:
    """Return the balanced accuracy of classes with many, a medium number and few samples.

    Args:
        probs: (N, C) probabilities.
        labels: (N,) class indices.
        class_counts: (C,) training samples of each class.
        many: classes with more training samples are "many".
        few: classes with fewer are "few"; those from ``few`` to ``many`` are "medium".

    Returns:
        "many", "medium" and "few" to a scalar in [0, 1]; groups without classes are left out.

    Raises:
        InputError: as of :func:`class_accuracies`; ``class_counts`` doesn't fit; few > many + 1.

    Source: Liu et al., "Large-Scale Long-Tailed Recognition in an Open World", arXiv:1904.05160.
    """
    return shot_means(class_accuracies(probs, labels), class_counts, many, few)


def shot_means(
    values: Tensor, class_counts: Tensor, many: int = 100, few: int = 20
) -> dict[str, Tensor]:
    """Return the mean of what classes with many, a medium number and few samples have.

    Args:
        values: (C,) one a class; NaN where there is none, which counts for nothing.
        class_counts: (C,) training samples of each class.
        many: as of :func:`shot_accuracies`.
        few: likewise.

    Returns:
        "many", "medium" and "few" to a scalar; groups without classes are left out.

    Raises:
        InputError: ``class_counts`` doesn't fit; few > many + 1.
    """
    check_numbers("floating", values=values)
    check_numbers(class_counts=class_counts)
    many, few = check_whole("many", many), check_whole("few", few)
    if class_counts.shape != values.shape or values.ndim != 1:
        raise InputError(
            "class_counts and values must have one shape (C,), one entry a class, got "
            f"{tuple(class_counts.shape)} and {tuple(values.shape)}"
        )
    if few > many + 1:
        raise InputError(f"few={few} must be at most many + 1 = {many + 1}")
    counts = class_counts.to(values.device)
    groups = {
        "many": counts > many, "medium": (counts <= many) & (counts >= few), "few": counts < few
    }  # fmt: skip
    return {
        name: values[group].nanmean()
        for name, group in groups.items()
        if bool((group & ~values.isnan()).any())
    }


def balanced_calibration_error(probs: Tensor, labels: Tensor, bins: int = 15) -> Tensor:
    """Return the ECE in which each class weighs the same, however many samples it has.

    A sample of class c weighs N / (C n_c), with C the classes that have samples. On a balanced
    test set it is the ECE; on an imbalanced one rare classes are heard.

    Args:
        probs: (N, C) probabilities.
        labels: (N,) class indices.
        bins: of equal width.

    Returns:
        A scalar in [0, 1].

    Raises:
        InputError: as of :func:`class_accuracies`.
    """
    bins = check_bins(bins)
    confidence, correct = _confidence(probs, labels)
    edges = torch.linspace(0, 1, bins + 1, dtype=confidence.dtype, device=confidence.device)
    count = torch.bincount(labels.long(), minlength=probs.shape[1])
    weight = len(labels) / ((count > 0).sum() * count[labels.long()]).to(confidence.dtype)
    place = torch.bucketize(confidence.detach(), edges[1:-1])
    return _gap(confidence * weight, correct * weight, place, bins)
