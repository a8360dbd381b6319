"""Every way of mixing with every loss, for each sample and each batch, in both precisions."""

import itertools

import pytest
import torch
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


@pytest.mark.parametrize("policy", policies())
def test_every_policy_with_every_loss(policy):
    """One test for a policy: the loops inside share a network, which is most of the time."""
    net = network(policy)
    composed = 0
    for loss, per, dtype, size in itertools.product(
        LOSSES, ("sample", "batch"), (torch.float32, torch.bfloat16), (6, 5)
    ):
        name = f"{policy}+{loss}" if loss else policy
        arguments = {"per": per} if per == "batch" else {}
        try:
            method = make(name, **arguments)
        except InputError as error:
            words = str(error)
            # Two answers to one question, or λ that has no "per".
            assert "makes no sense" in words or "nothing to act on" in words, words
            continue
        composed += 1
        torch.manual_seed(size)
        net.to(dtype).zero_grad()
        x = torch.rand(size, 3, 16, 16, dtype=dtype)
        y = torch.arange(size) % CLASSES
        step = method.step(net, x, y, index=torch.arange(size))
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
