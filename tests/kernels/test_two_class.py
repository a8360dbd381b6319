"""The cross-entropies of two classes equal their plain form, with their gradients."""

import itertools
import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from mixwell import InputError, MixedTarget
from mixwell.bench.losses import peak_memory
from mixwell.kernels import cpu, native, recycled, two_class
from mixwell.kernels.two_class import (
    Decoupling,
    Smoothing,
    from_features,
    from_logits,
    mean_from_logits,
)
from mixwell.losses import DecoupledCrossEntropy, MixedCrossEntropy

CPU = torch.device("cpu")
shared = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)


def draw(size, classes, *, seed=0, dtype=torch.float32, scale=3.0, same=0.3):
    """Logits, the two classes, and λ with zeros and ones among them."""
    generator = torch.Generator().manual_seed(seed)
    z = (scale * torch.randn(size, classes, dtype=torch.float64, generator=generator)).to(dtype)
    index = torch.randint(classes, (size, 2), generator=generator)
    equal = torch.rand(size, generator=generator) < same
    index[:, 1] = torch.where(equal, index[:, 0], index[:, 1])
    lam = torch.rand(size, generator=generator)
    lam[1::5], lam[3::5] = 1.0, 0.0
    return z, index, lam


def reference(z, index, alpha, eta, smoothing=None, upstream=None):
    """The loss of each sample and its gradient by torch's own operations, in float64."""
    wide = z.detach().double().requires_grad_()
    if smoothing is not None:
        smoothing = Smoothing(
            smoothing.epsilon,
            smoothing.mean.double() if isinstance(smoothing.mean, torch.Tensor) else smoothing.mean,
            None if smoothing.v is None else smoothing.v.double(),
        )
    eta = None if eta is None else eta.double()
    loss = two_class.plain(wide, index, alpha.double(), eta, smoothing)
    upstream = torch.ones_like(loss) if upstream is None else upstream.double()
    return loss.detach(), torch.autograd.grad(loss, wide, upstream)[0]


def assert_near(ours, expected, wide=False, most=None):
    """Within a few units in the last place of the largest number in the row."""
    eps = 1e-10 if wide else 2e-6
    limit = eps * max(
        1.0, float(expected.abs().nan_to_num(0, 0, 0).max()) if most is None else most
    )
    torch.testing.assert_close(ours.double(), expected, rtol=eps, atol=limit, equal_nan=True)


def check(z, index, lam, pull=0.0, power=1.0, side="both", smoothing=None):
    wide, how = torch.float64 if z.dtype == torch.float64 else torch.float32, (pull, power, side)
    alpha, eta = two_class.weights_of(lam.to(wide), Decoupling(*how))
    upstream = torch.linspace(-1, 2, len(z))
    expected, gradient = reference(z, index, alpha, eta, smoothing, upstream)
    leaf = z.detach().clone().requires_grad_()
    before = leaf.detach().clone()
    loss = from_logits(leaf, index, alpha, eta, smoothing)
    (grad,) = torch.autograd.grad(loss, leaf, upstream.to(wide))
    assert torch.equal(leaf.detach().nan_to_num(), before.nan_to_num())
    assert (loss.dtype, grad.dtype) == (wide, z.dtype)
    # A loss is the difference of logits: what these are precise to is what it is.
    largest = max(1.0, float(z.abs().nan_to_num(0, 0, 0).max()))
    most = largest * max(1.0, 2 * pull)
    # Torch keeps R in the logits' own precision, from which the gradient's probabilities come.
    steep = max(1.0, 2 * pull, largest / 10 if native.library() is None else 0.0)
    assert_near(loss, expected, wide == torch.float64, most)
    if z.dtype == wide:
        assert_near(grad, gradient, wide == torch.float64, steep)
    else:
        eps = torch.finfo(z.dtype).eps
        torch.testing.assert_close(grad.double(), gradient, rtol=eps, atol=eps * max(1, pull))
    if smoothing is not None:
        return
    leaf = z.detach().clone().requires_grad_()
    mean = mean_from_logits(leaf, *index.T, lam.to(wide), Decoupling(*how))
    if mean is not None:
        assert_near(mean, expected.mean(), most=most)
        (grad,) = torch.autograd.grad(mean, leaf, retain_graph=True)
        expected, gradient = reference(z, index, alpha, eta)
        assert_near(grad * len(z), gradient, most=max(1.0, 2 * pull))
        assert_near(torch.autograd.grad(-3 * mean, leaf)[0], -3 * grad.double())


# η as a multiple of the weights, or of 1, or of the own class's alone, or of the heavier's.
PULLS = [
    (0.0, 1, "both"), (0.1, 1, "both"), (0.1, 0, "both"), (0.5, 1, "own"), (1.0, 0, "own"),
    (50.0, 0, "both"), (0.1, 0.5, "both"), (0.1, 0.5, "lighter"), (1.0, 1, "heavier"),
    (0.01, 0, "lighter"), (0.3, 2, "own"),
]  # fmt: skip
pulls = st.sampled_from(PULLS)


@shared
@given(st.integers(1, 9), st.integers(2, 300), pulls, st.integers(0, 99), st.booleans())
def test_any_size_is_the_plain_form(kernels_by, size, classes, how, seed, wide):
    dtype = torch.float64 if wide else torch.float32
    check(*draw(size, classes, seed=seed, dtype=dtype), *how)


EDGES = {"compiled": [2, 3, 15, 16, 17, 31, 1023, 1024, 1025, 5000], "torch": [2, 3, 5000]}


@pytest.mark.slow
def test_at_the_edges_of_what_is_summed_at_a_time(kernels_by):
    for classes, how in itertools.product(EDGES[kernels_by], PULLS):
        check(*draw(6, classes), *how)
        if kernels_by == "torch":  # float64 is torch's in any case
            check(*draw(6, classes, dtype=torch.float64), *how)
        z, index, lam = draw(4, classes)
        for pair in ([0, classes - 1], [classes - 1, 0], [0, 0], [classes - 1] * 2, [0, 1]):
            index[:] = torch.tensor(pair)
            check(z, index, lam, *how)


@shared
@given(
    st.integers(1, 7), st.integers(2, 70), pulls, st.sampled_from([0.0, 0.1, 1.0]), st.booleans(),
    st.integers(0, 99),
)  # fmt: skip
def test_smoothing(kernels_by, size, classes, how, epsilon, weighted, seed):
    z, index, lam = draw(size, classes, seed=seed)
    weight = torch.rand(classes, generator=torch.Generator().manual_seed(seed))
    smoothing = Smoothing(epsilon, weight.mean(), weight / classes)
    smoothing = smoothing if weighted else Smoothing(epsilon, 1.0, None)
    check(z, index, lam, *how, smoothing=smoothing)
    check(z.double(), index, lam, *how, smoothing=Smoothing(
        epsilon, *(None if part is None else part.double() if torch.is_tensor(part) else part
                   for part in smoothing[1:])))  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("pull", [0.0, 0.1, 5.0])
def test_half_precision_is_computed_in_single(pull, dtype, kernels_by):
    check(*draw(9, 40, dtype=dtype), pull)


@pytest.mark.parametrize("pull", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_logits_of_any_layout(dtype, pull, kernels_by):
    z, index, lam = draw(6, 18, dtype=dtype)
    layouts = [z.T.contiguous().T, z.repeat_interleave(2, 0)[::2], torch.cat([z, z])[6:]]
    layouts += [z.repeat_interleave(2, 1)[:, ::2], z[:1].expand(6, -1), z[:, :1].expand(-1, 18)]
    for same in layouts:
        alpha, eta = two_class.weights_of(
            lam.double() if dtype == torch.float64 else lam, Decoupling(pull)
        )
        expected, gradient = reference(same, index, alpha, eta)
        leaf = same.detach().requires_grad_()
        loss = from_logits(leaf, index, alpha, eta)
        assert_near(loss, expected, dtype == torch.float64, 10)
        (grad,) = torch.autograd.grad(loss.sum(), leaf)
        eps = max(torch.finfo(dtype).eps, 1e-6)
        torch.testing.assert_close(grad.double(), gradient, rtol=eps, atol=eps)
    index, lam = index.repeat(2, 1)[::2], lam.repeat(2)[::2]
    check(z, index, lam, pull)


# ------------------------------------------------------------------------------------- far logits


@pytest.mark.parametrize("pull", [0.0, 0.1, 3.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_huge_logits(dtype, pull, kernels_by):
    z, index, lam = draw(40, 5, dtype=dtype)
    choose = torch.Generator().manual_seed(3)
    z += 1e4 * torch.randint(-1, 2, z.shape, generator=choose)
    for power in (1, 0):
        check(z, index, lam, pull, power)
        check(z[:, :2].contiguous(), index.clamp_max(1), lam, pull, power)
    for value in (1e4, -1e4, 0.0, 1e-30):
        check(torch.full_like(z, value), index, lam, pull)


@pytest.mark.parametrize("pull", [0.0, 0.1])
def test_masked_classes(pull, kernels_by):
    """-inf: a class ruled out. Not chosen, or chosen with weight 0, it changes nothing."""
    z, index, lam = draw(30, 20, same=0.2)
    z[:, 3] = z[::2, 7] = -torch.inf
    index[(index == 3) | (index == 7)] = 5
    check(z, index, lam, pull)
    short = z[:, [c for c in range(20) if c != 3]].clone().requires_grad_()
    moved = index - (index > 3).long()
    alpha, eta = two_class.weights_of(lam, Decoupling(pull))
    expected = from_logits(short, moved, alpha, eta)
    torch.testing.assert_close(from_logits(z, index, alpha, eta), expected)
    # The partner is ruled out, but λ = 1: and the other way round.
    index[:, 1] = 3
    for columns, weight in ((index, 1.0), (index.flip(1), 0.0)):
        one = torch.full((30,), weight)
        alpha, eta = two_class.weights_of(one, Decoupling(pull))
        leaf = z.clone().requires_grad_()
        loss = from_logits(leaf, columns.contiguous(), alpha, eta)
        own = F.log_softmax(z.double(), 1).gather(1, index[:, :1])[:, 0]
        finite = -own if not pull else -(1 + pull) * own
        assert_near(loss, finite.double(), most=40)
        (grad,) = torch.autograd.grad(loss.sum(), leaf)
        assert grad.isfinite().all()
        assert grad[:, 3].abs().max() <= 1e-30


@pytest.mark.parametrize("pull", [0.0, 0.1])
def test_a_class_ruled_out_that_should_be_there_costs_infinitely(pull, kernels_by):
    z, index = torch.tensor([[0.0, -torch.inf, 1.0, 2.0]]), torch.tensor([[0, 1]])
    alpha, eta = two_class.weights_of(torch.tensor([0.5]), Decoupling(pull))
    assert from_logits(z, index, alpha, eta).tolist() == [torch.inf]


@pytest.mark.cases(quick=30)
@pytest.mark.parametrize("where", ["a", "b", "other", "last", "all"])
@pytest.mark.parametrize("how", [(0.0,), (0.1,), (0.1, 0), (0.1, 0, "own"), (0.1, 0.5, "lighter")])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_nan_is_never_hidden(value, how, where, kernels_by):
    # In float64 it is torch's in any case.
    dtypes = [torch.float32, torch.float64][: 1 + (kernels_by == "torch")]
    for dtype, classes, lam, b in itertools.product(dtypes, (2, 17), (0.0, 0.4, 1.0), (1, 0)):
        z, index, _ = draw(3, classes, dtype=dtype)
        index[:] = torch.tensor([0, b])
        lams = torch.full((3,), lam)
        place = {"a": 0, "b": b, "other": min(2, classes - 1), "last": -1}.get(where)
        z[1, place if place is not None else slice(None)] = value
        alpha, eta = two_class.weights_of(lams.to(dtype), Decoupling(*how))
        leaf = z.requires_grad_()
        loss = from_logits(leaf, index, alpha, eta)
        assert not loss[1].isfinite(), (dtype, classes, lam, b)
        if math.isnan(value):
            assert loss[1].isnan()
        assert loss[[0, 2]].isfinite().all()
        (grad,) = torch.autograd.grad(loss.sum(), leaf)
        assert not grad[1].isfinite().all()
        assert grad[[0, 2]].isfinite().all()
        mean = mean_from_logits(leaf, *index.T, lams, Decoupling(*how))
        assert mean is None or not mean.isfinite()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_empty_batch(dtype, kernels_by):
    z, none = torch.randn(0, 5, dtype=dtype, requires_grad=True), torch.zeros(0).long()
    target = MixedTarget(none, none, torch.zeros(0))
    for loss in (MixedCrossEntropy, DecoupledCrossEntropy):
        assert loss(reduction="none")(z, target).shape == (0,)
        assert loss(reduction="sum")(z, target) == 0
        assert loss()(z, target).isnan()  # as F.cross_entropy


# --------------------------------------------------------------------------------- as the losses do


def make_losses(**arguments):
    return [
        MixedCrossEntropy(**arguments),
        DecoupledCrossEntropy(0.3, **arguments),
        DecoupledCrossEntropy(0.3, "uniform", **arguments),
        DecoupledCrossEntropy(0.3, asymmetric=True, **arguments),
        DecoupledCrossEntropy(0.0, **arguments),
    ]


@pytest.mark.cases(quick=16)
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("class_weighted", [False, True])
@pytest.mark.parametrize("sample_weighted", [False, True])
def test_every_way_through_a_loss_agrees(
    sample_weighted, class_weighted, smoothing, reduction, kernels_by
):
    z, index, lam = draw(8, 11)
    weight = [0.0, 0.5, *[1.5] * 9] if class_weighted else None
    each = torch.tensor([0.0, 1, 2, 0.5, 1, 1, 0, 3]) if sample_weighted else None
    features, layer = torch.randn(8, 5), torch.randn(11, 5)
    z = features @ layer.T
    for loss in make_losses(class_weight=weight, label_smoothing=smoothing, reduction=reduction):
        results = []
        for dtype in (torch.float32, torch.float64):
            target = MixedTarget(*index.T, lam.to(dtype), each)
            leaf = z.to(dtype).requires_grad_()
            value = loss(leaf, target)
            results.append((value, torch.autograd.grad(value.sum(), leaf)[0]))
            same = MixedTarget(*index.T, lam.to(dtype, copy=True).requires_grad_(), each)
            learnt = loss(leaf, same)  # the plain form, as λ is learnt
            results.append((learnt, torch.autograd.grad(learnt.sum(), leaf)[0]))
        value = loss.from_features(features.requires_grad_(), layer, None, target)
        (grad,) = torch.autograd.grad(value.sum(), features)
        expected, gradient = results[-1]
        close = {"rtol": 2e-5, "atol": 2e-5}
        torch.testing.assert_close(value.double(), expected, **close)
        torch.testing.assert_close(grad.double(), gradient @ layer.double(), **close)
        for got, grad in results:
            rtol = 1e-12 if got.dtype == torch.float64 else 5e-6
            torch.testing.assert_close(got.double(), expected, rtol=rtol, atol=rtol * 10)
            torch.testing.assert_close(grad.double(), gradient, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("bad", [-1, -100, 4, 2**40])
@pytest.mark.parametrize("side", ["a", "b"])
@pytest.mark.parametrize("way", ["float32", "bfloat16", "apart", "learnt", "threads", "features"])
def test_a_class_that_does_not_exist_is_named(way, side, bad, kernels_by, threads, monkeypatch):
    arguments = [{}, {"reduction": "sum"}, {"label_smoothing": 0.1}, {"class_weight": [1.0] * 4}]
    for loss in [loss for options in arguments for loss in make_losses(**options)]:
        z, index, lam = draw(6, 4)
        index[4, int(side == "b")] = bad
        target = MixedTarget(*index.T, lam.requires_grad_(way == "learnt"))
        z = z.bfloat16() if way == "bfloat16" else z
        z = z.repeat(1, 2)[:, ::2] if way == "apart" else z
        if way == "threads":
            monkeypatch.setattr(cpu, "THREADED", 0)
            threads(3)
        words = rf"target\.{side} must hold class indices in \[0, 3\].*{bad}"
        inputs = (z, torch.randn(4, 4), None) if way == "features" else (z,)
        with pytest.raises(InputError, match=words):
            (loss.from_features if way == "features" else loss)(*inputs, target)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8])
def test_classes_of_another_integer_type(dtype, kernels_by):
    # Zeros: read as int64 from within a larger allocation, these are classes as well.
    whole = torch.zeros(200, dtype=dtype)
    whole[:6] = torch.tensor([0, 0, 1, 0, 2, 0])
    z, lam = torch.randn(6, 5), torch.rand(6)
    wrong = MixedTarget(whole[:6], whole[100:106], lam)
    right = MixedTarget(whole[:6].long(), whole[100:106].long(), lam)
    for loss in make_losses():
        try:
            value = loss(z, wrong)
        except InputError:
            continue
        except RuntimeError as error:  # torch's own words where it looks up
            if "int64" not in str(error):
                raise
            continue
        torch.testing.assert_close(value, loss(z, right))


# ----------------------------------------------------------------------------------------- autograd


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("size", [(7, 9), (70, 1000)])
def test_a_second_pass_gives_the_same_gradient(size, reduction, kernels_by):
    for loss in make_losses(reduction=reduction):
        z, index, lam = draw(*size)
        z.requires_grad_()
        value = loss(z, MixedTarget(*index.T, lam)).sum()
        first = torch.autograd.grad(value, z, retain_graph=True)[0]
        kept = first.clone()
        second = torch.autograd.grad(value, z, retain_graph=True)[0]
        third = torch.autograd.grad(2 * value, z)[0]
        torch.testing.assert_close(second, kept, rtol=0, atol=0)
        torch.testing.assert_close(third, 2 * kept)
        assert torch.equal(first, kept)
        value = loss(z, MixedTarget(*index.T, lam)).sum()
        value.backward(retain_graph=True)
        value.backward()
        torch.testing.assert_close(z.grad, 2 * kept)
        loss(z, MixedTarget(*index.T, lam)).sum().backward()
        torch.testing.assert_close(z.grad, 3 * kept)


def test_gradients_that_are_kept_are_not_overwritten(kernels_by):
    """Large enough to be recycled: each step's gradient is memory of its own."""
    loss, grads = DecoupledCrossEntropy(), []
    for seed in range(8):
        z, index, lam = draw(100, 1000, seed=seed)
        target = MixedTarget(*index.T, lam)
        z.requires_grad_()
        loss(z, target).backward()
        if seed % 2:
            grads.append((z, target))
    for z, target in grads:
        wide = z.detach().double().requires_grad_()
        loss(wide, target).backward()
        torch.testing.assert_close(z.grad.double(), wide.grad, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_gradient_of_the_gradient(reduction, kernels_by):
    for loss in make_losses(reduction=reduction):
        results = []
        for learnt in (False, True):  # with a λ that is learnt it is the plain form
            z, index, lam = draw(5, 7)
            z.requires_grad_()
            value = loss(z, MixedTarget(*index.T, lam.requires_grad_(learnt)))
            (grad,) = torch.autograd.grad(value.square(), z, create_graph=True)
            assert grad.requires_grad
            (second,) = torch.autograd.grad(grad.square().sum() + grad[0, 0], z)
            results.append((grad.detach(), second))
        torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("loss", make_losses(reduction="none"))
def test_gradgradcheck(loss):
    z, index, lam = draw(3, 4, dtype=torch.float64)
    target = MixedTarget(*index.T, lam.double())
    z.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: loss(z, target), z)
    assert torch.autograd.gradgradcheck(lambda z: loss(z, target), z, fast_mode=True)


def test_logits_that_change_before_the_gradient_do_not_change_it(kernels_by):
    z, index, lam = draw(5, 7)
    target = MixedTarget(*index.T, lam)
    leaf = z.requires_grad_()
    expected = torch.autograd.grad(MixedCrossEntropy()(leaf, target), leaf)[0]
    logits = leaf * 1
    loss = MixedCrossEntropy()(logits, target)
    with torch.no_grad():
        logits.add_(torch.arange(7))
    if kernels_by == "torch":
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()
    else:  # it was computed with the loss
        loss.backward()
        torch.testing.assert_close(leaf.grad, expected)


def test_without_gradients(kernels_by):
    z, index, lam = draw(70, 1000)
    target = MixedTarget(*index.T, lam)
    for loss in make_losses():
        expected = loss(z.double(), target)
        for context in (torch.no_grad(), torch.inference_mode()):
            with context:
                value = loss(z.clone().requires_grad_(), target)
                assert not value.requires_grad
                assert_near(value, expected, most=10)
        with torch.autocast("cpu", torch.bfloat16):
            assert_near(loss(z, target), expected, most=10)


def test_threads_share_the_rows(threads, monkeypatch):
    monkeypatch.setattr(cpu, "THREADED", 0)
    for count in (2, 3):
        threads(count)
        for size in (1, 2, 7, 64):
            for how in ((0.0,), (0.1, 0)):
                check(*draw(size, 33), *how)
    threads(2)
    monkeypatch.undo()
    z, index, lam = draw(600, 1000)
    assert z.nbytes >= cpu.THREADED
    check(z, index, lam, 0.1)


def test_under_torch_func(kernels_by):
    z, index, lam = draw(5, 7, dtype=torch.float64)
    target = MixedTarget(*index.T, lam.double())
    for loss in make_losses():
        leaf = z.clone().requires_grad_()
        expected = torch.autograd.grad(loss(leaf, target), leaf)[0]
        gradient = torch.func.grad(lambda z, loss=loss: loss(z, target))
        torch.testing.assert_close(gradient(z), expected)
        tangent = torch.ones_like(z).cumsum(1)
        _, change = torch.func.jvp(lambda z, loss=loss: loss(z, target), (z,), (tangent,))
        torch.testing.assert_close(change, (expected * tangent).sum())


@pytest.mark.cases(quick=1)
@pytest.mark.parametrize("loss", [MixedCrossEntropy(), DecoupledCrossEntropy(0.2)])
def test_compiled_in_one_graph(loss):
    z, index, lam = draw(5, 7)
    target = MixedTarget(*index.T, lam)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    results = []
    for form in (loss, compiled):
        leaf = z.clone().requires_grad_()
        value = form(leaf, target)
        value.backward()
        results.append((value.detach(), leaf.grad))
    torch.testing.assert_close(results[0], results[1])


# -------------------------------------------------------------------------------------- its memory


@pytest.mark.parametrize(
    "loss", [loss for r in ("mean", "none") for loss in make_losses(reduction=r)]
)
def test_one_buffer_beside_the_logits_which_becomes_the_gradient(loss, kernels_by):
    z, index, lam = draw(128, 700)
    z.requires_grad_()
    target = MixedTarget(*index.T, lam)

    def step():
        grad = torch.autograd.grad(loss(z, target).sum(), z)
        recycled.clear()
        return grad

    # Blocks that fit the cache are no buffers of this size.
    peak = peak_memory(step, z.nbytes, CPU)
    assert peak is not None
    assert peak.count <= 1
    assert peak.buffers < 2.2 if kernels_by == "torch" else peak.buffers < 1.1


def test_the_gradients_buffer_is_used_again():
    z, index, lam = draw(128, 700)
    z.requires_grad_()
    target, loss = MixedTarget(*index.T, lam), DecoupledCrossEntropy()
    peak = peak_memory(lambda: torch.autograd.grad(loss(z, target), z), z.nbytes, CPU)
    if mean_from_logits(z, *index.T, lam) is not None:
        assert peak.count == 0


@pytest.mark.parametrize("loss", make_losses())
def test_no_gradient_takes_no_buffer(loss, kernels_by):
    z, index, lam = draw(128, 700)
    target = MixedTarget(*index.T, lam)

    def value():
        result = loss(z, target)
        recycled.clear()
        return result

    assert peak_memory(value, z.nbytes, CPU).count == 0
    z.requires_grad_()
    with torch.no_grad():
        assert peak_memory(value, z.nbytes, CPU).count == 0


# ------------------------------------------------------------------------------------ from features


def features_of(size, width, classes, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    parts = [(size, width), (classes, width), (classes,)]
    return [torch.randn(part, generator=generator).to(dtype).requires_grad_() for part in parts]


@shared
@given(
    st.integers(1, 6), st.integers(2, 40), pulls, st.sampled_from([0.0, 0.1]), st.booleans(),
    st.booleans(), st.sampled_from([1, 2, 7, 13, 1000]),
)  # fmt: skip
@pytest.mark.parametrize("wide", [False, True])
def test_features_give_the_logits_loss(wide, size, classes, how, epsilon, bias, weighted, chunk):
    dtype = torch.float64 if wide else torch.float32
    features, weight, offset = features_of(size, 5, classes, dtype, classes)
    _, index, lam = draw(size, classes, seed=size)
    alpha, eta = two_class.weights_of(lam.to(dtype), Decoupling(*how))
    v = torch.rand(classes, dtype=dtype, generator=torch.Generator().manual_seed(1))
    smoothing = Smoothing(epsilon, v.mean(), v / classes) if weighted else None
    if not weighted and epsilon:
        smoothing = Smoothing(epsilon, 1.0, None)
    inputs = [features, weight, offset] if bias else [features, weight]
    patch = pytest.MonkeyPatch()
    with patch.context() as patched:
        patched.setattr(two_class, "CHUNK", chunk * size)
        loss = from_features(
            features, weight, offset if bias else None, index, alpha, eta, smoothing
        )
        got = torch.autograd.grad(loss @ torch.linspace(1, 2, size, dtype=dtype), inputs)
    z = F.linear(features.double(), weight.double(), offset.double() if bias else None)
    smoothing = smoothing and Smoothing(
        epsilon, *(part.double() if torch.is_tensor(part) else part for part in smoothing[1:])
    )
    expected = two_class.plain(z, index, alpha.double(), None if eta is None else eta.double(),
                               smoothing)  # fmt: skip
    ramp = torch.linspace(1, 2, size, dtype=torch.float64)
    grads = torch.autograd.grad(expected @ ramp, inputs)
    rtol = 1e-10 if wide else 2e-5
    scale = max(1.0, how[0])
    torch.testing.assert_close(loss.double(), expected.detach(), rtol=rtol, atol=rtol * 10 * scale)
    for ours, theirs in zip(got, grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=10 * rtol, atol=10 * rtol * scale)


@pytest.mark.parametrize("needs", ["features", "weight", "bias"])
def test_only_the_gradients_that_are_asked_for(needs):
    parts = dict(zip(("features", "weight", "bias"), features_of(4, 3, 9), strict=True))
    _, index, lam = draw(4, 9)
    target = MixedTarget(*index.T, lam)
    for name, part in parts.items():
        part.requires_grad_(name == needs)
    for loss in make_losses():
        value = loss.from_features(*parts.values(), target)
        (got,) = torch.autograd.grad(value, parts[needs])
        value = loss(F.linear(*parts.values()), target)
        torch.testing.assert_close(got, torch.autograd.grad(value, parts[needs])[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_features_of_half_precision(dtype):
    features, weight, bias = features_of(6, 5, 30)
    _, index, lam = draw(6, 30)
    target = MixedTarget(*index.T, lam)
    low = features.detach().to(dtype).requires_grad_()
    for loss in make_losses():
        value = loss.from_features(low, weight, bias, target)
        grads = torch.autograd.grad(value, [low, weight, bias])
        assert [grad.dtype for grad in grads] == [dtype, torch.float32, torch.float32]
        expected = loss(F.linear(features, weight, bias), target)
        torch.testing.assert_close(value, expected, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("loss", [MixedCrossEntropy(label_smoothing=0.1), DecoupledCrossEntropy()])
def test_the_logits_of_many_classes_never_exist(loss, monkeypatch):
    size, classes = 64, 50_000
    features, weight, bias = features_of(size, 16, classes)
    _, index, lam = draw(size, classes // 1000)
    target = MixedTarget(*(index * 1000).T, lam)
    inputs = [features, weight, bias]
    monkeypatch.setattr(two_class, "CHUNK", 1 << 19)

    def step():
        return torch.autograd.grad(loss.from_features(features, weight, bias, target), inputs)

    got = step()
    value = loss(F.linear(features.double(), weight.double(), bias.double()), target)
    for ours, theirs in zip(got, torch.autograd.grad(value, inputs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)
    peak = peak_memory(step, size * classes * 4, CPU)
    assert peak.count == 0
    # The weight's gradient is a quarter of the logits; three chunks are as much again.
    assert peak.buffers < 0.8
