"""The machine: what is asked of a system that may not have it."""

import json
import subprocess
import sys

import pytest
import torch

from mixwell.cli import main
from mixwell.training import RunConfig
from mixwell.training.machine import is_anywhere


@pytest.mark.slow
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
