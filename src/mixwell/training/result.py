"""A finished run's result."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from mixwell.errors import InputError
from mixwell.training import checkpoints
from mixwell.training.config import RunConfig
from mixwell.training.files import Damaged, read_json, set_aside

__all__ = ["FORMAT", "finished_result", "is_finished", "read_config", "read_result"]

FORMAT = 1


def is_finished(folder: Path) -> bool:
    """Whether a run folder holds a result."""
    return os.path.isfile(folder / "result.json")  # no, too, where the path is too long


def read_result(folder: Path) -> dict[str, Any]:
    """Return a finished run's result.

    Raises:
        InputError: the file is damaged or of a format that this version doesn't know.
    """
    path = folder / "result.json"
    result = read_json(path)
    if result.get("format") != FORMAT:
        raise InputError(f"{path} is no result of this version of mixwell")
    for name, kind in (("metrics", dict), ("config", dict), ("history", list)):
        if not isinstance(result.get(name), kind):
            raise Damaged(f"{path} is damaged: it has no {name}")
    return result


def finished_result(folder: Path) -> dict[str, Any] | None:
    """Return a finished run's result; None where there is none, or it was damaged and set aside.

    Checkpoints that a process left that was killed just then are removed.
    """
    if not is_finished(folder):
        return None
    try:
        result = read_result(folder)
    except Damaged as damage:
        set_aside(folder / "result.json", damage, "The run is made again.")
        return None
    with contextlib.suppress(OSError):  # a folder that can only be read
        checkpoints.clear(folder)
    return result


def read_config(folder: Path) -> RunConfig | None:
    """Return the configuration that a run folder holds.

    None where there is none, or it was damaged and set aside.
    """
    path = folder / "config.json"
    if not path.exists():
        return None
    try:
        return RunConfig.from_dict(read_json(path))
    except Damaged as damage:
        set_aside(path, damage, "It is written anew.")
    except (InputError, TypeError) as error:
        why = Damaged(f"{path} holds no run's configuration ({error})")
        set_aside(path, why, "It is written anew.")
    return None
