"""The machine: what is asked of a system that may not have it."""

import json
import subprocess
import sys


def test_a_study_needs_no_module_that_windows_lacks(tmp_path):
    script = """
import sys
sys.modules.update(dict.fromkeys(("fcntl", "grp", "posix_ipc", "pwd", "resource", "termios")))
from mixwell.cli import main
sys.exit(main(
    "compare --data digits --methods erm,mixup --seeds 1 --train-size 100 --epochs 1 --threads 1 "
    "--results results.csv --out out".split()
))
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    for name in ("erm", "mixup"):
        result = json.loads((tmp_path / "out" / f"{name}-seed0" / "result.json").read_text())
        assert result["metrics"]["accuracy"] > 0
        assert 50 < result["peak_memory_mb"] < 20_000
    assert len((tmp_path / "results.csv").read_text().splitlines()) == 3
