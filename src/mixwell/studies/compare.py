"""Methods x seeds on one data set, each run in a process of its own."""

from __future__ import annotations

import contextlib
import multiprocessing
import queue
import signal
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from mixwell.errors import InputError
from mixwell.methods import accepts
from mixwell.studies.records import RunRecord, load_records
from mixwell.training.config import RunConfig
from mixwell.training.files import make_folder, read_json, write_json
from mixwell.training.run import is_finished, train

__all__ = ["Cell", "compare", "plan"]


@dataclass(frozen=True)
class Cell:
    """One run of a comparison: its configuration and its folder."""

    config: RunConfig
    folder: Path

    @property
    def name(self) -> str:
        """What it is called while it runs."""
        return f"{self.config.label} seed {self.config.seed}"


def plan(
    base: RunConfig,
    methods: Sequence[str],
    seeds: Sequence[int],
    out: str | Path,
    settings: Mapping[str, Any] | None = None,
) -> list[Cell]:
    """Return the cells of a comparison, seed by seed, after checking all that can be checked.

    Args:
        base: what all runs share.
        methods: names, or compositions.
        seeds: one run of each method for each.
        out: the folder that gets a sub-folder for each run.
        settings: of the methods; each goes to the methods that know it, ``METHOD:setting`` to one.

    Raises:
        InputError: a method, a setting, the data or a folder can't work.
    """
    if not methods or not seeds:
        raise InputError("methods and seeds must each name one at least")
    for name, values in (("methods", methods), ("seeds", seeds)):
        if len(set(values)) < len(values):
            raise InputError(f"{name} names one twice: {', '.join(map(str, values))}")
    options: dict[str, dict[str, Any]] = {method: {} for method in methods}
    for key, value in (settings or {}).items():
        owner, _, setting = key.rpartition(":")
        if owner and owner not in options:
            raise InputError(f"set {key}: {owner!r} is not among the methods {', '.join(methods)}")
        bare = setting.rpartition("__")[2]
        takers = [owner] if owner else [m for m in methods if accepts(m, bare)]
        if not takers:
            raise InputError(f"set {key}: none of {', '.join(methods)} has this setting")
        for method in takers:
            options[method][setting] = value
    root = Path(out)
    make_folder("out", root)
    cells = []
    for seed in seeds:
        for method in methods:
            config = replace(
                base, method=method, seed=seed,
                method_options={**base.method_options, **options[method]},
            )  # fmt: skip
            cells.append(Cell(config, root / f"{method}-seed{seed}"))
    dataset = cells[0].config.load_data()
    cells = [Cell(cell.config.resolved(dataset), cell.folder) for cell in cells]
    cells[0].config.build_model(dataset)
    for cell in cells[: len(methods)]:
        cell.config.build_method(dataset)
    for cell in cells:
        if (cell.folder / "config.json").exists():
            before = RunConfig.from_dict(read_json(cell.folder / "config.json"))
            if before.fingerprint != cell.config.fingerprint:
                raise InputError(
                    f"out={str(root)!r} holds runs of other settings ({cell.folder.name}); choose "
                    "another folder or delete it"
                )
    return cells


def compare(
    cells: Sequence[Cell],
    *,
    workers: int = 1,
    report: Callable[[Cell, dict[str, Any]], None] = lambda cell, event: None,
    command: str = "",
) -> list[RunRecord]:
    """Run the cells that are not finished; return the records of all.

    Each run has a process of its own, so that its memory is its own and its failure harms no
    other. A run that fails is recorded with its error.

    Args:
        cells: from :func:`plan`.
        workers: runs at a time.
        report: told of each cell's events, in this thread: those of :func:`train
            <mixwell.training.train>`, "failed" with its error, and "kept" for one finished before.
        command: the command line, kept in the results.
    """
    waiting = []
    for cell in cells:
        if is_finished(cell.folder):
            report(cell, {"kind": "kept"})
        else:
            waiting.append(cell)
    context = multiprocessing.get_context("forkserver")
    # Imported once, in a server that each run is forked from: a run starts in no time.
    context.set_forkserver_preload(["mixwell.training.run", "lightning.fabric", "sklearn.datasets"])
    events: queue.Queue[tuple[Cell, dict[str, Any]]] = queue.Queue()
    running: dict[str, BaseProcess] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                cell = waiting.pop(0)
                ours, theirs = context.Pipe(duplex=False)
                arguments = (theirs, cell.config, cell.folder, command)
                process: BaseProcess = context.Process(target=_run, args=arguments)
                process.start()
                theirs.close()
                running[cell.name] = process
                threading.Thread(
                    target=_listen, args=(ours, process, cell, events), daemon=True
                ).start()
            cell, event = events.get()
            if event["kind"] == "ended":
                running.pop(cell.name)
            elif event["kind"] == "failed":
                make_folder("out", cell.folder)
                failure = {"error": event["error"], "config": cell.config.to_dict()}
                write_json(cell.folder / "error.json", failure)
                report(cell, event)
            else:
                report(cell, event)
    finally:
        for process in running.values():
            process.terminate()
            process.join()
    return load_records(cell.folder for cell in cells)


def _listen(
    pipe: Connection,
    process: BaseProcess,
    cell: Cell,
    events: queue.Queue[tuple[Cell, dict[str, Any]]],
) -> None:
    """Pass on what a run tells, and how it ended."""
    told = False
    with contextlib.suppress(EOFError, OSError):
        while True:
            event = pipe.recv()
            told = told or event["kind"] in ("failed", "done")
            events.put((cell, event))
    process.join()
    if not told:
        code = process.exitcode or 0
        cause = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        events.put((cell, {"kind": "failed", "error": f"its process ended by {cause}"}))
    events.put((cell, {"kind": "ended"}))


def _run(pipe: Connection, config: RunConfig, folder: Path, command: str) -> None:
    """Train one cell, telling the parent; end when the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    last = 0.0

    def report(event: dict[str, Any]) -> None:
        nonlocal last
        now = time.monotonic()
        if event["kind"] == "step" and now - last < 0.2:
            return
        last = now
        try:
            pipe.send(event)
        except OSError:
            raise SystemExit(1) from None

    try:
        train(config, folder, report=report, command=command)
        (folder / "error.json").unlink(missing_ok=True)
    except InputError as error:
        report({"kind": "failed", "error": str(error)})
    except Exception:
        report({"kind": "failed", "error": traceback.format_exc()})
