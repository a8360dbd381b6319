"""Settings of the wrong type or at the edge: each is named, or works; nothing else ever comes."""

import math
from dataclasses import fields

import numpy as np
import pytest
import torch

import mixwell
from mixwell import InputError
from mixwell.cli import main
from mixwell.methods.composition import Composition
from mixwell.methods.slots import arguments_of
from mixwell.studies import study
from mixwell.training import RunConfig

BAD = {
    "text": "x", "number as text": "0.5", "empty text": "", "none": None, "true": True,
    "complex": 1 + 2j, "nan": math.nan, "inf": math.inf, "-inf": -math.inf, "negative": -1,
    "zero": 0, "half": 0.5, "two": 2, "huge": 10**400, "beyond digits": 10**5000, "large": 1e300,
    "tiny": 5e-324, "list": [0.2], "empty list": [], "texts": ["x"], "dict": {}, "set": {1},
    "numpy": np.float32(0.3), "numpy nan": np.float64("nan"), "numpy whole": np.int64(2),
    "numpy bool": np.bool_(True), "array": np.ones(3), "tensor": torch.tensor(0.4),
    "complex tensor": torch.tensor(1j), "vector": torch.ones(2), "bytes": b"1", "type": int,
    "function": len, "object": object(),
}  # fmt: skip
QUICK = ("text", "none", "true", "complex", "nan", "inf", "huge", "array", "list")
NEEDED = {"class_counts": [5, 4, 3, 2, 1], "num_samples": 8, "capacity": 8}
_OTHER_NETWORKS = ("transmix", "tokenmix")  # which read attention
OTHERS = ("num_classes", "task", "head", "feature_mode", "published", "generator", "pairing",
          "coefficient", "interpolation", "labels", "loss")  # fmt: skip


def settings_of_all():
    """Return each argument of each part once, with a method that has it."""
    found, seen = [("mixup", name) for name in OTHERS], set()
    for method in mixwell.list_methods():
        for slot in Composition(method).slots.values():
            for name in arguments_of(slot.part):
                if (slot.part, name) not in seen:
                    seen.add((slot.part, name))
                    found.append((method, name))
    return list(dict.fromkeys(found))


def made(method, argument, value):
    about = mixwell.describe(method)
    task = "classification" if "classification" in about.tasks else about.tasks[0]
    needed = {name: NEEDED[name] for name, v in about.defaults.items()
              if isinstance(v, str) and v == "required"}  # fmt: skip
    given = {"num_classes": 5, "task": task, **needed, argument: value}
    return mixwell.create(method, **given)


def refused_by_name(method, argument, value):
    """Return the method; None where the value was refused, with the argument's name."""
    try:
        return made(method, argument, value)
    except InputError as error:
        said = str(error)
    assert argument in said
    assert len(said) < 2000
    return None


@pytest.mark.slow
def test_settings_of_every_part_are_refused_by_name_or_taken():
    wrong = []
    for method, argument in settings_of_all():
        for kind in QUICK:
            try:
                refused_by_name(method, argument, BAD[kind])
            except Exception as error:
                wrong.append(f"{method}({argument}={kind}): {error!r}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.cases(slow=11)
@pytest.mark.parametrize("kind", [kind for kind in BAD if kind != "beyond digits"])
def test_what_is_taken_gives_a_finite_loss(kind, make_net):
    x, y = torch.randn(8, 3, 8, 8), torch.tensor([0, 1, 2, 3, 4, 0, 1, 2])
    for method, argument in settings_of_all():
        about = refused_by_name(method, argument, BAD[kind])
        if about is None or about.task.name == "regression":
            continue
        target = y if about.task.name == "classification" else torch.eye(5)[y]
        said, loss = "", torch.tensor(0.0)
        try:
            loss = about(make_net(), x, target, index=torch.arange(8))
        except InputError as error:  # the model has no such layer, say
            said = str(error)
        named = argument in said or "layer" in said or argument in ("num_classes", "task")
        assert not said or named or method in _OTHER_NETWORKS, (method, argument)
        assert bool(loss.isfinite()), (method, argument)


@pytest.mark.parametrize("value", ["x", 1, None, np.ones(2)])
@pytest.mark.parametrize(("method", "flag"), [
    ("decoupled", "asymmetric"), ("infinite_class", "gather"), ("alignmix", "relative"),
])  # fmt: skip
def test_flags_are_true_or_false(method, flag, value):
    with pytest.raises(InputError, match=f"{flag} must be True or False"):
        made(method, flag, value)


# ----------------------------------------------------------------------------- x, y, index and data


X, Y = torch.randn(6, 3, 8, 8), torch.tensor([0, 1, 2, 3, 4, 0])


@pytest.mark.parametrize(("given", "named"), [
    ({"y": Y.to(torch.complex64)}, "y"), ({"y": Y > 1}, "y"), ({"y": Y.tolist()}, "y"),
    ({"y": Y.numpy()}, "y"), ({"y": ["a"] * 6}, "y"), ({"y": Y + 100}, "y"), ({"y": Y - 9}, "y"),
    ({"y": torch.full((6, 5), math.nan)}, "y"), ({"y": torch.full((6, 5), -0.2)}, "y"),
    ({"y": Y[:0], "x": X[:0]}, "empty"), ({"y": Y[:3]}, "y"), ({"y": Y.float()}, "y"),
    ({"y": Y.to("meta")}, "y"), ({"y": None}, "y"), ({"y": torch.eye(5)[Y].to_sparse()}, "y"),
    ({"x": X.numpy()}, "x"), ({"x": "text"}, "x"), ({"x": None}, "x"), ({"x": X.to_sparse()}, "x"),
    ({"x": torch.tensor(1.0)}, "x"), ({"x": X * math.nan}, "x"), ({"x": X.to("meta")}, "x"),
    ({"index": [1]}, "index"), ({"index": torch.arange(3)}, "index"), ({"index": "x"}, "index"),
    ({"index": torch.ones(6)}, "index"), ({"x": {"a": X, "b": X[:2]}}, "x"),
    ({"data": 3}, "data"), ({"data": (X, None)}, "data"), ({"data": (X[:, :1], Y)}, "data"),
])  # fmt: skip
def test_what_a_step_is_given_is_named(given, named, make_net):
    method = mixwell.create("mixup", num_classes=5)
    call = {"x": X, "y": Y, **given}
    with pytest.raises(InputError, match=named):
        method(make_net(), call.pop("x"), call.pop("y"), **call)


# ------------------------------------------------------------------------------- a run's options


@pytest.mark.parametrize("name", [spec.name for spec in fields(RunConfig)])
def test_options_of_a_run_are_refused_by_name_or_kept_as_json(name):
    kinds = {spec.name: str(spec.type) for spec in fields(RunConfig)}
    for value in [*BAD.values(), {"a": object()}, {1: 2}, "a\0b", (1,), [None], [{"name": 1}]]:
        try:
            config = RunConfig(**{name: value})
        except InputError as error:
            unnamed = name not in str(error)
            config = None
        if config is None:
            assert not unnamed
            continue
        kept = getattr(config, name)
        if kinds[name].startswith("bool") and kept is not None:
            assert isinstance(kept, bool)
        if name != "init":  # which is looked for on the disk
            assert isinstance(config.fingerprint, str)


# ------------------------------------------------------------------------------------ study files


IN_YAML = (
    "x", "'5'", "''", "true", "1.5", "-1", "0", ".nan", ".inf", "1e300", "1" + "0" * 400, "[]",
    "1" + "0" * 5000, "[[]]", "[null]", "[x, y]", "[1, true]", "[.nan]", "[1, [2]]", "[{a: 1}]",
    "{}", "{a: 1}", "{1: 2}", "{a: {b: {c: 1}}}", "{mixup: null}", "2024-01-01", "2024-13-45",
    "!!binary aGVsbG8=", '"a\\0b"',
)  # fmt: skip
KEYS = tuple(study._OWN)
OPTIONS = tuple(s.name for s in fields(RunConfig) if s.name not in study._NOT_SAID)


def planned(key, text, folder):
    """Return what ``mixwell study`` ends with where the runs themselves are not made."""
    lines = {"methods": "[mixup]", "seeds": "1", "data": "moons", "epochs": "1", key: text}
    path = folder / "study.yaml"
    path.write_text("".join(f"{name}: {value}\n" for name, value in lines.items()))
    return main(["study", str(path)])


@pytest.fixture
def no_runs(monkeypatch, tmp_path):
    """Plan studies in an empty folder, and make no run of them."""
    from mixwell.cli import study as command

    def plan(planned, options, out, kind="", *rest):
        planned.plan(out, kind)
        return 0

    monkeypatch.setattr(command, "run_and_present", plan)
    monkeypatch.chdir(tmp_path)


def check_file(key, text, folder, capsys):
    status = planned(key, text, folder)
    said = capsys.readouterr().err
    assert status in (0, 2), (text, said)
    if status == 2:
        # A setting or a layer is named by its own name; pretrained asks for a model, which is.
        others = ("settings", "model_options", "pretrained")
        assert key.rstrip("s") in said or key in others or "YAML" in said
        assert len(said.strip().splitlines()) == 1
    assert [path.name for path in folder.iterdir()] == ["study.yaml"]


@pytest.mark.parametrize("key", KEYS)
def test_a_studys_own_keys_are_refused_by_name(key, no_runs, tmp_path, capsys):
    for text in IN_YAML[::2] if key not in ("methods", "seeds") else IN_YAML:
        check_file(key, text, tmp_path, capsys)


@pytest.mark.cases(slow=17)
@pytest.mark.parametrize("key", OPTIONS)
def test_a_studys_options_are_refused_by_name(key, no_runs, tmp_path, capsys):
    for text in IN_YAML:
        check_file(key, text, tmp_path, capsys)


def test_methods_as_a_mapping_do_not_lose_their_settings(no_runs, tmp_path, capsys):
    assert planned("methods", "{mixup: {alpha: 0.3}}", tmp_path) == 2
    assert "methods must be" in capsys.readouterr().err
