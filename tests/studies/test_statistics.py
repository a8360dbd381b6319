import dataclasses
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from mixwell.studies import RunRecord, summarise
from mixwell.studies.statistics import (
    average_ranks,
    detectable_difference,
    holm,
    interval,
    seeds_needed,
)


def record(method, seed, accuracy, status="done", **options):
    config = {"method": method, "seed": seed, "method_options": options, "data": "digits"}
    result = {"metrics": {"accuracy": accuracy}} if status == "done" else None
    return RunRecord.of(Path(f"{method}-{seed}"), result, config)


def test_the_interval_is_scipys():
    values = [0.1, 0.4, 0.2, 0.35]
    found = interval(values)
    low, high = stats.t.interval(0.95, 3, stats.tmean(values), stats.sem(values))
    assert found.mean - found.half_width == pytest.approx(low)
    assert found.mean + found.half_width == pytest.approx(high)
    assert interval([0.3]).half_width is None


def test_the_test_is_paired_by_seed_whatever_the_order():
    base = [0.80, 0.85, 0.82, 0.9]
    other = [0.83, 0.86, 0.86, 0.91]
    records = [record("erm", seed, value) for seed, value in enumerate(base)]
    records += [record("mixup", seed, other[seed]) for seed in (2, 0, 3, 1)]
    summary = summarise(records)[1]
    expected = stats.ttest_rel(other, base)
    assert summary.tests["accuracy"].p_value == pytest.approx(expected.pvalue)
    assert summary.tests["accuracy"].pairs == 4
    low, high = expected.confidence_interval()
    test = summary.tests["accuracy"]
    assert test.difference - test.half_width == pytest.approx(low)
    assert test.difference + test.half_width == pytest.approx(high)
    assert summarise(records)[0].tests["accuracy"] is None


def test_only_shared_seeds_are_paired_and_failures_are_counted():
    records = [record("erm", seed, 0.5 + seed / 10) for seed in (0, 1)]
    records += [record("mixup", seed, 0.6 + seed / 7) for seed in (1, 2)]
    records += [record("mixup", 0, 0, status="failed")]
    mixup = summarise(records)[1]
    assert (mixup.n, mixup.failed, mixup.seeds) == (2, 1, (1, 2))
    assert mixup.tests["accuracy"] is None


def test_no_spread_allows_no_test_unless_nothing_differs():
    records = [record("erm", seed, 0.5) for seed in range(3)]
    records += [record("same", seed, 0.5) for seed in range(3)]
    records += [record("apart", seed, 0.6) for seed in range(3)]
    _, same, apart = summarise(records)
    assert same.tests["accuracy"].p_value == 1.0
    assert apart.tests["accuracy"] is None


def test_settings_tell_methods_apart_and_the_baseline_can_be_chosen():
    records = [record("mixup", s, 0.5 + s / 9, alpha=a) for a in (1, 2) for s in range(3)]
    first, second = summarise(records, baseline="mixup(alpha=2)")
    assert (first.method, second.method) == ("mixup(alpha=1)", "mixup(alpha=2)")
    assert first.tests["accuracy"] is not None
    assert second.tests["accuracy"] is None


def test_holm_is_the_textbooks():
    # Holm (1979) by hand: 4 x 0.005, 3 x 0.01, 2 x 0.03, then 0.04, never falling.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_keeps_the_chance_of_any_false_rejection():
    # Ten true null hypotheses, 2,000 times: at a level of 5 % the count of families with any
    # rejection is above 0.05 + 3.3 standard errors with probability below 0.001.
    rng = np.random.default_rng(0)
    families = [min(holm(list(rng.uniform(size=10)))) < 0.05 for _ in range(2000)]
    assert np.mean(families) < 0.05 + 3.3 * (0.05 * 0.95 / 2000) ** 0.5


def test_all_methods_and_parts_of_a_measure_are_corrected_together():
    rng = np.random.default_rng(1)
    records = [
        dataclasses.replace(
            record(method, seed, 0.5 + shift + rng.normal(0, 0.01)), vary={"shots": shots}
        )
        for shots in (5, 10)
        for shift, method in enumerate(("erm", "mixup", "remix"))
        for seed in range(3)
    ]
    tests = [s.tests["accuracy"] for s in summarise(records) if s.tests["accuracy"]]
    assert len(tests) == 4
    assert [t.adjusted for t in tests] == holm([t.p_value for t in tests])


def test_power_agrees_with_simulation():
    # 4,000 experiments of 6 seeds; the share that shows the difference is off by more than
    # 3.3 standard errors with probability below 0.001.
    rng = np.random.default_rng(2)
    difference = detectable_difference(1.0, 6)
    samples = rng.normal(difference, 1.0, (4000, 6))
    shown = np.mean(stats.ttest_1samp(samples, 0, axis=1).pvalue < 0.05)
    assert shown == pytest.approx(0.8, abs=3.3 * (0.8 * 0.2 / 4000) ** 0.5)
    assert seeds_needed(1.0, difference * 1.001) == 6
    assert seeds_needed(1.0, difference * 0.999) == 7
    assert seeds_needed(1.0, 1e-6) is None
    assert detectable_difference(1.0, 2) > detectable_difference(1.0, 3)


def test_ranks_are_averaged_over_parts_and_ties_share():
    values = {
        5: {"erm": 0.5, "mixup": 0.6, "remix": 0.6},
        10: {"erm": 0.9, "mixup": 0.8, "remix": 0.7},
    }
    records = [
        dataclasses.replace(record(method, 0, value), vary={"shots": shots})
        for shots, found in values.items()
        for method, value in found.items()
    ]
    ranks = average_ranks(summarise(records), "accuracy")
    assert ranks.of == {"erm": 2.0, "mixup": 1.75, "remix": 2.25}
    assert (ranks.over, ranks.lacking) == ("the 2 parts", "")
    without = [r for r in records if not (r.label == "remix" and r.vary["shots"] == 5)]
    ranks = average_ranks(summarise(without), "accuracy")
    assert ranks.of == {"erm": 1.0, "mixup": 2.0, "remix": 3.0}
    assert (ranks.parts, ranks.left_out) == (("shots 10",), {"shots 5": ("remix",)})
    assert (ranks.over, ranks.lacking) == ("1 of 2 parts", "remix has no result in shots 5")
    nowhere = average_ranks(summarise([r for r in without if r.label != "remix" or r.seed]), "ece")
    assert (nowhere.of, nowhere.parts) == ({}, ())
