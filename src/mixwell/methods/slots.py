"""The parts of a composition while they are chosen: each a slot, with the arguments it gets."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from mixwell import coefficient, interpolation, labels, losses, pairing
from mixwell.checks import Per, Range, check_choice
from mixwell.errors import InputError, suggest
from mixwell.methods.spec import COMBINE, Answer

__all__ = [
    "QUESTIONS",
    "CombinedSettings",
    "RecipeSettings",
    "Slot",
    "TermSettings",
    "arguments_of",
    "check_part",
    "named_part",
]

QUESTIONS: dict[str, tuple[str, Any, type[nn.Module]]] = {
    "pairing": ("who mixes with whom", pairing, pairing.Pairing),
    "coefficient": ("how much of each", coefficient, coefficient.Coefficient),
    "interpolation": ("how and where to mix", interpolation, interpolation.Interpolation),
    "labels": ("what the label is", labels, labels.Labels),
    "loss": ("what the loss is", losses, losses.Loss),
}

_OTHERS = ("recipe", "term", "clean")

_INSTEAD: dict[str, str] = {
    "CrossEntropyLoss": "MixedCrossEntropy(label_smoothing=..., class_weight=...)",
    "NLLLoss": "MixedCrossEntropy()",
    "BCEWithLogitsLoss": "MixedBCE()",
    "BCELoss": "MixedBCE()",
    "MSELoss": "MixedMSE()",
    "L1Loss": "MixedL1()",
    "SmoothL1Loss": "MixedL1()",
    "HuberLoss": "MixedL1()",
}
"""What stands in mixwell for torch's losses, which know one label a sample."""


def arguments_of(part: type) -> dict[str, inspect.Parameter]:
    """Return the arguments of a part's constructor that a method may be given."""
    parameters = inspect.signature(part.__init__).parameters  # type: ignore[misc]
    hidden = {"self", "reduction", "args", "kwargs"}
    return {name: parameter for name, parameter in parameters.items() if name not in hidden}


# ------------------------------------------------------------------------------------------- slots


class RecipeSettings(nn.Module):
    """The arguments of a Recipe that are not parts.

    Args:
        p: how likely mixing is at all, in [0, 1].
        per: whether that is decided for each "sample" or for the whole "batch", and of which of
            them λ is drawn.
    """

    def __init__(self, p: float = 1.0, per: Per = "sample") -> None:
        super().__init__()
        self.settings: dict[str, Any] = {"p": p, "per": per}


class TermSettings(nn.Module):
    """The arguments of a Term that are not parts.

    Args:
        weight: of the mixed samples' loss beside that of the clean ones.
    """

    ranges: ClassVar = {"weight": Range(0.1, 3, log=True)}

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weights = (1.0, weight)


class CombinedSettings(TermSettings):
    """Likewise, where the clean and the mixed term may be added or averaged.

    The mean is weighted, (clean + weight · mixed) / (1 + weight), so that the size of the loss, and
    with it what a learning rate means, doesn't follow ``weight``.

    Args:
        weight: of the mixed samples' loss beside that of the clean ones.
        combine: "sum", or "mean": the weighted mean of the two losses.
    """

    def __init__(self, weight: float = 1.0, combine: str = "sum") -> None:
        super().__init__(weight)
        if check_choice("combine", combine, COMBINE) == "mean":
            self.weights = (1 / (1 + weight), weight / (1 + weight))


@dataclass
class Slot:
    """A part to be built, and the names that its arguments may be addressed by.

    Attributes:
        names: its question, and the method that decides it; of a term beside, that method alone.
        part: the class.
        given: the arguments that it gets.
        known: those that it takes.
        settled: whether the caller chose the part, so that no set-up speaks of it.
    """

    names: tuple[str, ...]
    part: type[nn.Module]
    given: dict[str, Any]
    known: frozenset[str]
    settled: bool = False

    @classmethod
    def of(
        cls,
        names: tuple[str, ...],
        answer: Answer,
        otherwise: Mapping[str, Any],
        settled: bool = False,
    ) -> Slot:
        """Return the slot of an answer, with the defaults ``otherwise`` where it knows them."""
        known = arguments_of(answer.part)
        given = {k: v for k, v in {**answer.defaults, **otherwise}.items() if k in known}
        return cls(names, answer.part, given, frozenset(known), settled)

    def owned_by(self, *methods: str) -> bool:
        """Whether one of these methods decides this part, or none does."""
        owners = [name for name in self.names if name not in (*QUESTIONS, *_OTHERS)]
        return not self.settled and (not owners or owners[0] in methods)

    def build(self) -> Any:
        """Return the part."""
        missing = [
            name
            for name, parameter in arguments_of(self.part).items()
            if parameter.default is inspect.Parameter.empty
            and name in self.known
            and name not in self.given
        ]
        if missing:
            raise InputError(
                f"{self.names[0]}: {self.part.__name__} needs {', '.join(missing)}: "
                f"create(..., {missing[0]}=...)"
            )
        return self.part(**self.given)


def named_part(question: str, name: str) -> type[nn.Module]:
    """Return the part called ``name`` among a question's answers."""
    _, module, base = QUESTIONS[question]
    found = {part: getattr(module, part) for part in module.__all__}
    parts = {
        key: part
        for key, part in found.items()
        if isinstance(part, type) and issubclass(part, base) and part is not base
    }
    if name not in parts:
        raise InputError(
            f"{question}={name!r} is unknown{suggest(name, parts)}; known: {', '.join(parts)}"
        )
    return parts[name]


def check_part(question: str, value: Any) -> None:
    """Raise an InputError for an object that can't answer the question."""
    base = QUESTIONS[question][2]
    if isinstance(value, base):
        return
    name = value.__name__ if isinstance(value, type) else type(value).__name__
    if isinstance(value, type) and issubclass(value, base):
        remedy = f"give an object, {question}={name}(), or its name, {question}={name!r}"
    elif question == "loss" and name in _INSTEAD:
        remedy = f"take mixwell.losses.{_INSTEAD[name]}, which knows both labels of a mixed sample"
    else:
        right = [other for other, (_, _, kind) in QUESTIONS.items() if isinstance(value, kind)]
        other = f"{name} answers another question: {right[0]}={name}(...); " if right else ""
        remedy = f"{other}{question} takes a {base.__name__} of mixwell.{_home(question)} or a name"
    raise InputError(
        f"{question} must be a part of mixwell or its name, got {_shown(value)}; {remedy}"
    )


def _home(question: str) -> str:
    return "losses" if question == "loss" else question


def _shown(value: Any) -> str:
    """Return a value in short: a module's repr may be pages."""
    text = repr(value)
    return text if len(text) <= 60 else f"{type(value).__name__}(...)"
