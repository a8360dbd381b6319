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


# --------------------------------------------------------------------------------- sides and powers


def sided(side, power=1.0, **settings):
    return DecoupledCrossEntropy(0.7, side=side, power=power, reduction="none", **settings)


powers = st.sampled_from([0.0, 0.5, 1.0, 2.0])


@given(st.integers(1, 8), st.integers(3, 7), powers, st.integers(0, 99))
def test_the_two_sides_are_the_whole(size, num_classes, power, seed):
    target = wide_target(size, num_classes, seed)
    logits = torch.randn(size, num_classes, dtype=torch.float64)
    plain = MixedCrossEntropy(reduction="none")(logits, target)
    parts = [sided(side, power)(logits, target) - plain for side in ("heavier", "lighter", "both")]
    torch.testing.assert_close(parts[0] + parts[1], parts[2], rtol=1e-10, atol=1e-10)


@given(
    st.integers(1, 8), st.integers(2, 7), st.sampled_from(["heavier", "lighter"]), powers,
    st.integers(0, 99),
)  # fmt: skip
def test_a_side_is_chosen_by_no_order(size, num_classes, side, power, seed):
    """Neither by that of classes, nor of rows, nor of the two samples; also at λ = 1/2."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(size, num_classes, dtype=torch.float64, generator=generator)
    target, loss = wide_target(size, num_classes, seed), sided(side, power)
    value = loss(logits, target)
    order = torch.randperm(num_classes, generator=generator)
    renamed = MixedTarget(order.argsort()[target.a], order.argsort()[target.b], target.lam)
    torch.testing.assert_close(loss(logits[:, order], renamed), value, rtol=1e-12, atol=1e-12)
    rows = torch.randperm(size, generator=generator)
    moved = MixedTarget(target.a[rows], target.b[rows], target.lam[rows])
    torch.testing.assert_close(loss(logits[rows], moved), value[rows], rtol=1e-12, atol=1e-12)
    swapped = MixedTarget(target.b, target.a, 1 - target.lam)
    torch.testing.assert_close(loss(logits, swapped), value, rtol=1e-12, atol=1e-12)


def test_at_one_half_a_side_is_the_mean_of_both_its_limits():
    logits = torch.randn(1, 5, dtype=torch.float64)
    for side in ("heavier", "lighter"):
        at = [
            sided(side)(logits, MixedTarget(torch.tensor([1]), torch.tensor([3]),
                                            torch.tensor([lam], dtype=torch.float64)))
            for lam in (0.5 - 1e-9, 0.5, 0.5 + 1e-9)
        ]  # fmt: skip
        assert (at[0] - at[2]).abs() > 1e-3
        torch.testing.assert_close(at[1], (at[0] + at[2]) / 2, rtol=1e-7, atol=1e-7)


def test_uniform_is_the_power_0():
    logits, target = torch.randn(9, 5), make_target(9, 5)
    for asymmetric in (False, True):
        uniform, power = (
            DecoupledCrossEntropy(0.3, asymmetric=asymmetric, **how)(logits, target)
            for how in ({"weighting": "uniform"}, {"power": 0.0})
        )
        torch.testing.assert_close(uniform, power)


@pytest.mark.parametrize("side", ["both", "heavier", "lighter"])
@pytest.mark.parametrize("power", [0.0, 0.5])
def test_sides_with_class_weights_smoothing_and_from_features(side, power):
    """The regularizer has the class's weight, and the smoothing is the cross-entropy's alone."""
    target = wide_target(6, 5)
    features, layer = torch.randn(6, 3).double(), torch.randn(5, 3).double()
    weight = torch.tensor([1.0, 2.0, 0.5, 3.0, 1.0])
    loss = sided(side, power, class_weight=weight, label_smoothing=0.2)
    value = loss(features @ layer.T, target)
    torch.testing.assert_close(loss.from_features(features, layer, None, target), value)
    plain = MixedCrossEntropy(weight, 0.2, reduction="none")(features @ layer.T, target)
    for i, z in enumerate(features @ layer.T):
        a, b, lam = int(target.a[i]), int(target.b[i]), float(target.lam[i])
        expected = 0.0
        for own, other, share in ((a, b, lam), (b, a, 1 - lam)):
            others = [c for c in range(5) if c != other]
            hard = float(z[others].logsumexp(0) - z[own]) if a != b else 0.0
            chosen = {"both": 1.0, "heavier": share > 0.5, "lighter": share < 0.5}[side]
            chosen = 0.5 if share == 0.5 and side != "both" else float(chosen)
            expected += 0.7 * chosen * share**power * float(weight[own]) * hard
        assert float(value[i] - plain[i]) == pytest.approx(expected, rel=1e-9, abs=1e-12)


# -------------------------------------------------------------------------------------- by position


IGNORED = 255


def maps(seed=0):
    """Logits and a target of a segmentation, some of whose positions are ignored on each side."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 5, 3, 4, generator=generator).double()
    a, b = torch.randint(5, (2, 2, 3, 4), generator=generator)
    a[:, 0], b[:, :, 0] = IGNORED, IGNORED  # both at [:, 0, 0]
    lam = torch.rand(2, 3, 4, generator=generator).double()
    return logits, MixedTarget(a, b, lam)


@pytest.mark.parametrize("side", ["both", "heavier"])
@pytest.mark.parametrize("weighting", ["lambda", "uniform"])
@pytest.mark.parametrize("class_weight", [None, [1.0, 2.0, 0.5, 3.0, 1.0]])
def test_ignored_positions_leave_what_is_known(side, weighting, class_weight):
    logits, target = maps()
    settings = {"class_weight": class_weight, "label_smoothing": 0.1}
    loss = DecoupledCrossEntropy(0.5, weighting, ignore_index=IGNORED, side=side, **settings)
    loss.reduction = "none"
    value = loss(logits, target)
    single = DecoupledCrossEntropy(0.5, weighting, side=side, reduction="none", **settings)
    clean = MixedCrossEntropy(reduction="none", **settings)
    weights = torch.ones(5) if class_weight is None else torch.tensor(class_weight)
    total = whole = 0.0
    for place in ((i, h, w) for i in range(2) for h in range(3) for w in range(4)):
        z = logits[place[0], :, place[1], place[2]][None]
        a, b, lam = target.a[place].view(1), target.b[place].view(1), target.lam[place].view(1)
        one = torch.ones(1).double()
        if a == IGNORED and b == IGNORED:
            expected, share = torch.zeros(1).double(), 0.0
        elif a == IGNORED:
            expected = (1 - lam) * clean(z, MixedTarget(b, b, one))
            share = float((1 - lam) * weights[b])
        elif b == IGNORED:
            expected, share = lam * clean(z, MixedTarget(a, a, one)), float(lam * weights[a])
        else:
            expected = single(z, MixedTarget(a, b, lam))
            share = float(lam * weights[a] + (1 - lam) * weights[b])
        torch.testing.assert_close(value[place].view(1), expected, rtol=1e-6, atol=1e-9)
        total, whole = total + float(expected), whole + share
    loss.reduction = "mean"
    assert float(loss(logits, target)) == pytest.approx(total / whole, rel=1e-6)


@pytest.mark.parametrize("loss", [MixedCrossEntropy, DecoupledCrossEntropy])
@pytest.mark.parametrize("class_weight", [None, [1.0, 2.0, 0.5, 3.0, 1.0]])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_unmixed_maps_have_torchs_own_loss(loss, class_weight, smoothing):
    logits, target = maps()
    alone = MixedTarget(target.a, target.b, torch.ones(2))
    ours = loss(class_weight=class_weight, label_smoothing=smoothing, ignore_index=IGNORED)
    if loss is DecoupledCrossEntropy:  # of λ = 1, the own term is there still
        ours.eta = 0.0
    weight = None if class_weight is None else torch.tensor(class_weight).double()
    expected = F.cross_entropy(
        logits, target.a, weight, ignore_index=IGNORED, label_smoothing=smoothing
    )
    torch.testing.assert_close(ours(logits, alone), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("make", [MixedCrossEntropy, DecoupledCrossEntropy])
def test_labels_that_are_no_class_are_named(make):
    logits, target = maps()
    with pytest.raises(InputError, match=r"target.a must hold class indices in \[0, 4\].* 255"):
        make()(logits, target)
    b = target.b.clone()
    b[0, 1, 1] = -1
    with pytest.raises(InputError, match=r"target.b must hold class indices .* from -1 to"):
        make(ignore_index=IGNORED)(logits, MixedTarget(target.a, b, target.lam))


# ---------------------------------------------------------------------------------------------- BCE


def test_golden_bce(golden):
    data = golden("decoupled_bce")
    target = MixedTarget(data["a"], data["b"], data["lam"])
    loss = DecoupledBCE(data["t"], data["k"], reduction="none")
    expected = data["per_element"].sum(1)
    torch.testing.assert_close(loss(data["logits"], target), expected, rtol=1e-10, atol=1e-14)


@given(st.integers(1, 6), st.integers(2, 6), st.integers(0, 50))
def test_asymmetric_bce_rescales_the_own_side_alone(size, num_classes, seed):
    target = wide_target(size, num_classes, seed)
    logits = torch.randn(size, num_classes, dtype=torch.float64)
    dense = torch.zeros(size, num_classes, dtype=torch.float64)
    dense.scatter_add_(1, target.a[:, None], (target.lam / 0.8).clamp_max(1)[:, None])
    dense.scatter_add_(1, target.b[:, None], 1 - target.lam[:, None])
    expected = F.binary_cross_entropy_with_logits(logits, dense.clamp_max(1), reduction="none")
    loss = DecoupledBCE(asymmetric=True)
    torch.testing.assert_close(loss(logits, target), expected.sum(1).mean())
    rows = [F.one_hot(y, num_classes).double() for y in (target.a, target.b)]
    multilabel = loss(logits, MixedTarget(*rows, target.lam))
    torch.testing.assert_close(multilabel, expected.sum(1).mean())


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
        (lambda: DecoupledBCE(over_classes="all"), "over_classes='all'"),
        (lambda: DecoupledCrossEntropy(eta=float("nan")), "eta must be"),
        (lambda: DecoupledCrossEntropy(eta=float("inf")), "eta must be"),
        (lambda: DecoupledCrossEntropy(eta="much"), "eta must be"),
        (lambda: DecoupledCrossEntropy(power=-1), "power must be"),
        (lambda: DecoupledCrossEntropy(side="more"), "side='more'"),
        (lambda: DecoupledCrossEntropy(weighting="uniform", power=0.5), "power=0.5 raises shares"),
        (lambda: DecoupledCrossEntropy(side="lighter", asymmetric=True), "side='lighter' and"),
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
