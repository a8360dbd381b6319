"""Published methods, each a named composition of five answers; one file a paper.

A method's file is found by being here: every module of this package is imported, in the order of
their names, and a paper's registers its methods. Those of the engine register nothing.
"""

from importlib import import_module
from pkgutil import iter_modules

from mixwell.methods.method import Method, Step
from mixwell.methods.plan import Plan
from mixwell.methods.recipe import Recipe, Term
from mixwell.methods.registry import (
    Answer,
    Description,
    Fidelity,
    Setup,
    Spec,
    accepts,
    create,
    describe,
    has_setup,
    list_methods,
    needs_of_data,
    ranges,
    register,
    setup_of,
    setups,
)

for _found in sorted(module.name for module in iter_modules(__path__)):
    import_module(f"{__name__}.{_found}")

__all__ = [
    "Answer",
    "Description",
    "Fidelity",
    "Method",
    "Plan",
    "Recipe",
    "Setup",
    "Spec",
    "Step",
    "Term",
    "accepts",
    "create",
    "describe",
    "has_setup",
    "list_methods",
    "needs_of_data",
    "ranges",
    "register",
    "setup_of",
    "setups",
]
