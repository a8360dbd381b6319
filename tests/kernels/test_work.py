"""What a step does, counted: operations, and memory of the batch's size. Seconds are noisy.

The budgets are a tenth above what was counted when they were written. Where one is exceeded, a step
has become dearer: look for a copy, a check or a conversion that came in, before raising it.
"""

from collections import Counter

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import mixwell
from mixwell import Mix, functional
from mixwell.bench.losses import peak_memory
from mixwell.kernels import native, recycled
from mixwell.mix import Box

CPU = torch.device("cpu")


class Counted(TorchDispatchMode):
    """Counts the operations that torch dispatches."""

    def __init__(self):
        super().__init__()
        self.names = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names[function.overloadpacket.__name__] += 1
        return function(*args, **(kwargs or {}))

    @property
    def count(self):
        return sum(self.names.values())


def batch(size=96):
    return torch.randn(size, 3, 16, 16), torch.randint(10, (size,))


def make_net():
    return nn.Sequential(nn.Flatten(), nn.Linear(768, 32), nn.ReLU(), nn.Linear(32, 10))


def work(step):
    """The operations of a step forward and backward, the most of several draws."""
    step().backward()  # the first builds and checks what stays
    most = Counted()
    for seed in range(6):
        torch.manual_seed(seed)
        with Counted() as counted:
            step().backward()
        most = max(most, counted, key=lambda each: each.count)
    return most


# Beyond a plain loop's cross-entropy: what mixing, its checks and its loss add to a step.
#   mixup, decoupled, cutmix: λ, the pairing, one call for boxes, the mix and the loss each.
#   sk_mixup: distances, and τ and u to λ: by torch a hundred.
#   regmixup, am_mixup: a second group of rows, whose inputs are put side by side.
#   infinite_class: two similarity matrices with their gradients.
BUDGETS = {
    "mixup": (14, 62),
    "cutmix": (12, 108),
    "decoupled": (14, 115),
    "sk_mixup": (51, 185),
    "regmixup": (50, 130),
    "am_mixup": (96, 159),
    "infinite_class": (8, 70),
}


@pytest.mark.skipif(torch.__version__.startswith("2.6."), reason="it counts other operations")
@pytest.mark.parametrize("name", BUDGETS)
def test_a_step_stays_within_its_budget_of_operations(name, kernels_by):
    net, (x, y) = make_net(), batch()
    method = mixwell.create(name, num_classes=10, **settings_of(name))
    counted = work(lambda: method(net, x, y))
    added = counted.count - work(lambda: F.cross_entropy(net(x), y)).count
    assert added <= BUDGETS[name][kernels_by == "torch"], counted.names


def settings_of(name):
    return {"distance": "input"} if name == "sk_mixup" else {}


@pytest.mark.parametrize("name", BUDGETS)
def test_a_step_looks_at_each_sample_in_no_loop(name):
    """No more operations for 300 samples than for 100, where there are compiled kernels."""
    if native.library() is None:
        pytest.skip("there are no compiled kernels here")
    net, counts = make_net(), []
    for size in (100, 300):
        x, y = batch(size)
        method = mixwell.create(name, num_classes=10, **settings_of(name))
        counts.append(work(lambda method=method, x=x, y=y: method(net, x, y)).count)
    assert counts[1] <= counts[0]


@pytest.mark.parametrize("name", BUDGETS)
def test_each_batch_is_mixed_in_one_call(name, monkeypatch, kernels_by):
    if kernels_by == "torch":
        pytest.skip("counts the compiled kernels' calls")
    calls = Counter()
    for kernel in ("mix", "paste", "two_class", "two_class_gradient"):
        run = getattr(native, kernel)

        def counted(*args, run=run, kernel=kernel):
            calls[kernel] += 1
            return run(*args)

        monkeypatch.setattr(native, kernel, counted)
    net, (x, y) = make_net(), batch()
    mixwell.create(name, num_classes=10, **settings_of(name))(net, x, y).backward()
    assert calls["mix"] + calls["paste"] <= 1
    # One loss for each term that has one of two classes. A mean's gradient is made in the same
    # call; that of samples with weights takes another.
    assert calls["two_class"] <= {"regmixup": 2, "am_mixup": 2, "infinite_class": 0}.get(name, 1)
    assert calls["two_class_gradient"] <= (name == "am_mixup")
    assert calls.total()


# Values that are brought to Python wait for all that is queued on a device; on the CPU one asks
# whether x is finite, and two for the labels' ends.
@pytest.mark.parametrize("name", BUDGETS)
def test_a_step_brings_few_values_to_python(name):
    net, (x, y) = make_net(), batch()
    method = mixwell.create(name, num_classes=10, **settings_of(name))
    counted = work(lambda: method(net, x, y))
    assert counted.names["_local_scalar_dense"] <= 3, counted.names
    assert not {"nonzero", "masked_select", "unique_consecutive"} & set(counted.names)


# ------------------------------------------------------------------------------------------- memory


def mixes(size, height, width):
    partner, lam = torch.randperm(size), torch.rand(size)
    edges = torch.tensor([[1, height - 1, 2, width - 1]] * size)
    mask = torch.rand(size, 1, height, width) > 0.3
    return {
        "lam": Mix(partner, lam),
        "repeated": Mix(torch.zeros_like(partner), lam),
        "box": Mix(partner, lam, box=Box(edges, height, width)),
        "mask": Mix(partner, lam, mask),
        "weights": Mix(partner, lam, mask.float() / 2),
    }


@pytest.mark.cases(quick=12)
@pytest.mark.parametrize("mode", ["lam", "repeated", "box", "mask", "weights"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
@pytest.mark.parametrize("last", [False, True])
def test_the_second_mix_takes_no_new_memory(last, dtype, mode, kernels_by):
    x = (255 * torch.rand(16, 3, 160, 160)).to(dtype)
    x = x.to(memory_format=torch.channels_last) if last else x
    mix = mixes(16, 160, 160)[mode]
    recycled.clear()
    peak = peak_memory(lambda: functional.mix(x, mix), x.nbytes, CPU)
    assert peak.count == 0
    if kernels_by == "compiled" and mode in ("lam", "repeated", "box"):
        assert peak.buffers < 0.01  # but for a few numbers a sample
    recycled.clear()
    out = torch.empty_like(x)
    assert peak_memory(lambda: functional.mix(x, mix, out=out), x.nbytes, CPU).count == 0


@pytest.mark.cases(quick=2)
@pytest.mark.parametrize("mode", ["lam", "box"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_a_mix_in_a_graph_takes_no_new_memory(dtype, mode, kernels_by):
    torch.compiler.reset()
    x = (255 * torch.rand(16, 3, 160, 160)).to(dtype)
    mix = mixes(16, 160, 160)[mode]
    compiled = torch.compile(functional.mix, fullgraph=True, backend="aot_eager")
    recycled.clear()
    peak = peak_memory(lambda: compiled(x, mix), x.nbytes, CPU)
    assert peak.count == 0


def test_a_mix_is_a_handful_of_operations(kernels_by):
    if kernels_by == "torch":
        pytest.skip("by torch it is one for each block")
    x = torch.randn(64, 3, 64, 64)
    for mode, budget in {"lam": 6, "box": 12}.items():
        mix = mixes(64, 64, 64)[mode]
        functional.mix(x, mix)
        with Counted() as counted:
            functional.mix(x, mix)
        assert counted.count <= budget, counted.names


# A method's step on a model without activations of the batch's size: its mixed batch is memory of
# the step before. regmixup and am_mixup put clean and mixed rows side by side, in twice the memory;
# sk_mixup gathers the partners for its distances, and takes the difference.
MEMORY = {"regmixup": 1, "am_mixup": 1, "sk_mixup": 2}


@pytest.mark.parametrize("name", [*BUDGETS, "erm"])
def test_a_step_takes_no_memory_of_the_batchs_size(name, kernels_by):
    net, (x, y) = make_net(), batch(400)
    method = mixwell.create(name, num_classes=10, **settings_of(name))
    recycled.clear()

    def step():
        method(net, x, y).backward()

    step()
    peak = peak_memory(step, x.nbytes, CPU)
    assert peak.count <= MEMORY.get(name, 0)
