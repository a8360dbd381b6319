"""Partners from the whole of the training data."""

import pytest
import torch
from torch import nn

import mixwell
from mixwell import InputError, functional
from mixwell.coefficient import SimilarityKernel


def table(size=400):
    x = torch.rand(size, 3)
    return x, x.sum(1) + 0.1 * torch.randn(size)


def test_rows_are_mixed_with_training_samples_near_in_target():
    x, y = table()
    net = nn.Linear(3, 1)
    index = torch.arange(20)
    method = mixwell.create("c_mixup", bandwidth=0.05, partners="data")
    step = method.step(net, x[:20], y[:20], index=index, data=(x, y))
    lam, gap = step.mix.lam, (step.target.a - step.target.b).abs()
    assert torch.equal(step.target.a, y[:20])
    assert gap.median() < 0.1 < (y[:20, None] - y[None, :20]).abs().median()
    # Each partner is a training sample, another one, and it was mixed in by λ.
    place = (y[None] - step.target.b[:, None]).abs().argmin(1)
    assert not (place == index).any()
    mixed = lam[:, None] * x[:20] + (1 - lam)[:, None] * x[place]
    torch.testing.assert_close(step.logits, net(mixed))
    wanted = lam * y[:20] + (1 - lam) * y[place]
    torch.testing.assert_close(step.loss, (net(mixed)[:, 0] - wanted).square().mean())
    assert (step.mix.partner >= 20).all()


def test_the_kernel_is_of_the_pairs_that_were_drawn():
    x, y = table()
    method = mixwell.create("sk_mixup", task="regression", partners="data", tau_max=1.0)
    lam = torch.cat([
        method.step(nn.Linear(3, 1), x[:50], y[:50], data=(x, y)).mix.lam for _ in range(40)
    ])  # fmt: skip
    assert abs(float(lam.mean()) - 0.5) < 0.03  # symmetric, and its spread that of some τ
    assert 0.1 < float(lam.std()) < 0.5


@pytest.mark.parametrize("beside", ["mixup", "regmixup"])
@pytest.mark.parametrize("layer", ["0", "head"])
def test_at_a_layer_the_partners_go_through_the_model_as_far(layer, beside):
    x, y = table()
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    method = mixwell.create(beside, task="regression", layer=layer, partners="data")
    step = method.step(net, x[:9], y[:9], index=torch.arange(9), data=(x, y))
    place = (y[None] - step.target.b[:, None]).abs().argmin(1)
    cut, lam = 1 if layer == "0" else 2, step.mix.lam[:, None]
    hidden = lam * net[:cut](x[:9]) + (1 - lam) * net[:cut](x[place])
    torch.testing.assert_close(step.logits, net[cut:](hidden))
    assert not (place < 9).all()
    step.loss.backward()


@pytest.mark.parametrize(
    "arguments",
    [{"partners": "batch"}, {"partners": "data", "coefficient": SimilarityKernel()}],
)
def test_without_it_or_by_features_they_come_from_the_batch(arguments):
    x, y = table(50)
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    method = mixwell.create("mixup", task="regression", **arguments)
    step = method.step(net, x[:9], y[:9], data=(x, y))
    assert (step.mix.partner < 9).all()
    step = mixwell.create("mixup", task="regression", partners="data").step(net, x[:9], y[:9])
    assert (step.mix.partner < 9).all()


def test_a_mix_with_the_data_applies_to_nothing_else():
    x, y = table(50)
    method = mixwell.create("mixup", task="regression", partners="data")
    step = method.step(nn.Linear(3, 1), x[:9], y[:9], data=(x, y))
    with pytest.raises(InputError, match="partner must hold indices"):
        functional.mix(x[:9], step.mix)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (torch.rand(5, 3), r"data must be the training set's \(x, y\), got Tensor"),
        ((torch.rand(5, 4), torch.rand(5)), "samples like the batch's"),
        ((torch.rand(5, 3), torch.rand(6)), "with 6 targets"),
    ],
)
def test_other_data_are_named(data, words):
    x, y = table(9)
    method = mixwell.create("mixup", task="regression", partners="data")
    with pytest.raises(InputError, match=words):
        method(nn.Linear(3, 1), x, y, data=data)
    with pytest.raises(InputError, match="partners='data' is for pairs"):
        mixwell.create("multi_mixup", partners="data")
