from __future__ import annotations

import pytest
import torch

from mixwell import InputError, data
from mixwell.data import Split

ARGUMENTS = ("imbalance", "shots", "labels", "coarse")
SCARCE = [{"imbalance": 10}, {"shots": 7}, {"labels": 40}, {"coarse": True}]


def keys(split: Split) -> list[bytes]:
    return [x.numpy().tobytes() for x in split.x]


@pytest.fixture(scope="module")
def whole() -> data.Dataset:
    return data.load("digits")


@pytest.mark.parametrize("largest", [100, 60, None])
@pytest.mark.parametrize("imbalance", [1, 10, 50, 200])
def test_long_tailed_counts(whole, imbalance, largest):
    n = largest or int(whole.class_counts.min())
    tailed = data.load("digits", imbalance=imbalance, largest_class=largest)
    exact = torch.tensor([n * imbalance ** (-c / 9) for c in range(10)])
    assert ((tailed.class_counts - exact).abs() <= 0.5).logical_or(tailed.class_counts == 1).all()
    assert tailed.class_counts[0] == n
    assert tailed.class_counts[9] == max(1, round(n / imbalance))
    assert tailed.class_counts.diff().max() <= 0


def test_long_tail_counts_golden():
    assert data.long_tail_counts(10, 500, 100) == [500, 300, 180, 108, 65, 39, 23, 14, 8, 5]
    assert data.long_tail_counts(1, 30, 100) == [30]


@pytest.mark.parametrize("shots", [1, 7, 100])
def test_shots_are_of_each_class_as_many(whole, shots):
    few = data.load("digits", shots=shots)
    assert few.class_counts.tolist() == [shots] * 10
    assert set(keys(few.train)) <= set(keys(whole.train))


@pytest.mark.parametrize("options", SCARCE)
def test_validation_and_test_stay_as_they_are(whole, options):
    scarce = data.load("digits", **options)
    assert torch.equal(scarce.val.x, whole.val.x)
    assert torch.equal(scarce.test.x, whole.test.x)
    scarce = scarce.fine or scarce
    assert torch.equal(scarce.val.y, whole.val.y)
    assert torch.equal(scarce.test.y, whole.test.y)


@pytest.mark.parametrize("options", SCARCE[:3])
def test_the_seed_alone_chooses(options):
    one, again, other = (data.load("digits", seed=seed, **options) for seed in (4, 4, 5))
    assert torch.equal(one.train.x, again.train.x)
    assert torch.equal(one.train.y, again.train.y)
    assert torch.equal(one.class_counts, other.class_counts)
    # Of what both seeds leave for training they keep different samples.
    assert set(keys(one.train)) != set(keys(other.train))
    assert torch.equal(one.test.x, other.test.x)


@pytest.mark.parametrize("options", [{}, {"shots": 20}, {"train_size": 300}])
def test_labelled_and_unlabelled_part_the_training_data(options):
    every = data.load("digits", **options)
    semi = data.load("digits", labels=40, **options)
    assert semi.class_counts.tolist() == [4] * 10
    labelled, unlabelled = keys(semi.train), keys(semi.unlabelled)
    assert sorted(labelled + unlabelled) == sorted(keys(every.train))
    assert not set(labelled) & set(unlabelled)
    assert not {*labelled, *unlabelled} & {*keys(semi.val), *keys(semi.test)}
    assert every.unlabelled is None


def test_unlabelled_is_normalised_as_training_is():
    semi = data.load("digits", labels=100)
    assert (semi.unlabelled.mean, semi.unlabelled.std) == (semi.train.mean, semi.train.std)
    x = torch.cat([x for x, _, _ in semi.train.batches(64)])
    assert float(x.mean()) == pytest.approx(0, abs=1e-4)
    assert float(x.std(correction=0)) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("options", [{}, {"shots": 5}, {"imbalance": 10}, {"labels": 40}])
def test_coarse_classes_are_the_superclasses_of_fine(options):
    coarse = data.load("digits", coarse=True, **options)
    alone = data.load("digits", **options)
    assert coarse.classes == ("round", "straight", "open")
    assert (coarse.num_classes, coarse.num_outputs, coarse.superclasses) == (3, 3, None)
    parent = torch.tensor([0, 1, 2, 2, 1, 2, 0, 1, 0, 0])
    for part in ("train", "val", "test"):
        one, below, plain = (getattr(d, part) for d in (coarse, coarse.fine, alone))
        assert torch.equal(one.x, below.x)
        assert torch.equal(one.x, plain.x)
        assert torch.equal(below.y, plain.y)
        assert torch.equal(one.y, parent[below.y])
    assert coarse.fine.classes == tuple("0123456789")


def test_unlabelled_samples_have_the_superclasses_too():
    coarse = data.load("digits", coarse=True, labels=40)
    assert int(coarse.unlabelled.y.max()) < 3


@pytest.mark.parametrize("name", ["moons", "circles"])
def test_toys_are_two_classes_of_points(name):
    one, again, other = (data.load(name, seed=seed) for seed in (0, 0, 1))
    assert (one.task, one.num_classes, one.input_shape) == ("classification", 2, (2,))
    assert one.is_toy
    assert [len(s) for s in (one.train, one.val, one.test)] == [540, 60, 2000]
    assert one.class_counts.tolist() == [270, 270]
    x, y, _ = next(one.train.batches(540))
    assert (x.dtype, x.shape, y.dtype) == (torch.float32, (540, 2), torch.int64)
    assert torch.equal(one.train.x, again.train.x)
    assert torch.equal(one.test.x, other.test.x)
    assert not torch.equal(one.train.x, other.train.x)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("digits", {"imbalance": 0.5}, "imbalance must be 1 at least, got 0.5"),
        ("digits", {"imbalance": float("nan")}, "imbalance must be 1 at least, got nan"),
        ("digits", {"imbalance": 10, "largest_class": 900}, "imbalance=10 asks for 900 .*class 0"),
        ("digits", {"largest_class": 50}, "largest_class says nothing without imbalance"),
        ("digits", {"shots": 500}, "shots=500 asks for 500 .*which has 1"),
        ("digits", {"shots": 5, "imbalance": 10}, "one of train_size, imbalance and shots"),
        ("digits", {"shots": 5, "train_size": 90}, "one of train_size, imbalance and shots"),
        ("digits", {"imbalance": 5, "train_size": 90}, "one of train_size, imbalance and shots"),
        pytest.param("digits", {"shots": 0}, "shots=0"),
        pytest.param("digits", {"shots": -1}, "shots=-1"),
        pytest.param("digits", {"imbalance": 9, "largest_class": 0}, "largest_class=0"),
        pytest.param("digits", {"imbalance": 9, "largest_class": -5}, "largest_class="),
        ("digits", {"labels": 15}, "labels=15 must be a multiple of the 10 classes"),
        ("digits", {"labels": 0}, "labels=0 must be"),
        ("digits", {"labels": -10}, "labels=-10 must be"),
        ("digits", {"labels": 50, "shots": 5}, "labels=50 .* fewer than the 50"),
        ("digits", {"labels": 100, "imbalance": 100}, "labels=100 asks for 10 .*class"),
        ("moons", {"coarse": True}, "coarse: data='moons' has no superclasses"),
        *(("diabetes", {key: 10}, f"{key}: .*no classes") for key in ARGUMENTS),
    ],
)
def test_what_can_not_be_kept_is_refused(name, options, message):
    with pytest.raises(InputError, match=message):
        data.load(name, **options)
