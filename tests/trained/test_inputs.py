"""Raw inputs mean in use what they meant in training, whatever the data were."""

import sys

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch.utils.data import Dataset, TensorDataset

import mixwell
from mixwell import InputError, data
from mixwell.data.transform import Transform
from mixwell.trained.inputs import samples_of
from mixwell.training import RunConfig, train

TINY = {"epochs": 2, "threads": 1, "method": "erm", "loader_workers": 0, "batch_size": 32}


def digits():
    """Bytes (200, 1, 8, 8) and their classes."""
    found = load_digits()
    pixels = torch.from_numpy(found.images * 255 / 16).round().to(torch.uint8)[:200, None]
    return pixels, torch.from_numpy(found.target).long()[:200]


class Own(Dataset):
    """A data set of one's own, whose samples are what ``change`` makes of bytes."""

    def __init__(self, change):
        self.x, self.targets = digits()
        self.change = change

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.change(self.x[i]), int(self.targets[i])


def name_current(function):
    """Let ``current`` of this module be the data that a run names."""
    sys.modules[__name__].current = function


def _tensors(change):
    x, y = digits()
    return TensorDataset(change(x), y)


def _standardised(x):
    x = x.float()
    return (x - 75) / 95


KINDS = {
    "bytes": lambda: _tensors(lambda x: x),
    "unit": lambda: _tensors(lambda x: x.float() / 255),
    "floating bytes": lambda: _tensors(lambda x: x.float()),
    "whole numbers": lambda: _tensors(lambda x: x.long()),
    "standardised": lambda: _tensors(_standardised),
    "rows of bytes": lambda: _tensors(lambda x: x.flatten(1)),
    "rows": lambda: _tensors(lambda x: x.flatten(1).double()),
    "volumes of bytes": lambda: _tensors(lambda x: x[:, :, None]),
    "own in bytes": lambda: Own(lambda x: x),
    "own arrays in bytes": lambda: Own(lambda x: x.numpy()),
    "own in [0, 1]": lambda: Own(lambda x: x / 255),
    "own standardised": lambda: Own(_standardised),
    "wide": lambda: _tensors(lambda x: torch.nn.functional.pad(x, (0, 8))),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Of each kind of data a run, made when it is asked for, and the data as they are returned."""
    root, known = tmp_path_factory.mktemp("runs"), {}

    def get(kind):
        if kind not in known:
            name_current(KINDS[kind])
            folder = root / kind.replace(" ", "-").replace("/", "-")
            train(RunConfig(data=f"{__name__}:current", **TINY), folder)
            known[kind] = mixwell.load_run(folder), KINDS[kind]()
        return known[kind]

    return get


def returned(dataset):
    """All inputs just as the data set returns them."""
    return torch.stack([torch.as_tensor(dataset[i][0]) for i in range(len(dataset))])


def kept(run):
    with np.load(run.folder / "predictions.npz") as arrays:
        return torch.from_numpy(arrays["test_logits"])


@pytest.mark.cases(quick=4)
@pytest.mark.parametrize("kind", KINDS)
def test_what_a_data_set_returns_is_predicted_as_in_training(runs, kind):
    run, dataset = runs(kind)
    outputs = run.outputs(returned(dataset))
    # The test split's samples are among them: each of its outputs is found again.
    gaps = (kept(run)[:, None] - outputs[None]).abs().amax(2).amin(1)
    assert float(gaps.max()) < 1e-3 * float(outputs.std())
    assert torch.allclose(run.outputs(returned(dataset).numpy()), outputs, atol=1e-5)


@pytest.mark.cases(quick=4)
@pytest.mark.parametrize("kind", KINDS)
def test_a_list_is_predicted_as_each_of_its_items(runs, kind):
    run, _ = runs(kind)
    x = digits()[0]
    if len(run.transform.shape) == 1:
        x = x.flatten(1)
    elif len(run.transform.shape) == 4:
        x = x[:, :, None]
    pictures = [Image.fromarray(one.numpy()) for one in digits()[0][:2, 0]]
    items = [
        *x[:2], *x[2:4].float() / 255, *x[4:6].double() / 255, *x[6:8].half() / 255,
        *(x[8:10].float() / 255).numpy(), *pictures, x[10:12],
    ]  # fmt: skip
    alone, taken = [], []
    for item in items:
        try:
            alone.append(run.outputs(item))
        except InputError:
            continue
        taken.append(item)
    assert len(taken) >= 8
    assert torch.allclose(run.outputs(taken), torch.cat(alone), atol=1e-4)
    assert torch.allclose(run.outputs(taken[::-1]).flip(0)[:1], alone[0][:1], atol=1e-4)


@pytest.mark.parametrize("kind", ["bytes", "unit"])
def test_where_values_are_in_the_unit_range_all_forms_are_the_same_image(runs, kind, tmp_path):
    run, _ = runs(kind)
    x = digits()[0][:5]
    wanted = run.predict(x)
    pictures = [Image.fromarray(one.numpy()) for one in x[:, 0]]
    files = [tmp_path / f"{i}.png" for i in range(5)]
    for picture, file in zip(pictures, files, strict=True):
        picture.save(file)
    for form in (x.float() / 255, x.double() / 255, x.numpy(), pictures, files, tmp_path):
        assert torch.allclose(run.predict(form), wanted, atol=1e-5)


@pytest.mark.parametrize("kind", ["floating bytes", "standardised", "whole numbers"])
def test_bytes_and_files_are_refused_where_nothing_says_their_scale(runs, kind, tmp_path):
    run, _ = runs(kind)
    x = digits()[0][:2]
    picture = Image.fromarray(x[0, 0].numpy())
    picture.save(tmp_path / "a.png")
    for form in (x, list(x), x.numpy(), picture, [picture, x[0].float()], tmp_path / "a.png"):
        with pytest.raises(InputError, match=r"not in \[0, 1\].*as the data set returns them"):
            run.predict(form)


@pytest.mark.parametrize("kind", ["own in [0, 1]", "own standardised"])
def test_bytes_are_refused_that_the_data_sets_transforms_did_not_see(runs, kind):
    run, _ = runs(kind)
    with pytest.raises(InputError, match="as the data set returns them"):
        run.predict(digits()[0])
    with pytest.raises(InputError, match="own transforms"):
        run.predict(Image.fromarray(digits()[0][0, 0].numpy()))


@pytest.mark.parametrize("kind", ["bytes", "unit", "rows of bytes", "own in bytes"])
def test_floating_values_of_bytes_are_refused_where_training_had_the_unit_range(runs, kind):
    run, dataset = runs(kind)
    bytes_ = returned(dataset) if "bytes" in kind else digits()[0]
    with pytest.raises(InputError, match=r"must be raw, in \[0, 1\], got 0 to 255"):
        run.predict(bytes_.float())
    with pytest.raises(InputError, match="must be bytes or floating"):
        run.predict(bytes_.long())


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_named_so(runs, kind):
    run, _ = runs(kind)
    empty = torch.zeros(0, *run.transform.shape)
    for form in ([], (), empty, empty.numpy(), empty.to(torch.uint8), [empty], empty.long()):
        with pytest.raises(InputError, match=r"there is nothing to predict: .* is empty"):
            run.predict(form)


def test_a_transform_of_an_older_version_says_what_its_moments_say(runs):
    for kind, wanted in (
        ("bytes", "bytes"), ("unit", "unit"), ("standardised", "numbers"),
        ("floating bytes", "numbers"),
    ):  # fmt: skip
        run, _ = runs(kind)
        values = run.transform.to_dict()
        assert run.transform.encoding == wanted
        assert Transform.from_dict(values) == run.transform
        del values["encoding"], values["source"]
        values["unit_range"] = kind == "bytes"
        assert Transform.from_dict(values).encoding == wanted


# ----------------------------------------------------------------------------------- geometry


def sized(shape, size, how="bilinear"):
    """A data set of images of a shape, made to a size as a network from elsewhere expects them."""
    x = torch.randint(0, 256, (40, *shape), dtype=torch.uint8)
    name_current(lambda: TensorDataset(x, torch.arange(40) % 2))
    inputs = data.Inputs(size, (0.4,) * shape[0], (0.2,) * shape[0], size, how)
    return data.load(f"{__name__}:current", inputs=inputs)


@pytest.mark.parametrize("shape", [(1, 8, 16), (3, 16, 8), (1, 9, 9), (1, 31, 7)])
@pytest.mark.parametrize("how", ["bilinear", "bicubic"])
@pytest.mark.parametrize("form", ["bytes", "floating", "one by one", "mixed"])
def test_own_images_have_in_use_the_geometry_that_they_had_in_training(shape, how, form):
    dataset = sized(shape, 12, how)
    transform = Transform.of(dataset)
    seen = torch.cat([x for x, _, _ in dataset.test.batches(16)])
    raw = dataset.test.x
    given = {
        "bytes": raw,
        "floating": raw.float() / 255,
        "one by one": list(raw),
        "mixed": [raw[0], *(raw[1:].double() / 255)],
    }[form]
    found = samples_of(transform, given).split
    assert torch.allclose(torch.cat([x for x, _, _ in found.batches(16)]), seen, atol=1e-5)


def test_the_middle_of_other_images_is_cut_out_in_the_shape_of_trainings():
    transform = Transform.of(sized((1, 8, 16), 8))
    image = torch.randint(0, 256, (1, 24, 16), dtype=torch.uint8)  # its middle is 8 x 16
    middle = transform.fitted(image[:, 8:16])
    assert torch.equal(transform.fitted(image), middle)
    assert middle.shape == (1, 8, 8)
    files = samples_of(transform, [Image.fromarray(image[0].numpy())] * 2).split
    ((x, _, _),) = files.batches(2)
    assert torch.allclose(x[0], transform(middle[None])[0], atol=1e-6)


def test_a_squares_middle_is_still_cut_out_where_nothing_was_stretched(runs):
    run, _ = runs("bytes")
    image = torch.randint(0, 256, (1, 8, 20), dtype=torch.uint8)
    assert torch.equal(run.predict(image), run.predict(image[..., 6:14]))


def test_the_kept_samples_of_every_kind_are_raw(runs):
    for kind in KINDS:
        run, _ = runs(kind)
        with np.load(run.folder / "predictions.npz") as arrays:
            raw = torch.from_numpy(arrays["test_inputs"])
        assert torch.allclose(run.outputs(raw), kept(run)[: len(raw)], atol=1e-3), kind


def test_tables_are_in_the_units_of_training_too(runs):
    run, dataset = runs("rows of bytes")
    rows = returned(dataset)
    frame = pd.DataFrame(rows.numpy() / 255)
    assert torch.allclose(run.predict(frame), run.predict(rows), atol=1e-5)
    with pytest.raises(InputError, match=r"the table must be raw, in \[0, 1\], got 0 to 255"):
        run.predict(pd.DataFrame(rows.numpy()))
    run, dataset = runs("rows")
    frame = pd.DataFrame(returned(dataset).numpy())
    assert torch.allclose(run.predict(frame), run.predict(returned(dataset)), atol=1e-5)
    whole = returned(dataset).to(torch.uint8)  # numbers, as any are
    assert torch.allclose(run.predict(whole), run.predict(returned(dataset)), atol=1e-5)
