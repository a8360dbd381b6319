"""Methods by name: what each one answers, and how the answers of several compose."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from mixwell import coefficient, interpolation, labels, losses, pairing, tasks
from mixwell.checks import Per, Range
from mixwell.errors import InputError, suggest
from mixwell.methods.method import Method
from mixwell.methods.recipe import Recipe, Term
from mixwell.tasks import Task

__all__ = [
    "Answer",
    "Description",
    "Spec",
    "accepts",
    "create",
    "describe",
    "list_methods",
    "ranges",
    "register",
]

QUESTIONS: dict[str, tuple[str, Any]] = {
    "pairing": ("who mixes with whom", pairing),
    "coefficient": ("how much of each", coefficient),
    "interpolation": ("how and where to mix", interpolation),
    "labels": ("what the label is", labels),
    "loss": ("what the loss is", losses),
}

_DEFAULTS: dict[str, type[nn.Module]] = {
    "pairing": pairing.Shuffle,
    "coefficient": coefficient.Beta,
    "interpolation": interpolation.Linear,
    "labels": labels.Soft,
}


class Answer:
    """A part with a method's published defaults.

    Args:
        part: the class.
        defaults: its arguments, where they differ from the class's own.
    """

    def __init__(self, part: type[nn.Module], **defaults: Any) -> None:
        self.part, self.defaults = part, defaults


@dataclass(frozen=True)
class Spec:
    """A published method, as answers to the five questions.

    Args:
        name: what :func:`create` knows it by.
        title: the paper's title.
        paper: authors, venue and year, arXiv number.
        equation: what it computes, in the paper's letters.
        doc: what it is for: its module's docstring.
        answers: what the method *is*: no other method may answer these questions beside it.
        suggests: published settings that give way to another method's answers.
        clean: whether the loss of clean samples is added to that of mixed ones.
        weight: the factor of its mixed term beside the loss of clean samples.
        p: the published probability that a sample is mixed.
        beside: a term of its own, answers to all questions, beside the other methods' terms.
        mixes: whether it has mixed samples in its main term.
        tasks: the tasks it is defined for, the usual one first.
        in_regression: other defaults for task="regression".
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
    p: float = 1.0
    beside: Mapping[str, Answer] = field(default_factory=dict)
    mixes: bool = True
    tasks: tuple[str, ...] = field(default_factory=tasks.names)
    in_regression: Mapping[str, Any] = field(default_factory=dict)


_SPECS: dict[str, Spec] = {}


def register(spec: Spec) -> Spec:
    """Make a method known to :func:`create` under its name."""
    if spec.name in _SPECS or not spec.name.isidentifier():
        raise InputError(f"name={spec.name!r} is taken or is no identifier")
    _SPECS[spec.name] = spec
    return spec


def list_methods() -> list[str]:
    """Return the names that :func:`create` knows; they compose with "+"."""
    return sorted(_SPECS)


# ------------------------------------------------------------------------------------- arguments


def _arguments(part: type) -> dict[str, inspect.Parameter]:
    """Return the arguments of a part's constructor that a method may be given."""
    parameters = inspect.signature(part.__init__).parameters  # type: ignore[misc]
    hidden = {"self", "reduction", "args", "kwargs"}
    return {name: parameter for name, parameter in parameters.items() if name not in hidden}


@dataclass
class _Slot:
    """A part to be built, and the names that its arguments may be addressed by."""

    names: tuple[str, ...]
    part: type[nn.Module]
    given: dict[str, Any]
    known: frozenset[str]

    def build(self) -> Any:
        missing = [
            name
            for name, parameter in _arguments(self.part).items()
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


class _RecipeSettings(nn.Module):
    """The arguments of a Recipe that are not parts."""

    def __init__(self, p: float = 1.0, per: Per = "sample") -> None:
        super().__init__()
        self.settings: dict[str, Any] = {"p": p, "per": per}


class _TermSettings(nn.Module):
    """The arguments of a Term that are not parts."""

    ranges: ClassVar = {"weight": Range(0.1, 3, log=True)}

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {"weight": weight}


def _slot(names: tuple[str, ...], answer: Answer, in_regression: Mapping[str, Any]) -> _Slot:
    known = _arguments(answer.part)
    given = {k: v for k, v in answer.defaults.items() if k in known}
    given.update({k: v for k, v in in_regression.items() if k in known})
    return _Slot(names, answer.part, given, frozenset(known))


def _named_part(question: str, name: str) -> type[nn.Module]:
    """Return the part called ``name`` among a question's answers."""
    module = QUESTIONS[question][1]
    bases = {"Pairing", "Coefficient", "Interpolation", "Labels", "Loss"}
    parts = {
        part: getattr(module, part)
        for part in module.__all__
        if isinstance(getattr(module, part), type) and part not in bases
    }
    parts = {key: part for key, part in parts.items() if issubclass(part, nn.Module)}
    if name not in parts:
        raise InputError(
            f"{question}={name!r} is unknown{suggest(name, parts)}; known: {', '.join(parts)}"
        )
    return parts[name]


# ----------------------------------------------------------------------------------- composition


class _Plan:
    """The parts of a composition, before they are built."""

    def __init__(self, name: str, task: str | Task | None, chosen: Mapping[str, Any]) -> None:
        self.name = name
        self.specs = _parse(name)
        self.task = _task(self.specs, task)
        self.objects: dict[str, nn.Module] = {}
        self.slots: dict[str, _Slot] = {}
        self.mixes = any(spec.mixes for spec in self.specs)
        self.clean = not self.mixes or any(spec.clean for spec in self.specs)
        self.weighted = next((spec for spec in self.specs if spec.clean), None)
        self.beside = [spec for spec in self.specs if spec.beside]
        in_regression: dict[str, Any] = {}
        if not self.task.has_classes:
            for spec in self.specs:
                in_regression.update(spec.in_regression)

        for question in QUESTIONS if self.mixes else ("loss",):
            owners, answer = self._answer(question)
            value = chosen.get(question)
            if isinstance(value, nn.Module):
                self.objects[question] = value
            elif isinstance(value, str):
                owners, answer = (question,), Answer(_named_part(question, value))
                self.slots[question] = _slot(owners, answer, in_regression)
            elif value is not None:
                raise InputError(f"{question} must be a part of mixwell or its name, got {value!r}")
            else:
                self.slots[question] = _slot((question, *owners), answer, in_regression)
        unused = [q for q in QUESTIONS if q in chosen and q not in (*self.slots, *self.objects)]
        if unused:
            raise InputError(f"{name} mixes no samples: {unused[0]} has nothing to act on")
        if self.mixes:
            p = min(spec.p for spec in self.specs)
            self.slots["recipe"] = _slot(("recipe",), Answer(_RecipeSettings, p=p), {})
            if self.weighted:
                names = ("term", self.weighted.name)
                weight = self.weighted.weight
                self.slots["term"] = _slot(names, Answer(_TermSettings, weight=weight), {})
        if self.mixes and self.clean:
            answer = Answer(self.task.loss)
            self.slots["clean"] = _slot(("clean",), answer, {})
        for spec in self.beside:
            parts = {
                **spec.beside,
                "recipe": Answer(_RecipeSettings),
                "term": Answer(_TermSettings, weight=spec.weight),
            }
            for question, answer in parts.items():
                self.slots[f"{spec.name}.{question}"] = _slot((spec.name,), answer, {})

    def _answer(self, question: str) -> tuple[tuple[str, ...], Answer]:
        owners = [spec for spec in self.specs if question in spec.answers]
        if len(owners) > 1:
            first, second = owners[:2]
            raise InputError(
                f"{self.name!r} makes no sense: {first.name} and {second.name} both decide "
                f"{QUESTIONS[question][0]} ({question}: {first.answers[question].part.__name__} "
                f"against {second.answers[question].part.__name__}); keep one of them"
            )
        if owners:
            return (owners[0].name,), owners[0].answers[question]
        for spec in self.specs:
            if question in spec.suggests:
                return (spec.name,), spec.suggests[question]
        part = self.task.loss if question == "loss" else _DEFAULTS[question]
        return (), Answer(part)

    def give(self, arguments: Mapping[str, Any]) -> None:
        """Hand each argument to every part that knows it, or to the one it names."""
        for full, value in arguments.items():
            part, _, argument = full.rpartition("__")
            slots = [
                slot
                for slot in self.slots.values()
                if argument in slot.known and (not part or part in slot.names)
            ]
            if not slots:
                known = sorted({name for slot in self.slots.values() for name in slot.known})
                raise InputError(
                    f"{self.name} has no argument {full!r}{suggest(argument, known)}; "
                    f"it knows {', '.join(known)}"
                )
            for slot in slots:
                slot.given[argument] = value
            # Where λ is drawn for each pair, "per" would only say how p is drawn.
            settings_alone = slots == [self.slots.get("recipe")] and slots[0].given["p"] == 1
            if argument == "per" and value == "batch" and settings_alone and "p" not in arguments:
                raise InputError(
                    f"{self.name}: per='batch' has nothing to act on: λ is drawn for each pair"
                )

    def build(self) -> list[Term]:
        terms = []
        built = {key: slot.build() for key, slot in self.slots.items()}
        built.update(self.objects)
        if self.clean:
            terms.append(Term(built["clean" if self.mixes else "loss"], name="clean"))
        if self.mixes:
            recipe = _recipe(built, "")
            settings = built["term"].settings if "term" in built else {}
            terms.append(Term(built["loss"], recipe, **settings, name="mixed"))
        for spec in self.beside:
            prefix = f"{spec.name}."
            settings = built[prefix + "term"].settings
            terms.append(
                Term(built[prefix + "loss"], _recipe(built, prefix), **settings, name=spec.name)
            )
        return terms


def _recipe(built: Mapping[str, Any], prefix: str) -> Recipe:
    parts = {q: built[prefix + q] for q in QUESTIONS if q != "loss"}
    return Recipe(**parts, **built[prefix + "recipe"].settings)


def _parse(name: str) -> list[Spec]:
    if not isinstance(name, str) or not name.strip():
        raise InputError(f"name must be a method's name, got {name!r}; known: {_known()}")
    names = [part.strip() for part in name.split("+")]
    for part in names:
        if part not in _SPECS:
            raise InputError(
                f"name={name!r}: the method {part!r} is unknown{suggest(part, _SPECS)}; "
                f"known: {_known()}"
            )
    if len(set(names)) < len(names):
        raise InputError(f"{name!r} makes no sense: it names the same method twice")
    if len(names) > 1 and "erm" in names:
        raise InputError(
            f"{name!r} makes no sense: erm mixes nothing, so there is nothing for "
            f"{' and '.join(part for part in names if part != 'erm')} to change; leave erm out"
        )
    return [_SPECS[part] for part in names]


def _known() -> str:
    return ", ".join(list_methods())


def _common_tasks(specs: list[Spec]) -> list[str]:
    """Return the tasks of all, in the order of the method that is for the fewest."""
    narrow = min(specs, key=lambda spec: len(spec.tasks))
    return [task for task in narrow.tasks if all(task in spec.tasks for spec in specs)]


def _task(specs: list[Spec], task: str | Task | None) -> Task:
    wanted = None if task is None else tasks.get(task)
    common = _common_tasks(specs)
    if not common or (wanted is not None and wanted.name not in common):
        scopes = ", ".join(f"{spec.name} is for {' and '.join(spec.tasks)}" for spec in specs)
        asked = "" if wanted is None else f" for task={wanted.name!r}"
        name = "+".join(spec.name for spec in specs)
        raise InputError(f"{name!r} makes no sense{asked}: {scopes}")
    return wanted or tasks.get(common[0])


# ------------------------------------------------------------------------------------ public face


def create(
    name: str,
    num_classes: int | None = None,
    *,
    task: str | Task | None = None,
    head: str | None = None,
    feature_mode: Literal["eval", "train"] = "eval",
    generator: torch.Generator | None = None,
    **arguments: Any,
) -> Method:
    """Return a method, or a composition of several, by name.

    Args:
        name: one of :func:`list_methods`, or several joined by "+": "sk_mixup+decoupled".
        num_classes: C, to check labels and logits against.
        task: "classification", "multilabel", "segmentation" or "regression"; the methods' usual one
            by default.
        head: the name of the model's classifier head, where it should not be searched for.
        feature_mode: see :class:`Method`.
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
    """
    chosen = {question: arguments.pop(question) for question in QUESTIONS if question in arguments}
    plan = _Plan(name, task, chosen)
    plan.give(arguments)
    return Method(
        *plan.build(),
        num_classes=num_classes,
        task=plan.task,
        head=head,
        feature_mode=feature_mode,
        generator=generator,
        name="+".join(spec.name for spec in plan.specs),
    )


def accepts(name: str, argument: str) -> bool:
    """Whether :func:`create` takes ``argument`` for this method or composition."""
    slots = _Plan(name, None, {}).slots.values()
    return any(argument in slot.known for slot in slots)


def ranges(name: str, task: str | None = None) -> dict[str, Range]:
    """Return where the settings of a method or composition are searched when it is tuned.

    Args:
        name: as of :func:`create`.
        task: likewise.

    Returns:
        Argument of :func:`create` to its range and default: those that the parts declare.

    >>> print(ranges("mixup")["alpha"])
    0.05 to 20, in factors
    """
    found: dict[str, Range] = {}
    for slot in _Plan(name, task, {}).slots.values():
        arguments = _arguments(slot.part)
        for argument, bounds in getattr(slot.part, "ranges", {}).items():
            default = slot.given.get(argument, arguments[argument].default)
            key = f"{slot.names[-1]}__{argument}" if argument in found else argument
            found[key] = replace(bounds, default=default)
    return found


@dataclass(frozen=True)
class Description:
    """What is known about a method; ``str()`` of it is for people.

    Attributes:
        name: of the method or composition.
        title: the paper's title, or the composed methods' titles.
        paper: where it was published.
        equation: what it computes.
        doc: what it is for.
        parts: the answer to each question.
        defaults: each argument that :func:`create` takes, and its default ("required" if none).
        ranges: where settings are searched when they are tuned.
        tasks: the tasks it is defined for.
    """

    name: str
    title: str
    paper: str
    equation: str
    doc: str
    parts: dict[str, str]
    defaults: dict[str, Any]
    tasks: tuple[str, ...]
    ranges: dict[str, Range] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [self.name, "=" * len(self.name), self.title, self.paper, ""]
        lines += [self.doc.strip(), "", "Equation"]
        lines += ["    " + line for line in self.equation.strip("\n").splitlines()]
        width = max(map(len, [*self.parts, *self.defaults]))
        lines += ["", "Parts"]
        lines += [f"    {question:<{width}}  {part}" for question, part in self.parts.items()]
        lines += [
            "",
            f"Arguments of create({self.name!r}, num_classes=..., ...) and their defaults",
        ]
        lines += [f"    {name:<{width}}  {value}" for name, value in self.defaults.items()]
        if self.ranges:
            lines += ["", "Searched by 'mixwell tune'"]
            lines += [f"    {name:<{width}}  {bounds}" for name, bounds in self.ranges.items()]
        lines += ["", f"For {' and '.join(self.tasks)}."]
        return "\n".join(lines)


def describe(name: str) -> Description:
    """Return what is known about a method or a composition: paper, equation, parts, defaults.

    Raises:
        InputError: the name is unknown or the composition makes no sense.
    """
    plan = _Plan(name, None, {})
    defaults: dict[str, Any] = {}
    for slot in plan.slots.values():
        for argument, parameter in _arguments(slot.part).items():
            default = parameter.default
            value = "required" if default is inspect.Parameter.empty else default
            value = slot.given.get(argument, value)
            if argument in defaults and defaults[argument] != value:
                defaults[f"{slot.names[-1]}__{argument}"] = value
            else:
                defaults[argument] = value
    settings = (_RecipeSettings, _TermSettings)
    parts = {
        key: slot.part.__name__ for key, slot in plan.slots.items() if slot.part not in settings
    }
    common = tuple(_common_tasks(plan.specs))

    def joined(values: list[str], separator: str) -> str:
        return separator.join(value.strip("\n") for value in values)

    return Description(
        name="+".join(spec.name for spec in plan.specs),
        title=joined([spec.title for spec in plan.specs], " + "),
        paper=joined([spec.paper for spec in plan.specs], "; "),
        equation=joined([spec.equation for spec in plan.specs], "\n\n"),
        doc=joined([inspect.cleandoc(spec.doc) for spec in plan.specs], "\n\n"),
        parts=parts,
        defaults=defaults,
        tasks=common,
        ranges=ranges(name),
    )
