"""A study's results in one file: an SQLite database that several processes may share.

A cell is *claimed* before it is run, by one conditional update, so that no two processes run the
same one. A claim holds as long as its owner lives: on the same machine that is looked up, of
another one it must have been heard within two minutes. A result is written as its cell ends, in
one transaction, and never overwritten.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import sqlalchemy as sql

from mixwell.errors import InputError
from mixwell.studies.records import RunRecord
from mixwell.training.config import RunConfig
from mixwell.training.result import is_finished, read_result

__all__ = ["Cell", "Store", "load_records"]

FORMAT = "1"
_SILENCE = 120.0  # seconds after which another machine's claim counts as given up

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
    sql.Column("config", sql.JSON, nullable=False),
    sql.Column("vary", sql.JSON, nullable=False),
    sql.Column("label", sql.String, nullable=False),
    sql.Column("status", sql.String, nullable=False, default="waiting"),
    sql.Column("owner", sql.String),
    sql.Column("heard", sql.Float),
    sql.Column("result", sql.JSON),
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


def _myself() -> str:
    process = psutil.Process()
    return f"{socket.gethostname()}:{process.pid}:{process.create_time()}"


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
        self.owner = _myself()
        # No pool: a connection must not outlive a fork, and opening a file costs nothing here.
        self._engine = sql.create_engine(
            f"sqlite:///{path}", connect_args={"timeout": 60}, poolclass=sql.NullPool
        )
        try:
            if create:
                with self._engine.begin() as connection:
                    # In one transaction: who reads meanwhile sees no table or all of them.
                    connection.exec_driver_sql("BEGIN IMMEDIATE")
                    for table in _TABLES.sorted_tables:  # another process may be doing the same
                        connection.execute(sql.schema.CreateTable(table, if_not_exists=True))
            with self._engine.connect() as connection:
                found = dict(connection.execute(sql.select(_META.c.name, _META.c.value)).all())
        except sql.exc.DatabaseError as error:
            raise InputError(f"{path} is no study's database: {error.orig}") from error
        if found.get("format", FORMAT) != FORMAT:
            raise InputError(
                f"{path} is of format {found['format']}, this version of mixwell reads {FORMAT}"
            )

    # ----------------------------------------------------------------------------- what it is of

    def describe(self, **values: Any) -> None:
        """Keep facts about the study: its protocol, command and shared configuration."""
        with self._engine.begin() as connection:
            for name, value in {"format": FORMAT, **values}.items():
                text = value if isinstance(value, str) else json.dumps(value)
                row = {"name": name, "value": text}
                connection.execute(sql.insert(_META).prefix_with("OR REPLACE"), row)

    def check(self, name: str, value: dict[str, Any]) -> None:
        """Keep what all runs share, or see that it is as it was kept.

        Raises:
            InputError: it is not.
        """
        before = json.loads(self.described(name, "null"))
        if before is None:
            self.describe(**{name: value})
        elif before != json.loads(json.dumps(value)):
            keys = [key for key in {**before, **value} if before.get(key) != value.get(key)]
            changed = "; ".join(
                f"{key}={before.get(key)!r}, not {value.get(key)!r}" for key in keys[:3]
            )
            raise InputError(
                f"out={str(self.folder)!r} holds a study of other settings ({changed}); choose "
                "another folder or delete it"
            )

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
                row.name: row
                for row in connection.execute(sql.select(_CELLS.c.name, _CELLS.c.config))
            }
            new = []
            for place, cell in enumerate(cells):
                if cell.name not in known:
                    new.append(
                        {
                            "name": cell.name, "place": place, "config": cell.config.to_dict(),
                            "vary": cell.vary, "label": cell.label, "status": "waiting",
                        }
                    )  # fmt: skip
                    continue
                before = RunConfig.from_dict(known[cell.name].config)
                if before.fingerprint != cell.config.fingerprint:
                    raise InputError(
                        f"out={str(self.folder)!r} holds runs of other settings ({cell.name}: "
                        f"{before.difference(cell.config)}); choose another folder or delete it"
                    )
            if new:
                # Another process may have added them just now.
                connection.execute(sql.insert(_CELLS).prefix_with("OR IGNORE"), new)

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
            if row.status == "done" or (row.status == "running" and _lives(row.owner, row.heard)):
                continue
            same = (
                _CELLS.c.name == name,
                _CELLS.c.status == row.status,
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
            "status": "done", "result": result, "error": None, "owner": None, "ended": time.time()
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
        query = sql.select(_CELLS).where(_CELLS.c.status.in_(["done", "failed"]))
        with self._engine.connect() as connection:
            rows = connection.execute(query.order_by(_CELLS.c.place, _CELLS.c.name)).all()
        found = {
            row.name: RunRecord.of(
                self.folder / row.name, row.result, row.config, row.error, row.vary, row.label
            )
            for row in rows
        }
        if names is None:
            return list(found.values())
        return [found[name] for name in names if name in found]


def _lives(owner: str | None, heard: float | None) -> bool:
    """Whether the process that claimed a cell is still at work."""
    if owner is None:
        return False
    host, pid, started = owner.rsplit(":", 2)
    if host != socket.gethostname():
        return time.time() - (heard or 0) < _SILENCE
    if int(pid) == os.getpid():
        return True
    try:
        # The number alone would not do: it may be another process's by now.
        return abs(psutil.Process(int(pid)).create_time() - float(started)) < 1
    except psutil.Error:
        return False


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
