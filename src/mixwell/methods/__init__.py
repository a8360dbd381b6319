"""Published methods, each a named composition of five answers; one file a paper."""

from mixwell.methods import (  # noqa: F401  (each registers its method)
    am_mixup,
    c_mixup,
    cutmix,
    decoupled,
    erm,
    infinite_class,
    manifold_mixup,
    mixup,
    mixup_io,
    regmixup,
    remix,
    sk_mixup,
)
from mixwell.methods.base import Method, Recipe, Step, Term
from mixwell.methods.registry import (
    Answer,
    Description,
    Spec,
    accepts,
    create,
    describe,
    list_methods,
    ranges,
    register,
)

__all__ = [
    "Answer",
    "Description",
    "Method",
    "Recipe",
    "Spec",
    "Step",
    "Term",
    "accepts",
    "create",
    "describe",
    "list_methods",
    "ranges",
    "register",
]
