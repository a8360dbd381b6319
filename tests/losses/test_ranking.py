import math

import pytest
import torch
from helpers import make_target
from hypothesis import given
from hypothesis import strategies as st

from mixwell import InputError, MixedTarget
from mixwell.losses import MixupNDCG, MixupRanking
from mixwell.mix import MultiTarget

seeds = st.integers(0, 99)


def draw(size, num_classes, mixes, seed):
    """Return logits of clean samples, and those and the targets of several mixes."""
    generator = torch.Generator().manual_seed(seed)

    def logits():
        return 2 * torch.randn(size, num_classes, dtype=torch.float64, generator=generator)

    targets = [make_target(size, num_classes, seed + place) for place in range(mixes)]
    return logits(), [(logits(), target) for target in targets]


def share(target, i):
    """Return the greatest probability of one mixed label."""
    lam = float(target.lam[i])
    return 1.0 if target.a[i] == target.b[i] else max(lam, 1 - lam)


def ranking_by_loop(clean, mixed, target, margin, of):
    losses = []
    for i, (z, z_mixed) in enumerate(zip(clean, mixed, strict=True)):
        if of == "probabilities":
            z, z_mixed = z.softmax(0), z_mixed.softmax(0)
        gap = z_mixed.max() - z.max() + margin
        losses.append(gap.clamp_min(0) if share(target, i) < 1 else 0 * gap)
    return torch.stack(losses)


def ndcg_by_loop(clean, mixed):
    losses = []
    for i, z in enumerate(clean):
        ranked = [(share(target, i), place) for place, (_, target) in enumerate(mixed)]
        ranked.sort(key=lambda pair: (-pair[0], pair[1]))
        reached, best = z.softmax(0).max(), 1.0
        for rank, (ideal, place) in enumerate(ranked, start=2):
            reached = reached + mixed[place][0][i].softmax(0).max() / math.log2(rank + 1)
            best += ideal / math.log2(rank + 1)
        ratio = reached / best if best > reached else best / reached
        losses.append(1 - ratio)
    return torch.stack(losses)


def agree(compute, expected, tensors):
    ours, theirs = ([t.clone().requires_grad_() for t in tensors] for _ in range(2))
    value, wanted = compute(*ours), expected(*theirs)
    torch.testing.assert_close(value, wanted, rtol=1e-10, atol=1e-10)
    value.mean().backward()
    wanted.mean().backward()
    for left, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(left.grad, right.grad, rtol=1e-8, atol=1e-8)


@given(st.integers(1, 7), st.integers(2, 6), st.sampled_from(["logits", "probabilities"]), seeds)
def test_ranking_equals_the_loop_with_its_gradients(size, num_classes, of, seed):
    clean, [(logits, target)] = draw(size, num_classes, 1, seed)
    loss = MixupRanking(0.4, of, reduction="none")
    agree(
        lambda z, y: loss(y, target, z),
        lambda z, y: ranking_by_loop(z, y, target, 0.4, of),
        (clean, logits),
    )


@given(st.integers(1, 6), st.integers(2, 6), st.integers(1, 4), seeds)
def test_ndcg_equals_the_loop_with_its_gradients(size, num_classes, mixes, seed):
    clean, mixed = draw(size, num_classes, mixes, seed)
    targets = [target for _, target in mixed]
    loss = MixupNDCG(mixes, reduction="none")

    def ours(z, first, *rest):
        more = [part for pair in zip(rest, targets[1:], strict=True) for part in pair]
        return loss(first, targets[0], z, *more)

    agree(
        ours,
        lambda z, *rest: ndcg_by_loop(z, list(zip(rest, targets, strict=True))),
        (clean, *[logits for logits, _ in mixed]),
    )


def test_a_margin_kept_costs_nothing():
    target = MixedTarget(torch.tensor([0, 0]), torch.tensor([1, 1]), torch.tensor([0.6, 0.6]))
    clean = torch.tensor([[5.0, 0, 0], [1.0, 0, 0]])
    mixed = torch.tensor([[3.0, 0, 0], [3.0, 0, 0]])
    assert MixupRanking(2.0, reduction="none")(mixed, target, clean).tolist() == [0, 4]


def test_ndcg_is_zero_where_confidence_is_the_share():
    z = torch.tensor([[0.7, 0.3, 0.0]]).log()
    target = MixedTarget(torch.tensor([0]), torch.tensor([1]), torch.tensor([0.7]))
    clean = torch.tensor([[1.0, 0.0, 0.0]]).log()
    assert float(MixupNDCG(1)(z, target, clean)) == pytest.approx(0, abs=1e-6)
    # More confidence than the share is as wrong as less.
    for confidence in (0.5, 0.95):
        rest = (1 - confidence) / 2
        other = torch.tensor([[confidence, rest, rest]]).log()
        assert float(MixupNDCG(1)(other, target, clean)) > 0.02


def test_left_out_samples_and_the_mean():
    clean, [(logits, target)] = draw(5, 4, 1, 0)
    for loss in (MixupRanking, MixupNDCG):
        keywords = {} if loss is MixupRanking else {"mixes": 1}
        each = loss(**keywords, reduction="none")(logits, target, clean)
        torch.testing.assert_close(loss(**keywords)(logits, target, clean), each.mean())
        left = MixedTarget(target.a, target.b, target.lam, torch.tensor([0.0, 1, 1, 1, 1]))
        torch.testing.assert_close(loss(**keywords)(logits, left, clean), each[1:].mean())


def test_mixes_of_more_than_two_and_soft_labels():
    weights = torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.3, 0.5]])
    target = MultiTarget(torch.tensor([[0, 1, 0], [2, 2, 2]]), weights)
    soft = MixedTarget.clean(target.dense(4))
    logits, clean = torch.randn(2, 4), torch.randn(2, 4)
    for loss in (MixupRanking(reduction="none"), MixupNDCG(1, reduction="none")):
        value = loss(logits, target, clean)
        torch.testing.assert_close(value, loss(logits, soft, clean))
    assert float(MixupRanking(9.0, reduction="none")(logits, target, clean)[1]) == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    clean, mixed = draw(6, 5, 2, 1)
    (first, target), (second, other) = [(z.to(dtype), t) for z, t in mixed]
    first = first.requires_grad_()
    for value in (
        MixupRanking()(first, target, clean.to(dtype)),
        MixupNDCG(2)(first, target, clean.to(dtype), second, other),
    ):
        assert value.dtype == torch.float32
        (gradient,) = torch.autograd.grad(value, first)
        assert gradient.isfinite().all()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: MixupRanking(margin=-1), "margin must be"),
        (lambda: MixupRanking(of="scores"), "of='scores'"),
        (lambda: MixupNDCG(mixes=0), "mixes must be a whole number"),
        (lambda: MixupNDCG(mixes=1.5), "mixes must be a whole number"),
        (
            lambda: MixupRanking()(torch.randn(2, 3), make_target(2, 3), torch.randn(2, 4)),
            r"one shape \(B, C\), got \(2, 3\) and \(2, 4\)",
        ),
        (
            lambda: MixupNDCG(3)(torch.randn(2, 3), make_target(2, 3), torch.randn(2, 3)),
            "ranks 3 mixes of each sample, got 1",
        ),
        (
            lambda: MixupRanking()(torch.randn(2, 3), make_target(3, 3), torch.randn(2, 3)),
            "for 2 samples, the target for 3",
        ),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(InputError, match=words):
        call()
