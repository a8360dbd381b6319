"""Runs commands in forks of a process that is warm, each with a fault at a chosen call.

Started with LD_PRELOAD=faults.so by ``test_crash_points``; what it is asked for comes as JSON, what
it finds goes out as JSON. By itself: ``crashing.py '{"command": "train", ...}'``.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import shutil
import sqlite3
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mixwell.studies.run
from mixwell.cli import main
from mixwell.errors import InputError
from mixwell.studies.engines import Engine, failure
from mixwell.training.run import train

TINY = ["--data", "diabetes", "--epochs", "2", "--threads", "1", "--model-set", "width=16"]
COMMANDS = {
    "train": ["train", *TINY, "--method", "sk_mixup", "--train-size", "60"],
    "compare": ["compare", *TINY, "--methods", "erm,mixup", "--seeds", "2", "--train-size", "60"],
    "tune": ["tune", *TINY, "--method", "mixup", "--trials", "3", "--train-size", "60"],
}
_TIMES = ("seconds", "seconds_per_step", "peak_memory_mb", "command", "sha256")
_FAULTS = ctypes.CDLL(None)


class InProcess(Engine):
    """Runs cells in this process, one after the other: what ends it ends all."""

    slots = 1

    def __init__(self, workers: int = 1) -> None:
        self.told: list[Any] = []

    def start(self, cell: Any, command: str) -> None:
        try:
            result = train(cell.config, cell.folder, command=command)
            self.told.append((cell, {"kind": "result", "result": result}))
        except InputError as error:
            self.told.append((cell, {"kind": "failed", "error": str(error)}))
        except Exception as error:
            self.told.append((cell, {"kind": "failed", "error": failure(error)}))
        self.told.append((cell, {"kind": "ended"}))

    def events(self, timeout: float) -> Iterator[Any]:
        told, self.told = self.told, []
        yield from told

    def stop(self) -> None:
        pass


def forked(arguments: list[str], out: Path, at: int = 0, how: int = 0, lasts: bool = False) -> Any:
    """Run a command in a fork; return its status (None: killed), its calls and its words."""
    words, counted = out.parent / "words", out.parent / "counted"
    child = os.fork()
    if not child:
        status = 99
        try:
            file = os.open(words, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            os.dup2(file, 1)
            os.dup2(file, 2)
            _FAULTS.faults_set(str(out).encode(), ctypes.c_long(at), how, int(lasts))
            status = main([*arguments, "--out", str(out)])
            sys.stdout.flush()
            sys.stderr.flush()
            counted.write_text(str(_FAULTS.faults_count()))
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stderr.flush()
            os._exit(status)
    _, ended = os.waitpid(child, 0)
    status = None if os.WIFSIGNALED(ended) else os.WEXITSTATUS(ended)
    calls = int(counted.read_text()) if status == 0 else 0
    return status, calls, words.read_text(errors="replace")


def _bare(value: Any) -> Any:
    """Return a result without what each run has for itself: times, memory."""
    if isinstance(value, dict):
        return {k: _bare(own) for k, own in value.items() if k not in _TIMES}
    if isinstance(value, list):
        return [_bare(own) for own in value]
    return "NaN" if value != value else value


def state_of(out: Path) -> dict[str, Any]:
    """Return all that a command left, in a form that can be compared."""
    found: dict[str, Any] = {}
    for path in sorted(out.rglob("*")):
        name = str(path.relative_to(out))
        found[name] = None
        if path.name == "result.json":
            found[name] = _bare(json.loads(path.read_text()))
        elif path.name == "predictions.npz":
            with np.load(path) as arrays:
                found[name] = {key: arrays[key].tobytes().hex() for key in arrays.files}
        elif path.name == "model.pt":
            weights = torch.load(path, weights_only=True)
            found[name] = {k: v.numpy().tobytes().hex() for k, v in weights.items()}
        elif path.suffix == ".db":
            found[name] = _rows(path)
    return found


def _rows(path: Path) -> list[Any]:
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute("pragma integrity_check").fetchone() == ("ok",)
        if path.name == "study.db":
            rows = database.execute(
                "select name, place, config, vary, label, status, owner, result, error from cells"
                " order by name"
            ).fetchall()
            return [
                [_bare(json.loads(v)) if str(v).startswith("{") else v for v in row] for row in rows
            ]
        return database.execute(
            "select number, state, param_name, param_value, value from trials left join"
            " trial_params using (trial_id) left join trial_values using (trial_id)"
            " order by number, param_name"
        ).fetchall()


def difference(found: Any, wanted: Any, name: str = "") -> str:
    """Return the first difference of two states in words; empty where there is none."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        if found.keys() != wanted.keys():
            return f"{name}: {sorted(found.keys() ^ wanted.keys())} in one alone"
        both = [(found[key], wanted[key], f"{name}/{key}") for key in found]
    elif isinstance(found, list) and isinstance(wanted, list) and len(found) == len(wanted):
        both = [(a, b, f"{name}[{i}]") for i, (a, b) in enumerate(zip(found, wanted, strict=True))]
    else:
        return "" if found == wanted else f"{name}: {str(found)[:80]} is not {str(wanted)[:80]}"
    return next((said for pair in both if (said := difference(*pair))), "")


def judged(arguments: list[str], out: Path, wanted: Any, at: int, how: str, lasts: bool) -> str:
    """Run with a fault, then without; return what is wrong, or an empty text."""
    shutil.rmtree(out, ignore_errors=True)
    code = -1 if how == "kill" else getattr(errno, how)
    status, _, words = forked(arguments, out, at, code, lasts)
    told = [line for line in words.splitlines() if "error:" in line or line.startswith("failed:")]
    if how == "kill" and status is not None:
        return f"was not killed: {status}: {words[-300:]}"
    if how != "kill" and (status not in (0, 1, 2) or "Traceback" in words):
        return f"status {status}: {words[-1500:]}"
    if status and not told:
        return f"status {status} without a word: {words[-300:]}"
    if status == 0 and (said := difference(state_of(out), wanted)):
        return f"status 0, but {said}"
    status, _, words = forked(arguments, out)
    if status != 0:
        return f"repeated, it ended with status {status}: {words[-1500:]}"
    if "damaged" in words:
        return f"repeated, it found damage: {words[-500:]}"
    return difference(state_of(out), wanted)


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Do a job: a command, the kinds of fault, every how manieth call, and the first of them."""
    mixwell.studies.run.LocalEngine = InProcess  # type: ignore[misc, assignment]
    arguments, folder = COMMANDS[job["command"]], Path(job["folder"])
    warm = folder / "warm"
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        assert main([*arguments, "--out", str(warm)]) == 0
    out = folder / "out"
    started = time.monotonic()
    status, calls, words = forked(arguments, out)
    assert status == 0, words
    took = time.monotonic() - started
    wanted = state_of(out)
    wrong, tried = [], 0
    for how in job["kinds"]:
        name, _, lasting = how.partition("+")
        for at in range(1 + job.get("first", 0), calls + 1, job.get("stride", 1)):
            if time.monotonic() - started > job.get("limit", 1e9):
                return {"calls": calls, "tried": tried, "wrong": wrong, "out of time": True}
            tried += 1
            said = judged(arguments, out, wanted, at, name, bool(lasting))
            if said:
                wrong.append(f"{how} at {at} of {calls}: {said}")
    return {"calls": calls, "tried": tried, "wrong": wrong, "seconds a run": round(took, 3)}


if __name__ == "__main__":
    real = os.dup(1)
    answer = json.dumps(run(json.loads(sys.argv[1])))
    os.write(real, answer.encode())
