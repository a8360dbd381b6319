"""The report's sections, each in a file with its tables and figures.

One of your own is registered and appears on the page where it applies:

.. code-block:: python

    from mixwell.report import sections

    def draw(part):
        return sections.Block("Hardest samples", sentences=[...])

    sections.register(sections.Section("hardest", draw, lambda part: part.measured("accuracy")))
"""

from dataclasses import replace

from mixwell.errors import InputError
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

    One that lacks the files of some runs says so.
    """
    blocks = []
    for section in _SECTIONS:
        if not section.applies(part):
            continue
        block = section.draw(part)
        if section.files and part.unseen:
            if block.empty:
                note = f"Nothing to draw. {part.unseen}."
                block = replace(block, note=note, legend=False, classes=())
            else:
                block = replace(block, note=f"{block.note} {part.unseen}: they are missing here.")
            blocks.append(block)
        elif not block.empty:
            blocks.append(block)
    return blocks
