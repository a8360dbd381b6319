import pytest
import torch
from helpers import make_target
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from mixwell import InputError, MixedTarget
from mixwell.losses import MixedCrossEntropy

sizes = st.integers(1, 9)
classes = st.integers(2, 8)


def test_golden(golden):
    data = golden("mixed_cross_entropy")
    target = MixedTarget(data["a"], data["b"], data["lam"])
    loss = MixedCrossEntropy(reduction="none")
    torch.testing.assert_close(
        loss(data["logits"], target), data["per_sample"], rtol=1e-10, atol=1e-14
    )
    single = MixedTarget(data["a"], data["b"], data["lam"].float())
    torch.testing.assert_close(
        loss(data["logits"].float(), single), data["per_sample"].float(), rtol=1e-5, atol=1e-6
    )


@given(sizes, classes, st.booleans(), st.sampled_from([0.0, 0.1, 1.0]), st.integers(0, 99))
def test_equals_torch_on_dense_targets(size, num_classes, weighted, smoothing, seed):
    """Torch's own dense form, whose mean divides by B also with class weights."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(size, num_classes, dtype=torch.float64, generator=generator)
    target = make_target(size, num_classes, seed)
    target = MixedTarget(target.a, target.b, target.lam.double())
    weight = torch.rand(num_classes, dtype=torch.float64, generator=generator) if weighted else None
    weight = None if weight is None else weight.float().double()
    dense = target.dense(num_classes)
    expected = F.cross_entropy(logits, dense, weight, reduction="none", label_smoothing=smoothing)
    loss = MixedCrossEntropy(weight, smoothing, reduction="none")
    torch.testing.assert_close(loss(logits, target), expected)
    torch.testing.assert_close(loss(logits, dense), expected)
    total = MixedCrossEntropy(weight, smoothing, reduction="sum")
    torch.testing.assert_close(total(logits, target), expected.sum())
    divisor = size if weight is None else (dense @ weight).sum()
    for form in (target, dense):
        mean = MixedCrossEntropy(weight, smoothing)(logits, form)
        torch.testing.assert_close(mean, expected.sum() / divisor)


def test_unmixed_targets_give_torchs_loss_with_all_its_options():
    logits, y = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    weight = torch.tensor([1.0, 2.0, 0.5, 3.0])
    expected = F.cross_entropy(logits, y, weight, label_smoothing=0.1)
    torch.testing.assert_close(
        MixedCrossEntropy(weight, 0.1)(logits, MixedTarget.clean(y)), expected
    )


def test_soft_labels_mix_densely():
    a, b = torch.rand(2, 5, 3).softmax(-1)
    target = MixedTarget(a, b, torch.rand(5))
    logits = torch.randn(5, 3)
    torch.testing.assert_close(
        MixedCrossEntropy()(logits, target), F.cross_entropy(logits, target.dense())
    )


def test_sample_weights_leave_samples_out():
    logits, target = torch.randn(4, 3), make_target(4, 3)
    kept = MixedTarget(target.a[:2], target.b[:2], target.lam[:2])
    weighted = MixedTarget(target.a, target.b, target.lam, torch.tensor([1.0, 1, 0, 0]))
    loss = MixedCrossEntropy()
    torch.testing.assert_close(loss(logits, weighted), loss(logits[:2], kept))
    none = MixedTarget(target.a, target.b, target.lam, torch.zeros(4))
    logits.requires_grad_()
    value = loss(logits, none)
    value.backward()
    assert value == 0
    assert logits.grad.abs().sum() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_finite_at_extreme_logits(dtype):
    logits = (torch.tensor([[1e4, -1e4, 0.0], [-1e4, -1e4, 1e4]])).to(dtype).requires_grad_()
    target = MixedTarget(torch.tensor([0, 1]), torch.tensor([1, 0]), torch.tensor([0.5, 1.0]))
    value = MixedCrossEntropy(label_smoothing=0.1)(logits, target)
    value.backward()
    assert value.isfinite()
    assert logits.grad.isfinite().all()


def test_a_class_ruled_out_does_not_harm_where_it_has_no_weight():
    logits = torch.tensor([[1.0, 2.0, -torch.inf]], requires_grad=True)
    target = MixedTarget(torch.tensor([0]), torch.tensor([2]), torch.tensor([1.0]))
    value = MixedCrossEntropy()(logits, target)
    value.backward()
    torch.testing.assert_close(value, F.cross_entropy(logits, torch.tensor([0])))
    assert logits.grad.isfinite().all()


def test_gradcheck():
    logits = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    target = make_target(5, 4)
    loss = MixedCrossEntropy([1.0, 2, 3, 4], 0.1)
    assert torch.autograd.gradcheck(lambda z: loss(z, target), logits)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8])
@pytest.mark.parametrize("wide", [torch.float32, torch.float64])
def test_class_indices_of_any_whole_numbers(dtype, wide):
    logits, target = torch.randn(5, 4, dtype=wide), make_target(5, 4)
    short = MixedTarget(target.a.to(dtype), target.b.to(dtype), target.lam)
    for loss in (MixedCrossEntropy(), MixedCrossEntropy([1.0, 2, 3, 4])):
        torch.testing.assert_close(loss(logits, short), loss(logits, target))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: MixedCrossEntropy(reduction="avg"), "reduction='avg' is unknown"),
        (lambda: MixedCrossEntropy(label_smoothing=2), "label_smoothing must be"),
        *(
            (lambda weight=weight: MixedCrossEntropy(weight), f"class_weight must hold.*{came}")
            for weight, came in (
                ([1.0, -1.0], r"got \[1.0, -1.0\]"),
                ([1.0, torch.inf], r"got \[1.0, inf\]"),
                ([1.0, torch.nan], r"got \[1.0, nan\]"),
                ("balanced", "got 'balanced'"),
                (2.0, r"got 2\.0"),
                ([], r"got \[\]"),
                ([[1.0, 2.0]], r"got \[\[1\.0, 2\.0\]\]"),
                (torch.ones(2, dtype=torch.complex64), "complex64"),
            )
        ),
        (
            lambda: MixedCrossEntropy()(
                torch.randn(2, 3), MixedTarget.clean(torch.zeros(2, dtype=torch.complex64))
            ),
            "a must hold whole numbers .*, got torch.complex64",
        ),
        (
            lambda: MixedCrossEntropy()(torch.randn(2, 3).to(torch.complex64), make_target(2, 3)),
            "logits must hold floating numbers .*, got torch.complex64",
        ),
        (
            lambda: MixedCrossEntropy([1.0, 1.0])(torch.randn(2, 3), make_target(2, 3)),
            "2 weights, but logits have 3 classes",
        ),
        (
            lambda: MixedCrossEntropy()(torch.randn(2, 3), make_target(3, 3)),
            "for 2 samples, the target for 3",
        ),
        (lambda: MixedCrossEntropy()(torch.randn(3), make_target(3, 3)), r"must be \(B, C\)"),
        (
            lambda: MixedCrossEntropy()(
                torch.randn(1, 3),
                MixedTarget(torch.tensor([0]), torch.tensor([5]), torch.ones(1)),
            ),
            r"target.b must hold class indices in \[0, 2\]",
        ),
        (
            lambda: MixedCrossEntropy()(torch.randn(2, 3), torch.tensor([0, 1])),
            "target must hold floating numbers",
        ),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(InputError, match=words):
        call()
