"""A run's network is loaded as it was trained, or not at all."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from torch import nn

import mixwell
from mixwell import InputError
from mixwell.training import RunConfig, train
from mixwell.training.build import load_data
from mixwell.training.machine import precision_notes
from mixwell.training.remade import kept_of

TINY = {  # on the processor, where tensors stay that are no buffers
    "epochs": 3, "threads": 1, "method": "erm", "train_size": 200, "batch_size": 20,
    "accelerator": "cpu",
}  # fmt: skip


def _body(num_classes, width=64):
    return nn.Sequential(nn.Linear(width, 32), nn.ReLU(), nn.Linear(32, num_classes))


class Attribute(nn.Module):
    """Random features in a tensor that is a plain attribute."""

    def __init__(self, num_classes):
        super().__init__()
        self.features = 0.2 * torch.randn(64, 64)
        self.net = _body(num_classes)

    def forward(self, x):
        return self.net((x.flatten(1) @ self.features).sin())


class Buffer(nn.Module):
    """A permutation in a buffer that the state_dict doesn't have."""

    def __init__(self, num_classes):
        super().__init__()
        self.register_buffer("order", torch.randperm(64), persistent=False)
        self.net = _body(num_classes)

    def forward(self, x):
        return self.net(x.flatten(1)[:, self.order])


class Drawn(Attribute):
    """Random features by NumPy's and Python's draws."""

    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.features = torch.from_numpy(np.random.randn(64, 64)).float()  # noqa: NPY002


class Extra(nn.Module):
    """A number in the state_dict beside its tensors."""

    def __init__(self, num_classes):
        super().__init__()
        self.scale = 1.0
        self.net = _body(num_classes)

    def get_extra_state(self):
        return {"scale": self.scale}

    def set_extra_state(self, state):
        self.scale = state["scale"]

    def forward(self, x):
        if self.training:
            self.scale *= 1.01
        return self.net(x.flatten(1)) * self.scale


MADE = {"count": 0}


class Counted(Attribute):
    """Another network with each that is made: no seed knows."""

    def __init__(self, num_classes):
        super().__init__(num_classes)
        MADE["count"] += 1
        generator = torch.Generator().manual_seed(MADE["count"])
        self.features = 0.5 * torch.randn(64, 64, generator=generator)


class Moving(nn.Module):
    """What training changes beside the weights."""

    def __init__(self, num_classes):
        super().__init__()
        self.scale = 1.0
        self.net = _body(num_classes)

    def forward(self, x):
        if self.training:
            self.scale = 0.9 * self.scale + 0.1 * 3.0
        return self.net((x.flatten(1) - self.scale).sin())


class Noisy(nn.Module):
    """One that never answers twice alike."""

    def __init__(self, num_classes):
        super().__init__()
        self.net = _body(num_classes)

    def forward(self, x):
        return self.net(x.flatten(1) + torch.randn(len(x), 64))


class Whole(Attribute):
    """The remedy."""

    def __init__(self, num_classes):
        super().__init__(num_classes)
        features = self.features
        del self.features
        MADE["count"] += 1
        self.register_buffer("features", features * MADE["count"])


def ran(folder, net, **options):
    return train(RunConfig(model=f"{__name__}:{net.__name__}", **{**TINY, **options}), folder)


def accuracy(run):
    test = load_data(run.config).test
    return float((run.predict(test.x).argmax(1) == test.y).float().mean())


def test_what_is_kept_beside_tensors_is_started_from(tmp_path):
    ran(tmp_path / "first", Extra)
    wanted = mixwell.load_run(tmp_path / "first")
    ran(tmp_path / "second", Extra, init=str(tmp_path / "first"), epochs=0)
    start = mixwell.load_run(tmp_path / "second")
    assert start.network.scale == wanted.network.scale > 1.1
    x = load_data(wanted.config).test.x
    assert torch.equal(start.outputs(x), wanted.outputs(x))


@pytest.mark.cases(quick=4)
@pytest.mark.parametrize("net", [Attribute, Buffer, Drawn, Extra, Whole])
@pytest.mark.parametrize("options", [{}, {"ema": 0.9}], ids=["plain", "averaged"])
def test_a_network_is_the_one_that_was_measured(tmp_path, net, options):
    result = ran(tmp_path, net, **options)
    assert not any("made again" in note for note in result["notes"])
    torch.manual_seed(77)
    before = torch.get_rng_state()
    run = mixwell.load_run(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    assert accuracy(run) == pytest.approx(result["metrics"]["accuracy"], abs=1e-6)
    with np.load(tmp_path / "predictions.npz") as arrays:
        assert np.array_equal(run.outputs(load_data(run.config).test.x), arrays["test_logits"])


@pytest.mark.parametrize("net", [Counted, Moving])
def test_a_network_that_can_not_be_made_again_is_refused_and_the_run_says_so(tmp_path, net):
    told = []
    config = RunConfig(model=f"{__name__}:{net.__name__}", **TINY)
    result = train(config, tmp_path, report=told.append)
    (note,) = [note for note in result["notes"] if "can't be made again" in note]
    assert "register_buffer" in note
    assert {"kind": "note", "text": note, "warns": True} in told
    with pytest.raises(InputError, match=r"answers otherwise than when the run ended.*persistent"):
        mixwell.load_run(tmp_path)


@pytest.mark.parametrize("seed", [3, 4])
def test_a_network_that_never_answers_twice_alike_is_loaded(tmp_path, seed):
    assert ran(tmp_path, Noisy)["notes"] == []
    torch.manual_seed(seed)  # another process draws otherwise
    before = torch.get_rng_state()
    mixwell.load_run(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    assert mixwell.load_run(tmp_path).predict(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_a_run_whose_network_can_not_even_be_made_twice_ends_all_the_same(tmp_path, monkeypatch):
    from mixwell.training import run as running

    def fails(*_, **__):
        raise InputError("no second one")

    monkeypatch.setattr("mixwell.training.remade.remade", fails)
    assert running.KEPT == 8
    result = ran(tmp_path, Whole)
    assert "no second one" in result["notes"][-1]
    monkeypatch.undo()
    assert mixwell.load_run(tmp_path).metrics == result["metrics"]


def test_runs_of_versions_that_kept_no_samples_are_loaded(digits, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(digits.folder, copy)
    weights = torch.load(copy / "model.pt", weights_only=True)
    torch.save(
        {name: torch.rand(value.shape).to(value.dtype) for name, value in weights.items()},
        copy / "model.pt",
    )
    with pytest.raises(InputError, match="answers otherwise"):
        mixwell.load_run(copy)
    with np.load(copy / "predictions.npz") as arrays:
        older = {name: arrays[name] for name in arrays.files if name != "test_inputs"}
    np.savez(copy / "predictions.npz", **older)
    assert kept_of(copy) is None
    mixwell.load_run(copy)
    (copy / "predictions.npz").unlink()
    mixwell.load_run(copy)
    (copy / "predictions.npz").write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"predictions.npz can't be read"):
        mixwell.load_run(copy)


@pytest.mark.parametrize("change", [torch.bfloat16, torch.float16])
def test_other_hardwares_rounding_passes(digits, tmp_path, change):
    copy = tmp_path / "copy"
    shutil.copytree(digits.folder, copy)
    weights = torch.load(copy / "model.pt", weights_only=True)
    rounded = {
        name: value.to(change).to(value.dtype) if value.is_floating_point() else value
        for name, value in weights.items()
    }
    torch.save(rounded, copy / "model.pt")
    mixwell.load_run(copy)


@pytest.mark.cases(quick=2)
@pytest.mark.parametrize(
    "options",
    [
        {"data": "diabetes"},
        {"data": "moons"},
        {"precision": "64-true"},
        {"precision": "bf16-mixed"},
    ],
)
def test_runs_of_all_kinds_pass(tmp_path, options):
    config = RunConfig(**{**TINY, "train_size": None, "epochs": 1, **options})
    train(config, tmp_path)
    slow = precision_notes(config.precision, torch.device("cpu"))  # which is the processor's
    assert json.loads((tmp_path / "result.json").read_text())["notes"] == slow
    mixwell.load_run(tmp_path)


def test_a_start_from_such_a_run_says_so(tmp_path):
    ran(tmp_path / "first", Attribute)
    common = {"init": str(tmp_path / "first"), "seed": 5, "epochs": 1}
    notes = ran(tmp_path / "second", Attribute, **common)["notes"]
    assert any("answers otherwise than that run's did" in note for note in notes)
    ran(tmp_path / "whole", Whole)
    common["init"] = str(tmp_path / "whole")
    assert ran(tmp_path / "third", Whole, **common)["notes"] == []
    assert __name__ in sys.modules
