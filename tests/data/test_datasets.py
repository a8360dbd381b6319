import pickle
import subprocess
import sys

import pytest
import torch
from helpers import run_processes
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    TensorDataset,
    default_collate,
    random_split,
)

import mixwell
from mixwell import InputError, data
from mixwell.data.datasets import (
    ClassBalancedSampler,
    Indexed,
    IndexedDataset,
    InverseFrequencySampler,
    class_indices,
    few_shot,
    long_tailed,
)

LABELS = [0] * 60 + [1] * 25 + [2] * 10 + [3] * 5


class Images(Dataset):
    """As torchvision's: samples are (x, y), and the classes are in an attribute."""

    def __init__(self, labels=LABELS, name="targets"):
        setattr(self, name, labels)
        self.size, self.x = len(labels), torch.arange(len(labels)).float()

    def __getitem__(self, index):
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self.x[index], int(torch.as_tensor(LABELS)[index])

    def __len__(self):
        return self.size


class Table:
    """As Hugging Face's: samples are dicts, a column is read by its name, rows many at a time."""

    def __init__(self, labels, column="label"):
        self.column_names, self.column = ["text", column], labels

    def __getitem__(self, key):
        if isinstance(key, str):
            return self.column
        return {"text": f"row {key}", self.column_names[1]: self.column[key]}

    def __getitems__(self, indices):
        return [self[index] for index in indices]

    def __len__(self):
        return len(self.column)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(3))


@pytest.mark.slow
def test_importing_it_needs_torch_alone():
    """NumPy, which torch takes where it is there, is not needed either."""
    script = """
    import sys
    for name in ("numpy", "torchvision", "lightning", "pandas", "sklearn", "scipy", "PIL"):
        sys.modules[name] = None
    import torch
    from mixwell.data.datasets import ClassBalancedSampler, IndexedDataset, long_tailed
    dataset = torch.utils.data.TensorDataset(torch.zeros(9, 1), torch.arange(9) % 3)
    part = long_tailed(dataset, 3)
    assert len(list(ClassBalancedSampler(part))) == len(part)
    assert len(IndexedDataset(part)[0]) == 3
    """
    lines = "\n".join(line[4:] for line in script.splitlines())
    subprocess.run([sys.executable, "-W", "ignore", "-c", lines], check=True, timeout=120)


# ------------------------------------------------------------------------------------- positions


def test_positions_are_added_to_samples_of_every_form():
    tensors = IndexedDataset(TensorDataset(torch.arange(5.0), torch.arange(5)))
    assert tensors[3] == (torch.tensor(3.0), torch.tensor(3), 3)
    assert tensors[-1][-1] == 4
    rows = IndexedDataset(Table([0, 1, 1]))
    assert rows[2] == {"text": "row 2", "label": 1, "index": 2}
    assert IndexedDataset(Table([0, 1]), key="at")[0]["at"] == 0
    assert IndexedDataset(["a", "b"])[1] == Indexed("b", 1)
    assert len(rows) == 3
    with pytest.raises(IndexError):
        IndexedDataset(Images())[100]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_loader_hands_on_the_positions(workers, wrapped):
    dataset = IndexedDataset(Images())
    collate = dataset.collate() if wrapped else None
    loader = DataLoader(
        dataset, batch_size=30, shuffle=True, num_workers=workers, collate_fn=collate
    )
    seen = []
    for x, y, index in loader:
        assert index.dtype == torch.int64
        assert torch.equal(x, index.float())
        assert torch.equal(y, torch.tensor(LABELS)[index])
        seen += index.tolist()
    assert sorted(seen) == list(range(100))


def test_a_collate_function_sees_the_samples_as_they_were():
    def pairs(samples):
        assert all(len(sample) == 2 for sample in samples)
        return [sample[0] for sample in samples], [sample[1] for sample in samples]

    def dicts(samples):
        assert all(set(sample) == {"text", "label"} for sample in samples)
        return {"text": [sample["text"] for sample in samples]}

    def alone(samples):
        assert samples == ["c", "b"]
        return "".join(samples)

    def batch(dataset, function, key="index"):
        dataset = IndexedDataset(dataset, key=key)
        collate = pickle.loads(pickle.dumps(dataset.collate(default_collate)))
        collate.function = function
        return collate([dataset[2], dataset[1]])

    x, y, index = batch(Images(), pairs)
    assert (x, y, index.tolist()) == ([2.0, 1.0], [0, 0], [2, 1])
    rows = batch(Table([0, 1, 1]), dicts, "at")
    assert rows["text"] == ["row 2", "row 1"]
    assert rows["at"].tolist() == [2, 1]
    letters = batch(["a", "b", "c"], alone)
    assert (letters.sample, letters.index.tolist()) == ("cb", [2, 1])
    whole, index = batch(Images(), lambda samples: torch.tensor([s[0] for s in samples]))
    assert (whole.tolist(), index.tolist()) == ([2.0, 1.0], [2, 1])


def test_rows_are_read_at_once_where_they_can_be():
    class Batched(Table):
        def __getitem__(self, key):
            raise AssertionError("one at a time")

        def __getitems__(self, indices):
            return [{"x": torch.tensor(index)} for index in indices]

    loader = DataLoader(IndexedDataset(Batched([0] * 6)), batch_size=3)
    assert [batch["index"].tolist() for batch in loader] == [[0, 1, 2], [3, 4, 5]]
    assert all(torch.equal(batch["x"], batch["index"]) for batch in loader)


def test_what_has_no_positions_is_refused():
    for dataset in (Stream(), iter([1]), 5):
        with pytest.raises(InputError, match="dataset must be map-style"):
            IndexedDataset(dataset)
    rows = IndexedDataset(IndexedDataset(Table([0, 1])))
    with pytest.raises(InputError, match="have a key 'index' already"):
        rows[0]
    rows = IndexedDataset(Table([0, 1]))
    with pytest.raises(InputError, match="must be a dict to take their positions, got list"):
        rows.collate(list)([rows[0]])


# --------------------------------------------------------------------------------------- targets


def test_classes_are_found_where_datasets_keep_them():
    wanted = torch.tensor(LABELS)
    half = torch.arange(0, 100, 2)
    found = [
        class_indices(Images(LABELS)),
        class_indices(Images(wanted.numpy().astype("uint8"), "labels")),
        class_indices(Images(wanted.to(torch.int32)[:, None], "labels")),
        class_indices(TensorDataset(torch.zeros(100), wanted)),
        class_indices(Table(LABELS)),
        class_indices(Table(LABELS, "labels")),
        class_indices(Images(name="other"), targets=LABELS),
        class_indices(IndexedDataset(Images())),
        class_indices(
            ConcatDataset([Subset(Images(), range(40)), Subset(Images(), range(40, 100))])
        ),
    ]
    for y in found:
        assert y.dtype == torch.int64
        assert torch.equal(y, wanted)
    assert torch.equal(class_indices(Subset(Images(), half.tolist())), wanted[half])
    first, _ = random_split(Images(), [0.3, 0.7])
    assert torch.equal(class_indices(first), wanted[list(first.indices)])


@pytest.mark.parametrize(
    ("dataset", "targets", "message"),
    [
        (Images(name="other"), None, "Images has no .targets, .labels, .tensors"),
        (TensorDataset(torch.zeros(3)), None, "TensorDataset has no .targets"),
        (Images(), [0, 1], r"class indices \(100,\).* got torch.int64 of shape \(2,\)"),
        (Images(), [0.5] * 100, r"got torch.float32 of shape \(100,\)"),
        (Images(), [-1] * 100, "the least -1"),
        (Images(), ["cat"] * 100, "whole numbers: .*; give them, targets="),
        (Images(), torch.zeros(100, 4), r"got torch.float32 of shape \(100, 4\)"),
        (TensorDataset(torch.zeros(0), torch.zeros(0).long()), None, r"of shape \(0,\)"),
        (Stream(), None, "dataset must be map-style"),
    ],
)
def test_what_are_no_classes_is_refused(dataset, targets, message):
    with pytest.raises(InputError, match=message):
        class_indices(dataset, targets)


# ---------------------------------------------------------------------------------- made scarce


@pytest.mark.parametrize(("imbalance", "largest"), [(1, None), (10, 20), (50, 5), (3.5, None)])
def test_long_tails_have_the_counts_of_the_studies(imbalance, largest):
    labels = torch.arange(300) % 10
    part = long_tailed(TensorDataset(torch.zeros(300), labels), imbalance, largest_class=largest)
    n = largest or 30
    exact = [max(1, round(n * imbalance ** (-c / 9))) for c in range(10)]
    assert part.class_counts.tolist() == exact == data.long_tail_counts(10, n, imbalance)
    assert torch.equal(torch.bincount(torch.stack([y for _, y in part])), part.class_counts)
    assert torch.equal(part.targets, labels[part.indices])
    assert part.indices == sorted(set(part.indices))


def test_few_shots_are_of_each_class_as_many():
    part = few_shot(Images(), 5)
    assert part.class_counts.tolist() == [5, 5, 5, 5]
    assert sorted(y for _, y in part) == [0] * 5 + [1] * 5 + [2] * 5 + [3] * 5
    again = few_shot(part, 2, seed=3)
    assert {part.indices[i] for i in again.indices} <= set(part.indices)
    assert again.class_counts.tolist() == [2] * 4


def test_the_samples_are_those_of_load():
    """The same seed takes the same part of the same training data, by both ways."""
    whole = data.load("digits").train
    dataset = TensorDataset(whole.x, whole.y)
    for part, loaded in [
        (long_tailed(dataset, 20, seed=0), data.load("digits", imbalance=20)),
        (few_shot(dataset, 7, seed=0), data.load("digits", shots=7)),
    ]:
        assert torch.equal(whole.x[part.indices], loaded.train.x)
        assert torch.equal(part.class_counts, loaded.class_counts)


def test_the_seed_alone_chooses_the_part():
    one, same, other = (few_shot(Images(), 5, seed=seed) for seed in (1, 1, 2))
    torch.randn(3)
    assert one.indices == same.indices != other.indices


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: long_tailed(Images(), 0.5), "imbalance must be a number in"),
        (lambda: long_tailed(Images(), float("nan")), "imbalance must be a number in"),
        (
            lambda: long_tailed(Images(), 2, largest_class=99),
            "asks for 99 .* class 0, which has 60",
        ),
        (lambda: long_tailed(Images(), 2, largest_class=0), "largest_class=0"),
        (lambda: long_tailed(Images(), 2, num_classes=6), "of class 4, which has 0"),
        (lambda: long_tailed(Images(), 2, num_classes=2), "num_classes=2 must be .* from 4"),
        (lambda: few_shot(Images(), 6), "per_class=6 asks for 6 .* class 3, which has 5"),
        (lambda: few_shot(Images(), 0), "per_class=0 must be"),
    ],
)
def test_what_can_not_be_kept_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


# -------------------------------------------------------------------------------------- samplers


@pytest.mark.parametrize("size", [None, 1, 3, 4, 57, 400, 1001])
def test_balanced_draws_are_as_even_as_can_be(size):
    sampler = ClassBalancedSampler(Images(), num_samples=size)
    drawn = torch.tensor(list(sampler))
    assert len(drawn) == len(sampler) == (size or 100)
    counts = torch.bincount(torch.tensor(LABELS)[drawn], minlength=4)
    assert counts.max() - counts.min() <= 1
    for label in range(4):
        own = torch.bincount(drawn, minlength=100)[torch.tensor(LABELS) == label]
        assert own.max() - own.min() <= 1


def test_balanced_draws_are_in_random_order():
    """Neighbours are of the same class as often as chance has it (p < 1e-4 to fail)."""
    labels = torch.tensor(LABELS)[list(ClassBalancedSampler(Images(), num_samples=8000))]
    same = (labels[1:] == labels[:-1]).double()
    assert abs(float(same.mean()) - 0.25) < 4 * (0.25 * 0.75 / 8000) ** 0.5
    # And what is left over goes to random classes.
    extra = [
        torch.tensor(LABELS)[list(ClassBalancedSampler(Images(), num_samples=1, seed=seed))].item()
        for seed in range(60)
    ]
    assert set(extra) == {0, 1, 2, 3}


def test_classes_without_samples_are_left_out():
    labels = [0, 0, 0, 2, 5]
    for sampler in (ClassBalancedSampler, InverseFrequencySampler):
        drawn = torch.tensor(list(sampler(Images(labels), num_samples=300)))
        assert torch.tensor(labels)[drawn].unique().tolist() == [0, 2, 5]


@pytest.mark.parametrize("tau", [-1.0, -0.5, 0.0, 0.5, 1.0])
def test_power_of_the_frequency(tau):
    """Classes and samples come as often as they should: z-scores under 4.5 (p < 1e-3 to fail)."""
    counts = torch.tensor([60.0, 25, 10, 5])
    chance = counts**tau / (counts**tau).sum()
    size = 40_000
    drawn = torch.tensor(list(InverseFrequencySampler(Images(), tau, num_samples=size)))
    labels = torch.tensor(LABELS)
    for seen, p in [
        (torch.bincount(labels[drawn], minlength=4), chance),
        (torch.bincount(drawn, minlength=100), (chance / counts)[labels]),
    ]:
        z = (seen - size * p) / (size * p * (1 - p)).sqrt()
        assert z.abs().max() < 4.5


@pytest.mark.parametrize("make", [ClassBalancedSampler, InverseFrequencySampler])
def test_an_epoch_depends_on_seed_and_epoch_alone(make):
    sampler = make(Images(), seed=3)
    first = list(sampler)
    torch.randn(2)
    assert list(sampler) == first
    sampler.set_epoch(1)
    second = list(sampler)
    assert second != first
    other = make(Images(), seed=4)
    assert list(other) != first
    resumed = make(Images(), seed=3)
    resumed.set_epoch(1)
    assert list(resumed) == second


@pytest.mark.parametrize("make", [ClassBalancedSampler, InverseFrequencySampler])
@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_share_an_epoch(make, world_size):
    samplers = [
        make(Images(), num_samples=100, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    parts = [list(sampler) for sampler in samplers]
    share = -(-100 // world_size)
    assert [len(part) for part in parts] == [len(sampler) for sampler in samplers]
    assert {len(part) for part in parts} == {share}
    whole = list(make(Images(), num_samples=share * world_size))
    assert [index for step in zip(*parts, strict=True) for index in step] == whole


@pytest.mark.slow
def test_rank_and_world_size_come_from_torch_distributed(tmp_path):
    script = """
    import sys
    import torch
    from torch import distributed
    from mixwell.data.datasets import ClassBalancedSampler
    rank, store = int(sys.argv[1]), sys.argv[2]
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    labels = [0] * 30 + [1] * 3
    own = list(ClassBalancedSampler(labels, targets=labels))
    whole = list(ClassBalancedSampler(labels, targets=labels, num_samples=34, rank=0, world_size=1))
    assert own == whole[rank::2], (own, whole)
    distributed.destroy_process_group()
    """
    run_processes(script, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_samples": 0}, "num_samples=0 must be"),
        ({"rank": 1}, "give rank and world_size, or neither: got rank=1"),
        ({"rank": 2, "world_size": 2}, "rank=2 must be from 0 to world_size - 1 = 1"),
        ({"rank": 0, "world_size": 0}, "world_size=0 must be"),
        ({"targets": [0.5] * 100}, "targets must be class indices"),
    ],
)
def test_samplers_refuse_what_makes_no_sense(arguments, message):
    for make in (ClassBalancedSampler, InverseFrequencySampler):
        with pytest.raises(InputError, match=message):
            make(Images(), **arguments)
    with pytest.raises(InputError, match="tau must be a finite number, got inf"):
        InverseFrequencySampler(Images(), tau=float("inf"))
    with pytest.raises(InputError, match="epoch=-1 must be"):
        ClassBalancedSampler(Images()).set_epoch(-1)


def test_a_method_trains_on_a_balanced_loader_of_remembered_samples():
    """The parts work together: subset, positions, sampler, remembered features."""
    part = long_tailed(TensorDataset(torch.randn(120, 4), torch.arange(120) % 3), 10)
    dataset = IndexedDataset(part)
    loader = DataLoader(dataset, 8, sampler=ClassBalancedSampler(dataset, num_samples=240))
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    method = mixwell.create("sk_mixup", 3, distance="remembered", capacity=57, p=0.0)
    for x, y, index in loader:
        assert method(net, x, y, index=index).isfinite()
    # Unmixed samples are all remembered, and the sampler has drawn each of them.
    assert torch.equal(method.recipe.coefficient.memory.owner[:-1], torch.arange(57))
