"""What of a user's own step does not run where a method's takes its place, in words."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any

from torch import nn
from torch.nn.modules.loss import _Loss

from mixwell.errors import say

__all__ = ["bypassed", "say_replaced", "settings_of"]

_LOGS = ("log", "log_dict")


def _names(code: CodeType) -> Iterator[str]:
    """Return the names that code looks up, functions within it included."""
    yield from code.co_names
    for part in code.co_consts:
        if isinstance(part, CodeType):
            yield from _names(part)


def _reached(module: nn.Module, function: Callable[..., Any], base: type) -> set[str]:
    """Return the names that a step looks up, itself or in methods of its module that it calls.

    Methods of ``base`` and forward, which runs either way, are not followed.
    """
    found: set[str] = set()
    waiting, seen = [function], {"forward"}
    while waiting:
        code = getattr(inspect.unwrap(waiting.pop()), "__code__", None)
        names = set(_names(code)) if isinstance(code, CodeType) else set()
        found |= names
        for name in sorted(names - seen):
            seen.add(name)
            method = getattr(type(module), name, None)
            if inspect.isfunction(method) and method is not getattr(base, name, None):
                waiting.append(method)
    return found


def settings_of(loss: nn.Module) -> str:
    """Return the settings of one of torch's losses that change what it computes."""
    plain = {"weight": None, "pos_weight": None, "label_smoothing": 0.0, "ignore_index": -100}
    given = []
    for name, usual in plain.items():
        value = getattr(loss, name, usual)
        if value is not None and value is not usual and value != usual:
            shown = "..." if name in ("weight", "pos_weight") else repr(value)
            given.append(f"{name}={shown}")
    return f"{type(loss).__name__}({', '.join(given)})"


def bypassed(module: nn.Module, step: Callable[..., Any], base: type) -> str:
    """Return what a module's training step does that will not be done, as an enumeration.

    Args:
        module: the user's.
        step: its own ``training_step``.
        base: the framework's class, whose methods are not looked into.
    """
    names = _reached(module, step, base)
    losses, metrics = [], []
    for name, part in module.named_children():
        if name not in names:
            continue
        if callable(getattr(part, "update", None)) and callable(getattr(part, "compute", None)):
            metrics.append(f"self.{name}")
        elif isinstance(part, _Loss) or type(part).__name__.endswith(("Loss", "Criterion")):
            losses.append(f"self.{name}, {settings_of(part)}")
    shown = f" ({'; '.join(losses)})" if losses else ""
    said = [f"its own loss{shown} is not computed"]
    if metrics:
        said.append(f"its metrics ({', '.join(metrics)}) are not updated")
    logs = [f"self.{name}" for name in _LOGS if name in names]
    if logs:
        said.append(f"its {' and '.join(logs)} do not run")
    return ", ".join(said[:-1]) + (" and " if len(said) > 1 else "") + said[-1]


def say_replaced(module: nn.Module, own: Callable[..., Any] | None, loss_name: str | None) -> None:
    """Say what of a LightningModule's own step does not run any more, and what to do.

    Args:
        module: whose step was replaced.
        own: the step that was set on it; None for its class's.
        loss_name: as what the method's loss is logged.
    """
    kind = type(module)
    base = next(each for each in kind.__mro__ if each.__name__ == "LightningModule")
    step = getattr(kind, "training_step") if own is None else own  # noqa: B009 - of a Module
    outputs = ""
    if getattr(kind, "on_train_batch_end", None) is not getattr(base, "on_train_batch_end", None):
        outputs = "; its on_train_batch_end is given the loss alone"
    say(
        f"MixupCallback replaces {kind.__name__}.training_step while it trains: "
        f"{bypassed(module, step, base)}{outputs}. The method's loss "
        f"{f'is logged as {loss_name!r}' if loss_name else 'is not logged (log=None)'}. Class "
        "weights and label smoothing go to the method, MixupCallback(name, class_weight=..., "
        "label_smoothing=...); to keep the rest of the step use MixupMixin, and "
        "self.mixed_step(batch) in it (said once)"
    )
