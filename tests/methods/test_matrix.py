"""Every way of mixing with every loss, for each sample and each batch, in both precisions."""

import itertools

import pytest
import torch
from helpers import DEVICES, needs_gpu
from torch import nn

import mixwell
from mixwell import InputError
from mixwell.methods.registry import accepts

CLASSES = 4
COUNTS = [40.0, 20, 10, 5]
LOSSES = ["", "decoupled", "decoupled_bce", "infinite_class"]


class Patches(nn.Module):
    """A small vision transformer of timm's names, to be looked at by its attention."""

    def __new__(cls):
        timm = pytest.importorskip("timm")
        return timm.models.VisionTransformer(
            img_size=16, patch_size=4, embed_dim=16, depth=2, num_heads=2, num_classes=CLASSES
        )


def convolutions():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 12, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, CLASSES),
    )  # fmt: skip


def policies():
    """The methods for classification, but for those that are losses."""
    found = []
    for name in mixwell.list_methods():
        described = mixwell.describe(name)
        if "classification" in described.tasks and name not in ("erm", *LOSSES):
            found.append(name)
    return found


def make(name, **arguments):
    if accepts(name, "class_counts"):
        arguments["class_counts"] = COUNTS
    return mixwell.create(name, num_classes=CLASSES, task="classification", **arguments)


def network(name):
    return Patches() if {"transmix", "tokenmix"} & set(name.split("+")) else convolutions()


@pytest.mark.cases(quick=3)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("policy", policies())
def test_every_policy_with_every_loss(policy, device):
    """One test for a policy: the loops inside share a network, which is most of the time."""
    net = network(policy).to(device)
    composed = 0
    for loss, per, dtype, size in itertools.product(
        LOSSES, ("sample", "batch"), (torch.float32, torch.bfloat16), (6, 5)
    ):
        name = f"{policy}+{loss}" if loss else policy
        arguments = {"per": per} if per == "batch" else {}
        try:
            method = make(name, **arguments).to(device)
        except InputError as error:
            words = str(error)
            # Two answers to one question, or λ that has no "per".
            assert "makes no sense" in words or "nothing to act on" in words, words
            continue
        composed += 1
        torch.manual_seed(size)
        net.to(dtype).zero_grad()
        x = torch.rand(size, 3, 16, 16, dtype=dtype, device=device)
        index = torch.arange(size, device=device)
        step = method.step(net, x, index % CLASSES, index=index)
        step.loss.backward()
        where = f"{name} {per} {dtype} {size}"
        assert step.loss.isfinite(), where
        for parameter in net.parameters():
            assert parameter.grad is None or parameter.grad.isfinite().all(), where
        assert sum(float(p.grad.abs().sum()) for p in net.parameters() if p.grad is not None), where
        lam = step.mix.lam
        assert ((lam >= 0) & (lam <= 1)).all(), where
        if per == "batch" and hasattr(method.recipe.coefficient, "alpha"):
            assert len(lam.unique()) == 1 or method.recipe.interpolation.needs_model, where
        if not step.mix.is_uniform:
            mean = step.mix.dense_mask().double().flatten(1).mean(1)
            torch.testing.assert_close(lam.double(), mean, rtol=0, atol=1e-6, msg=where)
    assert composed


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("policy", policies())
def test_every_policy_in_mixed_precision_on_a_gpu(policy, dtype):
    """As GPUs are used: autocast, images with their channels last, scaled gradients."""
    net = network(policy).cuda().to(memory_format=torch.channels_last)
    scaler = torch.amp.GradScaler("cuda", init_scale=256.0)
    optimizer = torch.optim.SGD(net.parameters(), 0.01)
    trained = 0
    for loss in LOSSES:
        name = f"{policy}+{loss}" if loss else policy
        try:
            method = make(name).cuda()
        except InputError:  # the test above says which
            continue
        trained += 1
        index = torch.arange(6, device="cuda")
        x = torch.rand(6, 3, 16, 16, device="cuda").to(memory_format=torch.channels_last)
        optimizer.zero_grad()
        with torch.autocast("cuda", dtype):
            step = method.step(net, x, index % CLASSES, index=index)
        scaler.scale(step.loss).backward()
        scaler.unscale_(optimizer)
        grads = [p.grad for p in net.parameters() if p.grad is not None]
        assert step.loss.dtype == torch.float32, name
        assert step.loss.isfinite(), name
        assert all(grad.isfinite().all() for grad in grads), name
        assert sum(float(grad.abs().sum()) for grad in grads), name
        scaler.step(optimizer)
        scaler.update()
    assert trained
