"""The gate lets through what memory, shape and strides say all of, and nothing else."""

import warnings

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils._python_dispatch import TorchDispatchMode

from mixwell import InputError, Mix, functional, kernels
from mixwell.beta import beta_icdf
from mixwell.kernels import cpu, gate, mixing, native, plain, two_class
from mixwell.mix import Box

X = torch.rand(6, 5)


@pytest.mark.parametrize(
    "x",
    [
        X,
        nn.Parameter(X.clone()),
        X.clone().requires_grad_() * 2,
        X[::2],
        X.T,
        X[:1].expand(6, 5),
        X[:0],
        X.long(),
        X.bool(),
        torch.complex(X, X),
        torch.complex(X, X).imag,
    ],
)
def test_plain_tensors_pass(x):
    assert gate.may_read(x)
    assert gate.may_read(None, x, None)
    assert gate.may_read(x, dtypes=(torch.int8, x.dtype))
    with torch.inference_mode():
        assert gate.may_read(x)
        assert gate.may_read(x * 1)


class Tagged(torch.Tensor):
    """A subclass that does nothing but be one."""


def strangers():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # prototypes, some of them
        found = {
            "subclass": X.as_subclass(Tagged),
            "two in one": TwoTensor(X, X.clone()),
            "without values": FakeTensorMode().from_tensor(X),
            "without memory": X.to("meta"),
            "negated when read": torch.complex(X, X).conj().imag,
            "conjugated when read": torch.complex(X, X).conj(),
            "all zeros": torch._efficientzerotensor((6, 5)),
            "sparse": X.to_sparse(),
            "rows": X.to_sparse_csr(),
            "nested": torch.nested.nested_tensor([X, X[:2]]),
            "jagged": torch.nested.nested_tensor([X, X[:2]], layout=torch.jagged),
        }
        if torch.backends.mkldnn.is_available():
            found["blocked"] = X.to_mkldnn()
    return found


@pytest.mark.parametrize("kind", strangers())
def test_what_memory_does_not_say_all_of_is_refused(kind):
    x = strangers()[kind]
    assert not gate.may_read(x)
    assert not gate.may_read(X, x)
    assert not gate.may_read(x, X)


def test_image_types_of_torchvision_are_refused():
    tv_tensors = pytest.importorskip("torchvision.tv_tensors")
    assert not gate.may_read(tv_tensors.Image(X[None]))


def test_another_dtype_or_device_is_refused():
    assert not gate.may_read(X, dtypes=(torch.float64,))
    assert not gate.may_read(X, X.double(), dtypes=(torch.float32,))
    assert not gate.may_read(X, device=torch.device("cuda", 0))
    assert gate.may_read(X, device=torch.device("cpu"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are on their way out
        quantized = torch.quantize_per_tensor(X, 0.1, 0, torch.quint8)
    assert not gate.may_read(quantized, dtypes=(torch.uint8,))


@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_nothing_is_read_while_operations_are_recorded():
    seen = []

    def look(x):
        seen.append((gate.may_read(X), gate.must_be_plain()))
        return x * 1

    torch.func.vmap(look)(X)
    torch.func.grad(lambda x: look(x).sum())(X)
    torch.func.jvp(look, (X,), (X,))
    with forward_ad.dual_level():
        look(X)
    torch.jit.trace(look, (X,), check_trace=False)
    for mode in ("real", "fake", "symbolic"):
        make_fx(look, tracing_mode=mode)(X)
    with FakeTensorMode():
        look(torch.rand(3))
    torch.export.export(_Module(look), (X,), strict=False)
    assert len(seen) >= 9
    assert set(seen) == {(False, True)}
    torch.compiler.reset()
    compiled = torch.compile(lambda x: x + gate.may_read(x), backend="eager", fullgraph=True)
    assert torch.equal(compiled(X), X)
    assert gate.may_read(X)


class _Module(nn.Module):
    def __init__(self, run):
        super().__init__()
        self.run = run

    def forward(self, *arguments):
        return self.run(*arguments)


class _Sees(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


def test_a_mode_that_only_looks_is_no_hindrance():
    with _Sees():
        assert gate.may_read(X)


@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_an_operator_stands_where_a_graph_is_made_and_nowhere_else():
    seen = {}

    def look(x, how):
        seen[how] = gate.may_record(x)
        return x * 1

    look(X, "run")
    torch.func.vmap(lambda x: look(x, "vmap"))(X)
    with forward_ad.dual_level():
        look(X, "forward mode")
    torch.jit.trace(lambda x: look(x, "TorchScript"), (X,), check_trace=False)
    make_fx(lambda x: look(x, "graph"), tracing_mode="symbolic")(X)
    torch.export.export(_Module(lambda x: look(x, "export")), (X,), strict=False)
    with FakeTensorMode():
        look(torch.rand(3), "no values")
    tagged, sparse = X.as_subclass(Tagged), X.to_sparse()
    with FakeTensorMode():
        seen |= {"subclass": gate.may_record(tagged), "sparse": gate.may_record(sparse)}
    assert {how for how, may in seen.items() if may} == {"graph", "export", "no values"}


# ----------------------------------------------------------------------- every kernel asks the gate


def _calls():
    """Each kernel's caller, of (6, 5) numbers in [0, 1]."""
    partner, lam = torch.arange(6).roll(1), torch.rand(6)
    index = torch.stack([torch.arange(6) % 5, torch.arange(6) * 2 % 5], 1)
    return {
        "mix": lambda x: functional.mix(x, Mix(partner, lam)),
        "lam": lambda x: functional.mix(X, Mix(partner, x[:, 0])),
        "out": lambda x: functional.mix(X, Mix(partner, lam), out=torch.empty_like(x)),
        "mask": lambda x: functional.mix(X, Mix(partner, lam, x[:, None])),
        "box": lambda x: functional.mix(
            X[:, None], Mix(partner, lam, box=Box((x[:, :4] * 4).long(), 1, 5))
        ),
        "pair_distance": lambda x: functional.pair_distance(x, partner),
        "beta_icdf": lambda x: beta_icdf(x, x + 0.5),
        "all_finite": lambda x: torch.tensor(native.all_finite(x)),
        "all_within": lambda x: torch.tensor(native.all_within((x * 9).long()[:, 0], 9)),
        "loss": lambda x: two_class.from_logits(x, index, torch.rand(6, 2).fill_(0.5), None),
        "mean loss": lambda x: (
            two_class.mean_from_logits(x, index[:, 0], index[:, 1], lam)
            or two_class.plain(x, index, *two_class.weights_of(lam)).mean()
        ),
    }


@pytest.mark.parametrize("kernel", _calls())
@pytest.mark.parametrize(
    ("kind", "values"),
    [("subclass", X), ("negated when read", -X), ("all zeros", torch.zeros(6, 5))],
)
def test_a_kernel_gives_strangers_the_plain_values(kernel, kind, values):
    run, x = _calls()[kernel], strangers()[kind]
    got, expected = run(x), run(values)
    plainly = got.as_subclass(torch.Tensor).double()
    torch.testing.assert_close(plainly, expected.double(), rtol=1e-5, atol=1e-6)


def test_boxes_are_drawn_by_the_kernel_of_plain_numbers_alone():
    lam, centre = torch.rand(4), torch.rand(4, 2)
    if native.library() is not None:
        assert kernels.draw_boxes(lam, centre, 9, 7) is not None
    for other in (lam.double(), lam.as_subclass(Tagged), torch.complex(lam, lam).conj().imag):
        assert kernels.draw_boxes(other, centre, 9, 7) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_subclasses_are_mixed_by_torchs_own_operations(dtype, monkeypatch):
    def never(*_):
        raise AssertionError("a kernel reads it")

    monkeypatch.setattr(cpu, "mix_into", never)
    x = (torch.rand(4, 3, 6, 6) * 255).to(dtype)
    mixes = _mixes()
    for mix in mixes.values():
        mixed = functional.mix(TwoTensor(x, x.flip(1)), mix)
        assert torch.equal(mixed.a, plain(x, mix))
        assert torch.equal(mixed.b, plain(x.flip(1), mix))


def _mixes():
    partner, lam = torch.tensor([1, 2, 3, 0]), torch.rand(4)
    edges = torch.tensor([[0, 4, 1, 6]] * 4)
    return {
        "lam": Mix(partner, lam),
        "bool": Mix(partner, lam, torch.rand(4, 1, 6, 6) > 0.5),
        "float": Mix(partner, lam, torch.rand(1, 1, 6, 6)),
        "box": Mix(partner, lam, box=Box(edges, 6, 6)),
    }


@pytest.mark.parametrize("mode", _mixes())
def test_images_of_torchvision_are_mixed_as_what_they_hold(mode):
    tv_tensors = pytest.importorskip("torchvision.tv_tensors")
    x, mix = torch.rand(4, 3, 6, 6), _mixes()[mode]
    for wrap in (tv_tensors.Image, tv_tensors.Mask):
        mixed = functional.mix(wrap(x), mix)
        assert type(mixed) is torch.Tensor  # as of any operation on them
        torch.testing.assert_close(mixed, plain(x, mix))


@pytest.fixture(scope="module")
def mesh():
    distributed = torch.distributed
    if not distributed.is_available() or distributed.is_initialized():
        pytest.skip("needs a group of its own")
    from torch.distributed.device_mesh import init_device_mesh

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


@pytest.mark.skipif(torch.__version__.startswith("2.6."), reason="its DTensor has no index_add")
@pytest.mark.parametrize("mode", _mixes())
def test_distributed_tensors_are_mixed_wherever_they_are(mode, mesh):
    from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

    x, mix = torch.rand(4, 3, 6, 6), _mixes()[mode]
    for placement in (Shard(0), Shard(1), Replicate()):
        spread = distribute_tensor(x, mesh, [placement]).requires_grad_()
        mixed = functional.mix(spread, mix)
        assert isinstance(mixed, DTensor)
        torch.testing.assert_close(mixed.full_tensor(), plain(x, mix))
        mixed.sum().backward()
        own = x.clone().requires_grad_()
        plain(own, mix).sum().backward()
        torch.testing.assert_close(spread.grad.full_tensor(), own.grad)
    everywhere = torch.utils._pytree.tree_map(
        lambda part: distribute_tensor(part, mesh, [Replicate()]), mix
    )
    mixed = functional.mix(distribute_tensor(x, mesh, [Shard(0)]), everywhere)
    torch.testing.assert_close(mixed.full_tensor(), plain(x, mix))


def test_a_mix_on_another_device_is_named_before_a_kernel_reads_it():
    mix = Mix(torch.arange(6, device="meta"), torch.rand(6, device="meta"))
    with pytest.raises(InputError, match="x is on cpu but the mix on meta"):
        functional.mix(X, mix)
    assert mixing._kernel(X, torch.arange(6), torch.rand(6, device="meta"), None, None) is None
