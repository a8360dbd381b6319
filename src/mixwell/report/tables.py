"""The comparison as a table: for the terminal, for Markdown, and as cells for the page."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from rich import box
from rich.table import Table
from rich.text import Text

from mixwell.metrics.measures import Measure, get, registered
from mixwell.report.remarks import by_part, remarks, told_of
from mixwell.studies import PROTOCOLS, MethodSummary, RunRecord, summarise
from mixwell.studies.statistics import Ranks, average_ranks, choose_baseline

__all__ = [
    "Cell",
    "by_part",
    "cells",
    "columns_for",
    "fitted",
    "latex_table",
    "leading",
    "markdown_table",
    "p_text",
    "protocol_of",
    "ranks_headings",
    "ranks_of",
    "ranks_title",
    "tables",
]


@dataclass(frozen=True)
class Cell:
    """A measure of a method, ready to be shown.

    Attributes:
        value: the mean, in the column's unit; NaN where it is not there.
        text: the mean.
        half_width: "±" and the half-width of the 95 % interval; empty with one seed.
        best: whether no method has a better mean.
        mark: "better" or "worse" than the baseline, with p < 0.05 after Holm, or empty.
        note: the test in words, or empty.
    """

    value: float
    text: str
    half_width: str
    best: bool
    mark: str
    note: str


def p_text(p_value: float) -> str:
    """Return a p-value as it is written: "p = 0.012", "p < 0.001"."""
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"


def columns_for(summaries: Sequence[MethodSummary], protocol: str = "balanced") -> list[Measure]:
    """Return the measures that any method has a value for, those of the protocol first."""
    there = [m for m in registered() if any(m.name in s.metrics for s in summaries)]
    first = [m for name in PROTOCOLS[protocol].measures for m in there if m.name == name]
    return [*first, *(measure for measure in there if measure not in first)]


def leading(columns: Sequence[Measure], protocol: str) -> list[Measure]:
    """Return those measures that the protocol looks at first."""
    return [column for column in columns if column.name in PROTOCOLS[protocol].measures]


def fitted(column: Measure, summaries: Sequence[MethodSummary]) -> Measure:
    """Return a measure with as many digits as these methods' means need."""
    means = [abs(s.metrics[column.name].mean) for s in summaries if column.name in s.metrics]
    return column.fitting(max(filter(math.isfinite, means), default=0.0))


def cells(summaries: Sequence[MethodSummary], column: Measure) -> list[Cell]:
    """Return a measure's cells, one for each method."""
    means = [s.metrics[column.name].mean for s in summaries if column.name in s.metrics]
    finite = [mean for mean in means if math.isfinite(mean)]
    top = None
    if column.higher_is_better is not None:
        top = (max if column.higher_is_better else min)(finite or [math.nan])
    column = fitted(column, summaries)
    return [_cell(summary, column, top, len(summaries) > 1) for summary in summaries]


def _cell(summary: MethodSummary, column: Measure, top: float | None, compared: bool) -> Cell:
    left_out = summary.left_out.get(column.name, "")
    if column.name not in summary.metrics:
        return Cell(math.nan, "–", "", False, "", left_out)
    found = summary.metrics[column.name]
    spread = "" if found.half_width is None else f"±{column.text(found.half_width)}"
    best = compared and top is not None and found.mean == top
    mark, note = "", summary.untested.get(column.name, "")
    test = summary.tests.get(column.name)
    if test is not None:
        low, high = (
            column.text(test.difference + sign * test.half_width, signed=True) for sign in (-1, 1)
        )
        note = (
            f"difference {column.text(test.difference, signed=True)} [{low}, {high}], "
            f"{p_text(test.p_value)}, {p_text(test.adjusted)} after Holm, {test.pairs} paired seeds"
        )
        if test.significant and column.higher_is_better is not None:
            mark = "better" if (test.difference > 0) == column.higher_is_better else "worse"
    note = "; ".join(filter(None, (note, left_out)))
    return Cell(found.mean * column.factor, column.text(found.mean), spread, best, mark, note)


def protocol_of(records: Sequence[RunRecord], protocol: str) -> str:
    """Return the protocol whose measures come first: in a plain comparison its task's own."""
    tasks = {record.task for record in records}
    own = tasks.pop() if protocol == "balanced" and len(tasks) == 1 else protocol
    return own if own in PROTOCOLS else protocol


def tables(
    records: Sequence[RunRecord],
    *,
    baseline: str | None = None,
    width: int = 120,
    protocol: str = "balanced",
) -> list[Table]:
    """Return the results as tables for a terminal of this width.

    Where they don't fit into one, the measures of the test set come first, the rest after. A study
    of several parts gets a table of the protocol's leading measures for each, and one of ranks.
    """
    protocol = protocol_of(records, protocol)
    baseline = _baseline(records, baseline)
    summaries = summarise(records, baseline)
    parts = by_part(summaries)
    columns = columns_for(summaries, protocol)
    said: list[str] = []
    if len(parts) > 1:
        first = leading(columns, protocol)
        shown = []
        for name, rows in parts.items():
            shown.append(_table(rows, first))
            shown[-1].title = Text(f"{_title(records)}: {name}")
        ranks, said = ranks_of(summaries, first)
        if ranks:
            shown.append(_ranks(ranks))
    else:
        groups = _fitting(columns, width)
        shown = [_table(summaries, group) for group in groups]
        shown[0].title = Text(_title(records))
    shown[-1].caption = Text(
        "\n".join([told_of(summaries, baseline), *said, *remarks(summaries, baseline)])
    )
    return shown


def _baseline(records: Sequence[RunRecord], baseline: str | None) -> str | None:
    """Return the one baseline of all parts; None where there are no runs."""
    labels = list(dict.fromkeys(record.label for record in records))
    return choose_baseline(labels, baseline) if labels else None


def _fitting(columns: list[Measure], width: int) -> list[list[Measure]]:
    """Return the columns in groups that a terminal has room for."""
    groups: list[list[Measure]] = [[]]
    room = 0
    for column in columns:
        wide = max(*(len(word) for word in column.heading.split()), 12) + 3
        if groups[-1] and (room + wide > width or len(groups[-1]) > 9):
            groups.append([])
            room = 0
        if not groups[-1]:
            room = 24
        groups[-1].append(column)
        room += wide
    return groups


def ranks_of(
    summaries: Sequence[MethodSummary], columns: Sequence[Measure]
) -> tuple[dict[str, Ranks], list[str]]:
    """Return the methods' average ranks over the parts, and in words what is not ranked.

    The ranks are of each measure that has a direction and that a part has of every method.
    """
    ranked = [column for column in columns if column.higher_is_better is not None]
    found = {column.heading: average_ranks(summaries, column.name) for column in ranked}
    by_words: dict[str, list[str]] = {}
    for heading, ranks in found.items():
        if ranks.left_out:
            start = f"ranks over {ranks.over}" if ranks.of else "no ranks"
            by_words.setdefault(f"{start}: {ranks.lacking}", []).append(heading)
    said = [
        words if len(headings) == len(found) else f"{', '.join(headings)}: {words}"
        for words, headings in by_words.items()
    ]
    return {heading: ranks for heading, ranks in found.items() if ranks.of}, said


def ranks_title(ranks: Mapping[str, Ranks]) -> str:
    """Return over how many parts all of these ranks are; "the parts" where they differ in that."""
    over = {found.over for found in ranks.values()}
    return f"average rank over {over.pop() if len(over) == 1 else 'the parts'}"


def ranks_headings(ranks: Mapping[str, Ranks]) -> list[str]:
    """Return the headings of columns of ranks: with their parts where these differ."""
    alike = len({found.over for found in ranks.values()}) == 1
    return [title if alike else f"{title} ({found.over})" for title, found in ranks.items()]


def _ranks(ranks: Mapping[str, Ranks]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left", caption_justify="left")
    table.title = Text(f"{ranks_title(ranks)} (1 is best)")
    table.add_column("method", no_wrap=True)
    for title in ranks_headings(ranks):
        table.add_column(Text(title), justify="right")
    for method in next(iter(ranks.values())).of:
        values = [found.of[method] for found in ranks.values()]
        best = [min(found.of.values()) for found in ranks.values()]
        table.add_row(
            _line(method),
            *(
                Text(f"{value:.2f}", style="bold" if value == top else "")
                for value, top in zip(values, best, strict=True)
            ),
        )
    return table


def _title(records: Sequence[RunRecord]) -> str:
    config = records[0].config
    varied = set(records[0].vary)
    data = "several data sets" if "data" in varied else config["data"]
    model = "several networks" if "model" in varied else config.get("model") or "default network"
    return f"{data}, {model}"


def _table(summaries: Sequence[MethodSummary], columns: Sequence[Measure]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left", caption_justify="left")
    table.add_column("method", no_wrap=True)
    table.add_column("n", justify="right")
    for column in columns:
        table.add_column(Text(column.heading), justify="right")
    by_column = [cells(summaries, column) for column in columns]
    for row, summary in enumerate(summaries):
        count = f"{summary.n}" + (f" ({summary.failed} failed)" if summary.failed else "")
        shown = [_text(column[row]) for column in by_column]
        table.add_row(_line(summary.method), count, *shown)
    return table


def _line(name: str) -> Text:
    """Return a name as text on one line, which is no markup and moves no cursor."""
    return Text("".join(c if c.isprintable() else " " for c in name))


def _text(cell: Cell) -> Text:
    arrow = {"better": "↑", "worse": "↓"}.get(cell.mark, "")
    text = Text(cell.text, style="bold" if cell.best else "")
    return text.append(cell.half_width, style="dim not bold").append(arrow)


def markdown_table(
    records: Sequence[RunRecord],
    *,
    baseline: str | None = None,
    protocol: str = "balanced",
    measures: str | Sequence[str] | None = None,
) -> str:
    """Return the results as a Markdown table, without their costs.

    What failed or is left out stands below it in words.

    Args:
        records: of a study.
        baseline: as of :func:`summarise`.
        protocol: whose measures come first.
        measures: show these alone, in this order.

    Raises:
        InputError: there is no such measure.
    """
    measures = [measures] if isinstance(measures, str) else measures
    for name in measures or ():
        get(name)
    baseline = _baseline(records, baseline)
    parts, columns = _for_text(records, baseline, protocol, measures)
    several = len(parts) > 1
    lines = [
        "| " + ("part | " if several else "") + "method | "
        + " | ".join(column.heading for column in columns) + " |",
        "|" + "---|" * (1 + several) + "---:|" * len(columns),
    ]  # fmt: skip
    for name, summaries in parts.items():
        by_column = [cells(summaries, column) for column in columns]
        for row, summary in enumerate(summaries):
            shown = []
            for column in by_column:
                cell = column[row]
                text = f"**{cell.text}**" if cell.best else cell.text
                arrow = {"better": " ↑", "worse": " ↓"}.get(cell.mark, "")
                shown.append(f"{text} {cell.half_width}{arrow}".strip())
            first = f"| {_in_markdown(name)} " if several else ""
            lines.append(f"{first}| {_in_markdown(summary.method)} | " + " | ".join(shown) + " |")
    summaries = [summary for part in parts.values() for summary in part]
    said = [f"- {_in_markdown(text)}" for text in remarks(summaries, baseline)]
    return "\n".join([*lines, *([""] if said else []), *said]) + "\n"


def _in_markdown(text: str) -> str:
    """Return a name as text of a Markdown table's cell, as it stands there."""
    text = re.sub(r"[\\`*\[\]|~$!#]|(?<!\w)_|_(?!\w)", r"\\\g<0>", " ".join(text.split()))
    return escape(text, quote=False)


def latex_table(
    records: Sequence[RunRecord], *, baseline: str | None = None, protocol: str = "balanced"
) -> str:
    """Return the leading measures as a LaTeX table for the booktabs package."""
    baseline = _baseline(records, baseline)
    keys = PROTOCOLS[protocol_of(records, protocol)].measures
    parts, columns = _for_text(records, baseline, protocol, keys)
    summaries = [summary for part in parts.values() for summary in part]
    lines = [
        "% needs \\usepackage{booktabs}; mean and half-width of the 95 % t-interval over seeds,",
        "% bold: best mean, arrows: p < 0.05 against the baseline (paired t-test, Holm)",
        *(f"% {' '.join(text.split())}" for text in remarks(summaries, baseline)),
        "\\begin{tabular}{l" + "r" * len(columns) + "}",
        "\\toprule",
        " & ".join(["method", *(_escaped(column.heading) for column in columns)]) + " \\\\",
    ]
    for name, summaries in parts.items():
        lines.append("\\midrule")
        if name:
            lines.append(f"\\multicolumn{{{len(columns) + 1}}}{{l}}{{{_escaped(name)}}} \\\\")
        by_column = [cells(summaries, column) for column in columns]
        for row, summary in enumerate(summaries):
            shown = [_escaped(summary.method)]
            for column in by_column:
                cell = column[row]
                number = f"\\mathbf{{{cell.text}}}" if cell.best else cell.text
                spread = f" {{\\scriptstyle\\pm {cell.half_width[1:]}}}" if cell.half_width else ""
                arrow = {"better": "\\uparrow", "worse": "\\downarrow"}.get(cell.mark, "")
                shown.append("--" if cell.text == "–" else f"${number}{spread}{arrow}$")
            lines.append(" & ".join(shown) + " \\\\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"]) + "\n"


_IN_LATEX = str.maketrans(
    {
        **{character: f"\\{character}" for character in "&%$#_{}"},
        "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
        "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
        '"': r"{\char34}", "`": r"\textasciigrave{}",  # of babel's German, " is a command
        "[": "{[}", "]": "{]}",  # a row that begins with one would be an option of the last
        "²": "$^2$", "τ": r"$\tau$", "λ": r"$\lambda$",
    }
)  # fmt: skip


def _escaped(text: str) -> str:
    """Return a text for LaTeX, on one line, with nothing in it that is a command."""
    return " ".join(text.split()).translate(_IN_LATEX).replace("--", "-{}-")


def _for_text(
    records: Sequence[RunRecord],
    baseline: str | None,
    protocol: str,
    measures: Sequence[str] | None,
) -> tuple[dict[str, list[MethodSummary]], list[Measure]]:
    protocol = protocol_of(records, protocol)
    summaries = summarise(records, baseline)
    columns = [c for c in columns_for(summaries, protocol) if c.group != "cost"]
    if measures is not None:
        columns = [c for key in measures for c in columns if c.name == key]
    return by_part(summaries), columns
