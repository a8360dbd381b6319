"""What is known about models, in one place, with one rule of when it is stale.

What was found out about a model holds as long as it consists of the same modules. One that gained,
lost or replaced a module (a new head, LoRA layers) is looked at anew.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar, cast
from weakref import ReferenceType, WeakKeyDictionary, ref

from torch import nn

from mixwell.view.hooks import unwrap

__all__ = ["among", "facts", "known"]

Fact = TypeVar("Fact")

_FACTS: WeakKeyDictionary[nn.Module, _Facts] = WeakKeyDictionary()


class _Facts:
    """The facts about a model, and the modules that it consisted of."""

    def __init__(self, model: nn.Module) -> None:
        self.modules: list[ReferenceType[nn.Module]] = [ref(module) for module in model.modules()]
        self.facts: dict[Hashable, Any] = {}

    def hold(self, model: nn.Module) -> bool:
        modules = list(model.modules())
        return len(modules) == len(self.modules) and all(
            then() is now for then, now in zip(self.modules, modules, strict=True)
        )


def facts(model: nn.Module) -> dict[Hashable, Any]:
    """Return what is known about a model, as it is made now; add to it what is found out."""
    inner = unwrap(model)
    about = _FACTS.get(inner)
    if about is None or not about.hold(inner):
        about = _FACTS[inner] = _Facts(inner)
    return about.facts


def known(model: nn.Module, key: Hashable, find: Callable[[], Fact]) -> Fact:
    """Return the fact ``key`` about a model: as it was found, or found now by ``find()``.

    Args:
        model: any module; wrappers are looked through.
        key: what is asked, with all that the answer depends on beside the model.
        find: finds it out.
    """
    return among(facts(model), key, find)


def among(known_ones: dict[Hashable, Any], key: Hashable, find: Callable[[], Fact]) -> Fact:
    """Return the fact ``key`` among those that are known, or found now by ``find()``."""
    if key not in known_ones:
        known_ones[key] = find()
    return cast(Fact, known_ones[key])
