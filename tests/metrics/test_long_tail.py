from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mixwell import InputError, metrics

MEASURES = [
    metrics.class_accuracies,
    metrics.balanced_accuracy,
    metrics.balanced_calibration_error,
    lambda probs, labels: metrics.shot_accuracies(probs, labels, torch.ones(probs.shape[1:2])),
]
sizes = st.tuples(st.integers(1, 60), st.integers(2, 6), st.integers(0, 1000))


def draw(size: int, num_classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(size, num_classes, generator=generator, dtype=torch.float64)
    # Of few samples or many classes, some class is missing.
    share = torch.tensor([2.0**-c for c in range(num_classes)])
    return logits.softmax(1), torch.multinomial(share, size, replacement=True, generator=generator)


@given(sizes)
def test_accuracies_agree_with_a_loop(size):
    probs, labels = draw(*size)
    expected = []
    for c in range(probs.shape[1]):
        own = probs.argmax(1)[labels == c].tolist()
        expected.append(own.count(c) / len(own) if own else np.nan)
    values, mean = metrics.class_accuracies(probs, labels), metrics.balanced_accuracy(probs, labels)
    assert values.tolist() == pytest.approx(expected, nan_ok=True)
    assert float(mean) == pytest.approx(np.nanmean(expected))


@given(sizes)
def test_balanced_calibration_error_agrees_with_a_loop(size):
    probs, labels = draw(*size)
    gaps = [0.0] * 10
    for row, label in zip(probs.tolist(), labels.tolist(), strict=True):
        weight = 1 / (len(labels.unique()) * int((labels == label).sum()))
        right = row.index(max(row)) == label
        gaps[int(np.ceil(max(row) * 10)) - 1] += weight * (right - max(row))
    value = metrics.balanced_calibration_error(probs, labels, bins=10)
    assert float(value) == pytest.approx(sum(map(abs, gaps)), abs=1e-12)


@given(st.integers(1, 10), st.integers(2, 5))
def test_on_balanced_samples_it_is_the_plain_measure(each, num_classes):
    probs, _ = draw(each * num_classes, num_classes)
    labels = torch.arange(len(probs)) % num_classes
    plain = [metrics.accuracy, metrics.expected_calibration_error]
    for balanced, measure in zip(MEASURES[1:3], plain, strict=True):
        torch.testing.assert_close(balanced(probs, labels), measure(probs, labels))


@given(sizes)
def test_a_class_counts_the_same_however_often_its_samples_are_repeated(size):
    probs, labels = draw(*size)
    times = torch.where(labels == labels[0], 4, 1)
    repeated = probs.repeat_interleave(times, 0), labels.repeat_interleave(times)
    for measure in MEASURES[:3]:
        torch.testing.assert_close(measure(*repeated), measure(probs, labels), equal_nan=True)


def test_shots_are_split_at_their_bounds():
    probs, labels = torch.eye(6)[[0, 0, 2, 0, 4, 0]], torch.arange(6)
    counts = torch.tensor([101, 5000, 100, 20, 19, 0])
    values = metrics.shot_accuracies(probs, labels, counts)
    assert values == {"many": 0.5, "medium": 0.5, "few": 0.5}
    assert float(metrics.shot_accuracies(probs, labels, counts, many=5000, few=1)["few"]) == 0
    assert set(metrics.shot_accuracies(probs, labels, counts, many=9, few=10)) == {"many", "few"}


def test_shot_accuracy_weighs_classes_and_leaves_out_those_without_samples():
    # Class 0 has three samples of which one is right, class 1 one that is; class 2 has none.
    labels, probs = torch.tensor([0, 0, 0, 1]), torch.eye(4)[[0, 1, 1, 1]]
    values = metrics.shot_accuracies(probs, labels, torch.tensor([200, 200, 200, 3]))
    assert set(values) == {"many"}
    assert float(values["many"]) == pytest.approx((1 / 3 + 1) / 2)


@pytest.mark.parametrize("measure", MEASURES[:3])
def test_half_precision_is_summed_in_float32(measure):
    probs, labels = draw(5000, 4)
    expected = measure(probs.half().double(), labels).float()
    torch.testing.assert_close(measure(probs.half(), labels), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize(
    ("probs", "labels", "message"),
    [
        (torch.eye(2), torch.tensor([0, 2]), "labels must be from 0 to 1"),
        (torch.eye(2), torch.tensor([0]), r"labels .* shape \(2,\)"),
        (torch.empty(0, 2), torch.empty(0).long(), "probs .* N ≥ 1"),
        (3 * torch.eye(2), torch.tensor([0, 1]), "probs must be probabilities"),
    ],
)
def test_bad_input_is_refused(measure, probs, labels, message):
    with pytest.raises(InputError, match=message):
        measure(probs, labels)


def test_class_counts_bounds_and_bins_are_checked():
    pair = torch.eye(2), torch.arange(2)
    for counts in (torch.ones(3), torch.ones(2, 1), torch.tensor(5)):
        with pytest.raises(InputError, match="class_counts and values must have one shape"):
            metrics.shot_accuracies(*pair, counts)
    with pytest.raises(InputError, match="few=22 must be at most many"):
        metrics.shot_accuracies(*pair, torch.ones(2), many=20, few=22)
    for bins in (0, -1, 2.5, True):
        with pytest.raises(InputError, match="bins"):
            metrics.balanced_calibration_error(*pair, bins=bins)
