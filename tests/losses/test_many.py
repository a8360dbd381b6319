import textwrap

import pytest
import torch
from helpers import make_target, run_processes
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from mixwell import InputError, MixedTarget
from mixwell.kernels import two_class
from mixwell.losses import (
    DecoupledBCE,
    DecoupledCrossEntropy,
    InfiniteClassLoss,
    MixedCrossEntropy,
    many,
)
from mixwell.mix import MultiTarget

sizes = st.integers(1, 6)
ks = st.integers(2, 5)
seeds = st.integers(0, 99)
weightings = st.sampled_from(["lambda", "uniform"])


def draw(size, k, num_classes, seed=0, dtype=torch.float64):
    """Return logits and a target: a row of one class alone, a class twice, weights of 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(size, num_classes, dtype=dtype, generator=generator)
    classes = torch.randint(num_classes, (size, k), generator=generator)
    weights = torch.rand(size, k, dtype=dtype, generator=generator)
    if size > 1:
        classes[1, 1] = classes[1, 0]
    if size > 2:
        classes[2] = classes[2, 0]
    if size > 3:
        weights[3] = 0
        weights[3, -1] = 1
    return logits, MultiTarget(classes, weights / weights.sum(1, keepdim=True))


def pairs(target):
    """Return a target of two classes a sample in both forms."""
    weights = torch.stack([target.lam, 1 - target.lam], 1)
    return MultiTarget(torch.stack([target.a, target.b], 1), weights, target.weight)


def sided_by_loop(logits, target, eta, side, power):
    """DM of k classes with the terms of the largest or the smallest share alone."""
    losses = []
    for z, classes, weights in zip(logits, target.classes, target.weights, strict=True):
        shares = {}
        for c, w in zip(classes.tolist(), weights.tolist(), strict=True):
            shares[c] = shares.get(c, 0.0) + w
        loss = -sum(w * z.log_softmax(0)[c] for c, w in shares.items())
        others = [c for c in range(len(z)) if c not in shares]
        end = max(shares.values()) if side == "heavier" else min(shares.values())
        chosen = [c for c, w in shares.items() if w == end or side == "both"]
        for c in chosen if len(shares) > 1 else ():
            pull = eta * shares[c] ** power / (len(chosen) if side != "both" else 1)
            loss = loss + pull * (z[[c, *others]].logsumexp(0) - z[c])
        losses.append(loss)
    return torch.stack(losses)


@given(
    sizes, ks, st.integers(2, 8), st.sampled_from(["both", "heavier", "lighter"]),
    st.sampled_from([0.0, 0.5, 1.0]), seeds,
)  # fmt: skip
def test_a_side_of_many_is_the_largest_or_the_smallest_share(
    size, k, num_classes, side, power, seed
):
    logits, target = draw(size, k, num_classes, seed)
    loss = DecoupledCrossEntropy(0.3, side=side, power=power, reduction="none")
    both_gradients(
        lambda z: loss(z, target),
        lambda z: sided_by_loop(z, target, 0.3, side, power),
        logits,
    )


def test_equal_shares_have_equal_parts_of_a_side():
    """Of four classes, two of which share the largest part: none is preferred."""
    logits = torch.randn(1, 6, dtype=torch.float64)
    weights = torch.tensor([[0.375, 0.125, 0.375, 0.125]], dtype=torch.float64)
    target = MultiTarget(torch.tensor([[0, 1, 2, 3]]), weights)
    for side in ("heavier", "lighter"):
        loss = DecoupledCrossEntropy(0.3, side=side, reduction="none")
        expected = sided_by_loop(logits, target, 0.3, side, 1)
        torch.testing.assert_close(loss(logits, target), expected)
        turned = MultiTarget(target.classes.flip(1), target.weights.flip(1))
        torch.testing.assert_close(loss(logits, turned), expected)


def decoupled_by_loop(logits, target, eta, weighting, asymmetric=False):
    """DM of k classes by its definition, one sample and one class at a time."""
    losses = []
    for z, classes, weights in zip(logits, target.classes, target.weights, strict=True):
        shares = {}
        for c, w in zip(classes.tolist(), weights, strict=True):
            shares[c] = shares.get(c, 0.0) + w
        log_p = z.log_softmax(0)
        loss = sum(-w * log_p[c] for c, w in shares.items())
        others = [c for c in range(len(z)) if c not in shares]
        own = int(classes[0])
        for c, w in shares.items():
            if len(shares) == 1 or (asymmetric and c != own):
                continue
            pull = w if weighting == "lambda" else 1.0
            if asymmetric and weighting == "lambda":
                pull = weights[0]
            loss = loss + eta * pull * (z[[c, *others]].logsumexp(0) - z[c])
        losses.append(loss)
    return torch.stack(losses)


def both_gradients(compute, expected, logits):
    ours, reference = (logits.clone().requires_grad_() for _ in range(2))
    value, wanted = compute(ours), expected(reference)
    torch.testing.assert_close(value, wanted, rtol=1e-10, atol=1e-12)
    upstream = torch.rand_like(value)
    value.backward(upstream)
    wanted.backward(upstream)
    torch.testing.assert_close(ours.grad, reference.grad, rtol=1e-9, atol=1e-11)


@given(sizes, ks, st.integers(2, 8), weightings, st.booleans(), seeds)
def test_decoupled_equals_the_loop_with_its_gradient(
    size, k, num_classes, weighting, asymmetric, seed
):
    logits, target = draw(size, k, num_classes, seed)
    loss = DecoupledCrossEntropy(0.3, weighting, asymmetric, reduction="none")
    both_gradients(
        lambda z: loss(z, target),
        lambda z: decoupled_by_loop(z, target, 0.3, weighting, asymmetric),
        logits,
    )


@given(sizes, ks, st.integers(2, 8), st.booleans(), st.sampled_from([0.0, 0.2]), seeds)
def test_cross_entropy_equals_torchs_of_the_dense_target(
    size, k, num_classes, weighted, smoothing, seed
):
    logits, target = draw(size, k, num_classes, seed)
    weight = torch.rand(num_classes) + 0.5 if weighted else None
    loss = MixedCrossEntropy(weight, smoothing, reduction="none")
    both_gradients(
        lambda z: loss(z, target),
        lambda z: F.cross_entropy(
            z,
            target.dense(num_classes),
            None if weight is None else weight.double(),
            label_smoothing=smoothing,
            reduction="none",
        ),
        logits,
    )


@pytest.mark.slow
@given(st.integers(1, 7), st.integers(2, 6), weightings, st.booleans(), st.booleans(), seeds)
def test_two_of_many_are_a_pair(size, num_classes, weighting, asymmetric, weighted, seed):
    target = make_target(size, num_classes, seed)
    target = MixedTarget(target.a, target.b, target.lam.double(), torch.rand(size))
    many_of = pairs(target)
    logits = torch.randn(size, num_classes, dtype=torch.float64)
    weight = torch.rand(num_classes) + 0.5 if weighted else None
    for loss in (
        MixedCrossEntropy(weight, 0.1),
        DecoupledCrossEntropy(0.4, weighting, asymmetric, weight, 0.1),
        DecoupledCrossEntropy(0.4, weighting, asymmetric, weight),
        DecoupledCrossEntropy(0.4, side="lighter", power=0.5, class_weight=weight),
        DecoupledBCE(0.7, 1.5),
        DecoupledBCE(over_classes="mean", asymmetric=True),
        *([InfiniteClassLoss(mask_duplicates=weighted)] if size > 1 else []),
    ):
        both_gradients(lambda z, f=loss: f(z, many_of), lambda z, f=loss: f(z, target), logits)


def test_the_weighted_mean_is_torchs():
    logits, target = draw(5, 3, 4)
    weight = torch.tensor([1.0, 2.0, 0.5, 3.0])
    share = (target.dense(4) * weight).sum(1)
    each = MixedCrossEntropy(weight, reduction="none")(logits, target)
    torch.testing.assert_close(MixedCrossEntropy(weight)(logits, target), each.sum() / share.sum())


@pytest.mark.slow
@given(st.integers(1, 5), ks, st.integers(2, 9), weightings, st.booleans(), seeds)
def test_from_features_is_the_same_in_chunks_of_classes(
    size, k, num_classes, weighting, weighted, seed
):
    generator = torch.Generator().manual_seed(seed)
    _, target = draw(size, k, num_classes, seed)
    features = torch.randn(size, 4, dtype=torch.float64, generator=generator)
    weight = torch.randn(num_classes, 4, dtype=torch.float64, generator=generator)
    bias = torch.randn(num_classes, dtype=torch.float64, generator=generator)
    class_weight = torch.rand(num_classes) + 0.5 if weighted else None
    chunk = two_class.CHUNK
    two_class.CHUNK = 2 * size  # two classes at a time
    try:
        for loss in (
            MixedCrossEntropy(class_weight, 0.1),
            MixedCrossEntropy(class_weight),
            DecoupledCrossEntropy(0.4, weighting, False, class_weight, 0.1),
        ):
            layers = [[t.clone().requires_grad_() for t in (features, weight, bias)] for _ in "ab"]
            value = loss.from_features(*layers[0], target)
            expected = loss(F.linear(*layers[1]), target)
            torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-12)
            value.backward()
            expected.backward()
            for ours, reference in zip(*layers, strict=True):
                torch.testing.assert_close(ours.grad, reference.grad, rtol=1e-9, atol=1e-11)
    finally:
        two_class.CHUNK = chunk


def test_from_features_without_a_bias_and_in_half_precision():
    _, target = draw(6, 3, 5, dtype=torch.float32)
    features, weight = torch.randn(6, 4), torch.randn(5, 4)
    loss = DecoupledCrossEntropy(0.2)
    expected = loss(features @ weight.T, target)
    torch.testing.assert_close(loss.from_features(features, weight, None, target), expected)
    half = loss.from_features(features.bfloat16(), weight.bfloat16(), None, target)
    torch.testing.assert_close(half, expected, rtol=0.05, atol=0.05)


def test_gradients_in_float64():
    logits, target = draw(4, 3, 6)
    logits.requires_grad_()
    for loss in (
        MixedCrossEntropy(label_smoothing=0.1),
        DecoupledCrossEntropy(0.5, "uniform"),
        DecoupledBCE(),
        InfiniteClassLoss(),
    ):
        assert torch.autograd.gradcheck(lambda z, f=loss: f(z, target), logits)
    assert torch.autograd.gradgradcheck(
        lambda z: DecoupledCrossEntropy(0.5)(z, target), logits, atol=1e-4
    )


def icm_by_loop(logits, target, axis):
    rows = range(len(logits))
    similarity = torch.stack([
        torch.stack([
            sum(w * logits[i, c] for c, w in zip(target.classes[j], target.weights[j], strict=True))
            for j in rows
        ]) for i in rows
    ])  # fmt: skip
    own = torch.arange(len(logits))
    terms = {"class": F.cross_entropy(similarity, own), "pair": F.cross_entropy(similarity.T, own)}
    return terms.get(axis, terms["class"] + terms["pair"])


@given(st.integers(2, 5), ks, st.integers(2, 6), st.sampled_from(["both", "class", "pair"]), seeds)
def test_infinite_class_equals_the_loop_also_from_features(size, k, num_classes, axis, seed):
    logits, target = draw(size, k, num_classes, seed)
    loss = InfiniteClassLoss(axis)
    both_gradients(lambda z: loss(z, target), lambda z: icm_by_loop(z, target, axis), logits)
    features = torch.randn(size, 3, dtype=torch.float64)
    weight = torch.randn(num_classes, 3, dtype=torch.float64)
    bias = torch.randn(num_classes, dtype=torch.float64)
    expected = loss(F.linear(features, weight, bias), target)
    torch.testing.assert_close(loss.from_features(features, weight, bias, target), expected)


def test_the_same_mixture_in_another_order_is_a_duplicate():
    third = [0.5, 0.25, 0.25]
    target = MultiTarget(
        torch.tensor([[0, 1, 2], [2, 0, 1], [0, 1, 1], [1, 0, 0]]),
        torch.tensor([third, [0.25, 0.5, 0.25], third, [0.5, 0.25, 0.25]]),
    )
    logits = torch.randn(4, 3)
    # Rows 0 and 1 are one mixture, rows 2 and 3 another: half of each class.
    masked = InfiniteClassLoss("class", mask_duplicates=True, reduction="none")(logits, target)
    similarity = logits @ target.dense(3).T
    for i, others in enumerate([[0, 2, 3], [1, 2, 3], [2, 0, 1], [3, 0, 1]]):
        expected = similarity[i, others].logsumexp(0) - similarity[i, i]
        torch.testing.assert_close(masked[i], expected)


@pytest.mark.slow
def test_contrast_over_two_processes(tmp_path):
    """The loss of each process's half is that of its rows among all; so are the gradients."""
    script = textwrap.dedent("""
        import sys
        import torch
        import torch.distributed as dist
        from mixwell.losses import InfiniteClassLoss
        from mixwell.mix import MultiTarget

        rank = int(sys.argv[1])
        dist.init_process_group("gloo", init_method=sys.argv[2], rank=rank, world_size=2)
        torch.manual_seed(0)
        logits = torch.randn(6, 4, dtype=torch.float64)
        classes = torch.randint(4, (6, 3))
        weights = torch.rand(6, 3, dtype=torch.float64)
        weights /= weights.sum(1, keepdim=True)
        whole = logits.clone().requires_grad_()
        expected = InfiniteClassLoss(gather=False, reduction="none")(
            whole, MultiTarget(classes, weights))
        expected.sum().backward()
        rows = slice(3 * rank, 3 * rank + 3)
        own = logits[rows].clone().requires_grad_()
        value = InfiniteClassLoss(reduction="none")(
            own, MultiTarget(classes[rows], weights[rows]))
        value.sum().backward()
        torch.testing.assert_close(value, expected[rows])
        torch.testing.assert_close(own.grad, whole.grad[rows])
        dist.destroy_process_group()
    """)
    run_processes(script, tmp_path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_is_finite_at_extreme_logits(dtype):
    for num_classes in (2, 3, 20):
        _, target = draw(8, 3, num_classes, dtype=torch.float32)
        for loss in (MixedCrossEntropy(), DecoupledCrossEntropy(weighting="uniform")):
            logits = (torch.randn(8, num_classes).sign() * 1e4).to(dtype).requires_grad_()
            value = loss(logits, target)
            value.backward()
            assert value.isfinite()
            assert logits.grad.isfinite().all()


def test_nothing_cancels_when_a_competitor_is_certain():
    logits = torch.tensor([[0.0, 200.0, 3.0, 1.0]], dtype=torch.float64, requires_grad=True)
    weights = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)
    target = MultiTarget(torch.tensor([[0, 1, 1]]), weights)
    loss = DecoupledCrossEntropy(1.0)(logits, target)
    alone = torch.tensor([0.0, 3.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(loss, 200.0 + alone.logsumexp(0))
    loss.backward()
    torch.testing.assert_close(logits.grad[0, [2, 3]], alone.softmax(0)[1:])


def test_no_sample_is_as_large_as_k_times_its_logits():
    """What autograd keeps of (B, C) values does not grow with k."""

    def kept(k):
        total = 0

        def pack(tensor):
            nonlocal total
            total += tensor.numel()
            return tensor

        logits, target = draw(4, k, 1000)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            DecoupledCrossEntropy(0.1)(logits.requires_grad_(), target)
        return total

    assert kept(6) - kept(2) < 4 * 1000


def test_left_out_samples_have_no_loss():
    logits, target = draw(5, 3, 4)
    left = MultiTarget(target.classes, target.weights, torch.tensor([0.0, 1, 1, 1, 1]))
    for loss in (MixedCrossEntropy(), DecoupledCrossEntropy(), DecoupledBCE()):
        rest = MultiTarget(target.classes[1:], target.weights[1:])
        torch.testing.assert_close(loss(logits, left), loss(logits[1:], rest))


def test_largest_share():
    classes = torch.tensor([[0, 1, 0], [3, 3, 3]])
    target = MultiTarget(classes, torch.tensor([[0.3, 0.4, 0.3], [0.1, 0.2, 0.6999]]))
    torch.testing.assert_close(many.largest_share(target), torch.tensor([0.6, 1.0]))
    pair = MixedTarget(torch.tensor([0, 1]), torch.tensor([2, 1]), torch.tensor([0.3, 0.3]))
    torch.testing.assert_close(many.largest_share(pair), torch.tensor([0.7, 1.0]))
    soft = MixedTarget(torch.eye(3)[pair.a], torch.eye(3)[pair.b], pair.lam)
    torch.testing.assert_close(many.largest_share(soft), torch.tensor([0.7, 1.0]))


@pytest.mark.parametrize(
    "loss", [MixedCrossEntropy(), DecoupledCrossEntropy(), DecoupledBCE(), InfiniteClassLoss()]
)
def test_wrong_classes_are_named(loss):
    target = MultiTarget(torch.tensor([[0, 1, 7], [0, 1, 2]]), torch.full((2, 3), 1 / 3))
    with pytest.raises(InputError, match=r"class indices in \[0, 3\].*0 to 7"):
        loss(torch.randn(2, 4), target)
    with pytest.raises(InputError, match="for 3 samples, the target for 2"):
        loss(torch.randn(3, 8), target)
