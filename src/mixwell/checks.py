"""Checks of arguments, and the range in which one is searched: each error names the argument."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal

import torch
from torch import Tensor

from mixwell.errors import InputError, suggest

__all__ = ["Per", "Range", "check_choice", "check_counts", "check_range", "check_whole"]


Per = Literal["sample", "batch"]
"""Whether something is drawn for each sample, or once for all."""


def check_choice(argument: str, value: Any, choices: tuple[str, ...]) -> Any:
    """Return ``value`` if it is one of ``choices``; raise an InputError naming them if not."""
    if not isinstance(value, str) or value not in choices:
        known = ", ".join(repr(choice) for choice in choices)
        raise InputError(f"{argument}={value!r} is unknown; known: {known}"
                         f"{suggest(str(value), choices)}")  # fmt: skip
    return value


def check_range(
    argument: str,
    value: Any,
    low: float = 0.0,
    high: float = math.inf,
    *,
    open: bool = False,
    infinite: bool = False,
) -> float:
    """Return ``value`` as a float within [low, high] (without ``low`` if ``open``), or raise.

    Infinity is no number here, unless ``infinite``.
    """
    number = not isinstance(value, bool) and isinstance(value, Real)  # NumPy's too
    inside = number and low <= value <= high and (infinite or math.isfinite(value))
    if not inside or (open and value == low):
        left = "(" if open else "["
        right = f"{high:g}]" if high != math.inf or infinite else "inf)"
        raise InputError(f"{argument} must be a number in {left}{low:g}, {right}, got {value!r}")
    return float(value)


def check_whole(argument: str, value: Any, low: int = 0) -> int:
    """Return ``value`` as an int if it is a whole number from ``low`` on, NumPy's too; or raise."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < low:
        raise InputError(f"{argument} must be a whole number from {low} on, got {value!r}")
    return int(value)


def check_counts(class_counts: Tensor | Sequence[float]) -> Tensor:
    """Return the training samples of each class as float32 (C,), if there are some of each."""
    counts = torch.as_tensor(class_counts, dtype=torch.float32)
    if counts.ndim != 1 or len(counts) < 2 or not bool((counts > 0).all()):
        raise InputError(
            "class_counts must hold a positive count for each of two classes or more, "
            f"got {counts.tolist()}"
        )
    return counts


@dataclass(frozen=True)
class Range:
    """Where a setting is searched when it is tuned; parts declare theirs as ``ranges``.

    Attributes:
        low: the least value.
        high: the greatest.
        log: whether factors count, not differences.
        default: the usual value, where it is known.
    """

    low: float
    high: float
    log: bool = False
    default: float | None = None

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}" + (", in factors" if self.log else "")
