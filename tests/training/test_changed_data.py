"""A run, and a study, is of the data that it began with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mixwell import InputError, data
from mixwell.studies import run_study
from mixwell.training import RunConfig, train

FEW = {"method": "erm", "epochs": 2, "batch_size": 16, "threads": 1, "loader_workers": 0}
SERIES = {"window": 3, "horizon": 1}
SOURCE = """
import torch
from torch.utils.data import TensorDataset
from pathlib import Path

def made():
    shift = float(Path("shift.txt").read_text())
    return TensorDataset(torch.arange(80.).reshape(40, 2) + shift, torch.arange(40) % 2)

class Sampled(torch.utils.data.Dataset):
    def __init__(self):
        self.shift = int(Path("shift.txt").read_text())
        self.targets = [(i + self.shift) % 2 for i in range(40)]
    def __len__(self):
        return 40
    def __getitem__(self, i):
        return torch.full((2,), float(i)), self.targets[i]

def sampled():
    return Sampled()

def loose():
    return TensorDataset(torch.rand(40, 2), torch.arange(40) % 2)

def drawn(seed):
    return made()
"""


def write_csv(rows: int = 60, shift: float = 0.0, name: str = "own.csv") -> None:
    kinds = ("elm", "oak")
    text = "".join(f"{i + shift},{-i},{kinds[i % 2]}\n" for i in range(rows))
    Path(name).write_text("a,b,kind\n" + text)


def write_series(shift: float = 0.0) -> None:
    rows = np.random.default_rng(0).normal(shift, 1, (60, 2)).round(3)
    Path("own.txt").write_text("a,b\n" + "\n".join(f"{a},{b}" for a, b in rows))


def write_photos(count: int = 10) -> None:
    for shade, name in enumerate(("ant", "cat")):
        Path("photos", name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            Image.new("RGB", (8, 8), (90 * shade, i, 0)).save(f"photos/{name}/{i}.png")


def write_parquet(shift: float = 0.0) -> None:
    import pandas as pd

    pytest.importorskip("pyarrow")
    rows = np.arange(60)
    pd.DataFrame({"a": rows + shift, "b": -rows, "y": rows % 2 == 0}).to_parquet("own.parquet")


def write_module(shift: int = 0) -> None:
    Path("own_changed.py").write_text(SOURCE)
    Path("shift.txt").write_text(str(shift))


KINDS = {
    "csv:own.csv": (write_csv, {"shift": 1.0}, {}),
    "series:own.txt": (write_series, {"shift": 1.0}, SERIES),
    "folder:photos": (write_photos, {"count": 11}, {"image_size": 8, "model": "mlp"}),
    "parquet:own.parquet": (write_parquet, {"shift": 1.0}, {}),
    "own_changed:made": (write_module, {"shift": 1}, {}),
    "own_changed:sampled": (write_module, {"shift": 1}, {}),
}


@pytest.fixture(autouse=True)
def _here(from_outside):
    """Run in a folder of its own, from which modules are imported."""


@pytest.mark.cases(quick=2)
@pytest.mark.parametrize("name", KINDS)
def test_a_run_goes_on_with_its_own_data_alone(name):
    write, change, options = KINDS[name]
    write()
    config = RunConfig(data=name, **{**FEW, **options})
    train(config, "begun", until=1)
    train(replace(config, epochs=1), "ended")
    write(**change)
    for folder, asked in (("begun", config), ("ended", replace(config, epochs=1))):
        with pytest.raises(InputError, match=r"samples, \w{12}, and holds .*another folder"):
            train(asked, folder)
    write() if name != "folder:photos" else [
        Path(f"photos/{c}/10.png").unlink() for c in ("ant", "cat")
    ]
    assert train(config, "begun")["metrics"]
    assert train(replace(config, epochs=1), "ended")["metrics"]


@pytest.mark.parametrize("name", ["csv:own.csv", "folder:photos"])
def test_a_run_of_a_version_that_kept_no_record_goes_on(name):
    write, _, options = KINDS[name]
    write()
    config = RunConfig(data=name, **{**FEW, **options})
    train(config, "run", until=1)
    kept = json.loads(Path("run/config.json").read_text())
    for one in ("sha256", "data_digest"):
        del kept[one]
    Path("run/config.json").write_text(json.dumps(kept))
    for path in Path("run").glob("checkpoint*"):
        if path.suffix == ".pt":
            content = torch.load(path, weights_only=False)
            del content["data"]
            torch.save(content, path)
    assert train(config, "run")["metrics"]


@pytest.mark.cases(quick=1)
@pytest.mark.parametrize("more", [{"methods": ["erm"]}, {"methods": ["mixup"]}, {"seeds": [1]}])
def test_a_study_is_of_one_data_set(more):
    write_csv()
    asked = {"methods": ["erm"], "seeds": [0], "data": "csv:own.csv", "epochs": 1, "threads": 1}
    run_study("balanced", "study", **asked)
    assert run_study("balanced", "study", **{**asked, **more})
    write_csv(rows=70)
    with pytest.raises(InputError, match=r"60 samples, \w+, and holds 70 samples"):
        run_study("balanced", "study", **{**asked, **more})
    assert run_study("balanced", "another", **{**asked, **more})


def test_a_results_file_is_of_one_data_set():
    write_csv()
    asked = {"methods": ["erm"], "seeds": [0], "data": "csv:own.csv", "epochs": 1, "threads": 1}
    run_study("balanced", "study", results="all.csv", **asked)
    [record] = run_study("balanced", "again", results="all.csv", **asked)
    assert record.known_from == "all.csv"
    write_csv(rows=70)
    with pytest.raises(InputError, match=r"all\.csv.*60 samples.*70 samples.*another file"):
        run_study("balanced", "third", results="all.csv", **asked)


def write_answers(shift: int = 0) -> None:
    test = data.load("digits").test
    counts = 20 * np.eye(10, dtype=int)[test.y.numpy()]
    counts[shift, 0] += 1
    np.savez("answers.npz", counts=counts)


MEASURED_ON = {
    "people": (write_answers, {"shift": 1}, {"people": "answers.npz"}),
    "ood": (write_photos, {"count": 11}, {"ood": "folder:photos", "image_size": 8}),
}


@pytest.mark.cases(quick=1)
@pytest.mark.parametrize("name", MEASURED_ON)
def test_a_run_is_measured_on_what_it_began_with(name):
    write, change, options = MEASURED_ON[name]
    write()
    config = RunConfig(data="digits", train_size=100, **{**FEW, **options})
    train(config, "begun", until=1)
    train(replace(config, epochs=1), "ended")
    write(**change)
    for folder, asked in (("begun", config), ("ended", replace(config, epochs=1))):
        with pytest.raises(InputError, match=rf"{name}='.* held .* and holds .*another folder"):
            train(asked, folder)
    assert train(config, "another")["metrics"]


@pytest.mark.slow
@pytest.mark.parametrize("name", MEASURED_ON)
def test_a_study_and_its_file_are_measured_on_one_thing(name):
    write, change, options = MEASURED_ON[name]
    write()
    asked = {
        "methods": ["erm"], "seeds": [0], "data": "digits", "train_size": 100, "epochs": 1,
        "threads": 1, "results": "all.csv", **options,
    }  # fmt: skip
    run_study("balanced", "study", **asked)
    [record] = run_study("balanced", "again", **asked)
    assert record.known_from == "all.csv"
    rows = Path("all.csv").read_text()
    write(**change)
    with pytest.raises(InputError, match=rf"out='study'.*{name}='.* held .* and holds"):
        run_study("balanced", "study", **{**asked, "seeds": [1]})
    with pytest.raises(InputError, match=rf"all\.csv.*{name}='.* held .* and holds .*another file"):
        run_study("balanced", "third", **asked)
    [begun] = [words for words in rows.split('"') if words.count(f"{name} of ")]
    Path("all.csv").write_text(rows.replace(f'"{begun}"', begun.partition(" of ")[0]))
    [record] = run_study("balanced", "fourth", **asked)  # of a version that kept no record
    assert record.known_from == "all.csv"


def test_the_record_tells_what_is_read_and_nothing_else(tmp_path):
    write_csv()
    first = data.load("csv:own.csv").content
    assert first == data.load("csv:own.csv", seed=3, train_size=20).content
    Path("moved").mkdir()
    write_csv(name="moved/other.csv")
    assert data.load("csv:moved/other.csv").content == first
    Path("own.csv").write_text(Path("own.csv").read_text().replace(",", ";"))
    assert data.load("csv:own.csv").content == first
    assert data.load("csv:own.csv", target="a").content != first
    write_photos()
    photos = data.load("folder:photos", image_size=8).content
    Path("photos").rename("pictures")
    assert data.load("folder:pictures", image_size=16).content == photos
    assert data.load("digits").content is None


def test_a_function_that_draws_anew_each_time_is_no_data_of_a_study():
    write_module()
    asked = {"methods": ["erm"], "seeds": [0], "data": "own_changed:loose", "epochs": 1}
    [record] = run_study("balanced", "study", threads=1, **asked)
    assert "a function must make the same each time, or by an argument seed" in record.error


def test_what_a_function_draws_by_the_seed_is_not_recorded():
    write_module()
    assert data.load("own_changed:drawn").content is None
    assert data.load("own_changed:made").content == data.load("own_changed:made", seed=1).content
