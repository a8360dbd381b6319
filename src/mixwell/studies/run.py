"""Running a study: what is missing, on this machine or on a cluster, with nothing lost."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mixwell.errors import InputError
from mixwell.studies.declare import as_study
from mixwell.studies.engines import Engine, LocalEngine, fair_threads
from mixwell.studies.extending import extended
from mixwell.studies.records import REPORT_FILES, RunRecord
from mixwell.studies.results_file import ResultsFile
from mixwell.studies.statistics import check_baseline, choose_baseline
from mixwell.studies.store import Cell, Store
from mixwell.studies.study import Study
from mixwell.training.config import RunConfig
from mixwell.training.files import check_output, clear_leftovers, make_folder
from mixwell.training.naming import files_of
from mixwell.training.result import finished_result

__all__ = ["default_workers", "run_cells", "run_study"]

_BEAT = 15.0  # seconds between signs of life
Report = Callable[[Cell, dict[str, Any]], None]


def run_study(
    study: Study | str,
    out: str | Path,
    *,
    methods: str | Sequence[str] | None = None,
    seeds: int | Sequence[int] | None = None,
    settings: Mapping[str, Any] | None = None,
    preset: str | None = None,
    workers: int = 1,
    engine: Engine | None = None,
    report: Report = lambda cell, event: None,
    command: str = "",
    results: str | Path | None = None,
    baseline: str | None = None,
    **options: Any,
) -> list[RunRecord]:
    """Run what a study still lacks; return the records of all its cells.

    The folder gets ``study.db``, the results of all cells that have ended, and a sub-folder for
    each with its checkpoint, log, predictions and weights. Killed at any moment, the same call
    goes on where it was; with more methods, seeds or values it adds what is missing. Several
    processes may work on one study. A cell that fails is recorded with its error and doesn't stop
    the others; the next call tries it again.

    Args:
        study: what to run, or a protocol's name ("balanced"), of which the following arguments
            say what is to be otherwise.
        out: its folder.
        methods: names or compositions, with settings or without: a list, or
            "erm,mixup(alpha=0.2)".
        seeds: how many, or which.
        settings: of the methods: ``{"alpha": 0.4, "sk_mixup:tau_std": 0.5}``.
        preset: of the protocol: the papers' settings, say.
        workers: runs at a time; each gets its share of the processor.
        engine: where they run; on this machine by default.
        report: told of each cell's events, in this thread: those of :func:`train
            <mixwell.training.train>`, "failed" with its error, "kept" for one that was finished
            before, "elsewhere" for one that another process finished.
        command: the command line, kept in the results.
        results: a CSV file that each run is entered into as it ends. A run that stands there with
            the same configuration, label and seed is not trained again, whichever version of torch
            it was trained with: a study goes on from this file where its folder is gone. Of such a
            run there are measures, no predictions.
        baseline: the label that ``mixwell report`` tests the others against; "erm" without one,
            where it is there, else the first.
        options: of the runs (``data="digits"``, ``epochs=20``), by the fields of
            :class:`RunConfig <mixwell.training.RunConfig>`; one that is given a list varies.

    Raises:
        InputError: something can't work, or the folder holds a study of other settings.
    """
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise InputError(f"workers must be 1 at least, got {workers!r}")
    study = as_study(
        study, methods=methods, seeds=seeds, settings=settings, preset=preset, options=options
    )
    check_baseline(baseline, study.labels())
    cells = study.plan(out)
    return run_cells(
        cells, out, study=study, workers=workers, engine=engine, report=report, command=command,
        results=results, baseline=baseline,
    )  # fmt: skip


def run_cells(
    cells: Sequence[Cell],
    out: str | Path,
    *,
    study: Study | None = None,
    workers: int = 1,
    engine: Engine | None = None,
    report: Report = lambda cell, event: None,
    command: str = "",
    results: str | Path | None = None,
    baseline: str | None = None,
    tick: Callable[[], None] = lambda: None,
) -> list[RunRecord]:
    """Run the cells of :meth:`Study.plan`; see :func:`run_study`.

    ``tick`` is called about once a second, whether runs tell of themselves or not; what it raises
    ends all.
    """
    entered = None if results is None else ResultsFile(results)
    if entered is not None:
        entered.prepare()
        if not (Path(out) / Store.FILE).is_file():  # else it is known below which cells there are
            entered.check(cells)
    read = {file for cell in cells for file in files_of(cell.config.to_dict())}
    for written in REPORT_FILES:
        check_output("out", Path(out) / written, [*read, *([] if results is None else [results])])
    make_folder("out", Path(out))
    store = Store(out, create=True)
    clear_leftovers(Path(out))
    if study is not None:
        cells = extended(store, cells, study.shared, study.vary)
    if entered is not None:
        entered.check(cells)
    store.add(cells)
    store.mend(cells)
    facts = {"command": command, "protocol": "balanced" if study is None else study.protocol}
    if study is not None:
        store.arrange(cells)
        baseline = choose_baseline(study.labels(), baseline)
    if baseline is not None:
        facts["baseline"] = baseline  # so that the report of another day has the same
    store.describe(**facts)
    by_name = {cell.name: cell for cell in cells}
    book = _Book(store, by_name, entered)
    book.take_over()
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
                        book.enter([name])
                        report(cell, {"kind": "kept"})
                        continue
                    running.add(name)
                    chosen.start(cell, command)
                for cell, event in chosen.events(timeout=1.0):
                    if event["kind"] == "ended":
                        running.discard(cell.name)
                    elif event["kind"] != "done":  # that is said once its result is kept
                        report(cell, book.keep(cell, event))
                tick()
                if time.monotonic() - heard > _BEAT:
                    store.still_here(sorted(running))
                    heard = time.monotonic()
                if waiting and not running:
                    waiting = _of_others(store, waiting, by_name, report)
        finally:
            with contextlib.suppress(Exception):
                store.give_back(sorted(running))
    book.close()
    return store.records([cell.name for cell in cells])


class _Book:
    """Where a study's results are entered: its store, and the results file if there is one."""

    def __init__(self, store: Store, cells: dict[str, Cell], file: ResultsFile | None) -> None:
        self.store, self.cells, self.file = store, cells, file
        self.late: list[str] = []  # ended, and the file couldn't be written

    def take_over(self) -> None:
        """Finish the cells that the results file knows and nobody has begun here."""
        if self.file is None:
            return
        status = self.store.status()
        for name, cell in self.cells.items():
            if (
                status[name] == "done" or _finished(cell) is not None
            ):  # what has its files goes first
                continue
            result = self.file.result(cell)
            if result is not None:
                self.store.finish(name, result)
        self.enter([name for name in self.cells if status[name] == "done"])

    def keep(self, cell: Cell, event: dict[str, Any]) -> dict[str, Any]:
        """Keep what a cell's event tells of its end; return what is to be told of it."""
        if event["kind"] == "failed":
            self.store.fail(cell.name, event["error"])
        if event["kind"] != "result":
            return event
        self.store.finish(cell.name, event["result"])
        self.enter([cell.name])
        return {"kind": "done"}

    def enter(self, names: Sequence[str]) -> None:
        """Enter cells that have ended into the results file."""
        if self.file is None:
            return
        self.late += names
        with contextlib.suppress(OSError):  # the next one, or the end, tries again
            self._write()

    def close(self) -> None:
        """Enter what other processes finished, and what is late.

        Raises:
            InputError: the file can't be written.
        """
        if self.file is None:
            return
        self.late = list(self.cells)
        try:
            self._write()
        except OSError as error:
            raise InputError(
                f"results={str(self.file.path)!r} can't be written: {error.strerror}; the results "
                f"are in {self.store.folder}, and the same command enters them"
            ) from error

    def _write(self) -> None:
        assert self.file is not None
        done = [name for name, state in self.store.status().items() if state == "done"]
        names = [name for name in self.late if name in done]
        found = zip(names, self.store.records(names), strict=True)
        self.file.enter([(self.cells[name], record) for name, record in found])
        self.late = []


def _finished(cell: Cell) -> dict[str, Any] | None:
    """Return the result that the cell's folder holds, if it is its own and whole."""
    result = finished_result(cell.folder)
    if result is None or not RunConfig.from_dict(result["config"]).is_same_run(cell.config):
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
