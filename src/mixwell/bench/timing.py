"""Timing that a busy machine tilts as little as can be.

Every repeat goes once through all contenders, in a new random order, and a contender's ratio is
taken within each repeat: what slows the machine for a while slows all of them alike.
"""

from __future__ import annotations

import gc
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

__all__ = ["Contender", "Timing", "measure", "ratios", "reason", "spread", "stopwatch"]

Stopwatch = Callable[[Callable[[], object], int], float]
"""Calls a function so many times and returns the seconds that all calls took."""

_MOST_CALLS = 1_000_000


@dataclass
class Contender:
    """What is timed, or why it can't be.

    Attributes:
        name: what tables call it; unique within a case.
        run: one call of it; None where it can't run.
        kind: "floor" (what the others are divided by), "mixwell", "peer" or "reference".
        absent: why it can't run ("not installed"); empty where it can.
        traits: what a table says beside the time: column to text.
    """

    name: str
    run: Callable[[], object] | None = None
    kind: str = "reference"
    absent: str = ""
    traits: dict[str, str] = field(default_factory=dict)


@dataclass
class Timing:
    """A contender's samples.

    Attributes:
        seconds: of one call, one sample for each repeat.
        calls: how many calls a sample holds.
        failure: why there are none; empty if there are.
    """

    seconds: list[float] = field(default_factory=list)
    calls: int = 0
    failure: str = ""


def stopwatch(device: torch.device) -> Stopwatch:
    """Return the stopwatch for a device: events on a GPU, the performance counter elsewhere."""
    if device.type != "cuda":
        return _clocked

    def by_events(run: Callable[[], object], calls: int) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(device)
        begin.record()
        for _ in range(calls):
            run()
        end.record()
        torch.cuda.synchronize(device)
        return float(begin.elapsed_time(end)) / 1000

    return by_events


def _clocked(
    run: Callable[[], object], calls: int, clock: Callable[[], float] = time.perf_counter
) -> float:
    begin = clock()
    for _ in range(calls):
        run()
    return clock() - begin


def measure(
    contenders: Sequence[Contender],
    repeats: int,
    *,
    watch: Stopwatch = _clocked,
    warmup: int = 2,
    least: float = 0.005,
    seed: int = 0,
) -> dict[str, Timing]:
    """Time all contenders, interleaved.

    Args:
        contenders: with names of their own.
        repeats: samples of each; every repeat goes once through all, in a new random order.
        watch: times some calls.
        warmup: calls before anything is timed.
        least: seconds that a sample should last; so many calls make one up.
        seed: of the orders.

    Returns:
        The timing of each contender by name. One that raises is reported, and stops no other.
    """
    found = {contender.name: Timing(failure=contender.absent) for contender in contenders}
    if len(found) < len(contenders):
        raise ValueError("two contenders have the same name")
    ready: list[tuple[Timing, Callable[[], object]]] = []
    order = random.Random(seed)
    with _without_collector() as collect:
        for contender in contenders:
            timing = found[contender.name]
            if contender.run is None:
                timing.failure = timing.failure or "can't run here"
                continue
            try:
                for _ in range(warmup):
                    contender.run()
                timing.calls = _calls(contender.run, watch, least)
            except Exception as error:  # of any kind: it may be another package's code
                timing.failure = reason(error)
            else:
                ready.append((timing, contender.run))
            collect()
        for _ in range(repeats):
            order.shuffle(ready)
            for timing, run in ready:
                timing.seconds.append(watch(run, timing.calls) / timing.calls)
            collect()
    return found


def _calls(run: Callable[[], object], watch: Stopwatch, least: float) -> int:
    """Return how many calls last ``least`` seconds."""
    calls = 1
    while True:
        seconds = watch(run, calls)
        if seconds >= least or calls >= _MOST_CALLS:
            return calls
        # A little more than is needed, and never more than tenfold: the first calls are slow.
        wanted = math.ceil(1.1 * calls * least / max(seconds, 1e-9))
        calls = min(max(wanted, calls + 1), 10 * calls, _MOST_CALLS)


@contextmanager
def _without_collector() -> Iterator[Callable[[], Any]]:
    """Keep the garbage collector from running; give what runs it between samples."""
    enabled = gc.isenabled()
    gc.collect()
    gc.freeze()  # what was there before need not be looked at each time
    gc.disable()
    try:
        yield gc.collect
    finally:
        gc.unfreeze()
        if enabled:
            gc.enable()


def reason(error: BaseException) -> str:
    """Return an error's first line, short enough for a table."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return text if len(text) <= 160 else text[:159] + "…"


def ratios(timing: Timing, base: Timing) -> list[float]:
    """Return how many times longer than ``base`` it took, in each repeat."""
    return [own / other for own, other in zip(timing.seconds, base.seconds, strict=True)]


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the lower quartile, the median and the upper quartile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high
