"""The checkpoints of a run's folder: the last one and the one before it, read without running code.

They hold tensors, plain containers, numbers and text alone, so that ``torch.load`` needs no pickled
objects: a checkpoint that somebody else may have put there can't run anything.
"""

from __future__ import annotations

import operator
import os
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mixwell.errors import InputError, explained
from mixwell.training.files import Damaged, checked, flush_folder, set_aside, write_atomically

__all__ = ["clear", "on_the_processor", "read", "whole", "write"]

_NAMES = ("checkpoint.pt", "checkpoint.before.pt")  # the last one first
_PLAIN = (
    torch.Size, torch.dtype, torch.device, str, bytes, bool, int, float, complex, type(None)
)  # fmt: skip


def write(folder: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint; the last one becomes the one before.

    Raises:
        InputError: it holds something that couldn't be read back.
    """
    plain = _plain(content, "checkpoint")
    last, before = (folder / name for name in _NAMES)
    waiting = folder / ".checkpoint.new.tmp"  # a name that leftovers have
    write_atomically(waiting, lambda file: torch.save(plain, file), seal=True)
    if last.exists():
        os.replace(last, before)  # killed here, the one before is the last one
    os.replace(waiting, last)
    flush_folder(folder)


def on_the_processor(weights: dict[str, Any]) -> dict[str, Any]:
    """Move a ``state_dict``'s tensors, in place: what it knows of modules' versions, it keeps."""
    for name, value in weights.items():
        if isinstance(value, torch.Tensor):
            weights[name] = value.cpu()
    return weights


def _plain(value: Any, name: str) -> Any:
    """Return a value with NumPy's numbers and arrays as Python's and torch's.

    What is plain already stays the same object: a state_dict knows its modules' versions, too.
    """
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        return torch.from_numpy(value.copy())
    if isinstance(value, torch.Tensor) or type(value) in _PLAIN:
        return value
    for kind in (bool, int, float, str):
        if isinstance(value, kind):  # an enumeration's member, say
            return kind(value)
    if isinstance(value, Mapping):
        inner = {_plain(k, name): _plain(own, f"{name}[{k!r}]") for k, own in value.items()}
        same = type(value) in (dict, OrderedDict) and all(inner[k] is value[k] for k in value)
        return value if same else inner
    if isinstance(value, (list, tuple, set)):
        items = [_plain(own, f"{name}[...]") for own in value]
        if type(value) in (list, tuple, set) and all(map(operator.is_, items, value)):
            return value
        if isinstance(value, list):
            return items
        return tuple(items) if isinstance(value, tuple) else set(items)
    raise InputError(
        f"{name} is a {type(value).__name__}; a checkpoint can hold tensors, containers, numbers "
        "and text"
    )


def read(path: Path, device: torch.device | str) -> dict[str, Any]:
    """Return what a checkpoint holds.

    Raises:
        Damaged: it is not what was written.
    """
    try:
        content = torch.load(checked(path), map_location=device, weights_only=True)
    except Damaged:
        raise
    except Exception as error:  # a damaged zip or pickle raises whatever it comes to
        if explained(error) is not None:  # a machine out of memory says nothing of the file
            raise
        cause = "it is no whole checkpoint"
        if "GLOBAL" in str(error):
            cause = "it holds objects that run code to be read; versions before 0.1 wrote such"
        raise Damaged(f"{path} can't be read: {cause}") from error
    if not isinstance(content, dict) or "progress" not in content:
        raise Damaged(f"{path} is no checkpoint of a run")
    return content


def whole(folder: Path) -> Path | None:
    """Return the last checkpoint that is whole; damaged ones are set aside, and that is said."""
    for name in _NAMES:
        path = folder / name
        if not path.is_file():
            continue
        try:
            read(path, "cpu")
        except Damaged as damage:
            earlier = name == _NAMES[0] and (folder / _NAMES[1]).is_file()
            then = "from the checkpoint before it" if earlier else "from its start"
            set_aside(path, damage, f"The run goes on {then}.")
        else:
            return path
    return None


def clear(folder: Path) -> None:
    """Remove the checkpoints of a run that has ended."""
    for name in _NAMES:
        (folder / name).unlink(missing_ok=True)
