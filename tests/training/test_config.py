import ast
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mixwell import InputError
from mixwell.training import RunConfig
from mixwell.training import config as config_module


def test_round_trip_through_json_values():
    config = RunConfig(method="sk_mixup", method_options={"tau_std": 0.5}, lr=0.1, epochs=3)
    assert RunConfig.from_dict(config.to_dict()) == config
    assert config.label == "sk_mixup(tau_std=0.5)"


def test_the_fingerprint_changes_with_what_changes_the_result():
    base = RunConfig()
    assert base.fingerprint == RunConfig(threads=2, data_dir="elsewhere").fingerprint
    for change in ({"seed": 1}, {"lr": 0.1}, {"method_options": {"alpha": 2}}, {"ema": 0.9}):
        assert dataclasses.replace(base, **change).fingerprint != base.fingerprint


def test_numbers_of_numpy_and_torch_are_plain_ones_and_json_holds_them():
    given = {"epochs": np.int64(3), "lr": np.float32(0.5), "seed": torch.tensor(2)}
    config = RunConfig(**given)
    assert config == RunConfig(epochs=3, lr=0.5, seed=2)
    assert json.loads(json.dumps(config.to_dict())) == config.to_dict()
    assert config.fingerprint == RunConfig(epochs=3, lr=0.5, seed=2).fingerprint


def test_the_fingerprint_of_stored_runs_stays():
    # Of a run that was stored before: another one would orphan its study.
    config = RunConfig(method="sk_mixup", method_options={"tau_std": 0.5}, lr=1, epochs=3)
    assert config.fingerprint == "1c5a6d1194e1"


def test_a_stored_run_without_the_form_of_semi_supervised_training_has_the_papers():
    stored = RunConfig(labels=40, method="decoupled").to_dict()
    del stored["semi"], stored["mix_cutoff"]
    assert RunConfig.from_dict(stored).semi == "paper"
    assert RunConfig.from_dict(stored).fingerprint == "d64dcd0cf3e3"
    assert RunConfig.from_dict({**stored, "semi": "authors"}).fingerprint != "d64dcd0cf3e3"


def test_it_is_a_value_that_imports_nothing_of_what_is_made_of_it():
    tree = ast.parse(Path(config_module.__file__).read_text(encoding="utf-8"))
    names = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    own = {name for name in names if name.startswith("mixwell")}
    light = {"mixwell.checks", "mixwell.errors", "mixwell.plugins", "mixwell.training.naming"}
    assert own == light


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epochs": -1}, "epochs must be a whole number from 0 on"),
        ({"batch_size": np.float64(2.0)}, "batch_size must be a whole number"),
        ({"batch_size": 2.5}, "batch_size must be a whole number"),
        ({"lr": 0}, "lr must be a number"),
        ({"lr": "fast"}, "lr must be a number"),
        ({"ema": 1.0}, "ema must be between 0 and 1"),
        ({"val_fraction": 0}, "val_fraction must be between"),
        ({"schedule": "linear"}, "schedule='linear' is unknown; known: 'cosine'"),
        ({"precision": "8"}, "precision='8' is unknown"),
        ({"semi": "ours"}, "semi='ours' is unknown; known: 'paper', 'authors'"),
        ({"mix_cutoff": 1.5}, "mix_cutoff must be a number"),
        ({"data": ""}, "data must be a text, such as a name"),
    ],
)
def test_bad_values_are_named(change, words):
    with pytest.raises(InputError, match=words):
        RunConfig(**change)


def test_unknown_fields_are_named():
    with pytest.raises(InputError, match=r"'epoch' is no option of a run \(did you mean 'epochs'"):
        RunConfig.from_dict({"epoch": 3})


def test_what_is_imported_is_part_of_the_result_and_differences_tell_of_it_in_words():
    record = {"name": "bands.py", "module": "bands", "text": "a = 1\n" * 1000}
    config = RunConfig(imports=[record])
    again = RunConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert again.fingerprint == config.fingerprint != RunConfig().fingerprint
    assert "begun with --import bands.py" in config.difference(RunConfig())
    edited = RunConfig(imports=[{**record, "text": "a = 2"}], lr=0.5)
    told = config.difference(edited)
    assert "the text of bands.py has changed; lr=None, not 0.5" in told
    assert "a = 1" not in told


@pytest.mark.parametrize("given", ["bands.py", {"name": "a"}, {"name": "a", "module": "a", "x": 1}])
def test_what_is_no_record_of_an_import_is_refused(given):
    with pytest.raises(InputError, match=r"imports must hold what mixwell\.plugins\.load returned"):
        RunConfig(imports=(given,))
