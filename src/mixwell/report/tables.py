"""The comparison as a table: for the terminal, for Markdown, and as cells for the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich import box
from rich.table import Table
from rich.text import Text

from mixwell.studies import PROTOCOLS, MethodSummary, RunRecord, summarise
from mixwell.studies.statistics import average_ranks

__all__ = [
    "COLUMNS",
    "Cell",
    "Column",
    "by_part",
    "cells",
    "columns_for",
    "latex_table",
    "markdown_table",
    "protocol_of",
    "tables",
]


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
    Column("balanced_accuracy", "balanced accuracy %", "mean of the classes' accuracies",
           100, 2, "high"),
    Column("accuracy_many", "many-shot %", "accuracy of classes with over 100 training samples",
           100, 2, "high"),
    Column("accuracy_medium", "medium-shot %", "of classes with 20 to 100", 100, 2, "high"),
    Column("accuracy_few", "few-shot %", "accuracy of classes with under 20", 100, 2, "high"),
    Column("fine_accuracy", "fine accuracy %",
           "of a linear probe for the classes within the superclasses", 100, 2, "high"),
    Column("ece", "ECE %", "expected calibration error, 15 equal-width bins", 100, 2),
    Column("ece_scaled", "ECE % after T", "ECE after temperature scaling", 100, 2),
    Column("balanced_ece", "balanced ECE %", "ECE in which each class weighs the same", 100, 2),
    Column("balanced_ece_scaled", "balanced ECE % after T", "likewise, after scaling", 100, 2),
    Column("adaptive_ece", "aECE %", "adaptive ECE, 15 bins of equal mass", 100, 2),
    Column("adaptive_ece_scaled", "aECE % after T", "adaptive ECE, likewise", 100, 2),
    Column("brier", "Brier", "squared error of the predicted probabilities"),
    Column("brier_scaled", "Brier after T", "Brier score after temperature scaling"),
    Column("rmse", "RMSE", "root mean squared error, in the target's unit"),
    Column("mae", "MAE", "mean absolute error, in the target's unit"),
    Column("mape", "MAPE %", "mean absolute error in per cent of the target", 100, 2),
    Column("r2", "R²", "share of the target's variance that is explained", best="high"),
    Column("uce", "UCE", "gap of predicted variance and squared error, MC-dropout"),
    Column("uce_scaled", "UCE after s", "UCE after variance scaling"),
    Column("ence", "ENCE", "relative gap of predicted deviation and RMSE, MC-dropout"),
    Column("ence_scaled", "ENCE after s", "ENCE after variance scaling"),
    Column("nll", "NLL", "negative log-likelihood"),
    Column("nll_scaled", "NLL scaled", "NLL after temperature (variance) scaling"),
    Column("pinball", "pinball", "quantile loss of the predicted Gaussians, MC-dropout"),
    Column("pinball_scaled", "pinball after s", "pinball loss after variance scaling"),
    Column("ood_auroc", "OOD AUROC %", "of outliers, by the highest probability", 100, 2, "high"),
    Column("ood_fpr95", "OOD FPR95 %", "outliers that pass where 95 % of the inliers do", 100, 2),
    Column("shift_accuracy", "accuracy % shifted", "mean over corruptions and severities",
           100, 2, "high"),
    Column("shift_ece", "ECE % shifted", "mean over corruptions and severities", 100, 2),
    Column("intrusion", "intrusion %", "mixed samples that lie among samples of the other class",
           100, 1),
    Column("off_manifold", "off manifold %", "mixed samples that lie among no samples",
           100, 1),
    Column("temperature", "T", "temperature fitted on validation data: > 1 means overconfident",
           digits=2, best=None, group="features"),
    Column("variance_scale", "s", "factor of the deviation, fitted on validation data: > 1 means "
           "overconfident", digits=2, best=None, group="features"),
    Column("alignment", "alignment", "mean squared distance of same-class features on the sphere",
           best=None, group="features"),
    Column("uniformity", "uniformity", "log mean exp(-2 d²) of features: lower is more uniform",
           digits=2, group="features"),
    Column("margin", "margin", "mean distance of class centres from their pairs' boundaries",
           digits=3, best=None, group="features"),
    Column("margin_balance", "margin balance", "deviation over mean of the class pairs' margins",
           digits=3, group="features"),
    Column("fine_alignment", "fine alignment", "alignment by fine class", best=None,
           group="features"),
    Column("fine_uniformity", "fine uniformity", "uniformity of the probed features", digits=2,
           group="features"),
    Column("fine_margin", "fine margin", "mean margin of the probe's class pairs", best=None,
           group="features"),
    Column("fine_margin_balance", "fine margin balance", "their deviation over their mean",
           group="features"),
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


def columns_for(summaries: Sequence[MethodSummary], protocol: str = "balanced") -> list[Column]:
    """Return the columns that any method has a value for, those of the protocol first."""
    first = PROTOCOLS[protocol].measures
    there = [column for column in COLUMNS if any(column.key in s.metrics for s in summaries)]
    leading = [column for key in first for column in there if column.key == key]
    return [*leading, *(column for column in there if column.key not in first)]


def cells(summaries: Sequence[MethodSummary], column: Column) -> list[Cell]:
    """Return a column's cells, one for each method."""
    means = [s.metrics[column.key].mean for s in summaries if column.key in s.metrics]
    finite = [mean for mean in means if math.isfinite(mean)]
    top = {"high": max, "low": min}.get(column.best or "", lambda _: None)(finite or [math.nan])
    largest = max((abs(mean) for mean in finite), default=0.0)
    if column.factor == 1 and 0 < largest < 0.1:  # as many digits as larger numbers have
        more = math.ceil(-math.log10(largest)) - 1
        column = replace(column, digits=column.digits + more)
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
            f"{p_text(test.adjusted)} after Holm, {test.pairs} paired seeds"
        )
        if test.significant and column.best is not None:
            mark = "better" if (test.difference > 0) == (column.best == "high") else "worse"
    return Cell(found.mean * column.factor, text, spread, best, mark, note)


def protocol_of(records: Sequence[RunRecord], protocol: str) -> str:
    """Return the protocol whose measures come first: a plain comparison may be a regression."""
    regression = protocol == "balanced" and all(record.task == "regression" for record in records)
    return "regression" if regression else protocol


def by_part(summaries: Sequence[MethodSummary]) -> dict[str, list[MethodSummary]]:
    """Return the summaries of each part of a study."""
    parts: dict[str, list[MethodSummary]] = {}
    for summary in summaries:
        parts.setdefault(summary.group, []).append(summary)
    return parts


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
    summaries = summarise(records, baseline)
    parts = by_part(summaries)
    columns = columns_for(summaries, protocol)
    if len(parts) > 1:
        leading = [c for c in columns if c.key in PROTOCOLS[protocol].measures]
        shown = []
        for name, rows in parts.items():
            shown.append(_table(rows, leading))
            shown[-1].title = f"{_title(records)}: {name}"
        shown.append(_ranks(summaries, leading))
    else:
        groups = _fitting(columns, width)
        shown = [_table(summaries, group) for group in groups if group]
        shown[0].title = _title(records)
    shown[-1].caption = _caption(summaries)
    return shown


def _fitting(columns: list[Column], width: int) -> list[list[Column]]:
    """Return the columns in groups that a terminal has room for."""
    groups: list[list[Column]] = [[]]
    room = 0
    for column in columns:
        wide = max(*(len(word) for word in column.title.split()), 12) + 3
        if groups[-1] and (room + wide > width or len(groups[-1]) > 9):
            groups.append([])
            room = 0
        if not groups[-1]:
            room = 24
        groups[-1].append(column)
        room += wide
    return groups


def _ranks(summaries: Sequence[MethodSummary], columns: Sequence[Column]) -> Table:
    ranks = {c.title: average_ranks(summaries, c.key) for c in columns if c.best}
    ranks = {title: found for title, found in ranks.items() if found}
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left", caption_justify="left")
    table.title = "average rank over the parts (1 is best)"
    table.add_column("method", no_wrap=True)
    for title in ranks:
        table.add_column(title, justify="right")
    for method in dict.fromkeys(s.method for s in summaries):
        values = [found[method] for found in ranks.values()]
        best = [min(found.values()) for found in ranks.values()]
        table.add_row(
            method,
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


def _caption(summaries: Sequence[MethodSummary]) -> str:
    seeds = max((s.n for s in summaries), default=0)
    if seeds < 2:
        return "one seed: no interval, no test; run more seeds before you conclude anything"
    base = next((s.method for s in summaries if not any(s.tests.values())), "")
    return (
        f"mean ± 95 % t-interval over {seeds} seeds; bold: best mean; ↑ better, ↓ worse than "
        f"{base} (paired t-test, p < 0.05 after Holm's correction over each measure's tests)"
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


def markdown_table(
    records: Sequence[RunRecord],
    *,
    baseline: str | None = None,
    protocol: str = "balanced",
    measures: Sequence[str] | None = None,
) -> str:
    """Return the results as a Markdown table, without their costs.

    Args:
        records: of a study.
        baseline: as of :func:`summarise`.
        protocol: whose measures come first.
        measures: show these alone, in this order.
    """
    parts, columns = _for_text(records, baseline, protocol, measures)
    several = len(parts) > 1
    lines = [
        "| " + ("part | " if several else "") + "method | "
        + " | ".join(column.title for column in columns) + " |",
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
            first = f"| {name} " if several else ""
            lines.append(f"{first}| {summary.method} | " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n"


def latex_table(
    records: Sequence[RunRecord], *, baseline: str | None = None, protocol: str = "balanced"
) -> str:
    """Return the leading measures as a LaTeX table for the booktabs package."""
    keys = PROTOCOLS[protocol_of(records, protocol)].measures
    parts, columns = _for_text(records, baseline, protocol, keys)
    lines = [
        "% needs \\usepackage{booktabs}; mean and half-width of the 95 % t-interval over seeds,",
        "% bold: best mean, arrows: p < 0.05 against the baseline (paired t-test, Holm)",
        "\\begin{tabular}{l" + "r" * len(columns) + "}",
        "\\toprule",
        " & ".join(["method", *(_escaped(column.title) for column in columns)]) + " \\\\",
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


def _escaped(text: str) -> str:
    for character in "&%$#_":
        text = text.replace(character, "\\" + character)
    return text.replace("²", "$^2$").replace("τ", r"$\tau$").replace("λ", r"$\lambda$")


def _for_text(
    records: Sequence[RunRecord],
    baseline: str | None,
    protocol: str,
    measures: Sequence[str] | None,
) -> tuple[dict[str, list[MethodSummary]], list[Column]]:
    protocol = protocol_of(records, protocol)
    summaries = summarise(records, baseline)
    columns = [c for c in columns_for(summaries, protocol) if c.group != "cost"]
    if measures is not None:
        columns = [c for key in measures for c in columns if c.key == key]
    return by_part(summaries), columns
