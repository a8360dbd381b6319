import importlib

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import mixwell
from mixwell import InputError, data, metrics, models
from mixwell.coefficient import Constant
from mixwell.data.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from mixwell.data.splits import IMAGENET_MEAN, IMAGENET_STD
from mixwell.metrics import measures
from mixwell.training import RunConfig, probes
from mixwell.training.evaluate import Findings, predict
from mixwell.training.predict import evidence_of, linear_head

CPU = torch.device("cpu")


def linear(*input_shape, num_outputs):
    return models.build("mlp", input_shape=input_shape, num_outputs=num_outputs, depth=0)


def look_at(model, dataset, config=None, method=None):
    outputs, _, _ = predict(model, dataset.test, CPU)
    features = torch.zeros(len(outputs), 0)
    if not isinstance(model, Contrast):
        _, _, features = predict(model, dataset.test, CPU, features=True)
    return probes.Subject(model, dataset, CPU, config or RunConfig(), method, outputs, features)


def taken(dataset, subject, more):
    """Return the measures that a probe's evidence allows, beside those of the predictions."""
    found = evidence_of(dataset, subject.outputs, dataset.test.y.cpu(), **more)
    return measures.take(found, measures.of(dataset.task))


def state_of(model):
    weights = [value.tolist() for value in model.state_dict().values()]
    return weights, [module.training for module in model.modules()]


@pytest.fixture
def painted(tmp_path):
    for colour in ("maroon", "silver"):
        (tmp_path / colour).mkdir()
        for i in range(10):
            Image.new("RGB", (20, 16), colour).save(tmp_path / colour / f"{i}.png")
    return f"folder:{tmp_path}"


def against(ood, name="digits"):
    return RunConfig(data=name, ood=ood, image_size=16, loader_workers=0)


def test_the_probe_finds_the_fine_classes_in_informative_features_alone():
    dataset = data.load("digits", coarse=True, train_size=200)
    pixels = linear(1, 8, 8, num_outputs=3)
    blind = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.Linear(4, 3))
    nn.init.zeros_(blind[1].weight)
    seeing, other = Findings(), Findings()
    for found, model in ((seeing, pixels), (other, blind)):
        before = state_of(model)
        subject = look_at(model, dataset)
        more = probes.fine_classes(subject, found)
        found.measures.update(taken(dataset, subject, more))
        assert state_of(model) == before
    assert seeing.measures["fine_accuracy"] > 0.85
    assert seeing.measures["val_fine_accuracy"] > 0.85
    names = {"fine_alignment", "fine_uniformity", "fine_margin", "fine_margin_balance"}
    assert names < set(seeing.measures)
    # Blind features are one point for all: nothing is between the classes.
    within, none = seeing.measures["fine_nc1"], other.measures["fine_nc1"]
    assert 0 < within < 10
    assert none != none
    assert seeing.details["fine_classes"] == list("0123456789")
    assert seeing.arrays["test_fine"].tolist() == dataset.fine.test.y.tolist()
    assert other.measures["fine_accuracy"] < 0.2


def test_collapse_is_of_the_training_split_at_the_model_s_head():
    dataset, model = data.load("digits", train_size=200), linear(1, 8, 8, num_outputs=10)
    subject, before = look_at(model, dataset), state_of(model)
    more = probes.collapse(subject, Findings())
    assert state_of(model) == before
    _, targets, features = predict(model, dataset.train, CPU, features=True)
    assert torch.equal(more["trained"].features, features)
    head = linear_head(model, dataset, CPU, features.shape[1])
    measured = taken(dataset, subject, {**more, "head": head, "features": subject.features})
    features = features.double()
    fit = metrics.simplex_fit(features, targets)
    for name, value in (
        ("nc1", metrics.class_variability(features, targets).mean()),
        ("nc1_test", metrics.class_variability(subject.features.double(), dataset.test.y).mean()),
        ("nc2", fit.distance), ("nc2_norms", fit.norms), ("nc2_angles", fit.angles),
        ("nc3", metrics.self_duality(features, targets, head[0])),
    ):  # fmt: skip
        assert measured[name] == pytest.approx(float(value)), name
    assert "nc3" not in taken(dataset, subject, more)
    assert probes.collapse(look_at(linear(10, num_outputs=1), data.load("diabetes")), None) == {}


def test_of_more_training_samples_than_memory_holds_some_are_looked_at(monkeypatch):
    module = importlib.import_module("mixwell.training.probes.collapse")
    monkeypatch.setattr(module, "_SEEN", 70)
    dataset, model = data.load("digits", train_size=200), linear(1, 8, 8, num_outputs=10)
    seen = probes.collapse(look_at(model, dataset), Findings())["trained"]
    _, targets, features = predict(model, dataset.train, CPU, features=True)
    rows = torch.cdist(seen.features, features).min(1)
    assert len(rows.indices.unique()) == len(seen.features) == 70
    assert rows.values.max() < 1e-2
    assert torch.equal(targets[rows.indices], seen.targets)
    again = probes.collapse(look_at(model, dataset), Findings())["trained"]
    assert torch.equal(again.features, seen.features)


def test_rare_classes_have_a_collapse_of_their_own():
    dataset = data.load("digits", imbalance=20)
    model = linear(1, 8, 8, num_outputs=10)
    subject = look_at(model, dataset)
    more = {**probes.collapse(subject, Findings()), "class_counts": dataset.class_counts}
    measured = taken(dataset, subject, more)
    by_class, counts = more["trained"].variability, dataset.class_counts
    assert counts.max() > 100
    assert counts.min() < 20
    for name, group in (("many", counts > 100), ("few", counts < 20)):
        assert measured[f"nc1_{name}"] == pytest.approx(float(by_class[group].mean()))
    even = {**more, "class_counts": torch.full((10,), 50)}
    assert "nc1_few" not in taken(dataset, subject, even)


# ----------------------------------------------------------------------------------------- people


def answers(dataset, seed=0):
    """Return made-up answers of twenty people to each test sample: mostly its label."""
    generator, classes = np.random.default_rng(seed), len(dataset.classes)
    shares = 0.8 * np.eye(classes)[dataset.test.y.numpy()] + 0.2 / classes
    return generator.multinomial(20, shares)


def filed(path, **arrays):
    np.savez(path, **arrays)
    return RunConfig(people=str(path))


def test_people_are_compared_with_what_the_network_says_of_the_same_samples(tmp_path):
    dataset, model = data.load("digits"), linear(1, 8, 8, num_outputs=10)
    counts = answers(dataset)
    for arrays in (
        {"counts": counts.astype(np.uint8), "other": np.ones(3)},
        {"only": counts.astype(float)},
    ):
        subject = look_at(model, dataset, filed(tmp_path / "people.npz", **arrays))
        found = Findings()
        more = probes.people(subject, found)
        assert more["people"].tolist() == counts.tolist() == found.arrays["people_counts"].tolist()
        measured = taken(dataset, subject, more)
        assert measured["people_kl"] == pytest.approx(
            float(metrics.people_divergence(subject.outputs.double(), torch.tensor(counts)))
        )
        assert "people_kl_scaled" in taken(dataset, subject, {**more, "temperature": 2.0})
    assert probes.people(look_at(model, dataset), found) == {}


def test_a_toy_can_be_asked_too(tmp_path):
    moons = data.load("moons")
    config = filed(tmp_path / "people.npz", counts=answers(moons))
    assert probes.load_people(moons, config).shape == (2000, 2)


def test_an_array_file_holds_counts_too(tmp_path):
    dataset = data.load("digits")
    np.save(tmp_path / "people.npy", answers(dataset))
    config = RunConfig(people=str(tmp_path / "people.npy"))
    assert probes.load_people(dataset, config).tolist() == answers(dataset).tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: {"counts": c[:-1]}, r"of shape \(359, 10\).* got \(358, 10\)"),
        (lambda c: {"counts": c[:, :-1]}, r"of shape \(359, 10\).* got \(359, 9\)"),
        (lambda c: {"counts": c / 20}, "whole numbers of people"),
        (lambda c: {"counts": c - 1}, "whole numbers of people"),
        (lambda c: {"counts": c * np.nan}, "whole numbers of people"),
        (lambda c: {"counts": c.astype(str)}, "whole numbers of people"),
        (lambda c: {"counts": c * (np.arange(len(c)) > 1)[:, None]}, "2 test samples were named"),
        (lambda c: {"counts": c[::-1]}, "in the order of the test split"),
        (lambda c: {"counts": np.roll(c, 1, axis=1)}, "columns in that of the classes"),
        (lambda c: {"first": c, "second": c}, "an array 'counts', or one alone, got first, second"),
        (lambda c: {"counts": c.astype(object)}, "can't be read"),
    ],
)
def test_what_are_no_counts_of_the_test_split_is_named(change, message, tmp_path):
    dataset = data.load("digits")
    config = filed(tmp_path / "people.npz", **change(answers(dataset)))
    with pytest.raises(InputError, match=rf"people='.*people.npz'.*{message}"):
        probes.load_people(dataset, config)


def test_what_is_no_file_of_counts_is_named(tmp_path):
    digits, path = data.load("digits"), tmp_path / "people.npz"
    config = RunConfig(people=str(path))
    with pytest.raises(InputError, match=r"people='.*': there is no such file"):
        probes.load_people(digits, config)
    whole = filed(path, counts=answers(digits)) and path.read_bytes()
    for content in (b"", b"7,3,0", whole[:300]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"people='.*' can't be read"):
            probes.load_people(digits, config)
    with pytest.raises(InputError, match=r"people='.*' needs classes, but data='diabetes'"):
        probes.load_people(data.load("diabetes"), config)


# --------------------------------------------------------------------------------------- outliers


def test_outliers_take_the_shape_and_normalisation_of_the_data(painted):
    digits = data.load("digits")
    split = probes.load_outliers(digits, against(painted))
    assert split.x.shape == (4, 1, 8, 8)
    assert split.mean == pytest.approx(digits.test.mean)
    assert split.std == pytest.approx(digits.test.std)
    assert sorted(split.x.unique().tolist()) == [43, 192]  # maroon is 128, 0, 0

    coloured = data.load(painted, image_size=16, workers=0)
    split = probes.load_outliers(coloured, against("digits", painted))
    assert split.x.shape == (len(digits.test), 3, 16, 16)
    assert torch.equal(split.x[:, 0], split.x[:, 2])
    assert split.mean == pytest.approx(IMAGENET_MEAN)
    assert split.std == pytest.approx(IMAGENET_STD)


def test_what_can_be_no_outliers_is_named():
    for name, ood, message in (
        ("digits", "digits", "ood='digits' must be another data set"),
        ("digits", "moons", "ood='moons' has no images"),
        ("diabetes", "digits", "ood='digits' needs images, but data='diabetes' has none"),
    ):
        with pytest.raises(InputError, match=message):
            probes.load_outliers(data.load(name), against(ood, name))


class Contrast(nn.Module):
    def forward(self, x):
        return torch.cat([x.flatten(1).std(1, keepdim=True), torch.zeros(len(x), 9)], 1)


def test_outliers_are_told_by_confidence(painted):
    digits, model, found = data.load("digits"), Contrast(), Findings()
    subject = look_at(model, digits, against(painted))
    measured = taken(digits, subject, probes.outliers(subject, found))
    assert measured["ood_auroc"] == 1.0
    assert measured["ood_fpr95"] == 0.0


def test_shift_measures_every_corruption_at_every_severity():
    dataset, model = data.load("digits"), linear(1, 8, 8, num_outputs=10)
    before = state_of(model)

    def shifted(seed):
        found, subject = Findings(), look_at(model, dataset, RunConfig(shift=True, seed=seed))
        found.measures.update(taken(dataset, subject, probes.shift(subject, found)))
        return found

    found = shifted(0)
    assert state_of(model) == before
    table = found.details["shift"]
    assert list(table) == list(CORRUPTIONS)
    assert all([r["severity"] for r in rows] == list(SEVERITIES) for rows in table.values())
    for name in ("accuracy", "ece"):
        values = [row[name] for rows in table.values() for row in rows]
        assert found.measures[f"shift_{name}"] == pytest.approx(sum(values) / 45)

    test, mean, std = dataset.test, dataset.test.mean[0], dataset.test.std[0]
    logits = model((corrupt(test.x / 255, "brightness", 5, torch.Generator()) - mean) / std)
    right = float(metrics.accuracy(logits, test.y))
    assert table["brightness"][4]["accuracy"] == pytest.approx(right)
    assert shifted(0).details == found.details
    other = shifted(1).details["shift"]
    assert other["rotation"] != table["rotation"]
    assert other["contrast"] == table["contrast"]
    toy = look_at(linear(2, num_outputs=2), data.load("moons"), RunConfig(shift=True))
    with pytest.raises(InputError, match="shift needs images, but data='moons' has none"):
        probes.shift(toy, found)


def test_uncertainty_is_scaled_by_what_fits_the_validation_split():
    dataset, found = data.load("diabetes"), Findings()
    model = models.build("mlp", input_shape=(10,), num_outputs=1)
    config = RunConfig(mc_samples=20)
    assert probes.uncertainty(look_at(model, dataset, config), found) == {}
    assert found == Findings()  # there is no dropout

    model = models.build("mlp", input_shape=(10,), num_outputs=1, width=16, dropout=0.3)
    model.layers[1].eval()
    before, random = state_of(model), torch.get_rng_state()
    subject = look_at(model, dataset, config)
    measured = taken(dataset, subject, probes.uncertainty(subject, found))
    assert state_of(model) == before
    assert torch.equal(torch.get_rng_state(), random)

    parts = {}
    model.train()
    for name, split in (("val", dataset.val), ("test", dataset.test)):
        torch.manual_seed(0)
        x, y, _ = next(split.batches(len(split)))
        with torch.no_grad():
            passes = torch.stack([dataset.in_units(model(x).double()) for _ in range(20)])
        parts[name] = passes.mean(0), passes.std(0), dataset.in_units(y.double())
    scale = metrics.fit_variance_scale(*parts["val"])
    assert measured["variance_scale"] == pytest.approx(scale)
    mean, std, wanted = parts["test"]
    for suffix, spread in (("", std), ("_scaled", scale * std)):
        nll = float(metrics.gaussian_nll(mean, spread, wanted))
        assert measured[f"nll{suffix}"] == pytest.approx(nll)
    assert {"uce", "ence", "pinball_scaled", "uce_scaled", "ence_scaled"} < set(measured)
    assert found.arrays["test_std"] == pytest.approx(std.numpy())


def mapped(method):
    model, found = linear(2, num_outputs=2), Findings()
    random = torch.get_rng_state()
    dataset = data.load("circles")
    subject = look_at(model, dataset, RunConfig(data="circles"), method)
    measured = taken(dataset, subject, probes.surface(subject, found))
    found.measures.update({k: measured[k] for k in ("intrusion", "off_manifold") if k in measured})
    assert torch.equal(torch.get_rng_state(), random)
    return found, model


def test_the_surface_holds_the_probability_of_the_second_class_around_the_data():
    found, model = mapped(None)
    x, y, surface = (torch.from_numpy(found.arrays[f"surface{k}"]) for k in ("_x", "_y", ""))
    probs = model(torch.stack([x[7], y[80]])[None]).softmax(1)[0]
    torch.testing.assert_close(surface[7, 80], probs[1].detach())
    for values, seen in zip((x, y), found.arrays["train_points"].T, strict=True):
        assert values[0] < seen.min() < seen.max() < values[-1]


def test_samples_that_are_not_mixed_do_not_intrude():
    found, _ = mapped(mixwell.create("mixup", num_classes=2, coefficient=Constant(1.0)))
    assert found.measures["intrusion"] == 0
    mixed, points = (found.arrays[f"{kind}_points"].tolist() for kind in ("mixed", "train"))
    assert sorted(mixed) == sorted(4 * points)


def test_mixed_samples_intrude_and_leave_the_manifold():
    method = mixwell.create("mixup", num_classes=2).eval()
    found, _ = mapped(method)
    assert not method.training
    assert len(found.arrays["mixed_points"]) == len(found.arrays["mixed_weight"]) == 4 * 540
    assert found.measures["intrusion"] == pytest.approx(found.arrays["mixed_intrudes"].mean())
    assert found.measures["intrusion"] > 0.05
    assert found.measures["off_manifold"] > 0.05
    again, _ = mapped(method)
    assert (again.arrays["mixed_points"] == found.arrays["mixed_points"]).all()


@pytest.mark.parametrize("name", ["am_mixup", "manifold_mixup", "erm"])
def test_methods_that_do_not_always_mix_inputs_show_no_mixed_points(name):
    found, _ = mapped(mixwell.create(name, num_classes=2))
    assert "surface" in found.arrays
    assert not any(key.startswith("mixed") for key in found.arrays)
    assert found.measures == {}


@pytest.mark.parametrize("method", ["cutmix", "mixup"])
def test_images_are_kept_as_they_are_mixed(method):
    dataset = data.load("digits", train_size=100)
    model = linear(1, 8, 8, num_outputs=10)
    made = mixwell.create(method, num_classes=10).eval()
    before, random = state_of(model), torch.get_rng_state()
    found = Findings()
    assert probes.samples(look_at(model, dataset, method=made), found) == {}
    own, partner, mixed = (found.arrays[f"samples_{n}"] for n in ("own", "partner", "mixed"))
    assert own.shape == partner.shape == mixed.shape == (5, 8, 8, 1)
    assert own.dtype == np.uint8
    low, high = np.minimum(own, partner), np.maximum(own, partner)
    assert (low.astype(int) - 1 <= mixed).all()
    assert (mixed <= high.astype(int) + 1).all()
    lam = found.arrays["samples_lam"][:, None, None, None]
    share = (mixed == own).mean((1, 2, 3)) if method == "cutmix" else None
    if method == "cutmix":  # at the least the box's complement is the own image
        assert (share >= lam[:, 0, 0, 0] - 1e-6).all()
    else:
        assert np.abs(lam * own + (1 - lam) * partner - mixed).max() <= 1
    names = found.arrays["samples_classes"]
    assert (names[:, 0] != names[:, 1]).all()
    assert state_of(model) == before
    assert torch.equal(torch.get_rng_state(), random)
    assert not made.training


@pytest.mark.parametrize("method", ["erm", "manifold_mixup", "multi_mixup", None])
def test_where_no_pairs_of_images_are_mixed_none_are_kept(method):
    dataset = data.load("digits", train_size=100)
    options = {"layer": "head"} if method == "manifold_mixup" else {}
    made = method and mixwell.create(method, num_classes=10, **options)
    found = Findings()
    probes.samples(look_at(linear(1, 8, 8, num_outputs=10), dataset, method=made), found)
    assert found.arrays == {}
