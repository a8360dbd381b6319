"""What can be concluded from several seeds."""

from __future__ import annotations

import math
import numbers
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mixwell.checks import check_range, check_whole, shown
from mixwell.errors import InputError, last_line, suggest
from mixwell.metrics.measures import get, registered
from mixwell.studies.records import RunRecord

__all__ = [
    "Interval",
    "MethodSummary",
    "Ranks",
    "Test",
    "average_ranks",
    "check_baseline",
    "choose_baseline",
    "detectable_difference",
    "higher_is_better",
    "holm",
    "interval",
    "measures",
    "paired_test",
    "seeds_needed",
    "summarise",
]


def higher_is_better(measure: str) -> bool:
    """Whether more of a measure is better, as it declares itself.

    Raises:
        InputError: there is no such measure.
    """
    return bool(get(measure).higher_is_better)


@dataclass(frozen=True)
class Interval:
    """A measure over seeds: its mean and the half-width of the 95 % t-interval.

    Attributes:
        mean: over the seeds.
        half_width: of the interval; None with one seed, which allows no interval.
        values: one for each seed, in the order of seeds.
        seeds: those that have a value, where they are known.
    """

    mean: float
    half_width: float | None
    values: tuple[float, ...]
    seeds: tuple[int, ...] = ()


@dataclass(frozen=True)
class Test:
    """A paired t-test of a method against the baseline, over the seeds that both have.

    Attributes:
        difference: the mean of (method - baseline).
        half_width: of its 95 % interval.
        p_value: two-sided.
        pairs: how many seeds.
        deviation: the standard deviation of the differences.
        adjusted: the p-value after Holm's correction for the tests of this measure that
            :func:`summarise` made.
    """

    __test__ = False  # no test of pytest's

    difference: float
    half_width: float
    p_value: float
    pairs: int
    deviation: float = 0.0
    adjusted: float = math.nan

    @property
    def significant(self) -> bool:
        """Whether the adjusted p < 0.05, or the plain one where none was adjusted."""
        return (self.p_value if math.isnan(self.adjusted) else self.adjusted) < 0.05


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
        group: the part of the study, in words; empty where there are no parts.
        vary: the part's values, by field.
        left_out: name to words, where a measure of some runs is missing, NaN or infinite and so
            stands in no mean: "NaN in 2 of 5 runs: left out".
        untested: name to words, where there is no test and a baseline to test against.
        errors: why runs failed, one line each.
    """

    method: str
    n: int
    metrics: dict[str, Interval]
    tests: dict[str, Test | None]
    seeds: tuple[int, ...]
    failed: int = 0
    group: str = ""
    vary: dict[str, Any] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    untested: dict[str, str] = field(default_factory=dict)
    errors: tuple[str, ...] = ()


def interval(values: Sequence[float], seeds: Sequence[int] = ()) -> Interval:
    """Return mean and 95 % t-interval.

    Args:
        values: finite numbers, one at least.
        seeds: that they are of, where they are known.

    Raises:
        InputError: there are no values, or one is no finite number.
    """
    from scipy import stats

    wrong = [value for value in values if _kind_of(value) is not None]
    if wrong or not len(values):
        got = shown(wrong[0]) if wrong else "none"
        raise InputError(f"values must be finite numbers, one at least, got {got}")
    given = [float(value) for value in values]
    count = len(given)
    # In units of the largest where squares of it would be too large for a float.
    largest = max(map(abs, given))
    scale = largest if largest > 1e100 else 1.0
    scaled = [value / scale for value in given]
    mean = math.fsum(scaled) / count
    if count < 2:
        return Interval(mean * scale, None, tuple(given), tuple(seeds))
    variance = math.fsum((value - mean) ** 2 for value in scaled) / (count - 1)
    reach = float(stats.t.ppf(0.975, count - 1)) * math.sqrt(variance / count)
    return Interval(mean * scale, reach * scale, tuple(given), tuple(seeds))


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
    deviation = error * math.sqrt(len(values))
    return Test(gap.mean, gap.half_width, p_value, len(values), deviation)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted by Holm's step-down method, in their order.

    Rejecting where the adjusted p is below α keeps the chance of any false rejection among all
    these tests below α, whatever their dependence.

    Source: Holm, "A simple sequentially rejective multiple test procedure", 1979.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted


def _power(deviation: float, difference: float, pairs: int, level: float) -> float:
    """Return the chance that a two-sided paired t-test sees a true difference."""
    import numpy as np
    from scipy import stats

    freedom = pairs - 1
    shift = abs(difference) / deviation * math.sqrt(pairs)
    bound = float(stats.t.ppf(1 - level / 2, freedom))
    with np.errstate(divide="ignore"):  # some of SciPy's versions take a logarithm of 0 on the way
        found = stats.nct.sf(bound, freedom, shift) + stats.nct.cdf(-bound, freedom, shift)
    # With one degree of freedom and a large shift SciPy gives up: there the chance is one.
    return 1.0 if math.isnan(found) else float(found)


def _check_test(power: float, level: float) -> None:
    check_range("power", power, 0, 1, open=True)
    if check_range("level", level, 0, 1, open=True) == 1:
        raise InputError(f"level must be below 1, got {level!r}")


def seeds_needed(
    deviation: float, difference: float, power: float = 0.8, level: float = 0.05
) -> int | None:
    """Return how many paired seeds show a true difference with this power; None above 10,000.

    Args:
        deviation: the standard deviation of the paired differences; > 0.
        difference: the true one, in the same unit; not 0.
        power: the chance to see it.
        level: of the test, two-sided.

    Raises:
        InputError: an argument is out of its range.
    """
    check_range("deviation", deviation, open=True)
    _check_test(power, level)
    if power >= 1 or check_range("difference", difference, -math.inf) == 0:
        return None
    low, high = 1, 2
    while _power(deviation, difference, high, level) < power:
        low, high = high, 2 * high
        if low > 10_000:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        if _power(deviation, difference, middle, level) < power:
            low = middle
        else:
            high = middle
    return high


def detectable_difference(
    deviation: float, pairs: int, power: float = 0.8, level: float = 0.05
) -> float:
    """Return the least true difference that so many paired seeds show with this power.

    Args:
        deviation: the standard deviation of the paired differences.
        pairs: seeds, 2 at least.
        power: the chance to see it.
        level: of the test, two-sided.

    Raises:
        InputError: an argument is out of its range.
    """
    from scipy import optimize

    _check_test(power, level)
    check_whole("pairs", pairs, 2)
    if check_range("deviation", deviation) == 0:
        return 0.0
    high = 1.0
    while _power(1.0, high, pairs, level) < power:
        high *= 2
    return deviation * float(
        optimize.brentq(lambda size: _power(1.0, size, pairs, level) - power, 1e-9, high)
    )


def measures(record: RunRecord) -> dict[str, float]:
    """Return a run's measures with its costs among them."""
    costs = [measure.name for measure in registered() if measure.compute is None]
    return {**record.metrics, **{n: getattr(record, n) for n in costs if hasattr(record, n)}}


def summarise(records: Iterable[RunRecord], baseline: str | None = None) -> list[MethodSummary]:
    """Return a summary of each method in each part of a study, in the order of first appearance.

    Each method is tested against the baseline of its part, paired by seed. For each measure the
    p-values of all methods and parts are adjusted together (:func:`holm`).

    Args:
        records: runs of one study.
        baseline: the label of the method to test against: nothing is tested in a part that has no
            run of it. Without one, or where no part has it, "erm" in each part that has it, else
            the part's first method.
    """
    parts: dict[str, dict[str, list[RunRecord]]] = {}
    for record in records:
        parts.setdefault(record.group, {}).setdefault(record.label, []).append(record)
    named = any(baseline in methods for methods in parts.values())
    summaries = [
        _summary(label, runs, base, methods.get(base, []))
        for methods in parts.values()
        for base in [baseline if baseline and named else choose_baseline(list(methods), baseline)]
        for label, runs in methods.items()
    ]
    names = dict.fromkeys(name for summary in summaries for name in summary.tests)
    for name in names:
        tested = [(s, test) for s in summaries if (test := s.tests.get(name)) is not None]
        adjusted = holm([test.p_value for _, test in tested])
        for (summary, test), value in zip(tested, adjusted, strict=True):
            summary.tests[name] = replace(test, adjusted=value)
    return summaries


def _summary(
    label: str, runs: list[RunRecord], base: str, baseline: list[RunRecord]
) -> MethodSummary:
    runs = sorted(runs, key=lambda run: run.seed)
    values = {run.seed: measures(run) for run in runs if run.status == "done"}
    others = {run.seed: measures(run) for run in baseline if run.status == "done"}
    found: dict[str, Interval] = {}
    tests: dict[str, Test | None] = {}
    left_out, untested = {}, {}
    for name in dict.fromkeys(name for run in values.values() for name in run):
        own, against = _finite(values, name), _finite(others, name)
        if len(own) < len(values):
            left_out[name] = _left_out([run.get(name) for run in values.values()])
        if not own:
            continue
        found[name] = interval(list(own.values()), list(own))
        tests[name] = None
        if label == base:
            continue
        shared = [seed for seed in own if seed in against]
        tests[name] = paired_test([own[s] for s in shared], [against[s] for s in shared])
        if tests[name] is None:
            untested[name] = _untested(base, len(shared), len(against))
    failed = [run for run in runs if run.status != "done"]
    return MethodSummary(
        label, len(values), found, tests, tuple(values), len(failed), runs[0].group, runs[0].vary,
        left_out, untested, tuple(last_line(run.error) for run in failed),
    )  # fmt: skip


def _finite(values: Mapping[int, Mapping[str, Any]], name: str) -> dict[int, float]:
    """Return the measure of the runs that have a finite number there, by seed."""
    there = {seed: own[name] for seed, own in values.items() if name in own}
    return {seed: float(value) for seed, value in there.items() if _kind_of(value) is None}


def _kind_of(value: Any) -> str | None:
    """Return in words what is no number to compute with; None for one that is."""
    if value is None:
        return "missing"
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return "no number"
    if math.isnan(value):
        return "NaN"
    return None if math.isfinite(value) else "infinite"


def _left_out(values: Sequence[Any]) -> str:
    """Return in words what is not in the mean: "NaN in 2 of 5 runs: left out"."""
    kinds = Counter(kind for kind in map(_kind_of, values) if kind is not None)
    runs = len(values)
    if max(kinds.values()) == runs:
        return f"{next(iter(kinds))} in all {runs} runs" if runs > 1 else next(iter(kinds))
    parts = [f"{kind} in {count}" for kind, count in kinds.items()]
    return f"{' and '.join(parts)} of {runs} runs: left out"


def _untested(base: str, shared: int, there: int) -> str:
    if not there:
        return f"{base} has no value: no test"
    if not shared:
        return f"no seed in common with {base}: no test"
    if shared == 1:
        return f"one seed in common with {base}: no test"
    return f"the difference to {base} is the same in all seeds: no test"


@dataclass(frozen=True)
class Ranks:
    """The methods' mean ranks over parts of a study.

    Attributes:
        of: each method's, 1 for the best; empty where no part has a result of every method.
        parts: those that were ranked.
        left_out: the parts that were not, and the methods that have no result there.
    """

    of: dict[str, float]
    parts: tuple[str, ...]
    left_out: dict[str, tuple[str, ...]]

    @property
    def over(self) -> str:
        """In words, how many parts of how many were ranked: "1 of 3 parts"; all: "the 3 parts"."""
        all_ = len(self.parts) + len(self.left_out)
        return f"{len(self.parts)} of {all_} parts" if self.left_out else f"the {all_} parts"

    @property
    def lacking(self) -> str:
        """In words, which parts were not ranked, and why; empty where all were."""
        by_methods: dict[tuple[str, ...], list[str]] = {}
        for part, methods in self.left_out.items():
            by_methods.setdefault(methods, []).append(part)
        return "; ".join(
            f"{', '.join(methods)} {'has' if len(methods) == 1 else 'have'} no result in "
            f"{', '.join(parts)}"
            for methods, parts in by_methods.items()
        )


def average_ranks(summaries: Sequence[MethodSummary], measure: str) -> Ranks:
    """Return each method's mean rank over the parts of a study, 1 for the best; ties share.

    Parts in which a method has no result are left out, and named.

    Args:
        summaries: from :func:`summarise`.
        measure: whose means are ranked.
    """
    from scipy import stats

    methods = list(dict.fromkeys(summary.method for summary in summaries))
    groups = list(dict.fromkeys(summary.group for summary in summaries))
    means = {
        (s.group, s.method): s.metrics[measure].mean for s in summaries if measure in s.metrics
    }
    missing = {
        group: tuple(method for method in methods if (group, method) not in means)
        for group in groups
    }
    whole = tuple(group for group in groups if not missing[group])
    sign = -1 if higher_is_better(measure) else 1
    ranks = [stats.rankdata([sign * means[group, method] for method in methods]) for group in whole]
    found = {
        method: float(sum(rank[place] for rank in ranks) / len(ranks))
        for place, method in enumerate(methods)
        if ranks
    }
    return Ranks(found, whole, {group: lacks for group, lacks in missing.items() if lacks})


def choose_baseline(methods: Sequence[str], baseline: str | None = None) -> str:
    """Return the label that the others are tested against.

    Raises:
        InputError: there are no methods.
    """
    if not methods:
        raise InputError("methods must name one at least, got none")
    if baseline is not None and baseline in methods:
        return baseline
    return "erm" if "erm" in methods else methods[0]


def check_baseline(baseline: str | None, labels: Sequence[str]) -> None:
    """Raise an InputError if a baseline is named that is none of the methods."""
    if baseline is not None and baseline not in labels:
        raise InputError(
            f"baseline={baseline!r} is not among the methods {', '.join(labels)}"
            f"{suggest(baseline, labels)}"
        )
