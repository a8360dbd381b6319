import dataclasses

import pytest
import torch

from mixwell import InputError, data
from mixwell.labels import Remix
from mixwell.training import RunConfig


def test_round_trip_through_json_values():
    config = RunConfig(method="sk_mixup", method_options={"tau_std": 0.5}, lr=0.1, epochs=3)
    assert RunConfig.from_dict(config.to_dict()) == config
    assert config.label == "sk_mixup(tau_std=0.5)"


def test_the_fingerprint_changes_with_what_changes_the_result():
    base = RunConfig()
    assert base.fingerprint == RunConfig(threads=2, data_dir="elsewhere").fingerprint
    for change in ({"seed": 1}, {"lr": 0.1}, {"method_options": {"alpha": 2}}, {"ema": 0.9}):
        assert dataclasses.replace(base, **change).fingerprint != base.fingerprint


def test_open_fields_are_filled_in_and_given_ones_are_kept():
    dataset = data.load("digits")
    config = RunConfig(lr=0.3).resolved(dataset)
    assert config.lr == 0.3
    assert None not in (config.epochs, config.batch_size, config.optimizer, config.model)
    assert config.resolved(dataset) == config
    regression = RunConfig(data="diabetes").resolved(data.load("diabetes"))
    assert regression.model == "mlp"


def test_class_counts_reach_the_method_that_wants_them():
    dataset = data.load("digits", train_size=100)
    method = RunConfig(method="remix+infinite_class").build_method(dataset)
    remix = next(module for module in method.modules() if isinstance(module, Remix))
    assert torch.equal(remix.counts, torch.bincount(dataset.train.y).float())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epochs": -1}, "epochs must be a whole number from 0 on"),
        ({"batch_size": 2.5}, "batch_size must be a whole number"),
        ({"lr": 0}, "lr must be a number"),
        ({"lr": "fast"}, "lr must be a number"),
        ({"ema": 1.0}, "ema must be between 0 and 1"),
        ({"val_fraction": 0}, "val_fraction must be between"),
        ({"schedule": "linear"}, "schedule='linear' is unknown; known: 'cosine'"),
        ({"precision": "8"}, "precision='8' is unknown"),
        ({"data": ""}, "data must be a name"),
    ],
)
def test_bad_values_are_named(change, words):
    with pytest.raises(InputError, match=words):
        RunConfig(**change)


def test_unknown_fields_are_named():
    with pytest.raises(InputError, match=r"'epoch' is no option of a run \(did you mean 'epochs'"):
        RunConfig.from_dict({"epoch": 3})
