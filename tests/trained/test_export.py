import importlib.util
import json

import pytest
import torch

import mixwell
from mixwell import InputError
from mixwell.cli import main
from mixwell.trained import Deployed, export
from mixwell.training import RunConfig, train
from mixwell.training.build import load_data

onnx_is_there = importlib.util.find_spec("onnx") and importlib.util.find_spec("onnxscript")


def test_raw_images_go_in_and_calibrated_probabilities_come_out(digits):
    test = load_data(digits.config).test.x
    deployed = Deployed(digits).eval()
    with torch.no_grad():
        found = deployed(test.float() / 255)
    assert torch.allclose(found, digits.predict(test), atol=1e-6)


def test_a_program_of_torch_export_predicts_as_the_run_does(digits, tmp_path):
    made = export(digits, tmp_path / "digits.pt2")
    assert made.checked == "checked by torch.export, 8 test samples"
    assert made.difference < 1e-5
    extra = {"mixwell.json": ""}
    program = torch.export.load(tmp_path / "digits.pt2", extra_files=extra).module()
    test = load_data(digits.config).test.x[:50]
    assert torch.allclose(program(test.float() / 255), digits.predict(test), atol=1e-5)
    assert program(torch.rand(1, 1, 8, 8)).shape == (1, 10)
    said = json.loads(extra["mixwell.json"])
    assert json.loads(said["classes"]) == list("0123456789")
    assert (said["mixwell"], said["method"]) == (mixwell.__version__, "mixup")


@pytest.mark.slow
@pytest.mark.skipif(not onnx_is_there, reason="onnx or onnxscript is not installed")
def test_an_onnx_file_predicts_as_the_run_does_and_says_what_it_is(digits, tmp_path, capsys):
    import onnx

    path = tmp_path / "digits.onnx"
    assert main(["export", str(digits.folder), "--to", str(path)]) == 0
    assert "8 test samples; largest difference" in capsys.readouterr().out
    said = {p.key: p.value for p in onnx.load(path).metadata_props}
    assert json.loads(said["classes"]) == list("0123456789")
    assert said["mixwell"] == mixwell.__version__
    assert json.loads(said["input"])["range"] == [0, 1]
    from mixwell.trained.deployed import _onnx_runner

    predict, _ = _onnx_runner(path)
    test = load_data(digits.config).test.x[:50]
    assert torch.allclose(predict(test.float() / 255), digits.predict(test), atol=1e-5)
    assert [file.name for file in tmp_path.iterdir()] == ["digits.onnx"]


@pytest.mark.slow
@pytest.mark.skipif(not onnx_is_there, reason="onnx or onnxscript is not installed")
def test_without_onnx_runtime_the_reference_checks(digits, tmp_path, monkeypatch):
    monkeypatch.setattr("mixwell.trained.deployed._has", lambda name: name != "onnxruntime")
    made = export(digits, tmp_path / "digits.onnx")
    assert "ONNX's reference implementation (onnxruntime is not installed)" in made.checked
    assert made.difference < 1e-5


def test_a_regression_gives_values_in_the_targets_units(tmp_path):
    options = {"dropout": 0.2}
    config = RunConfig(data="diabetes", epochs=1, threads=1, model_options=options)
    train(config, tmp_path / "run")
    run = mixwell.load_run(tmp_path / "run")
    export(run, tmp_path / "d.pt2")
    program = torch.export.load(tmp_path / "d.pt2").module()
    test = load_data(config).test.x
    wanted = run.transform.in_units(run.outputs(test))
    assert 100 < float(wanted.mean()) < 200
    assert torch.allclose(program(test.float()).double(), wanted, rtol=1e-4)


def test_a_network_in_float64_is_exported_in_float32(tmp_path):
    config = RunConfig(train_size=100, epochs=1, threads=1, precision="64-true")
    train(config, tmp_path / "run")
    run = mixwell.load_run(tmp_path / "run")
    assert next(run.network.parameters()).dtype == torch.float64
    export(run, tmp_path / "d.pt2")
    program = torch.export.load(tmp_path / "d.pt2").module()
    test = load_data(config).test.x[:20]
    assert program(test.float() / 255).dtype == torch.float32
    assert torch.allclose(program(test.float() / 255), run.predict(test), atol=1e-5)


def test_a_file_that_predicts_otherwise_is_not_written(digits, tmp_path, monkeypatch):
    path = tmp_path / "digits.pt2"
    path.write_bytes(b"the one before")
    monkeypatch.setattr(Deployed, "forward", lambda self, x: self.network(x).softmax(1))
    with pytest.raises(InputError, match=r"predicts otherwise than the network, by up to"):
        export(digits, path)
    assert path.read_bytes() == b"the one before"


def test_what_cannot_be_exported_is_named(digits, tmp_path, monkeypatch, capsys):
    with pytest.raises(InputError, match=r"must end in \.onnx or \.pt2"):
        export(digits, tmp_path / "digits.pth")
    monkeypatch.setattr("mixwell.trained.deployed._has", lambda name: False)
    assert main(["export", str(digits.folder), "--to", str(tmp_path / "d.onnx")]) == 2
    assert "needs onnx: pip install 'mixwell[export]'" in capsys.readouterr().err
