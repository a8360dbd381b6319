"""The targets of the stand-ins for timm's: dense, smoothed, of a batch mixed with its reverse."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mixwell.compat.arguments import check_tensor
from mixwell.errors import InputError
from mixwell.losses.base import check_classes
from mixwell.mix import MixedTarget

__all__ = ["as_lam", "as_target", "smoothed"]


def as_lam(argument: str, lam: Any, target: Tensor) -> Tensor:
    """Return λ, a number or one for each sample, as (B,) in single precision at least."""
    try:
        weight = torch.as_tensor(lam, device=target.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{argument} must be a number in [0, 1], or one for each sample, got {lam!r}"
        ) from error
    if not weight.is_floating_point() or weight.dtype in (torch.float16, torch.bfloat16):
        weight = weight.float()
    size = len(target)
    if tuple(weight.shape) not in {(), (1,), (1, 1), (size,), (size, 1)}:
        raise InputError(
            f"{argument} must be a number or one for each sample, ({size},) or ({size}, 1), got "
            f"shape {tuple(weight.shape)}"
        )
    if weight.device.type == "cpu" and not bool(((weight >= 0) & (weight <= 1)).all()):
        raise InputError(f"{argument} must be in [0, 1], got {weight.reshape(-1).tolist()}")
    return weight.reshape(-1).expand(size)


def as_target(target: Tensor, num_classes: int, multi_label: bool) -> Tensor:
    """Return class indices (B,) as int64, multi-label targets (B, C) as floating, checked."""
    shape = tuple(check_tensor("target", target).shape)
    if multi_label:
        if target.ndim != 2 or shape[1] != num_classes:
            raise InputError(
                f"multi_label=True needs targets of shape (B, num_classes), (B, {num_classes}), "
                f"got shape {shape}"
            )
        return target.float()
    if target.ndim != 1:
        raise InputError(
            f"target must be class indices (B,), got shape {shape}; "
            "a label for each class, (B, C), is mixed with multi_label=True"
        )
    if target.is_floating_point():
        raise InputError(
            f"target must be class indices (B,), whole numbers, got {target.dtype}; if they are "
            "indices, convert them with target.long()"
        )
    target = target.long()
    check_classes("target", target, num_classes)
    return target


def smoothed(target: MixedTarget, num_classes: int, smoothing: float, multi_label: bool) -> Tensor:
    """Return dense targets (B, C), smoothed: y ← (1 - ε) y + ε / C (multi-label: ε / 2)."""
    # Smoothing is affine, so that it may as well follow the mixing.
    even = 0.5 if multi_label else 1 / num_classes
    return target.dense(num_classes).mul_(1 - smoothing).add_(smoothing * even)
