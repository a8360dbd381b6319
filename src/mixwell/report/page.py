"""The report: one HTML file that holds all it shows."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mixwell
from mixwell.errors import InputError
from mixwell.metrics.measures import Measure
from mixwell.report import sections
from mixwell.report.drawing import PALETTE
from mixwell.report.remarks import by_part, remarks, told_of
from mixwell.report.sections.overview import overview
from mixwell.report.tables import (
    cells,
    columns_for,
    latex_table,
    leading,
    protocol_of,
    ranks_headings,
    ranks_of,
    ranks_title,
)
from mixwell.studies import PROTOCOLS, MethodSummary, RunRecord, summarise
from mixwell.studies.records import REPORT_FILES, in_words
from mixwell.studies.statistics import choose_baseline, measures
from mixwell.training.files import (
    check_output,
    for_spreadsheet,
    make_folder,
    write_atomically,
    write_json,
)
from mixwell.training.naming import files_of

__all__ = ["Paths", "write"]

_MOST = 3_700_000  # bytes of figures: with all else the page stays below 4 MB
_VARYING = ("method", "method_options", "seed", "data_dir")  # what runs of one report differ in


@dataclass(frozen=True)
class Paths:
    """The files that :func:`write` wrote."""

    html: Path
    csv: Path
    json: Path
    latex: Path


def write(
    records: Sequence[RunRecord],
    out: str | Path,
    *,
    command: str,
    baseline: str | None = None,
    protocol: str = "balanced",
) -> Paths:
    """Write report.html, results.csv (a row a run), results.json (a summary a method), results.tex.

    Args:
        records: runs of one study, finished or failed.
        out: the folder; it is made where it is not there.
        command: the command line that made them.
        baseline: the method that the others are tested against; "erm", or the first.
        protocol: says which measures come first.

    Raises:
        InputError: there are no runs.
    """
    if not records:
        raise InputError("records must hold one run at least")
    protocol = protocol_of(records, protocol)
    folder = Path(out)
    paths = Paths(*(folder / name for name in REPORT_FILES))
    read = {file for record in records for file in (*files_of(record.config), record.known_from)}
    for path in (paths.html, paths.csv, paths.json, paths.latex):
        check_output("out", path, read - {""})
    make_folder("out", folder)
    baseline = choose_baseline(list(dict.fromkeys(r.label for r in records)), baseline)
    summaries = summarise(records, baseline)
    table = _csv(records)
    latex = latex_table(records, baseline=baseline, protocol=protocol)
    write_atomically(paths.csv, _bytes(table))
    write_atomically(paths.latex, _bytes(latex))
    write_json(paths.json, [_summary(summary) for summary in summaries])
    page = _render(records, summaries, table, latex, command, baseline, protocol)
    write_atomically(paths.html, _bytes(page))
    return paths


def _bytes(text: str) -> bytes:
    """Return a text as UTF-8; what is none, of a file's name, as its escape."""
    return text.encode("utf-8", "backslashreplace")


def _csv(records: Sequence[RunRecord]) -> str:
    names: dict[str, None] = {}
    for record in records:
        names.update(dict.fromkeys(measures(record) if record.status == "done" else ()))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    varied = list(records[0].vary)
    writer.writerow([*varied, "method", "seed", "status", *map(for_spreadsheet, names)])
    for record in records:
        values = measures(record) if record.status == "done" else {}
        part = [_in_csv(record.vary.get(name, "")) for name in varied]
        found = [values.get(name, "") for name in names]
        label = for_spreadsheet(record.label)
        writer.writerow([*part, label, record.seed, record.status, *found])
    return buffer.getvalue()


def _in_csv(value: Any) -> Any:
    return for_spreadsheet(in_words(value) if isinstance(value, (dict, list)) else value)


def _summary(summary: MethodSummary) -> dict[str, Any]:
    return {
        **({"part": summary.vary} if summary.vary else {}),
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
    latex: str,
    command: str,
    baseline: str | None,
    protocol: str,
) -> str:
    from jinja2 import Environment, PackageLoader
    from markupsafe import Markup

    methods = list(dict.fromkeys(record.label for record in records))
    colours = {method: PALETTE[i % len(PALETTE)] for i, method in enumerate(methods)}
    done = [record for record in records if record.status == "done"]
    first = done[0] if done else records[0]
    base = choose_baseline(methods, baseline)
    columns = columns_for(summaries, protocol)
    parts = []
    for name, group in by_part(summaries).items():
        own = [sections.drawable(record) for record in done if record.group == name]
        part = sections.Part(own, group, colours, base, protocol)
        blocks = sections.drawn(part) if own else []
        parts.append({"name": name, "blocks": blocks, **_results(part, columns)})
    _fit(parts)
    ranks, unranked = ranks_of(summaries, leading(columns, protocol))

    def over() -> list[sections.Block]:
        return overview(summaries, colours, leading(columns, protocol))

    environment = Environment(
        loader=PackageLoader("mixwell.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["markup"] = Markup
    varied = list(first.vary)
    hidden = (*_VARYING, *varied)
    return environment.get_template("page.html").render(
        first=first,
        protocol=PROTOCOLS[protocol],
        config={k: v for k, v in first.config.items() if k not in hidden and v is not None},
        records=records,
        failed=[record for record in records if record.status == "failed"],
        baseline=base,
        seeds=sorted({record.seed for record in done}),
        methods=methods,
        colours=colours,
        hiding=Markup(_hiding(methods)),
        columns=columns,
        parts=parts,
        varied=varied,
        data=sorted({str(record.config["data"]) for record in records}),
        seconds=sum(record.seconds for record in done),
        overview=sections.attempt(f"Over {', '.join(varied)}", over),
        ranks=ranks,
        ranks_title=ranks_title(ranks),
        ranks_headings=ranks_headings(ranks),
        ranks_remarks=unranked,
        descriptions=_descriptions(methods, records),
        command=command,
        version=mixwell.__version__,
        csv_data=base64.b64encode(_bytes(table)).decode(),
        latex_data=base64.b64encode(_bytes(latex)).decode(),
    )


def _fit(parts: Sequence[dict[str, Any]], most: int = _MOST) -> None:
    """Take figures out until the page's are below ``most`` bytes, and say in their place that.

    The largest of all blocks goes first, of the last part that has one like it.
    """
    while sum(_size(block) for part in parts for block in part["blocks"]) > most:
        sizes = [
            (max(_size(b) for p in parts for b in p["blocks"] if b.title == title), title)
            for title in {b.title for p in parts for b in p["blocks"]}
        ]
        _, title = max(sizes)
        blocks, place = next(
            (part["blocks"], i)
            for part in reversed(parts)
            for i, block in enumerate(part["blocks"])
            if block.title == title and block.pictures
        )
        told = "The figures are left out: with them the page would be too large (4 MB)."
        blocks[place] = replace(blocks[place], pictures=(), note=told)


def _size(block: sections.Block) -> int:
    return sum(len(picture.svg.encode()) for picture in block.pictures)


def _hiding(methods: Sequence[str]) -> str:
    """Return the style by which a method's box hides what is marked as the method's own."""
    rules = []
    for place, method in enumerate(methods):
        safe = "".join(c if c.isascii() and c.isalnum() else f"\\{ord(c):x} " for c in method)
        rules.append(
            f'main:has(#shown{place}:not(:checked)) [data-method="{safe}"] {{ display: none; }}'
        )
    return "\n".join(rules)


def _results(part: sections.Part, columns: Sequence[Measure]) -> dict[str, Any]:
    """Return a part's table: its columns, and the rows of its methods."""
    found = [(column, cells(part.summaries, column)) for column in columns]
    there = [(column, shown) for column, shown in found if any(c.text != "–" for c in shown)]
    return {
        "columns": [column for column, _ in there],
        "rows": [
            {
                "summary": summary,
                "colour": part.colours[summary.method],
                "cells": [shown[place] for _, shown in there],
            }
            for place, summary in enumerate(part.summaries)
        ],
        "samples": part.first.train_samples if part.records else "unknown",
        "parameters": f"{part.first.parameters:,}" if part.records else "unknown",
        "about": _sentence(told_of(part.summaries, part.base).translate(_ARROWS)),
        "remarks": remarks(part.summaries, part.base),
    }


_ARROWS = str.maketrans("↑↓", "▲▼")  # the page's, which have a colour, too


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _descriptions(labels: Sequence[str], records: Sequence[RunRecord]) -> list[dict[str, Any]]:
    names = {record.label: str(record.config["method"]) for record in records}
    shown = []
    for label in labels:
        try:
            shown.append({"label": label, "about": mixwell.describe(names[label])})
        except InputError:  # a method of the user's own, not registered here
            continue
    return shown
