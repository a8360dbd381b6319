"""What can't be read, and options without an effect, are found before a run's folder is made."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from mixwell import InputError, data
from mixwell.training import RunConfig, prepare, train

FEW = {"method": "erm", "epochs": 1, "batch_size": 16, "threads": 1, "loader_workers": 0}
SOURCE = """
import torch
from torch.utils.data import Dataset, TensorDataset

class Broken(Dataset):
    targets = [i % 2 for i in range(400)]
    def __len__(self):
        return 400
    def __getitem__(self, i):
        return torch.full((2,), float(i)), 1 / 0 if i == self.bad else i % 2
    bad = -1

class Bad(Broken):
    def __getitem__(self, i):
        if i == 333:
            raise OSError("torn")
        return super().__getitem__(i)

def broken():
    return Broken(), Bad()

def sized(image_size):
    return TensorDataset(torch.rand(60, 1, image_size, image_size), torch.arange(60) % 2)

def fixed():
    return TensorDataset(torch.rand(60, 1, 8, 8), torch.arange(60) % 2)
"""


@pytest.fixture(autouse=True)
def _here(from_outside):
    Path("own_read.py").write_text(SOURCE)


def write_photos() -> RunConfig:
    for name in ("ant", "cat"):
        Path("photos", name).mkdir(parents=True)
        for i in range(20):
            pixels = torch.randint(256, (9, 9, 3), dtype=torch.uint8).numpy()
            Image.fromarray(pixels).save(f"photos/{name}/{i}.png")
    return RunConfig(data="folder:photos", image_size=8, model="mlp", **FEW)


@pytest.mark.parametrize("part", ["val", "test"])
@pytest.mark.parametrize("workers", [0, 1])
def test_broken_images_are_named_before_anything_is_made(part, workers):
    config = write_photos()
    split = getattr(data.load(config.data, image_size=8, workers=workers), part)
    assert split.unreadable() == []
    for path in split.paths[:2]:
        path.write_bytes(path.read_bytes()[:-30])
    assert len(split.unreadable()) == 2
    with pytest.raises(InputError, match=r"\.png is no image .*; so are 1 more; replace or remove"):
        train(config, "run")
    assert not Path("run").exists()


def test_own_samples_are_read_before_anything_is_made():
    with pytest.raises(InputError, match="sample 333 can't be read: torn"):
        train(RunConfig(data="own_read:broken", **FEW), "run")
    assert not Path("run").exists()


def test_a_finished_run_is_not_read_again():
    config = write_photos()
    done = train(config, "run")
    for path in data.load(config.data, image_size=8, workers=0).test.paths:
        path.write_bytes(bytes(len(path.read_bytes())))  # of the same size
    assert train(config, "run")["metrics"] == done["metrics"]


@pytest.mark.parametrize("name", ["digits", "diabetes", "own_read:fixed"])
def test_a_size_without_an_effect_is_refused(name):
    config = RunConfig(data=name, image_size=32, **FEW)
    with pytest.raises(InputError, match=r"image_size=32 has no effect on data=.*: leave it out"):
        prepare(config)
    assert prepare(RunConfig(data=name, **FEW)).config.image_size == 224


@pytest.mark.parametrize("name", ["own_read:sized", "folder:photos"])
def test_a_size_with_an_effect_is_taken(name):
    write_photos()
    config = RunConfig(data=name, image_size=16, model="mlp", **FEW)
    assert prepare(config).dataset.input_shape[1:] == (16, 16)
