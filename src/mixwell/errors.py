"""The one error that mixwell raises for input it can't work with, and how it warns."""

from __future__ import annotations

import difflib
import sys
import warnings
from collections.abc import Iterable

__all__ = ["InputError", "say", "suggest"]


class InputError(ValueError):
    """Raised when an argument can't be right: it names the argument, what came and what would do.

    It is a :class:`ValueError`, so that callers need not know mixwell's own class. The command
    line prints its text on standard error, without a traceback, and exits with status 2.
    """


def suggest(name: str, choices: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the choice nearest to ``name``, or an empty string."""
    near = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.6)
    return f" (did you mean {near[0]!r}?)" if near else ""


def say(message: str) -> None:
    """Warn of what a user should know, at the line of theirs that led here."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(
        ("mixwell.", "torch.")
    ):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, UserWarning, stacklevel=level)
