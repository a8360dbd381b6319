from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score
from torch import Tensor

from mixwell import InputError, metrics

MEASURES = [metrics.auroc, metrics.false_positive_rate]
sizes = st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(0, 1000), st.booleans())


def draw(size: int, outliers: int, seed: int, ties: bool) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(size + outliers, generator=generator, dtype=torch.float64)
    scores[:size] += 0.2
    scores = (5 * scores).round() / 5 if ties else scores
    return scores[:size], scores[size:]


@given(sizes)
def test_auroc_agrees_with_scikit_learn(size):
    inliers, outliers = draw(*size)
    labels = [1] * len(inliers) + [0] * len(outliers)
    expected = roc_auc_score(labels, torch.cat([inliers, outliers]))
    assert float(metrics.auroc(inliers, outliers)) == pytest.approx(expected, abs=1e-12)


@given(sizes, st.sampled_from([0.05, 0.07, 0.5, 0.8, 0.95, 1.0]))
def test_false_positive_rate_is_the_least_of_all_thresholds(size, recall):
    inliers, outliers = draw(*size)
    rates = [
        float((outliers >= threshold).double().mean())
        for threshold in inliers
        if int((inliers >= threshold).sum()) >= recall * len(inliers) - 1e-9
    ]
    assert float(metrics.false_positive_rate(inliers, outliers, recall)) == min(rates)


@given(sizes)
def test_only_the_order_of_scores_counts(size):
    inliers, outliers = draw(*size)
    for measure in MEASURES:
        value = measure(inliers, outliers)
        assert 0 <= value <= 1
        shuffled = measure(inliers.flip(0), outliers[torch.randperm(len(outliers))])
        assert float(shuffled) == pytest.approx(float(value), abs=1e-12)
        moved = measure((3 * inliers).exp(), (3 * outliers).exp())
        assert float(moved) == pytest.approx(float(value), abs=1e-12)
    assert float(metrics.auroc(outliers, inliers)) == pytest.approx(
        1 - float(metrics.auroc(inliers, outliers))
    )


@pytest.mark.parametrize(
    ("inliers", "outliers", "area", "rate"),
    [
        ([0.9], [0.1], 1, 0),
        ([0.1], [0.9], 0, 1),
        ([0.5], [0.5], 0.5, 1),
        ([0.9, 0.8], [0.7, 0.8, 0.1, 0.2], 7.5 / 8, 0.25),
        ([torch.inf, 0.0], [-torch.inf, 0.0], 3.5 / 4, 0.5),
    ],
)
def test_by_hand(inliers, outliers, area, rate):
    scores = torch.tensor(inliers), torch.tensor(outliers)
    assert metrics.auroc(*scores) == area
    assert metrics.false_positive_rate(*scores) == rate


def test_recall_is_of_whole_inliers():
    inliers = torch.arange(1.0, 21)
    assert metrics.false_positive_rate(inliers, torch.tensor([1.0, 1.5])) == 0
    assert metrics.false_positive_rate(inliers, torch.tensor([1.0, 2.0])) == 0.5
    # In floats, 0.28 · 25 is above 7.
    assert metrics.false_positive_rate(torch.arange(25.0), torch.tensor([17.5, 18]), 0.28) == 0.5
    # With 19, 95 % is all of them.
    assert metrics.false_positive_rate(inliers[:19], torch.tensor([1.0, 0.5])) == 0.5


def test_normal_scores_have_the_area_that_theory_gives():
    # Φ(1/√2) = 0.760, standard error 0.0033 with 10,000 of each: 0.02 is six of them, so that the
    # test fails by chance with a probability below 1e-8.
    generator = torch.Generator().manual_seed(0)
    inliers, outliers = torch.randn(2, 10_000, generator=generator)
    area = float(metrics.auroc(inliers + 1, outliers))
    assert area == pytest.approx(stats.norm.cdf(0.5**0.5), abs=0.02)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_scores_are_counted_exactly(dtype):
    inliers, outliers = (scores.to(dtype) for scores in draw(3000, 2000, 0, False))
    for measure in MEASURES:
        value = measure(inliers, outliers)
        assert value.dtype == torch.float64
        assert value == measure(inliers.double(), outliers.double())


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("name", ["inliers", "outliers"])
@pytest.mark.parametrize(
    "bad", [torch.empty(0), torch.ones(2, 1), torch.tensor(0.5), torch.ones(2).long()]
)
def test_bad_scores_are_refused(measure, name, bad):
    scores = {"inliers": torch.ones(2), "outliers": torch.ones(2)}
    with pytest.raises(InputError, match=f"{name} must (be|hold) floating"):
        measure(**{**scores, name: bad})
    with pytest.raises(InputError, match=f"{name} holds NaN"):
        measure(**{**scores, name: torch.tensor([0.5, torch.nan])})


@pytest.mark.parametrize("recall", [0, -0.1, 1.01, torch.nan])
def test_recall_must_be_a_share(recall):
    with pytest.raises(InputError, match="recall"):
        metrics.false_positive_rate(torch.ones(2), torch.ones(2), recall)
