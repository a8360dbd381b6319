import contextlib
import sqlite3
from dataclasses import replace

import pytest
import yaml

import mixwell
from mixwell import InputError
from mixwell.cli import main
from mixwell.methods import accepts, ranges
from mixwell.studies import Store, Study, run_study
from mixwell.studies import tune as tuning
from mixwell.studies.tune import tune
from mixwell.training import RunConfig

pytest.importorskip("optuna", reason="Optuna is not installed")

CONFIG = RunConfig(method="sk_mixup", train_size=100, epochs=1)


@pytest.fixture
def pretended(monkeypatch):
    """Runs whose validation NLL is least at tau_std = 0.8; returns what was run."""
    started = []

    def run_cells(cells, folder, **options):
        store = Store(folder, create=True)
        store.add(cells)
        for cell in cells:
            if store.status()[cell.name] == "done":
                continue
            started.append(cell.config)
            tau = cell.config.method_options["tau_std"]
            if tau > 1.5:
                store.fail(cell.name, "too much")
            else:
                value = (tau - 0.8) ** 2 + 0.01 * cell.config.seed
                store.finish(cell.name, {"metrics": {"val_nll": value, "val_accuracy": -value}})

    monkeypatch.setattr(tuning, "run_cells", run_cells)
    return started


@pytest.mark.slow
def test_the_search_improves_on_the_usual_settings_and_goes_on(pretended, tmp_path):
    first = tune(CONFIG, tmp_path, trials=3, search=["tau_std"])
    assert pretended[0].method_options == {"tau_std": 0.25}
    assert first.default == pytest.approx(0.55**2)
    found = tune(CONFIG, tmp_path, trials=15, search=["tau_std"])
    assert len(pretended) == 15
    assert found.trials == 15
    assert found.value < 0.02
    assert abs(found.settings["tau_std"] - 0.8) < 0.15
    assert tune(CONFIG, tmp_path, trials=15, search=["tau_std"]) == found
    assert len(pretended) == 15
    content = yaml.safe_load((tmp_path / "tuned.yaml").read_text())
    assert content["settings"] == {"sk_mixup": found.settings}


def test_seeds_are_averaged_and_given_settings_stay(pretended, tmp_path):
    config = RunConfig(method="sk_mixup", train_size=100, epochs=1, method_options={"tau_max": 2.0})
    found = tune(config, tmp_path, trials=2, seeds=[0, 4])
    assert [run.seed for run in pretended] == [0, 4, 0, 4]
    assert all(run.method_options["tau_max"] == 2.0 for run in pretended)
    assert found.default == pytest.approx(0.55**2 + 0.02)


def test_accuracy_is_maximised_and_failed_trials_are_counted(pretended, tmp_path):
    found = tune(CONFIG, tmp_path, trials=12, measure="accuracy", search=["tau_std"], workers=4)
    assert found.value == max(-((run.method_options["tau_std"] - 0.8) ** 2) for run in pretended)
    failed = sum(run.method_options["tau_std"] > 1.5 for run in pretended)
    assert found.failed == failed


@pytest.mark.parametrize(
    ("changes", "options", "words"),
    [
        ({"method": "erm"}, {}, "erm has nothing to search"),
        ({}, {"search": ["tau"]}, r"declares no range of 'tau'.*did you mean 'tau_"),
        ({}, {"measure": "brier"}, "measure='brier' is unknown"),
        ({}, {"trials": 0}, "trials must be a whole number from 1 on, got 0"),
        ({"data": "diabetes", "train_size": None}, {"measure": "nll"}, "measure='nll' is unknown"),
    ],
)
def test_what_cannot_be_tuned_is_named(changes, options, words, tmp_path):
    config = RunConfig(**{"method": "sk_mixup", "train_size": 100, "epochs": 1, **changes})
    with pytest.raises(InputError, match=words):
        tune(config, tmp_path, **options)


def test_every_declared_range_holds_the_default_and_makes_a_method():
    for name in mixwell.list_methods():
        for argument, bounds in ranges(name).items():
            assert bounds.low <= bounds.default <= bounds.high, (name, argument)
            counts = {"class_counts": [5, 5, 5]} if accepts(name, "class_counts") else {}
            for value in (bounds.low, bounds.high):
                mixwell.create(name, num_classes=3, **counts, **{argument: value})


@pytest.mark.slow
def test_from_the_command_line_and_into_a_study(tmp_path, capsys):
    tiny = ["--train-size", "60", "--epochs", "1", "--threads", "1"]
    out = str(tmp_path / "tune")
    command = ["tune", "--method", "mixup", "--trials", "2", *tiny, "--workers", "1", "--out", out]
    assert main(command) == 0
    assert "validation nll" in capsys.readouterr().out
    alpha = yaml.safe_load((tmp_path / "tune" / "tuned.yaml").read_text())["settings"]["mixup"]
    study = ["study", "balanced", "--methods", "erm,mixup", "--seeds", "1", *tiny]
    settings = ["--settings", f"{out}/tuned.yaml", "--out", str(tmp_path / "study")]
    assert main([*study, *settings, "--workers", "1"]) == 0
    records = Store(tmp_path / "study").records()
    assert records[1].config["method_options"] == alpha


def test_what_is_set_is_not_searched(pretended, tmp_path):
    config = replace(CONFIG, method_options={"tau_std": 0.5})
    with pytest.raises(InputError, match=r"search: tau_std is set to 0\.5"):
        tune(config, tmp_path / "out", search=["tau_max", "tau_std"])
    assert not (tmp_path / "out").exists()
    assert not pretended


def test_another_search_in_its_folder_is_refused(pretended, tmp_path):
    tune(CONFIG, tmp_path, trials=2, search="tau_std")
    kept = (tmp_path / "tuned.yaml").read_bytes()
    others = [
        (CONFIG, {"measure": "accuracy", "search": ["tau_std"]}, "measure='nll', not 'accuracy'"),
        (CONFIG, {}, "search="),
        (CONFIG, {"search": ["tau_std"], "seeds": [0, 1]}, "seeds="),
        (replace(CONFIG, epochs=2), {"search": ["tau_std"]}, "epochs=1, not 2"),
    ]
    for config, options, words in others:
        with pytest.raises(InputError, match=f"holds another search.*{words}.*choose another"):
            tune(config, tmp_path, trials=2, **options)
    with pytest.raises(InputError, match="holds a search for settings"):
        run_study(Study(CONFIG, ["erm"], [0]), tmp_path)
    assert (tmp_path / "tuned.yaml").read_bytes() == kept
    # What a version wrote that did not say what it searched: its own search goes on, no other.
    with contextlib.closing(sqlite3.connect(tmp_path / Store.FILE)) as database, database:
        database.execute("delete from meta where name = 'search'")
    with pytest.raises(InputError, match="holds another search, whose"):
        tune(CONFIG, tmp_path, trials=2, measure="accuracy", search=["tau_std"])
    assert tune(CONFIG, tmp_path, trials=3, search=["tau_std"]).trials == 3


def test_a_studys_folder_takes_no_search(pretended, tmp_path):
    Store(tmp_path, create=True).describe(shared={})
    with pytest.raises(InputError, match="holds a study"):
        tune(CONFIG, tmp_path, trials=2, search=["tau_std"])
