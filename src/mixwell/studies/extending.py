"""A study that is gone on with: which cells its folder has already, and whether it is the same one.

Methods, seeds and values may be added. An option that had one value may get others: the runs that
are there are those of its first value, whatever they were called.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from mixwell.errors import InputError
from mixwell.studies.records import in_words, key_of
from mixwell.studies.store import Cell, Row, Store
from mixwell.studies.study import cell_name
from mixwell.training.config import RunConfig
from mixwell.training.naming import digest

__all__ = ["extended", "full_vary"]


def extended(
    store: Store, cells: Sequence[Cell], shared: Mapping[str, Any], vary: Mapping[str, Any]
) -> list[Cell]:
    """Return the cells as the store's study has them, after seeing that it is the same study.

    What was made before is found by its configuration, label and seed; what varies in any of its
    runs is said of all.

    Args:
        store: of the folder.
        cells: of the study.
        shared: what its runs have in common.
        vary: what varies in it.

    Raises:
        InputError: the folder holds a study of other settings.
    """
    before, rows = store.shared(), store.rows()
    if store.described("search"):
        raise InputError(
            f"out={str(store.folder)!r} holds a search for settings (mixwell tune); choose another "
            "folder"
        )
    if before is None:  # a new one, or a folder of single runs
        store.describe(shared=dict(shared))
        return list(cells)
    varied = [*vary, *(name for row in rows for name in row.vary if name not in vary)]
    varied = list(dict.fromkeys(varied))
    _check_same(store, before, shared, [name for name in before if name not in varied], varied)
    for name in vary:
        if not any(name in row.vary for row in rows):
            _check_widened(store, name, rows, cells)
    store.describe(shared={name: value for name, value in shared.items() if name not in varied})
    store.say_of_all({row.name: full_vary(varied, row.vary, row.config) for row in rows})
    return _adopted(store, rows, cells, varied)


def full_vary(
    names: Iterable[str], vary: Mapping[str, Any], config: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the values of what varies, in this order: of what is fixed here, the run's own."""
    return {name: vary[name] if name in vary else config.get(name) for name in names}


def _check_same(
    store: Store, before: Mapping[str, Any], shared: Mapping[str, Any], fixed: Sequence[str],
    varied: Sequence[str],
) -> None:  # fmt: skip
    """Raise an InputError if what neither study varies differs."""
    now = json.loads(json.dumps(shared))
    names = [*fixed, *(name for name in now if name not in before and name not in varied)]
    changed = [name for name in names if before.get(name) != now.get(name)]
    if changed:
        said = "; ".join(f"{n}={before.get(n)!r}, not {now.get(n)!r}" for n in changed[:3])
        options = [spec.name for spec in fields(RunConfig)]
        both = [before.get(changed[0]), now.get(changed[0])]
        together = ""
        if len(changed) == 1 and changed[0] in options and None not in both:
            together = f" (one study has both if {changed[0]} is given both values)"
        raise InputError(
            f"out={str(store.folder)!r} holds a study of other settings ({said}); choose another "
            f"folder or delete it{together}"
        )


def _check_widened(store: Store, name: str, rows: Sequence[Row], cells: Sequence[Cell]) -> None:
    """Raise an InputError if an option that had one value gets others without it."""
    new = list({key_of(cell.config.to_dict()[name]): cell for cell in cells}.values())
    values = [cell.config.to_dict()[name] for cell in new]
    known = {key_of(value) for value in values}
    # A method may have its own: "puzzlemix(epochs=25)".
    old = [row.config.get(name) for row in rows if f"{name}=" not in row.label]
    for value in old:
        if key_of(value) not in known:
            raise InputError(
                f"out={str(store.folder)!r} holds a study of other settings ({name}={value!r}, not "
                f"{', '.join(map(repr, values))}); name {in_words(value)} among the values of "
                f"{name}, or choose another folder"
            )


def _adopted(
    store: Store, rows: Sequence[Row], cells: Sequence[Cell], varied: Sequence[str]
) -> list[Cell]:
    """Return the cells with the names that the store has for them, and with all that varies."""
    names = {row.name for row in rows}
    known: dict[Any, str] = {}
    if any(cell.name not in names or list(cell.vary) != list(varied) for cell in cells):
        known = {(row.fingerprint, row.label, row.seed): row.name for row in rows}
    found = []
    for cell in cells:
        config = cell.config
        vary = full_vary(varied, cell.vary, config.to_dict())
        name = known.get((config.fingerprint, cell.label, config.seed))
        if name is None and list(vary) != list(cell.vary):  # it was called without these
            name = cell_name(cell.label, vary, config.seed)
            if name in names:  # of another run that is called alike
                name += f"-{digest({'words': [cell.label, str(vary)]})}"
        folder = cell.folder if name is None else store.folder / name
        found.append(replace(cell, folder=folder, vary=vary))
    return found
