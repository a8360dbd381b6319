"""A recommendation that takes seconds and decides alike each time, killed where it is asked for.

``recommending.py FOLDER MOMENT`` ends by SIGKILL at one of :data:`MOMENTS`. Started with
LD_PRELOAD=faults.so, ``recommending.py JOB`` does a job of ``reliability/crashing.py``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mixwell.errors import InputError
from mixwell.recommend import Recommendation, course, driver, page, planning, recommend
from mixwell.studies.engines import Engine, failure
from mixwell.training import RunConfig
from mixwell.training.run import train

TINY = RunConfig(
    data="diabetes", train_size=60, epochs=4, threads=1, model_options={"width": 16}
)  # fmt: skip
METHODS = ("mixup", "c_mixup", "regmixup", "local_mixup")
SEEDS = 5
STARTED = "started.txt"
"""Beside the recommendation's folder: the runs that were started, in order."""


class InProcess(Engine):
    """Trains cells in this process, one after the other: what ends it ends all."""

    slots = 1

    def __init__(self, started: Path | None = None) -> None:
        self._told: list[Any] = []
        self._started = started

    def start(self, cell: Any, command: str) -> None:
        if self._started is not None:
            with self._started.open("a") as file:
                file.write(f"{cell.folder.parent.name}/{cell.name}\n")
        try:
            result = train(cell.config, cell.folder, command=command, until=cell.until)
            self._told.append((cell, {"kind": "result", "result": result}))
        except InputError as error:
            self._told.append((cell, {"kind": "failed", "error": str(error)}))
        except Exception as error:
            self._told.append((cell, {"kind": "failed", "error": failure(error)}))
        self._told.append((cell, {"kind": "ended"}))

    def events(self, timeout: float) -> Iterator[Any]:
        told, self._told = self._told, []
        yield from told

    def stop(self) -> None:
        pass


def steady(change: Callable[[Any, str, Any], None] = setattr) -> None:
    """Leave nothing to the clock: two rungs, one finalist, and as many seeds as there may be."""

    def costs(configs: Mapping[str, RunConfig], *_: Any, **__: Any) -> Any:
        return planning.Costs(dict.fromkeys(configs, 0.1), 0.5, 0.5, 1, 2.0), {}

    change(course, "measure_costs", costs)
    change(course, "MOST_SEEDS", SEEDS)
    change(planning, "_SHAPES", ((None, 1, 1, SEEDS), (None, 1, 1, SEEDS)))


def recommended(folder: Path, **options: Any) -> Recommendation:
    """Recommend on few samples of diabetes; the options are those of ``recommend``."""
    chosen = {"methods": METHODS, "budget": "1h", "workers": 1, **options}
    engine = options.get("engine", lambda: InProcess(folder.parent / STARTED))
    return recommend(chosen.pop("config", TINY), folder, **{**chosen, "engine": engine})


def decisions(folder: Path) -> dict[str, Any]:
    """Return all that was decided, without what each time has for itself."""
    state = json.loads((folder / "state.json").read_text())
    answer = json.loads((folder / "recommendation.json").read_text())
    kept = ("method", "sentence", "contrasts", "code", "command", "seeds", "candidates", "epochs")
    rungs = [
        {name: rung[name] for name in ("epoch", "seeds", "standings")} for rung in state["rungs"]
    ]
    return {
        "rungs": rungs, "finalists": state["finalists"],
        "blocks": [block["seeds"] for block in state["blocks"]],
        **{name: answer[name] for name in kept},
    }  # fmt: skip


def kill(*_: object) -> None:
    """End this process as if the machine had lost its power."""
    os.kill(os.getpid(), signal.SIGKILL)


def _at(kind: str, count: int, stage: str = "") -> Callable[[dict[str, Any]], None]:
    """Return what kills at an event of a kind, the ``count``-th in a stage."""
    seen = {"stage": "", "count": 0}

    def told(event: dict[str, Any]) -> None:
        if event["kind"] == "stage":
            seen.update(stage=event["stage"], count=0)
        what = event["event"]["kind"] if event["kind"] == "run" else event["kind"]
        if what == kind and seen["stage"].startswith(stage):
            seen["count"] += 1
            if seen["count"] == count:
                kill()

    return told


MOMENTS: dict[str, dict[str, Any]] = {
    "planned": {"report": _at("plan", 1)},
    "in the first rung": {"report": _at("done", 2, "rung 1")},
    "after the first rung": {"report": _at("rung", 1)},
    "in the second rung": {"report": _at("done", 2, "rung 2")},
    "at the final's start": {"report": _at("stage", 1, "final")},
    "in the final": {"report": _at("done", 3, "final")},
    "after the final's first block": {"report": _at("stage", 1, "final, seeds 2")},
    "before the answer": {"report": _at("done", 6, "final, seeds 2")},
    "between answer and report": {"page": kill},
}


def _crash(job: dict[str, Any]) -> dict[str, Any]:
    """Do a job of the harness that kills at a chosen call that changes a file."""
    sys.path.insert(0, str(Path(__file__).parent / "reliability"))
    import crashing

    class Quiet(InProcess):
        def __init__(self, workers: int = 1) -> None:
            super().__init__()

    driver.LocalEngine = Quiet  # type: ignore[misc, assignment]
    of_runs = crashing.state_of

    def state_of(out: Path) -> dict[str, Any]:
        found = {**of_runs(out), "decisions": decisions(out)}
        for name in found:
            if name.endswith(".db"):  # what takes longest, by the clock, is started first
                found[name] = [[row[0], *row[2:]] for row in found[name]]
        return found

    crashing.state_of = state_of
    crashing.COMMANDS["recommend"] = [
        "recommend", *crashing.TINY, "--train-size", "60", "--methods", ",".join(METHODS),
        "--budget", "1h", "--workers", "1",
    ]  # fmt: skip
    return crashing.run({"command": "recommend", **job})


if __name__ == "__main__":
    steady()
    if len(sys.argv) == 2:
        real = os.dup(1)
        os.write(real, json.dumps(_crash(json.loads(sys.argv[1]))).encode())
    else:
        moment = MOMENTS[sys.argv[2]]
        if "page" in moment:
            page.write_page = moment["page"]
        recommended(Path(sys.argv[1]), report=moment.get("report", lambda event: None))
