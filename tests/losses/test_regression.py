import pytest
import torch
from torch.nn import functional as F

from mixwell import InputError, MixedTarget
from mixwell.losses import MixedL1, MixedMSE

TARGET = MixedTarget(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 6.0]), torch.tensor([0.5, 0.75]))


@pytest.mark.parametrize(("loss", "reference"), [(MixedMSE, F.mse_loss), (MixedL1, F.l1_loss)])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_compares_with_the_mixed_target(loss, reference, reduction):
    prediction = torch.tensor([1.5, -1.0])
    expected = reference(prediction, torch.tensor([2.0, 3.0]), reduction=reduction)
    torch.testing.assert_close(loss(reduction)(prediction, TARGET), expected)
    torch.testing.assert_close(loss(reduction)(prediction[:, None], TARGET), expected)


def test_several_targets():
    a, b = torch.randn(2, 4, 3)
    target = MixedTarget(a, b, torch.rand(4))
    prediction = torch.randn(4, 3)
    torch.testing.assert_close(
        MixedMSE()(prediction, target), F.mse_loss(prediction, target.dense())
    )


@pytest.mark.parametrize("shape", [(2, 2), (3,), (3, 1)])
def test_nothing_is_broadcast(shape):
    with pytest.raises(InputError, match="don't fit"):
        MixedMSE()(torch.zeros(shape), TARGET)


def test_class_indices_are_refused():
    with pytest.raises(InputError, match="real numbers"):
        MixedMSE()(torch.zeros(2), MixedTarget.clean(torch.tensor([0, 1])))
