from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mixwell import InputError, metrics

MEASURES = [metrics.root_mean_squared_error, metrics.mean_absolute_error, metrics.r2_score]


def test_by_hand():
    predictions, targets = torch.tensor([1.0, 2.0, 6.0]), torch.tensor([1.0, 3.0, 5.0])
    assert float(metrics.root_mean_squared_error(predictions, targets)) == pytest.approx(
        (2 / 3) ** 0.5
    )
    assert float(metrics.mean_absolute_error(predictions, targets)) == pytest.approx(2 / 3)
    assert float(metrics.r2_score(predictions, targets)) == pytest.approx(1 - 2 / 8)


@given(st.integers(2, 30), st.sampled_from([(), (1,), (3,)]), st.floats(0.1, 100))
def test_units_and_shapes(size, tail, scale):
    predictions = torch.randn(size, *tail, dtype=torch.float64)
    targets = torch.randn(size, *tail, dtype=torch.float64)
    rmse, mae, r2 = (measure(predictions, targets) for measure in MEASURES)
    assert mae <= rmse + 1e-12
    assert r2 <= 1
    moved = [measure(scale * predictions + 5, scale * targets + 5) for measure in MEASURES]
    for value, expected in zip(moved, [scale * rmse, scale * mae, r2], strict=True):
        torch.testing.assert_close(value, expected)


@pytest.mark.parametrize("measure", MEASURES)
def test_columns_of_one_are_the_same_as_vectors(measure):
    predictions, targets = torch.randn(6), torch.randn(6)
    assert measure(predictions[:, None], targets) == measure(predictions, targets)
    assert measure(predictions, targets[:, None]) == measure(predictions, targets)


def test_r2_of_constant_targets_and_of_the_mean():
    targets = torch.tensor([2.0, 2.0])
    assert metrics.r2_score(targets, targets) == 1
    assert metrics.r2_score(targets + 1, targets) == 0
    assert metrics.r2_score(torch.full((2,), 1.5), torch.tensor([1.0, 2.0])) == 0


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize(
    ("predictions", "targets"),
    [((3,), (2,)), ((3, 2), (3,)), ((0,), (0,)), ((), ()), ((2, 2, 2), (2, 2, 2))],
)
def test_shapes_that_do_not_fit_are_refused(measure, predictions, targets):
    with pytest.raises(InputError, match="same shape"):
        measure(torch.ones(predictions), torch.ones(targets))


@given(st.integers(1, 30), st.sampled_from([(), (1,), (3,)]), st.floats(0.1, 100))
def test_percentage_error_by_its_definition_and_without_unit(size, tail, scale):
    predictions = torch.randn(size, *tail, dtype=torch.float64)
    targets = torch.randn(size, *tail, dtype=torch.float64)
    pairs = zip(predictions.flatten().tolist(), targets.flatten().tolist(), strict=True)
    expected = sum(abs(p - y) / abs(y) for p, y in pairs) / targets.numel()
    for factor in (1, scale, -scale):
        value = metrics.mean_absolute_percentage_error(factor * predictions, factor * targets)
        assert float(value) == pytest.approx(expected)


def test_percentage_error_of_extremes():
    measure, targets = metrics.mean_absolute_percentage_error, torch.tensor([2.0, -4.0])
    assert measure(targets, targets) == 0
    assert measure(0 * targets, targets) == 1
    assert measure(targets, 0 * targets) == torch.inf
    assert measure(targets[:, None], 2 * targets) == 0.5
    # The difference, 1e5, is beyond half precision.
    large = torch.tensor([5e4]).half()
    assert measure(large, -large) == 2


@pytest.mark.parametrize(("predictions", "targets"), [((3,), (2,)), ((3, 2), (3,)), ((0,), (0,))])
def test_percentage_error_refuses_shapes_that_do_not_fit(predictions, targets):
    with pytest.raises(InputError, match="predictions and targets must have the same shape"):
        metrics.mean_absolute_percentage_error(torch.ones(predictions), torch.ones(targets))
