"""The report: one HTML file that holds all it shows."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mixwell
from mixwell.errors import InputError
from mixwell.report.tables import Column, cells, columns_for, p_text
from mixwell.studies import MethodSummary, RunRecord, summarise
from mixwell.studies.statistics import choose_baseline, measures
from mixwell.training.files import write_atomically, write_json

__all__ = ["Paths", "write"]

_VARYING = ("method", "method_options", "seed", "data_dir")  # what runs of one report differ in


@dataclass(frozen=True)
class Paths:
    """The files that :func:`write` wrote."""

    html: Path
    csv: Path
    json: Path


def write(
    records: Sequence[RunRecord], out: str | Path, *, command: str, baseline: str | None = None
) -> Paths:
    """Write report.html, results.csv (a row a run) and results.json (a summary a method).

    Args:
        records: runs of one comparison, finished or failed.
        out: the folder.
        command: the command line that made them.
        baseline: the method that the others are tested against; "erm", or the first.

    Raises:
        InputError: there are no runs.
    """
    if not records:
        raise InputError("records must hold one run at least")
    folder = Path(out)
    paths = Paths(folder / "report.html", folder / "results.csv", folder / "results.json")
    summaries = summarise(records, baseline)
    table = _csv(records)
    write_atomically(paths.csv, table.encode())
    write_json(paths.json, [_summary(summary) for summary in summaries])
    page = _render(records, summaries, table, command, baseline)
    write_atomically(paths.html, page.encode())
    return paths


def _csv(records: Sequence[RunRecord]) -> str:
    names: dict[str, None] = {}
    for record in records:
        names.update(dict.fromkeys(measures(record) if record.status == "done" else ()))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["method", "seed", "status", *names])
    for record in records:
        values = measures(record) if record.status == "done" else {}
        writer.writerow(
            [record.label, record.seed, record.status, *(values.get(name, "") for name in names)]
        )
    return buffer.getvalue()


def _summary(summary: MethodSummary) -> dict[str, Any]:
    return {
        "method": summary.method,
        "seeds": list(summary.seeds),
        "failed": summary.failed,
        "metrics": {
            name: {"mean": i.mean, "half_width_95": i.half_width, "values": list(i.values)}
            for name, i in summary.metrics.items()
        },
        "tests_against_baseline": {
            name: None if test is None else vars(test) for name, test in summary.tests.items()
        },
    }


def _render(
    records: Sequence[RunRecord],
    summaries: Sequence[MethodSummary],
    table: str,
    command: str,
    baseline: str | None,
) -> str:
    from jinja2 import Environment, PackageLoader
    from markupsafe import Markup

    from mixwell.report import figures

    base = choose_baseline([summary.method for summary in summaries], baseline)
    done = [record for record in records if record.status == "done"]
    by_method: dict[str, list[RunRecord]] = {s.method: [] for s in summaries}
    for record in done:
        by_method[record.label].append(record)
    colours = {
        method: figures.PALETTE[place % len(figures.PALETTE)]
        for place, method in enumerate(by_method)
    }
    first = done[0] if done else records[0]
    columns = columns_for(summaries)
    by_column = [cells(summaries, column) for column in columns]
    rows = [
        {
            "summary": summary,
            "colour": colours[summary.method],
            "cells": [column[place] for column in by_column],
        }
        for place, summary in enumerate(summaries)
    ]

    def drawn(draw: Any) -> list[dict[str, Any]]:
        """Return a figure of each method's first run, where it has what is drawn."""
        shown = []
        for method, runs in by_method.items():
            svg = draw(runs[0], colours[method]) if runs else None
            if svg:
                shown.append({"method": method, "run": runs[0], "svg": Markup(svg)})
        return shown

    regression = first.task == "regression"
    charts = (
        [("val_rmse", "validation RMSE", False), ("loss", "training loss", False)]
        if regression
        else [
            ("val_accuracy", "validation accuracy, %", True),
            ("val_nll", "validation NLL", False),
        ]
    )
    gaps = (
        [("rmse", "RMSE", 1.0), ("mae", "MAE", 1.0)]
        if regression
        else [
            ("accuracy", "accuracy, percentage points", 100.0),
            ("ece", "ECE, percentage points", 100.0),
        ]
    )
    tested = any(test for summary in summaries for test in summary.tests.values())
    environment = Environment(
        loader=PackageLoader("mixwell.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(
        first=first,
        config={name: value for name, value in first.config.items() if name not in _VARYING},
        records=records,
        failed=[record for record in records if record.status == "failed"],
        baseline=base,
        seeds=sorted({record.seed for record in done}),
        columns=columns,
        rows=rows,
        colours=colours,
        findings=_findings(summaries, columns, base),
        differences=[
            Markup(figures.differences(summaries, colours, key, title, factor, base))
            for key, title, factor in gaps
        ] if tested else [],
        curves=[
            Markup(figures.curves(by_method, colours, *chart))
            for chart in charts
            if any(run.history for run in done)
        ],
        reliability=[] if regression else drawn(figures.reliability),
        features=[] if regression else drawn(lambda run, _: figures.features(run)),
        classes=list(zip(first.classes, figures.class_colours(len(first.classes)), strict=True)),
        methods=_descriptions(by_method, records),
        command=command,
        version=mixwell.__version__,
        csv_data=base64.b64encode(table.encode()).decode(),
    )  # fmt: skip


def _descriptions(by_method: dict[str, Any], records: Sequence[RunRecord]) -> list[dict[str, Any]]:
    names = {record.label: str(record.config["method"]) for record in records}
    shown = []
    for label in by_method:
        try:
            shown.append({"label": label, "about": mixwell.describe(names[label])})
        except InputError:  # a method of the user's own, not registered here
            continue
    return shown


def _findings(
    summaries: Sequence[MethodSummary], columns: Sequence[Column], base: str
) -> list[str]:
    """Return in sentences what the tests allow to say of the leading measures."""
    leading = [
        c for c in columns if c.key in ("accuracy", "ece", "nll", "uniformity", "rmse", "mae")
    ]
    sentences = []
    for column in leading:
        better, worse, open_ = [], [], []
        for summary in summaries:
            test = summary.tests.get(column.key)
            if test is None:
                continue
            gap = column.factor * test.difference
            text = f"{summary.method} ({gap:+.{column.digits}f}, {p_text(test.p_value)})"
            if not test.significant:
                open_.append(summary.method)
            elif (test.difference > 0) == (column.best == "high"):
                better.append(text)
            else:
                worse.append(text)
        if not (better or worse or open_):
            continue
        parts = []
        if better:
            parts.append(f"better than {base}: {', '.join(better)}")
        if worse:
            parts.append(f"worse: {', '.join(worse)}")
        if open_:
            parts.append(f"no significant difference: {', '.join(open_)}")
        sentences.append(f"{column.title}: {'; '.join(parts)}.")
    return sentences
