"""What can be concluded from several seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mixwell.studies.records import RunRecord

__all__ = ["HIGHER_IS_BETTER", "Interval", "MethodSummary", "Test", "interval", "summarise"]

HIGHER_IS_BETTER = {"accuracy", "val_accuracy", "r2"}
"""Measures of which more is better; of all others, but temperature, less is."""


@dataclass(frozen=True)
class Interval:
    """A measure over seeds: its mean and the half-width of the 95 % t-interval.

    Attributes:
        mean: over the seeds.
        half_width: of the interval; None with one seed, which allows no interval.
        values: one for each seed, in the order of seeds.
    """

    mean: float
    half_width: float | None
    values: tuple[float, ...]


@dataclass(frozen=True)
class Test:
    """A paired t-test of a method against the baseline, over the seeds that both have.

    Attributes:
        difference: the mean of (method - baseline).
        half_width: of its 95 % interval.
        p_value: two-sided.
        pairs: how many seeds.
    """

    __test__ = False  # no test of pytest's

    difference: float
    half_width: float
    p_value: float
    pairs: int

    @property
    def significant(self) -> bool:
        """Whether p < 0.05."""
        return self.p_value < 0.05


@dataclass(frozen=True)
class MethodSummary:
    """One method over its seeds.

    Attributes:
        method: its label, with its settings.
        n: how many runs are done.
        metrics: name to interval.
        tests: name to test against the baseline; None for the baseline itself and where fewer
            than two seeds are paired.
        seeds: of the runs that are done.
        failed: how many runs failed.
    """

    method: str
    n: int
    metrics: dict[str, Interval]
    tests: dict[str, Test | None]
    seeds: tuple[int, ...]
    failed: int = 0


def interval(values: Sequence[float]) -> Interval:
    """Return mean and 95 % t-interval."""
    from scipy import stats

    count = len(values)
    mean = math.fsum(values) / count
    if count < 2:
        return Interval(mean, None, tuple(values))
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    reach = float(stats.t.ppf(0.975, count - 1)) * math.sqrt(variance / count)
    return Interval(mean, reach, tuple(values))


def paired_test(values: Sequence[float], baseline: Sequence[float]) -> Test | None:
    """Return the paired t-test of two measures over the same seeds.

    None where there are fewer than two seeds, or no spread to judge the difference by.
    """
    from scipy import stats

    if len(values) < 2:
        return None
    gap = interval([value - base for value, base in zip(values, baseline, strict=True)])
    assert gap.half_width is not None
    # Measures are rounded to float32: a spread below that is none.
    if gap.half_width <= 1e-6 * max(map(abs, [*values, *baseline])):
        same = abs(gap.mean) <= gap.half_width
        return Test(gap.mean, gap.half_width, 1.0, len(values)) if same else None
    error = gap.half_width / float(stats.t.ppf(0.975, len(values) - 1))
    p_value = 2 * float(stats.t.sf(abs(gap.mean / error), len(values) - 1))
    return Test(gap.mean, gap.half_width, p_value, len(values))


def measures(record: RunRecord) -> dict[str, float]:
    """Return a run's measures with its costs among them."""
    return {
        **record.metrics,
        "seconds_per_step": record.seconds_per_step,
        "peak_memory_mb": record.peak_memory_mb,
    }


def summarise(records: Iterable[RunRecord], baseline: str | None = None) -> list[MethodSummary]:
    """Return a summary of each method, in the order of first appearance.

    Args:
        records: runs of one comparison.
        baseline: the label of the method to test against; "erm" without one, if it is there, else
            the first method.
    """
    by_method: dict[str, list[RunRecord]] = {}
    for record in records:
        by_method.setdefault(record.label, []).append(record)
    for runs in by_method.values():
        runs.sort(key=lambda run: run.seed)
    baseline = choose_baseline(list(by_method), baseline)
    base = {run.seed: measures(run) for run in by_method.get(baseline, []) if run.status == "done"}

    summaries = []
    for method, runs in by_method.items():
        done = [run for run in runs if run.status == "done"]
        values = {run.seed: measures(run) for run in done}
        names = list(next(iter(values.values()), {}))
        paired = [seed for seed in values if seed in base]
        tests: dict[str, Test | None] = {}
        for name in names:
            shared = [seed for seed in paired if name in base[seed]]
            tests[name] = None
            if method != baseline:
                tests[name] = paired_test(
                    [values[seed][name] for seed in shared], [base[seed][name] for seed in shared]
                )
        summaries.append(
            MethodSummary(
                method,
                len(done),
                {name: interval([values[seed][name] for seed in values]) for name in names},
                tests,
                tuple(values),
                len(runs) - len(done),
            )
        )
    return summaries


def choose_baseline(methods: Sequence[str], baseline: str | None = None) -> str:
    """Return the label that the others are tested against."""
    if baseline is not None and baseline in methods:
        return baseline
    return "erm" if "erm" in methods else methods[0]
