"""A study's results in one file: an SQLite database that several processes may share.

A cell is *claimed* before it is run, by one conditional update, so that no two processes run the
same one. A claim holds as long as its owner lives: on the same machine a lock tells, of another one
it must have been heard within two minutes. A result is written as its cell ends, in one
transaction, and never overwritten. It carries its digest: a row that is damaged is named and, when
the study is run, made again.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sql

from mixwell.errors import InputError, explained, say
from mixwell.studies.owners import lives, myself
from mixwell.studies.records import RunRecord
from mixwell.training.config import RunConfig
from mixwell.training.files import Damaged, opened, sealed
from mixwell.training.result import is_finished, read_result

__all__ = ["Cell", "Row", "Store", "load_records"]

FORMAT = "1"
_WAIT = 60.0  # seconds that another process's transaction is waited for


class _Text(sql.types.UserDefinedType):
    """JSON as its text: a damaged cell is to be named, so that it is parsed row by row."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "JSON"


_TABLES = sql.MetaData()
_META = sql.Table(
    "meta", _TABLES,
    sql.Column("name", sql.String, primary_key=True),
    sql.Column("value", sql.Text, nullable=False),
)  # fmt: skip
_CELLS = sql.Table(
    "cells", _TABLES,
    sql.Column("name", sql.String, primary_key=True),
    sql.Column("place", sql.Integer, nullable=False),
    sql.Column("config", _Text, nullable=False),
    sql.Column("vary", _Text, nullable=False),
    sql.Column("label", sql.String, nullable=False),
    sql.Column("status", sql.String, nullable=False, default="waiting"),
    sql.Column("owner", sql.String),
    sql.Column("heard", sql.Float),
    sql.Column("result", _Text),
    sql.Column("error", sql.Text),
    sql.Column("ended", sql.Float),
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One run of a study.

    Attributes:
        config: all that it is made of.
        folder: where its checkpoint, log, predictions and weights lie.
        vary: the fields that differ between the study's parts, and their values here.
        label: what tables call its method.
        until: the epoch after which it stops, to be gone on with by another cell of its folder;
            None for a whole run.
    """

    config: RunConfig
    folder: Path
    vary: dict[str, Any]
    label: str
    until: int | None = None

    @property
    def name(self) -> str:
        """What it is called, in the store and while it runs."""
        return self.folder.name + (f".epoch{self.until}" if self.until else "")


@dataclass(frozen=True)
class Row:
    """What a store says of a cell: its name, label and configuration, and what varies in it."""

    name: str
    label: str
    config: dict[str, Any]
    vary: dict[str, Any]

    @property
    def seed(self) -> int:
        """The seed."""
        return int(self.config["seed"])

    @property
    def fingerprint(self) -> str | None:
        """Of its configuration; None where this version of mixwell knows no such configuration."""
        try:
            return RunConfig.from_dict(self.config).fingerprint
        except (InputError, TypeError):
            return None


class Store:
    """The database of a study.

    Args:
        folder: the study's; the file is ``study.db`` in it.
        create: make the file where there is none.

    Raises:
        InputError: there is none, or it is no study of this version.
    """

    FILE = "study.db"

    def __init__(self, folder: str | Path, *, create: bool = False) -> None:
        self.folder = Path(folder)
        path = self.folder / self.FILE
        # A file that is empty is one that another process is making just now.
        if not create and not (path.is_file() and path.stat().st_size):
            raise InputError(f"{str(folder)!r} holds no study: there is no {self.FILE}")
        self._owner: str | None = None
        # No pool: a connection must not outlive a fork, and opening a file costs nothing here.
        self._engine = sql.create_engine(
            sql.URL.create("sqlite", database=str(path)),
            connect_args={"timeout": _WAIT}, poolclass=sql.NullPool,
        )  # fmt: skip
        sql.event.listen(self._engine, "connect", _bear_any_text)
        try:
            if path.is_file() and (create or Path(f"{path}-journal").exists()):
                self._check_whole(path)
            if create:
                with self._engine.begin() as connection:
                    # In one transaction: who reads meanwhile sees no table or all of them.
                    connection.exec_driver_sql("BEGIN IMMEDIATE")
                    for table in _TABLES.sorted_tables:  # another process may be doing the same
                        connection.execute(sql.schema.CreateTable(table, if_not_exists=True))
            with self._engine.connect() as connection:
                found = dict(connection.execute(sql.select(_META.c.name, _META.c.value)).all())
                missing = {table.name for table in _TABLES.sorted_tables} - set(
                    sql.inspect(connection).get_table_names()
                )
        except sql.exc.DatabaseError as error:
            cause = explained(error)
            if cause is not None and not any(word in cause for word in ("damaged", "no database")):
                raise  # the machine's fault, not the file's
            raise InputError(f"{path} is no study's database: {error.orig}") from error
        if missing:
            raise InputError(
                f"{path} is damaged: it lacks the table {', '.join(sorted(missing))}; the same "
                "study makes it again from the runs' folders"
            )
        if found.get("format", FORMAT) != FORMAT:
            raise InputError(
                f"{path} is of format {found['format']}, this version of mixwell reads {FORMAT}"
            )

    @property
    def owner(self) -> str:
        """The name of this process in claims."""
        return self._owner or myself(self.folder)

    @owner.setter
    def owner(self, name: str) -> None:
        self._owner = name

    def _check_whole(self, path: Path) -> None:
        """Raise an InputError if a crash, of a process or of the machine, damaged the file."""
        with self._engine.connect() as connection:
            found = connection.exec_driver_sql("PRAGMA integrity_check(3)").scalars().all()
        if found != ["ok"]:
            raise InputError(
                f"{path} is damaged: {'; '.join(map(str, found))}. Move it away: the same study "
                "makes it again from the runs' folders"
            )

    # ----------------------------------------------------------------------------- what it is of

    def describe(self, **values: Any) -> None:
        """Keep facts about the study: its protocol, command and shared configuration."""
        with self._engine.begin() as connection:
            for name, value in {"format": FORMAT, **values}.items():
                text = value if isinstance(value, str) else json.dumps(value)
                row = {"name": name, "value": text}
                connection.execute(sql.insert(_META).prefix_with("OR REPLACE"), row)

    def shared(self) -> dict[str, Any] | None:
        """Return what all runs of the study share; None where that was never kept."""
        found = _parsed(self.described("shared", "null"))
        return found if isinstance(found, dict) else None

    def rows(self) -> list[Row]:
        """Return what the cells are, in their order, without those that are damaged."""
        query = sql.select(_CELLS).order_by(_CELLS.c.place, _CELLS.c.name)
        with self._engine.connect() as connection:
            rows = connection.execute(query).all()
        found = []
        for row in rows:
            vary = _parsed(row.vary)
            with contextlib.suppress(Damaged):  # :meth:`mend` writes it again
                config = opened(_parsed(row.config), f"the row {row.name!r}: config")
                if isinstance(vary, dict) and isinstance(row.label, str):
                    found.append(Row(row.name, row.label, config, vary))
        return found

    def say_of_all(self, vary: Mapping[str, Mapping[str, Any]]) -> None:
        """Keep what varies, and its values, of cells by their names."""
        with self._engine.begin() as connection:
            for row in connection.execute(sql.select(_CELLS.c.name, _CELLS.c.vary)).all():
                text = json.dumps(vary[row.name]) if row.name in vary else row.vary
                if text != row.vary:
                    here = sql.update(_CELLS).where(_CELLS.c.name == row.name)
                    connection.execute(here.values(vary=text))

    def described(self, name: str, otherwise: str = "") -> str:
        """Return a fact that :meth:`describe` kept."""
        with self._engine.connect() as connection:
            query = sql.select(_META.c.value).where(_META.c.name == name)
            return str(connection.execute(query).scalar_one_or_none() or otherwise)

    def add(self, cells: Sequence[Cell]) -> None:
        """Add the cells that are not there yet.

        Raises:
            InputError: the study holds a cell of the same name with another configuration.
        """
        with self._engine.begin() as connection:
            known = {
                row.name: row.config
                for row in connection.execute(sql.select(_CELLS.c.name, _CELLS.c.config))
            }
            new = []
            self.check_data([cell.config for cell in cells])
            for place, cell in enumerate(cells):
                if cell.name in known:
                    self._refuse_another(cell, known[cell.name])
                    continue
                new.append(
                    {
                        "name": cell.name, "place": place, "status": "waiting",
                        "config": _row_text(cell.config.to_dict()),
                        "vary": json.dumps(cell.vary), "label": cell.label,
                    }
                )  # fmt: skip
            if new:
                # Another process may have added them just now.
                connection.execute(sql.insert(_CELLS).prefix_with("OR IGNORE"), new)

    def check_data(self, configs: Sequence[RunConfig]) -> None:
        """Raise an InputError if runs that are here had other data of the same name."""
        with self._engine.connect() as connection:
            kept = connection.execute(sql.select(_CELLS.c.config)).scalars().all()
        before: dict[Any, RunConfig] = {}
        for text in kept:
            try:
                config = RunConfig.from_dict(opened(_parsed(text), ""))
            except (InputError, TypeError):
                continue  # :meth:`mend` names it
            before[tuple(config.held.items())] = config
        for config in configs:
            changed = next(filter(None, (old.other_data(config) for old in before.values())), None)
            if changed is not None:
                raise InputError(
                    f"out={str(self.folder)!r} holds runs of other data ({changed}); choose "
                    "another folder or delete it"
                )

    def arrange(self, cells: Sequence[Cell]) -> None:
        """Put these cells first, in their order; those that are there beside them come after."""
        query = sql.select(_CELLS.c.name, _CELLS.c.place).order_by(_CELLS.c.place, _CELLS.c.name)
        with self._engine.begin() as connection:
            rows = connection.execute(query).all()
            names = dict.fromkeys([*(cell.name for cell in cells), *(row.name for row in rows)])
            places = {name: place for place, name in enumerate(names)}
            moved = [
                {"called": row.name, "to": places[row.name]}
                for row in rows
                if row.place != places[row.name]
            ]
            if moved:
                here = sql.update(_CELLS).where(_CELLS.c.name == sql.bindparam("called"))
                connection.execute(here.values(place=sql.bindparam("to")), moved)

    def _refuse_another(self, cell: Cell, kept: Any) -> None:
        """Raise an InputError if a row is of another run than the cell of its name."""
        try:
            before = RunConfig.from_dict(opened(_parsed(kept), cell.name))
        except (InputError, TypeError):
            return  # :meth:`mend` writes it again
        if not before.is_same_run(cell.config):
            raise InputError(
                f"out={str(self.folder)!r} holds runs of other settings ({cell.name}: "
                f"{before.difference(cell.config)}); choose another folder or delete it"
            )

    def mend(self, cells: Sequence[Cell]) -> None:
        """Write the damaged rows of these cells again, as waiting; each is named.

        Where a run's folder holds its result it is entered from there, not made again.
        """
        by_name = {cell.name: cell for cell in cells}
        with self._engine.begin() as connection:
            for row in connection.execute(sql.select(_CELLS)).all():
                cell = by_name.get(row.name)
                if cell is None:
                    continue
                try:
                    _record(self.folder, row)
                except Damaged as damage:
                    say(f"{self.FILE}: {damage}. It is entered again from its folder, or made.")
                    values = {
                        "status": "waiting", "owner": None, "heard": None, "result": None,
                        "error": None, "ended": None, "label": cell.label,
                        "config": _row_text(cell.config.to_dict()), "vary": json.dumps(cell.vary),
                    }  # fmt: skip
                    here = sql.update(_CELLS).where(_CELLS.c.name == row.name)
                    connection.execute(here.values(values))

    # -------------------------------------------------------------------------------- who does what

    def claim(self, names: Sequence[str]) -> str | None:
        """Return a cell of ``names`` that is now this process's to run; None if there is none."""
        with self._engine.connect() as connection:
            rows = {
                row.name: row
                for row in connection.execute(
                    sql.select(_CELLS.c.name, _CELLS.c.status, _CELLS.c.owner, _CELLS.c.heard)
                )
            }
        for name in names:
            row = rows[name]
            if row.status == "done" or (
                row.status == "running" and lives(self.folder, row.owner, row.heard)
            ):
                continue
            same = (
                _CELLS.c.name == name,
                _CELLS.c.status.is_not_distinct_from(row.status),
                _CELLS.c.owner.is_not_distinct_from(row.owner),
            )
            claimed = {"status": "running", "owner": self.owner, "heard": time.time()}
            with self._engine.begin() as connection:
                if connection.execute(sql.update(_CELLS).where(*same).values(claimed)).rowcount:
                    return name
        return None

    def still_here(self, names: Sequence[str]) -> None:
        """Say that this process is still at work on these cells."""
        mine = (_CELLS.c.name.in_(names), _CELLS.c.owner == self.owner)
        with self._engine.begin() as connection:
            connection.execute(sql.update(_CELLS).where(*mine).values(heard=time.time()))

    def give_back(self, names: Sequence[str]) -> None:
        """Let others have the cells that this process claimed and did not finish."""
        mine = (
            _CELLS.c.name.in_(names), _CELLS.c.owner == self.owner, _CELLS.c.status == "running"
        )  # fmt: skip
        with self._engine.begin() as connection:
            connection.execute(sql.update(_CELLS).where(*mine).values(status="waiting", owner=None))

    def finish(self, name: str, result: dict[str, Any]) -> None:
        """Keep a cell's result; what was kept before stays."""
        values = {
            "status": "done", "result": _row_text(result), "error": None, "owner": None,
            "ended": time.time(),
        }  # fmt: skip
        open_ = (_CELLS.c.name == name, _CELLS.c.status != "done")
        with self._engine.begin() as connection:
            connection.execute(sql.update(_CELLS).where(*open_).values(values))

    def fail(self, name: str, error: str) -> None:
        """Keep why a cell failed; the next time it is tried again."""
        values = {"status": "failed", "error": error, "owner": None, "ended": time.time()}
        open_ = (_CELLS.c.name == name, _CELLS.c.status != "done")
        with self._engine.begin() as connection:
            connection.execute(sql.update(_CELLS).where(*open_).values(values))

    def status(self) -> dict[str, str]:
        """Return each cell's status by its name."""
        with self._engine.connect() as connection:
            rows = connection.execute(sql.select(_CELLS.c.name, _CELLS.c.status)).all()
        return {row.name: row.status for row in rows}

    # -------------------------------------------------------------------------------------- results

    def records(self, names: Sequence[str] | None = None) -> list[RunRecord]:
        """Return the records of the cells that ended or failed: of ``names`` in their order."""
        query = sql.select(_CELLS).order_by(_CELLS.c.place, _CELLS.c.name)
        with self._engine.connect() as connection:
            rows = connection.execute(query).all()
        found = {}
        for row in rows:
            try:
                record = _record(self.folder, row)
            except Damaged as damage:
                say(f"{self.folder / self.FILE}: {damage}. It is left out; the same study mends it")
                continue
            if record is not None:
                found[row.name] = record
        if names is None:
            return list(found.values())
        return [found[name] for name in names if name in found]


def _bear_any_text(connection: Any, _: Any) -> None:
    """Let a text that is no UTF-8 be read: its digest tells, and no other row suffers."""
    connection.text_factory = lambda text: text.decode("utf-8", "replace")


_STATES = ("waiting", "running", "done", "failed")


def _row_text(content: dict[str, Any]) -> str:
    """Return what a row keeps of an object: its JSON, with its digest."""
    return json.dumps(sealed(content))


def _parsed(text: Any) -> Any:
    """Return what a row's JSON says; None where it is none."""
    try:
        return json.loads(text)
    except (TypeError, ValueError, RecursionError):
        return None


def _record(folder: Path, row: Any) -> RunRecord | None:
    """Return the record of a row; None if its cell has not ended.

    Raises:
        Damaged: the row does not hold what was written.
    """
    name = f"the row {row.name!r}"
    if not isinstance(row.name, str):
        raise Damaged(f"{name} is damaged: it has no name")
    if row.status not in _STATES:
        raise Damaged(f"{name} is damaged: its status is {row.status!r}")
    config, vary = opened(_parsed(row.config), f"{name}: config"), _parsed(row.vary)
    if not isinstance(vary, dict) or not isinstance(row.label, str):
        raise Damaged(f"{name} is damaged: it has no label, or nothing of its part")
    if row.status not in ("done", "failed"):
        return None
    result = None
    if row.status == "done":
        result = opened(_parsed(row.result), f"{name}: result")
        if not isinstance(result.get("metrics"), dict):
            raise Damaged(f"{name} is damaged: its result has no metrics")
    try:
        error = None if row.error is None else str(row.error)
        return RunRecord.of(folder / row.name, result, config, error, vary, row.label)
    except (InputError, TypeError, ValueError) as error:
        raise Damaged(f"{name} is damaged: {error}") from error


def load_records(folder: str | Path) -> list[RunRecord]:
    """Return the records of a study's folder, or of one run's.

    Raises:
        InputError: there are none.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"{str(root)!r} is no folder")
    if (root / Store.FILE).is_file():
        found = Store(root).records()
    elif is_finished(root):
        result = read_result(root)
        found = [RunRecord.of(root, result, result["config"])]
    else:
        found = []
    if not found:
        raise InputError(f"{str(root)!r} holds no finished run")
    return found
