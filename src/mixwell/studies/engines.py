"""Where the cells of a study run: processes of this machine, or tasks of a Ray cluster."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.resource_tracker
import os
import pickle
import queue
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from mixwell import plugins
from mixwell.errors import InputError, Note, explained
from mixwell.metrics.measures import Measure, adopt, outside
from mixwell.studies.store import Cell
from mixwell.training.config import RunConfig
from mixwell.training.files import make_folder, write_atomically
from mixwell.training.run import train

__all__ = ["Engine", "LocalEngine", "RayEngine"]

Event = tuple[Cell, dict[str, Any]]


MACHINE = "the machine failed: "
"""How the error of a run begins that can't be blamed on its settings."""


def failure(error: Exception) -> str:
    """Return what a study keeps of a run's error: a sentence, or the traceback of the unforeseen.

    To be called where it was caught.
    """
    cause = explained(error)
    return traceback.format_exc() if cause is None else MACHINE + cause


def fair_threads(workers: int) -> int:
    """Return the threads that each of ``workers`` processes gets of this machine."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        cores = os.cpu_count() or 1
    return max(1, cores // workers)


class Engine(ABC):
    """What runs cells, and tells of them.

    Its events are those of :func:`train <mixwell.training.train>`, and "result" with the cell's
    result, or "failed" with its error; then "ended".

    Attributes:
        slots: how many cells run at a time.
    """

    slots: int

    @abstractmethod
    def start(self, cell: Cell, command: str) -> None:
        """Start a cell; ``command`` is kept in its result."""

    @abstractmethod
    def events(self, timeout: float) -> Iterator[Event]:
        """Return what has happened since the last call, after waiting for it ``timeout`` s."""

    @abstractmethod
    def stop(self) -> None:
        """End all that still runs."""

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


# ------------------------------------------------------------------------------- this machine


def starter() -> Any:
    """Return the context of multiprocessing that starts a process soonest."""
    if "forkserver" not in multiprocessing.get_all_start_methods():  # on Windows
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # Imported once, in a server that each process is forked from: it starts in no time.
    context.set_forkserver_preload(["mixwell.training.run", "lightning.fabric", "sklearn.datasets"])
    return context


class LocalEngine(Engine):
    """A process for each cell, so that its memory is its own and its failure harms no other.

    Args:
        workers: processes at a time; each gets its share of the processor, unless the cells'
            configuration says how many threads.
    """

    def __init__(self, workers: int = 1) -> None:
        self.slots = workers
        self._queue: queue.Queue[Event] = queue.Queue()
        self._running: dict[str, tuple[BaseProcess, Connection]] = {}
        self._context = starter()

    def start(self, cell: Cell, command: str) -> None:
        with _without_interrupts():
            self._start(cell, command)

    def _start(self, cell: Cell, command: str) -> None:
        ours, theirs = self._context.Pipe(duplex=False)
        # The run holds one end of this and waits for the other to close: then we are gone.
        their_life, our_life = self._context.Pipe(duplex=False)
        config = cell.config
        if config.threads is None:
            config = replace(config, threads=fair_threads(self.slots))
        own = _portable(_measures())
        arguments = (theirs, their_life, config, cell.folder, command, own, cell.until)
        process: BaseProcess = self._context.Process(target=_run, args=arguments)
        process.start()
        theirs.close()
        their_life.close()
        self._running[cell.name] = (process, our_life)
        threading.Thread(target=self._listen, args=(ours, process, cell), daemon=True).start()

    def _listen(self, pipe: Connection, process: BaseProcess, cell: Cell) -> None:
        """Pass on what a run tells, and how it ended."""
        told = False
        with contextlib.suppress(EOFError, OSError):
            while True:
                event = pipe.recv()
                told = told or event["kind"] in ("failed", "result")
                self._queue.put((cell, event))
        process.join()
        if not told:
            code = process.exitcode or 0
            cause = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            error = f"its process ended by {cause}; see {cell.folder / 'log.txt'}"
            self._queue.put((cell, {"kind": "failed", "error": error}))
        self._queue.put((cell, {"kind": "ended"}))

    def events(self, timeout: float) -> Iterator[Event]:
        try:
            event = self._queue.get(timeout=timeout)
            while True:
                if event[1]["kind"] == "ended":
                    self._running.pop(event[0].name)[1].close()
                yield event
                event = self._queue.get_nowait()
        except queue.Empty:
            return

    def stop(self) -> None:
        for process, life in self._running.values():
            process.terminate()
            process.join()
            life.close()
        self._running.clear()


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Start processes that Ctrl-C doesn't reach, from their first moment on: it is ours."""
    multiprocessing.resource_tracker.ensure_running()  # started later, it would lift the mask
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _measures() -> list[Measure]:
    """Return the measures from outside that a run's own imports don't bring."""
    brought = plugins.measures()
    return [measure for measure in outside() if measure.name not in brought]


def _portable(measures: list[Measure]) -> list[Measure]:
    """Return measures that another process can be handed, or raise and name the one that can't."""
    for measure in measures:
        try:
            pickle.dumps(measure)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise InputError(
                f"measure {measure.name!r} can't be handed to the runs' processes: {error}; let "
                "compute be a function at the top of a module"
            ) from error
    return measures


def _run(
    pipe: Connection, parent: Connection, config: RunConfig, folder: Path, command: str,
    measures: list[Measure], until: int | None,
) -> None:  # fmt: skip
    """Train one cell, telling the parent; end when the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where there is no mask to inherit
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
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
        make_folder("out", folder)
        _log_to(folder / "log.txt")
        _tell_warnings(report)
        adopt(measures)
        result = train(config, folder, report=report, command=command, wait=30.0, until=until)
        report({"kind": "result", "result": result})
    except InputError as error:
        report({"kind": "failed", "error": str(error)})
    except Exception as error:
        traceback.print_exc()  # into the log
        report({"kind": "failed", "error": failure(error)})


def _tell_warnings(report: Callable[[dict[str, Any]], None]) -> None:
    """Let what a user should know be told where the study runs, too, not only in the log."""
    write = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        write(message, category, *where, **more)
        if category is Note:
            report({"kind": "note", "text": str(message)})

    warnings.showwarning = show


def _end_with(parent: Connection) -> None:
    """End this process as soon as its parent is gone, however that came about."""
    with contextlib.suppress(EOFError, OSError):
        parent.recv()
    os._exit(1)


def _log_to(path: Path) -> None:
    """Let all that this process and its libraries write go to a file, after what is there."""
    sys.stdout.flush()
    sys.stderr.flush()
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.close(file)
    print(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} process {os.getpid()}", flush=True)


# --------------------------------------------------------------------------------------- Ray


class RayEngine(Engine):
    """A task of a Ray cluster for each cell.

    A running cluster is joined (``address``, or RAY_ADDRESS); without one a cluster of this
    machine alone is started. A cell whose node is lost goes to another node. Where the study's
    folder is shared between the nodes, it goes on from its checkpoint there, else from the start;
    the files that it leaves come back to the study's folder either way.

    Args:
        address: of the cluster: "auto" for the one that this machine belongs to.
        threads: processors that each cell takes.
        gpus: GPUs that each cell takes, or shares of one.

    Raises:
        InputError: Ray is not installed, or there is no cluster at the address.
    """

    def __init__(self, address: str | None = None, threads: int = 1, gpus: float = 0.0) -> None:
        try:
            import ray
        except ImportError as error:
            raise InputError("engine='ray' needs Ray: pip install 'mixwell[ray]'") from error
        host, _, port = (address or os.environ.get("RAY_ADDRESS") or "").rpartition(":")
        if port.isdigit():
            try:  # Ray itself would try for minutes
                socket.create_connection((host, int(port)), timeout=10).close()
            except OSError as error:
                raise InputError(f"engine='ray': no cluster at {address!r}: {error}") from error
        self._ray = ray
        self._began = not ray.is_initialized()
        if self._began:
            try:
                ray.init(
                    address=address or os.environ.get("RAY_ADDRESS"), log_to_driver=False,
                    configure_logging=False,
                )  # fmt: skip
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise InputError(f"engine='ray': no cluster at {address!r}: {error}") from error
        self._threads, self._gpus = threads, gpus
        self._task = ray.remote(_run_remotely).options(
            num_cpus=threads, num_gpus=gpus, max_retries=3, retry_exceptions=False
        )
        self._events: Any = ray.remote(_Mailbox).options(num_cpus=0, max_restarts=-1).remote()
        self._running: dict[Any, Cell] = {}

    @property
    def slots(self) -> int:  # type: ignore[override]
        """As many as the cluster has room for, and one that waits for a node to come."""
        resources = self._ray.cluster_resources()
        room = int(resources.get("CPU", 0) // self._threads)
        if self._gpus:
            room = min(room, int(resources.get("GPU", 0) // self._gpus))
        return room + 1

    def start(self, cell: Cell, command: str) -> None:
        config = replace(cell.config, threads=cell.config.threads or self._threads)
        task = self._task.remote(
            config.to_dict(), str(cell.folder.resolve()), command, self._events, cell.name,
            _measures(), cell.until, _checkpoint(cell),
        )  # fmt: skip
        self._running[task] = cell

    def events(self, timeout: float) -> Iterator[Event]:
        ray = self._ray
        if not self._running:
            time.sleep(timeout)
            return
        ready, _ = ray.wait(list(self._running), timeout=timeout, num_returns=1, fetch_local=False)
        by_name = {cell.name: cell for cell in self._running.values()}
        with contextlib.suppress(ray.exceptions.RayError):
            for name, event in ray.get(self._events.take.remote(), timeout=10):
                if name in by_name:
                    yield by_name[name], event
        for task in ready:
            cell = self._running.pop(task)
            try:
                outcome = ray.get(task)
            except ray.exceptions.RayError as error:
                outcome = {"error": f"Ray lost it: {error}"}
            if "error" in outcome:
                yield cell, {"kind": "failed", "error": outcome["error"]}
            else:
                _bring_home(cell.folder, outcome["files"])
                yield cell, {"kind": "result", "result": outcome["result"]}
            yield cell, {"kind": "ended"}

    def stop(self) -> None:
        for task in self._running:
            with contextlib.suppress(self._ray.exceptions.RayError):
                self._ray.cancel(task, force=True)
        self._running.clear()
        with contextlib.suppress(Exception):
            self._ray.kill(self._events)
        if self._began:
            self._ray.shutdown()


class _Mailbox:
    """Where remote runs leave what they tell."""

    def __init__(self) -> None:
        self._events: list[tuple[str, dict[str, Any]]] = []

    def put(self, name: str, event: dict[str, Any]) -> None:
        self._events.append((name, event))

    def take(self) -> list[tuple[str, dict[str, Any]]]:
        events, self._events = self._events, []
        return events


_CHECKPOINT = "checkpoint.pt"
_FILES = (
    "predictions.npz", "model.pt", "config.json", "log.txt", _CHECKPOINT, "result.json",
)  # fmt: skip
# The last last: what has it is finished.


def _checkpoint(cell: Cell) -> bytes | None:
    """Return the checkpoint that a run of several cells goes on from, for a node without it."""
    path = cell.folder / _CHECKPOINT
    return path.read_bytes() if cell.until is not None and path.is_file() else None


def _run_remotely(
    config: dict[str, Any], folder: str, command: str, mailbox: Any, name: str,
    measures: Sequence[Measure] = (), until: int | None = None, checkpoint: bytes | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train one cell on a node; return its result and files, or its error."""
    last = 0.0

    def report(event: dict[str, Any]) -> None:
        nonlocal last
        now = time.monotonic()
        if event["kind"] != "step" or now - last > 1.0:
            last = now
            mailbox.put.remote(name, event)

    shared = Path(folder)
    # The study's folder is shared where its database can be seen from here.
    is_shared = (shared.parent / "study.db").is_file()
    with contextlib.ExitStack() as stack:
        own = shared if is_shared else Path(stack.enter_context(tempfile.TemporaryDirectory()))
        try:
            own.mkdir(parents=True, exist_ok=True)
            adopt(measures)
            if checkpoint is not None and not is_shared:
                (own / _CHECKPOINT).write_bytes(checkpoint)
            result = train(
                RunConfig.from_dict(config), own, report=report, command=command, wait=60.0,
                until=until,
            )  # fmt: skip
        except InputError as error:
            return {"error": str(error)}
        except Exception as error:
            return {"error": failure(error)}
        files = {} if is_shared else {
            entry: (own / entry).read_bytes() for entry in _FILES if (own / entry).is_file()
        }  # fmt: skip
        return {"result": result, "files": files}


def _bring_home(folder: Path, files: dict[str, bytes]) -> None:
    """Write a remote run's files where a local one's would lie."""
    if files:
        make_folder("out", folder)
    for name in _FILES:
        if name in files and not (name == "result.json" and (folder / name).exists()):
            write_atomically(folder / name, files[name])
