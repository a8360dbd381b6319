"""What is built for others: the wheel and the source distribution."""

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent

SMOKE = """
from importlib.machinery import PathFinder

HIDDEN = {"torchvision", "timm", "lightning", "scipy", "sklearn", "matplotlib", "pandas", "rich"}
find = PathFinder.find_spec
PathFinder.find_spec = staticmethod(
    lambda name, *args: None if name.partition(".")[0] in HIDDEN else find(name, *args)
)

import torch

import mixwell

assert "environment" in mixwell.__file__, mixwell.__file__
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 32), torch.nn.ReLU(),
                          torch.nn.Linear(32, 4))
x, y = torch.rand(8, 3, 8, 8), torch.randint(4, (8,))
for name in ("sk_mixup+decoupled", "cutmix+infinite_class", "regmixup+am_mixup"):
    loss = mixwell.create(name, num_classes=4)(net, x, y)
    loss.backward()
    assert loss.isfinite()
try:
    import mixwell.compat.torchvision
except mixwell.InputError as error:
    assert "pip install" in str(error)
else:
    raise AssertionError("torchvision is hidden")
print("ok")
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Build both with the installed hatchling, without fetching anything."""
    pytest.importorskip("build")
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(folder.glob("*.whl")), next(folder.glob("*.tar.gz"))


@pytest.mark.slow
def test_both_hold_what_is_needed_and_nothing_else(built):
    wheel, source = built
    names = zipfile.ZipFile(wheel).namelist()
    for needed in ("kernels/mix.c", "py.typed", "report/templates/page.html", "compat/timm.py"):
        assert f"mixwell/{needed}" in names
    assert all(name.startswith(("mixwell/", "mixwell-")) for name in names)
    with tarfile.open(source) as archive:
        kept = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    for needed in ("tests/conftest.py", "docs/index.md", "examples/plain_loop.py", "mkdocs.yml",
                   "benchmarks/speed.py", "Makefile", "notebooks/first_steps.ipynb"):  # fmt: skip
        assert needed in kept
    assert not any(part in name for name in kept for part in (".venv", "runs/", "__pycache__"))


@pytest.mark.slow
def test_the_wheel_works_in_an_empty_environment_with_torch_alone(built, tmp_path):
    folder = tmp_path / "environment"
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", built[0]]
    subprocess.run(install, check=True, capture_output=True)
    # torch itself is lent from this environment: nothing is fetched.
    lent = str(Path(torch.__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": lent}
    done = subprocess.run(
        [python, "-c", SMOKE], cwd=tmp_path, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "ok"
