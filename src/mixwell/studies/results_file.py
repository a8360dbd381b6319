"""A study's finished runs as one small CSV, which travels where their folders don't.

A row a run, entered as the run ends. What stands there is not trained again: a study goes on from
this file alone. It holds measures, not what runs leave beside them (predictions, learning curves,
weights).
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from mixwell.errors import InputError
from mixwell.studies.extending import full_vary
from mixwell.studies.records import RunRecord, in_words, key_of
from mixwell.studies.store import Cell
from mixwell.training.files import make_folder, write_atomically

try:
    import fcntl
except ImportError:  # no such locks on Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["FIXED", "ResultsFile"]

_WORDS = ("label", "method", "seed", "varied", "data", "fingerprint", "task")
_WHOLE = ("train_samples", "parameters")
_REAL = ("seconds", "seconds_per_step", "peak_memory_mb")
_VERSIONS = ("mixwell", "torch", "python", "device")
FIXED = (*_WORDS, *_WHOLE, *_REAL, *_VERSIONS, "ended")
"""The columns before the measures."""

_Key = tuple[str, str, str]
_OF, _AND = " of ", "; "
_Row = Mapping[str, str]


class ResultsFile:
    """The CSV of a study's finished runs; several processes may enter theirs into it.

    Args:
        path: the file; where there is none, the first run that ends makes it.

    Raises:
        InputError: it is another kind of file, or damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if self.path.is_dir():
            raise InputError(f"results={str(path)!r} is a folder; name a file (results.csv)")
        self._rows = self._read()

    def prepare(self) -> None:
        """See that it can be written, before anything is trained.

        Raises:
            InputError: it can't.
        """
        make_folder("results", self.path.parent)

    def __len__(self) -> int:
        return len(self._rows)

    def rows(self) -> list[dict[str, str]]:
        """Return the rows, as they stand in the file."""
        return list(self._rows)

    def result(self, cell: Cell) -> dict[str, Any] | None:
        """Return what is known of a cell, in the form of a run's result; None if it is not there.

        The same configuration, label and seed are the same run, whatever version trained it.

        Raises:
            InputError: it was trained on data that held something else.
        """
        key = _key(cell)
        row = next((row for row in self._rows if _key_of(row) == key), None)
        if row is None:
            return None
        changed = replace(cell.config, **_held(row)).other_data(cell.config)
        if changed:
            raise InputError(
                f"results={str(self.path)!r} holds runs of other data: {changed}; name another file"
            )
        return result_of(row, cell.config.to_dict(), self.path.name)

    def check(self, cells: Iterable[Cell]) -> None:
        """See that it holds no other study: a run of a cell's name that was made otherwise.

        Raises:
            InputError: it does.
        """
        known = {_key_of(row) for row in self._rows}
        places = {_place_of(row): row for row in self._rows}
        varied = _varied(self._rows)
        for cell in cells:
            row = places.get(_place(cell, varied))
            if row is not None and _key(cell) not in known:
                raise InputError(
                    f"results={str(self.path)!r} holds a run of other settings ({_called(row)}: "
                    f"its fingerprint is {row['fingerprint']}, not {cell.config.fingerprint}): "
                    "that is another study; name another file, or what differs as an option that "
                    "varies"
                )

    def enter(self, ended: Iterable[tuple[Cell, RunRecord]]) -> None:
        """Add the runs that are done and not there yet; all of them are on the disk afterwards.

        Raises:
            InputError: the file was damaged meanwhile.
            OSError: it can't be written.
        """
        new = [(cell, record) for cell, record in ended if record.status == "done"]
        if not new:
            return
        with _alone(self.path):
            self._rows = self._read()  # with what other processes entered
            before = [dict(row) for row in self._rows]
            known = {_key_of(row): row for row in self._rows}
            # What varies anywhere in the file is said of all its runs, as far as they are known.
            names = _varied(self._rows, new)
            for cell, record in new:
                varied = json.dumps(full_vary(names, cell.vary, cell.config.to_dict()))
                row = known.get(_key(cell))
                if row is None:
                    self._rows.append(_row(cell, record, varied))
                elif json.loads(row["varied"]) != json.loads(varied):
                    row["varied"] = varied
            if self._rows != before:
                write_atomically(self.path, self._text().encode())

    def _text(self) -> str:
        measures: dict[str, None] = {}
        for row in self._rows:
            measures.update(dict.fromkeys(name for name in row if name not in FIXED))
        buffer = io.StringIO()
        writer = csv.DictWriter(
            buffer, [*FIXED, *measures], restval="", lineterminator="\n"
        )  # fmt: skip
        writer.writeheader()
        writer.writerows(self._rows)
        return buffer.getvalue()

    def _read(self) -> list[dict[str, str]]:
        try:
            text = self.path.read_text(encoding="utf-8-sig")  # spreadsheets write a mark in front
        except FileNotFoundError:
            return []
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"results={str(self.path)!r} can't be read: {error}") from error
        if not text.strip():
            return []
        lines = list(csv.reader(io.StringIO(text)))
        header = lines[0]
        missing = [name for name in FIXED if name not in header]
        if missing or len(set(header)) < len(header):
            twice = next((name for name in header if header.count(name) > 1), "")
            why = f"it lacks {', '.join(missing)}" if missing else f"it has {twice!r} twice"
            raise InputError(
                f"results={str(self.path)!r} is another kind of file: its columns must be "
                f"{', '.join(FIXED)}, then measures, separated by commas; {why}"
            )
        found: dict[_Key, tuple[int, dict[str, str]]] = {}
        for number, line in enumerate(lines[1:], 2):
            if not line:
                continue
            row = {name: value for name, value in zip(header, line, strict=False) if value != ""}
            try:
                if len(line) != len(header):
                    raise ValueError(f"{len(line)} cells, not {len(header)}")
                result_of(row, {}, "")
                key = _key_of(row)
            except (KeyError, ValueError, AttributeError) as error:
                raise InputError(f"{self.path}, row {number} is damaged: {error}") from error
            if key in found:  # two files that were put together
                self._check_alike(*found[key], number, row)
                found[key][1].update({name: row[name] for name in row if name not in found[key][1]})
            else:
                found[key] = number, row
        return [row for _, row in found.values()]

    def _check_alike(self, first: int, row: dict[str, str], second: int, other: _Row) -> None:
        """Raise an InputError if two rows of one run have other measures."""
        both = [name for name in row if name not in FIXED and name in other]
        for name in both:
            if repr(float(row[name])) != repr(float(other[name])):
                raise InputError(
                    f"{self.path}, rows {first} and {second} are one run ({_called(row)}) with "
                    f"other measures ({name}={row[name]}, {other[name]}): delete one of them"
                )


def result_of(row: Mapping[str, str], config: dict[str, Any], source: str) -> dict[str, Any]:
    """Return a row as a run's result.

    Args:
        row: of the file.
        config: of the run.
        source: the file's name.

    Raises:
        ValueError, KeyError: it is damaged.
    """
    dict(json.loads(row["varied"]))
    return {
        "config": config,
        "task": row["task"],
        **{name: int(row[name]) for name in _WHOLE},
        **{name: float(row[name]) for name in _REAL},
        "versions": {name: row[name] for name in _VERSIONS if name in row},
        "metrics": {name: float(value) for name, value in row.items() if name not in FIXED},
        "known_from": source,
    }


def _row(cell: Cell, record: RunRecord, varied: str) -> dict[str, str]:
    fixed = {
        "label": cell.label, "method": cell.config.method, "seed": cell.config.seed,
        "varied": varied, "data": cell.config.data,
        "fingerprint": _print_of(cell), "task": record.task,
        **{name: getattr(record, name) for name in (*_WHOLE, *_REAL)},
        **{name: record.versions.get(name, "") for name in _VERSIONS},
        "ended": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }  # fmt: skip
    # A float's shortest text that is read back as the same number.
    return {name: str(value) for name, value in {**fixed, **record.metrics}.items()}


def _print_of(cell: Cell) -> str:
    """Return a run's fingerprint and, behind it, what is known of its data: "1a2b of 200 ..."."""
    held = {name: digest for name, (_, digest) in cell.config.held.items()}
    own = [held.pop("data")] if "data" in held else []
    words = _AND.join([*own, *(f"{name}{_OF}{digest}" for name, digest in held.items())])
    return cell.config.fingerprint + (f"{_OF}{words}" if words else "")


def _held(row: _Row) -> dict[str, Any]:
    """Return what a run's data held, as fields of its configuration, as far as the row tells."""
    found: dict[str, Any] = dict.fromkeys(("data_digest", "ood_digest", "people_digest"))
    for words in filter(None, row["fingerprint"].partition(_OF)[2].split(_AND)):
        name, _, digest = words.partition(_OF)
        is_named = digest and f"{name}_digest" in found
        found[f"{name}_digest" if is_named else "data_digest"] = digest if is_named else words
    return found


def _key(cell: Cell) -> _Key:
    return cell.config.fingerprint, cell.label, str(cell.config.seed)


def _key_of(row: Mapping[str, str]) -> _Key:
    return row["fingerprint"].partition(_OF)[0], row["label"], str(int(row["seed"]))


def _place(cell: Cell, names: Sequence[str]) -> Hashable:
    """Return where a cell stands in the tables of a file in which these vary."""
    vary = full_vary(dict.fromkeys([*cell.vary, *names]), cell.vary, cell.config.to_dict())
    return cell.config.data, key_of(vary), cell.label, str(cell.config.seed)


def _place_of(row: _Row) -> Hashable:
    return row["data"], key_of(json.loads(row["varied"])), row["label"], str(int(row["seed"]))


def _varied(rows: Iterable[_Row], new: Iterable[tuple[Cell, RunRecord]] = ()) -> list[str]:
    """Return what varies in any of these."""
    known = [name for row in rows for name in json.loads(row["varied"])]
    return list(dict.fromkeys([*known, *(name for cell, _ in new for name in cell.vary)]))


def _called(row: _Row) -> str:
    """Return a row's run in words."""
    vary = json.loads(row["varied"]).items()
    words = [row["label"], row["data"], *(f"{k}={in_words(v)}" for k, v in vary if k != "data")]
    return ", ".join([*words, f"seed {row['seed']}"])


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keep other processes from writing a file; nothing is left beside it afterwards."""
    beside = path.with_name(f".{path.name}.lock")
    while fcntl is not None:
        file = beside.open("w")
        fcntl.flock(file, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.fstat(file.fileno()).st_ino == beside.stat().st_ino:
                break
        file.close()  # the one before us has removed it: what we hold is no lock of others'
    try:
        yield
    finally:
        if fcntl is not None:
            beside.unlink(missing_ok=True)
            file.close()
