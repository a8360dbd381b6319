"""A finished run's result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mixwell.errors import InputError
from mixwell.training.files import read_json

__all__ = ["FORMAT", "is_finished", "read_result"]

FORMAT = 1


def is_finished(folder: Path) -> bool:
    """Whether a run folder holds a result."""
    return (folder / "result.json").is_file()


def read_result(folder: Path) -> dict[str, Any]:
    """Return a finished run's result.

    Raises:
        InputError: the file is damaged or of a format that this version doesn't know.
    """
    result = read_json(folder / "result.json")
    if not isinstance(result, dict) or result.get("format") != FORMAT:
        raise InputError(f"{folder / 'result.json'} is no result of this version of mixwell")
    return result
