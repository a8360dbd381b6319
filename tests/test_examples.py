"""Every way of use, run as it stands: it must have learned, not only ended."""

import importlib.util
import re
import runpy
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("sklearn")

EXAMPLES = Path(__file__).parent.parent / "examples"

# Name, what it needs, arguments, and what it must reach: chance is 0.1, in transfer 0.2, and R² = 0
# is predicting the mean. Each reaches clearly more; the rest is room for other machines.
RUNS = [
    ("plain_loop", "torch", "--epochs 3", 0.8),
    ("lightning_callback", "lightning", "--epochs 3", 0.8),
    ("lightning_mixin", "lightning", "--epochs 3", 0.8),
    ("fabric", "lightning", "--epochs 3", 0.8),
    ("accelerate_loop", "accelerate", "--epochs 3", 0.8),
    ("ignite_loop", "ignite", "--epochs 3", 0.8),
    ("timm_train", "timm", "", 0.8),
    ("torchvision_collate", "torchvision", "--epochs 4", 0.8),
    ("interpolation_consistency", "torch", "--epochs 3", 0.8),
    ("regression", "torch", "--epochs 30", 0.4),
    ("long_tail", "torchvision", "--epochs 20", 0.7),
    ("transfer", "torchvision", "", 0.85),
]
OTHERWISE = [
    ("plain_loop", "torch", "--method manifold_mixup --lr 0.002", 0.85),
    ("lightning_callback", "lightning", "--method am_mixup --precision bf16-mixed", 0.85),
    ("lightning_mixin", "lightning", "--method infinite_class", 0.85),
    ("timm_train", "timm", "--mixing cutmix+decoupled", 0.8),
    ("torchvision_collate", "torchvision", "--per batch --workers 1", 0.85),
]


@pytest.fixture(autouse=True)
def _leave_no_accelerator():
    yield
    if "accelerate" in sys.modules:  # its settings are the process's, once for all
        sys.modules["accelerate"].state.AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.cases(quick=3)
@pytest.mark.filterwarnings("ignore::UserWarning:lightning")
@pytest.mark.parametrize(
    ("name", "package", "arguments", "least"),
    [*RUNS, *OTHERWISE],
)
def test_an_example_learns(name, package, arguments, least, capsys):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not there")
    main = runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]
    reached = main(arguments.split())
    assert reached >= least
    # What it prints is what it returns.
    last = re.findall(r"(?:accuracy|R²) ([\d.]+)(%?)", capsys.readouterr().out)[-1]
    printed = float(last[0]) / (100 if last[1] else 1)
    assert printed == pytest.approx(reached, abs=1e-3)


def test_an_example_runs_as_a_script(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["plain_loop.py", "--epochs", "1", "--method", "erm"])
    runpy.run_path(str(EXAMPLES / "plain_loop.py"), run_name="__main__")
    assert capsys.readouterr().out.startswith("erm: accuracy")
    assert torch.is_grad_enabled()
