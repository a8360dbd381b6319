"""What a published method says of itself: its answers, its set-ups, and how true to it it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from mixwell import tasks
from mixwell.checks import check_choice
from mixwell.errors import InputError, suggest

__all__ = [
    "PER_BATCH",
    "Answer",
    "Fidelity",
    "Setup",
    "Spec",
    "find_setup",
    "list_methods",
    "register",
]

CHECKED = ("numerically", "read", "not checked")
COMBINE = ("sum", "mean")

PER_BATCH = "λ is drawn for each sample; the authors draw one for a batch (per='batch')."
"""What most methods here have other than their authors."""

TRAINING = (
    "model", "network", "epochs", "batch_size", "optimizer", "lr", "momentum", "nesterov",
    "weight_decay", "schedule", "milestones", "gamma", "warmup_epochs",
)  # fmt: skip
"""What a set-up may say of training, in the words of the command line's options.

``model`` is a network of :mod:`mixwell.models`, ``network`` one in words; ``milestones`` are the
epochs after which the rate is multiplied by ``gamma``.
"""


class Answer:
    """A part with a method's published defaults.

    Args:
        part: the class.
        defaults: its arguments, where they differ from the class's own.
    """

    def __init__(self, part: type[nn.Module], **defaults: Any) -> None:
        self.part, self.defaults = part, defaults


@dataclass(frozen=True)
class Setup:
    """What a paper used on some data: ``create(name, published="imagenet")``.

    Args:
        settings: arguments of :func:`create <mixwell.create>`. Of a composition they settle the
            method's own parts and those that no method decides.
        beside: settings beside another method, by its name: they stand above both methods' own.
        training: how it was trained, by the names in ``TRAINING``; what is not known is left out.
        source: where all this stands.
        task: the task that it is for, where it is not the method's usual one.

    Raises:
        InputError: there is no source, or ``training`` names something else.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    beside: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    task: str | None = None

    def __post_init__(self) -> None:
        if not self.source.strip():
            raise InputError("source must say where a set-up was published, got ''")
        for name in self.training:
            check_choice("training", name, TRAINING)


@dataclass(frozen=True)
class Fidelity:
    """How true to what was published a method is, and how anybody knows.

    Args:
        same: what is the same.
        differs: what differs, a sentence or two each; empty where nothing is known to.
        why: the reason for that.
        checked: "numerically", run beside the source; "read", compared by reading; or
            "not checked".
        against: the source: the authors' code, somebody else's, the printed equation, or none.

    Raises:
        InputError: one of them is missing or unknown.
    """

    same: str
    differs: tuple[str, ...] = ()
    why: str = ""
    checked: str = "not checked"
    against: str = ""

    def __post_init__(self) -> None:
        check_choice("checked", self.checked, CHECKED)
        differs: Any = self.differs
        if not isinstance(differs, tuple):
            raise InputError(f"differs must be a tuple of sentences, got {differs!r}")
        for name in ("same", "against"):
            if not getattr(self, name).strip():
                raise InputError(f"{name} of a Fidelity must be a sentence, got ''")
        if self.differs and not self.why.strip():
            raise InputError("why must give the reason for what differs, got ''")


@dataclass(frozen=True)
class Spec:
    """A published method, as answers to the five questions.

    Args:
        name: what :func:`create <mixwell.create>` knows it by.
        title: the paper's title.
        paper: authors, venue and year, arXiv number.
        equation: what it computes, in the paper's letters.
        doc: what it is for: its module's docstring.
        answers: what the method *is*: no other method may answer these questions beside it.
        suggests: published settings that give way to another method's answers.
        clean: whether the loss of clean samples is added to that of mixed ones.
        weight: the factor of its mixed term beside the loss of clean samples.
        combine: whether these two are added ("sum") or averaged ("mean"), where that is a setting.
        p: the published probability that a sample is mixed.
        per: whether that is decided for each "sample" or for the whole "batch".
        beside: a term of its own, answers to all questions, beside the other methods' terms.
        mixes: whether it has mixed samples in its main term.
        tasks: the tasks it is defined for, the usual one first.
        in_regression: other defaults for task="regression".
        published: set-ups by name, that of the data in small letters; "cifar" stands for CIFAR-10
            and CIFAR-100.
        fidelity: "As published?"; needed.
    """

    name: str
    title: str
    paper: str
    equation: str
    doc: str
    answers: Mapping[str, Answer] = field(default_factory=dict)
    suggests: Mapping[str, Answer] = field(default_factory=dict)
    clean: bool = False
    weight: float = 1.0
    combine: str | None = None
    p: float = 1.0
    per: str = "sample"
    beside: Mapping[str, Answer] = field(default_factory=dict)
    mixes: bool = True
    tasks: tuple[str, ...] = field(default_factory=tasks.names)
    in_regression: Mapping[str, Any] = field(default_factory=dict)
    published: Mapping[str, Setup] = field(default_factory=dict)
    fidelity: Fidelity | None = None


_SPECS: dict[str, Spec] = {}


def register(spec: Spec) -> Spec:
    """Make a method known to :func:`create <mixwell.create>` under its name.

    Raises:
        InputError: the name is taken, or it isn't said how true to its source the method is.
    """
    if spec.name in _SPECS or not spec.name.isidentifier():
        raise InputError(f"name={spec.name!r} is taken or is no identifier")
    if not isinstance(spec.fidelity, Fidelity):
        raise InputError(
            f"{spec.name}: fidelity must say how true to its source the method is, got "
            f"{spec.fidelity!r}; for one of your own: Fidelity(same='It is defined here.', "
            "against='no publication')"
        )
    if spec.combine is not None:
        check_choice("combine", spec.combine, COMBINE)
    _SPECS[spec.name] = spec
    return spec


def list_methods() -> list[str]:
    """Return the names that :func:`create <mixwell.create>` knows; they compose with "+"."""
    return sorted(_SPECS)


def specs_of(name: str) -> list[Spec]:
    """Return the methods of a composition, in the order they are named.

    Raises:
        InputError: one is unknown, named twice, or is erm beside another.
    """
    known = ", ".join(list_methods())
    if not isinstance(name, str) or not name.strip():
        raise InputError(f"name must be a method's name, got {name!r}; known: {known}")
    names = [part.strip() for part in name.split("+")]
    for part in names:
        if part not in _SPECS:
            raise InputError(
                f"name={name!r}: the method {part!r} is unknown{suggest(part, _SPECS)}; "
                f"known: {known}"
            )
    if len(set(names)) < len(names):
        raise InputError(f"{name!r} makes no sense: it names the same method twice")
    if len(names) > 1 and "erm" in names:
        raise InputError(
            f"{name!r} makes no sense: erm mixes nothing, so there is nothing for "
            f"{' and '.join(part for part in names if part != 'erm')} to change; leave erm out"
        )
    return [_SPECS[part] for part in names]


# ------------------------------------------------------------------------------- published set-ups


def find_setup(spec: Spec, published: str) -> Setup | None:
    """Return a method's own set-up of this name; "cifar" stands for "cifar10" and "cifar100"."""
    family = published.rstrip("0123456789")
    return spec.published.get(published) or spec.published.get(family)


def find_setups(specs: list[Spec], published: Any) -> list[tuple[Spec, Setup]]:
    """Return the set-ups of this name, of each method that has one.

    Raises:
        InputError: none has.
    """
    found = [(spec, find_setup(spec, published)) for spec in specs if isinstance(published, str)]
    setups = [(spec, setup) for spec, setup in found if setup is not None]
    if not setups:
        name = "+".join(spec.name for spec in specs)
        known = sorted({key for spec in specs for key in spec.published})
        there = f"there are {', '.join(known)}" if known else "none is known"
        near = suggest(published, known) if isinstance(published, str) else ""
        raise InputError(f"published={published!r}: {name} has no such set-up{near}; {there}")
    return setups


def has_setup(name: str, published: str) -> bool:
    """Return whether one of a composition's methods has a published set-up of this name.

    Raises:
        InputError: the name is unknown or the composition makes no sense.

    >>> has_setup("mixup+am_mixup", "cifar100"), has_setup("am_mixup", "cifar100")
    (True, False)
    """
    return any(find_setup(spec, published) is not None for spec in specs_of(name))
