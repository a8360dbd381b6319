"""Mixup for PyTorch: every method, one interface, any composition.

>>> import mixwell
>>> method = mixwell.create("sk_mixup+decoupled", num_classes=10)
>>> # loss = method(model, x, y)
"""

from mixwell import _start  # noqa: F401  (before what takes long to import)

# isort: split

from mixwell import functional, losses, metrics
from mixwell.errors import InputError
from mixwell.methods import Method, Recipe, Step, Term, create, describe, list_methods
from mixwell.mix import Mix, MixedTarget

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
    "losses",
    "metrics",
]
