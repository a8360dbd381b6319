"""The modes that a caller may be in: autocast, inference mode, a default device, tracing."""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

__all__ = ["undisturbed"]

P = ParamSpec("P")
T = TypeVar("T")


def undisturbed(compute: Callable[P, T]) -> Callable[P, T]:
    """Have a function compute as it does outside of all modes that its caller may be in.

    For what is computed once, at its first use, and kept: a table that was made in inference mode
    could not be trained with later, and arithmetic under autocast is another. It runs in a thread
    of its own, which starts without modes: they are each thread's.
    """

    @functools.wraps(compute)
    def apart(*args: P.args, **kwargs: P.kwargs) -> T:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(compute, *args, **kwargs).result()

    return apart
