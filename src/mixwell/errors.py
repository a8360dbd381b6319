"""The one error for input that mixwell can't work with, how it warns, and what the machine says."""

from __future__ import annotations

import difflib
import errno
import os
import sqlite3
import sys
import warnings
from collections.abc import Iterable, Iterator

__all__ = ["InputError", "MachineError", "Note", "explained", "last_line", "say", "suggest"]


class InputError(ValueError):
    """Raised when an argument can't be right: it names the argument, what came and what would do.

    It is a :class:`ValueError`, so that callers need not know mixwell's own class. The command
    line prints its text on standard error, without a traceback, and exits with status 2.
    """


class MachineError(RuntimeError):
    """Raised where a run failed for the machine's sake: a full disk, no memory. It may go on."""


class Note(UserWarning):
    """What :func:`say` warns with: a user should know it, nothing is wrong with their call."""


def suggest(name: str, choices: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the choice nearest to ``name``, or an empty string."""
    near = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.6)
    return f" (did you mean {near[0]!r}?)" if near else ""


def last_line(error: str | None) -> str:
    """Return why a run failed, on one line: of a traceback, what was raised."""
    lines = [line.strip() for line in (error or "").splitlines() if line.strip()]
    return lines[-1] if lines else "no reason is known"


def say(message: str) -> None:
    """Warn of what a user should know, at the line of theirs that led here."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(
        ("mixwell.", "torch.")
    ):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, Note, stacklevel=level)


# -------------------------------------------------------------------------------- the surroundings

_SYSTEM = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota of disk space is used up",
    errno.EIO: "the disk reports an error",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "access is denied",
    errno.EPERM: "access is denied",
    errno.ENOENT: "it is not there (any more)",
    errno.ENOTDIR: "a part of its path is no folder",
    errno.EMFILE: "too many files are open ('ulimit -n' says how many may be)",
    errno.ENFILE: "too many files are open on this machine",
    errno.ENAMETOOLONG: "its name or path is too long",
    errno.ENOMEM: "memory is exhausted",
    errno.EAGAIN: "the system has no more processes or threads to give ('ulimit -u')",
}
_DATABASE = {
    "locked": "the database is locked by another process, for longer than was waited",
    "disk is full": "the disk is full",
    "readonly": "the database may not be written",
    "unable to open": "the database can't be opened: its folder is gone, read-only or full",
    "disk I/O": "the disk reports an error",
    "no such table": "the database is damaged: it lacks a table",
    "malformed": "the database is damaged",
    "not a database": "the file is no database",
}
_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "std::bad_alloc")


def explained(error: BaseException) -> str | None:
    """Return, in words, what of the machine failed: disk, memory, files; None if nothing did.

    An error's causes are looked at as well: libraries wrap what the system says.
    """
    return next((text for cause in _causes(error) if (text := _cause(cause))), None)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Return an error, what a database's driver said, and the errors that it came of."""
    seen: list[BaseException] = []
    waiting = [error]
    while waiting:
        cause = waiting.pop(0)
        if cause is None or cause in seen or isinstance(cause, InputError):
            continue
        seen.append(cause)
        yield cause
        orig = getattr(cause, "orig", None)
        waiting.append(orig if isinstance(orig, BaseException) else None)
        waiting.append(
            cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
        )


def _cause(error: BaseException) -> str | None:
    text = str(error)
    if isinstance(error, MachineError):
        return text
    if isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in text.lower() for words in _NO_MEMORY)
    ):
        return "memory is exhausted; a smaller batch_size or fewer workers need less"
    if isinstance(error, sqlite3.Error):
        return next((said for words, said in _DATABASE.items() if words in text), None)
    if isinstance(error, OSError) and error.errno is not None:
        said = _SYSTEM.get(error.errno) or os.strerror(error.errno)
        return said if error.filename is None else f"{os.fspath(error.filename)}: {said}"
    return None
