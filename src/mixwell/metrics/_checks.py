"""The checks that every measure makes of its input."""

from __future__ import annotations

import torch
from torch import Tensor

from mixwell.checks import check_whole
from mixwell.errors import InputError
from mixwell.values import check_kind, check_place

_MOST_BINS = 10**7


def check_bins(bins: int) -> int:
    """Return how many bins there are, if they are that and fit into memory."""
    return check_whole("bins", bins, 1, _MOST_BINS)


def check_numbers(kind: str = "real", **values: Tensor) -> None:
    """Raise unless all are dense tensors of numbers of this kind, on one device."""
    check_kind("", kind, **values)
    check_place("", **values)


def check_rows(name: str, rows: Tensor, columns: str = "d") -> None:
    """Raise unless ``rows`` is a floating (N, K), N ≥ 1, of finite numbers.

    Values are looked at on the CPU only: elsewhere that would make the host wait for the device.
    """
    check_kind("", "floating", **{name: rows})
    if rows.ndim != 2 or rows.numel() == 0:
        raise InputError(
            f"{name} must be a floating tensor of shape (N, {columns}) with N ≥ 1, "
            f"got {rows.dtype} of shape {tuple(rows.shape)}"
        )
    if rows.device.type == "cpu" and not bool(torch.isfinite(rows).all()):
        raise InputError(f"{name} holds NaN or infinite numbers")


def check_labels(
    name: str, rows: Tensor, labels: Tensor, *, classes: bool = True, called: str = "labels"
) -> None:
    """Raise unless ``rows`` is a floating (N, K) and ``labels`` (N,) integers that fit it.

    Args:
        name: what the rows are called.
        rows: (N, K), N ≥ 1.
        labels: (N,).
        classes: whether the labels index the columns of ``rows``.
        called: what the labels are called.
    """
    check_rows(name, rows, "C" if classes else "d")
    check_kind("", "whole", **{called: labels})
    check_place("", **{name: rows, called: labels})
    if labels.shape != rows.shape[:1]:
        raise InputError(
            f"{called} must be class indices of shape ({len(rows)},), as {name} has "
            f"{len(rows)} rows; got {labels.dtype} of shape {tuple(labels.shape)}"
        )
    if rows.device.type != "cpu" or not classes:
        return
    low, high = labels.aminmax()
    if not (low >= 0 and high < rows.shape[1]):
        raise InputError(
            f"{called} must be from 0 to {rows.shape[1] - 1}, as {name} has {rows.shape[1]} "
            f"columns; got {int(low)} to {int(high)}"
        )


def wide(x: Tensor) -> Tensor:
    """Return ``x`` in float32 at least: sums over many samples need more than half precision."""
    return x if x.dtype == torch.float64 else x.float()
