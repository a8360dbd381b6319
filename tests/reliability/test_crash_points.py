"""Every call that changes a file, as the moment at which a command is killed or fails."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
COMPILER = shutil.which("cc") or shutil.which("gcc")


@pytest.mark.cases(slow=1)
@pytest.mark.skipif(
    COMPILER is None or not sys.platform.startswith("linux"), reason="needs LD_PRELOAD"
)
@pytest.mark.parametrize(
    ("command", "kinds", "stride", "limit"),
    [
        ("train", ["ENOSPC+lasting", "EIO", "EACCES"], 9, 10),
        ("train", ["kill"], 1, 120),  # all of them
        ("compare", ["kill"], 61, 60),
        ("tune", ["kill"], 97, 60),
        ("compare", ["ENOSPC+lasting"], 97, 60),
    ],
)
def test_what_is_repeated_after_a_fault_ends_like_the_undisturbed(
    command, kinds, stride, limit, tmp_path
):
    library = tmp_path / "faults.so"
    subprocess.run(
        [COMPILER, "-shared", "-fPIC", "-O1", HERE / "faults.c", "-ldl", "-o", library], check=True
    )
    job = {
        "command": command, "kinds": kinds, "stride": stride, "limit": limit,
        "folder": str(tmp_path),
    }  # fmt: skip
    worker = [sys.executable, HERE / "crashing.py", json.dumps(job)]
    environment = {**os.environ, "LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(worker, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["wrong"] == []
    assert found["calls"] > 50
    if found.get("out of time"):
        asked = len(kinds) * len(range(1, found["calls"] + 1, stride))
        pytest.skip(
            f"in {limit} s {found['tried']} of {asked} faults were tried, without a finding"
        )
    assert found["tried"] > 0
