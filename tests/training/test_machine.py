"""The machine: what is asked of a system that may not have it."""

import json
import statistics
import subprocess
import sys

import pytest
import torch

from mixwell.bench.timing import Contender, measure, ratios
from mixwell.cli import main
from mixwell.training import RunConfig, machine
from mixwell.training.machine import is_anywhere, precision_notes


@pytest.mark.release
def test_it_trains_without_the_modules_and_processes_that_windows_lacks(tmp_path):
    script = """
import multiprocessing, sys
import psutil  # which is made for the system that it is on
sys.modules.update(dict.fromkeys(("fcntl", "grp", "pwd", "resource", "termios")))
multiprocessing.get_all_start_methods = lambda: ["spawn"]
from mixwell.cli import main
if __name__ == "__main__":
    few = "--data digits --train-size 100 --epochs 1 --threads 1".split()
    one = main(["train", *few, "--out", "one"])
    few += ["--methods", "erm", "--seeds", "1", "--results", "a.csv"]
    sys.exit(one or main(["compare", *few, "--out", "all"]))
"""
    (tmp_path / "script.py").write_text(script)
    ended = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    for name in ("one", "all/erm-seed0"):
        result = json.loads((tmp_path / name / "result.json").read_text())
        assert result["metrics"]["accuracy"] > 0
        assert 50 < result["peak_memory_mb"] < 20_000
    assert len((tmp_path / "a.csv").read_text().splitlines()) == 2


def test_nothing_is_taken_for_granted_but_one_device_and_full_precision():
    assert is_anywhere(RunConfig())
    assert is_anywhere(RunConfig(accelerator="cpu"))
    for asked in (
        *({"accelerator": name} for name in ("cuda", "gpu", "mps")),
        *({"precision": name} for name in ("bf16-mixed", "16-mixed", "64-true")),
        {"devices": 2},
    ):
        assert not is_anywhere(RunConfig(**asked)), asked


def test_a_study_on_what_this_machine_lacks_is_refused_before_anything(tmp_path, capsys):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    asked = ["--data", "digits", "--methods", "erm", "--seeds", "1", "--accelerator", "cuda"]
    assert main(["compare", *asked, "--out", str(tmp_path / "out")]) == 2
    assert "accelerator='cuda' with devices=1" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


FEW = ["--data", "digits", "--train-size", "60", "--epochs", "1", "--accelerator", "cpu"]


@pytest.mark.parametrize(
    ("precision", "has", "told"),
    [("bf16-mixed", False, 1), ("bf16-mixed", True, 0), ("32-true", False, 0)],
)
def test_a_run_says_that_a_processor_imitates_its_arithmetic(
    tmp_path, capsys, monkeypatch, precision, has, told
):
    monkeypatch.setattr(machine, "_has_bfloat16", lambda device: has)
    assert main(["train", *FEW, "--precision", precision, "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr()
    assert (shown.out + shown.err).count("no bfloat16 arithmetic") == told
    notes = json.loads((tmp_path / "result.json").read_text())["notes"]
    assert sum("no bfloat16 arithmetic" in note for note in notes) == told


@pytest.mark.slow
def test_a_study_says_it_once(tmp_path, capsys):
    asked = [*FEW, "--methods", "erm", "--seeds", "2", "--precision", "bf16-mixed"]
    assert main(["compare", *asked, "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr()  # the runs' processes look at this machine's own processor
    told = precision_notes("bf16-mixed", torch.device("cpu"))
    assert (shown.out + shown.err).count("no bfloat16 arithmetic") == len(told)


@pytest.mark.slow
def test_where_nothing_is_said_of_bfloat16_it_is_not_many_times_slower():
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    image, weight = torch.randn(32, 32, 16, 16), torch.randn(32, 32, 3, 3)

    def contender(dtype: torch.dtype) -> Contender:
        x, w = image.to(dtype), weight.to(dtype)
        return Contender(str(dtype), lambda: torch.nn.functional.conv2d(x, w, padding=1))

    single, half = measure([contender(torch.float32), contender(torch.bfloat16)], 7).values()
    slower = statistics.median(ratios(half, single))
    assert precision_notes("bf16-mixed", torch.device("cpu")) or slower < 4
