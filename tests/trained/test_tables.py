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
from mixwell.errors import Note
from mixwell.trained import Deployed, export
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
        imbalance=2.0, accelerator="cpu",
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


def test_columns_that_are_called_by_numbers_are_found(tmp_path):
    lines = [f"{i / 3:.2f},{i % 5},{'uv'[i % 2]},{KINDS[i % 3]}" for i in range(90)]
    (tmp_path / "t.csv").write_text("\n".join(["0,1,2,3", *lines]))
    train(RunConfig(data=f"csv:{tmp_path / 't.csv'}", epochs=1, threads=1), tmp_path / "run")
    run = mixwell.load_run(tmp_path / "run")
    found = run.predict(tmp_path / "t.csv")
    assert torch.equal(found, run.predict(pd.read_csv(tmp_path / "t.csv")))


def test_an_export_keeps_the_digits_of_large_numbers(tmp_path):
    start = 2.0**30
    lines = [f"{start + 128 * i},{i % 5 / 2},{(i - 45) ** 2}" for i in range(90)]
    (tmp_path / "t.csv").write_text("\n".join(["t,b,y", *lines]))
    train(RunConfig(data=f"csv:{tmp_path / 't.csv'}", epochs=3, threads=1), tmp_path / "run")
    run = mixwell.load_run(tmp_path / "run")
    raw = torch.tensor([[start + 128 * i, i % 5 / 2] for i in range(90)])
    with torch.no_grad():
        found = Deployed(run).eval()(raw)
    assert len(found.unique()) == 90
    torch.testing.assert_close(found.double(), run.predict(raw).mean, atol=1e-3, rtol=1e-5)
    with pytest.warns(Note, match=r"rounds the column 't' \(mean 1\.07"):
        export(run, tmp_path / "run.pt2")
