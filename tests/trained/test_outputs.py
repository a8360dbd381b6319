"""Networks that return more than logits are trained, measured, loaded, predicted with, exported."""

import pytest
import torch
from torch import nn

import mixwell
from mixwell.training import RunConfig, train
from mixwell.training.build import load_data


class Body(nn.Module):
    def __init__(self, num_outputs, input_shape):
        super().__init__()
        width = int(torch.tensor(input_shape).prod())
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(width, 16), nn.ReLU(), nn.Dropout(0.1))
        self.head = nn.Linear(16, num_outputs)

    def forward(self, x):
        return self.given(self.head(self.body(x)), x)


class Pair(Body):
    def given(self, logits, x):
        return logits, x.mean()


class Named(Body):
    def given(self, logits, x):
        return {"logits": logits, "mean": x.mean()}


class Out(Body):
    def given(self, logits, x):
        return {"out": logits}


class Plain(Body):
    def given(self, logits, x):
        return logits


@pytest.mark.cases(quick=4)
@pytest.mark.parametrize("net", [Pair, Named, Out])
@pytest.mark.parametrize(
    "options",
    [
        {"method": "mixup"}, {"method": "sk_mixup"}, {"method": "mixup", "ema": 0.9},
        {"method": "infinite_class"}, {"method": "mixup", "coarse": True},
        {"method": "mixup", "shift": True},
        {"method": "mixup", "data": "moons", "train_size": None},
        {"method": "mixup", "data": "diabetes", "train_size": None},
        {"method": "mixup", "labels": 20},
        {"method": "mixup", "freeze": ("backbone",)},
    ],
    ids=lambda options: "-".join(f"{k}={v}" for k, v in options.items()),
)  # fmt: skip
def test_what_stands_beside_the_logits_changes_nothing(net, options, tmp_path):
    common = {
        "epochs": 1,
        "threads": 1,
        "batch_size": 20,
        "train_size": 100,
        "accelerator": "cpu",
        **options,
    }
    results = {
        one: train(RunConfig(model=f"{__name__}:{one.__name__}", **common), tmp_path / one.__name__)
        for one in (net, Plain)
    }
    assert results[net]["metrics"] == pytest.approx(results[Plain]["metrics"], nan_ok=True)
    test = load_data(RunConfig(**common)).test.x
    found, wanted = (mixwell.load_run(tmp_path / one.__name__) for one in (net, Plain))
    assert torch.equal(found.outputs(test), wanted.outputs(test))


@pytest.mark.parametrize("net", [Pair, Named])
def test_they_are_exported(net, tmp_path):
    config = RunConfig(
        model=f"{__name__}:{net.__name__}", epochs=1, threads=1, train_size=100, method="mixup"
    )
    train(config, tmp_path / "run")
    made = mixwell.trained.export(mixwell.load_run(tmp_path / "run"), tmp_path / "net.pt2")
    assert made.difference < 1e-4
