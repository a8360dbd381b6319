"""What a section of the report is: when it applies, and what it draws of one part of a study."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np

from mixwell.errors import InputError
from mixwell.metrics.measures import Measure, get, registered
from mixwell.report.tables import leading
from mixwell.studies import MethodSummary, RunRecord
from mixwell.studies.statistics import Interval

__all__ = ["Block", "Part", "Picture", "Section", "Table", "drawable", "plain"]


@dataclass(frozen=True)
class Picture:
    """A figure.

    Attributes:
        svg: what :func:`mixwell.report.drawing.svg_of` returns; empty where it can't be drawn, as
            its caption then says.
        title: above it.
        caption: below it.
        method: whose it is alone: the page hides it with the method.
    """

    svg: str
    title: str = ""
    caption: str = ""
    method: str = ""


@dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes:
        headings: of the columns.
        rows: as long as the headings, the first cell heading the row.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Block:
    """What a section shows: all that there is of it, in this order.

    Attributes:
        title: of the section.
        note: what is to be seen, in a few sentences.
        sentences: a list.
        table: below it.
        legend: whether the methods' colours are explained.
        classes: names and colours that are explained, too.
        pictures: the figures.
        small: whether they are small, one of each method, say.
        style: "section"; "folded", opened by a click; or "plain", a part of the results themselves.
    """

    title: str
    note: str = ""
    sentences: Sequence[str] = ()
    table: Table | None = None
    legend: bool = False
    classes: Sequence[tuple[str, str]] = ()
    pictures: Sequence[Picture] = ()
    small: bool = False
    style: str = "section"

    @property
    def empty(self) -> bool:
        """Whether there is nothing to be shown."""
        return not (self.sentences or self.table or self.pictures)


@dataclass(frozen=True, eq=False)
class Part:
    """One part of a study, as a section sees it.

    Attributes:
        records: its runs that are done.
        summaries: its methods.
        colours: of the methods.
        base: the method that the others are tested against.
        protocol: the name of the study's.
    """

    records: Sequence[RunRecord]
    summaries: Sequence[MethodSummary]
    colours: Mapping[str, str]
    base: str
    protocol: str

    @cached_property
    def by_method(self) -> dict[str, list[RunRecord]]:
        """The runs of each method."""
        found: dict[str, list[RunRecord]] = {summary.method: [] for summary in self.summaries}
        for record in self.records:
            found[record.label].append(record)
        return found

    @cached_property
    def first(self) -> RunRecord:
        """The first run that left files: what all of them have in common is looked up here."""
        return next((run for run in self.records if not run.known_from), self.records[0])

    @property
    def seed(self) -> str:
        """In words, the seed whose run a figure of one run shows."""
        return f"Seed {self.first.seed}."

    @property
    def is_toy(self) -> bool:
        """Whether its samples are points in the plane, and shown as such."""
        return str(self.first.config["data"]).startswith(("moons", "circles"))

    @cached_property
    def unseen(self) -> str:
        """In words, what runs are known by their measures alone; empty where none is."""
        known = [run for run in self.records if run.known_from]
        if not known:
            return ""
        count = "All" if len(known) == len(self.records) else f"{len(known)} of"
        files = ", ".join(dict.fromkeys(run.known_from for run in known))
        return f"{count} {len(self.records)} runs are known from {files}, by their measures alone"

    @cached_property
    def leading(self) -> list[Measure]:
        """The measures that the protocol looks at first."""
        return leading(registered(), self.protocol)

    @cached_property
    def tested(self) -> list[Measure]:
        """Those of them that there are tests of."""
        return [m for m in self.leading if any(s.tests.get(m.name) for s in self.summaries)]

    def measured(self, name: str) -> bool:
        """Whether any method has a measure."""
        return any(name in summary.metrics for summary in self.summaries)

    def each(
        self,
        draw: Callable[[RunRecord, str], str | None],
        caption: Callable[[Mapping[str, float]], str] = lambda metrics: "",
    ) -> list[Picture]:
        """Return a picture of each method's first run, where there is something to draw.

        Args:
            draw: takes the run and its method's colour.
            caption: takes the run's measures.
        """
        shown = []
        for method, runs in self.by_method.items():
            # One seed for all; of a run that is known by its measures alone, the next that is not.
            left = sorted(
                (run for run in runs if not run.known_from), key=lambda r: r.seed != self.first.seed
            )
            if left:
                run = left[0]
                title = method if run.seed == self.first.seed else f"{method}, seed {run.seed}"
                made = partial(draw, run, self.colours[method])
                shown += _picture(made, title, method, partial(caption, run.metrics))
        return shown

    def pooled(
        self,
        draw: Callable[[Sequence[RunRecord], str], str | None],
        caption: Callable[[MethodSummary], str] = lambda summary: "",
    ) -> list[Picture]:
        """Return a picture of each method's runs together, where there is something to draw.

        Args:
            draw: takes the runs, one at least, and their method's colour.
            caption: takes the method's summary.
        """
        shown = []
        for summary in self.summaries:
            method, runs = summary.method, self.by_method[summary.method]
            if runs:
                made = partial(draw, runs, self.colours[method])
                shown += _picture(made, method, method, partial(caption, summary))
        return shown


def _picture(
    draw: Callable[[], str | None], title: str, method: str, caption: Callable[[], str]
) -> list[Picture]:
    """Return a picture, if there is something to draw; or what keeps it from being drawn."""
    try:
        svg = draw()
    except InputError as error:  # predictions that are NaN, say
        return [Picture("", title, f"Not drawn: {error}.", method)]
    return [Picture(svg, title, caption(), method)] if svg else []


@dataclass(frozen=True)
class Section:
    """A section of the report.

    Attributes:
        name: of it, for :func:`mixwell.report.sections.register`.
        draw: returns what it shows of a part.
        applies: whether a part has anything of it.
        files: whether it is drawn from what runs leave beside their measures: predictions, the
            course of training, single classes' measures.
    """

    name: str
    draw: Callable[[Part], Block]
    applies: Callable[[Part], bool] = lambda part: True
    files: bool = False


def drawable(record: RunRecord) -> RunRecord:
    """Return a run as it can be drawn: without measures that are no numbers; in its course, NaN.

    A section then sees what is missing, and has nothing else to look out for.
    """

    def number(value: Any) -> bool:
        return isinstance(value, (int, float)) and math.isfinite(value)

    history = [
        {name: value if number(value) else math.nan for name, value in row.items()}
        for row in record.history
    ]
    metrics = {name: value for name, value in record.metrics.items() if number(value)}
    return replace(record, metrics=metrics, history=history)


def arrays_of(run: RunRecord) -> dict[str, np.ndarray]:
    """Return what a run left of its predictions, where it can be drawn; empty where it left none.

    Raises:
        InputError: they hold NaN or infinite numbers, or fewer than two samples.
    """
    arrays = run.predictions()
    for name, array in arrays.items():
        if array.ndim and len(array) < 2:
            raise InputError(f"{name} of {run.path.name} holds {len(array)} samples: too few")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise InputError(f"{name} of {run.path.name} holds NaN or infinite numbers")
    return arrays


def plain(*drawn: str | None) -> list[Picture]:
    """Return pictures without titles, of those that there are."""
    return [Picture(svg) for svg in drawn if svg]


def spread_text(measure: Measure, found: Interval) -> str:
    """Return a mean with the half-width of its interval in words: "91.20 ±0.41 %"."""
    half = "" if found.half_width is None else f" ±{measure.text(found.half_width)}"
    return f"{measure.text(found.mean)}{half} {measure.unit}".strip()


def told(metrics: Mapping[str, float], name: str, digits: int) -> str:
    """Return a measure in words: "ECE 3.1 %"."""
    return f"{get(name).title} {number_of(metrics, name, digits)}"


def number_of(metrics: Mapping[str, float], name: str, digits: int) -> str:
    """Return a measure's number in words: "3.1 %"; "unknown" where the run has none."""
    return get(name).shown(metrics[name], digits) if name in metrics else "unknown"
