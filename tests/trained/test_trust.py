"""Nothing that a run's folder holds is executed unasked, whatever reads it."""

import importlib
import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import mixwell
from mixwell import InputError, plugins, studies
from mixwell.cli import main
from mixwell.training import RunConfig, prepare, train
from mixwell.training.files import read_json, write_json

SOURCE = """
from pathlib import Path
from torch import nn

Path({marker!r}).touch()

def net(num_classes, input_shape):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, num_classes))

def digits():
    from torch.utils.data import TensorDataset
    import torch
    return TensorDataset(torch.rand(90, 1, 8, 8), torch.arange(90) % 3)
"""
METHOD = """
from pathlib import Path

Path({marker!r}).touch()
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run whose network and data come from a file, and the marker that this leaves."""
    root = tmp_path_factory.mktemp("foreign")
    marker = root / "executed"
    (root / "foreign_nets.py").write_text(SOURCE.format(marker=str(marker)))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(sys, "path", list(sys.path))
        config = RunConfig(
            data="foreign_nets:digits", model="foreign_nets:net", epochs=1, threads=1, seed=3
        )
        train(config, root / "run")
    assert marker.exists()
    return root


@pytest.fixture
def root(made, tmp_path, monkeypatch):
    """A copy of that folder in a process that has imported nothing, which is its current one."""
    shutil.copytree(made, tmp_path / "root")
    monkeypatch.chdir(tmp_path / "root")
    monkeypatch.setattr(plugins, "_LOADED", {})
    monkeypatch.setattr(plugins, "_PATHS", {})
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "foreign_nets", raising=False)
    (made / "executed").unlink(missing_ok=True)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save("a.png")
    yield tmp_path / "root"
    sys.modules.pop("foreign_nets", None)


def changed(root, **fields):
    """Let the run's files say something else."""
    for name in ("result.json", "config.json"):
        content = read_json(root / "run" / name)
        config = content["config"] if name == "result.json" else content
        config.update(fields)
        write_json(root / "run" / name, content)


def without_transform(root):
    result = read_json(root / "run" / "result.json")
    del result["transform"]
    write_json(root / "run" / "result.json", result)


COMMANDS = {
    "predict run a.png": 2,
    "predict run a.png --out p.csv": 2,
    "export run --to n.onnx": 2,
    "export run --to n.pt2": 2,
    "report run": 0,
    "train --data digits --init run --epochs 1 --out other": 2,
    "train --data digits --init run/model.pt --epochs 1 --train-size 50 --out other": 2,
    "train --data digits --epochs 1 --out run": 2,
    "compare --data digits --init run --methods erm,mixup --seeds 1 --out other": 2,
    "study balanced --data digits --init run --methods erm --seeds 1 --out other": 2,
    "study balanced --data digits --methods erm --seeds 1 --epochs 1 --results run/result.json": 2,
    "tune --data digits --init run --trials 1 --out other": 2,
    "recommend --data digits --init run --budget 1m --out other": 2,
    "preview --data digits --init run --method mixup --out p.png": 2,
    "preview --data digits --weights run/model.pt --method mixup --out p.png": 2,
}


@pytest.mark.cases(quick=7)
@pytest.mark.parametrize("command", list(COMMANDS))
@pytest.mark.parametrize("in_the_current_folder", [True, False])
def test_no_command_executes_what_a_run_keeps(root, made, command, in_the_current_folder, capsys):
    if not in_the_current_folder:
        (root / "foreign_nets.py").unlink()
    assert main(command.split()) == COMMANDS[command], capsys.readouterr().err
    assert not (made / "executed").exists()
    assert "foreign_nets" not in sys.modules


def test_functions_do_not_either(root, made):
    for read in (mixwell.load_run, studies.load_records, studies.load_results):
        try:
            read(root / "run")
        except InputError as error:
            assert "foreign_nets" in str(error)  # noqa: PT017
    assert not (made / "executed").exists()


def test_the_error_names_what_is_kept_and_what_lets_it_be_executed(root):
    with pytest.raises(InputError, match=r"source that it keeps of foreign_nets.*--import foreign"):
        mixwell.load_run("run")
    with pytest.raises(InputError, match=r"trust=True \(--trust\)"):
        mixwell.load_run("run")
    with pytest.raises(InputError, match="name its network yourself: --model foreign_nets:net"):
        prepare(RunConfig(data="digits", init="run"))


def test_trust_executes_it(root, made, capsys):
    (root / "foreign_nets.py").write_text("something else")
    run = mixwell.load_run("run", trust=True)
    assert (made / "executed").exists()
    assert run.predict(torch.zeros(2, 1, 8, 8)).shape == (2, 3)
    assert main(["predict", "run", "a.png", "--trust"]) == 0
    assert main(["export", "run", "--to", "n.pt2", "--trust"]) == 0


@pytest.mark.parametrize("how", ["import", "load"])
def test_what_is_imported_already_is_not_executed_again(root, made, how):
    sys.path.append(str(root))
    importlib.import_module("foreign_nets") if how == "import" else plugins.load("foreign_nets")
    (made / "executed").unlink()
    assert mixwell.load_run("run").predict(torch.zeros(1, 1, 8, 8)).shape == (1, 3)
    assert not (made / "executed").exists()


@pytest.mark.parametrize("name", ["foreign_nets", "foreign_nets.py"])
def test_ones_own_file_takes_the_place_of_what_is_kept(root, name):
    assert main(["predict", "run", "a.png", "--import", name]) == 0


@pytest.mark.parametrize("how", ["import", "load"])
def test_another_text_of_it_is_refused(root, how):
    (root / "foreign_nets.py").write_text((root / "foreign_nets.py").read_text() + "\n# other\n")
    sys.path.append(str(root))
    importlib.import_module("foreign_nets") if how == "import" else plugins.load("foreign_nets")
    with pytest.raises(InputError, match=r"has changed since the run|another foreign_nets than is"):
        mixwell.load_run("run")


def test_what_prediction_does_without_is_left_out(root, made):
    # A method is for training: a network of mixwell's own predicts without it.
    train(RunConfig(epochs=1, threads=1, train_size=60), root / "plain")
    text = METHOD.format(marker=str(made / "executed"))
    result = read_json(root / "plain" / "result.json")
    record = {"name": "bands.py", "module": "bands", "text": text}
    result["config"]["imports"] = [record]
    write_json(root / "plain" / "result.json", result)
    assert mixwell.load_run("plain").predict(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
    assert not (made / "executed").exists()
    # But data have to be loaded for a run that kept no transform, and so it needs all of it.
    del result["transform"]
    write_json(root / "plain" / "result.json", result)
    with pytest.raises(InputError, match="source that it keeps of bands"):
        mixwell.load_run("plain")
    assert not (made / "executed").exists()


@pytest.mark.parametrize("name", ["subprocess:run", "os:system", "foreign_nets:net"])
@pytest.mark.parametrize("version", [True, False])
@pytest.mark.parametrize("argument", ["model", "data"])
def test_a_folder_that_names_any_function_calls_none(root, made, name, version, argument):
    module = name.partition(":")[0]
    records = [{"name": module, "module": module, "version": "1"}] if version else []
    command = f"touch {made / 'executed'}"
    options = {"args": command, "shell": True} if "run" in name else {"command": command}
    fields = {"imports": records, argument: name}
    if argument == "model":
        fields["model_options"] = {} if "net" in name else options
    else:
        fields.update(model="mlp")
        without_transform(root)
    changed(root, **fields)
    with pytest.raises(InputError, match=f"not executed unasked: the module {module}"):
        mixwell.load_run("run")
    if argument == "model":
        assert main(["train", "--data", "digits", "--init", "run", "--out", "other"]) == 2
    assert not (made / "executed").exists()
