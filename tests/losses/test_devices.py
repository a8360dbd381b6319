"""A loss on a GPU is the loss on the processor, which other tests hold against the formulas."""

import copy

import pytest
import torch
from helpers import DEVICES, make_target, needs_gpu

from mixwell import MixedTarget
from mixwell.losses import (
    DecoupledBCE,
    DecoupledCrossEntropy,
    InfiniteClassLoss,
    MixedBCE,
    MixedCrossEntropy,
    MixedL1,
    MixedMSE,
)

LOSSES = [
    MixedCrossEntropy(),
    MixedCrossEntropy(class_weight=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], label_smoothing=0.1),
    DecoupledCrossEntropy(),
    DecoupledCrossEntropy(0.5, "uniform", asymmetric=True),
    DecoupledCrossEntropy(class_weight=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]),
    DecoupledBCE(),
    DecoupledBCE(0.5, 0.8, over_classes="mean", asymmetric=True),
]
CLASSES = 7
pytestmark = needs_gpu


def assert_alike(compute):
    """What is computed on a device is what is computed on the processor."""
    on_cpu, on_gpu = ([t.detach().cpu() for t in compute(device)] for device in DEVICES)
    torch.testing.assert_close(on_gpu, on_cpu)


def assert_alike_from_logits(loss, logits, target):
    def compute(device):
        z = logits.to(device, copy=True).requires_grad_()
        value = loss.to(device)(z, target.to(device))
        value.mean().backward()
        assert value.device.type == z.grad.device.type == device
        return value, z.grad

    assert_alike(compute)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_it_is_the_same_on_a_gpu(loss, dtype, reduction):
    loss.reduction = reduction
    logits = (3 * torch.randn(40, CLASSES)).to(dtype)
    assert_alike_from_logits(loss, logits, make_target(40, CLASSES))


@pytest.mark.parametrize("axis", ["both", "class", "pair"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_infinite_classes_are_the_same_on_a_gpu(axis, dtype):
    logits = torch.randn(16, CLASSES, dtype=dtype)
    assert_alike_from_logits(InfiniteClassLoss(axis), logits, make_target(16, CLASSES))


@pytest.mark.parametrize("loss", [MixedMSE(), MixedL1(), MixedBCE()], ids=repr)
def test_numbers_and_many_labels_are_the_same_on_a_gpu(loss):
    a, b = (torch.rand(2, 20, 4) < 0.5).float()
    assert_alike_from_logits(loss, torch.randn(20, 4), MixedTarget(a, b, torch.rand(20)))


@pytest.mark.parametrize("classes", [CLASSES, 3000])
@pytest.mark.parametrize(
    "loss", [MixedCrossEntropy(), DecoupledCrossEntropy(), InfiniteClassLoss()], ids=repr
)
def test_from_features_is_the_same_on_a_gpu(loss, classes):
    features, layer = torch.randn(12, 5), torch.nn.Linear(5, classes)
    target = make_target(12, classes)

    def compute(device):
        head, x = copy.deepcopy(layer).to(device), features.to(device, copy=True).requires_grad_()
        value = loss.from_features(x, head.weight, head.bias, target.to(device))
        value.backward()
        return value, x.grad, head.weight.grad

    assert_alike(compute)
