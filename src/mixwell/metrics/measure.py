"""What a measure is, and the register of those that there are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from mixwell.errors import InputError, suggest
from mixwell.metrics.evidence import Evidence

__all__ = [
    "PERCENT",
    "VALIDATION",
    "Found",
    "Measure",
    "get",
    "of",
    "register",
    "registered",
    "remove",
    "take",
]

VALIDATION = "val_"
"""What stands before a measure's name where it is of the validation data."""

GROUPS = ("test", "features", "cost")
"""The parts of a table, in their order."""

PERCENT: Any = {"unit": "%", "factor": 100.0, "digits": 2}
"""The arguments of a measure that is a share, shown in per cent."""

Found = Tensor | float | None


@dataclass(frozen=True)
class Measure:
    """A measure, declared once.

    Attributes:
        name: its key in a run's measures.
        title: what it is called.
        about: what it is, in a sentence.
        compute: returns it from the evidence, or None where that doesn't allow it; None for what
            a run tells itself: its costs.
        tasks: the names of the tasks that have it; empty: all.
        higher_is_better: whether more is better; None where neither direction is.
        unit: that it is shown in, like "%"; empty for a plain number, or the target's own unit.
        factor: what a value is multiplied by to be in that unit.
        digits: after the point.
        column: what a table's column is called; title and unit by default.
        group: the part of the table: "test", "features" or "cost".
        validated: the tasks in which it is taken of the validation data too, at the end: there
            settings can be tuned by it.
        each_epoch: taken of the validation data between epochs (``val_every``): it has a learning
            curve.
        tuned_by: settings are tuned by it where no other is asked for.
    """

    name: str
    title: str
    about: str
    compute: Callable[[Evidence], Found] | None = None
    tasks: tuple[str, ...] = ("classification",)
    higher_is_better: bool | None = False
    unit: str = ""
    factor: float = 1.0
    digits: int = 3
    column: str = ""
    group: str = "test"
    validated: tuple[str, ...] = ()
    each_epoch: bool = False
    tuned_by: bool = False

    @property
    def heading(self) -> str:
        """What a table's column is called."""
        return self.column or f"{self.title} {self.unit}".strip()

    def fitting(self, largest: float) -> Measure:
        """Return it with as many digits as values need of which ``largest`` is the largest."""
        if self.factor == 1 and 0 < largest < 0.1:  # as many digits as larger numbers have
            more = math.ceil(-math.log10(largest)) - 1
            return replace(self, digits=min(self.digits + more, _MOST_DIGITS))
        return self

    def text(self, value: float, digits: int | None = None, *, signed: bool = False) -> str:
        """Return a value in the unit, which is left out: "97.31"; "1.2e+20" of a very large one."""
        digits = self.digits if digits is None else digits
        form = f".{digits}f" if abs(self.factor * value) < _LARGE else ".3g"
        return f"{self.factor * value:{'+' if signed else ''}{form}}"

    def shown(self, value: float, digits: int | None = None) -> str:
        """Return a value with the unit: "97.31 %"."""
        return f"{self.text(value, digits)} {self.unit}".strip()


_MOST_DIGITS, _LARGE = 9, 1e9  # what a column of a table has room for

_MEASURES: dict[str, Measure] = {}


def register(measure: Measure) -> Measure:
    """Add a measure; from then on all runs of its tasks have it.

    Raises:
        InputError: the name is taken, is no identifier or begins with "val_"; the group is
            unknown; there is no title.
    """
    name = measure.name
    if name in _MEASURES:
        raise InputError(f"name={name!r}: there is a measure of this name already")
    if not name.isidentifier() or name.startswith(VALIDATION):
        raise InputError(
            f"name={name!r} must be an identifier that doesn't begin with {VALIDATION!r}, which "
            "stands before measures of the validation data"
        )
    if not measure.title:
        raise InputError(f"title of measure {name!r} must not be empty")
    if measure.group not in GROUPS:
        raise InputError(f"group={measure.group!r} of measure {name!r} must be of {GROUPS}")
    _MEASURES[name] = measure
    return measure


def remove(name: str) -> None:
    """Take a measure out again."""
    get(name)
    del _MEASURES[name]


def get(name: str) -> Measure:
    """Return a measure by its name, or by its name on validation data ("val_nll").

    Raises:
        InputError: there is none of this name.
    """
    bare = name.removeprefix(VALIDATION)
    if bare not in _MEASURES:
        raise InputError(f"measure {name!r} is unknown{suggest(bare, _MEASURES)}")
    return _MEASURES[bare]


def registered() -> tuple[Measure, ...]:
    """Return all measures, in the order that tables have."""
    return tuple(sorted(_MEASURES.values(), key=lambda m: GROUPS.index(m.group)))


def of(task: str) -> tuple[Measure, ...]:
    """Return the measures that a task has, by its name."""
    return tuple(m for m in registered() if not m.tasks or task in m.tasks)


def take(evidence: Evidence, measures: Iterable[Measure]) -> dict[str, float]:
    """Return the measures that the evidence allows, by their names."""
    found = {m.name: m.compute(evidence) for m in measures if m.compute is not None}
    return {name: float(value) for name, value in found.items() if value is not None}
