import shutil
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import mixwell
from mixwell import InputError, plugins
from mixwell.data.transform import Transform
from mixwell.training import RunConfig, train
from mixwell.training.build import load_data
from mixwell.training.files import read_json, write_json

TINY = {"epochs": 1, "threads": 1, "method": "mixup", "accelerator": "cpu"}


def trained(folder, **options):
    train(RunConfig(**{**TINY, **options}), folder)
    return mixwell.load_run(folder)


def arrays_of(run):
    with np.load(run.folder / "predictions.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def wanted(run):
    """What predictions.npz says of the test split, calibrated."""
    found = arrays_of(run)
    return (found["test_logits"].double() / run.metrics["temperature"]).softmax(1).float()


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of images of two classes and of several sizes, and a run on it."""
    root = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for label, name in enumerate(("cat", "dog")):
        (root / name).mkdir()
        for number in range(16):
            shape = (20 + number, 30, 3)
            pixels = generator.integers(100 * label, 156 + 100 * label, shape).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    run = trained(
        root.parent / "photos-run", data=f"folder:{root}", image_size=16, model="cnn",
        loader_workers=0,
    )  # fmt: skip
    return root, run


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A table with numbers and a column of text, and a run on it."""
    path = tmp_path_factory.mktemp("tables") / "houses.csv"
    generator = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "town": generator.choice(["Ulm", "Aix", "Bath"], 80),
            "area": generator.normal(size=80),
            "rooms": generator.integers(1, 6, 80),
        }
    )
    frame["price"] = 100 + 20 * frame["area"] + 5 * frame["rooms"]
    frame.to_csv(path, index=False)
    run = trained(path.parent / "run", data=f"csv:{path}", model_options={"dropout": 0.2})
    return path, frame, run


def rows_of(split, raw):
    """Where a split's samples stand in the whole table."""
    # Some versions of pandas read a text's numbers to their last digit but one.
    return [int(raw.isclose(row, rtol=1e-6).all(1).nonzero()[0]) for row in split.x]


# ----------------------------------------------------------------------------- the test split


def test_digits_come_out_as_they_were_measured(digits):
    test = load_data(digits.config).test.x
    assert torch.equal(digits.predict(test), wanted(digits))
    assert torch.allclose(digits.predict(test.float() / 255), wanted(digits), atol=1e-6)
    assert torch.allclose(digits.predict(test.numpy(), batch_size=7), wanted(digits), atol=1e-5)
    assert torch.equal(digits.outputs(test), arrays_of(digits)["test_logits"])
    assert not digits.network.training
    assert digits.classes == tuple("0123456789")
    assert digits.temperature == digits.metrics["temperature"] != 1
    accuracy = (digits.predict(test).argmax(1) == arrays_of(digits)["test_labels"]).float().mean()
    assert float(accuracy) == pytest.approx(digits.metrics["accuracy"], abs=1e-6)


def test_a_folders_files_come_out_as_they_were_measured(photos):
    root, run = photos
    paths = load_data(run.config).test.paths
    assert torch.equal(run.predict(paths), wanted(run))
    assert torch.equal(run.predict([str(path) for path in paths]), wanted(run))
    opened = [Image.open(path) for path in paths]
    assert torch.equal(run.predict(opened), wanted(run))
    assert run.predict(root).shape == (32, 2)
    assert torch.equal(run.predict(paths[0]), run.predict(opened[0]))


def test_a_table_comes_out_as_it_was_measured_with_its_calibrated_deviation(table):
    path, frame, run = table
    dataset, found = load_data(run.config), arrays_of(run)
    everything = run.predict(path)
    assert everything.mean.shape == everything.std.shape == (80, 1)
    test = run.predict(dataset.test.x)
    assert torch.allclose(test.mean.float(), found["test_mean"])
    scale = run.metrics["variance_scale"]
    assert run.variance_scale == scale
    assert torch.allclose(test.std.float(), scale * found["test_std"])
    outputs = run.outputs(dataset.test.x)
    assert torch.equal(outputs, found["test_logits"])
    # The file's own rows, read and made into inputs again, are the test split's.
    raw = torch.cat([s.x for s in (dataset.train, dataset.val, dataset.test)])
    assert len(raw) == 80
    places = rows_of(dataset.test, run_inputs(run, frame))
    assert torch.allclose(run.outputs(frame.iloc[places]), outputs, rtol=1e-4)
    assert torch.equal(run.outputs(path)[places], outputs)
    shuffled = frame[["rooms", "price", "area", "town"]]
    assert torch.allclose(run.outputs(shuffled)[places], outputs, rtol=1e-4)


def run_inputs(run, frame):
    from mixwell.trained.inputs import samples_of

    return samples_of(run.transform, frame).split.x


def test_a_table_without_names_comes_out_as_it_was_measured(tmp_path):
    # As Airfoil: five columns without a header in a data folder.
    generator = np.random.default_rng(1)
    rows = generator.normal(size=(60, 6))
    np.savetxt(tmp_path / "airfoil_self_noise.dat", rows, delimiter="\t")
    run = trained(tmp_path / "run", data="airfoil", data_dir=str(tmp_path))
    dataset = load_data(run.config)
    assert torch.equal(run.outputs(dataset.test.x), arrays_of(run)["test_logits"])
    np.savetxt(tmp_path / "new.csv", dataset.test.x, delimiter=",")
    estimate = run.predict(tmp_path / "new.csv")
    found = dataset.in_units(arrays_of(run)["test_logits"])
    mean = arrays_of(run).get("test_mean", found)
    assert torch.allclose(estimate.mean, mean.double(), atol=1e-4)
    with pytest.raises(InputError, match=r"must have 5 columns of numbers, it has 6"):
        run.predict(tmp_path / "airfoil_self_noise.dat")


def test_a_series_comes_out_as_it_was_measured(tmp_path):
    path = tmp_path / "rates.csv"
    values = np.cumsum(np.random.default_rng(2).normal(size=(120, 2)), 0)
    frame = pd.DataFrame(values, columns=["chf", "jpy"])
    frame.insert(0, "day", [f"day {i}" for i in range(120)])
    frame.to_csv(path, index=False)
    run = trained(tmp_path / "run", data=f"series:{path}", window=8, horizon=2)
    dataset, found = load_data(run.config), arrays_of(run)
    assert torch.equal(run.outputs(dataset.test.x), found["test_logits"])
    every = run.outputs(path)
    assert len(every) == 120 - 8 + 1
    # The last windows have nothing after them that could be measured.
    test = every[len(every) - 2 - len(dataset.test) : len(every) - 2]
    assert torch.allclose(test, found["test_logits"], atol=1e-6)
    assert torch.allclose(run.outputs(frame), every)
    with pytest.raises(InputError, match="lacks the column 'jpy'"):
        run.predict(frame.drop(columns="jpy"))
    with pytest.raises(InputError, match="fewer than the window of 8"):
        run.predict(frame.iloc[:5])


# ------------------------------------------------------------------------------------- inputs


def test_images_of_other_sizes_and_kinds_are_taken(digits, tmp_path):
    large = torch.randint(0, 256, (3, 1, 20, 31), dtype=torch.uint8)
    assert digits.predict(large).shape == (3, 10)
    assert digits.predict(large[0]).shape == (1, 10)
    assert digits.predict(list(large)).shape == (3, 10)
    picture = Image.fromarray(large[0, 0].numpy())
    colour = picture.convert("RGB")  # is made grey again
    assert torch.allclose(digits.predict(picture), digits.predict(colour), atol=0.05)
    picture.save(tmp_path / "a.png")
    assert torch.equal(digits.predict(tmp_path / "a.png"), digits.predict(picture))
    assert torch.equal(digits.predict(picture), digits.predict(large[0]))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.zeros(2, 3, 8, 8), r"must have 1 channel, .* got 3"),
        (torch.zeros(2, 8, 8, 1), r"the channels stand last"),
        (torch.full((1, 1, 8, 8), 255.0), r"must be raw, in \[0, 1\], got 255"),
        (torch.zeros(1, 1, 8, 8, dtype=torch.int64), r"must be bytes or floating"),
        (torch.zeros(8), r"a sample of this run has shape \(1, 8, 8\)"),
        ([], r"the list is empty"),
        ("nowhere.png", r"nowhere.png: there is no such file"),
        (object(), r"a object is no image"),
        (pd.DataFrame({"a": [1]}), r"predicts images, not tables"),
    ],
)
def test_what_cannot_be_predicted_is_named(digits, given, message):
    with pytest.raises(InputError, match=message):
        digits.predict(given)


def test_broken_files_are_named(photos, tmp_path):
    _, run = photos
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"broken.png is no image that can be decoded"):
        run.predict(tmp_path)
    (tmp_path / "broken.png").unlink()
    with pytest.raises(InputError, match="holds no images"):
        run.predict(tmp_path)


def test_tables_that_do_not_fit_are_named(table, tmp_path):
    _, frame, run = table
    with pytest.raises(InputError, match=r"lacks the column 'area'; it must have area, rooms, to"):
        run.predict(frame.drop(columns="area"))
    frame.rename(columns={"area": "aria"}).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(InputError, match=r"t.csv lacks the column 'area'.*did you mean 'aria'"):
        run.predict(tmp_path / "t.csv")
    with pytest.raises(InputError, match=r"row 1: town='Rome' was not among .* Aix, Bath, Ulm"):
        run.predict(frame.assign(town="Rome"))
    with pytest.raises(InputError, match=r"row 2: rooms='many' is no number"):
        run.predict(frame.assign(rooms=["1", "many", *["2"] * 78]))
    # What is to be predicted need not be there.
    frame.assign(price="").to_csv(tmp_path / "t.csv", index=False)
    assert run.predict(tmp_path / "t.csv").mean.shape == (80, 1)


# ------------------------------------------------------------------------------------ loading


def test_folders_that_hold_no_finished_run_say_what_they_hold(digits, tmp_path):
    with pytest.raises(InputError, match="is no folder"):
        mixwell.load_run(tmp_path / "none")
    with pytest.raises(InputError, match="holds no finished run"):
        mixwell.load_run(tmp_path)
    with pytest.raises(InputError, match="name one of them: digits"):
        mixwell.load_run(digits.folder.parent)
    copy = tmp_path / "copy"
    shutil.copytree(digits.folder, copy)
    (copy / "model.pt").write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"model.pt can't be read"):
        mixwell.load_run(copy)
    (copy / "model.pt").unlink()
    with pytest.raises(InputError, match=r"there is no model\.pt"):
        mixwell.load_run(copy)
    (copy / "result.json").unlink()
    with pytest.raises(InputError, match="hasn't ended"):
        mixwell.load_run(copy)
    with pytest.raises(InputError, match="device='nowhere' can't be had"):
        mixwell.load_run(digits.folder, device="nowhere")


def test_a_run_of_a_version_that_kept_no_transform_takes_it_from_its_data(digits, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(digits.folder, copy)
    result = read_json(copy / "result.json")
    del result["transform"]
    write_json(copy / "result.json", result)
    assert mixwell.load_run(copy).transform == digits.transform


def test_a_transform_is_kept_as_it_is():
    data = load_data(RunConfig(data="diabetes"))
    transform = Transform.of(data)
    assert transform.target_std == tuple(data.target_std.tolist())
    assert Transform.from_dict(transform.to_dict()) == transform
    with pytest.raises(InputError, match="damaged"):
        Transform.from_dict({"columns": [], "nonsense": 1})


_NET = """
from torch import nn

def net(num_classes, input_shape):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.{}(), nn.Linear(8, num_classes))
"""


def test_a_network_from_outside_is_what_it_was_in_the_run(tmp_path, monkeypatch):
    (tmp_path / "ownnets.py").write_text(_NET.format("ReLU"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    run = trained(tmp_path / "run", model="ownnets:net", train_size=100)
    monkeypatch.setattr(plugins, "_LOADED", {})
    monkeypatch.setattr(plugins, "_PATHS", {})
    monkeypatch.delitem(sys.modules, "ownnets")
    (tmp_path / "ownnets.py").write_text(_NET.format("Tanh"))  # meanwhile something else
    again = mixwell.load_run(tmp_path / "run", trust=True)
    test = load_data(RunConfig(train_size=100)).test.x
    assert torch.equal(again.predict(test), wanted(run))
    assert isinstance(again.network[2], torch.nn.ReLU)
