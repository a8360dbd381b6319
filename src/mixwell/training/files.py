"""Files that are whole or not there: written beside, flushed to the disk, and moved into place."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from mixwell.errors import InputError

__all__ = ["clear_leftovers", "make_folder", "read_json", "write_atomically", "write_json"]


def write_atomically(path: Path, content: bytes | Callable[[BinaryIO], object]) -> None:
    """Put a file in the place of ``path`` once all of it is on the disk.

    Args:
        path: the file.
        content: what it holds, or a function that writes it.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if isinstance(content, bytes):
                file.write(content)
            else:
                content(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)  # mkstemp's are private; results are as readable as any file
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def clear_leftovers(folder: Path) -> None:
    """Remove the unfinished files that a process left in a folder when it was killed."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as readable JSON, atomically."""
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=True)
    write_atomically(path, text.encode())


def read_json(path: Path) -> Any:
    """Return what a JSON file holds.

    Raises:
        InputError: it is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is no valid JSON: {error}") from error


def make_folder(argument: str, path: Path) -> None:
    """Create a folder that can be written to, or raise an InputError that names the argument."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise InputError(
            f"{argument}={str(path)!r} can't be written to: {error.strerror}"
        ) from error
