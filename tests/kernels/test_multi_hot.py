"""The binary losses of a few classes equal their plain form, with their gradients."""

import itertools

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from mixwell import MixedTarget
from mixwell.bench.losses import peak_memory
from mixwell.kernels import cpu, multi_hot, native
from mixwell.kernels.multi_hot import Rescaling, from_logits, rescaled, total
from mixwell.losses import DecoupledBCE

CPU = torch.device("cpu")
shared = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
HOW = Rescaling(0.8, 1.5)


def draw(size, classes, k=2, *, seed=0, dtype=torch.float32, scale=3.0):
    """Logits, classes with some that come twice, and shares with zeros and ones among them."""
    generator = torch.Generator().manual_seed(seed)
    z = (scale * torch.randn(size, classes, dtype=torch.float64, generator=generator)).to(dtype)
    index = torch.randint(classes, (size, k), generator=generator)
    index[::4, 1] = index[::4, 0]
    share = torch.rand(size, k, dtype=torch.float64, generator=generator)
    share[1::5, 0], share[2::5, 0] = 1.0, 0.0
    return z, index, share


def reference(z, index, share, upstream):
    """Torch's own loss of the dense label, in float64."""
    label = torch.zeros(z.shape, dtype=torch.float64).scatter_add_(1, index, share.double())
    leaf = z.detach().double().requires_grad_()
    loss = F.binary_cross_entropy_with_logits(leaf, label.clamp_max(1), reduction="none").sum(1)
    return loss.detach(), torch.autograd.grad(loss, leaf, upstream.double())[0]


def check(z, index, share):
    wide = torch.float64 if z.dtype == torch.float64 else torch.float32
    upstream = torch.linspace(-1, 2, len(z), dtype=wide)
    expected, gradient = reference(z, index, share.to(wide), upstream)
    leaf = z.detach().clone().requires_grad_()
    loss = from_logits(leaf, index, share.to(wide))
    (grad,) = torch.autograd.grad(loss, leaf, upstream, retain_graph=True)
    assert (loss.dtype, grad.dtype) == (wide, z.dtype)
    eps = 1e-12 if wide == torch.float64 else 2e-6
    torch.testing.assert_close(loss.double(), expected, rtol=eps, atol=eps)
    eps = max(eps, torch.finfo(z.dtype).eps)
    torch.testing.assert_close(grad.double(), gradient, rtol=eps, atol=eps)
    again = torch.autograd.grad(loss, leaf, upstream)[0]  # the buffer has been given away
    torch.testing.assert_close(again, grad)


@shared
@given(st.integers(1, 9), st.integers(2, 300), st.integers(2, 4), st.integers(0, 99), st.booleans())
def test_any_size_is_torchs_loss_of_the_dense_label(kernels_by, size, classes, k, seed, wide):
    check(*draw(size, classes, k, seed=seed, dtype=torch.float64 if wide else torch.float32))


def test_at_the_edges_of_what_is_summed_at_a_time(kernels_by):
    for classes in (2, 15, 16, 17, 1023, 1024, 1025, 2049):
        z, index, share = draw(6, classes)
        for pair in ([0, classes - 1], [classes - 1, 0], [0, 0], [classes - 1] * 2):
            index[:] = torch.tensor(pair)
            check(z, index, share)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(dtype, kernels_by):
    check(*draw(9, 40, dtype=dtype))


def test_logits_of_any_layout(kernels_by):
    z, index, share = draw(6, 18)
    for same in (z.T.contiguous().T, z.repeat_interleave(2, 1)[:, ::2], torch.cat([z, z])[6:]):
        check(same, index, share)
    check(z, index.repeat_interleave(2, 1)[:, ::2], share)


@pytest.mark.parametrize("how", [HOW, Rescaling(1.0, 0.0), Rescaling(0.8, 1.0, own_alone=True)])
def test_pairs_in_one_call_are_the_same(how, kernels_by):
    z, index, share = draw(9, 21)
    lam = share[:, 0].float()
    leaf = z.clone().requires_grad_()
    loss = total(leaf, *index.T, lam, how, 0.25)
    assert (loss is None) == (kernels_by == "torch")
    if loss is None:
        return
    shares = rescaled(torch.stack([lam, 1 - lam], 1), how)
    expected, gradient = reference(z, index, shares, torch.full((9,), 0.25))
    torch.testing.assert_close(loss.double(), 0.25 * expected.sum(), rtol=1e-6, atol=1e-6)
    for _ in range(2):  # the second time it is computed anew
        (grad,) = torch.autograd.grad(-2 * loss, leaf, retain_graph=True)
        torch.testing.assert_close(grad.double(), -2 * gradient, rtol=2e-6, atol=2e-6)


def test_nothing_cancels_where_a_class_is_certain(kernels_by):
    """log(1 + exp z) - z is 2e-9 at z = 20, far below z's own precision."""
    z = torch.tensor([[20.0, -30.0, 20.0]], requires_grad=True)
    loss = from_logits(z, torch.tensor([[0, 2]]), torch.ones(1, 2))
    exact = torch.tensor([20.0, 30.0, 20.0], dtype=torch.float64).neg().exp().log1p().sum()
    torch.testing.assert_close(loss[0].double(), exact, rtol=1e-5, atol=0)
    (grad,) = torch.autograd.grad(loss.sum(), z)
    expected = torch.tensor([[-20.0, -30.0, -20.0]]).double().exp() * torch.tensor([[-1, 1, -1]])
    torch.testing.assert_close(grad.double(), expected, rtol=1e-5, atol=0)


def test_the_gradient_at_zero_logits(kernels_by):
    for dtype in (torch.float32, torch.float64):
        z = torch.zeros(1, 3, dtype=dtype, requires_grad=True)
        share = torch.tensor([[0.25, 1.0]], dtype=dtype)
        for loss in (from_logits, multi_hot.plain):
            (grad,) = torch.autograd.grad(loss(z, torch.tensor([[0, 2]]), share).sum(), z)
            assert grad.tolist() == [[0.25, 0.5, -0.5]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_infinite_logits_cost_infinitely_where_they_are_wrong_alone(dtype, kernels_by):
    index, inf = torch.tensor([[0, 1]]), torch.inf
    for values, shares, wrong in (
        ([inf, 0, -inf], [1.0, 0.5], False),
        ([0, 0, inf], [1.0, 1.0], True),
        ([-inf, 0, 0], [0.5, 1.0], True),
        ([inf, 0, 0], [0.5, 1.0], True),
        ([-inf, 0, 0], [0.0, 1.0], False),
    ):
        z = torch.tensor([values], dtype=dtype)
        for loss in (from_logits, multi_hot.plain):
            value = loss(z, index, torch.tensor([shares], dtype=dtype))
            assert bool(value == inf) if wrong else bool(value.isfinite())


def test_nan_is_never_hidden(kernels_by):
    for place, dtype in itertools.product((0, 1, 5, 16), (torch.float32, torch.float64)):
        z, index, share = draw(3, 17, dtype=dtype)
        index[:] = torch.tensor([0, 1])
        z[1, place] = torch.nan
        leaf = z.requires_grad_()
        loss = from_logits(leaf, index, share.to(dtype))
        assert loss.isnan().tolist() == [False, True, False]
        (grad,) = torch.autograd.grad(loss.sum(), leaf)
        assert grad.isnan().any(1).tolist() == [False, True, False]


def make_losses(**arguments):
    return [
        DecoupledBCE(**arguments),
        DecoupledBCE(0.6, 2, over_classes="mean", **arguments),
        DecoupledBCE(asymmetric=True, **arguments),
    ]


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("weighted", [False, True])
def test_every_way_through_the_loss_agrees(weighted, reduction, kernels_by):
    z, index, share = draw(8, 11)
    lam = share[:, 0]
    each = torch.tensor([0.0, 1, 2, 0.5, 1, 1, 0, 3]) if weighted else None
    for loss in make_losses(reduction=reduction):
        results = []
        for dtype in (torch.float32, torch.float64):
            for learnt in (False, True):  # the plain form, as λ is learnt
                leaf = z.to(dtype).requires_grad_()
                own = lam.to(dtype, copy=True).requires_grad_(learnt)
                value = loss(leaf, MixedTarget(*index.T, own, each))
                results.append((value, torch.autograd.grad(value.sum(), leaf)[0]))
        for value, grad in results:
            torch.testing.assert_close(value.double(), results[-1][0], rtol=5e-6, atol=5e-6)
            torch.testing.assert_close(grad.double(), results[-1][1], rtol=5e-6, atol=5e-6)


def test_second_derivatives(kernels_by):
    z, index, share = draw(4, 5, dtype=torch.float64)
    target = MixedTarget(*index.T, share[:, 0])
    z.requires_grad_()
    for loss in make_losses():
        assert torch.autograd.gradcheck(lambda z, f=loss: f(z, target), z)
        assert torch.autograd.gradgradcheck(lambda z, f=loss: f(z, target), z, fast_mode=True)
    single = z.detach().float().requires_grad_()
    target = MixedTarget(*index.T, share[:, 0].float())
    for leaf in (single, z):
        (grad,) = torch.autograd.grad(make_losses()[0](leaf, target), leaf, create_graph=True)
        (second,) = torch.autograd.grad(grad.square().sum(), leaf)
        if leaf is single:
            kept = second
    torch.testing.assert_close(kept.double(), second, rtol=1e-4, atol=1e-5)


def test_under_torch_func_and_forward_mode():
    z, index, share = draw(5, 7)
    target = MixedTarget(*index.T, share[:, 0].float())
    for loss in make_losses():
        expected = torch.autograd.grad(loss(z.requires_grad_(), target), z)[0]
        torch.testing.assert_close(torch.func.grad(lambda z, f=loss: f(z, target))(z), expected)
        _, slope = torch.func.jvp(lambda z, f=loss: f(z, target), (z,), (torch.ones_like(z),))
        torch.testing.assert_close(slope, expected.sum(), rtol=1e-4, atol=1e-5)


def test_compiles_as_one_graph():
    z, index, share = draw(5, 7)
    target = MixedTarget(*index.T, share[:, 0].float())
    loss = DecoupledBCE()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    ours, theirs = (z.clone().requires_grad_() for _ in range(2))
    value = compiled(ours, target)
    expected = loss(theirs, target)
    torch.testing.assert_close(value, expected)
    value.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_threads_share_the_rows(threads, monkeypatch):
    monkeypatch.setattr(cpu, "THREADED", 0)
    threads(3)
    for size in (1, 2, 7, 64):
        check(*draw(size, 33))


def test_one_buffer_beside_the_logits_which_becomes_the_gradient():
    if native.library() is None:
        pytest.skip("there are no compiled kernels here")
    z, index, share = draw(128, 700)
    z.requires_grad_()
    target, loss = MixedTarget(*index.T, share[:, 0].float()), DecoupledBCE()
    peak = peak_memory(lambda: torch.autograd.grad(loss(z, target), z), z.nbytes, CPU)
    assert peak.count == 0  # it is used again
    assert peak_memory(lambda: loss(z.detach(), target), z.nbytes, CPU).count == 0
