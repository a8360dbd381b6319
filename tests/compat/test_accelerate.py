"""Accelerate's own loop: accumulation, clipping, half precision, checkpoints; in one process."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import mixwell
from mixwell import Method, Recipe, Term
from mixwell.coefficient import Constant
from mixwell.losses import MixedCrossEntropy
from mixwell.pairing import Pairing

accelerate = pytest.importorskip("accelerate")


@pytest.fixture(autouse=True)
def _leave_no_accelerator():
    yield
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerate.state.GradientState._reset_state()


class Neighbours(Pairing):
    """Pairs 0 with 1, 2 with 3, ...: the same pairs, however a batch is cut in even parts."""

    def forward(self, batch):
        return torch.arange(len(batch)) ^ 1


def make_net():
    torch.manual_seed(4)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4))


def make_data():
    generator = torch.Generator().manual_seed(5)
    return TensorDataset(torch.randn(32, 6, generator=generator), torch.arange(32) % 4)


def deterministic():
    return Method(Term(MixedCrossEntropy(), Recipe(Neighbours(), Constant(0.3))), num_classes=4)


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def loop(method, accelerator, size, epochs=1, clip=None):
    """As Accelerate's documentation has it, with the method in the place of the loss."""
    model = make_net()
    model, optimizer, loader = accelerator.prepare(
        model, torch.optim.SGD(model.parameters(), lr=0.5), DataLoader(make_data(), size)
    )
    for _ in range(epochs):
        for x, y in loader:
            with accelerator.accumulate(model):
                accelerator.backward(method(model, x, y))
                if clip and accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), clip)
                optimizer.step()
                optimizer.zero_grad()
    return weights(model)


def plain(method, size, epochs=1, clip=None):
    model = make_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(epochs):
        for x, y in DataLoader(make_data(), size):
            optimizer.zero_grad()
            method(model, x, y).backward()
            if clip:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
    return weights(model)


@pytest.mark.parametrize(("size", "steps"), [(16, 1), (8, 2), (4, 4), (2, 8)])
@pytest.mark.parametrize("clip", [None, 0.1])
def test_accumulated_batches_are_one_large_batch(size, steps, clip):
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=steps)
    ours = loop(deterministic(), accelerator, size, epochs=2, clip=clip)
    torch.testing.assert_close(ours, plain(deterministic(), 16, 2, clip), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["mixup", "sk_mixup+decoupled", "manifold_mixup", "am_mixup"])
def test_a_prepared_model_trains_as_the_model_does(name):
    results = []
    for run in (lambda m: loop(m, accelerate.Accelerator(cpu=True), 8), lambda m: plain(m, 8)):
        generator = torch.Generator().manual_seed(6)
        results.append(run(mixwell.create(name, num_classes=4, generator=generator)))
    torch.testing.assert_close(*results)


def test_in_half_precision_the_loss_is_in_single():
    accelerator = accelerate.Accelerator(cpu=True, mixed_precision="bf16")
    model = accelerator.prepare(make_net())
    x, y = make_data().tensors
    step = mixwell.create("sk_mixup+decoupled", num_classes=4).step(model, x, y)
    assert step.loss.dtype == torch.float32
    accelerator.backward(step.loss)
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_a_registered_method_goes_on_from_a_checkpoint(tmp_path):
    """Progress and memory: what is registered is saved and restored with the model."""

    def make():
        method = mixwell.create("sk_mixup", num_classes=4, distance="remembered", capacity=32)
        accelerator = accelerate.Accelerator(cpu=True)
        accelerator.register_for_checkpointing(method)
        return method, accelerator, accelerator.prepare(make_net())

    method, accelerator, model = make()
    x, y = make_data().tensors
    method.set_progress(0.5)
    method(model, x, y, index=torch.arange(32))
    accelerator.save_state(str(tmp_path))
    other, accelerator, model = make()
    accelerator.load_state(str(tmp_path))
    assert other.progress == 0.5
    states = method.state_dict(), other.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
