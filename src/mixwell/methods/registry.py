"""Methods by name: what each one answers, and how the answers of several compose."""

from __future__ import annotations

from typing import Any, Literal

import torch

from mixwell.checks import plain
from mixwell.methods.composition import Composition
from mixwell.methods.description import Description, describe, ranges, setup_of, setups
from mixwell.methods.method import Method
from mixwell.methods.slots import QUESTIONS
from mixwell.methods.spec import Answer, Fidelity, Setup, Spec, has_setup, list_methods, register
from mixwell.tasks import Task

__all__ = [
    "Answer",
    "Description",
    "Fidelity",
    "Setup",
    "Spec",
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


def create(
    name: str,
    num_classes: int | None = None,
    *,
    published: str | None = None,
    task: str | Task | None = None,
    head: str | None = None,
    feature_mode: Literal["eval", "train"] | None = None,
    generator: torch.Generator | None = None,
    **arguments: Any,
) -> Method:
    """Return a method, or a composition of several, by name.

    Args:
        name: one of :func:`list_methods`, or several joined by "+": "sk_mixup+decoupled".
        num_classes: C, to check labels and logits against.
        published: the name of a set-up, "cifar100" say, which settles what isn't given here as the
            papers did; :func:`describe` lists them. In a composition each method's set-up of that
            name settles the parts which that method decides; of those that none decides, what the
            method named first says stands. Methods that were published together take what their
            authors took for the two, in whichever order they are named.
        task: "classification", "multilabel", "segmentation" or "regression"; the set-up's or the
            methods' usual one by default.
        head: the name of the model's classifier head, where it should not be searched for.
        feature_mode: see :class:`Method`; the set-up's, or "eval", by default.
        generator: the source of all randomness; torch's default generators without one.
        arguments: settings of the methods' parts (``alpha``, ``tau_std``, ``eta`` ...). Each goes
            to every part that knows it; ``part__argument`` names one, by its question
            (``loss__eta``) or its method (``am_mixup__weight``). A question itself
            (``pairing=InterClass()`` or ``pairing="InterClass"``) replaces the part.

    Raises:
        InputError: a name, an argument or a value is wrong, or the composition makes no sense.

    >>> method = create("sk_mixup+decoupled", num_classes=10, tau_std=0.5, eta=0.2)
    >>> method.name
    'sk_mixup+decoupled'
    >>> create("sk_mixup", published="imagenet").recipe.coefficient.tau_max
    0.1
    """
    given = {argument: plain(value) for argument, value in arguments.items()}
    chosen = {question: given.pop(question) for question in QUESTIONS if question in given}
    composition = Composition(name, task, chosen, published)
    composition.give(given)
    usual = composition.settled.get("feature_mode", "eval")
    return Method(
        *composition.build(),
        num_classes=num_classes,
        task=composition.task,
        head=head,
        feature_mode=usual if feature_mode is None else feature_mode,
        generator=generator,
        name=composition.name,
    )


def accepts(name: str, argument: str) -> bool:
    """Whether :func:`create` takes ``argument`` for this method or composition."""
    return any(argument in slot.known for slot in Composition(name).slots.values())


def needs_of_data(name: str) -> frozenset[str]:
    """Return the arguments of :func:`create` that a data set answers, where nobody gives them.

    The parts declare them: see :class:`mixwell.parts.Part`.
    """
    slots = Composition(name).slots.values()
    return frozenset(need for slot in slots for need in getattr(slot.part, "needs_of_data", ()))
