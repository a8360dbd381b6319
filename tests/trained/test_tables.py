"""Runs on tables of classes predict what they measured, whatever kind of file they came from."""

import csv

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import mixwell
from mixwell import InputError
from mixwell.cli import main
from mixwell.training import RunConfig, train
from mixwell.training.build import load_data

KINDS = ("oak", "ash", "elm")


def trees() -> pd.DataFrame:
    kind = np.random.default_rng(0).permutation(np.arange(90) % 3)
    return pd.DataFrame(
        {
            "soil": np.where(kind == 0, "clay", "sand"),
            "height": 3.0 * kind + np.random.default_rng(1).normal(size=90),
            "old": np.arange(90) % 2 == 0,
            "kind": np.array(KINDS, dtype=object)[kind],
            "code": kind + 5,
        }
    )


def named(folder, form: str) -> str:
    frame = trees()
    if form == "csv":
        frame.to_csv(folder / "t.csv", index=False)
        return f"csv:{folder / 't.csv'}"
    if form == "parquet":
        pytest.importorskip("pyarrow")
        frame.to_parquet(folder / "t.parquet", index=False)
        return f"parquet:{folder / 't.parquet'}"
    pytest.importorskip("datasets").Dataset.from_pandas(frame).save_to_disk(folder / "t")
    return f"hf:{folder / 't'}"


@pytest.fixture(scope="module", params=["csv", "parquet", "hf"])
def run(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    config = RunConfig(
        data=named(folder, request.param), target="kind", method="mixup", epochs=5, threads=1,
        imbalance=2.0,
    )  # fmt: skip
    train(config, folder / "run")
    return mixwell.load_run(folder / "run")


def test_it_is_a_classification_with_the_usual_network(run):
    assert run.classes == ("ash", "elm", "oak")
    assert run.config.model == "mlp"
    assert run.metrics["accuracy"] > 0.5
    assert [column.name for column in run.transform.columns] == ["height", "code", "soil", "old"]


def test_the_test_split_comes_out_as_it_was_measured(run):
    with np.load(run.folder / "predictions.npz") as arrays:
        logits = torch.from_numpy(arrays["test_logits"])
    dataset = load_data(run.config)
    assert torch.equal(run.outputs(dataset.test.x), logits)
    # The file's own rows, read and made into inputs again, are the test split's.
    frame = trees()
    places = [int(np.isclose(frame["height"], float(x[0])).argmax()) for x in dataset.test.x]
    assert torch.equal(run.outputs(frame.iloc[places]), logits)
    assert [run.classes[y] for y in dataset.test.y] == frame["kind"].iloc[places].tolist()


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_new_rows_come_from_either_kind_of_file(run, ending, tmp_path, capsys):
    rows = trees().drop(columns="kind")[["code", "old", "height", "soil"]].assign(more="text")
    path = tmp_path / f"new.{ending}"
    if ending == "csv":
        rows.to_csv(path, index=False)
    else:
        pytest.importorskip("pyarrow")
        rows.to_parquet(path, index=False)
    wanted = run.predict(trees())
    assert torch.equal(run.predict(path), wanted)
    out = tmp_path / "p.csv"
    assert main(["predict", str(run.folder), str(path), "--out", str(out)]) == 0
    with out.open(encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    assert list(found[0]) == ["path", "row", "predicted", "probability", "ash", "elm", "oak"]
    assert [row["predicted"] for row in found] == [run.classes[i] for i in wanted.argmax(1)]
    numbers = [[float(row[name]) for name in run.classes] for row in found]
    assert torch.allclose(torch.tensor(numbers), wanted, rtol=1e-4)
    with pytest.raises(InputError, match="lacks the column 'height'; it must have"):
        run.predict(rows.drop(columns="height"))
    with pytest.raises(InputError, match="row 1: old='maybe' was not among"):
        run.predict(rows.assign(old="maybe"))


def test_images_of_a_folder_of_datasets(tmp_path):
    datasets = pytest.importorskip("datasets")
    pictures = [Image.fromarray(np.full((12, 12, 3), 100 * (i % 2), np.uint8)) for i in range(40)]
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["night", "day"])}
    made = datasets.Dataset.from_dict(
        {"image": pictures, "label": [i % 2 for i in range(40)]}, datasets.Features(features)
    )
    made.save_to_disk(tmp_path / "set")
    config = RunConfig(
        data=f"hf:{tmp_path / 'set'}", image_size=16, epochs=1, threads=1, loader_workers=0
    )
    train(config, tmp_path / "run")
    run = mixwell.load_run(tmp_path / "run")
    assert (run.classes, run.config.model, run.transform.kind) == (
        ("night", "day"), "cnn", "images",
    )  # fmt: skip
    with np.load(tmp_path / "run" / "predictions.npz") as arrays:
        logits, labels = (torch.from_numpy(arrays[f"test_{kind}"]) for kind in ("logits", "labels"))
    assert torch.allclose(run.outputs([pictures[y] for y in labels]), logits, atol=1e-5)
