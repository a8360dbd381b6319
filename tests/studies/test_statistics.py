from pathlib import Path

import pytest
from scipy import stats

from mixwell.studies import RunRecord, summarise
from mixwell.studies.statistics import interval


def record(method, seed, accuracy, status="done", **options):
    config = {"method": method, "seed": seed, "method_options": options, "data": "digits"}
    metrics = {"accuracy": accuracy} if status == "done" else {}
    return RunRecord(Path(f"{method}-{seed}"), config, metrics, status=status)


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
