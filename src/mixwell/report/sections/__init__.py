"""The report's sections, each in a file with its tables and figures.

One of your own is registered and appears on the page where it applies:

.. code-block:: python

    from mixwell.report import sections

    def draw(part):
        return sections.Block("Hardest samples", sentences=[...])

    sections.register(sections.Section("hardest", draw, lambda part: part.measured("accuracy")))
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from mixwell.errors import InputError, explained, say
from mixwell.report.sections import (
    calibration,
    classes,
    cost,
    curves,
    features,
    long_tail,
    outliers,
    people,
    samples,
    shift,
    tests,
    toys,
)
from mixwell.report.sections.base import Block, Part, Picture, Section, Table, drawable, plain

__all__ = [
    "Block",
    "Part",
    "Picture",
    "Section",
    "Table",
    "attempt",
    "drawable",
    "drawn",
    "plain",
    "register",
    "registered",
    "remove",
]

_SECTIONS = [
    tests.FINDINGS, tests.POWER, long_tail.SECTION, toys.SURFACES, toys.MIXED, toys.MARGINS,
    tests.DIFFERENCES, cost.SECTION, samples.SECTION, curves.SECTION, classes.ACCURACY,
    classes.CONFUSION, calibration.RELIABILITY, calibration.DEVIATIONS, people.SECTION,
    outliers.SECTION, shift.MEANS, shift.BY_CORRUPTION, features.SECTION,
]  # fmt: skip


def registered() -> tuple[Section, ...]:
    """Return the sections in the page's order."""
    return tuple(_SECTIONS)


def register(section: Section, before: str | None = None) -> Section:
    """Add a section to the page.

    Args:
        section: that is added.
        before: the name of the one that it comes before; the last without.

    Raises:
        InputError: there is a section of its name already, or none of the name ``before``.
    """
    names = [known.name for known in _SECTIONS]
    if section.name in names:
        raise InputError(f"name={section.name!r}: there is a section of this name already")
    _SECTIONS.insert(len(names) if before is None else _place(before), section)
    return section


def remove(name: str) -> None:
    """Take a section off the page."""
    del _SECTIONS[_place(name)]


def _place(name: str) -> int:
    names = [known.name for known in _SECTIONS]
    if name not in names:
        raise InputError(f"section {name!r} is unknown; known: {', '.join(names)}")
    return names.index(name)


def drawn(part: Part) -> list[Block]:
    """Return what the sections that apply show of a part, without those that show nothing.

    One that lacks the files of some runs says so, and so does one that can't be drawn: it costs
    no more of the page than itself.
    """
    blocks = []
    for section in _SECTIONS:
        title = section.name.replace("_", " ").capitalize()
        blocks += attempt(title, partial(_drawn, section, part))
    return blocks


def _drawn(section: Section, part: Part) -> list[Block]:
    if not section.applies(part):
        return []
    block = section.draw(part)
    if section.files and part.unseen:
        if block.empty:
            note = f"Nothing to draw. {part.unseen}."
            return [replace(block, note=note, legend=False, classes=())]
        return [replace(block, note=f"{block.note} {part.unseen}: they are missing here.")]
    return [] if block.empty else [block]


def attempt(title: str, draw: Callable[[], list[Block]]) -> list[Block]:
    """Return what is drawn, or a block of this title that says why it can't be.

    What the machine fails at (a full disk, no memory) is raised.
    """
    try:
        return draw()
    except Exception as error:
        if explained(error) is not None:
            raise
        kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
        why = f"{kind}{error}"
        say(f"The report's section {title!r} could not be drawn: {why}")
        return [Block(title, f"This section could not be drawn: {why}.")]
