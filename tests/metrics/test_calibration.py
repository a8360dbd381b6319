from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from mixwell import InputError, metrics

BINNED = [metrics.expected_calibration_error, metrics.adaptive_calibration_error]
PROBABILISTIC = [*BINNED, metrics.brier_score]


def draw(size: int, num_classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(size, num_classes, generator=generator, dtype=torch.float64)
    return logits, torch.randint(num_classes, (size,), generator=generator)


def draw_calibrated(size: int, num_classes: int) -> tuple[Tensor, Tensor]:
    logits, _ = draw(size, num_classes)
    generator = torch.Generator().manual_seed(1)
    return logits, torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]


sizes = st.tuples(st.integers(1, 60), st.integers(2, 6), st.integers(0, 1000))


@pytest.mark.parametrize(
    ("name", "measure"),
    [
        ("ece", metrics.expected_calibration_error),
        ("adaptive_ece", metrics.adaptive_calibration_error),
        ("brier", metrics.brier_score),
    ],
)
def test_golden(golden, name, measure):
    numbers = golden("calibration")
    assert float(measure(numbers["probs"], numbers["labels"])) == pytest.approx(
        numbers[name], abs=1e-12
    )
    assert float(measure(numbers["probs"].float(), numbers["labels"])) == pytest.approx(
        numbers[name], abs=1e-6
    )


@given(sizes)
def test_order_of_samples_and_classes_does_not_matter(size):
    logits, labels = draw(*size)
    # Rounded, so that many samples tie.
    probs = F.normalize((logits.softmax(1) * 4).round() + 0.01, p=1, dim=1)
    rows = torch.randperm(len(labels))
    columns = torch.randperm(probs.shape[1])
    for measure in PROBABILISTIC:
        value = measure(probs, labels)
        torch.testing.assert_close(measure(probs[rows], labels[rows]), value)
        if measure is metrics.brier_score:
            torch.testing.assert_close(measure(probs[:, columns], columns.argsort()[labels]), value)


@given(sizes)
def test_one_bin_is_the_gap_of_the_means(size):
    logits, labels = draw(*size)
    probs = logits.softmax(1)
    gap = (metrics.accuracy(probs, labels) - probs.amax(1).mean()).abs()
    for measure in BINNED:
        torch.testing.assert_close(measure(probs, labels, bins=1), gap)
        # More bins can only show more of it.
        assert measure(probs, labels, bins=15) >= gap - 1e-12


def test_many_bins_hold_a_sample_each():
    logits, labels = draw(20, 4)
    probs = logits.softmax(1)
    confidence, predicted = probs.max(1)
    each = ((predicted == labels).double() - confidence).abs().mean()
    for bins in (20, 33):
        torch.testing.assert_close(
            metrics.adaptive_calibration_error(probs, labels, bins=bins), each
        )


def test_calibrated_predictions_have_a_small_error_and_bold_ones_a_large():
    logits, labels = draw_calibrated(20_000, 5)
    probs = logits.softmax(1)
    for measure in BINNED:
        assert measure(probs, labels) < 0.015
        assert measure((3 * logits).softmax(1), labels) > 0.1


def test_reliability_diagram_adds_up_to_the_error():
    logits, labels = draw(300, 3)
    probs = logits.softmax(1)
    diagram = metrics.reliability_diagram(probs, labels, bins=10)
    assert diagram.count.sum() == 300
    assert diagram.edges.tolist() == pytest.approx([i / 10 for i in range(11)])
    filled = diagram.count > 0
    # The highest of three probabilities is above 1/3: the first bins are empty, and say so.
    assert not filled[:3].any()
    assert diagram.accuracy[:3].isnan().all()
    assert diagram.confidence[:3].isnan().all()
    within = (diagram.confidence > diagram.edges[:-1]) & (diagram.confidence <= diagram.edges[1:])
    assert within[filled].all()
    gaps = (diagram.accuracy - diagram.confidence).abs() * diagram.count
    torch.testing.assert_close(
        gaps.nansum() / 300, metrics.expected_calibration_error(probs, labels, bins=10)
    )


def test_certain_predictions_fall_into_the_last_bin():
    diagram = metrics.reliability_diagram(torch.eye(4), torch.arange(4))
    assert diagram.count.tolist() == [0] * 14 + [4]
    assert metrics.expected_calibration_error(torch.eye(4), torch.arange(4)) == 0


@given(sizes)
def test_likelihood_and_brier_by_their_definitions(size):
    logits, labels = draw(*size)
    probs, hot = logits.softmax(1), F.one_hot(labels, logits.shape[1])
    torch.testing.assert_close(
        metrics.negative_log_likelihood(logits, labels), -(probs.log() * hot).sum(1).mean()
    )
    torch.testing.assert_close(
        metrics.brier_score(probs, labels), (probs - hot).square().sum(1).mean()
    )


@pytest.mark.parametrize("measure", PROBABILISTIC)
def test_gradient_reaches_the_logits(measure):
    logits, labels = draw(50, 4)
    logits.requires_grad_()
    measure(logits.softmax(1), labels).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert logits.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float32(dtype):
    logits, labels = draw(5000, 10)
    probs = logits.softmax(1).to(dtype)
    for measure in PROBABILISTIC:
        value = measure(probs, labels)
        assert value.dtype == torch.float32
        torch.testing.assert_close(
            value.double(), measure(probs.double(), labels), atol=1e-4, rtol=0
        )
    assert (
        metrics.negative_log_likelihood(torch.tensor([[1e4, -1e4]]).to(dtype), labels[:1] * 0) == 0
    )


# ------------------------------------------------------------------------- temperature scaling


@given(sizes)
def test_temperature_minimises_the_likelihood(size):
    logits, labels = draw(*size)
    temperature = metrics.fit_temperature(logits, labels)
    wrong = bool((logits.argmax(1) != labels).any())
    own = logits.gather(1, labels[:, None])[:, 0]
    if not wrong or own.mean() <= logits.mean(1).mean():
        assert 0 < temperature < 1e4
        return
    best = metrics.negative_log_likelihood(logits / temperature, labels)
    for factor in (0.9, 0.999, 1.001, 1.1):
        assert metrics.negative_log_likelihood(logits / (temperature * factor), labels) >= best


@pytest.mark.parametrize("scale", [1e-6, 0.3, 1.0, 1e4])
def test_temperature_undoes_the_scale_of_logits(scale):
    logits, labels = draw_calibrated(20_000, 5)
    assert metrics.fit_temperature(scale * logits, labels) == pytest.approx(scale, rel=0.05)
    exact = metrics.fit_temperature(logits, labels)
    assert metrics.fit_temperature(scale * logits, labels) == pytest.approx(scale * exact, rel=1e-9)
    assert metrics.fit_temperature(logits + 1e3, labels) == pytest.approx(exact, rel=1e-9)


def test_temperature_where_all_are_right_depends_on_how_many_they_are():
    fitted = []
    for size in (10, 100, 1000):
        labels = torch.arange(size) % 3
        logits = 5.0 * F.one_hot(labels, 3)
        temperature = metrics.fit_temperature(logits, labels)
        wrong = 1 - (logits / temperature).softmax(1).amax(1).double().mean()
        # As Platt's smoothed labels: one wrong of N + 2.
        assert float(wrong) == pytest.approx(1 / (size + 2), rel=1e-3)
        fitted.append(temperature)
    assert fitted == sorted(fitted, reverse=True)


def test_temperature_of_hopeless_logits_makes_them_uniform():
    labels = torch.arange(12) % 3
    logits = -7.0 * F.one_hot(labels, 3)
    probs = (logits / metrics.fit_temperature(logits, labels)).softmax(1)
    torch.testing.assert_close(probs, torch.full((12, 3), 1 / 3), atol=2e-3, rtol=0)


@pytest.mark.parametrize("logits", [torch.zeros(4, 3), torch.randn(4, 1), torch.full((4, 2), 1e4)])
def test_temperature_that_changes_nothing_is_one(logits):
    assert metrics.fit_temperature(logits, torch.zeros(4).long()) == 1.0


def test_temperature_of_half_precision_logits_and_of_one_sample():
    logits, labels = draw(200, 4)
    half = metrics.fit_temperature(logits.half(), labels)
    assert half == pytest.approx(metrics.fit_temperature(logits, labels), rel=1e-2)
    assert metrics.fit_temperature(logits[:1], labels[:1]) > 0


# ------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize("measure", [*PROBABILISTIC, metrics.accuracy, metrics.fit_temperature])
@pytest.mark.parametrize(
    ("rows", "labels", "message"),
    [
        (torch.full((3, 2), 0.5), torch.tensor([0, 1, 2]), "labels must be from 0 to 1.*0 to 2"),
        (torch.full((3, 2), 0.5), torch.tensor([0, -1, 1]), "labels must be from 0 to 1.*-1 to 1"),
        (torch.full((3, 2), 0.5), torch.tensor([0, 1]), r"labels .* shape \(3,\)"),
        (torch.full((3, 2), 0.5), torch.tensor([0.0, 1, 1]), "labels must hold whole"),
        (torch.full((3,), 0.5), torch.tensor([0, 1, 1]), r"must be .* \(N, C\)"),
        (torch.ones(3, 2).long(), torch.tensor([0, 1, 1]), "must hold floating"),
        (torch.empty(0, 2), torch.empty(0).long(), "N ≥ 1"),
        (torch.full((3, 2), torch.nan), torch.tensor([0, 1, 1]), "NaN"),
    ],
)
def test_bad_input_is_refused(measure, rows, labels, message):
    with pytest.raises(InputError, match=message):
        measure(rows, labels)


@pytest.mark.parametrize("measure", PROBABILISTIC)
def test_logits_are_no_probabilities(measure):
    logits, labels = draw(10, 3)
    with pytest.raises(InputError, match=r"logits.softmax\(1\)"):
        measure(logits, labels)


@pytest.mark.parametrize("bins", [0, -1, 2.5, True])
def test_bins_must_be_a_count(bins):
    for measure in BINNED:
        with pytest.raises(InputError, match="bins"):
            measure(torch.eye(2), torch.arange(2), bins=bins)
