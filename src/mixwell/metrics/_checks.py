"""The checks that every measure makes of its input."""

from __future__ import annotations

import torch
from torch import Tensor

from mixwell.errors import InputError


def check_labels(name: str, rows: Tensor, labels: Tensor, *, classes: bool = True) -> None:
    """Raise unless ``rows`` is a floating (N, K) and ``labels`` (N,) integers that fit it.

    Values are looked at on the CPU only: elsewhere that would make the host wait for the device.

    Args:
        name: what the rows are called.
        rows: (N, K), N ≥ 1.
        labels: (N,).
        classes: whether the labels index the columns of ``rows``.
    """
    if rows.ndim != 2 or not rows.is_floating_point() or rows.numel() == 0:
        raise InputError(
            f"{name} must be a floating tensor of shape (N, {'C' if classes else 'd'}) with N ≥ 1, "
            f"got {rows.dtype} of shape {tuple(rows.shape)}"
        )
    if labels.shape != rows.shape[:1] or labels.is_floating_point():
        raise InputError(
            f"labels must be class indices of shape ({len(rows)},), as {name} has "
            f"{len(rows)} rows; got {labels.dtype} of shape {tuple(labels.shape)}"
        )
    if rows.device.type != "cpu":
        return
    if not bool(torch.isfinite(rows).all()):
        raise InputError(f"{name} holds NaN or infinite numbers")
    low, high = labels.aminmax()
    if classes and not (low >= 0 and high < rows.shape[1]):
        raise InputError(
            f"labels must be from 0 to {rows.shape[1] - 1}, as {name} has {rows.shape[1]} columns; "
            f"got {int(low)} to {int(high)}"
        )


def wide(x: Tensor) -> Tensor:
    """Return ``x`` in float32 at least: sums over many samples need more than half precision."""
    return x if x.dtype == torch.float64 else x.float()
