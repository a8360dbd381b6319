import pytest
import torch
from helpers import make_target

from mixwell import MixedTarget
from mixwell.bench.losses import (
    losses,
    peak_memory,
    published_dm,
    published_dm_bce,
    published_icm,
)
from mixwell.losses import DecoupledBCE, DecoupledCrossEntropy, InfiniteClassLoss

CPU = torch.device("cpu")
X = torch.ones(64, 1000)
SIZE = X.numel() * 4


@pytest.mark.parametrize(
    ("run", "buffers", "count"),
    [
        (lambda: X.sum(), 0, 0),
        (lambda: X.add_(0), 0, 0),
        (lambda: X.exp(), 1, 1),
        (lambda: X.exp().sum(), 1, 1),
        (lambda: X.exp().log(), 2, 2),
        (lambda: X.exp().log().exp().log(), 2, 2),
        (lambda: [X.exp(), X.log(), X.sin()], 3, 3),
        (lambda: X.double(), 2, 1),
        (lambda: X > 0, 0.25, 0),
        (lambda: X.logsumexp(1), 1, 1),  # inside the operator
    ],
)
def test_peak_memory_of_known_operators(run, buffers, count):
    peak = peak_memory(run, SIZE, CPU)
    assert peak.buffers == pytest.approx(buffers, abs=0.01)
    assert peak.count == count


def test_peak_memory_counts_the_gradient():
    z = X.clone().requires_grad_()
    # exp keeps its result for the gradient, which is the second.
    peak = peak_memory(lambda: torch.autograd.grad(z.exp().sum(), z), SIZE, CPU)
    assert peak.count == 2


def test_published_forms_are_the_same_losses():
    target = make_target(8, 6)
    differs = (target.a + 1 + target.b.clamp_max(4)) % 6  # the published forms need a ≠ b
    differs = torch.where(differs == target.a, (target.a + 1) % 6, differs)
    target = MixedTarget(target.a, differs, target.lam)
    z = torch.randn(8, 6)
    for own, published in (
        (DecoupledCrossEntropy(), published_dm),
        (DecoupledBCE(), published_dm_bce),
        (InfiniteClassLoss(), published_icm),
    ):
        torch.testing.assert_close(own(z, target), published(z, target))


def test_contenders_give_the_gradient_of_the_logits():
    contenders = losses(4, 7, CPU)
    assert [c.kind for c in contenders].count("floor") == 1
    for contender in contenders:
        (gradient,) = contender.run()
        assert gradient.shape == (4, 7)
