"""What makes a step slow on a GPU or under a compiler, seen without either."""

import pytest
import torch
from helpers import needs_gpu
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

import mixwell
from mixwell import InputError

AT_THE_INPUT = [
    ("erm", {}),
    ("mixup", {}),
    ("mixup", {"p": 0.5, "per": "batch"}),
    ("mixup", {"pairing": "PerfectMatching"}),
    ("mixup", {"pairing": "InterClass"}),
    ("cutmix", {}),
    ("decoupled", {}),
    ("decoupled_bce", {}),
    ("infinite_class", {}),
    ("regmixup", {}),
    ("sk_mixup", {"distance": "input"}),
    ("sk_mixup", {"distance": "input", "alpha": 2.0}),
    ("remix", {"class_counts": [5, 4, 3, 2, 1]}),
    ("mixup_io", {}),
    ("cutmix+infinite_class", {}),
    ("sk_mixup+decoupled", {"distance": "input"}),
]


def _net():
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 5))


@pytest.mark.cases(quick=1, slow=5)
@pytest.mark.parametrize(("name", "options"), AT_THE_INPUT)
def test_a_whole_step_compiles_into_one_graph_and_never_again(name, options):
    torch.compiler.reset()
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    method, model = mixwell.create(name, num_classes=5, **options), _net()
    # With fullgraph a graph break is an error.
    step = torch.compile(lambda x, y: method(model, x, y), backend=backend, fullgraph=True)
    for turn in range(4):
        method.set_progress(turn / 4)
        loss = step(torch.randn(8, 3, 4, 4), torch.randint(0, 5, (8,)))
        loss.backward()
        assert loss.isfinite()
    assert len(graphs) == 1


def test_a_method_left_on_another_device_is_named_when_its_step_is_compiled():
    torch.compiler.reset()
    method = mixwell.create("mixup", num_classes=5)
    method.progress = method.progress.to("meta")
    model = _net()
    step = torch.compile(lambda x, y: method(model, x, y), backend="eager", fullgraph=True)
    with pytest.raises(Exception, match=r"method\.to\('cpu'\)") as raised:
        step(torch.randn(8, 3, 4, 4), torch.randint(0, 5, (8,)))
    assert isinstance(raised.value, InputError) or "InputError" in str(raised.value)


class _Waits(TorchDispatchMode):
    """Notes what a host would wait for its GPU for: values read there, and copies between."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tensors = [t for t in pytree.tree_leaves((args, result)) if isinstance(t, torch.Tensor)]
        between = "copy" in str(func) and len({t.device.type for t in tensors}) > 1
        if between or "_local_scalar_dense" in str(func) or "nonzero" in str(func):
            self.found.append(str(func))
        return result


NEVER_WAITING = [
    # With α = 2, and for mit, a table goes to the device once, made of tensors with values.
    *(case for case in AT_THE_INPUT if "alpha" not in case[1]),
    ("sk_mixup", {"distance": "remembered", "capacity": 50}),
    ("am_mixup", {}),
    ("mixup", {"layer": "1"}),
    *(
        (name, {})
        for name in (
            "resizemix",
            "fmix",
            "gridmix",
            "maskmix",
            "smoothmix",
            "saliencymix",
            "multi_mixup",
            "local_mixup",
            "rankmixup",
        )
    ),
    ("unimix", {"class_counts": [5, 4, 3, 2, 1]}),
    ("randomix", {"per": "sample"}),
]
ON_A_GPU = [*NEVER_WAITING, *(case for case in AT_THE_INPUT if case not in NEVER_WAITING)]


@pytest.mark.cases(quick=5)
@pytest.mark.parametrize(("name", "options"), NEVER_WAITING)
@pytest.mark.skipif(
    torch.__version__.startswith("2.6."), reason="its tensors without values ask for a driver"
)
def test_a_step_on_a_gpu_never_waits_for_it(name, options):
    # Tensors that say they are on a GPU and hold no values: reading one is an error. The backward
    # pass would need a driver.
    method = mixwell.create(name, num_classes=5, head="3", **options)
    with FakeTensorMode():
        gpu = torch.device("cuda:0")

        def there(tensor):
            return torch.empty(tensor.shape, dtype=tensor.dtype, device=gpu)

        model = _net()
        for layer in (model[1], model[3]):
            layer.weight, layer.bias = (nn.Parameter(there(p)) for p in (layer.weight, layer.bias))
        for module in method.modules():
            for key, buffer in module._buffers.items():
                module._buffers[key] = None if buffer is None else there(buffer)
        method._checked_device = gpu  # the first step's look at values is allowed
        x = torch.randn(8, 3, 4, 4, device=gpu)
        y, index = torch.randint(0, 5, (8,), device=gpu), torch.arange(8, device=gpu)
        with torch.no_grad():
            method(model, x, y, index=index)  # constants of a size go there once
            with _Waits() as waits:
                method.set_progress(0.5)
                loss = method(model, x, y, index=index)
    assert waits.found == []
    assert (loss.shape, loss.device) == ((), gpu)


@pytest.mark.skipif(
    torch.__version__.startswith("2.6."), reason="its tensors without values ask for a driver"
)
def test_reading_a_value_is_seen():
    with FakeTensorMode(), _Waits() as waits:
        x = torch.ones(3, device="cuda:0")
        x.cpu()
        with pytest.raises(Exception, match="local_scalar"):
            x.sum().item()
    assert waits.found[0].startswith("aten._to_copy")


class _Trained:
    """A method and a network on a GPU, with a batch; each call makes the gradients anew."""

    def __init__(self, name, options):
        self.method = mixwell.create(name, num_classes=5, head="3", **options).cuda()
        self.model = _net().cuda()
        self.x = torch.randn(8, 3, 4, 4, device="cuda")
        self.y = torch.randint(0, 5, (8,), device="cuda")
        self.index = torch.arange(8, device="cuda")

    def __call__(self):
        for parameter in self.model.parameters():
            if parameter.grad is not None:
                parameter.grad.zero_()
        loss = self.method(self.model, self.x, self.y, index=self.index)
        loss.backward()
        return loss.detach()


@needs_gpu
@pytest.mark.parametrize(("name", "options"), ON_A_GPU)
def test_a_step_and_its_backward_pass_never_wait_for_the_gpu_that_is_here(name, options):
    step = _Trained(name, options)
    for _ in range(2):  # what is made once is made
        step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step.method.set_progress(0.5)
        loss = step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert loss.isfinite()


@needs_gpu
@pytest.mark.parametrize(("name", "options"), ON_A_GPU)
def test_a_step_in_a_graph_draws_anew_and_is_the_step_without_one(name, options):
    step = _Trained(name, options)
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    step.method.set_progress(0.5)
    losses = []
    for _ in range(6):
        graph.replay()
        losses.append(float(captured))
    assert name == "erm" or len(set(losses)) > 1, losses
    # Another batch and progress, from one state of the draws and of what the method keeps.
    step.x.normal_()
    step.method.set_progress(0.75)
    state = {key: value.clone() for key, value in step.method.state_dict().items()}
    torch.cuda.manual_seed(5)
    graph.replay()
    found = captured.clone(), [p.grad.clone() for p in step.model.parameters()]
    step.method.load_state_dict(state)
    torch.cuda.manual_seed(5)
    expected = step(), [p.grad for p in step.model.parameters()]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
