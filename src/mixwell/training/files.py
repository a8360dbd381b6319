"""Files that are whole or not there, and that say themselves whether they are as they were written.

A file is written beside its place, flushed to the disk, and moved there. What is read back carries
a SHA-256 digest: JSON under a key of its own, other files in a trailer that their readers skip.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO

from mixwell.errors import InputError, say

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "Damaged",
    "check_output",
    "checked",
    "clear_leftovers",
    "flush_folder",
    "for_spreadsheet",
    "make_folder",
    "opened",
    "read_json",
    "sealed",
    "set_aside",
    "write_atomically",
    "write_json",
]

_KEY = "sha256"
_MARK = b"\nmixwell sha256 "
_TRAILER = len(_MARK) + 64 + 1
_PIECE = 1 << 20


class Damaged(InputError):
    """Raised for a file or a row that does not hold what was written; its text says which."""


def write_atomically(
    path: Path, content: bytes | Callable[[BinaryIO], object], *, seal: bool = False
) -> None:
    """Put a file in the place of ``path`` once all of it is on the disk.

    Args:
        path: the file.
        content: what it holds, or a function that writes it.
        seal: end it with the digest that :func:`checked` looks at. Zip files (``.pt``, ``.npz``)
            stay readable by anything: what follows their directory is skipped.
    """
    on_windows = os.name == "nt"
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w+b") as file:
            if fcntl is not None:  # it is no leftover as long as we live
                fcntl.flock(file, fcntl.LOCK_EX)
            if isinstance(content, bytes):
                file.write(content)
            else:
                content(file)
            if seal:
                size = file.seek(0, os.SEEK_END)
                file.write(_MARK + _digest_of(file, size).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
            os.chmod(name, 0o644)  # mkstemp's are private; results are as readable as any file
            if not on_windows:
                os.replace(name, path)
        if on_windows:  # it moves no open file
            os.replace(name, path)
        flush_folder(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):  # the folder may be gone: the first error is to be seen
            os.unlink(name)
        raise


def flush_folder(folder: Path) -> None:
    """Put a folder's entries on the disk, so that a file moved there survives a power cut."""
    if os.name == "nt":  # which opens no folders
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # files may be written in it, but not listed
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # the file system has no such call
            raise
    finally:
        os.close(descriptor)


def _digest_of(file: BinaryIO, size: int) -> str:
    """Return the SHA-256 of a file's first bytes; its position is their end afterwards."""
    digest = hashlib.sha256()
    file.seek(0)
    while size and (piece := file.read(min(size, _PIECE))):
        digest.update(piece)
        size -= len(piece)
    return digest.hexdigest()


def checked(path: Path) -> Path:
    """Return ``path`` if the file holds what :func:`write_atomically` sealed.

    A file without a digest, of an older version, passes: its reader has to see whether it is whole.

    Raises:
        Damaged: it does not.
    """
    with path.open("rb") as file:
        size = max(0, file.seek(0, os.SEEK_END) - _TRAILER)
        file.seek(size)
        trailer = file.read()
        if trailer.startswith(_MARK) and trailer[len(_MARK) : -1].decode("latin1") != _digest_of(
            file, size
        ):
            raise Damaged(f"{path} is damaged: its digest doesn't fit its content")
    return path


def set_aside(path: Path, damage: Damaged, then: str) -> None:
    """Rename a damaged file to ``NAME.damaged``, and say so.

    Args:
        path: the file.
        damage: what is wrong with it.
        then: what is done without it, in words.
    """
    place = path.with_name(path.name + ".damaged")
    with contextlib.suppress(FileNotFoundError):  # another process was faster
        os.replace(path, place)
    say(f"{damage}; it is kept as {place.name}. {then}")


def clear_leftovers(folder: Path) -> None:
    """Remove the unfinished files that a process left in a folder when it was killed."""
    for path in folder.glob(".*.tmp"):
        with contextlib.suppress(OSError):  # it has been moved, or another process writes it
            if fcntl is not None:
                with path.open("rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """Return a JSON object with the digest of what it holds."""
    return {**content, _KEY: _json_digest(content)}


def opened(content: Any, name: str) -> dict[str, Any]:
    """Return the object that :func:`sealed` was given; one without a digest is older, and passes.

    Raises:
        Damaged: it is no object, or another one; the text begins with ``name``.
    """
    if not isinstance(content, dict):
        raise Damaged(f"{name} is damaged: it holds no JSON object")
    inner = {key: value for key, value in content.items() if key != _KEY}
    if _KEY in content and content[_KEY] != _json_digest(inner):
        raise Damaged(f"{name} is damaged: its digest doesn't fit its content")
    return inner


def _json_digest(content: Any) -> str:
    # Of the text that is read back: a tuple is a list by then, a key a text. NaN is written as such
    # by both ends, and numbers as Python's shortest.
    text = json.dumps(json.loads(json.dumps(content)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as readable JSON, atomically; an object gets its digest."""
    shown = sealed(content) if isinstance(content, dict) else content
    try:
        text = json.dumps(shown, indent=1, ensure_ascii=False, allow_nan=True).encode()
    except UnicodeEncodeError:  # a file's name may hold bytes that are no text
        text = json.dumps(shown, indent=1, allow_nan=True).encode()
    write_atomically(path, text)


def read_json(path: Path) -> dict[str, Any]:
    """Return the object that a JSON file holds.

    Raises:
        Damaged: it is no JSON object, or not the one that was written.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, nested without end
        raise Damaged(f"{path} is damaged: it is no valid JSON ({error})") from error
    return opened(content, str(path))


def for_spreadsheet(value: Any) -> Any:
    """Return what a cell of a CSV holds: a text that a spreadsheet would compute gets a "'".

    Numbers and all other texts come back as they are.

    >>> for_spreadsheet("=1+1"), for_spreadsheet(-1.5), for_spreadsheet("cat")
    ("'=1+1", -1.5, 'cat')
    """
    computes = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{value}" if computes else value


_OF_RUNS = (
    "config.json", "result.json", "model.pt", "predictions.npz", "checkpoint.pt",
    "checkpoint.before.pt", ".lock",
)  # fmt: skip


def check_output(
    argument: str, path: Path, inputs: Iterable[str | Path] = (), run: Path | None = None
) -> None:
    """Raise an InputError where a file to be written is one that is read, through links, too.

    Args:
        argument: what the message calls it.
        path: the file.
        inputs: files that are read.
        run: the folder of a run, whose own files stay as they are.
    """
    inputs = list(inputs)
    places = {_place(one) for one in inputs}
    if _place(path) in places or _identity(path) in {_identity(one) for one in inputs} - {None}:
        raise InputError(
            f"{argument}={str(path)!r} is a file that is read: it would be lost; name another"
        )
    own = () if run is None else [run / name for name in _OF_RUNS]
    if _place(path) in map(_place, own) or _identity(path) in {*map(_identity, own)} - {None}:
        raise InputError(
            f"{argument}={str(path)!r} is a file of the run in {str(run)!r}, which it needs; name "
            "another"
        )


def _place(path: str | Path) -> str:
    """Return where a file is, links followed."""
    return os.path.normcase(os.path.realpath(path))


def _identity(path: str | Path) -> tuple[int, int] | None:
    """Return what tells a file under all its names; None where there is none."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


def make_folder(argument: str, path: Path) -> None:
    """Create a folder that can be written to, or raise an InputError that names the argument."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        cause = getattr(error, "strerror", None) or error
        raise InputError(f"{argument}={str(path)!r} can't be written to: {cause}") from error
