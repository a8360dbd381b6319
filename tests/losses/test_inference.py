import pytest
import torch
from helpers import make_target
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats
from torch.nn import functional as F

from mixwell import InputError, MixedTarget
from mixwell.batch import Batch
from mixwell.losses import MixupInference
from mixwell.mix import MultiTarget


def make_batch(size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Batch(torch.zeros(size, 1), torch.zeros(size).long(), generator=generator)


def by_elimination(z1, z2, target, other):
    """The authors' way to solve, by eliminating one sample after the other; a row at a time."""
    losses = []
    for row in range(len(z1)):
        l1, l2 = target.lam[row], other.lam[row]
        c1, c2 = (1 - l1) / (1 - l2), l2 / l1
        own = (z1[row] - c1 * z2[row]) / (l1 - l2 * c1)
        partner = (z2[row] - c2 * z1[row]) / (1 - l2 - (1 - l1) * c2)
        own_loss = F.cross_entropy(own[None], target.a[row][None])
        losses.append((own_loss + F.cross_entropy(partner[None], target.b[row][None])) / 2)
    return torch.stack(losses)


@given(st.integers(1, 7), st.integers(2, 6), st.booleans(), st.integers(0, 99))
def test_equals_the_authors_elimination_with_its_gradients(size, num_classes, swapped, seed):
    generator = torch.Generator().manual_seed(seed)
    lam = 0.55 + 0.4 * torch.rand(size, dtype=torch.float64, generator=generator)
    second = 0.05 + 0.2 * torch.rand(size, dtype=torch.float64, generator=generator)
    if swapped:
        lam, second = second, lam
    pair = make_target(size, num_classes, seed)
    target, other = (MixedTarget(pair.a, pair.b, value) for value in (lam, second))
    z = 2 * torch.randn(2, size, num_classes, dtype=torch.float64, generator=generator)
    ours, theirs = (z.clone().requires_grad_() for _ in range(2))
    value = MixupInference(margin=0.2, reduction="none")(ours[0], target, ours[1], other)
    expected = by_elimination(*theirs, target, other)
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-10)
    value.mean().backward()
    expected.mean().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-9)


def test_of_a_linear_network_it_is_the_cross_entropy_of_the_samples():
    x, y = torch.randn(8, 5, dtype=torch.float64), torch.arange(8) % 3
    weight = torch.randn(5, 3, dtype=torch.float64)
    partner = torch.randperm(8)
    lam = torch.rand(8, dtype=torch.float64)
    loss = MixupInference(margin=0.5)
    second = loss.twin(make_batch(8), lam)

    def mixed(lam):
        return (lam[:, None] * x + (1 - lam)[:, None] * x[partner]) @ weight

    value = loss(
        mixed(lam),
        MixedTarget(y, y[partner], lam),
        mixed(second),
        MixedTarget(y, y[partner], second),
    )
    torch.testing.assert_close(value, F.cross_entropy(x @ weight, y))


def test_soft_labels():
    target = make_target(5, 4)
    lam, second = torch.full((5,), 0.9), torch.full((5,), 0.2)
    z1, z2 = torch.randn(2, 5, 4)
    soft = [MixedTarget(F.one_hot(target.a, 4).float(), F.one_hot(target.b, 4).float(), value)
            for value in (lam, second)]  # fmt: skip
    hard = [MixedTarget(target.a, target.b, value) for value in (lam, second)]
    loss = MixupInference()
    torch.testing.assert_close(loss(z1, soft[0], z2, soft[1]), loss(z1, hard[0], z2, hard[1]))


@pytest.mark.parametrize("margin", [0.0, 0.3, 0.5])
@pytest.mark.parametrize("alpha", [0.2, 1.0, 8.0])
def test_the_second_lam_is_on_the_other_side_and_a_margin_away(alpha, margin):
    lam = torch.rand(2000)
    lam[:3] = torch.tensor([0.0, 0.5, 1.0])
    second = MixupInference(alpha, margin).twin(make_batch(2000), lam)
    assert ((second >= 0) & (second <= 1)).all()
    assert ((lam - second).abs() >= margin - 1e-6).all()
    assert (((lam >= 0.5) & (second <= 0.5)) | ((lam < 0.5) & (second >= 0.5))).all()


@pytest.mark.parametrize(("alpha", "lam"), [(1.0, 0.8), (0.3, 0.9), (5.0, 0.3)])
def test_the_second_lam_follows_the_truncated_beta(alpha, lam):
    """Three KS tests at fixed seeds; each fails by chance one time in a thousand."""
    second = MixupInference(alpha, 0.35).twin(make_batch(20_000), torch.full((20_000,), lam))
    lower = second if lam >= 0.5 else 1 - second
    limit = min(0.5, max(lam, 1 - lam) - 0.35)
    whole = special.betainc(alpha, alpha, limit)
    drawn = lower.double().numpy()
    assert stats.kstest(drawn, lambda x: special.betainc(alpha, alpha, x) / whole).pvalue > 1e-3


def test_one_second_lam_for_all():
    lam = torch.full((6,), 0.7)
    assert len(MixupInference(per="batch").twin(make_batch(6), lam).unique()) == 1
    assert len(MixupInference(per="sample").twin(make_batch(6), lam).unique()) == 6


def test_pairs_that_cannot_be_solved_have_the_mixed_loss_and_finite_gradients():
    pair = make_target(4, 3)
    lam = torch.tensor([1.0, 0.6, 0.5, 0.9])
    second = torch.tensor([1.0, 0.5, 0.5, 0.1])  # only the last two are a margin apart
    z1, z2 = (torch.randn(4, 3, requires_grad=True) for _ in range(2))
    target, other = (MixedTarget(pair.a, pair.b, value) for value in (lam, second))
    value = MixupInference(margin=0.5, reduction="none")(z1, target, z2, other)
    own, partner = (
        F.cross_entropy(z, y, reduction="none") for z, y in ((z1, pair.a), (z2, pair.b))
    )
    share = (lam + second) / 2
    torch.testing.assert_close(value[:3], (share * own + (1 - share) * partner)[:3])
    torch.testing.assert_close(value[0], own[0])
    torch.testing.assert_close(value[3], by_elimination(z1, z2, target, other)[3])
    value.sum().backward()
    assert z1.grad.isfinite().all()
    assert z2.grad.isfinite().all()


def test_left_out_samples_have_no_loss():
    pair = make_target(4, 3)
    weight = torch.tensor([0.0, 1, 1, 1])
    z1, z2 = torch.randn(2, 4, 3)
    lam, second = torch.full((4,), 0.9), torch.full((4,), 0.1)
    loss = MixupInference()
    left = [MixedTarget(pair.a, pair.b, value, weight) for value in (lam, second)]
    rest = [MixedTarget(pair.a[1:], pair.b[1:], value[1:]) for value in (lam, second)]
    torch.testing.assert_close(
        loss(z1, left[0], z2, left[1]), loss(z1[1:], rest[0], z2[1:], rest[1])
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    z1, z2 = (torch.randn(5, 3).to(dtype).requires_grad_() for _ in range(2))
    target = make_target(5, 3)
    other = MixedTarget(target.a, target.b, MixupInference().twin(make_batch(5), target.lam))
    value = MixupInference()(z1, target, z2, other)
    value.backward()
    assert value.dtype == torch.float32
    assert z1.grad.isfinite().all()
    assert z2.grad.isfinite().all()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: MixupInference(alpha=0), "alpha must be"),
        (lambda: MixupInference(margin=0.6), r"margin must be a number in \[0, 0.5\]"),
        (lambda: MixupInference(per="epoch"), "per='epoch'"),
        (
            lambda: MixupInference()(
                torch.randn(2, 3), make_target(2, 3), torch.randn(2, 4), make_target(2, 3)
            ),
            "both mixes must have one shape",
        ),
        (
            lambda: MixupInference()(
                torch.randn(2, 3),
                MultiTarget(torch.zeros(2, 3).long(), torch.full((2, 3), 1 / 3)),
                torch.randn(2, 3),
                make_target(2, 3),
            ),
            "solves for two samples",
        ),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(InputError, match=words):
        call()
