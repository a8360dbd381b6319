"""Checks of arguments, and the range in which one is searched: each error names the argument."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from mixwell.errors import InputError, suggest

__all__ = [
    "LARGEST",
    "Per",
    "Range",
    "as_numbers",
    "check_choice",
    "check_counts",
    "check_flag",
    "check_generator",
    "check_range",
    "check_several",
    "check_whole",
    "plain",
    "shown",
]


_GREATEST = 3.4028234e38
"""What float32 can hold."""

LARGEST = 2**63 - 1
"""What int64 can."""

Per = Literal["sample", "batch"]
"""Whether something is drawn for each sample, or once for all."""


def plain(value: Any) -> Any:
    """Return NumPy's scalars and arrays and tensors without dimensions as Python's own numbers.

    Anything else comes back as it is.
    """
    return value.item() if getattr(value, "shape", None) == () and hasattr(value, "item") else value


def shown(value: Any, most: int = 80) -> str:
    """Return a value as a message shows it: on one line, and not for longer than one.

    >>> shown(10**5000)
    'a whole number of 5001 digits'
    """
    if isinstance(value, int) and abs(value) >= 10**most:
        return f"a whole number of {math.floor(math.log10(abs(value))) + 1} digits"
    text = " ".join(repr(value).split())
    return text if len(text) <= most else f"{text[: most - 3]}..."


def check_choice(argument: str, value: Any, choices: tuple[str, ...]) -> Any:
    """Return ``value`` if it is one of ``choices``; raise an InputError naming them if not."""
    if not isinstance(value, str) or value not in choices:
        known = ", ".join(repr(choice) for choice in choices)
        near = suggest(value, choices) if isinstance(value, str) else ""
        raise InputError(f"{argument}={shown(value)} is unknown; known: {known}{near}")
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

    Any real number will do: Python's, NumPy's, a tensor without dimensions. Infinity is none,
    unless ``infinite``; nor is what float32 can't hold, in which it would be infinite.
    """
    number = plain(value)
    real = isinstance(number, numbers.Real) and not isinstance(number, bool)
    inside = real and low <= number <= high
    too_large = inside and number > _GREATEST and not (infinite and number == math.inf)
    if not inside or too_large or (open and number == low):
        left = "(" if open else "["
        right = f"{high:g}]" if high != math.inf or infinite else "inf)"
        why = ", which is more than float32 holds" if too_large and number != math.inf else ""
        raise InputError(
            f"{argument} must be a number in {left}{low:g}, {right}, got {shown(value)}{why}"
        )
    return float(number)


def check_whole(argument: str, value: Any, low: int = 0, high: int = LARGEST) -> int:
    """Return ``value`` as an int if it is a whole number in [low, high], NumPy's too; or raise."""
    number = plain(value)
    whole = isinstance(number, numbers.Integral) and not isinstance(number, bool)
    if not whole or not low <= number <= high:
        reach = "on" if high == LARGEST else f"to {high}"
        raise InputError(
            f"{argument} must be a whole number from {low} {reach}, got {shown(value)}"
        )
    return int(number)


def check_flag(argument: str, value: Any) -> bool:
    """Return ``value`` if it is True or False; raise if not: what else is true is a mistake."""
    if not isinstance(value, bool):
        raise InputError(f"{argument} must be True or False, got {shown(value)}")
    return value


def check_several(argument: str, value: Any, wanted: str) -> list[Any]:
    """Return what a list, a tuple or a vector holds; raise, saying what is wanted, if it is none.

    Args:
        argument: its name.
        value: what should be several.
        wanted: in words, "one number for each policy".
    """
    vector = getattr(value, "ndim", 0) == 1 and hasattr(value, "tolist")
    if not vector and not isinstance(value, (list, tuple)):
        raise InputError(f"{argument} must be a list of {wanted}, got {shown(value)}")
    return list(value.tolist() if vector else value)


def as_numbers(argument: str, value: Any, wanted: str) -> Tensor:
    """Return what a tensor, an array or a list holds as finite float32 numbers.

    Raises:
        InputError: it holds something else; what is ``wanted`` is said.
    """
    try:
        given = torch.as_tensor(value)
        if given.is_complex() or given.dtype == torch.bool:
            raise TypeError(f"it holds {given.dtype}")
        found = given.to(torch.float32)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise InputError(f"{argument} must {wanted}, got {shown(value)}: {error}") from error
    if not bool(found.isfinite().all()):
        raise InputError(f"{argument} must {wanted}, got {shown(found.tolist())}")
    return found


def check_generator(argument: str, value: Any) -> torch.Generator | None:
    """Return a source of random numbers as torch has them, or None; raise if it is neither."""
    if value is not None and not isinstance(value, torch.Generator):
        raise InputError(
            f"{argument} must be a torch.Generator or None, got {shown(value)}; "
            "torch.Generator().manual_seed(0) is one"
        )
    return value


def check_counts(class_counts: Tensor | Sequence[float] | Mapping[int, float]) -> Tensor:
    """Return the training samples of each class as float32 (C,), if there are some of each.

    Args:
        class_counts: (C,), or a mapping of the classes 0 to C - 1 to them (a ``Counter``).

    Raises:
        InputError: a class is missing or has no samples, or they are no numbers.
    """
    given: Any = class_counts
    if isinstance(given, Mapping):
        given = _in_order(given)
    counts = as_numbers("class_counts", given, "hold a number for each class")
    if counts.ndim != 1 or len(counts) < 2 or not bool((counts > 0).all()):
        raise InputError(
            "class_counts must hold a positive count for each of two classes or more, "
            f"got {counts.tolist()}"
        )
    return counts


def _in_order(class_counts: Mapping[Any, Any]) -> list[Any]:
    """Return a mapping's counts in the order of the classes that are its keys."""
    keys = {key: plain(key) for key in class_counts}
    whole = all(isinstance(k, numbers.Integral) and not isinstance(k, bool) for k in keys.values())
    if not whole or sorted(keys.values()) != list(range(len(keys))):
        shown = ", ".join(repr(key) for key in list(keys.values())[:8])
        raise InputError(
            "class_counts: the keys of a mapping must be the classes 0 to C - 1, each of them, "
            f"got {shown or 'none'}{', ...' if len(keys) > 8 else ''}"
        )
    return [class_counts[key] for key in sorted(keys, key=keys.__getitem__)]


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
