"""Mixup for PyTorch: every method, one interface, any composition.

>>> import mixwell
>>> method = mixwell.create("sk_mixup+decoupled", num_classes=10)
>>> # loss = method(model, x, y)
"""

from __future__ import annotations

from mixwell import _start  # noqa: F401  (before what takes long to import)

# isort: split

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixwell import functional, losses, metrics
from mixwell.errors import InputError
from mixwell.methods import Method, Recipe, Step, Term, create, describe, list_methods
from mixwell.mix import Mix, MixedTarget

if TYPE_CHECKING:
    from mixwell.trained import TrainedRun

__version__ = "0.1.0"

__all__ = [
    "InputError",
    "Method",
    "Mix",
    "MixedTarget",
    "Recipe",
    "Step",
    "Term",
    "create",
    "describe",
    "functional",
    "list_methods",
    "load_run",
    "losses",
    "metrics",
]

_MODULES = {
    *("bench", "coefficient", "compat", "data", "heads", "interpolation", "labels", "models"),
    *("pairing", "plugins", "recommend", "report", "studies", "tasks", "trained", "training"),
    "view",
}
"""What is imported as it is first asked for: it takes time, or needs more than torch."""


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"mixwell.{name}")
    raise AttributeError(f"module 'mixwell' has no attribute {name!r}")


def load_run(folder: str | Path, *, device: str = "cpu", trust: bool = False) -> TrainedRun:
    """Return a finished run of ``mixwell train`` or of a study, ready to predict.

    Code that the run keeps is executed with ``trust=True`` alone: see
    :func:`mixwell.trained.load_run`.
    """
    from mixwell import trained  # here, because it needs more than torch

    return trained.load_run(folder, device=device, trust=trust)
