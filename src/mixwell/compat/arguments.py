"""What the stand-ins ask of their arguments, and which methods of theirs a subclass replaces."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mixwell.errors import InputError

__all__ = ["check_flag", "check_tensor", "overridden", "takes"]


def check_flag(argument: str, value: Any) -> bool:
    """Return True or False, Python's or NumPy's, or raise: "false" would be true."""
    if isinstance(value, bool) or type(value).__name__ in ("bool_", "bool"):
        return bool(value)
    raise InputError(f"{argument} must be True or False, got {value!r}")


def check_tensor(argument: str, value: Any) -> Tensor:
    """Return a dense tensor, or raise."""
    if not isinstance(value, Tensor):
        raise InputError(f"{argument} must be a tensor, got {type(value).__name__}")
    if value.layout != torch.strided or value.is_nested:
        kind = "nested" if value.is_nested else str(value.layout).removeprefix("torch.")
        raise InputError(
            f"{argument} must be a dense tensor, got a {kind} one; make it dense: "
            f"{'torch.nested.to_padded_tensor' if value.is_nested else argument + '.to_dense()'}"
        )
    return value


def overridden(owner: object, name: str, known: tuple[type, ...]) -> Callable[..., Any] | None:
    """Return the method called ``name`` where a subclass, or the object, has one of its own.

    Args:
        owner: an object.
        name: of a method.
        known: the classes whose own methods are no override.
    """
    if name in vars(owner):
        return getattr(owner, name)
    kind = next((kind for kind in type(owner).__mro__ if name in vars(kind)), None)
    return None if kind is None or kind in known else getattr(owner, name)


def takes(function: Callable[..., Any], count: int) -> bool:
    """Whether a function can be called with ``count`` positional arguments."""
    try:
        inspect.signature(function).bind(*[None] * count)
    except TypeError:
        return False
    except ValueError:  # a built-in without a signature
        return True
    return True
