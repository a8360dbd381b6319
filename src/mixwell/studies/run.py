"""Running a study: what is missing, on this machine or on a cluster, with nothing lost."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from mixwell.errors import InputError
from mixwell.studies.engines import Engine, LocalEngine, fair_threads
from mixwell.studies.records import RunRecord
from mixwell.studies.store import Cell, Store
from mixwell.studies.study import Study
from mixwell.training.config import RunConfig
from mixwell.training.files import clear_leftovers
from mixwell.training.result import finished_result

__all__ = ["default_workers", "run_cells", "run_study"]

_BEAT = 15.0  # seconds between signs of life
Report = Callable[[Cell, dict[str, Any]], None]


def run_study(
    study: Study,
    out: str | Path,
    *,
    workers: int = 1,
    engine: Engine | None = None,
    report: Report = lambda cell, event: None,
    command: str = "",
) -> list[RunRecord]:
    """Run what a study still lacks; return the records of all its cells.

    The folder gets ``study.db``, the results of all cells that have ended, and a sub-folder for
    each with its checkpoint, log, predictions and weights. Killed at any moment, the same call
    goes on where it was; with more methods, seeds or values it adds what is missing. Several
    processes may work on one study. A cell that fails is recorded with its error and doesn't stop
    the others; the next call tries it again.

    Args:
        study: what to run.
        out: its folder.
        workers: runs at a time; each gets its share of the processor.
        engine: where they run; on this machine by default.
        report: told of each cell's events, in this thread: those of :func:`train
            <mixwell.training.train>`, "failed" with its error, "kept" for one that was finished
            before, "elsewhere" for one that another process finished.
        command: the command line, kept in the results.

    Raises:
        InputError: something can't work, or the folder holds a study of other settings.
    """
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise InputError(f"workers must be 1 at least, got {workers!r}")
    cells = study.plan(out)
    return run_cells(
        cells, out, study=study, workers=workers, engine=engine, report=report, command=command
    )


def run_cells(
    cells: Sequence[Cell],
    out: str | Path,
    *,
    study: Study | None = None,
    workers: int = 1,
    engine: Engine | None = None,
    report: Report = lambda cell, event: None,
    command: str = "",
) -> list[RunRecord]:
    """Run the cells of :meth:`Study.plan`; see :func:`run_study`."""
    store = Store(out, create=True)
    clear_leftovers(Path(out))
    if study is not None:
        store.check("shared", study.shared)
    store.add(cells)
    store.mend(cells)
    store.describe(command=command, protocol="balanced" if study is None else study.protocol)
    by_name = {cell.name: cell for cell in cells}
    status = store.status()
    for cell in cells:
        if status[cell.name] == "done":
            report(cell, {"kind": "kept"})
    waiting = [cell.name for cell in cells if status[cell.name] != "done"]
    chosen = engine or LocalEngine(workers)
    running: set[str] = set()
    heard = time.monotonic()
    with chosen:
        try:
            while waiting or running:
                while waiting and len(running) < chosen.slots:
                    name = store.claim(waiting)
                    if name is None:
                        break
                    waiting.remove(name)
                    cell = by_name[name]
                    if (result := _finished(cell)) is not None:
                        # Killed after the run had ended and before it was entered here.
                        store.finish(name, result)
                        report(cell, {"kind": "kept"})
                        continue
                    running.add(name)
                    chosen.start(cell, command)
                for cell, event in chosen.events(timeout=1.0):
                    if event["kind"] == "ended":
                        running.discard(cell.name)
                    elif event["kind"] != "done":  # that is said once its result is kept
                        report(cell, _kept(store, cell, event))
                if time.monotonic() - heard > _BEAT:
                    store.still_here(sorted(running))
                    heard = time.monotonic()
                if waiting and not running:
                    waiting = _of_others(store, waiting, by_name, report)
        finally:
            with contextlib.suppress(Exception):
                store.give_back(sorted(running))
    return store.records([cell.name for cell in cells])


def _kept(store: Store, cell: Cell, event: dict[str, Any]) -> dict[str, Any]:
    """Keep what a cell's event tells of its end; return what is to be told of it."""
    if event["kind"] == "failed":
        store.fail(cell.name, event["error"])
    if event["kind"] != "result":
        return event
    store.finish(cell.name, event["result"])
    return {"kind": "done"}


def _finished(cell: Cell) -> dict[str, Any] | None:
    """Return the result that the cell's folder holds, if it is its own and whole."""
    result = finished_result(cell.folder)
    if result is None or RunConfig.from_dict(result["config"]).fingerprint != (
        cell.config.fingerprint
    ):
        return None
    return result


def _of_others(
    store: Store, waiting: list[str], by_name: dict[str, Cell], report: Report
) -> list[str]:
    """Return which cells are still to be done, after those that other processes have finished."""
    status = store.status()
    for name in waiting:
        if status[name] == "done":
            report(by_name[name], {"kind": "elsewhere"})
        elif status[name] == "failed":
            report(by_name[name], {"kind": "failed", "error": "it failed in another process"})
    return [name for name in waiting if status[name] in ("waiting", "running")]


def default_workers() -> int:
    """Return how many runs at a time suit this machine: one on a GPU, else one for each core."""
    return 1 if torch.cuda.is_available() else fair_threads(1)
