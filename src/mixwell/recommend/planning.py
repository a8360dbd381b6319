"""What fits into a budget: how long runs are, the rungs of the race, and the seeds of the final."""

from __future__ import annotations

import heapq
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from mixwell.errors import InputError
from mixwell.recommend.race import Rung

__all__ = ["MOST_SEEDS", "Costs", "Plan", "in_words", "make_plan", "seconds_of", "thinned"]

LEAST_SEEDS = 5
"""Of the final: with fewer an interval says next to nothing."""
MOST_SEEDS = 40
"""Of the final: with more, what is left of a difference is too small to matter."""
RACE_SEED = 1000
"""The first seed of the race: the final's, from 0 on, take no part in choosing the finalists."""

_AIM = 0.97  # of the budget; the rest is what estimates may be wrong by
_LAST = 1.02  # where the final's own runs have told what the next take
_MOST = 0.2  # of the budget, for the report

# Candidates (None: all), seeds of the race, finalists, seeds of the final; the richest first.
_SHAPES: tuple[tuple[int | None, int, int, int], ...] = (
    (None, 3, 3, 12), (None, 2, 3, 10), (None, 2, 2, 8), (None, 1, 2, 8), (10, 1, 2, 7),
    (7, 1, 2, 6), (7, 1, 1, 6), (4, 1, 1, LEAST_SEEDS),
)  # fmt: skip
_LENGTHS = (1.0, 0.7, 0.5, 0.35, 0.25, 0.17, 0.12)  # of the usual number of epochs


@dataclass(frozen=True)
class Costs:
    """What runs take, in seconds.

    Attributes:
        epoch: an epoch of each method, with its validation.
        start: of a process, before its first step.
        finish: measuring at the end.
        workers: runs at a time.
        report: of the page, once all is done.
    """

    epoch: Mapping[str, float]
    start: float
    finish: float
    workers: int
    report: float = 0.0

    def available(self, budget: float, last: bool = False) -> float:
        """Return the seconds of a budget that training may take.

        Args:
            budget: seconds in all.
            last: what is asked for is a small part of it, and known by what the like of it took.
        """
        return (_LAST if last else _AIM) * budget - self.closing(budget)

    def closing(self, budget: float) -> float:
        """Return the seconds of a budget that are kept for the report."""
        return min(self.report, _MOST * budget)

    def rung(self, labels: Sequence[str], seeds: int, epochs: int) -> float:
        """Return what it takes to train each method so many epochs further."""
        each = [self.start + epochs * self.epoch[label] for label in labels]
        return _makespan(each * seeds, self.workers)

    def final(self, labels: Sequence[str], seeds: int, epochs: int) -> float:
        """Return what it takes to train each method from the start, and to measure it."""
        each = [self.start + epochs * self.epoch[label] + self.finish for label in labels]
        return _makespan(each * seeds, self.workers)

    def learned(
        self, runs: Sequence[tuple[str, float]], epochs: int, took: float, *, whole: bool
    ) -> Costs:
        """Return the costs after a stage of which it is known what it took.

        What a run takes beside its epochs is what explains the time of the stage. By how much the
        stage was slower than expected, by that is all slower which it tells nothing of.

        Args:
            runs: of the stage: the method, and the seconds of its epochs.
            epochs: that each was trained in it.
            took: seconds of the stage.
            whole: whether its runs were measured at the end.
        """
        own: dict[str, list[float]] = {}
        for label, seconds in runs:
            own.setdefault(label, []).append(seconds / epochs)
        epoch = {**self.epoch, **{label: sum(each) / len(each) for label, each in own.items()}}
        labels = [label for label, _ in runs]
        expected = (self.final if whole else self.rung)(labels, 1, epochs)
        slower = max(1.0, took / expected) if expected else 1.0
        beside = max(_beside([seconds for _, seconds in runs], self.workers, took), 0.05)
        start = min(beside, self.start) if whole else beside
        finish = beside - start if whole else slower * self.finish
        return replace(self, epoch=epoch, start=start, finish=finish, report=slower * self.report)


@dataclass(frozen=True)
class Plan:
    """How a budget is spent.

    Attributes:
        epochs: of a whole run.
        usual: what they would be without a budget.
        candidates: that race, without the baseline.
        rungs: of the race; none where all candidates are finalists.
        finalists: how many there are.
        seeds: that the final is expected to have room for.
        seconds: that all of it is expected to take.
        enough: the budget, in seconds, that has room for the usual epochs; None where this has.
    """

    epochs: int
    usual: int
    candidates: tuple[str, ...]
    rungs: tuple[Rung, ...]
    finalists: int
    seeds: int
    seconds: float
    enough: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Plan:
        """Return what :meth:`to_dict` was made of."""
        rungs = tuple(Rung(r["epoch"], tuple(r["seeds"]), r["keep"]) for r in values["rungs"])
        return cls(**{**values, "candidates": tuple(values["candidates"]), "rungs": rungs})


def _makespan(seconds: Sequence[float], workers: int) -> float:
    """Return when the last of these jobs ends, where the longest are started first."""
    free = [0.0] * workers
    for length in sorted(seconds, reverse=True):
        heapq.heapreplace(free, free[0] + length)
    return max(free)


def _beside(seconds: Sequence[float], workers: int, took: float) -> float:
    """Return what each job takes more than these seconds, so that all of them took so long."""
    low, high = 0.0, took
    for _ in range(40):
        middle = (low + high) / 2
        if _makespan([length + middle for length in seconds], workers) > took:
            high = middle
        else:
            low = middle
    return low


def make_plan(
    costs: Costs,
    candidates: Sequence[str],
    baseline: str,
    *,
    usual: int,
    budget: float,
    spent: float = 0.0,
    fixed: bool = False,
) -> Plan:
    """Return what fits: whole runs before short ones, and then as many candidates and seeds.

    Args:
        costs: of all candidates and the baseline.
        candidates: the likelier first.
        baseline: that all are compared with.
        usual: epochs of a run.
        budget: seconds in all.
        spent: seconds of it that are gone.
        fixed: whether runs must be as long as that.

    Raises:
        InputError: nothing does that could lead to a conclusion; it says what would.
    """
    least = usual if fixed else min(usual, max(3, math.ceil(usual / 10)))
    lengths = [usual] if fixed else [max(least, round(part * usual)) for part in _LENGTHS]
    room = costs.available(budget) - spent
    whole = _plan(costs, candidates, baseline, usual, usual, _SHAPES[-2])
    for epochs in dict.fromkeys([*lengths, least]):
        for shape in _SHAPES[: -1 if epochs > least else None]:
            plan = _plan(costs, candidates, baseline, epochs, usual, shape)
            if plan.seconds <= room:
                enough = None if epochs == usual else _budget_for(costs, whole.seconds + spent)
                return replace(_filled(plan, costs, baseline, room), enough=enough)
    short = _plan(costs, candidates, baseline, least, usual, _SHAPES[-1])
    needed = in_words(_budget_for(costs, short.seconds + spent))
    words = f"about {needed} would be enough for {least} epochs a run"
    if least < usual:
        usually = in_words(_budget_for(costs, whole.seconds + spent))
        words += f", about {usually} for the usual {usual}"
    raise InputError(
        f"budget={in_words(budget)} is too small for any conclusion: {words} "
        f"({costs.epoch[baseline]:.2g} s an epoch of {baseline}, {costs.workers} runs at a time)"
    )


def _budget_for(costs: Costs, seconds: float) -> float:
    """Return the budget of which training may take so many seconds."""
    return min((seconds + costs.report) / _AIM, seconds / (_AIM - _MOST))


def _plan(
    costs: Costs, candidates: Sequence[str], baseline: str, epochs: int, usual: int,
    shape: tuple[int | None, int, int, int],
) -> Plan:  # fmt: skip
    """Return the plan of a shape, and how long it takes."""
    count, race_seeds, wanted, seeds = shape
    chosen = list(candidates)[:count]
    kept = min(wanted, len(chosen))
    rungs = _rungs(len(chosen), kept, epochs, race_seeds)
    # Who reaches the final isn't known: of middling cost.
    by_cost = sorted(chosen, key=lambda label: costs.epoch[label])
    middling = [by_cost[len(by_cost) // 2]]
    seconds = costs.final([baseline, *middling * kept], seeds, epochs)
    alive, before = len(chosen), 0
    for rung in rungs:
        # The first `alive` by cost from above: rather too much than too little.
        there = by_cost[::-1][:alive] if alive == len(chosen) else middling * alive
        seconds += costs.rung([*there, baseline], len(rung.seeds), rung.epoch - before)
        alive, before = rung.keep, rung.epoch
    return Plan(epochs, usual, tuple(chosen), tuple(rungs), kept, seeds, seconds)


def _rungs(count: int, keep: int, epochs: int, seeds: int) -> list[Rung]:
    """Return rungs at which about half go on, each twice as long as the one before."""
    if count <= keep:
        return []
    steps = min(3, math.ceil(math.log2(count / keep)))
    by_epoch = {}
    for step in range(1, steps + 1):
        epoch = max(1, round(epochs / 2 ** (steps - step)))
        left = keep if step == steps else math.ceil(count * (keep / count) ** (step / steps))
        by_epoch[epoch] = Rung(epoch, tuple(range(RACE_SEED, RACE_SEED + seeds)), left)
    return list(by_epoch.values())


def _filled(plan: Plan, costs: Costs, baseline: str, room: float) -> Plan:
    """Return the plan with as many seeds in the final as there is room for."""
    by_cost = sorted(plan.candidates, key=lambda label: costs.epoch[label])
    labels = [baseline, *[by_cost[len(by_cost) // 2]] * plan.finalists]
    race = plan.seconds - costs.final(labels, plan.seeds, plan.epochs)
    seeds = plan.seeds
    while seeds < MOST_SEEDS and race + costs.final(labels, seeds + 1, plan.epochs) <= room:
        seeds += 1
    return replace(plan, seeds=seeds, seconds=race + costs.final(labels, seeds, plan.epochs))


def thinned(
    rungs: Sequence[Rung], alive: Sequence[str], baseline: str, costs: Costs, epochs: int,
    before: int, room: float,
) -> list[Rung]:  # fmt: skip
    """Return the rungs that follow, thinned until a final of the least seeds has room after them.

    First seeds of the race are left out, then finalists, then its last rungs: after none the first
    of the candidates that are left is the finalist. Where not even that is enough, the final has
    fewer seeds.

    Args:
        rungs: as they were planned.
        alive: the candidates that are left.
        baseline: that runs along.
        costs: as they have turned out.
        epochs: of a whole run.
        before: the epoch that the candidates are at.
        room: seconds that are left for training.
    """
    rungs, planned = list(rungs), len(rungs)

    def taken(some: Sequence[Rung]) -> float:
        seconds, left, at = 0.0, list(alive), before
        for rung in some:
            seconds += costs.rung([*left, baseline], len(rung.seeds), rung.epoch - at)
            left, at = left[: rung.keep], rung.epoch
        left = left if some or not planned else left[:1]
        return seconds + costs.final([baseline, *left], LEAST_SEEDS, epochs)

    while taken(rungs) > room:
        if any(len(rung.seeds) > 1 for rung in rungs):
            rungs = [replace(rung, seeds=rung.seeds[:-1] or rung.seeds) for rung in rungs]
        elif rungs and rungs[-1].keep > 1:
            rungs[-1] = replace(rungs[-1], keep=rungs[-1].keep - 1)
        elif rungs:
            rungs = [*rungs[:-2], *(replace(rung, keep=1) for rung in rungs[-2:-1])]
        else:
            break
    return rungs


# --------------------------------------------------------------------------------------- in words

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def seconds_of(budget: str | float) -> float:
    """Return the seconds of a budget: "90s", "30m", "1h30m", "1.5h", or a number of seconds.

    Raises:
        InputError: it is none of these, or not over zero.

    >>> seconds_of("1h30m")
    5400.0
    """
    found = math.nan
    if isinstance(budget, str):
        text = budget.strip().lower().replace(" ", "")
        if re.fullmatch(r"(\d+(\.\d+)?[smhd])+", text):
            parts = re.findall(r"([\d.]+)([smhd])", text)
            found = sum(float(number) * _UNITS[unit] for number, unit in parts)
    elif not isinstance(budget, bool):
        found = float(budget)
    if not (math.isfinite(found) and found > 0):
        raise InputError(f"budget must be a time like 90s, 30m or 1h30m, got {budget!r}")
    return found


def in_words(seconds: float) -> str:
    """Return a time as people say it, rounded up.

    >>> in_words(95), in_words(1815), in_words(5401)
    ('95 s', '31 min', '1 h 31 min')
    """
    if seconds < 120:
        return f"{math.ceil(seconds)} s"
    minutes = math.ceil(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if minutes % 60 else f"{minutes // 60} h"
