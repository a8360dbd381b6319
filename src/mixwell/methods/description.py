"""What is known about a method: for people, the command line and the documentation's pages."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mixwell.checks import Range
from mixwell.methods.composition import Composition, common_tasks
from mixwell.methods.slots import CombinedSettings, RecipeSettings, TermSettings, arguments_of
from mixwell.methods.spec import Fidelity, Setup, find_setups, specs_of
from mixwell.tasks import Task

__all__ = ["Description", "describe", "ranges", "setup_of", "setups"]

_WIDTH = 100
_SETTINGS = (RecipeSettings, TermSettings, CombinedSettings)


def ranges(name: str, task: str | Task | None = None) -> dict[str, Range]:
    """Return where the settings of a method or composition are searched when it is tuned.

    Args:
        name: as of :func:`create <mixwell.create>`.
        task: likewise.

    Returns:
        Argument of :func:`create <mixwell.create>` to its range and default: those that the parts
        declare.

    >>> print(ranges("mixup")["alpha"])
    0.05 to 20, in factors
    """
    found: dict[str, Range] = {}
    for slot in Composition(name, task).slots.values():
        arguments = arguments_of(slot.part)
        for argument, bounds in getattr(slot.part, "ranges", {}).items():
            default = slot.given.get(argument, arguments[argument].default)
            key = f"{slot.names[-1]}__{argument}" if argument in found else argument
            found[key] = replace(bounds, default=default)
    return found


def setup_of(name: str, published: str) -> Setup:
    """Return a published set-up of a method or composition.

    Its settings are those that take effect in the composition; how it was trained is what the first
    method says that knows, and who knows of the two together knows best.

    Args:
        name: as of :func:`create <mixwell.create>`.
        published: likewise.

    Raises:
        InputError: none of the methods has it, or the composition makes no sense.

    >>> setup_of("regmixup+infinite_class", "cifar100").settings["alpha"]
    20.0
    """
    composition = Composition(name, published=published)
    parts = [setup for _, setup in composition.setups]
    names = {spec.name for spec in composition.specs}
    first = sorted(parts, key=lambda setup: not names & {*setup.beside})
    return Setup(
        settings=composition.settled,
        training=next((setup.training for setup in first if setup.training), {}),
        source="; ".join(dict.fromkeys(setup.source for setup in parts)),
        task=next((setup.task for setup in parts if setup.task), None),
    )


def setups(name: str) -> dict[str, Setup]:
    """Return the published set-ups of a method or composition, by name; see :func:`setup_of`.

    Raises:
        InputError: the name is unknown or the composition makes no sense.

    >>> setups("sk_mixup")["tiny-imagenet"].settings["tau_std"]
    1.25
    """
    specs = specs_of(name)
    common = common_tasks(specs)
    found = {}
    for published in sorted({key for spec in specs for key in spec.published}):
        parts = [setup for _, setup in find_setups(specs, published)]
        if all(setup.task in (None, *common) for setup in parts):  # all are for its task
            found[published] = setup_of(name, published)
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
        defaults: each argument that :func:`create <mixwell.create>` takes, and its default
            ("required" if none).
        ranges: where settings are searched when they are tuned.
        tasks: the tasks it is defined for.
        published: its set-ups by name, as :func:`setups`.
        fidelity: "As published?", of each method.
        meanings: what each argument is, in the words of the part that takes it.
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
    published: dict[str, Setup] = field(default_factory=dict)
    fidelity: dict[str, Fidelity] = field(default_factory=dict)
    meanings: dict[str, str] = field(default_factory=dict)

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
        for name, value in self.defaults.items():
            lines.append(f"    {name:<{width}}  {value}")
            lines += _wrapped(self.meanings.get(name, ""), 8)
        if self.ranges:
            lines += ["", "Searched by 'mixwell tune'"]
            lines += [f"    {name:<{width}}  {bounds}" for name, bounds in self.ranges.items()]
        lines += ["", *self._published_lines(), "", *self._fidelity_lines()]
        lines += ["", f"For {_and(self.tasks)}."]
        return "\n".join(lines)

    def _published_lines(self) -> list[str]:
        if not self.published:
            return ["Published set-ups", "    None is known."]
        lines = [f"Published set-ups: create({self.name!r}, published=...)"]
        for name, setup in self.published.items():
            lines.append(f"    {name}")
            lines += _wrapped(f"settings: {listed(setup.settings) or 'as by default'}", 8)
            lines += _wrapped(f"training: {listed(setup.training) or 'not known'}", 8)
            lines += _wrapped(f"source: {setup.source}", 8)
        return lines

    def _fidelity_lines(self) -> list[str]:
        lines = ["As published?"]
        for name, fidelity in self.fidelity.items():
            if len(self.fidelity) > 1:
                lines.append(f"    {name}")
            lines += _wrapped(f"Same: {fidelity.same}", 4)
            for text in fidelity.differs or ("nothing that is known.",):
                lines += _wrapped(f"Differs: {text}", 4)
            if fidelity.why:
                lines += _wrapped(f"Why: {fidelity.why}", 4)
            lines += _wrapped(f"Checked: {checked(fidelity)}", 4)
        return lines


def _and(words: tuple[str, ...]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if words[1:] else words)


def _wrapped(text: str, indent: int) -> list[str]:
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=" " * indent,
        subsequent_indent=" " * (indent + 4),
        break_long_words=False,
        break_on_hyphens=False,
    )


def listed(values: Mapping[str, Any]) -> str:
    """Return settings as they are written in a call: ``alpha=0.2, per='batch'``."""
    return ", ".join(f"{name}={value!r}" for name, value in values.items())


def checked(fidelity: Fidelity) -> str:
    """Return in words how a method was compared with its source."""
    how = {
        "numerically": "numerically, against",
        "read": "by reading, against",
        "not checked": "not at all;",
    }[fidelity.checked]
    return f"{how} {fidelity.against}"


def describe(name: str) -> Description:
    """Return what is known about a method or a composition: paper, equation, parts, defaults.

    Raises:
        InputError: the name is unknown or the composition makes no sense.
    """
    composition = Composition(name)
    specs = composition.specs
    defaults: dict[str, Any] = {}
    meanings: dict[str, str] = {}
    for slot in composition.slots.values():
        for argument, parameter in arguments_of(slot.part).items():
            default = parameter.default
            value = "required" if default is inspect.Parameter.empty else default
            value = slot.given.get(argument, value)
            other = argument in defaults and defaults[argument] != value
            key = f"{slot.names[-1]}__{argument}" if other else argument
            defaults[key] = value
            meaning = meaning_of(slot.part, argument)
            if meaning and meaning not in meanings.get(key, ""):
                meanings[key] = f"{meanings[key]} {meaning}" if key in meanings else meaning
    parts = {
        key: slot.part.__name__
        for key, slot in composition.slots.items()
        if slot.part not in _SETTINGS
    }

    def joined(values: list[str], separator: str) -> str:
        return separator.join(value.strip("\n") for value in values)

    return Description(
        name=composition.name,
        title=joined([spec.title for spec in specs], " + "),
        paper=joined([spec.paper for spec in specs], "; "),
        equation=joined([spec.equation for spec in specs], "\n\n"),
        doc=joined([inspect.cleandoc(spec.doc) for spec in specs], "\n\n"),
        parts=parts,
        defaults=defaults,
        tasks=tuple(common_tasks(specs)),
        ranges=ranges(name),
        published=setups(name),
        fidelity={spec.name: spec.fidelity for spec in specs if spec.fidelity},
        meanings=meanings,
    )


def meaning_of(part: type, argument: str) -> str:
    """Return what an argument is, as the "Args" of a part or of what it inherits from say it.

    >>> from mixwell.coefficient import SimilarityKernel
    >>> meaning_of(SimilarityKernel, "tau_std")
    "the kernel's width; > 0."
    """
    for owner in part.__mro__:
        text = inspect.cleandoc(owner.__doc__ or "")
        _, found, section = text.partition("\nArgs:\n")
        if not found:
            continue
        section = re.split(r"\n(?=\S)", section)[0]
        for entry in re.split(r"\n(?=    \S)", "\n" + section):
            name, _, told = entry.strip().partition(":")
            if name == argument:
                return re.sub(r":\w+:`~?([^`]+)`", r"\1", " ".join(told.split())).replace("``", "")
    return ""
