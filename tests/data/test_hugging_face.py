import sys

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from mixwell import InputError, data

datasets = pytest.importorskip("datasets")
NAMES = ("dark", "light", "mid")  # not in the order that words are sorted by their brightness
LEVELS = (20, 230, 120)


def picture(label: int, size=(12, 10)) -> Image.Image:
    return Image.fromarray(np.full((*size, 3), LEVELS[label], np.uint8))


def of_images(count: int, label=None, **more) -> "datasets.Dataset":
    y = [i % 3 for i in range(count)]
    label = label or datasets.ClassLabel(names=list(NAMES))
    values = [str(v) for v in y] if label.dtype == "string" else y
    features = datasets.Features({"photo": datasets.Image(), "kind": label})
    rows = {"photo": [picture(v) for v in y], "kind": values}
    made = datasets.Dataset.from_dict(rows, features=features)
    for name, column in more.items():
        made = made.add_column(name, column)
    return made


def of_numbers(count: int, **columns) -> "datasets.Dataset":
    y = np.arange(count) % 3
    rows = {
        "height": (10.0 * y).tolist(), "soil": np.where(y == 0, "clay", "sand").tolist(),
        "label": y.tolist(), **columns,
    }  # fmt: skip
    return datasets.Dataset.from_dict(rows)


def saved(folder, made, **options) -> data.Dataset:
    made.save_to_disk(str(folder / "set"))
    return data.load(f"hf:{folder / 'set'}", image_size=8, workers=0, **options)


def brightness(split) -> torch.Tensor:
    x = next(split.batches(len(split)))[0]
    raw = x * torch.tensor(split.std).view(1, 3, 1, 1) + torch.tensor(split.mean).view(1, 3, 1, 1)
    return 255 * raw.mean((1, 2, 3))


def test_images_and_their_classes(tmp_path):
    dataset = saved(tmp_path, of_images(60))
    assert (dataset.task, dataset.classes, dataset.input_shape) == (
        "classification", NAMES, (3, 8, 8),
    )  # fmt: skip
    assert [len(s) for s in (dataset.train, dataset.val, dataset.test)] == [43, 5, 12]
    assert torch.bincount(dataset.test.y).tolist() == [4, 4, 4]
    for split in (dataset.train, dataset.val, dataset.test):
        wanted = torch.tensor(LEVELS)[split.y]
        assert torch.allclose(brightness(split), wanted.float(), atol=0.5)


def test_nothing_is_decoded_before_it_is_needed(tmp_path, monkeypatch):
    opened = []
    real = Image.open
    monkeypatch.setattr(Image, "open", lambda *args: opened.append(args) or real(*args))
    dataset = saved(tmp_path, of_images(60))
    assert not opened
    next(dataset.train.batches(4))
    assert len(opened) == 4


def test_workers_read_the_same_images(tmp_path):
    dataset = saved(tmp_path, of_images(60))
    wanted = next(dataset.train.batches(8, shuffle=True, augment=True))
    again = data.load(dataset.name, image_size=8, workers=2)
    found = next(again.train.batches(8, shuffle=True, augment=True))
    assert all(torch.equal(a, b) for a, b in zip(wanted, found, strict=True))


@pytest.mark.parametrize("dtype", ["int64", "string"])
def test_labels_without_names_are_their_own(tmp_path, dtype):
    dataset = saved(tmp_path, of_images(60, datasets.Value(dtype)))
    assert dataset.classes == ("0", "1", "2")
    wanted = torch.tensor(LEVELS)[dataset.test.y]
    assert torch.allclose(brightness(dataset.test), wanted.float(), atol=0.5)


@pytest.mark.parametrize("validation", ["validation", "val"])
def test_splits_are_used_where_they_are(tmp_path, validation):
    parts = {"train": of_images(30), validation: of_images(9), "test": of_images(6)}
    dataset = saved(tmp_path, datasets.DatasetDict(parts))
    assert [len(s) for s in (dataset.train, dataset.val, dataset.test)] == [30, 9, 6]
    for split in (dataset.train, dataset.val, dataset.test):
        wanted = torch.tensor(LEVELS)[split.y]
        assert torch.allclose(brightness(split), wanted.float(), atol=0.5)


def test_what_is_missing_of_them_comes_out_of_training(tmp_path):
    parts = {"train": of_numbers(60), "test": of_numbers(12)}
    dataset = saved(tmp_path, datasets.DatasetDict(parts), task="classification")
    assert [len(s) for s in (dataset.train, dataset.val, dataset.test)] == [54, 6, 12]


def test_a_table_with_a_value_that_only_one_split_has(tmp_path):
    test = of_numbers(6).map(lambda row: {"soil": "peat"}, load_from_cache_file=False)
    parts = datasets.DatasetDict({"train": of_numbers(60), "test": test})
    dataset = saved(tmp_path, parts, task="classification")
    assert [(c.name, c.values) for c in dataset.columns] == [
        ("height", ()), ("soil", ("clay", "peat", "sand")),
    ]  # fmt: skip
    assert torch.equal((dataset.train.x[:, 0] / 10).long(), dataset.train.y)
    assert dataset.test.x[:, 2].all()


def test_a_table_of_classes_keeps_their_order(tmp_path):
    made = of_numbers(60).cast_column("label", datasets.ClassLabel(names=["oak", "ash", "elm"]))
    dataset = saved(tmp_path, made)
    assert (dataset.task, dataset.classes) == ("classification", ("oak", "ash", "elm"))
    assert torch.equal((dataset.train.x[:, 0] / 10).long(), dataset.train.y)


def test_a_table_of_numbers_is_a_regression(tmp_path):
    made = of_numbers(60, target=[0.5 * (i % 3) for i in range(60)]).remove_columns("label")
    dataset = saved(tmp_path, made)
    assert dataset.task == "regression"
    found = dataset.in_units(dataset.test.y)[:, 0]
    assert torch.allclose(20 * found, dataset.test.x[:, 0], atol=1e-4)


def test_classes_may_be_inputs_too(tmp_path):
    kinds = datasets.ClassLabel(names=list(NAMES))
    made = of_numbers(60).cast_column("label", kinds).add_column("y", [i / 7 for i in range(60)])
    dataset = saved(tmp_path, made, target="y")
    assert dataset.task == "regression"
    assert dataset.columns[-1].values == tuple(sorted(NAMES))


def test_it_is_independent_of_the_format_it_was_saved_in(tmp_path):
    dataset = saved(tmp_path, of_images(60).with_format("torch"))
    wanted = torch.tensor(LEVELS)[dataset.test.y]
    assert torch.allclose(brightness(dataset.test), wanted.float(), atol=0.5)


TEXTS = {"text": [f"a sentence, number {i}" for i in range(60)], "label": [0, 1] * 30}


def unlabelled(made, count):
    kinds = datasets.Features({**made.features})
    y = [*[-1] * count, *made[:]["kind"][count:]]
    return made.remove_columns("kind").add_column("kind", y).cast(kinds)


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda: datasets.Dataset.from_dict(TEXTS), {}, r"data set of texts \('text'\)"),
        (lambda: unlabelled(of_images(60), 2), {}, r"2 of 60 rows have no label in 'kind'"),
        (
            lambda: datasets.DatasetDict(
                {"train": of_images(30), "test": unlabelled(of_images(9), 9)}
            ),
            {},
            r"split 'test': 9 of 9 rows have no label",
        ),
        (lambda: of_images(60, datasets.Value("float32")), {}, "regression of images"),
        (lambda: of_images(60), {"task": "regression"}, "regression of images"),
        (lambda: of_images(60), {"target": "kin"}, "no such column.*did you mean 'kind'"),
        (lambda: of_images(60), {"target": "photo"}, "images there, which are not predicted"),
        (lambda: of_images(60, a=[1] * 60).rename_column("kind", "b").cast_column(
            "b", datasets.Value("int64")), {}, "doesn't tell .*target.*one of b, a"),
        (lambda: of_numbers(60, tokens=[[1, 2]] * 60), {}, "'tokens' holds neither .* but ndarray"),
        (lambda: of_numbers(60, gap=[None, *[1] * 59]), {}, "'gap' has no value in row 1 of 60"),
        (lambda: datasets.DatasetDict({"train": of_images(30), "extra": of_images(9)}), {},
         "holds the splits train, extra: there must be train"),
        (lambda: datasets.DatasetDict({"test": of_images(30)}), {}, "there must be train"),
        (lambda: of_images(60, datasets.ClassLabel(names=[*NAMES, "none"])), {},
         r"too few rows of 'none' \(0\)"),
    ],
)  # fmt: skip
def test_what_can_not_be_trained_on_is_refused(tmp_path, make, options, message):
    with pytest.raises(InputError, match=message):
        saved(tmp_path, make(), **options)


def test_folders_that_datasets_did_not_write_are_refused(tmp_path):
    with pytest.raises(InputError, match="there is no such folder"):
        data.load(f"hf:{tmp_path / 'nowhere'}")
    with pytest.raises(InputError, match="no folder that save_to_disk wrote"):
        data.load(f"hf:{tmp_path}")
    dataset = saved(tmp_path, of_images(60))
    (file,) = (tmp_path / "set").glob("*.arrow")
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(InputError, match="is damaged"):
        data.load(dataset.name)


def test_a_broken_image_is_named(tmp_path):
    rows = {"photo": [{"bytes": b"none", "path": None}] * 60, "kind": [i % 3 for i in range(60)]}
    features = of_images(3).features
    dataset = saved(tmp_path, datasets.Dataset.from_dict(rows, features=features))
    with pytest.raises(InputError, match=r"split 'train': 'photo' of row \d+ is no image"):
        next(dataset.train.batches(2))


def test_without_datasets_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"pip install 'mixwell\[datasets\]'"):
        data.load(f"hf:{tmp_path}")


def test_what_pandas_numbers_rows_by_is_no_column(tmp_path):
    frame = pd.DataFrame({"a": range(60), "y": np.arange(60) / 3}, index=range(60, 0, -1))
    dataset = saved(tmp_path, datasets.Dataset.from_pandas(frame))
    assert [column.name for column in dataset.columns] == ["a"]
