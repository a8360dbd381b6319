from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import mean_pinball_loss
from torch import Tensor

from mixwell import InputError, metrics

UCE = metrics.uncertainty_calibration_error
ENCE = metrics.expected_normalized_calibration_error
LOSSES = [metrics.gaussian_nll, metrics.pinball_loss, UCE, ENCE]
MEASURES = [*LOSSES, metrics.calibration_curve, metrics.fit_variance_scale]


def draw(*shape: int, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    mean, noise = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    std = 0.5 + 2 * torch.rand(*shape, generator=generator, dtype=torch.float64)
    return mean, std, mean + scale * std * noise


@pytest.mark.parametrize("shape", [(1,), (50,), (20, 3)])
def test_likelihood_and_quantile_loss_agree_with_scipy_and_scikit_learn(shape):
    mean, std, targets = draw(*shape)
    nll = -stats.norm.logpdf(targets, mean, std).mean()
    assert float(metrics.gaussian_nll(mean, std, targets)) == pytest.approx(nll)
    y, qs = targets.flatten(), (0.01, 0.3, 0.5, 0.9)
    each = [mean_pinball_loss(y, stats.norm.ppf(q, mean, std).ravel(), alpha=q) for q in qs]
    assert float(metrics.pinball_loss(mean, std, targets, qs)) == pytest.approx(np.mean(each))


@pytest.mark.parametrize("bins", [1, 4, 15])
def test_uce_agrees_with_binned_statistic(bins):
    mean, std, targets = draw(97)
    gaps = (targets - mean) ** 2 - std**2
    sums = stats.binned_statistic(std**2, gaps, "sum", bins).statistic
    assert float(UCE(mean, std, targets, bins)) == pytest.approx(abs(sums).sum() / 97)


@pytest.mark.parametrize(("size", "bins"), [(1, 15), (7, 15), (16, 15), (60, 4), (100, 7)])
def test_ence_and_curve_agree_with_a_loop(size, bins):
    mean, std, targets = draw(size)
    rmv, rmse, count = metrics.calibration_curve(mean, std, targets, bins)
    assert len(count) == min(size, bins)
    assert set(count.tolist()) <= {size // len(count), -(-size // len(count))}
    chunks = std.argsort().split(count.tolist())
    for value, root in ((std, rmv), (targets - mean, rmse)):
        expected = [float((value[chunk] ** 2).mean().sqrt()) for chunk in chunks]
        assert root.tolist() == pytest.approx(expected)
    gaps = [abs(v - e) / v for v, e in zip(rmv.tolist(), rmse.tolist(), strict=True)]
    assert float(ENCE(mean, std, targets, bins)) == pytest.approx(np.mean(gaps))


@pytest.mark.parametrize(("measure", "power"), [(LOSSES[1], 1), (UCE, 2), (ENCE, 0)])
def test_order_columns_and_unit(measure, power):
    mean, std, targets = draw(20, 3)
    order, value = torch.randperm(60), 3**power * measure(mean, std, targets)
    scaled = [v.flatten()[order] for v in (3 * mean + 5, 3 * std, 3 * targets + 5)]
    torch.testing.assert_close(measure(*scaled), value)


def test_one_prediction_and_equal_stds_by_hand():
    mean, std, targets = torch.tensor([[1.0], [2.0], [4.0]])
    assert (UCE(mean, std, targets), ENCE(mean, std, targets)) == (5, 0.5)
    assert metrics.pinball_loss(mean, std, targets, (0.5,)) == 1.5
    assert [metrics.fit_variance_scale(mean, std, y) for y in (targets, mean)] == [1.5, 1.0]
    assert UCE(torch.zeros(2), torch.full((2,), 2.0), torch.tensor([3.0, -1.0])) == 1


def test_calibrated_predictions_have_a_small_error_and_bold_ones_a_large():
    # 10 bins of 2,000: RMSE / RMV has a standard error of 0.016, so that ENCE is 0.013 ± 0.003. It
    # is above 0.03 by chance less than once in 10⁶ draws. Of half the std it is 1.00 ± 0.01.
    mean, std, targets = draw(20_000)
    assert ENCE(mean, std, targets, 10) < 0.03
    assert ENCE(mean, std / 2, targets, 10) > 0.95


@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
def test_variance_scale_is_found_and_most_likely(scale):
    mean, std, targets = draw(2000, scale=scale)
    fitted = metrics.fit_variance_scale(mean, std, targets)
    # N s² / scale² is χ² of N degrees: an interval missed once in 10⁶ draws.
    low, high = stats.chi2.interval(1 - 1e-6, 2000)
    assert low < 2000 * (fitted / scale) ** 2 < high
    lower, best, upper = (LOSSES[0](mean, f * fitted * std, targets) for f in (0.99, 1, 1.01))
    assert best < min(lower, upper)


@pytest.mark.parametrize("measure", LOSSES)
def test_half_precision_and_gradient(measure):
    # Integers that half precision holds, with squares that it does not; no two stds are the same.
    mean, std = torch.randint(-999, 999, (900,)).half(), 1 + torch.randperm(900).half()
    half = [mean.requires_grad_(), std.requires_grad_(), torch.zeros(900).half()]
    expected = measure(*(value.double() for value in half))
    torch.testing.assert_close(measure(*half), expected.float(), rtol=1e-4, atol=0)
    assert all(g.isfinite().all() & g.any() for g in torch.autograd.grad(expected, (mean, std)))


@pytest.mark.parametrize("measure", MEASURES)
def test_bad_predictions_are_refused(measure):
    for shapes in [((3,), (2,), (3,)), ((3, 1), (3,), (3,)), ((0,),) * 3, ((),) * 3]:
        with pytest.raises(InputError, match="mean, std and targets must have the same shape"):
            measure(*(torch.ones(shape) for shape in shapes))
    for bad in (0.0, -1.0, torch.nan):
        with pytest.raises(InputError, match="std must be above 0"):
            measure(torch.ones(2), torch.tensor([1.0, bad]), torch.ones(2))


def test_bins_and_quantiles_are_checked():
    for bins in (0, -1, 2.5, True):
        for measure in (UCE, ENCE, metrics.calibration_curve):
            with pytest.raises(InputError, match="bins"):
                measure(*draw(3), bins=bins)
    for quantiles in [(), (0.5, 1.0), (0.0,), (-0.1,), (torch.nan,)]:
        with pytest.raises(InputError, match="quantiles"):
            metrics.pinball_loss(*draw(3), quantiles)
