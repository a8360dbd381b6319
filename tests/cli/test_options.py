import argparse
from dataclasses import fields

import pytest

from mixwell import InputError
from mixwell.cli.command import listed_seeds, settings
from mixwell.cli.main import COMMANDS
from mixwell.cli.options import add_run_options, config_of, run_options
from mixwell.training import RunConfig
from mixwell.training.config import NOT_SAID


def parsed(*words, **options):
    parser = argparse.ArgumentParser()
    add_run_options(parser, **options)
    return parser.parse_args(words)


def test_every_field_of_a_run_has_an_option():
    given = vars(parsed())
    for spec in fields(RunConfig):
        # --import is read before the parser is made; digests are of what --init and --data name.
        if spec.name in NOT_SAID:
            continue
        own = {"method_options": "set", "model_options": "model_set"}.get(spec.name, spec.name)
        assert own in given, spec.name


def test_what_is_given_is_the_configuration_and_the_rest_is_open():
    options = parsed("--lr", "0.3", "--coarse", "--no-augment", "--model-set", "width=8", "p=0.5")
    assert run_options(options) == {
        "lr": 0.3, "coarse": True, "augment": False, "model_options": {"width": 8, "p": 0.5},
    }  # fmt: skip
    assert config_of(options, seed=3).seed == 3
    assert config_of(options).epochs is None


def test_lists_are_taken_where_options_may_vary():
    options = parsed("--imbalance", "10,100", "--shots", "5", lists=True)
    assert run_options(options) == {"imbalance": [10.0, 100.0], "shots": 5}


@pytest.mark.parametrize(
    ("text", "seeds"), [("3", [0, 1, 2]), ("0,5,7", [0, 5, 7]), ("5,", [5]), ("1", [0])]
)
def test_seeds_are_a_count_or_a_list(text, seeds):
    assert listed_seeds(text) == seeds


@pytest.mark.parametrize("text", ["0", "many", "1,x", "-1"])
def test_what_are_no_seeds_is_named(text):
    with pytest.raises(InputError, match="seeds must be"):
        listed_seeds(text)


def test_settings_are_read_as_the_values_that_they_are():
    pairs = ["alpha=0.2", "per=batch", "squared=false", "layers=[1, 2]"]
    assert settings("--set", pairs) == {
        "alpha": 0.2, "per": "batch", "squared": False, "layers": [1, 2],
    }  # fmt: skip
    with pytest.raises(InputError, match="--set takes key=value"):
        settings("--set", ["alpha"])


def test_a_command_is_a_file():
    import mixwell.cli

    for name, command in COMMANDS.items():
        module = __import__(f"mixwell.cli.{name}", fromlist=["COMMAND"])
        assert module.COMMAND is command
    assert callable(mixwell.cli.main)
