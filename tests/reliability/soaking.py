"""Long training, watched: memory, objects, files, threads, hooks and the time of a step.

By itself, ``soaking.py --steps 20000 --epochs 200`` prints what it saw, a line of JSON each.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

import mixwell
from mixwell.training import RunConfig, train

METHODS: dict[str, dict[str, Any]] = {
    "sk_mixup": {"distance": "remembered", "capacity": 64},  # a memory of features
    "am_mixup": {"pairs": "centres"},  # hooks at the head, running means
    "infinite_class": {},
    "regmixup+am_mixup": {},  # rows added inside, the head's facts remembered
    "manifold_mixup": {},  # layers drawn, hooks and what is known of them
    "puzzlemix": {},  # a gradient of its own each step
    "automix": {},  # a copy of the model and an optimizer
    "attentivemix": {},
}
SAMPLES = 40
"""How often it is looked at."""

MEMORY_MB = 8.0
OBJECTS = 100
TIME = 1.35
"""The most by which memory and living objects may grow from the second quarter to the last, and the
last third's median time of a step over the first's. Each step is measured in plain ones right after
it: what else the machine does slows both."""


class Watch:
    """What a process holds, looked at now and then."""

    def __init__(self, model: nn.Module | None = None) -> None:
        self.model = model
        self.seen: list[dict[str, float]] = []
        self.times: list[float] = []
        self.wall: list[float] = []
        self.plain: list[float] = []
        self._net = network()
        self._x, self._y = torch.rand(8, 1, 8, 8), torch.arange(8) % 4

    def compare(self) -> None:
        """Note the time of a step without any method."""
        began = time.process_time()
        nn.functional.cross_entropy(self._net(self._x), self._y).backward()
        self.plain.append(time.process_time() - began)

    def look(self) -> None:
        """Note what there is."""
        gc.collect()
        here: dict[str, float] = {"objects": len(gc.get_objects()), "memory": _memory()}
        here["files"] = len(os.listdir("/proc/self/fd"))
        here["threads"] = threading.active_count()
        here["tasks"] = len(os.listdir("/proc/self/task"))
        if self.model is not None:
            here["hooks"] = sum(
                len(hooks)
                for module in self.model.modules()
                for hooks in (
                    module._forward_hooks, module._forward_pre_hooks, module._backward_hooks,
                    module._backward_pre_hooks,
                )
            )  # fmt: skip
        self.seen.append(here)

    def grown(self, what: str) -> float:
        """Return by how much the median of the last quarter is above the second quarter's."""
        values = [here[what] for here in self.seen]
        quarter = max(len(values) // 4, 1)
        before, last = values[quarter : 2 * quarter], values[-quarter:]
        return statistics.median(last) - statistics.median(before or values[:1])

    def report(self) -> dict[str, float]:
        """Return what changed, and a step's median time at first and last, in ms and plain ones.

        First and last are thirds: of a tenth of some hundred steps the median is chance.
        """
        found = {what: round(self.grown(what), 3) for what in self.seen[0]}
        each = len(self.plain) // len(self.times)
        plain = [
            statistics.median(self.plain[each * i : each * (i + 1)]) for i in range(len(self.times))
        ]
        in_plain = [time / own for time, own in zip(self.times, plain, strict=True)]
        third = max(len(self.times) // 3, 1)
        for name, values, unit in (
            ("cpu", self.times, 1e3), ("wall", self.wall, 1e3), ("in plain steps", in_plain, 1.0),
        ):  # fmt: skip
            found[f"{name} first"] = round(unit * statistics.median(values[:third]), 3)
            found[f"{name} last"] = round(unit * statistics.median(values[-third:]), 3)
        return found


def faults(report: dict[str, float]) -> list[str]:
    """Return what of a report is not flat."""
    most = {"objects": OBJECTS, "memory": MEMORY_MB}
    rising = [
        f"{what} grew by {report[what]}"
        for what in ("objects", "memory", "files", "threads", "tasks", "hooks")
        if report.get(what, 0) > most.get(what, 0)
    ]
    first, last = (report[f"in plain steps {when}"] for when in ("first", "last"))
    if last > TIME * first:
        rising.append(f"a step took {first:.2f} plain ones, and {last:.2f} at last")
    return rising


def _memory() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(6, 4),
    )  # fmt: skip


def soak_steps(name: str, steps: int, seconds: float = 1e9) -> dict[str, float]:
    """Train in a plain loop; return what changed between its beginning and its end."""
    torch.manual_seed(0)
    model = network()
    method = mixwell.create(name, num_classes=4, **METHODS[name])
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    x, y = torch.rand(64, 1, 8, 8), torch.randint(4, (64,))
    watch = Watch(model)
    every, step = max(steps // SAMPLES, 1), 0
    with set_aside():
        started = time.monotonic()
        while step < steps and time.monotonic() - started < seconds:
            method.set_progress(step / steps)
            index = torch.randint(64, (8 - step % 2,))  # of the sizes that an epoch has
            began, wall = time.process_time(), time.perf_counter()
            optimizer.zero_grad()
            method(model, x[index], y[index], index=index).backward()
            optimizer.step()
            watch.times.append(time.process_time() - began)
            watch.wall.append(time.perf_counter() - wall)
            watch.compare()
            step += 1
            if step % every == 0:
                watch.look()
        if not watch.seen:  # the time was up before
            watch.look()
    return {"steps": step, **watch.report()}


@contextmanager
def set_aside() -> Iterator[None]:
    """Count what is new alone: a process of many tests holds a million objects.

    And it holds memory that is free, which goes back: what is left behind would be put into it, and
    the process would not grow.
    """
    gc.collect()
    gc.freeze()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of the GNU C library
    if trim is not None:
        trim(0)
    try:
        yield
    finally:
        gc.unfreeze()


def soak_epochs(method: str, epochs: int, folder: Path, size: int = 200) -> dict[str, float]:
    """Train a run of so many epochs on the digits; return what changed between its epochs."""
    watch = Watch()
    began = [time.process_time(), time.perf_counter()]

    def note(event: dict[str, Any]) -> None:
        if event["kind"] == "epoch":
            now = [time.process_time(), time.perf_counter()]
            watch.times.append(now[0] - began[0])
            watch.wall.append(now[1] - began[1])
            for _ in range(20):
                watch.compare()
            watch.look()
            began[:] = time.process_time(), time.perf_counter()

    config = RunConfig(method=method, train_size=size, epochs=epochs, threads=1)
    with set_aside():
        train(config, folder, report=note)
    return {"epochs": len(watch.times), **watch.report()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20000)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--methods", default=",".join(METHODS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.methods.split(",") if options.steps else ():
        found = soak_steps(name, options.steps)
        print(json.dumps({"method": name, **found, "not flat": faults(found)}), flush=True)
    for name in ("sk_mixup", "regmixup+am_mixup") if options.epochs else ():
        with tempfile.TemporaryDirectory() as folder:
            found = soak_epochs(name, options.epochs, Path(folder) / "run")
        print(json.dumps({"method": name, **found, "not flat": faults(found)}), flush=True)
