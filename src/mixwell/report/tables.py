"""The comparison as a table: for the terminal, for Markdown, and as cells for the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table
from rich.text import Text

from mixwell.studies import MethodSummary, RunRecord, summarise

__all__ = ["COLUMNS", "Cell", "Column", "cells", "columns_for", "markdown_table", "tables"]


@dataclass(frozen=True)
class Column:
    """A measure as it is shown.

    Attributes:
        key: its name in a run's measures.
        title: of the column.
        about: what it is, in a sentence.
        factor: what the value is multiplied by: 100 for percentages.
        digits: after the point.
        best: "high" or "low" is better; None where neither is.
        group: the part of the table it belongs to.
    """

    key: str
    title: str
    about: str
    factor: float = 1.0
    digits: int = 3
    best: str | None = "low"
    group: str = "test"


COLUMNS: tuple[Column, ...] = (
    Column("accuracy", "accuracy %", "share of test samples classified rightly", 100, 2, "high"),
    Column("ece", "ECE %", "expected calibration error, 15 equal-width bins", 100, 2),
    Column("ece_scaled", "ECE % after T", "ECE after temperature scaling", 100, 2),
    Column("adaptive_ece", "aECE %", "adaptive ECE, 15 bins of equal mass", 100, 2),
    Column("adaptive_ece_scaled", "aECE % after T", "adaptive ECE, likewise", 100, 2),
    Column("brier", "Brier", "squared error of the predicted probabilities"),
    Column("brier_scaled", "Brier after T", "Brier score after temperature scaling"),
    Column("nll", "NLL", "negative log-likelihood"),
    Column("nll_scaled", "NLL after T", "negative log-likelihood after temperature scaling"),
    Column("rmse", "RMSE", "root mean squared error, in the target's unit"),
    Column("mae", "MAE", "mean absolute error, in the target's unit"),
    Column("r2", "R²", "share of the target's variance that is explained", best="high"),
    Column("temperature", "T", "temperature fitted on validation data: > 1 means overconfident",
           digits=2, best=None, group="features"),
    Column("alignment", "alignment", "mean squared distance of same-class features on the sphere",
           best=None, group="features"),
    Column("uniformity", "uniformity", "log mean exp(-2 d²) of features: lower is more uniform",
           digits=2, group="features"),
    Column("seconds_per_step", "ms / step", "training time of a step, median over epochs",
           1000, 1, group="cost"),
    Column("peak_memory_mb", "MiB", "peak memory: of the GPU, or of the run's process",
           digits=0, group="cost"),
)  # fmt: skip
"""All measures that are shown, in their order."""


@dataclass(frozen=True)
class Cell:
    """A measure of a method, ready to be shown.

    Attributes:
        value: the mean, in the column's unit; NaN where it is not there.
        text: the mean.
        half_width: "±" and the half-width of the 95 % interval; empty with one seed.
        best: whether no method has a better mean.
        mark: "better" or "worse" than the baseline with p < 0.05, or empty.
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


def columns_for(summaries: Sequence[MethodSummary]) -> list[Column]:
    """Return the columns that any method has a value for."""
    return [column for column in COLUMNS if any(column.key in s.metrics for s in summaries)]


def cells(summaries: Sequence[MethodSummary], column: Column) -> list[Cell]:
    """Return a column's cells, one for each method."""
    means = [s.metrics[column.key].mean for s in summaries if column.key in s.metrics]
    finite = [mean for mean in means if math.isfinite(mean)]
    top = {"high": max, "low": min}.get(column.best or "", lambda _: None)(finite or [math.nan])
    return [_cell(summary, column, top, len(summaries) > 1) for summary in summaries]


def _cell(summary: MethodSummary, column: Column, top: float | None, compared: bool) -> Cell:
    if column.key not in summary.metrics:
        return Cell(math.nan, "–", "", False, "", "")
    found = summary.metrics[column.key]
    text = f"{found.mean * column.factor:.{column.digits}f}"
    spread = ""
    if found.half_width is not None:
        spread = f"±{found.half_width * column.factor:.{column.digits}f}"
    best = compared and top is not None and found.mean == top
    mark = note = ""
    test = summary.tests.get(column.key)
    if test is not None:
        low, high = (column.factor * (test.difference + sign * test.half_width) for sign in (-1, 1))
        note = (
            f"difference {column.factor * test.difference:+.{column.digits}f} "
            f"[{low:+.{column.digits}f}, {high:+.{column.digits}f}], {p_text(test.p_value)}, "
            f"{test.pairs} paired seeds"
        )
        if test.significant and column.best is not None:
            mark = "better" if (test.difference > 0) == (column.best == "high") else "worse"
    return Cell(found.mean * column.factor, text, spread, best, mark, note)


def tables(
    records: Sequence[RunRecord], *, baseline: str | None = None, width: int = 120
) -> list[Table]:
    """Return the comparison as tables for a terminal of this width.

    Where it doesn't fit into one, the measures of the test set come first, the rest after.
    """
    summaries = summarise(records, baseline)
    columns = columns_for(summaries)
    needed = 18 + sum(max(len(column.title), 12) + 3 for column in columns)
    if needed <= width:
        groups = [columns]
    else:
        groups = [[column for column in columns if column.group == "test"]]
        groups.append([column for column in columns if column.group != "test"])
        if 18 + sum(max(len(c.title.split()[0]), 10) + 2 for c in groups[0]) > width:
            raw = [c for c in groups[0] if not c.key.endswith("_scaled")]
            groups[:1] = [raw, [c for c in groups[0] if c not in raw]]
    shown = [_table(summaries, group) for group in groups if group]
    shown[0].title = _title(records)
    shown[-1].caption = _caption(summaries)
    return shown


def _title(records: Sequence[RunRecord]) -> str:
    config = records[0].config
    return f"{config['data']}, {config.get('model') or 'default network'}"


def _caption(summaries: Sequence[MethodSummary]) -> str:
    seeds = max((s.n for s in summaries), default=0)
    if seeds < 2:
        return "one seed: no interval, no test; run more seeds before you conclude anything"
    base = next((s.method for s in summaries if not any(s.tests.values())), "")
    return (
        f"mean ± 95 % t-interval over {seeds} seeds; bold: best mean; ↑ better, ↓ worse than "
        f"{base} (paired t-test, p < 0.05, uncorrected); after T: temperature scaling"
    )


def _table(summaries: Sequence[MethodSummary], columns: Sequence[Column]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left", caption_justify="left")
    table.add_column("method", no_wrap=True)
    table.add_column("n", justify="right")
    for column in columns:
        table.add_column(column.title, justify="right")
    by_column = [cells(summaries, column) for column in columns]
    for row, summary in enumerate(summaries):
        count = f"{summary.n}" + (f" ({summary.failed} failed)" if summary.failed else "")
        shown = [_text(column[row]) for column in by_column]
        table.add_row(summary.method, count, *shown)
    return table


def _text(cell: Cell) -> Text:
    arrow = {"better": "↑", "worse": "↓"}.get(cell.mark, "")
    text = Text(cell.text, style="bold" if cell.best else "")
    return text.append(cell.half_width, style="dim not bold").append(arrow)


def markdown_table(records: Sequence[RunRecord], *, baseline: str | None = None) -> str:
    """Return the comparison as a Markdown table, without its costs."""
    summaries = summarise(records, baseline)
    columns = [column for column in columns_for(summaries) if column.group != "cost"]
    lines = [
        "| method | " + " | ".join(column.title for column in columns) + " |",
        "|---|" + "---:|" * len(columns),
    ]
    by_column = [cells(summaries, column) for column in columns]
    for row, summary in enumerate(summaries):
        shown = []
        for column in by_column:
            cell = column[row]
            text = f"**{cell.text}**" if cell.best else cell.text
            arrow = {"better": " ↑", "worse": " ↓"}.get(cell.mark, "")
            shown.append(f"{text} {cell.half_width}{arrow}".strip())
        lines.append(f"| {summary.method} | " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n"
