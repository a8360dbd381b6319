"""The report of a recommendation: the study's page of the final, with answer and race on top."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixwell import report
from mixwell.metrics.measures import Measure, get
from mixwell.recommend.race import Standing
from mixwell.report import sections
from mixwell.report.tables import p_text
from mixwell.studies.records import RunRecord

if TYPE_CHECKING:
    from mixwell.recommend.answer import Recommendation

__all__ = ["standing_text", "write_page"]


def write_page(
    answer: Recommendation, records: Sequence[RunRecord], folder: Path, command: str
) -> None:
    """Write report.html and the tables beside it.

    Args:
        answer: that stands on top.
        records: of the final.
        folder: that gets them.
        command: the command line that made them.
    """
    drawn = {"answer": _answer(answer), "race": _race(answer)}
    with _on_top(drawn):
        report.write(records, folder, command=command, baseline=answer.baseline)


def _given(block: sections.Block, part: sections.Part) -> sections.Block:
    return block


@contextmanager
def _on_top(blocks: Mapping[str, sections.Block]) -> Iterator[None]:
    """Let these stand before all other sections of a page."""
    first = sections.registered()[0].name
    named = {f"recommendation_{name}": block for name, block in blocks.items()}
    for name, block in named.items():
        sections.register(sections.Section(name, partial(_given, block)), before=first)
    try:
        yield
    finally:
        for name in named:
            sections.remove(name)


def _answer(answer: Recommendation) -> sections.Block:
    from mixwell.recommend.answer import amount

    measure = get(answer.measure)
    rows = [
        (
            name, amount(c, measure, signed=True), f"{100 * (1 - c.level):.3g} %",
            p_text(c.p_value), str(c.pairs), "yes" if c.shown else "no",
        )
        for name, c in answer.contrasts.items()
    ]  # fmt: skip
    headings = (
        "finalist", f"{measure.title} against {answer.baseline}", "interval", "p after Holm",
        "paired seeds", "shown to differ",
    )  # fmt: skip
    return sections.Block(
        "The answer",
        "The intervals hold for other seeds and for other test samples of the same kind; those "
        "further down are over seeds on this test split alone.",
        sentences=[answer.sentence, *answer.notes, f"To train it: {answer.command}"],
        table=sections.Table(headings, rows) if rows else None,
        style="plain",
    )


def _race(answer: Recommendation) -> sections.Block:
    measure = get(answer.measure)
    found: dict[str, dict[int, Standing]] = {}
    for number, rung in enumerate(answer.rungs):
        for values in rung["standings"]:
            standing = Standing.from_dict(values)
            found.setdefault(standing.label, {})[number] = standing
    rows = []
    for label in sorted(found, key=lambda name: -len(found[name])):
        last = found[label][max(found[label])]
        cells = [
            standing_text(found[label][number], measure) if number in found[label] else ""
            for number in range(len(answer.rungs))
        ]
        state = "baseline" if not last.place else "finalist" if last.goes_on else f"out: {last.why}"
        rows.append((label, *cells, state))
    headings = ["candidate"]
    headings += [f"epoch {rung['epoch']}, {_seeds(rung)}" for rung in answer.rungs]
    return sections.Block(
        "The race",
        f"Validation {measure.title} at each rung, and the gap to {answer.baseline}; the test "
        "split was not looked at.",
        table=sections.Table([*headings, ""], rows) if answer.rungs else None,
        style="folded",
    )


def _seeds(rung: Mapping[str, Any]) -> str:
    count = len(rung["seeds"])
    return "1 seed" if count == 1 else f"{count} seeds"


def standing_text(standing: Standing, measure: Measure) -> str:
    """Return how a candidate stood: "97.22 % (+0.69)"."""
    if standing.score != standing.score:  # NaN
        return "failed"
    sign = 1.0 if measure.higher_is_better else -1.0
    text = measure.shown(sign * standing.score)
    return f"{text} ({measure.text(sign * standing.gap, signed=True)})" if standing.place else text
