from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from mixwell import InputError, metrics
from mixwell.metrics import collapse

sizes = st.tuples(st.integers(2, 40), st.integers(2, 8), st.integers(1, 5), st.integers(0, 1000))


def draw(size: int, width: int, num_classes: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(size, width, generator=generator, dtype=torch.float64)
    return features, torch.randint(num_classes, (size,), generator=generator)


def pair_distances(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the squared distances of all pairs by the definition, and the pairs."""
    first, second = torch.triu_indices(len(features), len(features), 1)
    unit = features / features.norm(dim=1, keepdim=True)
    return (unit[first] - unit[second]).square().sum(1), first, second


def test_golden(golden):
    numbers = golden("collapse")
    features, labels = numbers["features"], numbers["labels"]
    for name, value in [
        ("alignment", metrics.alignment(features, labels)),
        ("uniformity", metrics.uniformity(features)),
    ]:
        assert float(value) == pytest.approx(numbers[name], abs=1e-12)
    assert float(metrics.uniformity(features.float())) == pytest.approx(
        numbers["uniformity"], abs=1e-6
    )


@given(sizes, st.sampled_from([0.5, 2.0, 2000.0]), st.sampled_from([1, 7, 2**21]))
def test_both_are_means_over_pairs(size, t, block):
    features, labels = draw(*size)
    distance, first, second = pair_distances(features)
    same = labels[first] == labels[second]
    torch.testing.assert_close(
        metrics.alignment(features, labels), distance[same].mean(), equal_nan=True
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collapse, "_BLOCK", block)
        torch.testing.assert_close(
            metrics.uniformity(features, t), (-t * distance).logsumexp(0) - torch.tensor(
                float(len(distance)), dtype=torch.float64
            ).log()
        )  # fmt: skip


@given(sizes)
def test_length_order_and_rotation_do_not_matter(size):
    features, labels = draw(*size)
    rows = torch.randperm(len(features))
    turn = torch.linalg.qr(torch.randn(size[1], size[1], dtype=torch.float64)).Q
    moved = (features * (0.1 + torch.rand(len(features), 1)) @ turn)[rows]
    torch.testing.assert_close(
        metrics.alignment(moved, 100 - 7 * labels[rows]),
        metrics.alignment(features, labels),
        equal_nan=True,
    )
    torch.testing.assert_close(metrics.uniformity(moved), metrics.uniformity(features))


def test_collapsed_features():
    labels = torch.arange(300) % 3
    features = 1 + 50 * torch.eye(3)[labels]
    # float32: the closed form must not leave cancellation for collapse.
    assert metrics.alignment(features, labels) < 1e-10
    assert metrics.alignment(features + 1e-3 * torch.randn(300, 3), labels) < 1e-7
    assert metrics.uniformity(torch.ones(300, 3)) == pytest.approx(0, abs=1e-5)


def test_a_row_of_zeros_is_defined():
    features = torch.cat([torch.zeros(2, 4), torch.eye(4)])
    assert metrics.alignment(features, torch.zeros(6).long()).isfinite()
    assert metrics.uniformity(features).isfinite()


def test_alignment_without_a_pair_is_nan():
    assert metrics.alignment(torch.eye(3), torch.arange(3)).isnan()


def test_gradients_are_those_of_the_pairs(monkeypatch):
    features, labels = draw(30, 5, 3, 0)
    monkeypatch.setattr(collapse, "_BLOCK", 30 * 7)
    for measure, reference in [
        (lambda f: metrics.alignment(f, labels), lambda d, same: d[same].mean()),
        (metrics.uniformity, lambda d, same: (-2 * d).exp().mean().log()),
    ]:
        own = features.clone().requires_grad_()
        measure(own).backward()
        other = features.clone().requires_grad_()
        distance, first, second = pair_distances(other)
        reference(distance, labels[first] == labels[second]).backward()
        torch.testing.assert_close(own.grad, other.grad)


MEMORY = """
import resource, torch
from mixwell import metrics
torch.set_num_threads(1)
small = torch.randn(500, 64)
labels = torch.arange(10_000) % 10
metrics.uniformity(small), metrics.alignment(small, labels[:500])
features = torch.randn(10_000, 64)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
metrics.uniformity(features), metrics.alignment(features, labels)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux only")
def test_ten_thousand_features_stay_below_64_mib():
    done = subprocess.run(
        [sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 64


# ------------------------------------------------------------------------------------- margins


def test_margins_of_a_symmetric_classifier():
    # Simplex: centres e_c, boundary of a and b at x_a = x_b: each is 1/√2 away.
    labels = torch.arange(12) % 4
    margins = metrics.class_margins(torch.eye(4)[labels], labels, 3 * torch.eye(4), torch.ones(4))
    off = ~torch.eye(4, dtype=torch.bool)
    torch.testing.assert_close(margins.pairs[off], torch.full((12,), 0.5**0.5))
    assert margins.pairs.diagonal().isnan().all()
    assert float(margins.mean) == pytest.approx(0.5**0.5)
    assert float(margins.balance) == pytest.approx(0, abs=1e-6)


def test_margins_are_distances_to_the_boundary():
    features, labels = draw(60, 5, 3, 1)
    weight = torch.randn(3, 5, dtype=torch.float64)
    bias = torch.randn(3, dtype=torch.float64)
    margins = metrics.class_margins(features, labels, weight, bias)
    length = features.square().sum(1).mean().sqrt()
    for a in range(3):
        for b in range(3):
            if a == b:
                continue
            centre = features[labels == a].mean(0)
            normal = weight[a] - weight[b]
            # Walk from the centre along the normal by the margin: there the logits are equal.
            foot = centre - margins.pairs[a, b] * length * normal / normal.norm()
            assert float(normal @ foot + bias[a] - bias[b]) == pytest.approx(0, abs=1e-9)
    values = margins.pairs[~margins.pairs.isnan()]
    assert float(margins.balance) == pytest.approx(
        float(values.std(correction=0) / values.mean()), rel=1e-9
    )
    scaled = metrics.class_margins(100 * features, labels, weight, 100 * bias)
    torch.testing.assert_close(scaled.pairs, margins.pairs, equal_nan=True)


def test_a_class_without_samples_has_no_margin():
    features, labels = torch.eye(3)[:2], torch.tensor([0, 1])
    margins = metrics.class_margins(features, labels, torch.eye(3))
    assert margins.pairs[2].isnan().all()
    assert margins.pairs[:, 2].isnan().all()
    assert margins.mean.isfinite()


# ------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.alignment(torch.ones(3), torch.ones(3).long()), r"features .* \(N, d\)"),
        (lambda: metrics.alignment(torch.ones(3, 2), torch.ones(2).long()), "labels"),
        (lambda: metrics.alignment(torch.full((3, 2), torch.inf), torch.ones(3).long()), "NaN"),
        (lambda: metrics.uniformity(torch.tensor(1.0)), "features"),
        (lambda: metrics.uniformity(torch.ones(1, 2)), "2 rows"),
        (lambda: metrics.uniformity(torch.ones(3, 2), t=0), "t=0"),
        (
            lambda: metrics.class_margins(torch.ones(3, 2), torch.arange(3), torch.ones(3, 4)),
            r"weight must have shape \(C, 2\)",
        ),
        (
            lambda: metrics.class_margins(torch.ones(3, 2), torch.arange(3), torch.ones(2, 2)),
            "labels must be from 0 to 1",
        ),
        (
            lambda: metrics.class_margins(
                torch.ones(3, 2), torch.arange(3), torch.ones(3, 2), torch.ones(2)
            ),
            "bias",
        ),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_half_precision_is_summed_in_float32():
    features = F.normalize(torch.randn(400, 16))
    labels = torch.arange(400) % 4
    for measure in (lambda f: metrics.alignment(f, labels), metrics.uniformity):
        assert measure(features.bfloat16()).dtype == torch.float32
        torch.testing.assert_close(
            measure(features.half()), measure(features.half().float()), atol=1e-5, rtol=0
        )
