"""``--import``: files and modules that register methods, before anything else is parsed."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mixwell.errors import InputError

__all__ = ["add_import", "add_trust", "imported", "imported_of_file", "taken_out"]


def add_import(parser: argparse.ArgumentParser) -> None:
    """Add the option to a command's help; :func:`taken_out` reads it."""
    parser.add_argument(
        "--import", dest=argparse.SUPPRESS, metavar="FILE_OR_MODULE",
        help="import it first: what it registers (methods, measures, tasks ...) is known; "
        "may be given several times",
    )  # fmt: skip


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Add the option by which a run's own code is executed."""
    parser.add_argument(
        "--trust", action="store_true",
        help="execute the code that the run keeps of what it imported, where its network is made "
        "by it; read it first (config.json)",
    )  # fmt: skip


def taken_out(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return what ``--import`` names, and the other arguments.

    Raises:
        InputError: it names nothing.

    >>> taken_out(["compare", "--import", "bands.py", "--import=own.measures", "--seeds", "3"])
    (['bands.py', 'own.measures'], ['compare', '--seeds', '3'])
    """
    names, others = [], []
    rest = iter(arguments)
    for word in rest:
        if word == "--":
            others += [word, *rest]
        elif word == "--import" or word.startswith("--import="):
            name = next(rest, "") if word == "--import" else word.partition("=")[2]
            if not name or name.startswith("-"):
                raise InputError("--import takes a file (bands.py) or a module")
            names.append(name)
        else:
            others.append(word)
    return names, others


def imported(names: Sequence[str]) -> tuple[dict[str, Any], ...]:
    """Import files and modules, after what installed packages bring; return what runs keep of it.

    Raises:
        InputError: one can't be imported, or registers a name that is taken.
    """
    from mixwell import plugins

    if names or plugins.entries("methods"):
        plugins.load_installed()
    found: list[dict[str, Any]] = []
    for name in names:
        record = plugins.load(name)
        if record not in found:
            found.append(record)
    return tuple(found)


def imported_of_file(path: Path, names: Any) -> tuple[dict[str, Any], ...]:
    """Import what a study's file says: from the current folder, or where the file lies.

    Raises:
        InputError: as of :func:`imported`, or it is no name and no list of names.
    """
    listed = [names] if isinstance(names, str) else names
    if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
        raise InputError(f"{path}: import must be a file or module, or a list of them")
    beside = [path.parent / name for name in listed]
    return imported(
        [
            str(other) if name.endswith(".py") and not Path(name).exists() and other.exists()
            else name
            for name, other in zip(listed, beside, strict=True)
        ]
    )  # fmt: skip
