from __future__ import annotations

import gzip
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from mixwell import InputError, data
from mixwell.data.sources import read_idx

REAL = os.environ.get("MIXWELL_DATA")


@pytest.fixture(autouse=True)
def _no_data_folder(monkeypatch):
    monkeypatch.delenv("MIXWELL_DATA", raising=False)


def inputs(split: data.Split) -> Tensor:
    return torch.cat([x for x, _, _ in split.batches(1000)])


# ------------------------------------------------------------------------------------- embedded


def test_digits():
    digits = data.load("digits")
    assert (digits.name, digits.task) == ("digits", "classification")
    assert (digits.num_classes, digits.num_outputs) == (10, 10)
    assert digits.input_shape == (1, 8, 8)
    assert len(digits.train) + len(digits.val) + len(digits.test) == 1797
    assert digits.classes == tuple("0123456789")
    assert digits.class_counts.sum() == len(digits.train)
    x = inputs(digits.train)
    assert x.shape == (len(digits.train), 1, 8, 8)
    assert float(x.mean()) == pytest.approx(0, abs=1e-4)
    assert float(x.std()) == pytest.approx(1, abs=1e-3)
    assert sorted(c for group in digits.superclasses.values() for c in group) == list(range(10))


def test_splits_are_stratified_disjoint_and_repeatable():
    one, again, other = (data.load("digits", seed=seed) for seed in (0, 0, 1))
    for split in (one.train, one.val, one.test):
        shares = torch.bincount(split.y, minlength=10) / len(split)
        assert float((shares - 0.1).abs().max()) < 0.02
    images = [{x.numpy().tobytes() for x in split.x} for split in (one.train, one.val, one.test)]
    assert sum(map(len, images)) == len(set.union(*images)) == 1797
    assert torch.equal(one.train.x, again.train.x)
    assert torch.equal(one.test.x, other.test.x)
    assert not torch.equal(one.val.x, other.val.x)


def test_train_size_changes_neither_validation_nor_test():
    whole, small = data.load("digits"), data.load("digits", train_size=200)
    assert len(small.train) == 200
    assert small.class_counts.min() >= 18
    assert torch.equal(whole.val.x, small.val.x)
    assert torch.equal(whole.test.x, small.test.x)
    kept = {x.numpy().tobytes() for x in whole.train.x}
    assert {x.numpy().tobytes() for x in small.train.x} <= kept
    least = data.load("digits", train_size=10)
    assert least.class_counts.tolist() == [1] * 10


def test_diabetes_is_standardised_by_its_training_split():
    table = data.load("diabetes", seed=2)
    assert (table.task, table.num_classes, table.num_outputs) == ("regression", None, 1)
    assert table.input_shape == (10,)
    assert len(table.train) + len(table.val) + len(table.test) == 442
    x = inputs(table.train)
    torch.testing.assert_close(x.mean(0), torch.zeros(10), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.std(0), torch.ones(10), atol=1e-2, rtol=0)
    assert table.train.y.dtype == torch.float32
    assert float(table.train.y.mean()) == pytest.approx(0, abs=1e-5)
    # In its own unit: whole numbers from 25 to 346.
    y = torch.cat([s.y for s in (table.train, table.val, table.test)])
    y = y.double() * table.target_std + table.target_mean
    torch.testing.assert_close(y, y.round(), atol=1e-4, rtol=0)
    assert (int(y.min().round()), int(y.max().round())) == (25, 346)
    with pytest.raises(InputError, match="no class counts"):
        _ = table.class_counts


# ---------------------------------------------------------------------------------------- files


def write_idx(path: Path, array: np.ndarray) -> None:
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    content = header + array.astype(np.uint8).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_fashion(folder: Path, suffix: str = "", sizes: tuple[int, int] = (200, 50)) -> None:
    generator = np.random.default_rng(0)
    for prefix, size in zip(("train", "t10k"), sizes, strict=True):
        images = generator.integers(0, 256, (size, 28, 28))
        write_idx(folder / f"{prefix}-images-idx3-ubyte{suffix}", images)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte{suffix}", np.arange(size) % 10)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("place", [".", "fashion-mnist", "FashionMNIST/raw"])
def test_fashion_mnist(tmp_path, monkeypatch, suffix, place):
    write_fashion(tmp_path / place, suffix)
    fashion = data.load("fashion-mnist", data_dir=tmp_path)
    assert fashion.input_shape == (1, 28, 28)
    assert [len(s) for s in (fashion.train, fashion.val, fashion.test)] == [180, 20, 50]
    assert len(fashion.classes) == 10
    assert fashion.superclasses["footwear"] == (5, 7, 9)
    assert [fashion.classes[c] for c in (5, 7, 9)] == ["sandal", "sneaker", "ankle boot"]
    assert torch.equal(fashion.test.y, torch.arange(50) % 10)
    assert torch.equal(
        fashion.test.x[:, 0], read_idx(tmp_path / place / f"t10k-images-idx3-ubyte{suffix}")
    )
    monkeypatch.setenv("MIXWELL_DATA", str(tmp_path))
    assert torch.equal(data.load("fashion-mnist").test.x, fashion.test.x)


def rewrite(path: Path, change) -> None:
    path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize(
    ("suffix", "name", "change", "message"),
    [
        ("", "train-images-idx3-ubyte", lambda b: b[:-1], "truncated.*200 x 28 x 28"),
        ("", "train-images-idx3-ubyte", lambda b: b[:9], "header"),
        ("", "train-images-idx3-ubyte", lambda b: b"", "nothing"),
        ("", "train-images-idx3-ubyte", lambda b: b + b"0", "too long"),
        ("", "train-images-idx3-ubyte", lambda b: b"\x00\x00\x0d" + b[3:], "00 00 08"),
        ("", "t10k-labels-idx1-ubyte", lambda b: b[:8] + b"\x0a" + b[9:], "from 0 to 9.*0 to 10"),
        (".gz", "train-images-idx3-ubyte", lambda b: b[: len(b) // 2], "can't be read"),
        (".gz", "train-images-idx3-ubyte", lambda b: b[:-8] + bytes(4) + b[-4:], "CRC"),
        (".gz", "train-labels-idx1-ubyte", lambda b: b"plain", "can't be read"),
    ],
)
def test_corrupt_idx_files_are_refused(tmp_path, suffix, name, change, message):
    write_fashion(tmp_path, suffix)
    rewrite(tmp_path / (name + suffix), change)
    with pytest.raises(InputError, match=message) as caught:
        data.load("fashion-mnist", data_dir=tmp_path)
    assert "labels" in str(caught.value) or name in str(caught.value)


def test_idx_files_that_do_not_belong_together_are_refused(tmp_path):
    write_fashion(tmp_path)
    write_idx(tmp_path / "train-labels-idx1-ubyte", np.arange(199) % 10)
    with pytest.raises(InputError, match=r"200 images but .* 199 labels"):
        data.load("fashion-mnist", data_dir=tmp_path)
    write_idx(tmp_path / "train-labels-idx1-ubyte", np.zeros((200, 1)))
    with pytest.raises(InputError, match="must have 1 dimensions, it has 2"):
        data.load("fashion-mnist", data_dir=tmp_path)


def test_missing_files_are_named_with_where_they_were_looked_for(tmp_path):
    with pytest.raises(InputError, match=r"train-images-idx3-ubyte.*FashionMNIST/raw"):
        data.load("fashion-mnist", data_dir=tmp_path)
    with pytest.raises(InputError, match=r"data_dir=.*nowhere.* no folder"):
        data.load("fashion-mnist", data_dir=tmp_path / "nowhere")
    for name in ("fashion-mnist", "cifar10", "airfoil"):
        with pytest.raises(InputError, match="MIXWELL_DATA"):
            data.load(name)


def test_a_download_that_fails_says_what_to_do(tmp_path, monkeypatch):
    from torchvision import datasets

    def fail(folder, download):
        raise OSError("no route to host")

    monkeypatch.setattr(datasets, "CIFAR10", fail)
    with pytest.raises(InputError, match=r"no route to host.*put its files there"):
        data.load("cifar10", data_dir=tmp_path, download=True)


def write_cifar(folder: Path, hundred: bool, size: int = 400) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    classes = 100 if hundred else 10
    fine = "fine_labels" if hundred else "labels"
    train = ["train"] if hundred else [f"data_batch_{part}" for part in range(1, 6)]
    for name in [*train, "test" if hundred else "test_batch"]:
        labels = (np.arange(size) % classes).tolist()
        content = {"data": generator.integers(0, 256, (size, 3072), dtype=np.uint8), fine: labels}
        if hundred:
            content["coarse_labels"] = [label // 5 for label in labels]
        # As the published files: bytes for keys, an old protocol.
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    meta = {"fine_label_names" if hundred else "label_names": [f"c{i}" for i in range(classes)]}
    if hundred:
        meta["coarse_label_names"] = [f"g{i}" for i in range(20)]
    (folder / ("meta" if hundred else "batches.meta")).write_bytes(pickle.dumps(meta, protocol=2))


def test_cifar10(tmp_path):
    write_cifar(tmp_path / "cifar-10-batches-py", False, size=40)
    cifar = data.load("cifar10", data_dir=tmp_path)
    assert [len(s) for s in (cifar.train, cifar.val, cifar.test)] == [180, 20, 40]
    assert cifar.input_shape == (3, 32, 32)
    assert cifar.superclasses is None
    x = inputs(cifar.train)
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(x.std((0, 2, 3)), torch.ones(3), atol=1e-3, rtol=0)
    raw = pickle.loads((tmp_path / "cifar-10-batches-py" / "test_batch").read_bytes())["data"]
    assert torch.equal(cifar.test.x, torch.from_numpy(raw).view(-1, 3, 32, 32))
    augmented, _, _ = next(cifar.train.batches(180, augment=True))
    assert not torch.equal(augmented, x)


def test_cifar100_has_its_superclasses(tmp_path):
    write_cifar(tmp_path, True)
    cifar = data.load("cifar100", data_dir=tmp_path, val_fraction=0.25)
    assert (cifar.num_classes, len(cifar.superclasses)) == (100, 20)
    assert cifar.superclasses["g3"] == (15, 16, 17, 18, 19)
    assert [len(s) for s in (cifar.train, cifar.val, cifar.test)] == [300, 100, 400]


@pytest.mark.parametrize("name", ["fashion-mnist", "cifar10", "cifar100"])
def test_copies_of_published_images_that_hold_fewer_are_told_apart(name, tmp_path):
    def content(size, **options):
        folder = tmp_path / str(size)
        if name == "fashion-mnist":
            write_fashion(folder, sizes=(size, 50))
        else:
            write_cifar(folder, name == "cifar100", size)
        return data.load(name, data_dir=folder, **options).content

    half = {"val_fraction": 0.5}
    assert content(400, **half) == content(400, seed=3, train_size=100, val_fraction=0.4)
    assert content(400, **half) != content(500, **half)


class Evil:
    def __reduce__(self):
        return (print, ("ran",))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("data_batch_2", b"", "can't be read"),
        ("data_batch_2", pickle.dumps([1]), "must hold a dictionary"),
        ("data_batch_2", pickle.dumps({"labels": [1]}), "must hold 'data'"),
        (
            "data_batch_2",
            pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [1]}),
            r"shape \(2, 3072\) and 1 labels",
        ),
        (
            "test_batch",
            pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [10]}),
            "from 0 to 9, got 10 to 10",
        ),
        ("batches.meta", pickle.dumps({}), "must hold 'label_names'"),
        ("data_batch_1", pickle.dumps({"data": Evil()}), "no place in a data file"),
    ],
)
def test_corrupt_cifar_files_are_refused(tmp_path, capsys, name, content, message):
    write_cifar(tmp_path, False, size=40)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        data.load("cifar10", data_dir=tmp_path)
    assert "ran" not in capsys.readouterr().out


def write_airfoil(folder: Path) -> None:
    generator = np.random.default_rng(0)
    np.savetxt(folder / "airfoil_self_noise.dat", generator.normal(100, 5, (60, 6)), delimiter="\t")


def test_airfoil(tmp_path):
    write_airfoil(tmp_path)
    table = data.load("airfoil", data_dir=tmp_path)
    assert table.input_shape == (5,)
    assert [len(s) for s in (table.train, table.val, table.test)] == [43, 5, 12]
    assert table.target_mean == pytest.approx(100, abs=3)
    assert inputs(table.test).dtype == torch.float32


@pytest.mark.parametrize(
    ("text", "message"),
    [("1 2 3\n", "6 finite columns"), ("1 2 3 4 5 x\n", "no table"), ("1 2 3 4 5 nan\n", "finite")],
)
def test_a_corrupt_table_is_refused(tmp_path, text, message):
    (tmp_path / "airfoil_self_noise.dat").write_text(text)
    with pytest.raises(InputError, match=message):
        data.load("airfoil", data_dir=tmp_path)


# -------------------------------------------------------------------------------------- folders


def write_folder(root: Path, classes: dict[str, int]) -> None:
    for shade, (name, size) in enumerate(classes.items()):
        (root / name / "deeper").mkdir(parents=True)
        for i in range(size):
            folder = root / name / "deeper" if i % 2 else root / name
            Image.new("RGB", (10, 12), (40 * shade, i, 0)).save(folder / f"{i}.png")


def test_a_folder_is_split_by_class(tmp_path):
    write_folder(tmp_path, {"cat": 20, "ant": 10})
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    folder = data.load(f"folder:{tmp_path}", image_size=16, workers=0)
    assert folder.classes == ("ant", "cat")
    assert folder.input_shape == (3, 16, 16)
    assert [len(s) for s in (folder.train, folder.val, folder.test)] == [22, 2, 6]
    assert folder.class_counts.tolist() == [7, 15]
    x, y, _ = next(folder.train.batches(22))
    assert x.shape == (22, 3, 16, 16)
    assert [folder.classes[label] for label in y] == [
        "cat" if "cat" in str(path) else "ant" for path in folder.train.paths
    ]


@pytest.mark.parametrize(
    ("parts", "sizes"),
    [
        ({"train": 10, "test": 4}, [18, 2, 8]),
        ({"train": 10, "val": 4}, [18, 2, 8]),
        ({"train": 10, "val": 3, "test": 4}, [20, 6, 8]),
    ],
)
def test_a_folder_with_its_own_splits(tmp_path, parts, sizes):
    for part, size in parts.items():
        write_folder(tmp_path / part, {"ant": size, "cat": size})
    folder = data.load(f"folder:{tmp_path}", image_size=8, workers=0)
    assert [len(s) for s in (folder.train, folder.val, folder.test)] == sizes
    tested = "test" if "test" in parts else "val"
    assert all(tested in path.parts for path in folder.test.paths)


def test_folders_that_can_not_be_used_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        data.load(f"folder:{tmp_path / 'nowhere'}")
    write_folder(tmp_path / "one", {"cat": 3})
    with pytest.raises(InputError, match="two or more, it holds 1"):
        data.load(f"folder:{tmp_path / 'one'}")
    write_folder(tmp_path / "empty", {"cat": 8, "dog": 0})
    with pytest.raises(InputError, match="dog holds no images"):
        data.load(f"folder:{tmp_path / 'empty'}")
    write_folder(tmp_path / "rare", {"cat": 30, "dog": 2})
    with pytest.raises(InputError, match="'dog' has too few samples"):
        data.load(f"folder:{tmp_path / 'rare'}")
    write_folder(tmp_path / "other" / "train", {"cat": 8, "dog": 8})
    write_folder(tmp_path / "other" / "test", {"cat": 8, "emu": 8})
    with pytest.raises(InputError, match=r"other classes.*dog.*emu"):
        data.load(f"folder:{tmp_path / 'other'}")


# ------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("digit", {}, r"'digit' is unknown \(did you mean 'digits'\?\)"),
        ("imagenet", {}, "known: digits, fashion-mnist"),
        ("digits:x", {}, "unknown"),
        ("folder", {}, "folder:PATH"),
        ("digits", {"train_size": 9}, "from 10"),
        ("digits", {"train_size": 5000}, "to 1294"),
        ("digits", {"val_fraction": 0}, "val_fraction"),
        ("digits", {"val_fraction": 1.0}, "val_fraction"),
        ("digits", {"val_fraction": 0.001}, "leaves 1 of 1438 samples"),
        ("digits", {"val_fraction": 0.999}, "too few samples|none is left|leaves"),
        ("diabetes", {"train_size": 0}, "train_size=0"),
    ],
)
def test_bad_arguments_are_refused(name, options, message):
    with pytest.raises(InputError, match=message):
        data.load(name, **options)


def test_available_says_what_each_set_is():
    sets = data.available()
    assert {"digits", "fashion-mnist", "cifar10", "cifar100", "airfoil", "diabetes"} <= set(sets)
    assert all(sets.values())


# ----------------------------------------------------------------------------------- the real thing

real = pytest.mark.skipif(
    not REAL, reason="MIXWELL_DATA names no folder with Fashion-MNIST and Airfoil"
)


@real
def test_the_real_fashion_mnist():
    dataset = data.load("fashion-mnist", data_dir=REAL, train_size=6000)
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (6000, 6000, 10_000)
    assert dataset.class_counts.tolist() == [600] * 10
    assert torch.bincount(dataset.test.y).tolist() == [1000] * 10
    x, _, _ = next(iter(dataset.train.batches(6000)))
    assert abs(float(x.mean())) < 1e-3
    assert abs(float(x.std()) - 1) < 1e-3


@real
def test_the_real_airfoil():
    dataset = data.load("airfoil", data_dir=REAL)
    assert len(dataset.train) + len(dataset.val) + len(dataset.test) == 1503
    assert 120 < dataset.target_mean < 130
    assert abs(float(dataset.train.y.std()) - 1) < 1e-3


def write_uci(folder: Path, splits: int = 2) -> None:
    folder.mkdir(parents=True)
    table = np.arange(120.0).reshape(30, 4) ** 1.5
    np.savetxt(folder / "data.txt", table)
    np.savetxt(folder / "index_features.txt", [0, 1, 3], fmt="%d")
    np.savetxt(folder / "index_target.txt", [2], fmt="%d")
    for number in range(splits):
        rows = np.random.default_rng(number).permutation(30)
        np.savetxt(folder / f"index_train_{number}.txt", rows[:25], fmt="%d")
        np.savetxt(folder / f"index_test_{number}.txt", rows[25:], fmt="%d")


@pytest.mark.parametrize("place", ["boats", "uci/boats"])
def test_a_uci_table_is_tested_on_the_published_split_of_the_seed(tmp_path, place):
    write_uci(tmp_path / place)
    rows = np.loadtxt(tmp_path / place / "index_test_1.txt").astype(int)
    expected = np.loadtxt(tmp_path / place / "data.txt")[rows, 2]
    for seed in (1, 3):  # of two splits, the second
        table = data.load("uci:boats", data_dir=tmp_path, seed=seed)
        assert table.input_shape == (3,)
        assert (len(table.train) + len(table.val), len(table.test)) == (25, 5)
        found = table.test.y.double() * table.target_std + table.target_mean
        torch.testing.assert_close(found, torch.from_numpy(expected), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("index_test_0.txt", "3\n30\n"),
        ("index_test_0.txt", "words\n"),
        ("index_target.txt", "-1\n"),
        ("index_features.txt", "0\n4\n"),
        ("data.txt", "1 2\n3\n"),
        ("data.txt", "nan 2 3 4\n"),
    ],
)
def test_a_damaged_uci_table_is_named(tmp_path, file, text):
    write_uci(tmp_path / "boats")
    (tmp_path / "boats" / file).write_text(text)
    with pytest.raises(InputError, match=r"boats.*(no table|don't fit)"):
        data.load("uci:boats", data_dir=tmp_path)


def test_a_uci_table_without_splits_says_so(tmp_path):
    write_uci(tmp_path / "boats", splits=0)
    with pytest.raises(InputError, match="no published splits"):
        data.load("uci:boats", data_dir=tmp_path)
    with pytest.raises(InputError, match=r"uci:NAME"):
        data.load("uci", data_dir=tmp_path)
