from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import scipy.linalg
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


@pytest.mark.slow
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
        (lambda: metrics.uniformity(torch.ones(3, 2), t=0), "t must be"),
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


# ------------------------------------------------------------------------------ neural collapse


def slow_variability(features, labels):
    """NC1 by the definition: covariances, and SciPy's pseudo-inverse."""
    features, labels = features.numpy(), labels.numpy()
    classes = sorted(set(labels.tolist()))
    means = np.stack([features[labels == c].mean(0) for c in classes])
    between = (means - means.mean(0)).T @ (means - means.mean(0)) / len(classes)
    inverse = scipy.linalg.pinvh(between, rtol=1e-10)
    return {
        c: np.trace(np.cov(features[labels == c].T, bias=True) @ inverse) / len(classes)
        for c in classes
    }


def frame(num_classes, width, seed=0):
    """Return class means (C, d) that are a simplex equiangular tight frame, turned and moved."""
    generator = np.random.default_rng(seed)
    turn = np.linalg.qr(generator.normal(size=(width, num_classes)))[0].T
    corners = np.eye(num_classes) - 1 / num_classes
    return torch.from_numpy(3 * corners @ turn + generator.normal(size=width))


@pytest.mark.parametrize(("num_classes", "width"), [(2, 5), (4, 6), (6, 3), (9, 9)])
def test_variability_is_that_of_the_covariances(num_classes, width):
    generator = np.random.default_rng(num_classes)
    labels = np.concatenate([[c] * (3 + 4 * c) for c in range(num_classes)])
    labels[labels == 0] = num_classes  # class 0 has no samples
    features = torch.from_numpy(
        generator.normal(size=(num_classes + 1, width))[labels]
        + 0.3 * generator.normal(size=(len(labels), width))
    )
    found = metrics.class_variability(features, torch.from_numpy(labels))
    wanted = slow_variability(features, torch.from_numpy(labels))
    assert found[0].isnan()
    for c, value in wanted.items():
        assert float(found[c]) == pytest.approx(value, rel=1e-8), c
    turn = torch.from_numpy(np.linalg.qr(generator.normal(size=(width, width)))[0])
    moved = 70 * features @ turn + 5
    torch.testing.assert_close(
        metrics.class_variability(moved, torch.from_numpy(labels)), found, equal_nan=True
    )


def test_on_balanced_data_its_mean_is_the_source_s():
    features, labels = draw(60, 5, 4, 2)
    labels = torch.arange(60) % 4
    within = sum(np.cov(features[labels == c].numpy().T, bias=True) for c in range(4)) / 4
    means = np.stack([features[labels == c].mean(0).numpy() for c in range(4)])
    between = (means - features.mean(0).numpy()).T @ (means - features.mean(0).numpy()) / 4
    assert float(metrics.class_variability(features, labels).mean()) == pytest.approx(
        np.trace(within @ np.linalg.pinv(between, rcond=1e-10)) / 4, rel=1e-9
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_collapsed_network(dtype):
    means = frame(5, 8).to(dtype)
    labels = torch.arange(40) % 5
    features = means[labels]
    small = 1e-5 if dtype == torch.float32 else 1e-12
    assert metrics.class_variability(features, labels).amax() < small
    fit = metrics.simplex_fit(features, labels)
    assert max(float(fit.distance), float(fit.norms), float(fit.angles)) < small
    # Rows that are the centred means, at any scale, and turned against them.
    weight = 0.2 * (means - means.mean(0))
    assert metrics.self_duality(features, labels, weight) < small
    assert float(metrics.self_duality(features, labels, -weight)) == pytest.approx(2)


def test_one_spread_class_shows_in_its_own_variability_alone():
    labels = torch.arange(40) % 4
    noise = torch.randn(40, 6, dtype=torch.float64) * (labels == 2)[:, None]
    noise[labels == 2] -= noise[labels == 2].mean(0)
    found = metrics.class_variability(frame(4, 6)[labels] + noise, labels)
    assert found[2] > 0.01
    assert found[[0, 1, 3]].amax() < 1e-12


def test_simplex_and_duality_are_those_of_the_definition():
    features, labels = draw(80, 6, 5, 3)
    labels = torch.arange(80) % 5
    weight = torch.randn(5, 6, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    means = np.stack([features[labels == c].mean(0).numpy() for c in range(5)])
    means -= means.mean(0)
    gram, length = means @ means.T, np.linalg.norm(means, axis=1)
    wanted = (np.eye(5) - 1 / 5) / 4**0.5
    fit = metrics.simplex_fit(features, labels)
    assert float(fit.distance) == pytest.approx(
        np.linalg.norm(gram / np.linalg.norm(gram) - wanted), rel=1e-9
    )
    assert float(fit.norms) == pytest.approx(length.std() / length.mean(), rel=1e-9)
    cosines = [gram[a, b] / length[a] / length[b] + 0.25 for a in range(5) for b in range(a + 1, 5)]
    assert float(fit.angles) == pytest.approx(np.abs(cosines).mean(), rel=1e-9)
    rows = weight.numpy()
    assert float(metrics.self_duality(features, labels, weight)) == pytest.approx(
        np.linalg.norm(rows / np.linalg.norm(rows) - means / np.linalg.norm(means)), rel=1e-9
    )


def test_unequal_lengths_and_angles_are_told_apart():
    labels = torch.arange(12) % 3
    corners = frame(3, 3) - frame(3, 3).mean(0)
    # In the plane of three corners, lengths 1, and 90, 135 and 135 degrees between them.
    turned = torch.tensor([[1, 0.0], [0, 1], [-(0.5**0.5), -(0.5**0.5)]], dtype=torch.float64)
    longer = corners * torch.tensor([1.0, 1.0, 2.0])[:, None]
    by_length, by_angle = (metrics.simplex_fit(m[labels], labels) for m in (longer, turned))
    assert by_length.norms > 0.1
    assert by_angle.angles > 0.1
    assert by_length.distance > 0.1
    assert by_angle.distance > 0.1


def test_classes_without_samples_count_for_nothing():
    features, labels = draw(60, 6, 4, 5)
    weight = torch.randn(4, 6, dtype=torch.float64)
    wide, gap = torch.zeros(6, 6, dtype=torch.float64), torch.tensor([0, 2, 3, 5])
    wide[gap] = weight
    wide[1] = 100.0
    assert metrics.self_duality(features, gap[labels], wide) == metrics.self_duality(
        features, labels, weight
    )
    assert (
        metrics.simplex_fit(features, gap[labels]).distance
        == metrics.simplex_fit(features, labels).distance
    )


def test_fine_classes_within_coarse_ones():
    features, fine = draw(90, 5, 6, 6)
    fine = torch.arange(90) % 6
    coarse = torch.tensor([0, 0, 0, 2, 2, 4])[fine]
    found = metrics.nested_variability(features, fine, coarse)
    assert found[[1, 3, 4]].isnan().all()  # no samples, or one class alone
    for group in (0, 2):
        inside = coarse == group
        wanted = slow_variability(features[inside], fine[inside])
        assert float(found[group]) == pytest.approx(sum(wanted.values()) / len(wanted), rel=1e-8)
    # Where the coarse classes lie says nothing of how their fine ones are told apart.
    apart = features + 100 * torch.eye(5, dtype=torch.float64)[coarse]
    torch.testing.assert_close(metrics.nested_variability(apart, fine, coarse), found,
                               equal_nan=True)  # fmt: skip


@pytest.mark.parametrize("value", [0.0, 0.1, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_dead_network_has_no_collapse(value, dtype):
    features, labels = torch.full((30, 4), value, dtype=dtype), torch.arange(30) % 3
    assert metrics.class_variability(features, labels).isnan().all()
    assert metrics.simplex_fit(features, labels).distance.isnan()
    assert metrics.simplex_fit(features, labels).angles.isnan()
    assert metrics.self_duality(features, labels, torch.eye(3, 4)).isnan()


def test_one_class_alone_has_none_either():
    features, labels = draw(20, 4, 1, 0)
    assert metrics.class_variability(features, labels).isnan().all()
    assert metrics.simplex_fit(features, labels).norms.isnan()
    assert metrics.self_duality(features, labels, torch.eye(3, 4)).isnan()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.class_variability(torch.ones(3), torch.arange(3)), "features"),
        (lambda: metrics.class_variability(torch.ones(2, 2), torch.tensor([0, -1])), "from 0 to"),
        (lambda: metrics.simplex_fit(torch.ones(3, 2), torch.ones(3)), "labels"),
        (
            lambda: metrics.self_duality(torch.ones(3, 2), torch.arange(3), torch.ones(3, 4)),
            r"weight must have shape \(C, 2\)",
        ),
        (
            lambda: metrics.self_duality(torch.ones(3, 2), torch.arange(3), torch.ones(2, 2)),
            "labels must be from 0 to 1",
        ),
        (
            lambda: metrics.nested_variability(
                torch.ones(3, 2), torch.arange(3), torch.zeros(2).long()
            ),
            "groups",
        ),
    ],
)
def test_what_has_no_collapse_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
