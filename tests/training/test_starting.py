import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import mixwell
from mixwell import InputError, data, models
from mixwell.cli import main
from mixwell.training import RunConfig, prepare, read_result, train
from mixwell.training.build import (
    load_data,
    make_model,
    make_optimizer,
    make_schedule,
    resolved,
    schedule_notes,
)
from mixwell.training.starting import train_mode

TINY = {"train_size": 100, "epochs": 1, "threads": 1, "batch_size": 20}
SMALL = "timm:test_resnet"
BNS = nn.modules.batchnorm._NormBase


@pytest.fixture
def digits():
    return data.load("digits", train_size=100)


@pytest.fixture
def saved(digits, tmp_path):
    """The file of a small network's weights, of other classes than the digits'."""
    network = models.build("cnn", input_shape=digits.input_shape, num_outputs=4)
    torch.save(network.state_dict(), tmp_path / "cnn.pt")
    return tmp_path / "cnn.pt"


def made(digits, **options):
    config = resolved(RunConfig(**{**TINY, **options}), digits)
    notes = []
    return config, make_model(config, digits, notes), notes


# ----------------------------------------------------------------------------------------- weights


def test_weights_of_a_file_but_for_a_head_of_other_classes(digits, saved):
    _, model, notes = made(digits, model="cnn", init=str(saved))
    state, head = torch.load(saved), models.head_of(model, digits.input_shape)
    own = model.state_dict()
    for name, value in state.items():
        if name.startswith(f"{head}."):
            assert own[name].shape != value.shape
        else:
            assert torch.equal(own[name], value)
    assert notes == [f"the head {head!r} begins anew: init={str(saved)!r} has 4 outputs, this 10"]


def test_a_head_of_as_many_classes_is_taken_along(digits, tmp_path):
    network = models.build("cnn", input_shape=digits.input_shape, num_outputs=10)
    torch.save({"state_dict": {f"module.{k}": v for k, v in network.state_dict().items()}},
               tmp_path / "whole.pt")  # fmt: skip
    _, model, notes = made(digits, model="cnn", init=str(tmp_path / "whole.pt"))
    assert model.state_dict().keys() == network.state_dict().keys()
    for name, value in network.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)
    assert notes == []


def test_safetensors_are_read(digits, saved):
    safetensors = pytest.importorskip("safetensors.torch")
    path = saved.with_suffix(".safetensors")
    safetensors.save_file(torch.load(saved), path)
    first, second = (made(digits, model="cnn", init=str(p))[1] for p in (saved, path))
    name = next(iter(first.state_dict()))
    assert torch.equal(first.state_dict()[name], second.state_dict()[name])


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("touched"),))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda state: state.pop(next(iter(state))), "it lacks"),
        (lambda state: state.update({"more.weight": torch.ones(2)}), "has no more.weight"),
        (lambda state: state.update({next(iter(state)): torch.ones(7, 7)}), "is of shape (7, 7)"),
        (lambda state: state.clear(), "holds no state_dict"),
        (lambda state: state.update({"x": 3}), "holds no state_dict"),
        (lambda state: state.update({"x": Evil()}), "holds no weights that can be read"),
    ],
)
def test_weights_that_dont_fit_are_named(content, words, digits, saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state = torch.load(saved)
    content(state)
    torch.save(state, saved)
    with pytest.raises(InputError) as error:
        made(digits, model="cnn", init=str(saved))
    assert words in str(error.value)
    assert not Path("touched").exists()


def test_a_run_goes_on_as_the_start_of_another(tmp_path):
    train(RunConfig(method="erm", model_options={"width": 8}, **TINY), tmp_path / "first")
    config = RunConfig(method="mixup", coarse=True, init=str(tmp_path / "first"), **TINY)
    run = prepare(config)
    assert (run.config.model, run.config.model_options) == ("cnn", {"width": 8})
    first = read_result(tmp_path / "first")
    # What the first was normalised by, not what these samples would be.
    assert run.dataset.input == {**first["input"], "resize": None, "interpolation": "bilinear"}
    result = train(run, tmp_path / "second")
    assert "begins anew" in result["notes"][0]
    assert result["input"]["mean"] == first["input"]["mean"]


def test_weights_identify_a_run_and_not_where_they_lie(saved, tmp_path):
    config = RunConfig(model="cnn", init=str(saved), **TINY)
    (tmp_path / "copy.pt").write_bytes(saved.read_bytes())
    copy = replace(config, init=str(tmp_path / "copy.pt"))
    assert config.fingerprint == copy.fingerprint
    assert prepare(copy).config.fingerprint == prepare(config).config.fingerprint
    assert prepare(copy).name == prepare(config).name
    state = torch.load(saved)
    state[next(iter(state))] += 1
    torch.save(state, tmp_path / "copy.pt")
    assert replace(copy).fingerprint != config.fingerprint
    assert "init=" in config.difference(copy)
    kept = prepare(config).config
    saved.unlink()
    assert (
        RunConfig.from_dict(json.loads(json.dumps(kept.to_dict()))).fingerprint == kept.fingerprint
    )
    with pytest.raises(InputError, match="there is no such file"):
        prepare(config)


# -------------------------------------------------------------------------------------- pretrained


def local(network, tmp_path):
    """Return the options by which timm takes its weights from a file, and the file's network."""
    torch.save(network.state_dict(), tmp_path / "timm.pth")
    return {"pretrained_cfg_overlay": {"file": str(tmp_path / "timm.pth"), "num_classes": 7}}


def test_timms_own_weights_size_and_normalisation(tmp_path):
    timm = pytest.importorskip("timm")
    network = timm.create_model("test_resnet", num_classes=7)
    options = local(network, tmp_path)
    config = RunConfig(model=SMALL, pretrained=True, model_options=options, **TINY)
    run = prepare(config)
    known = timm.get_pretrained_cfg("test_resnet")
    size = known.input_size[1]
    assert run.dataset.input_shape == (1, size, size)
    assert run.config.image_size == size
    assert run.dataset.input["mean"] == [pytest.approx(sum(known.mean) / 3)]
    notes = []
    model = make_model(run.config, run.dataset, notes)
    kept = "layer1.0.conv1.weight"
    assert torch.equal(model.state_dict()[kept], network.state_dict()[kept])
    assert "of 7 classes, these data of 10" in notes[0]
    assert prepare(replace(config, image_size=32)).dataset.input_shape == (1, 32, 32)
    untrained = make_model(replace(run.config, pretrained=False), run.dataset)
    assert not torch.equal(untrained.state_dict()[kept], network.state_dict()[kept])


def test_torchvisions_weights(monkeypatch):
    from torchvision.models import ResNet18_Weights, resnet18

    network = resnet18(num_classes=1000)
    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", lambda *_, **__: network.state_dict())
    given = {"model": "torchvision:resnet18", "pretrained": True, "image_size": 32}
    run = prepare(RunConfig(**given, **TINY))
    model = make_model(run.config, run.dataset)
    state = network.state_dict()
    assert torch.equal(model.layer4[1].conv2.weight, state["layer4.1.conv2.weight"])
    assert torch.allclose(model.conv1.weight, state["conv1.weight"].sum(1, keepdim=True))
    assert run.dataset.input["std"] == [pytest.approx((0.229 + 0.224 + 0.225) / 3)]


@pytest.fixture
def fetched(monkeypatch):
    """Let torchvision have weights of its models without fetching them."""
    from torchvision.models import get_model
    from torchvision.models._api import WeightsEnum

    def weights(self, *_, **__):
        name = type(self).__name__.removesuffix("_Weights").lower()
        torch.manual_seed(0)
        own = {"aux_logits": True, "init_weights": True} if name == "googlenet" else {}
        state = get_model(name, weights=None, **own).state_dict()
        # Norms that were trained, so that what is done to the input matters.
        for key in [key for key in state if key.endswith("running_var")]:
            state[key] = state[key] * 0.5
        return state

    monkeypatch.setattr(WeightsEnum, "get_state_dict", weights)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    from PIL import Image

    root = tmp_path_factory.mktemp("colours")
    generator = torch.Generator().manual_seed(0)
    for name in ("a", "b"):
        (root / name).mkdir()
        for number in range(12):
            pixels = torch.randint(0, 256, (32, 32, 3), generator=generator, dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(root / name / f"{number}.png")
    return root


@pytest.mark.cases(slow=1)
@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("torchvision:googlenet", {}),
        ("torchvision:googlenet", {"transform_input": False}),
        ("torchvision:resnet18", {"weights": "IMAGENET1K_V1"}),
    ],
)
def test_what_came_with_pretrained_weights_is_loaded_and_started_from(
    model, options, fetched, photos, tmp_path
):
    common = {
        "data": f"folder:{photos}", "image_size": 32, "epochs": 1, "batch_size": 8, "threads": 1,
        "method": "erm", "loader_workers": 0, "augment": False, "accelerator": "cpu",
    }  # fmt: skip
    config = RunConfig(model=model, pretrained=True, model_options=options, **common)
    result = train(config, tmp_path / "first")
    assert not any("made again" in note for note in result["notes"])
    run = mixwell.load_run(tmp_path / "first")
    with np.load(tmp_path / "first" / "predictions.npz") as arrays:
        wanted = torch.from_numpy(arrays["test_logits"])
    test = data.load(config.data, image_size=32, workers=0, seed=config.seed).test
    assert torch.allclose(run.outputs(test.paths), wanted, atol=1e-4)
    if "googlenet" in model:
        implied = options.get("transform_input", True)
        assert run.network.transform_input == implied
        assert run.config.model_options["transform_input"] == implied
    # A run that starts from it, and one that starts from that, with the model named or not.
    for name, before, named in (("second", "first", None), ("third", "second", model)):
        start = RunConfig(init=str(tmp_path / before), model=named, **{**common, "epochs": 0})
        notes = train(start, tmp_path / name)["notes"]
        assert notes == []
        again = mixwell.load_run(tmp_path / name)
        assert torch.allclose(again.outputs(test.paths), wanted, atol=1e-4)


def test_settings_that_are_given_go_before_a_runs_own(tmp_path):
    small = {**TINY, "train_size": 60, "threads": 1}
    train(RunConfig(model="cnn", model_options={"pool": True}, **small), tmp_path / "first")
    for named in (None, "cnn"):
        start = RunConfig(
            init=str(tmp_path / "first"), model=named, model_options={"dropout": 0.1}, **small
        )
        assert prepare(start).config.model_options == {"pool": True, "dropout": 0.1}


def test_architecture_is_all_but_which_weights_they_were():
    of = models.architecture
    assert of("torchvision:resnet18", {"weights": "DEFAULT", "width": 2}, True) == {"width": 2}
    assert of("torchvision:inception_v3", {}, True) == {"transform_input": True}
    assert of("torchvision:inception_v3", {}, False) == {}
    assert of("timm:fbnetc_100.rmsp_in1k", {}, True) == {"bn_eps": 1e-3}
    assert of("nets:Net", {"weights": 3}, True) == {"weights": 3}  # one's own word


def test_images_of_a_folder_are_made_to_what_the_weights_know(tmp_path):
    from PIL import Image

    for name in ("a", "b"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(10):
            Image.new("RGB", (20, 30), (number * 20, 90, 0)).save(
                tmp_path / "photos" / name / f"{number}.png"
            )
    inputs = models.inputs_of("torchvision:resnet18", {}).sized(16)
    photos = data.load(f"folder:{tmp_path / 'photos'}", inputs=inputs, workers=0)
    assert photos.input == {
        "size": [3, 16, 16], "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225],
        "resize": 18, "interpolation": "bilinear",
    }  # fmt: skip
    x, _, _ = next(iter(photos.val.batches(2)))
    assert x.shape == (2, 3, 16, 16)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": "cnn", "pretrained": True}, "has no weights that could be fetched"),
        ({"model": "timm:test_resnot", "pretrained": True}, "did you mean 'test_resnet'"),
        ({"model": "torchvision:resnet19"}, "did you mean 'resnet18'"),
        ({"model": "torchvision:resnet18", "pretrained": True,
          "model_options": {"weights": "IMAGENET1K_V7"}}, "did you mean 'IMAGENET1K_V1'"),
        ({"model": "torchvision:resnet18", "model_options": {"weights": "DEFAULT"}},
         "are for --pretrained"),
        ({"data": "diabetes", "model": "torchvision:resnet18"}, "takes images"),
    ],
)  # fmt: skip
def test_what_has_no_weights_is_said(options, words):
    with pytest.raises(InputError, match=words):
        prepare(RunConfig(epochs=1, **options))


@pytest.mark.parametrize("name", ["timm:test_resnet", "torchvision:resnet18"])
def test_weights_that_cant_be_fetched_end_with_what_to_do(name, monkeypatch, tmp_path, capsys):
    from timm.models import _builder
    from torchvision.models import ResNet18_Weights

    def fail(*_, **__):
        raise OSError("no network")

    for hub in ("load_state_dict_from_hf", "load_state_dict_from_url"):
        monkeypatch.setattr(_builder, hub, fail)
    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", fail)
    monkeypatch.chdir(tmp_path)
    arguments = ["train", "--model", name, "--pretrained", "--image-size", "32"]
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert "can't be had: OSError: no network" in message
    assert "--init FILE" in message
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------- frozen, and rates


def frozen_run(tmp_path, **options):
    config = RunConfig(model=SMALL, method="mixup", **{**TINY, "train_size": 60}, **options)
    dataset = load_data(config)
    torch.manual_seed(config.seed)
    before = make_model(resolved(config, dataset), dataset)
    result = train(config, tmp_path / "run")
    return before, torch.load(tmp_path / "run" / "model.pt"), result


@pytest.mark.parametrize("freeze", [("layer[12]*", "conv1"), (r"layer[12]\..*|conv1.*",)])
def test_frozen_parts_stay_and_their_statistics_too(freeze, tmp_path):
    pytest.importorskip("timm")
    before, after, result = frozen_run(tmp_path, freeze=freeze, image_size=None)
    for name, value in before.state_dict().items():
        frozen = name.startswith(("layer1.", "layer2.", "conv1"))
        moved = not torch.equal(value, after[name])
        assert moved != frozen or (not moved and value.numel() == 1), name
    assert result["config"]["freeze"] == list(freeze)
    assert any(note.startswith("frozen: ") for note in result["notes"])


def test_backbone_is_all_but_the_head(digits):
    _, model, _ = made(digits, model="cnn", freeze=("backbone",))
    head = models.head_of(model, digits.input_shape)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained == [f"{head}.weight", f"{head}.bias"]
    for pattern, words in (("stag1", "did you mean 'stage1'"), ("*", "nothing is left to train")):
        with pytest.raises(InputError, match=words):
            made(digits, model="cnn", freeze=(pattern,))


def test_norms_that_are_trained_stay_in_training_mode(digits):
    _, model, _ = made(digits, model="resnet18", freeze=("layer1",))
    train_mode(model.eval())
    for name, module in model.named_modules():
        if isinstance(module, BNS):
            assert module.training != name.startswith("layer1."), name


class Moves(nn.Module):
    """Parts that change without gradient, within a body and beside a head."""

    def __init__(self, num_classes, kind):
        super().__init__()
        spectral = {
            "hook": nn.utils.spectral_norm,
            "parametrized": nn.utils.parametrizations.spectral_norm,
        }.get(kind, lambda layer: layer)
        norm = nn.BatchNorm2d(4, affine=False) if kind == "norm" else nn.Identity()
        norm = nn.InstanceNorm2d(4, track_running_stats=True) if kind == "instance" else norm
        self.body = nn.Sequential(
            spectral(nn.Conv2d(1, 4, 3)), norm, Counter() if kind == "own" else nn.Identity(),
            nn.ReLU(), nn.Dropout(0.2), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        )  # fmt: skip
        self.neck = nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16, affine=False))
        self.head = nn.Linear(16, num_classes)

    def forward(self, x):
        return self.head(self.neck(self.body(x)))


class Counter(nn.Module):
    """Moves by itself in training."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, x):
        if self.training:
            self.mean.lerp_(x.detach().mean(), 0.1)
        return x - self.mean


@pytest.mark.cases(quick=5)
@pytest.mark.parametrize("kind", ["norm", "instance", "hook", "parametrized", "own"])
@pytest.mark.parametrize("freeze", ["body", r"body\..*", "backbone"])
def test_what_moves_without_gradient_is_frozen_with_the_part_that_it_is_of(kind, freeze, tmp_path):
    config = RunConfig(
        model=f"{__name__}:Moves", model_options={"kind": kind}, method="mixup", freeze=(freeze,),
        **{**TINY, "train_size": 60},
    )  # fmt: skip
    dataset = load_data(config)
    torch.manual_seed(config.seed)
    before = make_model(resolved(config, dataset), dataset).state_dict()
    train(config, tmp_path / "run")
    after = torch.load(tmp_path / "run" / "model.pt", weights_only=True)
    for name, value in before.items():
        frozen = name.startswith("body") or (freeze == "backbone" and name.startswith("neck"))
        assert torch.equal(value, after[name]) == frozen, name


def test_only_what_moves_leaves_training_mode(digits):
    _, model, _ = made(
        digits, model=f"{__name__}:Moves", model_options={"kind": "norm"}, freeze=("body",)
    )
    train_mode(model)
    still = [name for name, module in model.named_modules() if not module.training]
    assert still == ["body.1"]
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    train_mode(model)
    assert all(module.training for module in model.modules())


def test_the_backbones_rate_is_a_factor_of_the_heads(digits, saved):
    config, model, _ = made(digits, model="cnn", init=str(saved), lr=0.2)
    assert config.backbone_lr == 0.1
    head, others = make_optimizer(config, model, False, digits.input_shape).param_groups
    assert (head["lr"], others["lr"]) == (0.2, pytest.approx(0.02))
    assert len(head["params"]) == 2
    assert len(head["params"]) + len(others["params"]) == len(list(model.parameters()))
    (group,) = make_optimizer(replace(config, backbone_lr=1), model, False).param_groups
    assert group["lr"] == 0.2


def test_layers_decay_by_timms_own_groups(digits):
    pytest.importorskip("timm")
    given = {"model": "timm:test_vit", "layer_decay": 0.5, "lr": 1.0, "image_size": 16}
    larger = data.load("digits", train_size=100,
                       inputs=data.Inputs(16, (0.5,), (0.5,), 16))  # fmt: skip
    config, model, _ = made(larger, **given)
    groups = make_optimizer(config, model, False, larger.input_shape).param_groups
    rates = {round(group["lr"], 6) for group in groups}
    assert max(rates) == 1.0
    assert {0.5, 0.25} <= rates
    config, model, _ = made(digits, model="cnn", layer_decay=0.5)
    with pytest.raises(InputError, match="has no layers that timm can tell"):
        make_optimizer(config, model, False, digits.input_shape)
    with pytest.raises(InputError, match="give layer_decay or backbone_lr"):
        RunConfig(layer_decay=0.5, backbone_lr=0.1)


# --------------------------------------------------------------------------- settings and schedule


def test_what_starts_from_weights_is_trained_otherwise(digits, saved):
    scratch = resolved(RunConfig(model="cnn"), digits)
    fine = resolved(RunConfig(model="cnn", init=str(saved)), digits)
    assert (fine.optimizer, fine.epochs, fine.warmup_epochs) == ("adamw", 10, 1.0)
    assert fine.lr < scratch.lr
    assert scratch.backbone_lr is None
    assert resolved(RunConfig(model="cnn", init=str(saved), lr=0.3), digits).lr == 0.3
    with pytest.raises(InputError, match="both say which weights"):
        RunConfig(init=str(saved), pretrained=True)


@pytest.mark.parametrize("schedule", ["cosine", "step", "constant"])
@pytest.mark.parametrize("epochs", [1, 2, 10, 100])
def test_warm_up_takes_a_tenth_at_most(schedule, epochs):
    config = RunConfig(schedule=schedule, warmup_epochs=5.0, epochs=epochs, lr=0.1)
    factor = make_schedule(config, 7, 7 * epochs)
    reached = next(step for step in range(7 * epochs) if factor(step) == 1.0)
    assert reached <= 0.1 * 7 * epochs
    notes = schedule_notes(config, 7, 7 * epochs)
    assert len(notes) == (epochs < 50)


def test_a_rate_that_never_reached_its_peak_is_told(tmp_path):
    config = RunConfig(method="erm", schedule="onecycle", **{**TINY, "batch_size": 90})
    with pytest.warns(UserWarning, match="never reached its peak of 0.05"):
        result = train(config, tmp_path / "run")
    assert "in 1 steps it came to 4 % of it" in result["notes"][0]
    assert train(RunConfig(method="erm", **TINY), tmp_path / "other")["notes"] == []


@pytest.mark.slow
def test_the_command_line_says_it(saved, tmp_path, capsys):
    arguments = ["train", "--model", "cnn", "--init", str(saved), "--freeze", "backbone",
                 "--train-size", "100", "--epochs", "1", "--threads", "1"]  # fmt: skip
    assert main([*arguments, "--out", str(tmp_path / "run")]) == 0
    shown = capsys.readouterr().out
    assert "begins anew" in shown
    assert "frozen: " in shown
    arguments = ["compare", *arguments[1:], "--methods", "erm,mixup", "--seeds", "1"]
    assert main([*arguments, "--out", str(tmp_path / "all")]) == 0
    assert capsys.readouterr().out.count("begins anew") == 1


# ------------------------------------------------------------------------ inputs that correspond


def table(path, columns, rows=120, seed=0):
    """A table whose classes are told by one column, and its frame."""
    import pandas as pd

    generator = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "a": generator.normal(size=rows),
            "b": 10 + 5 * generator.normal(size=rows),
            "town": generator.choice(["Ulm", "Aix"], rows),
            "c": -3 + generator.normal(size=rows),
        }
    )
    frame["kind"] = np.where(frame["a"] + (frame["town"] == "Ulm") > 0.5, "yes", "no")
    frame = frame.rename(columns=dict(zip("abc", columns, strict=False)))
    frame.to_csv(path, index=False)
    return frame


TABLE = {"epochs": 3, "threads": 1, "method": "erm", "task": "classification"}


@pytest.fixture(scope="module")
def on_a_table(tmp_path_factory):
    root = tmp_path_factory.mktemp("table")
    frame = table(root / "t.csv", "abc")
    train(RunConfig(data=f"csv:{root / 't.csv'}", **TABLE), root / "run")
    return root / "run", frame


@pytest.mark.parametrize("order", [[3, 2, 1, 0], [2, 0, 3, 1], [0, 1, 2, 3]])
def test_columns_are_put_in_the_order_that_a_run_knows(order, on_a_table, tmp_path):
    folder, frame = on_a_table
    names = [frame.columns[i] for i in order]
    frame[[*names, "kind"]].to_csv(tmp_path / "other.csv", index=False)
    config = RunConfig(
        data=f"csv:{tmp_path / 'other.csv'}", init=str(folder), **{**TABLE, "epochs": 0}
    )
    dataset = prepare(config).dataset
    before = mixwell.load_run(folder)
    assert dataset.columns == before.transform.columns
    train(config, tmp_path / "run")
    after = mixwell.load_run(tmp_path / "run")
    # Without a step it is the same network, on the same inputs.
    assert torch.allclose(after.outputs(frame), before.outputs(frame), atol=1e-5)


def test_columns_that_a_run_does_not_know_are_refused(on_a_table, tmp_path):
    folder, frame = on_a_table
    path = tmp_path / "other.csv"
    config = RunConfig(data=f"csv:{path}", init=str(folder), **TABLE)
    frame.rename(columns={"b": "beta"}).to_csv(path, index=False)
    with pytest.raises(InputError, match="these data lack b and have beta beside them"):
        prepare(config)
    frame.drop(columns="b").to_csv(path, index=False)
    with pytest.raises(InputError, match=r"these data lack b$"):
        prepare(config)
    frame.assign(town=frame["town"].replace("Aix", "Bath")).to_csv(path, index=False)
    with pytest.raises(InputError, match="lack town=Aix and have town=Bath"):
        prepare(config)


def named(names):
    """A table whose sum tells three classes, called by these names in this order."""
    x = torch.randn(240, 4, generator=torch.Generator().manual_seed(0))
    kinds = torch.bucketize(x.sum(1), torch.tensor([-1.0, 1.0]))
    found = TensorDataset(x, torch.tensor([names.index(NAMES[kind]) for kind in kinds]))
    found.classes = list(names)
    return found


NAMES = ("low", "middle", "high")
UNTRAINED = {"epochs": 0, "method": "erm", "threads": 1}


def own_named():
    return named(NAMES)


def own_turned():
    return named(("high", "low", "middle"))


def own_renamed():
    found = named(NAMES)
    found.classes = ["small", "middle", "large"]
    return found


@pytest.fixture(scope="module")
def of_named(tmp_path_factory):
    folder = tmp_path_factory.mktemp("named") / "run"
    train(RunConfig(data=f"{__name__}:own_named", epochs=20, method="erm", threads=1), folder)
    return folder


def test_classes_are_put_in_the_order_of_the_data(of_named, tmp_path):
    start = RunConfig(data=f"{__name__}:own_turned", init=str(of_named), **UNTRAINED)
    result = train(start, tmp_path / "run")
    before, after = mixwell.load_run(of_named), mixwell.load_run(tmp_path / "run")
    assert after.classes == ("high", "low", "middle")
    x = own_turned().tensors[0]
    order = [before.classes.index(name) for name in after.classes]
    assert torch.equal(after.network(x), before.network(x)[:, order])
    assert "put in the order of these data, high, low, middle" in result["notes"][0]
    assert result["metrics"]["accuracy"] > 0.6


def test_a_head_of_classes_of_other_names_begins_anew(of_named, tmp_path):
    start = RunConfig(data=f"{__name__}:own_renamed", init=str(of_named), **UNTRAINED)
    result = train(start, tmp_path / "run")
    note = result["notes"][0]
    assert "begins anew" in note
    assert "tells low, middle, high, these data are of small, middle, large" in note
    before = torch.load(of_named / "model.pt")
    after = torch.load(tmp_path / "run" / "model.pt")
    kept = [name for name in before if torch.equal(before[name], after[name])]
    assert kept
    head = {name for name in before if name not in kept}
    assert len({name.rpartition(".")[0] for name in head}) == 1


def test_a_series_in_another_order_is_refused(tmp_path):
    import pandas as pd

    values = np.cumsum(np.random.default_rng(2).normal(size=(120, 2)), 0)
    frame = pd.DataFrame(values, columns=["chf", "jpy"])
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame[["jpy", "chf"]].to_csv(tmp_path / "b.csv", index=False)
    common = {"window": 8, "horizon": 2, "epochs": 1, "threads": 1, "method": "erm"}
    train(RunConfig(data=f"series:{tmp_path / 'a.csv'}", **common), tmp_path / "run")
    start = RunConfig(data=f"series:{tmp_path / 'b.csv'}", init=str(tmp_path / "run"), **common)
    with pytest.raises(InputError, match="in another order, jpy, chf: give them in that one"):
        prepare(start)
    prepare(replace(start, data=f"series:{tmp_path / 'a.csv'}"))


def own(change):
    """A data set of one's own: digits, changed."""
    from sklearn.datasets import load_digits

    found = load_digits()
    pixels = torch.from_numpy(found.images * 255 / 16).round().to(torch.uint8)[:200, None]
    return TensorDataset(change(pixels), torch.from_numpy(found.target)[:200].long())


def own_bytes():
    return own(lambda x: x)


def own_unit():
    return own(lambda x: x.float() / 255)


def own_floating_bytes():
    return own(lambda x: x.float())


def own_standardised():
    return own(lambda x: (x.float() - 80) / 90)


def own_wide():
    return own(lambda x: nn.functional.pad(x, (8, 0)))


@pytest.fixture(scope="module")
def of_digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits") / "run"
    train(RunConfig(model="cnn", method="erm", **TINY), folder)
    return folder


@pytest.mark.parametrize("name", ["bytes", "unit", "floating_bytes", "standardised"])
def test_kept_inputs_are_for_images_in_the_unit_range(name, of_digits):
    config = RunConfig(data=f"{__name__}:own_{name}", init=str(of_digits), **TINY)
    run = prepare(config)
    kept = mixwell.load_run(of_digits).transform
    notes = []
    make_model(run.config, run.dataset, notes)
    if name in ("bytes", "unit"):
        assert run.dataset.train.mean == pytest.approx(kept.mean)
        assert notes == []
    else:
        x = torch.cat([x for x, _, _ in run.dataset.train.batches(50)])
        assert float(x.mean()) == pytest.approx(0, abs=0.01)
        assert float(x.std()) == pytest.approx(1, abs=0.01)
        assert any("not in [0, 1]" in note for note in notes)


def test_a_stretched_image_is_predicted_as_it_was_trained_on(of_digits, tmp_path):
    config = RunConfig(data=f"{__name__}:own_wide", init=str(of_digits), **TINY)
    train(config, tmp_path / "run")
    run, test = mixwell.load_run(tmp_path / "run"), load_data(config).test
    assert run.transform.source == (8, 16)
    with np.load(tmp_path / "run" / "predictions.npz") as arrays:
        wanted = torch.from_numpy(arrays["test_logits"])
    for given in (test.x, test.x.float() / 255, list(test.x)):
        assert torch.allclose(run.outputs(given), wanted, atol=1e-4)
