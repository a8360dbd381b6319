"""Mixing as an operator: graphs run the kernels, forward and backward, to the same values."""

import pytest
import torch
from torch import nn
from torch.export import Dim
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils import _pytree as pytree

from mixwell import Mix, functional
from mixwell.kernels import cpu, mixing, plain, recycled
from mixwell.kernels.memory import SMALLEST
from mixwell.mix import Box, Warp

FORWARD = torch.ops.mixwell.mix.default
BACKWARD = torch.ops.mixwell.mix_transposed.default


@pytest.fixture(autouse=True)
def _fresh():
    torch.compiler.reset()


def mixes(size=6, height=5, width=7):
    partner = torch.randperm(size)
    lam, mask = torch.rand(size), torch.rand(size, 1, height, width)
    edges = torch.tensor([[1, height, 0, width - 2]] * size)
    return {
        "lam": Mix(partner, lam),
        "repeated": Mix(torch.zeros_like(partner), lam.double()),
        "int32": Mix(partner.int(), lam.half()),
        "box": Mix(partner, lam, box=Box(edges, height, width)),
        "bool": Mix(partner, lam, mask > 0.4),
        "float": Mix(partner, lam, mask),
        "float for all": Mix(partner, lam, mask[:1]),
    }


def arguments(mix):
    return mix.partner, mix.lam, mix.mask, None if mix.box is None else mix.box.edges


LAYOUTS = {
    "contiguous": lambda x: x,
    "channels last": lambda x: x.to(memory_format=torch.channels_last),
    "apart": lambda x: x.repeat_interleave(2, 0)[::2],
    "samples last": lambda x: x.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
    "some lines": lambda x: x.repeat_interleave(2, 2)[:, :, ::2],
    "expanded": lambda x: x[:1].expand_as(x),
}


@pytest.mark.cases(quick=12)
@pytest.mark.parametrize("mode", mixes())
@pytest.mark.parametrize("layout", LAYOUTS)
def test_torch_finds_nothing_wrong_with_them(layout, mode, kernels_by):
    x = LAYOUTS[layout](torch.randn(6, 3, 5, 7, dtype=torch.float64))
    how = arguments(mixes()[mode])
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    if layout == "contiguous" and kernels_by == "compiled":
        tests += ("test_aot_dispatch_dynamic",)
    for needs in (False, True):
        for operator in (FORWARD, BACKWARD):
            own = x.detach().requires_grad_(needs)
            found = torch.library.opcheck(operator, (own, *how), test_utils=tests)
            assert set(found.values()) == {"SUCCESS"}


@pytest.mark.cases(quick=3)
@pytest.mark.parametrize("mode", mixes())
def test_gradients_and_gradients_of_gradients(mode, kernels_by):
    how = arguments(mixes(4, 2, 3)[mode])
    for operator in (FORWARD, BACKWARD):
        x = torch.randn(4, 2, 2, 3, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda x, run=operator: run(x, *how), x)
        assert torch.autograd.gradgradcheck(lambda x, run=operator: run(x, *how), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.uint8])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_values_are_those_outside_of_a_graph(layout, dtype, kernels_by):
    x = LAYOUTS[layout]((torch.rand(6, 3, 5, 7) * 255).to(dtype))
    for mix in mixes().values():
        mixed = FORWARD(x, *arguments(mix))
        assert mixed.stride() == torch.empty_like(x).stride()
        assert torch.equal(mixed, functional.mix(x, mix))


def targets(graph):
    return [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]


def recorder(seen):
    """A backend that notes the operations of each graph, forward and backward."""
    from torch._dynamo.backends.common import aot_autograd
    from torch._functorch.aot_autograd import make_boxed_func

    def compiler(graph, _):
        seen.append(targets(graph))
        return make_boxed_func(graph.forward)

    return aot_autograd(fw_compiler=compiler, bw_compiler=compiler)


@pytest.mark.cases(quick=2)
@pytest.mark.parametrize("mode", mixes())
def test_a_compiled_step_runs_one_kernel_each_way(mode):
    mix, seen = mixes()[mode], []

    def step(x):
        return functional.mix(x, mix).sin().square().sum()

    compiled = torch.compile(step, fullgraph=True, backend=recorder(seen))
    x = torch.randn(6, 3, 5, 7, requires_grad=True)
    own = x.detach().clone().requires_grad_()
    compiled(x).backward()
    step(own).backward()
    torch.testing.assert_close(x.grad, own.grad)
    forward, backward = seen
    assert forward.count("mixwell.mix.default") == 1
    assert backward.count("mixwell.mix_transposed.default") == 1
    assert not [name for name in forward + backward if "index" in name or "lerp" in name]


@pytest.mark.slow
def test_inductor_runs_them():
    mix = mixes()["box"]

    def step(x):
        return functional.mix(x.relu(), mix) * 2

    x = torch.randn(6, 3, 5, 7, requires_grad=True)
    own = x.detach().clone().requires_grad_()
    mixed, expected = torch.compile(step, fullgraph=True)(x), step(own)
    torch.testing.assert_close(mixed, expected)
    upstream = torch.randn_like(x)
    mixed.backward(upstream)
    expected.backward(upstream)
    torch.testing.assert_close(x.grad, own.grad)


def test_a_graph_serves_batches_of_any_size():
    seen = []
    compiled = torch.compile(
        lambda x, mix: functional.mix(x, mix), fullgraph=True, dynamic=True, backend=recorder(seen)
    )
    for size in (4, 6, 9):
        x, mix = torch.randn(size, 3, 5, 7), mixes(size)["lam"]
        assert torch.equal(compiled(x, mix), functional.mix(x, mix))
    assert len(seen) == 1


@pytest.mark.cases(quick=1)
@pytest.mark.parametrize("mode", ["lam", "box", "float"])
def test_out_and_pytrees_in_a_graph(mode):
    mix, x = mixes()[mode], {"image": torch.randn(6, 3, 5, 7), "name": "kept"}
    compiled = torch.compile(functional.mix, fullgraph=True, backend="aot_eager")
    out = {"image": torch.empty(6, 3, 5, 7), "name": "kept"}
    mixed = compiled(x, mix, out=out)
    assert torch.equal(out["image"], functional.mix(x, mix)["image"])
    assert mixed["name"] == "kept"
    kept, expected = x["image"], functional.mix(x, mix)["image"]
    compiled(kept, mix, out=kept)
    assert torch.equal(kept, expected)


class Mixing(nn.Module):
    def forward(self, x, mix):
        return functional.mix(x, mix) + 1


@pytest.mark.cases(quick=2)
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("mode", ["lam", "box", "float"])
def test_an_exported_program_runs_them(mode, strict, tmp_path):
    x, mix = torch.randn(6, 3, 5, 7), mixes()[mode]
    program = torch.export.export(Mixing(), (x, mix), strict=strict)
    assert targets(program)[0] == "mixwell.mix.default"
    torch.export.save(program, tmp_path / "mixing.pt2")
    loaded = torch.export.load(tmp_path / "mixing.pt2").module()
    other = pytree.tree_map(lambda part: part.flip(0), mix)
    for how in (mix, other):
        assert torch.equal(loaded(x, how), Mixing()(x, how))


def test_an_exported_program_takes_batches_of_any_size():
    batch = Dim("batch", min=2, max=64)
    x, mix = torch.randn(6, 3, 5, 7), mixes()["lam"]
    program = torch.export.export(
        Mixing(), (x, mix), dynamic_shapes=({0: batch}, [{0: batch}, {0: batch}])
    )
    x, mix = torch.randn(9, 3, 5, 7), mixes(9)["lam"]
    assert torch.equal(program.module()(x, mix), Mixing()(x, mix))


@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
def test_a_traced_function_holds_the_operator_not_its_result(mode):
    x, mix = torch.randn(6, 3, 5, 7), mixes()["lam"]

    def run(x, partner, lam):
        return functional.mix(x, Mix(partner, lam))

    graph = make_fx(run, tracing_mode=mode)(x, mix.partner, mix.lam)
    assert targets(graph) == ["mixwell.mix.default"]
    x, mix = torch.randn(6, 3, 5, 7), mixes()["lam"]
    assert torch.equal(graph(x, mix.partner, mix.lam), functional.mix(x, mix))


# ----------------------------------------------------------------------------- what stays traced


def traced(run, *inputs):
    """The operations of a compiled function, whose values are those of the function itself."""
    seen = []
    got = torch.compile(run, fullgraph=True, backend=recorder(seen))(*inputs)
    torch.testing.assert_close(got, run(*inputs))
    return [name for graph in seen for name in graph]


def test_learnt_weights_have_their_gradient_in_a_graph():
    x, mix = torch.randn(6, 3, 5, 7), mixes()["lam"]
    lam = mix.lam.clone().requires_grad_()
    compiled = torch.compile(
        lambda lam: functional.mix(x, Mix(mix.partner, lam)).square().sum(), backend="aot_eager"
    )
    (grad,) = torch.autograd.grad(compiled(lam), lam)
    (expected,) = torch.autograd.grad(plain(x, Mix(mix.partner, lam)).square().sum(), lam)
    torch.testing.assert_close(grad, expected)


def test_warps_whole_numbers_and_subclasses_are_traced():
    x, mix = torch.rand(6, 3, 5, 7), mixes()["bool"]
    grid = torch.rand(6, 5, 7, 2) * 2 - 1
    warped = Mix(mix.partner, mix.lam, mix.mask, warp=Warp(grid))
    for image, how in ((x, warped), ((x * 9).long(), mix)):
        names = traced(lambda x, how=how: functional.mix(x, how), image)
        assert names
        assert not [name for name in names if "mixwell" in name]
    two = TwoTensor(x, x.flip(1))
    mixed = torch.compile(functional.mix, backend="aot_eager", fullgraph=True)(two, mix)
    assert torch.equal(mixed.a, plain(x, mix))
    assert torch.equal(mixed.b, plain(x.flip(1), mix))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
def test_transformed_functions_in_a_graph():
    x, mix = torch.randn(3, 6, 4), Mix(torch.randperm(6), torch.rand(6))

    def value(part):
        return functional.mix(part, mix).square().sum()

    def moved(part):
        return torch.func.jvp(lambda part: functional.mix(part, mix), (part,), (part.cos(),))[1]

    for run, batch in (
        (torch.func.vmap(lambda part: functional.mix(part, mix)), x),
        (torch.func.grad(value), x[0]),
        (torch.func.vmap(torch.func.grad(value)), x),
        (moved, x[0]),
    ):
        assert not [name for name in traced(run, batch) if "mixwell" in name]


def test_a_partner_that_does_not_exist_is_refused_in_a_graph(kernels_by):
    compiled = torch.compile(functional.mix, backend="aot_eager", fullgraph=True)
    for wrong in (2, -1, 10**9):
        with pytest.raises((IndexError, RuntimeError)):
            compiled(torch.rand(2, 3), Mix(torch.tensor([0, wrong]), torch.rand(2)))


# ------------------------------------------------------------------------------------------- memory


def test_what_a_graph_returned_is_never_written_over():
    x, mix = torch.randn(8, SMALLEST // 8), Mix(torch.arange(8).roll(1), torch.rand(8))
    compiled = torch.compile(lambda x: functional.mix(x, mix), fullgraph=True)
    recycled.clear()
    kept = []
    for step in range(6):
        mixed = compiled(x + step)
        kept.append((mixed, mixed.clone()))
        if step % 2:
            kept.append((mixed[1:], mixed[1:].clone()))
        del mixed
    for got, right in kept:
        assert torch.equal(got, right)
    recycled.clear()


def test_a_graph_takes_memory_of_an_earlier_run():
    x, mix = torch.randn(8, SMALLEST // 8), Mix(torch.arange(8).roll(1), torch.rand(8))
    compiled = torch.compile(
        lambda x: functional.mix(x, mix) + 0, fullgraph=True, backend="aot_eager"
    )
    recycled.clear()
    for _ in range(4):
        compiled(x)
    assert len(recycled._storages) <= 2
    recycled.clear()


def test_what_is_kept_for_the_gradient_is_never_written_over():
    x = torch.randn(8, SMALLEST // 8)
    mix = Mix(torch.arange(8).roll(1), torch.rand(8))
    compiled = torch.compile(
        lambda x: functional.mix(x, mix).square().sum(), fullgraph=True, backend="aot_eager"
    )
    own = [(x + step).requires_grad_() for step in range(5)]
    losses = [compiled(part) for part in own]  # all of them wait for their gradient
    for part, loss in zip(own, losses, strict=True):
        (grad,) = torch.autograd.grad(loss, part)
        again = part.detach().requires_grad_()
        (expected,) = torch.autograd.grad(plain(again, mix).square().sum(), again)
        torch.testing.assert_close(grad, expected)


def test_eager_steps_go_past_the_operator(monkeypatch):
    def never(*_):
        raise AssertionError("the long way")

    monkeypatch.setattr(mixing, "mixed", never)
    x, mix = torch.randn(6, 3, 5, 7), mixes()["lam"]
    with torch.no_grad():
        functional.mix(x.requires_grad_(), mix)
    functional.mix(x.detach(), mix)


@pytest.mark.parametrize("threaded", [False, True])
def test_several_threads_in_a_graph(threaded, threads, monkeypatch):
    monkeypatch.setattr(cpu, "THREADED", 0)
    threads(3 if threaded else 1)
    x, mix = torch.randn(6, 3, 50, 70), mixes(6, 50, 70)["lam"]
    compiled = torch.compile(functional.mix, backend="aot_eager", fullgraph=True)
    mixed = compiled(x, mix)
    threads(1)
    torch.testing.assert_close(mixed, plain(x, mix))
