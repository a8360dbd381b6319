import pytest
import torch
from helpers import make_target
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from mixwell import InputError, MixedTarget
from mixwell.losses import DecoupledBCE, DecoupledCrossEntropy, MixedCrossEntropy

weightings = st.sampled_from(["lambda", "uniform"])


def wide_target(size, num_classes, seed=0):
    target = make_target(size, num_classes, seed)
    return MixedTarget(target.a, target.b, target.lam.double())


def by_loop(logits, target, eta, weighting):
    """The paper's formula, one sample at a time."""
    losses = []
    for z, a, b, lam in zip(logits, target.a, target.b, target.lam, strict=True):
        log_p = z.log_softmax(0)
        loss = -lam * log_p[a] - (1 - lam) * log_p[b]
        if a != b:
            w_a, w_b = (lam, 1 - lam) if weighting == "lambda" else (1, 1)
            others = [c for c in range(len(z)) if c not in (int(a), int(b))]
            for own, weight in ((a, w_a), (b, w_b)):
                rest = z[[int(own), *others]]
                loss = loss + eta * weight * (rest.logsumexp(0) - z[own])
        losses.append(loss)
    return torch.stack(losses)


def test_golden(golden):
    """The golden gradient comes from finite differences: it is good to about 1e-9."""
    data = golden("decoupled_ce")
    target = MixedTarget(data["a"], data["b"], data["lam"])
    for weighting in ("lambda", "uniform"):
        loss = DecoupledCrossEntropy(data["eta"], weighting, reduction="none")
        expected = data[f"per_sample_{weighting}_weighting"]
        torch.testing.assert_close(loss(data["logits"], target), expected, rtol=1e-10, atol=1e-14)
    single = DecoupledCrossEntropy(data["eta"], reduction="none")(
        data["logits"].float(), MixedTarget(data["a"], data["b"], data["lam"].float())
    )
    torch.testing.assert_close(
        single, data["per_sample_lambda_weighting"].float(), rtol=1e-5, atol=1e-6
    )
    logits = data["logits"].requires_grad_()
    DecoupledCrossEntropy(data["eta"])(logits, target).backward()
    torch.testing.assert_close(
        logits.grad, data["grad_of_mean_lambda_weighting"], rtol=0, atol=2e-9
    )


@given(st.integers(1, 8), st.integers(3, 7), weightings, st.integers(0, 99))
def test_equals_the_loop_over_samples_with_its_gradient(size, num_classes, weighting, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(size, num_classes, dtype=torch.float64, generator=generator)
    target = wide_target(size, num_classes, seed)
    ours, reference = (logits.clone().requires_grad_() for _ in range(2))
    value = DecoupledCrossEntropy(0.3, weighting, reduction="none")(ours, target)
    expected = by_loop(reference, target, 0.3, weighting)
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-12)
    value.mean().backward()
    expected.mean().backward()
    torch.testing.assert_close(ours.grad, reference.grad, rtol=1e-10, atol=1e-12)


@given(st.integers(1, 8), st.integers(2, 7), weightings, st.integers(0, 99))
def test_is_invariant_under_permutations_of_classes_rows_and_sides(
    size, num_classes, weighting, seed
):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(size, num_classes, dtype=torch.float64, generator=generator)
    target = wide_target(size, num_classes, seed)
    loss = DecoupledCrossEntropy(0.5, weighting, reduction="none")
    value = loss(logits, target)
    order = torch.randperm(num_classes, generator=generator)
    renamed = MixedTarget(order.argsort()[target.a], order.argsort()[target.b], target.lam)
    torch.testing.assert_close(loss(logits[:, order], renamed), value, rtol=1e-12, atol=1e-12)
    rows = torch.randperm(size, generator=generator)
    moved = MixedTarget(target.a[rows], target.b[rows], target.lam[rows])
    torch.testing.assert_close(loss(logits[rows], moved), value[rows], rtol=1e-12, atol=1e-12)
    swapped = MixedTarget(target.b, target.a, 1 - target.lam)
    torch.testing.assert_close(loss(logits, swapped), value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("weighting", ["lambda", "uniform"])
def test_is_the_mixed_cross_entropy_for_equal_classes_and_for_two_classes(weighting):
    loss = DecoupledCrossEntropy(1.0, weighting, reduction="none")
    plain = MixedCrossEntropy(reduction="none")
    logits, y = torch.randn(5, 4), torch.tensor([0, 1, 2, 3, 0])
    equal = MixedTarget(y, y, torch.rand(5))
    torch.testing.assert_close(loss(logits, equal), plain(logits, equal))
    binary = torch.randn(6, 2)
    target = make_target(6, 2)
    torch.testing.assert_close(loss(binary, target), plain(binary, target))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("num_classes", [2, 3, 50])
def test_is_finite_at_extreme_logits(dtype, num_classes):
    logits = (torch.randn(12, num_classes).sign() * 1e4).to(dtype).requires_grad_()
    target = make_target(12, num_classes)
    value = DecoupledCrossEntropy(weighting="uniform")(logits, target)
    value.backward()
    assert value.isfinite()
    assert logits.grad.isfinite().all()


def test_nothing_cancels_when_the_competitor_is_certain():
    """p_b = 1 to float precision: -log φ^{a,b} must still see the others behind it."""
    logits = torch.tensor([[0.0, 200.0, 3.0]], dtype=torch.float64, requires_grad=True)
    target = MixedTarget(torch.tensor([0]), torch.tensor([1]), torch.tensor([1.0]))
    loss = DecoupledCrossEntropy(1.0)(logits, target)
    decoupled = torch.tensor([0.0, 3.0], dtype=torch.float64).logsumexp(0)
    torch.testing.assert_close(loss, 200.0 + decoupled.detach())
    loss.backward()
    expected = torch.tensor([0.0, 3.0], dtype=torch.float64).softmax(0)
    torch.testing.assert_close(logits.grad[0, 2], expected[1])


def test_asymmetric_form_drops_the_partners_decoupled_term():
    logits, target = torch.randn(6, 5), make_target(6, 5)
    ours = DecoupledCrossEntropy(0.7, asymmetric=True, reduction="none")(logits, target)
    only_own = MixedTarget(target.a, target.b, torch.ones(6))
    rest = DecoupledCrossEntropy(0.7, asymmetric=True, reduction="none")(logits, only_own)
    own_term = rest - MixedCrossEntropy(reduction="none")(logits, only_own)
    plain = MixedCrossEntropy(reduction="none")(logits, target)
    torch.testing.assert_close(ours, plain + target.lam * own_term)


def test_eta_zero_is_the_mixed_cross_entropy_with_weights_and_smoothing():
    logits, target = torch.randn(6, 4), make_target(6, 4)
    weight = [1.0, 2.0, 3.0, 0.5]
    torch.testing.assert_close(
        DecoupledCrossEntropy(0.0, class_weight=weight, label_smoothing=0.2)(logits, target),
        MixedCrossEntropy(weight, 0.2)(logits, target),
    )


def test_class_weights_scale_both_of_a_sides_terms():
    logits = torch.randn(1, 4)
    target = MixedTarget(torch.tensor([1]), torch.tensor([2]), torch.tensor([1.0]))
    plain = DecoupledCrossEntropy(0.5, reduction="none")(logits, target)
    weighted = DecoupledCrossEntropy(0.5, class_weight=[1, 3, 9, 1], reduction="none")
    torch.testing.assert_close(weighted(logits, target), 3 * plain)


# ------------------------------------------------------------------------------------------- BCE


def test_golden_bce(golden):
    data = golden("decoupled_bce")
    target = MixedTarget(data["a"], data["b"], data["lam"])
    loss = DecoupledBCE(data["t"], data["k"], reduction="none")
    expected = data["per_element"].sum(1)
    torch.testing.assert_close(loss(data["logits"], target), expected, rtol=1e-10, atol=1e-14)


@given(st.integers(1, 8), st.integers(2, 6), st.integers(0, 50))
def test_bce_equals_torch_on_the_rescaled_dense_target(size, num_classes, seed):
    target = wide_target(size, num_classes, seed)
    logits = torch.randn(size, num_classes, dtype=torch.float64)
    dense = torch.zeros(size, num_classes, dtype=torch.float64)
    for y, part in ((target.a, target.lam), (target.b, 1 - target.lam)):
        share = ((part / 0.6) ** 2).clamp_max(1)
        dense.scatter_add_(1, y[:, None], share[:, None])
    expected = F.binary_cross_entropy_with_logits(logits, dense.clamp_max(1))
    mean = DecoupledBCE(0.6, 2, over_classes="mean")
    torch.testing.assert_close(mean(logits, target), expected)
    torch.testing.assert_close(DecoupledBCE(0.6, 2)(logits, target), num_classes * expected)
    total = DecoupledBCE(0.6, 2, "sum")(logits, target)
    torch.testing.assert_close(total, size * num_classes * expected)


def test_plain_two_hot():
    target = MixedTarget(torch.tensor([0]), torch.tensor([2]), torch.tensor([0.3]))
    logits = torch.randn(1, 4)
    expected = F.binary_cross_entropy_with_logits(logits, torch.tensor([[1.0, 0, 1, 0]]))
    loss = DecoupledBCE(t=1.0, k=0.0, over_classes="mean")
    torch.testing.assert_close(loss(logits, target), expected)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: DecoupledCrossEntropy(eta=-1), "eta must be"),
        (lambda: DecoupledCrossEntropy(weighting="mean"), "weighting='mean'"),
        (lambda: DecoupledBCE(t=0), "t must be"),
        (
            lambda: DecoupledCrossEntropy()(
                torch.randn(2, 3), MixedTarget.clean(torch.full((2, 3), 1 / 3))
            ),
            "two classes a sample",
        ),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(InputError, match=words):
        call()
