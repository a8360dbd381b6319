import argparse
import contextlib
from dataclasses import fields

import pytest

from mixwell import InputError
from mixwell.cli import main
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


@pytest.mark.parametrize("pairs", [["alpha=1", "alpha=2"], ["width=8", "depth=1", "width=8"]])
def test_a_setting_that_is_given_twice_is_refused(pairs):
    with pytest.raises(InputError, match=r"--set gives (alpha|width) twice"):
        settings("--set", pairs)


@pytest.mark.parametrize("words", [
    ["--largest-class", "50"], ["--semi", "authors"], ["--threshold", "0.9"],
    ["--unlabelled-ratio", "2"], ["--unlabelled-weight", "2"], ["--mix-cutoff", "0.5"],
    ["--momentum", "0.5", "--optimizer", "adamw"], ["--target", "y"], ["--task", "regression"],
    ["--window", "3"], ["--horizon", "3"], ["--image-size", "64"],
])  # fmt: skip
def test_what_does_nothing_is_refused(words):
    name = words[0].removeprefix("--").replace("-", "_")
    with pytest.raises(InputError, match=f"{name} does nothing here: it takes"):
        config_of(parsed(*words))


@pytest.mark.parametrize("words", [
    ["--largest-class", "50", "--imbalance", "10"], ["--momentum", "0.5"],
    ["--labels", "40", "--semi", "authors", "--mix-cutoff", "0.5", "--threshold", "0.9"],
    ["--data", "csv:t.csv", "--target", "y", "--task", "regression"],
    ["--data", "series:t.csv", "--window", "3", "--horizon", "3", "--target", "y"],
    ["--data", "folder:p", "--image-size", "64"], ["--image-size", "64", "--pretrained"],
    ["--data", "own:images", "--image-size", "64"],
])  # fmt: skip
def test_and_is_taken_where_it_does_something(words):
    assert config_of(parsed(*words))


@pytest.mark.parametrize(("words", "said"), [
    (["compare", "--methods", "erm", "--ray-address", "host:1"], "--ray-address is of --eng"),
    (["study", "toy", "--gpus-per-run", "1"], "--gpus-per-run is of --engine ray"),
    (["recommend", "--budget", "1m", "--gpus-per-run", "1"], "--gpus-per-run is of --engine ray"),
    (["compare", "--methods", "erm", "--engine", "ray", "--workers", "2"], "--workers is of"),
    (["compare", "--methods", "erm", "--window", "3", "--train-size", "60"], "window does nothing"),
    (["study", "long-tailed", "--semi", "paper", "--seeds", "1"], "semi does nothing here"),
    (["compare", "--methods", "erm,mixup(semi=authors)"], "semi does nothing here: it takes"),
    (["compare", "--methods", "erm,mixup", "--set", "alpha=1", "alpha=2"], "--set gives alpha"),
    (["bench", "speed", "--only", "losses", "--methods", "erm"], "methods is of the sections step"),
    (["bench", "speed", "--only", "mixing", "--data", "digits"], "data is of the sections epoch"),
    (["recommend", "--budget", "1m", "--results", "r.csv"], "unrecognized arguments: --results"),
    (["preview", "--out", "p.png", "--epochs", "3"], "unrecognized arguments: --epochs"),
    (["preview", "--out", "p.png", "--freeze", "x"], "unrecognized arguments: --freeze"),
])  # fmt: skip
def test_an_option_that_a_command_does_not_act_on_is_refused(
    words, said, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    with contextlib.suppress(SystemExit):  # of the parser
        assert main(words) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
