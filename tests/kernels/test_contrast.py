"""Samples against mixed classifiers: equal to torch's own operations, with their gradients."""

import itertools

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from mixwell import MixedTarget
from mixwell.kernels import contrast, native
from mixwell.losses import InfiniteClassLoss

shared = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
AXES = {"class": (1,), "pair": (0,), "both": (1, 0)}


def draw(size, classes, *, seed=0, dtype=torch.float32, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    z = (scale * torch.randn(size, classes, dtype=torch.float64, generator=generator)).to(dtype)
    a, b = torch.randint(classes, (2, size), generator=generator)
    lam = torch.rand(size, dtype=torch.float64, generator=generator)
    lam[::5], lam[1::5] = 1.0, 0.0
    return z, a, b, lam


def reference(z, a, b, lam, axis):
    """By dense classifiers, in float64: each sample's loss."""
    z, lam = z.double(), lam.double()[:, None]
    mixed = lam * F.one_hot(a, z.shape[1]) + (1 - lam) * F.one_hot(b, z.shape[1])
    s, own = z @ mixed.T, torch.arange(len(z))
    loss = torch.zeros(len(z), dtype=torch.float64)
    if axis != "pair":
        loss = loss + F.cross_entropy(s, own, reduction="none")
    return loss + F.cross_entropy(s.T, own, reduction="none") if axis != "class" else loss


def check(z, a, b, lam, axis, reduction="mean"):
    wide = torch.float64 if z.dtype == torch.float64 else torch.float32
    ours, theirs = z.detach().clone().requires_grad_(), z.detach().double().requires_grad_()
    value = InfiniteClassLoss(axis, reduction=reduction)(ours, MixedTarget(a, b, lam.to(wide)))
    each = reference(theirs, a, b, lam.to(wide), axis)
    expected = each if reduction == "none" else getattr(each, reduction)()
    eps = 1e-11 if wide == torch.float64 else 5e-6
    torch.testing.assert_close(value.double(), expected, rtol=eps, atol=10 * eps)
    upstream = torch.linspace(-1, 2, value.numel(), dtype=wide).view(value.shape)
    eps = max(eps, torch.finfo(z.dtype).eps)
    wanted = torch.autograd.grad(expected, theirs, upstream.double())[0]
    for _ in range(2):  # the second time it is computed anew
        (grad,) = torch.autograd.grad(value, ours, upstream, retain_graph=True)
        assert grad.dtype == z.dtype
        torch.testing.assert_close(grad.double(), wanted, rtol=eps, atol=eps)


@shared
@given(
    st.integers(2, 40), st.integers(2, 60), st.sampled_from(list(AXES)),
    st.sampled_from(["mean", "sum", "none"]), st.integers(0, 99), st.booleans(),
)  # fmt: skip
def test_any_size_is_the_dense_form(kernels_by, size, classes, axis, reduction, seed, wide):
    dtype = torch.float64 if wide else torch.float32
    check(*draw(size, classes, seed=seed, dtype=dtype), axis, reduction)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(dtype, kernels_by):
    check(*draw(9, 12, dtype=dtype, scale=1.0), "both")


def test_logits_of_any_layout(kernels_by):
    z, a, b, lam = draw(6, 9)
    for same in (z.T.contiguous().T, z.repeat_interleave(2, 1)[:, ::2], torch.cat([z, z])[6:]):
        check(same, a, b, lam, "both")


def test_large_batches_take_the_other_way(kernels_by, monkeypatch):
    monkeypatch.setattr(contrast, "MOST", 8)
    for size in (8, 9):
        z, a, b, lam = draw(size, 5)
        one_call = contrast.total(z, a, b, lam.float(), (1, 0), 1.0) is not None
        assert one_call == (size == 8 and kernels_by == "compiled")
        check(z, a, b, lam, "both")


def test_far_logits(kernels_by):
    for value, axis in itertools.product((1e4, -1e4), AXES):
        z, a, b, lam = draw(6, 5)
        z[::2] += value
        leaf = z.requires_grad_()
        loss = InfiniteClassLoss(axis)(leaf, MixedTarget(a, b, lam.float()))
        expected = reference(z.detach(), a, b, lam.float(), axis).mean()
        torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=5e-3)
        assert torch.autograd.grad(loss, leaf)[0].isfinite().all()


@pytest.mark.parametrize("axis", list(AXES))
def test_nan_is_never_hidden(axis, kernels_by):
    z, a, b, lam = draw(6, 5)
    z[2, a[4]] = torch.nan
    leaf = z.requires_grad_()
    loss = InfiniteClassLoss(axis)(leaf, MixedTarget(a, b, lam.float()))
    assert loss.isnan()
    assert torch.autograd.grad(loss, leaf)[0][2].isnan().any()


def test_second_derivatives(kernels_by):
    z, a, b, lam = draw(4, 5, dtype=torch.float64)
    target = MixedTarget(a, b, lam)
    for axis in AXES:
        loss = InfiniteClassLoss(axis)
        leaf = z.clone().requires_grad_()
        assert torch.autograd.gradcheck(lambda z, f=loss: f(z, target), leaf)
        assert torch.autograd.gradgradcheck(lambda z, f=loss: f(z, target), leaf, fast_mode=True)
        seconds = []
        for dtype in (torch.float32, torch.float64):
            leaf = z.to(dtype).requires_grad_()
            value = loss(leaf, MixedTarget(a, b, lam.to(dtype)))
            (grad,) = torch.autograd.grad(value, leaf, create_graph=True)
            seconds.append(torch.autograd.grad(grad.square().sum(), leaf)[0].double())
        torch.testing.assert_close(*seconds, rtol=1e-4, atol=1e-5)


def test_a_learnt_share_gets_its_gradient(kernels_by):
    z, a, b, lam = draw(5, 6, dtype=torch.float64)
    lam = lam.clamp(0.1, 0.9).requires_grad_()
    assert torch.autograd.gradcheck(lambda lam: InfiniteClassLoss()(z, MixedTarget(a, b, lam)), lam)


def test_under_torch_func_and_forward_mode():
    z, a, b, lam = draw(5, 7)
    target, loss = MixedTarget(a, b, lam.float()), InfiniteClassLoss()
    expected = torch.autograd.grad(loss(z.requires_grad_(), target), z)[0]
    torch.testing.assert_close(torch.func.grad(lambda z: loss(z, target))(z), expected)
    _, slope = torch.func.jvp(lambda z: loss(z, target), (z,), (torch.ones_like(z),))
    torch.testing.assert_close(slope, expected.sum(), rtol=1e-4, atol=1e-5)


def test_compiles_as_one_graph():
    z, a, b, lam = draw(5, 7)
    target, loss = MixedTarget(a, b, lam.float()), InfiniteClassLoss()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    ours, theirs = (z.clone().requires_grad_() for _ in range(2))
    values = compiled(ours, target), loss(theirs, target)
    torch.testing.assert_close(*values)
    for value in values:
        value.backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_a_class_that_is_not_there_is_an_index_error():
    if native.library() is None:
        pytest.skip("there are no compiled kernels here")
    z, a, b, lam = draw(4, 5)
    b[2] = 5
    with pytest.raises(IndexError):
        contrast.total(z, a, b, lam.float(), (1, 0), 1.0)
