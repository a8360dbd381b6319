"""Who works on a study, told by locks that the system drops when a process ends, however it does.

Each process that claims cells locks one byte of the study's file ``.owners``, at a place of its own
drawn at random; the place is its name. Whether an owner lives is whether its byte can be locked.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import time
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["lives", "myself"]

FILE = ".owners"
_SILENCE = 120.0  # seconds after which a claim that no lock tells of counts as given up
_PLACES = 1 << 62

# A process's locks on a file end when it closes any of its descriptors: each file has one, kept
# open. A fork inherits no locks, so that it is another owner.
_OPEN: dict[tuple[int, int, int], tuple[int, int]] = {}


def _at(folder: Path) -> tuple[int, int]:
    """Return the descriptor of a study's file, and this process's own place in it."""
    path = folder / FILE
    with contextlib.suppress(FileNotFoundError):
        found = path.stat()
        known = _OPEN.get((os.getpid(), found.st_dev, found.st_ino))
        if known is not None:
            return known
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    found = os.fstat(descriptor)
    place = secrets.randbelow(_PLACES)
    fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
    return _OPEN.setdefault((os.getpid(), found.st_dev, found.st_ino), (descriptor, place))


def myself(folder: Path) -> str:
    """Return this process's name as an owner in a study's folder; it lives from now on."""
    host = socket.gethostname()
    if fcntl is not None:
        with contextlib.suppress(OSError):  # a file system without locks
            return f"{host}:{_at(folder)[1]}"
    return f"{host}:process {os.getpid()}"


def lives(folder: Path, owner: object, heard: object) -> bool:
    """Whether the process that claimed a cell is still at work.

    Args:
        folder: the study's.
        owner: what :func:`myself` returned there.
        heard: when it last said so, in seconds since 1970: what counts for other machines, and
            where there are no locks.
    """
    if not isinstance(owner, str):
        return False
    if owner == myself(folder):
        return True
    host, _, place = owner.rpartition(":")
    if fcntl is not None and host == socket.gethostname() and place.isdecimal():
        try:
            return _is_locked(folder, int(place))
        except (OSError, OverflowError):  # a file system without locks; no place of ours
            pass
    return isinstance(heard, (int, float)) and 0 <= time.time() - heard < _SILENCE


def _is_locked(folder: Path, place: int) -> bool:
    descriptor, _ = _at(folder)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
    except (BlockingIOError, PermissionError):  # which of the two differs between systems
        return True
    fcntl.lockf(descriptor, fcntl.LOCK_UN, 1, place)
    return False
