import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from mixwell import InputError, data
from mixwell.data.labelled import class_indices
from mixwell.data.sampled import SampledSplit, raw_of
from mixwell.errors import Note

SOURCE = """
import torch
from torch.utils.data import TensorDataset
from mixwell import data

def made(seed, val_fraction):
    return data.load("digits", seed=seed, val_fraction=val_fraction, train_size=100)

def pair():
    x = torch.arange(240.).reshape(60, 1, 2, 2)
    return TensorDataset(x[:40], torch.arange(40) % 2), TensorDataset(x[40:], torch.arange(20) % 2)

def broken():
    return 1 / 0
"""


class Noisy(Dataset):
    """Samples that are drawn anew each time they are asked for."""

    classes = ("even", "odd")

    def __init__(self, size=60, draw=lambda: torch.rand(2)):
        self.size, self.draw = size, draw

    def __len__(self):
        return self.size

    def __getitem__(self, position):
        if position >= self.size:
            raise IndexError
        return self.draw(), position % 2


@pytest.fixture
def module(from_outside):
    Path("own_data.py").write_text(SOURCE)


def all_of(split, **options):
    return torch.cat([x for x, _, _ in split.batches(16, **options)])


@pytest.mark.usefixtures("module")
def test_a_pair_is_split_made_scarce_and_normalised_as_all_are():
    found = data.load("own_data:pair", val_fraction=0.2, train_size=20, seed=3)
    assert [len(part) for part in (found.train, found.val, found.test)] == [20, 8, 20]
    assert found.classes == ("0", "1")
    assert found.input_shape == (1, 2, 2)
    torch.testing.assert_close(all_of(found.train).mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
    few = data.load("own_data:pair", shots=3)
    assert few.class_counts.tolist() == [3, 3]


@pytest.mark.usefixtures("module")
def test_a_data_set_of_mixwells_is_taken_whole_and_told_the_seed():
    found = data.load("own_data:made", seed=5, val_fraction=0.2)
    same = data.load("digits", seed=5, val_fraction=0.2, train_size=100)
    assert torch.equal(found.train.x, same.train.x)
    assert found.name == "own_data:made"
    assert len(data.load("own_data:made", coarse=True).classes) == 3
    with pytest.raises(InputError, match="shots: data='own_data:made' returns a Dataset"):
        data.load("own_data:made", shots=2)


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("own_data:broken", "data='own_data:broken' fails: ZeroDivisionError"),
        ("own_data:par", r"has no 'par' \(did you mean 'pair'\?\)"),
        ("own_dat:pair", "no module 'own_dat'"),
    ],
)
def test_what_fails_is_named(name, words):
    with pytest.raises(InputError, match=words):
        data.load(name)


@pytest.mark.cases(quick=1)
@pytest.mark.parametrize(
    "draw",
    [
        lambda: torch.rand(2),
        lambda: np.random.rand(2),  # noqa: NPY002
        lambda: torch.tensor([random.random()] * 2),
    ],
    ids=["torch", "numpy", "random"],
)
@pytest.mark.parametrize("workers", [0, 2])
def test_what_transforms_draw_depends_on_the_sample_and_the_epoch_of_what_is_augmented(
    draw, workers
):
    train = raw_of("own", Noisy(draw=draw), workers).train
    assert isinstance(train, SampledSplit)
    plain = all_of(train)
    assert torch.equal(plain, all_of(train, epoch=1))
    first, second = (all_of(train, augment=True, epoch=epoch) for epoch in (0, 1))
    assert not torch.equal(first, second)
    assert torch.equal(first, all_of(train, augment=True))
    assert len(plain.unique(dim=0)) == len(train)
    # A part's samples are those of the whole.
    assert torch.equal(all_of(train.subset(torch.tensor([7, 2]))), plain[[7, 2]])


def test_reading_draws_nothing_of_the_run(monkeypatch):
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    train = raw_of("own", Noisy(), 0).train
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    all_of(train, augment=True)
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    assert states[2] == np.random.get_state()[1].tolist()  # noqa: NPY002
    assert not seeded  # a GPU's generator, which the run's mixing draws from


def test_real_targets_make_a_regression():
    found = raw_of("own", TensorDataset(torch.rand(9, 3), torch.rand(9)), 0)
    assert found.classes == ()
    assert found.train.y.shape == (9,)


def test_the_data_sets_own_names_of_classes():
    assert raw_of("own", Noisy(), 0).classes == ("even", "odd")


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ((Noisy(),) * 3, r"must return a dataset or \(train, test\), got 3"),
        (3, "data='own': dataset must be map-style"),
        (Noisy(0), "a dataset is empty"),
        ([TensorDataset(torch.rand(4, 2), torch.tensor([-1, 0, 1, 0]))], "numbered from 0, got -1"),
        (TensorDataset(torch.rand(4, 2), torch.zeros(4, 2).long()), "must be a class or numbers"),
        (TensorDataset(torch.rand(4, 2)), "its targets can't be read"),
    ],
)
def test_what_is_no_data_set_is_named(made, words):
    with pytest.raises(InputError, match=words):
        raw_of("own", made, 0)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_sample_that_cant_be_read_is_named(workers):
    train = raw_of("own", Noisy(draw=lambda: "picture"), workers).train
    with pytest.raises(InputError, match="sample 0 can't be read: its input must be a tensor"):
        all_of(train)
    with pytest.raises(InputError, match="sample 0 can't be read"):
        _ = train.sample_shape
    sizes = iter(range(1, 99))
    train = raw_of("own", Noisy(draw=lambda: torch.rand(next(sizes))), workers).train
    with pytest.raises(InputError, match="samples must have one shape"):
        all_of(train)


class Listed(Noisy):
    """Samples whose classes are listed, and may be returned as something else."""

    classes = ("elm", "fir", "oak")

    def __init__(self, returned=lambda y: y, size=60, listed=lambda y: y, **attributes):
        super().__init__(size)
        self.targets = [listed(position % 3) for position in range(size)]
        self.returned = returned
        vars(self).update(attributes)

    def __getitem__(self, position):
        return super().__getitem__(position)[0], self.returned(position % 3)


def test_targets_are_what_samples_are_returned_with():
    found = raw_of("own", Listed(), 0)
    assert (found.train.y.tolist(), found.classes) == ([0, 1, 2] * 20, Listed.classes)
    found = raw_of("own", Listed(lambda y: int(y == 1)), 0)
    assert (found.train.y.tolist(), found.classes) == ([0, 1, 0] * 20, ("0", "1"))
    rare = Listed(lambda y: y, listed=lambda y: min(y, 1))
    assert raw_of("own", rare, 0).train.y.tolist() == [0, 1, 2] * 20
    named = Listed(listed=lambda y: f"{y}.png")
    assert raw_of("own", named, 0).train.y.tolist() == [0, 1, 2] * 20


def test_a_list_of_targets_is_not_believed_beside_a_transform_of_them():
    class Seldom(Listed):  # where a few samples don't tell
        def __getitem__(self, position):
            x, y = super().__getitem__(position)
            return x, 2 if position == 301 else y

    changed = Seldom(size=600, target_transform=lambda y: y)
    assert raw_of("own", changed, 0).train.y[301] == 2
    with pytest.raises(InputError, match=r"target_transform.*targets=\[\.\.\.\]"):
        class_indices(changed)
    assert class_indices(changed, [0] * 600).tolist() == [0] * 600


def test_listed_targets_are_not_all_read():
    asked = []
    raw_of("own", Listed(lambda y: asked.append(y) or y, size=6000), 0)
    assert len(asked) < 100


def test_the_classes_of_a_pair_go_by_their_names():
    other = Listed(lambda y: (y + 1) % 3, listed=lambda y: (y + 1) % 3,
                   classes=("oak", "elm", "fir"))  # fmt: skip
    found = raw_of("own", (Listed(), other), 0)
    assert found.classes == Listed.classes
    # The first sample's target is 1, which the second part calls elm: 0 of the first.
    assert found.test.y.tolist() == [0, 1, 2] * 20
    fewer = Listed(lambda y: y % 2, listed=lambda y: y % 2, classes=("elm", "oak"))
    assert raw_of("own", (Listed(), fewer), 0).test.y.tolist() == [0, 2, 0] * 20
    strange = Listed(classes=("elm", "fir", "yew"))
    with pytest.raises(InputError, match="other classes than the one to train on: yew, not elm"):
        raw_of("own", (Listed(), strange), 0)


@pytest.mark.parametrize(
    ("y", "words"),
    [
        ((torch.arange(30) % 3).float(), r"3 different whole numbers .*y\.long\(\)"),
        (torch.eye(3).repeat(10, 1), r"one 1 among 3 numbers .*y\.argmax\(1\)"),
        (torch.rand(30), None),
        (torch.rand(30, 3), None),
    ],
)
def test_real_targets_that_may_be_classes_are_told(y, words, recwarn):
    assert raw_of("own", TensorDataset(torch.rand(30, 2), y), 0).classes == ()
    said = [str(w.message) for w in recwarn if w.category is Note]
    assert len(said) == (words is not None)
    assert all(re.search(words, text) for text in said)
