"""A loss on a GPU is the loss on the processor, which other tests hold against the formulas."""

import pytest
import torch
from helpers import DEVICES, make_target

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


@pytest.mark.skipif(DEVICES == ["cpu"], reason="no GPU")
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_it_is_the_same_on_a_gpu(loss, dtype, reduction):
    loss.reduction = reduction
    logits = (3 * torch.randn(40, CLASSES)).to(dtype)
    target = make_target(40, CLASSES)
    found = {}
    for device in DEVICES:
        z = logits.to(device, copy=True).requires_grad_()
        value = loss.to(device)(z, target.to(device))
        value.mean().backward()
        assert value.device.type == z.grad.device.type == device
        found[device] = value.detach().cpu(), z.grad.cpu()
    torch.testing.assert_close(found["cuda"], found["cpu"])


@pytest.mark.skipif(DEVICES == ["cpu"], reason="no GPU")
@pytest.mark.parametrize("classes", [CLASSES, 3000])
@pytest.mark.parametrize(
    "loss", [MixedCrossEntropy(), DecoupledCrossEntropy(), InfiniteClassLoss()], ids=repr
)
def test_from_features_is_the_same_on_a_gpu(loss, classes):
    features, layer = torch.randn(12, 5), torch.nn.Linear(5, classes)
    target = make_target(12, classes)
    found = {}
    for device in DEVICES:
        layer.to(device)
        layer.weight.grad = layer.bias.grad = None
        x = features.to(device, copy=True).requires_grad_()
        value = loss.from_features(x, layer.weight, layer.bias, target.to(device))
        value.backward()
        found[device] = [t.detach().cpu().clone() for t in (value, x.grad, layer.weight.grad)]
    torch.testing.assert_close(found["cuda"], found["cpu"])


@pytest.mark.skipif(DEVICES == ["cpu"], reason="no GPU")
@pytest.mark.parametrize("axis", ["both", "class", "pair"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_infinite_classes_are_the_same_on_a_gpu(axis, dtype):
    loss = InfiniteClassLoss(axis)
    logits, target = torch.randn(16, CLASSES, dtype=dtype), make_target(16, CLASSES)
    found = {}
    for device in DEVICES:
        z = logits.to(device, copy=True).requires_grad_()
        value = loss(z, target.to(device))
        value.backward()
        found[device] = value.detach().cpu(), z.grad.cpu()
    torch.testing.assert_close(found["cuda"], found["cpu"])


@pytest.mark.skipif(DEVICES == ["cpu"], reason="no GPU")
@pytest.mark.parametrize("loss", [MixedMSE(), MixedL1(), MixedBCE()], ids=repr)
def test_numbers_and_many_labels_are_the_same_on_a_gpu(loss):
    output, lam = torch.randn(20, 4), torch.rand(20)
    a, b = (torch.rand(2, 20, 4) < 0.5).float()
    found = {}
    for device in DEVICES:
        z = output.to(device, copy=True).requires_grad_()
        value = loss(z, MixedTarget(a, b, lam).to(device))
        value.backward()
        found[device] = value.detach().cpu(), z.grad.cpu()
    torch.testing.assert_close(found["cuda"], found["cpu"])
