"""The Triton kernels against plain torch: on a GPU, or else in Triton's interpreter on the CPU.

The interpreter is chosen before Triton decorates a kernel, for the whole process. So without a GPU
the classes below run in a process of their own, started by one test; what does not run kernels is
tested here.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mixwell import InputError
from mixwell.kernels import triton as kernels

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
HAS_TRITON = importlib.util.find_spec("triton") is not None
DEVICE = "cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu"
RUN_HERE = HAS_TRITON and (INTERPRETED or DEVICE == "cuda")

needs_triton = pytest.mark.skipif(not HAS_TRITON, reason="Triton is not installed")
NEW_TRITON = HAS_TRITON and not version("triton").startswith("3.2.")
needs_new_triton = pytest.mark.skipif(
    not NEW_TRITON, reason="Triton 3.3 or later: its interface, and truth values in its interpreter"
)
needs_gpu = pytest.mark.skipif(DEVICE != "cuda", reason="no GPU")

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
DTYPES = (*FLOATS, torch.uint8)
SHAPES = [
    (5,),  # a number each
    (4, 1),
    (70, 37),  # several samples in a program, and samples beyond the last
    (3, 5001),  # several programs to a sample, without alignment
    (2, 4096),
]
IMAGES = [
    (5, 3, 9, 7),  # odd: several channels in a program, across samples
    (3, 16, 24),  # no channels
    (2, 3, 40, 32),  # several programs to a channel
    (3, 128, 3, 5),  # several programs to a sample, several channels to a program
    (2, 2, 3, 4, 12),  # volumes
]


def cases(places: list, odd: list, dtypes: tuple) -> list:
    """Every place in float32, and the odd ones in the other dtypes: the interpreter is slow."""
    others = [(place, dtype) for place in odd for dtype in dtypes if dtype != torch.float32]
    return [*((place, torch.float32) for place in places), *others]


def large(dtype: torch.dtype) -> tuple[int, ...]:
    """Return a shape of several large tiles, the last of them not full."""
    return (2, 2, 96, 96) if dtype == torch.uint8 else (2, 2, 64, 72)


def images(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    x = torch.rand(shape, device=DEVICE) * 255
    return x.to(dtype) if dtype == torch.uint8 else (x - 100).to(dtype)


def weights(size: int) -> Tensor:
    lam = torch.rand(size, device=DEVICE)
    lam[:3] = torch.tensor([0.0, 0.5, 1.0])[:size]
    return lam


def partners(size: int) -> Tensor:
    """Random partners: some samples are nobody's, some several's, and the first its own."""
    partner = torch.randint(size, (size,), device=DEVICE)
    partner[0] = 0
    return partner


def boxes(size: int, height: int, width: int) -> Tensor:
    """Random boxes; the first is empty, the second all and the third reaches beyond the image."""
    rows = torch.randint(height + 1, (size, 2), device=DEVICE).sort(1).values
    columns = torch.randint(width + 1, (size, 2), device=DEVICE).sort(1).values
    box = torch.stack([rows[:, 0], rows[:, 1], columns[:, 0], columns[:, 1]], 1)
    special = [[0, height, 2, 2], [0, height, 0, width], [-3, height // 2, width // 2, width + 5]]
    box[:3] = torch.tensor(special)[:size]
    return box


def inside(box: Tensor, x: Tensor) -> Tensor:
    """The partner's place, bool, like ``x`` with one channel."""
    row = torch.arange(x.shape[-2], device=DEVICE)[:, None]
    column = torch.arange(x.shape[-1], device=DEVICE)
    top, bottom, left, right = (edge.view(-1, *[1] * (x.ndim - 1)) for edge in box.unbind(1))
    return (row >= top) & (row < bottom) & (column >= left) & (column < right)


def where(mode: str, x: Tensor) -> dict[str, Tensor]:
    """The arguments that say where, of a mode: a box, or a mask of one of four kinds."""
    if mode == "lam":
        return {}
    if mode == "box":
        return {"box": boxes(len(x), *x.shape[-2:])}
    size = 1 if "shared" in mode else len(x)
    mask = torch.rand(size, *[1] * max(1, x.ndim - 3), *x.shape[-2:], device=DEVICE)
    return {"mask": mask < 0.5 if "bool" in mode else mask}


MODES = ["lam", "box", "bool", "shared bool", "float", "shared float"]


def plain(
    x: Tensor, partner: Tensor, lam: Tensor, mask: Tensor | None = None, box: Tensor | None = None
) -> Tensor:
    own = x if x.dtype == torch.float64 else x.float()
    other = own.index_select(0, partner)
    if mask is not None and x.ndim == 3:  # of images without channels
        mask = mask[:, 0]
    if box is not None:
        mixed = torch.where(inside(box, x), other, own)
    elif mask is not None and mask.dtype == torch.bool:
        mixed = torch.where(mask, own, other)
    else:
        weight = lam.view(-1, *[1] * (x.ndim - 1)) if mask is None else mask
        mixed = torch.lerp(other, own, weight.to(own.dtype).expand_as(own).contiguous())
    return (mixed.round() if x.dtype == torch.uint8 else mixed).to(x.dtype)


def assert_same(got: Tensor, expected: Tensor) -> None:
    assert got.dtype == expected.dtype
    if INTERPRETED and got.is_floating_point():
        # bfloat16 is cut off where a GPU rounds, and a multiply-add rounds twice.
        eps = torch.finfo(got.dtype).eps
        torch.testing.assert_close(got, expected, rtol=eps, atol=100 * eps)
    else:
        assert torch.equal(got, expected)


class TestForward:
    __test__ = RUN_HERE

    @pytest.mark.parametrize(("shape", "dtype"), cases(SHAPES, SHAPES[2:4], DTYPES))
    def test_it_is_lerp_to_the_bit(self, shape, dtype):
        x, partner, lam = images(shape, dtype), partners(shape[0]), weights(shape[0])
        assert_same(kernels.forward(x, partner, lam), plain(x, partner, lam))

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("shape", IMAGES)
    def test_it_mixes_by_place(self, shape, mode):
        x, partner, lam = images(shape, torch.float32), partners(shape[0]), weights(shape[0])
        place = where(mode, x)
        assert_same(kernels.forward(x, partner, lam, **place), plain(x, partner, lam, **place))

    @pytest.mark.parametrize(
        ("mode", "dtype"), cases(["lam", "box", "bool", "float"], ["lam", "box"], DTYPES)
    )
    def test_large_batches_take_larger_tiles(self, mode, dtype, monkeypatch):
        monkeypatch.setattr(kernels, "SMALL", 0)
        x, partner, lam = images(large(dtype), dtype), partners(2), weights(2)
        place = where(mode, x)
        assert_same(kernels.forward(x, partner, lam, **place), plain(x, partner, lam, **place))

    @pytest.mark.parametrize("mode", MODES)
    def test_counting_in_64_bits_changes_nothing(self, mode, monkeypatch):
        monkeypatch.setattr(kernels, "WIDE", 0)
        x, partner, lam = images((5, 3, 9, 8), torch.float32), partners(5), weights(5)
        place = where(mode, x)
        assert_same(kernels.forward(x, partner, lam, **place), plain(x, partner, lam, **place))

    @pytest.mark.parametrize("dtype", FLOATS)
    def test_lam_one_is_the_own_sample_and_lam_zero_the_partner(self, dtype):
        x = torch.randn(64, 33, device=DEVICE).mul(4).exp()  # of very different sizes
        x = x.clamp(max=6e4).to(dtype)
        partner, ones = torch.randperm(64, device=DEVICE), torch.ones(64, device=DEVICE)
        assert torch.equal(kernels.forward(x, partner, ones), x)
        assert torch.equal(kernels.forward(x, partner, 1 - ones), x[partner])

    def test_uint8_is_rounded_to_nearest_ties_to_even(self):
        own, other = torch.meshgrid(torch.arange(256), torch.arange(0, 256, 5), indexing="ij")
        x = torch.stack([own.flatten(), other.flatten()]).to(DEVICE, torch.uint8)
        partner = torch.tensor([1, 0], device=DEVICE)
        for lam in (0.5, 0.25):
            mixed = kernels.forward(x, partner, torch.full((2,), lam, device=DEVICE))
            exact = lam * x.double() + (1 - lam) * x[partner].double()
            assert torch.equal(mixed, exact.round().to(torch.uint8))

    @pytest.mark.parametrize("mode", ["box", "bool", "shared bool"])
    def test_what_is_not_selected_does_not_leak(self, mode):
        x, partner = torch.randn(4, 3, 9, 8, device=DEVICE), torch.tensor([1, 0, 3, 2])
        partner = partner.to(DEVICE)
        place = where(mode, x)
        if mode == "box":
            place["box"][:] = place["box"][3]  # one box for all: who is read where is then clear
            own = ~inside(place["box"], x).expand_as(x)
        else:
            place["mask"] = place["mask"][:1].expand(4, 1, 9, 8)
            own = place["mask"].expand_as(x)
        lam = torch.full((4,), torch.nan, device=DEVICE)
        even = torch.tensor([True, False, True, False], device=DEVICE)[:, None, None, None]
        # The even samples are spoiled where the partner is used, the odd ones where they are.
        x = torch.where(even ^ own, torch.nan, x)
        mixed = kernels.forward(x, partner, lam, **place)
        assert not mixed[even.flatten()].isnan().any()
        assert mixed[~even.flatten()].isnan().all()

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
    def test_lam_and_float_masks_come_in_any_dtype(self, dtype):
        x, partner, lam = images((5, 2, 4, 6), torch.float32), partners(5), weights(5).to(dtype)
        assert_same(kernels.forward(x, partner, lam), plain(x, partner, lam))
        mask = torch.rand(5, 1, 4, 6, device=DEVICE).to(dtype)
        assert_same(kernels.forward(x, partner, lam, mask=mask), plain(x, partner, lam, mask))

    def test_views_are_read_by_their_strides(self):
        x, partner, lam = images((6, 2, 4, 8), torch.float32), partners(6), weights(6)
        expected = plain(x, partner, lam)
        every = torch.stack([partner, -partner], 1)[:, 0]
        assert_same(kernels.forward(x, every, torch.stack([lam, -lam], 1)[:, 0]), expected)
        assert_same(kernels.forward(x, partner.int(), lam), expected)
        one = torch.tensor(0.3, device=DEVICE).expand(6)
        assert_same(kernels.forward(x, partner, one), plain(x, partner, one))
        for mask in (
            torch.rand(1, 1, 4, 8, device=DEVICE).expand(6, 1, 4, 8),
            torch.rand(6, 1, 8, 4, device=DEVICE).transpose(2, 3),
            torch.rand(6, 3, 4, 8, device=DEVICE)[:, 1:2],
            torch.rand(6, 1, 4, 16, device=DEVICE)[..., ::2],
        ):
            for kind in (mask, mask < 0.5):
                got = kernels.forward(x, partner, lam, mask=kind)
                assert_same(got, plain(x, partner, lam, kind))
        box = boxes(6, 4, 8)
        expected = plain(x, partner, lam, box=box)
        for view in (box.int(), torch.cat([box, -box], 1)[:, :4], box.T.contiguous().T):
            assert_same(kernels.forward(x, partner, lam, box=view), expected)
        shared = box[3:4].expand(6, 4)
        got = kernels.forward(x, partner, lam, box=shared)
        assert_same(got, plain(x, partner, lam, box=shared))

    def test_out_is_filled_and_returned(self):
        x, partner, lam = images((5, 3, 9, 7), torch.float32), partners(5), weights(5)
        before, out = x.clone(), torch.full_like(x, torch.nan)
        assert kernels.forward(x, partner, lam, out=out) is out
        assert_same(out, plain(x, partner, lam))
        assert torch.equal(x, before)

    @pytest.mark.parametrize("shape", [(0, 3, 4, 4), (3, 0, 4, 4), (3, 2, 0, 4)])
    def test_nothing_mixes_to_nothing(self, shape):
        x, partner = torch.rand(shape, device=DEVICE), torch.zeros(shape[0], device=DEVICE).long()
        assert kernels.forward(x, partner, partner.float()).shape == shape
        assert kernels.backward(x, partner, partner.float()).shape == shape

    @needs_gpu
    def test_offsets_go_beyond_32_bits(self):
        x = torch.zeros(3, 2**30 + 24, dtype=torch.uint8, device=DEVICE)
        x[2, -1] = 255
        partner, lam = torch.tensor([2, 1, 0], device=DEVICE), torch.full((3,), 0.4, device=DEVICE)
        mixed = kernels.forward(x, partner, lam)
        assert mixed[:, -1].tolist() == [153, 0, 102]
        assert mixed[:, :-1].count_nonzero() == 0

    def test_what_does_not_fit_is_refused(self):
        x, partner, lam = images((4, 3, 8, 8), torch.float32), partners(4), weights(4)
        box, mask = boxes(4, 8, 8), torch.ones(4, 1, 8, 8, device=DEVICE)
        for match, call in [
            ("contiguous", lambda: kernels.forward(x.transpose(1, 2), partner, lam)),
            ("one of", lambda: kernels.forward(x.long(), partner, lam)),
            ("partner and lam", lambda: kernels.forward(x, partner[:3], lam)),
            ("partner and lam", lambda: kernels.forward(x, partner, lam[:1])),
            ("not both", lambda: kernels.forward(x, partner, lam, mask=mask, box=box)),
            ("a box is for", lambda: kernels.forward(x.view(4, -1), partner, lam, box=box)),
            ("must have shape", lambda: kernels.forward(x.view(4, -1), partner, lam, mask=mask)),
            ("must have shape", lambda: kernels.forward(x, partner, lam, mask=mask[:3])),
            ("must have shape", lambda: kernels.forward(x, partner, lam, mask=mask[..., :7])),
            ("must have shape", lambda: kernels.forward(x, partner, lam, mask=mask.expand_as(x))),
            ("the box", lambda: kernels.forward(x, partner, lam, box=box[:, :3])),
            ("out must not be x", lambda: kernels.forward(x, partner, lam, out=x)),
            ("like x", lambda: kernels.forward(x, partner, lam, out=x.double())),
            ("like x", lambda: kernels.forward(x, partner, lam, out=x[:2])),
            ("floating", lambda: kernels.backward(x.byte(), partner, lam)),
        ]:
            with pytest.raises(InputError, match=match):
                call()


class TestPositions:
    """Masks of signals and volumes: whatever ends in their positions."""

    __test__ = RUN_HERE

    @pytest.mark.parametrize(
        ("shape", "positions"),
        [((5, 3, 37), (37,)), ((5, 37), (37,)), ((3, 2, 4, 5, 6), (4, 5, 6)), ((3, 2, 5), (2, 5))],
    )
    @pytest.mark.parametrize("kind", ["bool", "float"])
    def test_a_mask_is_for_what_ends_in_its_positions(self, shape, positions, kind):
        x, partner, lam = images(shape, torch.float32), partners(shape[0]), weights(shape[0])
        for size in (1, shape[0]):
            mask = torch.rand(size, 1, *positions, device=DEVICE)
            mask = mask < 0.5 if kind == "bool" else mask
            wide = mask.view(size, *[1] * (x.ndim - 1 - len(positions)), *positions).double()
            mixed = wide * x + (1 - wide) * x[partner]
            got = kernels.forward(x, partner, lam, mask=mask)
            torch.testing.assert_close(got.double(), mixed, rtol=1e-6, atol=1e-4)
            grad = torch.randn(shape, device=DEVICE)
            back = (wide * grad).index_add(0, partner, (1 - wide) * grad)
            got = kernels.backward(grad, partner, lam, mask=mask)
            torch.testing.assert_close(got.double(), back, rtol=1e-5, atol=1e-5)


class TestBackward:
    __test__ = RUN_HERE

    def gradient(self, grad, partner, lam, **place):
        x = torch.zeros_like(grad, dtype=torch.float64, requires_grad=True)
        plain(x, partner, lam, **place).backward(grad.double())
        return x.grad.to(grad.dtype)

    @pytest.mark.parametrize(("shape", "dtype"), cases(SHAPES, SHAPES[2:4], FLOATS))
    def test_it_is_the_gradient_for_any_partners(self, shape, dtype):
        grad, lam = torch.randn(shape, device=DEVICE).to(dtype), weights(shape[0])
        choices = [partners(shape[0]), torch.full_like(partners(shape[0]), 1)]
        for partner in choices if dtype == torch.float32 else choices[:1]:
            got = kernels.backward(grad, partner, lam)
            torch.testing.assert_close(got, self.gradient(grad, partner, lam))

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("shape", IMAGES)
    def test_it_is_the_gradient_by_place(self, shape, mode):
        grad, partner = torch.randn(shape, device=DEVICE), partners(shape[0])
        lam, place = weights(shape[0]), where(mode, grad)
        got = kernels.backward(grad, partner.int(), lam, **place)
        torch.testing.assert_close(got, self.gradient(grad, partner, lam, **place))

    @pytest.mark.parametrize(
        ("mode", "dtype"), cases(["lam", "box", "bool", "float"], ["lam", "box"], FLOATS)
    )
    def test_large_batches_take_larger_tiles(self, mode, dtype, monkeypatch):
        monkeypatch.setattr(kernels, "SMALL", 0)
        grad, partner = torch.randn(large(dtype), device=DEVICE).to(dtype), partners(2)
        lam, place = weights(2), where(mode, grad)
        got = kernels.backward(grad, partner, lam, **place)
        torch.testing.assert_close(got, self.gradient(grad, partner, lam, **place))

    @pytest.mark.parametrize("mode", MODES)
    def test_counting_in_64_bits_changes_nothing(self, mode, monkeypatch):
        monkeypatch.setattr(kernels, "WIDE", 0)
        grad, partner, lam = torch.randn(5, 3, 9, 8, device=DEVICE), partners(5), weights(5)
        place = where(mode, grad)
        got = kernels.backward(grad, partner, lam, **place)
        torch.testing.assert_close(got, self.gradient(grad, partner, lam, **place))

    def test_half_precision_is_summed_in_single(self):
        # In bfloat16 itself the sum of 300 ones would stop at 256.
        grad, lam = torch.ones(300, 3, device=DEVICE).bfloat16(), torch.zeros(300, device=DEVICE)
        partner = torch.zeros(300, device=DEVICE).long()
        got = kernels.backward(grad, partner, lam)
        assert got[0].tolist() == [300.0] * 3
        assert not got[1:].any()

    @pytest.mark.parametrize("mode", ["box", "bool"])
    def test_what_is_not_selected_does_not_leak(self, mode):
        # Sample 0 is its own and 1's partner; 1 is spoiled where it passes nothing to sample 0.
        grad = torch.randn(3, 2, 9, 8, device=DEVICE)
        place = where(mode, grad)
        own = ~inside(place["box"], grad) if mode == "box" else place["mask"]
        if mode == "box":
            place["box"][1] = place["box"].new_tensor([2, 6, 3, 7])
            own = ~inside(place["box"], grad)
        grad[1] = torch.where(own[1], torch.nan, grad[1])
        partner = torch.tensor([0, 0, 2], device=DEVICE)
        got = kernels.backward(grad, partner, torch.full((3,), torch.nan, device=DEVICE), **place)
        assert not got[[0, 2]].isnan().any()
        assert torch.equal(got[1].isnan(), own[1].expand_as(got[1]))

    @needs_gpu
    @pytest.mark.parametrize("mode", MODES)
    def test_it_is_captured_in_a_graph_and_replayed(self, mode):
        x, partner, lam = images((8, 3, 32, 32), torch.float32), partners(8), weights(8)
        place = where(mode, x)
        kernels.backward(kernels.forward(x, partner, lam, **place), partner, lam, **place)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            mixed = kernels.forward(x, partner, lam, **place)
            grad = kernels.backward(mixed, partner, lam, **place)
        x.copy_(images((8, 3, 32, 32), torch.float32))
        partner.copy_(partners(8))
        lam.copy_(weights(8).flip(0))
        graph.replay()
        assert torch.equal(mixed, plain(x, partner, lam, **place))
        torch.testing.assert_close(grad, self.gradient(mixed, partner, lam, **place))


class TestAvailable:
    __test__ = RUN_HERE

    def test_it_says_what_can_be_taken(self):
        x = torch.rand(4, 5, device=DEVICE)
        assert kernels.available(x)
        assert kernels.available(x.byte())
        assert not kernels.available(x.T)
        assert not kernels.available(x.long())


# ----------------------------------------------------------- what needs neither the interpreter nor
# ----------------------------------------------------------- a GPU


@needs_new_triton
@pytest.mark.slow
@pytest.mark.skipif(RUN_HERE, reason="the kernels' tests run in this process")
def test_the_kernels_in_the_interpreter(tmp_path):
    environment = {name: value for name, value in os.environ.items() if "PYTEST" not in name}
    environment |= {"TRITON_INTERPRET": "1", "TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "pytest", __file__, "-q", "-p", "no:cacheprovider"]
    run = subprocess.run(
        [*command, "--no-header", "--tb=short", f"--basetemp={tmp_path / 'inner'}"],
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]


def test_without_triton_the_file_is_imported_and_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    spec = importlib.util.spec_from_file_location("without_triton", kernels.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.triton is None
    assert not module.available(torch.rand(2, 3, device=DEVICE))


@pytest.mark.skipif(INTERPRETED, reason="the interpreter takes tensors on the CPU")
def test_tensors_on_the_cpu_are_not_taken():
    assert not kernels.available(torch.rand(2, 3))


POINTERS = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.float64: "*fp64",
    torch.uint8: "*u8",
    torch.int64: "*i64",
}


@pytest.mark.cases(quick=3)
@needs_new_triton
@pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing")
@pytest.mark.parametrize(
    ("name", "mode", "dtype"),
    [
        *[("_forward_kernel", "lam", dtype) for dtype in DTYPES],
        *[("_forward_kernel", "box", dtype) for dtype in (torch.float32, torch.uint8)],
        *[("_forward_kernel", mode, torch.bfloat16) for mode in ("bool", "float")],
        *[("_backward_kernel", mode, torch.bfloat16) for mode in ("lam", "box", "bool", "float")],
    ],
)
def test_they_compile_for_a_gpu_and_move_16_bytes_at_a_time(
    name, mode, dtype, monkeypatch, tmp_path
):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = getattr(kernels, name)
    x = torch.empty(4, 3, 32, 32, dtype=dtype, device=DEVICE)
    place = where(mode, x)
    _, where_tensor, arguments = kernels._plan(
        x, torch.empty(4, device=DEVICE), place.get("mask"), place.get("box")
    )
    pointers = {"lam_ptr": "*fp32", "where_ptr": POINTERS[where_tensor.dtype]}
    pointers |= dict.fromkeys(("x_ptr", "grad_ptr", "out_ptr"), POINTERS[dtype])
    pointers |= dict.fromkeys(("partner_ptr", "order_ptr", "start_ptr"), "*i64")
    constants = {name: value for name, value in arguments.items() if name.isupper()}
    signature = {
        name: "constexpr" if name in constants else pointers.get(name, "i32")
        for name in kernel.arg_names
    }
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, name in enumerate(kernel.arg_names)
        if name in pointers
    }
    source = ASTSource(kernel, signature, constants, aligned)
    options = {name: arguments[name] for name in ("num_warps", "enable_fp_fusion")}
    assembly = compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"]
    # Two streams in (own and partner) and one out, each whole tile in vectors of 16 bytes.
    tile = arguments["ROWS"] * arguments["BLOCK"] * x.element_size()
    vectors = tile // (16 * 32 * arguments["num_warps"])
    assert len(re.findall(r"st\.global\.v[24]\.b(?:32|64)", assembly)) == vectors
    assert len(re.findall(r"ld\.global\.v[24]\.b(?:32|64)", assembly)) >= 2 * vectors
    scalar = re.findall(r"(?:ld|st)\.global\.b(?:8|16)\b", assembly)
    assert not scalar
