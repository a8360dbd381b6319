import json
import subprocess
import sys

import pytest

from mixwell.cli import main
from mixwell.training import RunConfig
from mixwell.training.files import write_json

TINY = ["--train-size", "100", "--epochs", "1", "--threads", "1"]


def test_methods_and_describe(capsys):
    assert main(["methods"]) == 0
    listed = capsys.readouterr().out
    assert "sk_mixup" in listed
    assert main(["describe", "sk_mixup+decoupled"]) == 0
    about = capsys.readouterr().out
    for word in ("τ_max", "φ^{i,j}", "arXiv:2311.01434", "tau_std", "eta"):
        assert word in about


@pytest.mark.parametrize(
    "command", [[], ["train"], ["compare"], ["study"], ["tune"], ["preview"], ["report"]]
)
def test_help_explains(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*command, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "usage: mixwell" in text
    if command in (["train"], ["compare"]):
        assert "examples:" in text
        assert "--set KEY=VALUE" in text


def test_train_and_train_again(tmp_path, capsys):
    arguments = ["train", "--method", "sk_mixup", "--set", "tau_std=0.5", *TINY, "--out"]
    assert main([*arguments, str(tmp_path / "run")]) == 0
    assert "accuracy" in capsys.readouterr().out
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["config"]["method_options"] == {"tau_std": 0.5}
    assert main([*arguments, str(tmp_path / "run")]) == 0
    assert "was finished before" in capsys.readouterr().out


@pytest.mark.slow
def test_compare_report_and_exit_status_of_a_failure(tmp_path, capsys):
    out = tmp_path / "all"
    (out / "mixup-seed0").mkdir(parents=True)
    write_json(out / "mixup-seed0" / "config.json", RunConfig(method="erm").to_dict())
    arguments = ["compare", "--methods", "erm,mixup", "--seeds", "1", *TINY, "--out", str(out)]
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert "failed: mixup-seed0" in captured.err
    assert "Traceback" not in captured.err
    assert f"Report: {out / 'report.html'}" in captured.out
    assert (out / "results.csv").is_file()
    (out / "report.html").unlink()
    assert main(["report", str(out)]) == 1
    assert (out / "report.html").is_file()


FEW = ["--labels", "20", "--batch-size", "40", *TINY]


@pytest.mark.slow
def test_the_form_of_semi_supervised_training_from_flags_and_a_file(tmp_path, capsys):
    flags = ["--semi", "authors", "--mix-cutoff", "0.5", *FEW]
    out = tmp_path / "run"
    assert main(["train", "--method", "decoupled", *flags, "--out", str(out)]) == 0
    result = json.loads((out / "result.json").read_text())
    assert (result["config"]["semi"], result["config"]["mix_cutoff"]) == ("authors", 0.5)
    assert "mixed_labelled" in result["history"][0]
    arguments = ["compare", "--methods", "erm,decoupled_bce", "--seeds", "1", *flags]
    assert main([*arguments, "--out", str(tmp_path / "all")]) == 0
    path = tmp_path / "study.yaml"
    path.write_text(
        "protocol: semi-supervised\nmethods: [decoupled]\nseeds: 1\nsemi: authors\nlabels: 20\n"
        f"train_size: 160\nbatch_size: 40\nepochs: 1\nthreads: 1\nout: {tmp_path / 'study'}\n"
    )
    assert main(["study", str(path)]) == 0
    (record,) = (tmp_path / "study").glob("*/result.json")
    assert json.loads(record.read_text())["config"]["semi"] == "authors"
    capsys.readouterr()
    flags = ["--semi", "paper", "--set", "side=lighter", *FEW]
    assert main(["train", "--method", "decoupled", *flags, "--out", str(tmp_path / "no")]) == 2
    assert "side='lighter' contradicts semi='paper'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_study_with_lists_from_flags_and_a_file(tmp_path, capsys):
    path = tmp_path / "study.yaml"
    path.write_text(
        "protocol: few-shot\nmethods: [erm, mixup]\nseeds: 1\nshots: [3, 5]\nepochs: 1\n"
        f"out: {tmp_path / 'out'}\nsettings: {{mixup: {{alpha: 0.4}}}}\n"
    )
    assert main(["study", str(path), "--shots", "4,6", "--threads", "1"]) == 0
    text = capsys.readouterr().out
    assert "shots 4" in text
    assert "shots 6" in text
    assert "mixup(alpha=0.4)" in text
    assert "average rank" in text
    assert (tmp_path / "out" / "mixup-alpha=0.4-shots=6-seed0" / "model.pt").is_file()
    rows = (tmp_path / "out" / "results.csv").read_text().splitlines()
    assert len(rows) == 5
    assert main(["report", str(tmp_path / "out"), "--baseline", "nobody"]) == 2
    assert "baseline='nobody'" in capsys.readouterr().err


@pytest.mark.slow
def test_preview(tmp_path):
    out = tmp_path / "p.png"
    assert main(["preview", "--method", "cutmix", "--train-size", "64", "--out", str(out)]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--method", "mixupp"], "did you mean 'mixup'"),
        (["train", "--data", "digit"], "did you mean 'digits'"),
        (["train", "--method", "mixup", "--set", "tau_std=1"], "no argument 'tau_std'"),
        (["train", "--set", "alpha=abc"], "alpha must be a number"),
        (["train", "--set", "alpha"], "takes key=value"),
        (["train", "--epochs", "-3"], "epochs must be a whole number"),
        (["train", "--model", "resnet19"], "model='resnet19' is unknown"),
        (["train", "--model-set", "depth=3"], "has no option 'depth'"),
        (["train", "--train-size", "100000"], "train_size=100000"),
        (["train", "--data", "fashion-mnist", "--data-dir", "nowhere"], "nowhere"),
        (["train", "--method", "c_mixup"], "c_mixup is for regression"),
        (["compare", "--methods", "erm,mixup", "--seeds", "many"], "seeds must be a count"),
        (["compare", "--methods", "erm", "--workers", "0"], "workers must be"),
        (["compare", "--methods", "erm,mixup", "--baseline", "sk"], "baseline='sk'"),
        (["preview", "--out", "p.jpg"], "must end in .png"),
        (["preview", "--method", "am_mixup", "--out", "p.png"], "inside the model"),
        (["describe", "nonsense"], "'nonsense' is unknown"),
        (["report", "nowhere"], "is no folder"),
        (["study", "long-tail"], "did you mean 'long-tailed'"),
        (["study", "none.yaml"], "can't be read"),
        (["study", "toy", "--preset", "papr"], "did you mean 'paper'"),
        (["study", "balanced", "--ood", "digits"], "must be another data set"),
        (["study", "regression", "--imbalance", "10"], "imbalance: data='diabetes'"),
        (["study", "balanced", "--methods", "mixup(alpha)"], "must be NAME(setting=value"),
        (["study", "balanced", "--settings", "none.yaml"], "settings='none.yaml'"),
        (["study", "balanced", "--ray-address", "127.0.0.1:1", "--engine", "ray"], "no cluster at"),
        (["tune", "--method", "erm"], "erm has nothing to search"),
        (["tune", "--method", "mixup", "--workers", "0"], "workers must be"),
    ],
)
def test_what_cannot_work_ends_with_one_message_and_status_2(
    arguments, words, capsys, tmp_path, monkeypatch
):
    if "ray" in arguments:
        pytest.importorskip("ray")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MIXWELL_DATA", raising=False)
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"mixwell {arguments[0]}: error: ")
    assert words in message
    assert message.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--lr", "fast"], "argument --lr: invalid float value: 'fast'"),
        (["train", "--no-such-option"], "unrecognized arguments"),
        (["compare"], "required: --methods"),
        (["dance"], "invalid choice: 'dance'"),
    ],
)
def test_a_bad_command_line_ends_with_one_message_and_status_2(arguments, words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert words in message
    assert message.count("\n") == 1


def test_as_a_module_from_a_shell():
    command = [sys.executable, "-m", "mixwell", "train", "--method", "none"]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 2
    assert "Traceback" not in process.stderr
    assert process.stdout == ""


def test_what_only_tells_imports_no_more_than_torch():
    script = """
import contextlib, sys
from mixwell.cli import main
for words in ("--version", "methods", "describe mixup", "train --help", "study --help"):
    with contextlib.suppress(SystemExit):
        main(words.split())
    heavy = {"torchvision", "timm", "lightning", "sklearn", "scipy", "pandas", "matplotlib"}
    assert not heavy & set(sys.modules), (words, heavy & set(sys.modules))
"""
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
