"""functional.mix on the CPU equals the plain form, whatever is mixed, however."""

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import numpy as np
import pytest
import torch
from helpers import in_fork
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.autograd import forward_ad

from mixwell import InputError, Mix, functional
from mixwell.kernels import cpu, plain, recycled
from mixwell.mix import Box

FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
DTYPES = [*FLOATS, torch.uint8, torch.complex64]
MODES = ["lam", "box", "bool", "bool for all", "float", "float for all"]
PARTNERS = ["permutation", "identity", "repeated", "int32"]


def make(*shape, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    if dtype == torch.uint8:
        return torch.randint(0, 256, shape, dtype=dtype, generator=generator)
    if dtype.is_complex:
        return torch.randn(shape, dtype=dtype, generator=generator)
    return torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype)


LAYOUTS = {
    "contiguous": lambda make: make(6, 3, 5, 7),
    "one thing of everything": lambda make: make(1, 1, 1, 1),
    "one sample": lambda make: make(1, 3, 5, 7),
    "apart": lambda make: make(12, 3, 5, 7)[::2],
    "from the second": lambda make: make(7, 3, 5, 7)[1:],
    "some lines": lambda make: make(6, 3, 10, 7)[:, :, ::2],
    "some channels": lambda make: make(6, 5, 5, 7)[:, 1:4],
    "channels last": lambda make: make(6, 3, 5, 7).to(memory_format=torch.channels_last),
    "channels last, apart": lambda make: make(12, 3, 5, 7).to(memory_format=torch.channels_last)[
        ::2
    ],
    "one channel, last": lambda make: make(6, 1, 5, 7).to(memory_format=torch.channels_last),
    "channels last, one column": lambda make: make(6, 5, 1, 3).permute(0, 3, 1, 2),
    "transposed": lambda make: make(6, 3, 7, 5).transpose(2, 3),
    "lines before channels": lambda make: make(6, 5, 3, 7).transpose(1, 2),
    "samples last": lambda make: make(3, 5, 7, 6).permute(3, 0, 1, 2),
    "expanded samples": lambda make: make(1, 3, 5, 7).expand(6, -1, -1, -1),
    "expanded channels": lambda make: make(6, 1, 5, 7).expand(-1, 3, -1, -1),
    "empty samples": lambda make: make(6, 0, 5, 7),
    "no samples": lambda make: make(0, 3, 5, 7),
    "1-d": lambda make: make(9),
    "1-d, apart": lambda make: make(18)[::2],
    "2-d": lambda make: make(6, 11),
    "2-d, transposed": lambda make: make(11, 6).T,
    "3-d": lambda make: make(6, 5, 7),
    "3-d, transposed": lambda make: make(6, 7, 5).transpose(1, 2),
    "5-d": lambda make: make(6, 2, 3, 5, 7),
    "5-d, channels last": lambda make: make(6, 2, 3, 5, 7).to(memory_format=torch.channels_last_3d),
    "large": lambda make: make(3, 2, 92, 91),
    "large, channels last": lambda make: make(3, 2, 92, 91).to(memory_format=torch.channels_last),
    "long": lambda make: make(4, 20001),
}


def partners(size, kind="permutation", seed=1):
    generator = torch.Generator().manual_seed(seed)
    if kind == "identity":
        return torch.arange(size)
    if kind == "repeated":
        return torch.randint(max(size // 2, 1), (size,), generator=generator)
    partner = torch.randperm(size, generator=generator)
    return partner.int() if kind == "int32" else partner


def weights(size, dtype=torch.float32, seed=2):
    lam = torch.rand(size, generator=torch.Generator().manual_seed(seed))
    lam[1::4] = 1.0
    lam[3::4] = 0.0
    return lam.to(dtype)


def boxes(size, height, width, seed=3):
    """Random ones, after one of each kind: empty, full, a line, a corner, none wide."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(height + 1, (size, 2), generator=generator).sort(1)[0]
    columns = torch.randint(width + 1, (size, 2), generator=generator).sort(1)[0]
    edges = torch.cat([rows, columns], 1)
    kinds = [[0, 0, 0, 0], [0, height, 0, width], [0, 1, 0, width], [height, height, 0, 1]]
    kinds += [[0, height, width, width]]
    edges[: len(kinds)] = torch.tensor(kinds)[:size]
    return Box(edges, height, width)


def make_mix(x, mode="lam", partner="permutation", lam=torch.float32):
    """The mix of a mode for ``x``; None where there is none."""
    size = len(x)
    if mode == "lam":
        return Mix(partners(size, partner), weights(size, lam))
    if x.ndim < 3:
        return None
    height, width = x.shape[-2:]
    lam = weights(size, lam)
    if mode == "box":
        return Mix(partners(size, partner), lam, box=boxes(size, height, width))
    generator = torch.Generator().manual_seed(4)
    rows = 1 if mode.endswith("for all") else size
    mask = torch.rand(rows, *[1] * (x.ndim - 3), height, width, generator=generator)
    mask = mask if x.ndim > 3 else mask[:, None]
    return Mix(partners(size, partner), lam, mask if mode.startswith("float") else mask > 0.4)


def assert_same(mixed, expected):
    """Equal but for the last place, in which a fused multiply-add may differ."""
    assert mixed.dtype == expected.dtype
    assert mixed.shape == expected.shape
    if expected.dtype == torch.uint8:
        assert torch.equal(mixed, expected)
        return
    eps = torch.finfo(expected.dtype).eps
    torch.testing.assert_close(mixed, expected, rtol=2 * eps, atol=4 * eps, equal_nan=True)


def check(x, mix):
    before = x.clone()
    mixed = functional.mix(x, mix)
    assert_same(mixed, plain(x, mix))
    torch.testing.assert_close(x, before, rtol=0, atol=0, equal_nan=True)
    assert not x.numel() or mixed.data_ptr() != x.data_ptr()


# ----------------------------------------------------------------------- what can be mixed, and how


def modes_of(layout):
    return [mode for mode in MODES if make_mix(LAYOUTS[layout](make), mode) is not None]


@pytest.mark.cases(quick=100)
@pytest.mark.parametrize(
    ("layout", "mode"), [(layout, mode) for layout in LAYOUTS for mode in modes_of(layout)]
)
def test_it_equals_the_plain_form(layout, mode, kernels_by):
    for dtype in DTYPES:
        x = LAYOUTS[layout](lambda *shape, dtype=dtype: make(*shape, dtype=dtype))
        for partner in PARTNERS if mode == "lam" else ("int32", "repeated"):
            check(x, make_mix(x, mode, partner))


@pytest.mark.parametrize("layout", ["contiguous", "large", "channels last", "apart", "2-d"])
@pytest.mark.parametrize("mode", ["lam", "float", "bool"])
def test_weights_of_any_dtype_and_stride(layout, mode, kernels_by):
    for dtype in DTYPES:
        x = LAYOUTS[layout](lambda *shape, dtype=dtype: make(*shape, dtype=dtype))
        for lam in FLOATS:
            mix = make_mix(x, mode)
            if mix is None:
                continue
            # Of float32's values, of which each has an exact mix of bytes.
            mask = mix.mask if mix.mask is None or mode == "bool" else mix.mask.to(lam)
            check(x, Mix(mix.partner, mix.lam.to(lam), mask))
        for one in (torch.tensor(0.3), torch.tensor(0.3).double(), torch.tensor(0.3).half()):
            check(x, Mix(partners(len(x)), one.expand(len(x))))
        check(x, Mix(partners(2 * len(x))[::2] // 2, weights(2 * len(x))[::2]))


@pytest.mark.parametrize("mode", MODES[:3])
@pytest.mark.parametrize("layout", ["contiguous", "channels last", "large", "long"])
def test_several_threads_share_a_batch(layout, mode, kernels_by, threads, monkeypatch):
    monkeypatch.setattr(cpu, "THREADED", 0)
    for dtype in (torch.float32, torch.bfloat16, torch.uint8):
        x = LAYOUTS[layout](lambda *shape, dtype=dtype: make(*shape, dtype=dtype))
        mix = make_mix(x, mode)
        if mix is None:
            continue
        before, expected = x.clone(), plain(x, mix)
        threads(2 if layout == "large" else 3)
        mixed, kept = functional.mix(x, mix), x.clone()
        functional.mix(x, mix, out=x)
        threads(1)  # torch's own would wait for each other at every operation
        for got in (mixed, x):
            assert_same(got, expected)
        assert torch.equal(kept, before)


@pytest.mark.parametrize("mode", ["lam", "box"])
def test_a_batch_of_some_megabytes(mode, kernels_by, threads):
    threads(2)
    for dtype, side in ((torch.float32, 150), (torch.uint8, 300)):
        x = make(8, 3, side, side, dtype=dtype)
        assert x.nbytes >= cpu.THREADED
        check(x, make_mix(x, mode))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_batch(data, kernels_by):
    dtype = data.draw(st.sampled_from(DTYPES))
    shape = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=5))
    size = shape[0]
    order = data.draw(st.permutations(range(len(shape))))
    inverse = [order.index(place) for place in range(len(shape))]
    steps = [data.draw(st.integers(1, 2)) for _ in shape]
    whole = make(*[shape[at] * steps[at] for at in order], dtype=dtype).permute(*inverse)
    x = whole[tuple(slice(None, None, step) for step in steps)]
    assert list(x.shape) == shape
    partner = data.draw(st.lists(st.integers(0, size - 1), min_size=size, max_size=size))
    numbers = st.sampled_from([0.0, 1.0, 0.5, 0.25]) | st.floats(0, 1, width=32)
    lam = data.draw(st.lists(numbers, min_size=size, max_size=size))
    check(x, Mix(torch.tensor(partner), torch.tensor(lam)))


@pytest.mark.parametrize("dtype", [*FLOATS, torch.uint8])
@pytest.mark.parametrize("shape", [(5, 333), (5, 80001)])
def test_lam_zero_and_one_give_one_side_to_the_bit(shape, dtype, kernels_by):
    x, partner = make(*shape, dtype=dtype), partners(shape[0])
    for lam in FLOATS:
        ones = torch.ones(shape[0], dtype=lam)
        assert torch.equal(functional.mix(x, Mix(partner, ones)), x)
        assert torch.equal(functional.mix(x, Mix(partner, 1 - ones)), x[partner])
        half = Mix(partner, torch.arange(shape[0]).remainder(2).to(lam))
        expected = torch.where(half.lam[:, None] == 1, x, x[partner])
        assert torch.equal(functional.mix(x, half), expected)


def nearest(own, other, lam):
    """λ own + (1 - λ) other, rounded to nearest, ties to even, in whole numbers."""
    share = Fraction(lam)
    exact = other.astype(object) * share.denominator
    exact = exact + share.numerator * (own.astype(object) - other.astype(object))
    whole, left = exact // share.denominator, exact % share.denominator
    up = (2 * left > share.denominator) | ((2 * left == share.denominator) & (whole % 2 == 1))
    return (whole + up).astype(np.uint8)


@pytest.mark.parametrize("length", [1 << 16, 16384, 31])
@pytest.mark.parametrize(
    "lam", [0.5, 0.25, 0.1, 0.9, 1 / 3, 1e-3, 1 - 2.0**-24, 129 / 2**16, 1 - 129.5 / 2**16, 0.4999]
)
def test_bytes_are_the_exact_value_rounded_to_even(lam, length, kernels_by):
    lam = float(np.float32(lam))
    own, other = (side.ravel().astype(np.uint8) for side in np.mgrid[:256, :256])
    expected = torch.from_numpy(nearest(own, other, lam))
    own, other = torch.from_numpy(own), torch.from_numpy(other)
    swap, weight = torch.tensor([1, 0]), torch.tensor([lam, 0.5])
    for part in (slice(at, at + length) for at in range(0, 1 << 16, max(length, 1 << 14))):
        x = torch.stack([own[part], other[part]])
        assert torch.equal(functional.mix(x, Mix(swap, weight))[0], expected[part])
        if length < 1 << 16:
            mask = weight.view(2, 1, 1, 1).expand(2, 1, 1, len(x[0]))
            images = x.view(2, 1, 1, -1)
            assert torch.equal(functional.mix(images, Mix(swap, weight, mask)).view_as(x)[0],
                               expected[part])  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", FLOATS)
def test_what_is_not_finite_goes_where_it_belongs(dtype, mode, kernels_by):
    for shape in [(5, 3, 9, 8), (5, 3, 111, 100)]:  # one after another by torch, from cpu.LARGE
        x = make(*shape, dtype=dtype)
        for place, value in enumerate((torch.nan, torch.inf, -torch.inf)):
            x[place, 0, place + 1, 3:6] = value
            x[place, 1, ::3] = value
        for partner in PARTNERS:
            check(x, make_mix(x, mode, partner))


def test_large_and_small_numbers(kernels_by):
    x = torch.tensor([[3e38, -3e38, 1e-44, 1e-38, -0.0, 65504.0], [3e38, 3e38, 0, 2e-38, 0.0, 1.0]])
    for lam in (0.0, 0.25, 0.5, 0.75, 1.0):
        mix = Mix(torch.tensor([1, 0]), torch.full((2,), lam))
        torch.testing.assert_close(functional.mix(x, mix), plain(x, mix), rtol=3e-7, atol=1e-44,
                                   equal_nan=True)  # fmt: skip
        for dtype in (torch.bfloat16, torch.float16):
            assert torch.equal(functional.mix(x.to(dtype), mix).nan_to_num(),
                               plain(x.to(dtype), mix).nan_to_num())  # fmt: skip


def test_all_halves_round_as_torch_does(kernels_by):
    bits = torch.arange(1 << 16).to(torch.uint16)
    for dtype in (torch.float16, torch.bfloat16):
        own = bits.view(dtype)
        x = torch.stack([own, own.roll(12345)])
        for lam in (0.25, 0.5, 0.3, 1.0):
            mix = Mix(torch.tensor([1, 0]), torch.full((2,), lam))
            mixed, expected = functional.mix(x, mix), plain(x, mix)
            assert torch.equal(mixed.isnan(), expected.isnan())
            both = torch.stack([mixed, expected]).view(torch.int16)[:, ~mixed.isnan()].int()
            assert (both[0] - both[1]).abs().max() <= 1  # one step: a fused multiply-add
            if lam in (0.5, 1.0):  # where both sides are exact but for the last rounding
                assert torch.equal(mixed.nan_to_num(), expected.nan_to_num())


# --------------------------------------------------------------------------------------------- out=


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "layout", ["contiguous", "apart", "channels last", "samples last", "large"]
)
def test_out_takes_the_result(layout, mode, kernels_by):
    for dtype, partner in itertools.product(DTYPES[::2], ("int32", "repeated")):

        def build(*shape, dtype=dtype):
            return make(*shape, dtype=dtype)

        x = LAYOUTS[layout](build)
        mix = make_mix(x, mode, partner)
        expected = plain(x, mix)
        apart = x.new_empty(2 * len(x), *x.shape[1:])[1::2]
        by_column = x.new_empty(x.shape).mT.contiguous().mT
        for out in (torch.empty_like(x), x.new_empty(x.shape), by_column, apart):
            assert functional.mix(x, mix, out=out) is out
            assert_same(out, expected)
        assert functional.mix(x, mix, out=x) is x
        assert_same(x, expected)


@pytest.mark.parametrize("partner", PARTNERS)
@pytest.mark.parametrize("mode", ["lam", "box", "bool", "float"])
@pytest.mark.parametrize("side", [4, 80])
def test_in_place_leaves_what_is_between(side, mode, partner, kernels_by):
    whole = make(12, 3, side, side)
    x, between = whole[::2], whole[1::2].clone()
    mix = make_mix(x, mode, partner)
    expected = plain(x, mix)
    functional.mix(x, mix, out=x)
    assert_same(x, expected)
    assert torch.equal(whole[1::2], between)


@pytest.mark.parametrize("length", [50, 40000])
def test_out_may_overlap(length, kernels_by):
    mix = Mix(partners(8), weights(8))
    for place in (0, 1, 2, 3):
        memory = make(11, length)
        x, out = memory[:8], memory[place : place + 8]
        expected = plain(x, mix)
        assert_same(functional.mix(x, mix, out=out), expected)
    memory = make(8, 8)
    expected = plain(memory, mix)
    assert_same(functional.mix(memory, mix, out=memory.T), expected)


@pytest.mark.parametrize("length", [50, 40000])
def test_out_may_overlap_in_numpys_memory(length):
    memory = np.random.default_rng(0).random((10, length), dtype=np.float32)
    x, out = torch.from_numpy(memory[:8]), torch.from_numpy(memory[2:])
    mix = Mix(torch.arange(8).roll(1), torch.full((8,), 0.5))
    expected = plain(x, mix)
    assert_same(functional.mix(x, mix, out=out), expected)


def test_writing_to_out_is_seen_by_autograd():
    x, out, w = torch.randn(4, 5), torch.randn(4, 5), torch.randn(4, 5, requires_grad=True)
    loss = (w * out).sum()  # keeps `out` for its gradient
    functional.mix(x, Mix(torch.tensor([1, 0, 3, 2]), torch.rand(4)), out=out)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_out_of_a_pytree(kernels_by):
    x = {"image": make(4, 3, 5, 5), "more": [make(4, 7), "kept"]}
    mix = Mix(partners(4), weights(4))
    out = {"image": torch.empty(4, 3, 5, 5), "more": [torch.empty(4, 7), None]}
    functional.mix(x, mix, out={"image": out["image"], "more": [out["more"][0], "kept"]})
    for key, part in (("image", x["image"]), ("more", x["more"][0])):
        got = out[key] if key == "image" else out[key][0]
        assert_same(got, plain(part, mix))


@pytest.mark.parametrize(
    "out",
    [
        lambda x: torch.empty(4, 5),
        lambda x: torch.empty(5, 4, dtype=torch.float64),
        lambda x: torch.empty(5, 1),
        lambda x: torch.empty(5, 4, device="meta"),
        lambda x: x.tolist(),
        lambda x: "out",
        lambda x: torch.empty(5, 4, requires_grad=True),
    ],
)
def test_an_out_that_does_not_fit_is_named(out):
    x = torch.randn(5, 4)
    with pytest.raises(InputError, match=r"mix: out"):
        functional.mix(x, Mix(partners(5), weights(5)), out=out(x))
    with pytest.raises(InputError, match=r"mix: out"):
        functional.mix([x], Mix(partners(5), weights(5)), out=[out(x)])


@pytest.mark.parametrize("out", [{"b": torch.empty(2, 2)}, [torch.empty(2, 2)], torch.empty(2, 2)])
def test_an_out_of_another_structure_is_named(out):
    with pytest.raises(InputError, match="mix: out"):
        functional.mix({"a": torch.rand(2, 2)}, Mix.identity(2), out=out)


def test_out_of_what_has_a_gradient_is_refused():
    x = torch.randn(5, 4, requires_grad=True)
    mix = Mix(partners(5), weights(5))
    for out in (torch.empty(5, 4), x):
        with pytest.raises(InputError, match="out= would lose the gradient"):
            functional.mix(x, mix, out=out)
    with torch.no_grad():
        out = torch.empty(5, 4)
        assert_same(functional.mix(x, mix, out=out), plain(x, mix))
        expected = plain(x, mix)
        assert_same(functional.mix(x, mix, out=x), expected)


# --------------------------------------------------------------------------- what must not be mixed


@pytest.mark.parametrize("wrong", [2, 5, -1, 10**9, -(10**9)])
@pytest.mark.parametrize("box", [False, True])
def test_a_partner_that_does_not_exist_is_refused(box, wrong):
    where = Box(torch.tensor([[0, 2, 0, 2]] * 2), 3, 3) if box else None
    mix = Mix(torch.tensor([0, wrong]), torch.rand(2), box=where)

    def work():  # in a process of its own: it may end it
        for needs in (False, True):
            x = torch.rand(2, 3, 3, 3, requires_grad=needs)
            with pytest.raises((ValueError, IndexError)):
                functional.mix(x, mix)

    assert in_fork(work) == 0


@pytest.mark.parametrize("edges", [[2, 9, 0, 3], [-2, 3, 0, 3], [0, 3, 2, 7], [-1, 99, -1, 99]])
def test_a_box_that_reaches_out_of_the_image_is_clipped(edges):
    # Well inside a larger allocation, so that nothing is broken by what is written outside.
    whole = make(16, 3, 6, 5)
    x = whole[6:10]
    mix = Mix(partners(4), weights(4), box=Box(torch.tensor([edges] * 4), 6, 5))
    out = torch.zeros_like(whole)
    assert torch.equal(functional.mix(x, mix, out=out[6:10]), plain(x, mix))


# ---------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("partner", ["permutation", "repeated"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("large", [False, True])
def test_gradcheck(mode, partner, large, kernels_by, monkeypatch):
    if large:
        monkeypatch.setattr(cpu, "LARGE", 0)
    x = make(4, 1, 2, 2, dtype=torch.float64).requires_grad_()
    mix = make_mix(x.detach(), mode, partner)
    assert torch.autograd.gradcheck(lambda x: functional.mix(x, mix), x)
    assert torch.autograd.gradgradcheck(lambda x: functional.mix(x, mix), x, fast_mode=True)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "layout", ["contiguous", "apart", "some lines", "channels last", "transposed", "samples last",
               "expanded channels", "large", "large, channels last", "one sample"],
)  # fmt: skip
def test_the_gradient_is_the_plain_forms(layout, mode, kernels_by):
    for dtype in (torch.float32, torch.bfloat16):
        for partner in ("int32", "repeated"):
            given = LAYOUTS[layout](lambda *shape, dtype=dtype: make(*shape, dtype=dtype))
            mix = make_mix(given, mode, partner)
            upstream = make(*given.shape, dtype=dtype, seed=9)
            grads = []
            for form in (functional.mix, plain):
                x = given.detach().requires_grad_()
                mixed = form(x, mix)
                (grad,) = torch.autograd.grad(mixed, x, upstream)
                assert grad.dtype == dtype
                grads.append(grad)
                # Of an expanded upstream, as a sum has it.
                grads.append(torch.autograd.grad(form(x, mix).abs().sum(), x)[0])
            tolerance = 0.03 if dtype == torch.bfloat16 else 2e-6
            for ours, theirs in zip(grads[:2], grads[2:], strict=True):
                torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=2 * tolerance)


def test_the_gradient_of_half_precision_is_summed_in_single():
    # In bfloat16 itself the sum of 300 ones stops at 256.
    x = torch.zeros(300, cpu.LARGE // 2, dtype=torch.bfloat16, requires_grad=True)
    mix = Mix(torch.zeros(300, dtype=torch.int64), torch.zeros(300))
    functional.mix(x, mix).backward(torch.ones_like(x))
    assert x.grad[0, 0] == 300


def test_weights_that_are_learnt_get_their_gradient(kernels_by):
    x = make(6, 3, 5, 7, dtype=torch.float64)
    for needs in (False, True):
        for mode in ("lam", "float", "float for all"):
            grads = []
            for form in (functional.mix, plain):
                value = x.clone().requires_grad_(needs)
                mix = make_mix(x, mode, "repeated", torch.float64)
                learnt = mix.lam if mode == "lam" else mix.mask
                learnt.requires_grad_()
                form(value, mix).square().sum().backward()
                grads.append((learnt.grad, value.grad))
            torch.testing.assert_close(grads[0][0], grads[1][0])
            assert grads[0][0].abs().sum() > 0
            if needs:
                torch.testing.assert_close(grads[0][1], grads[1][1])


def test_gradients_accumulate_and_the_result_may_be_changed():
    x = torch.randn(5, 400, 200, requires_grad=True)
    mix = Mix(partners(5), weights(5))
    functional.mix(x, mix).sum().backward()
    once = x.grad.clone()
    functional.mix(x, mix).mul_(2).sum().backward()
    torch.testing.assert_close(x.grad, 3 * once)
    mixed = functional.mix(x, mix)
    mixed.sum().backward(retain_graph=True)
    mixed.sum().backward()
    torch.testing.assert_close(x.grad, 5 * once)


# -------------------------------------------------------------------------------------------- modes


@pytest.mark.parametrize("shape", [(6, 40), (6, 3, 130, 120)])
def test_without_gradients(shape, kernels_by, threads, monkeypatch):
    monkeypatch.setattr(cpu, "THREADED", 0)
    x, mix = make(*shape).requires_grad_(), Mix(partners(6), weights(6))
    expected = plain(x, mix).detach()
    threads(2 if kernels_by == "compiled" else 1)
    with torch.no_grad():
        mixed = functional.mix(x, mix)
    assert not mixed.requires_grad
    assert_same(mixed, expected)
    del mixed
    with torch.inference_mode():
        inside = make(*shape)
        for batch in (x, inside):
            mixed = functional.mix(batch, mix)
            assert not mixed.requires_grad
            assert_same(mixed, expected)
            assert_same(functional.mix(batch, mix, out=torch.empty_like(batch)), expected)
        assert_same(functional.mix(inside.clone(), mix, out=inside), expected)
    del mixed
    # Memory of an inference tensor serves any other, which may then be changed and learnt from.
    mixed = functional.mix(make(*shape), mix)
    assert not mixed.is_inference()
    assert_same(mixed, expected)
    mixed.mul_(2).requires_grad_().sum().backward()


def test_under_autocast_the_dtype_is_kept(kernels_by):
    mix = Mix(partners(6), weights(6))
    with torch.autocast("cpu", torch.bfloat16):
        for dtype in (torch.float32, torch.bfloat16):
            x = make(6, 40, dtype=dtype).requires_grad_()
            mixed = functional.mix(x, mix)
            assert_same(mixed, plain(x, mix))
            mixed.sum().backward()
            assert x.grad.dtype == dtype


def test_under_torch_func():
    x, mix = make(3, 6, 4, dtype=torch.float64), Mix(partners(6), weights(6, torch.float64))
    expected = torch.stack([plain(part, mix) for part in x])

    def value(part):
        return functional.mix(part, mix).square().sum()

    torch.testing.assert_close(torch.func.vmap(lambda part: functional.mix(part, mix))(x), expected)
    gradient = torch.func.grad(value)(x[0])
    needed = x[0].clone().requires_grad_()
    plain(needed, mix).square().sum().backward()
    torch.testing.assert_close(gradient, needed.grad)
    tangent = make(6, 4, dtype=torch.float64, seed=5)
    mixed, changed = torch.func.jvp(lambda part: functional.mix(part, mix), (x[0],), (tangent,))
    torch.testing.assert_close(mixed, expected[0])
    torch.testing.assert_close(changed, plain(tangent, mix))
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(value))(x)[0], gradient)


def test_under_forward_mode():
    mix = Mix(partners(6), weights(6))
    tangent = make(6, 4, seed=5)
    with forward_ad.dual_level():
        mixed = functional.mix(forward_ad.make_dual(make(6, 4), tangent), mix)
        got = forward_ad.unpack_dual(mixed).tangent
        assert got is not None
        torch.testing.assert_close(got, plain(tangent, mix))


def test_a_lazily_negated_view():
    number = torch.randn(8, 3, dtype=torch.complex64, requires_grad=True)
    x = number.conj().imag[:, 0]
    assert x.is_neg()
    mix = Mix(partners(8), weights(8))
    assert_same(functional.mix(x, mix), plain(x, mix))


@pytest.mark.parametrize("mode", ["lam", "box", "bool"])
def test_compiled_in_one_graph(mode):
    x = make(6, 3, 5, 7)
    mix = make_mix(x, mode)
    compiled = torch.compile(functional.mix, fullgraph=True, backend="aot_eager")
    assert_same(compiled(x, mix), plain(x, mix))
    x.requires_grad_()
    compiled(x, mix).square().sum().backward()
    expected = x.detach().clone().requires_grad_()
    plain(expected, mix).square().sum().backward()
    torch.testing.assert_close(x.grad, expected.grad)


class Tagged(torch.Tensor):
    """A subclass that does nothing but be one."""


def test_subclasses_stay_what_they_are(kernels_by):
    mix = Mix(partners(6), weights(6))
    x = make(6, 40).as_subclass(Tagged)
    mixed = functional.mix(x, mix)
    assert type(mixed) is Tagged
    assert_same(mixed.as_subclass(torch.Tensor), plain(make(6, 40), mix))
    parameter = torch.nn.Parameter(make(6, 40))
    mixed = functional.mix(parameter, mix)
    assert mixed.requires_grad
    assert_same(mixed, plain(parameter, mix))


# --------------------------------------------------------------------------- processes and threads


class Numbers(torch.utils.data.Dataset):
    def __len__(self):
        return 96

    def __getitem__(self, index):
        return torch.full((3, 64, 64), float(index)), index


def mixed_batch(samples):
    x, index = torch.utils.data.default_collate(samples)
    mix = Mix(torch.arange(len(x)).roll(1), weights(len(x), seed=int(index[0])))
    mixed = functional.mix(x, mix)
    # Written where it is shared, it isn't copied once more on its way.
    assert mixed.is_shared() or torch.utils.data.get_worker_info() is None
    return mixed, functional.mix(x.byte(), mix), mix.lam, index


def assert_batch(mixed, whole, lam, index):
    expected = torch.lerp(index.roll(1).double(), index.double(), lam.double())
    flat = mixed.double().flatten(1)
    torch.testing.assert_close(flat.amin(1), expected, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(flat.amax(1), expected, rtol=1e-6, atol=1e-5)
    assert torch.equal(whole, expected.round().byte()[:, None, None, None].expand_as(whole))


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_of_a_loader_send_batches_that_stay_whole(persistent):
    loader = torch.utils.data.DataLoader(
        Numbers(), batch_size=8, collate_fn=mixed_batch, num_workers=2, prefetch_factor=2,
        persistent_workers=persistent, multiprocessing_context="fork",
    )  # fmt: skip
    kept = []
    for _ in range(2):
        for number, batch in enumerate(loader):
            assert_batch(*batch)
            if number % 2:
                kept.append(batch)
            del batch
    assert len(kept) == 12
    for batch in kept:  # after the workers have written many more
        assert_batch(*batch)


def test_after_a_fork_there_are_new_threads(kernels_by, threads, monkeypatch):
    if kernels_by == "torch":
        pytest.skip("torch's own threads do not outlive a fork")
    monkeypatch.setattr(cpu, "THREADED", 0)
    threads(2)
    x, mix = make(8, 3, 100, 100), Mix(partners(8), weights(8))
    expected = functional.mix(x, mix).numpy().copy()
    assert cpu._pool is not None

    def work():
        for _ in range(3):
            assert np.array_equal(functional.mix(x, mix).numpy(), expected)
        assert cpu._pool is not None

    assert in_fork(work) == 0
    assert np.array_equal(functional.mix(x, mix).numpy(), expected)


def test_a_fork_while_another_thread_mixes():
    x, mix = make(8, 3, 100, 100), Mix(partners(8), weights(8))
    with recycled._lock:  # as a thread has it while it takes memory
        assert in_fork(lambda: functional.mix(x, mix), seconds=1) == 0


def test_several_threads_mix_at_once(kernels_by, threads, monkeypatch):
    monkeypatch.setattr(cpu, "THREADED", 0)
    threads(2)
    start = threading.Barrier(4)

    def work(seed):
        start.wait()
        kept = []
        for step in range(10):
            x = make(6, 150, 100, seed=100 * seed + step)
            mix = Mix(partners(6, seed=seed), weights(6, seed=step))
            kept.append((functional.mix(x, mix), x, mix))
            kept = kept[-3:]
            for mixed, own, how in kept:
                assert_same(mixed, plain(own, how))
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))


def test_parts_cover_each_element_once():
    for size in (1, 2, 63, 64, 65, 1000):
        for count in (1, 2, 3, 7):
            for multiple in (1, 64):
                parts = cpu.parts(size, count, multiple)
                assert len(parts) <= count
                assert [i for part in parts for i in range(part.start, part.stop)] == list(
                    range(size)
                )
                assert all(part.start % multiple == 0 for part in parts)


def test_an_error_in_any_part_is_raised():
    for place in range(3):

        def fail(part, place=place):
            if part.start == place:
                raise KeyError("here")

        with pytest.raises(KeyError):
            cpu.run(fail, cpu.parts(3, 3))
