"""What is known about models, in one place, with one rule of when it is stale.

What was found out about a model holds as long as it consists of the same modules, which are in the
same state: their modes, the flags and names among their own attributes, and what their ``forward``
is. One that gained, lost or replaced a module (a new head, LoRA layers) is looked at anew.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar, cast
from weakref import ReferenceType, WeakKeyDictionary, ref

from torch import nn

__all__ = ["among", "facts", "known"]

Fact = TypeVar("Fact")

_FACTS: WeakKeyDictionary[nn.Module, _Facts] = WeakKeyDictionary()

_STATES = 16
"""So many states of one model are known at once: one that is never twice the same holds no more."""


class _Facts:
    """The facts about a model in each of its states, and the modules that it consisted of."""

    def __init__(self, modules: list[nn.Module]) -> None:
        self.modules: list[ReferenceType[nn.Module]] = [ref(module) for module in modules]
        self.states: dict[Hashable, dict[Hashable, Any]] = {}

    def hold(self, modules: list[nn.Module]) -> bool:
        return len(modules) == len(self.modules) and all(
            then() is now for then, now in zip(self.modules, modules, strict=True)
        )

    def of(self, state: Hashable) -> dict[Hashable, Any]:
        if state not in self.states:
            if len(self.states) >= _STATES:
                del self.states[next(iter(self.states))]
            self.states[state] = {}
        return self.states[state]


def facts(model: nn.Module) -> dict[Hashable, Any]:
    """Return what is known about a model, as it is made now; add to it what is found out."""
    modules = list(model.modules())
    about = _FACTS.get(model)
    if about is None or not about.hold(modules):
        about = _FACTS[model] = _Facts(modules)
    return about.of(_state(modules))


def _state(modules: list[nn.Module]) -> Hashable:
    """Return what decides, beside its input, which way a model goes.

    Numbers are left out: many models count their steps.
    """
    modes = tuple([module.training for module in modules])
    own: list[Any] = []
    for module in modules:
        kind = type(module)
        held = vars(module)
        if "forward" in held:
            own.append(id(held["forward"]))
        if kind.__module__.startswith("torch.nn.modules."):
            continue
        own.append(getattr(kind, "forward", None))  # scripted ones have none
        own += [
            value for value in held.values() if value.__class__ is bool or value.__class__ is str
        ]
    return modes, tuple(own)


def known(model: nn.Module, key: Hashable, find: Callable[[], Fact]) -> Fact:
    """Return the fact ``key`` about a model: as it was found, or found now by ``find()``.

    Args:
        model: any module, which with a wrapper around it is another.
        key: what is asked, with all that the answer depends on beside the model.
        find: finds it out.
    """
    return among(facts(model), key, find)


def among(known_ones: dict[Hashable, Any], key: Hashable, find: Callable[[], Fact]) -> Fact:
    """Return the fact ``key`` among those that are known, or found now by ``find()``."""
    if key not in known_ones:
        known_ones[key] = find()
    return cast(Fact, known_ones[key])
