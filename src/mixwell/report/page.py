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
from mixwell.report.tables import (
    COLUMNS,
    Column,
    by_part,
    cells,
    columns_for,
    latex_table,
    p_text,
    protocol_of,
)
from mixwell.studies import PROTOCOLS, MethodSummary, RunRecord, summarise
from mixwell.studies.statistics import (
    average_ranks,
    choose_baseline,
    detectable_difference,
    measures,
    seeds_needed,
)
from mixwell.training.files import write_atomically, write_json

__all__ = ["Paths", "write"]

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
        out: the folder.
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
    paths = Paths(*(folder / name for name in (
        "report.html", "results.csv", "results.json", "results.tex",
    )))  # fmt: skip
    summaries = summarise(records, baseline)
    table = _csv(records)
    latex = latex_table(records, baseline=baseline, protocol=protocol)
    write_atomically(paths.csv, table.encode())
    write_atomically(paths.latex, latex.encode())
    write_json(paths.json, [_summary(summary) for summary in summaries])
    page = _render(records, summaries, table, latex, command, baseline, protocol)
    write_atomically(paths.html, page.encode())
    return paths


def _csv(records: Sequence[RunRecord]) -> str:
    names: dict[str, None] = {}
    for record in records:
        names.update(dict.fromkeys(measures(record) if record.status == "done" else ()))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    varied = list(records[0].vary)
    writer.writerow([*varied, "method", "seed", "status", *names])
    for record in records:
        values = measures(record) if record.status == "done" else {}
        part = [record.vary.get(name, "") for name in varied]
        found = [values.get(name, "") for name in names]
        writer.writerow([*part, record.label, record.seed, record.status, *found])
    return buffer.getvalue()


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

    from mixwell.report import figures

    methods = list(dict.fromkeys(record.label for record in records))
    colours = {
        method: figures.PALETTE[place % len(figures.PALETTE)]
        for place, method in enumerate(methods)
    }
    done = [record for record in records if record.status == "done"]
    first = done[0] if done else records[0]
    base = choose_baseline(methods, baseline)
    columns = columns_for(summaries, protocol)
    parts = []
    for name, group in by_part(summaries).items():
        own = [record for record in done if record.group == name]
        by_column = [cells(group, column) for column in columns]
        parts.append(
            {
                "name": name,
                "vary": group[0].vary,
                "columns": [
                    column
                    for column, found in zip(columns, by_column, strict=True)
                    if any(cell.text != "–" for cell in found)
                ],
                "rows": [
                    {
                        "summary": summary,
                        "colour": colours[summary.method],
                        "cells": [
                            found[place]
                            for found in by_column
                            if any(cell.text != "–" for cell in found)
                        ],
                    }
                    for place, summary in enumerate(group)
                ],
                "findings": _findings(group, columns, base, protocol),
                "power": _power(group, columns, protocol),
                "sections": _sections(own, group, colours, base, protocol) if own else [],
                "samples": own[0].train_samples if own else 0,
            }
        )
    environment = Environment(
        loader=PackageLoader("mixwell.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["markup"] = Markup
    varied = list(first.vary)
    return environment.get_template("page.html").render(
        first=first,
        protocol=PROTOCOLS[protocol],
        config={
            name: value
            for name, value in first.config.items()
            if name not in (*_VARYING, *varied) and value is not None
        },
        records=records,
        failed=[record for record in records if record.status == "failed"],
        baseline=base,
        seeds=sorted({record.seed for record in done}),
        methods=methods,
        colours=colours,
        columns=columns,
        parts=parts,
        varied=varied,
        data=sorted({str(record.config["data"]) for record in records}),
        seconds=sum(record.seconds for record in done),
        overview=_overview(summaries, colours, columns, protocol),
        ranks=_ranks(summaries, columns, protocol),
        descriptions=_descriptions(methods, records),
        command=command,
        version=mixwell.__version__,
        csv_data=base64.b64encode(table.encode()).decode(),
        latex_data=base64.b64encode(latex.encode()).decode(),
    )


def _leading(columns: Sequence[Column], protocol: str) -> list[Column]:
    return [column for column in columns if column.key in PROTOCOLS[protocol].measures]


def _overview(
    summaries: Sequence[MethodSummary],
    colours: dict[str, str],
    columns: Sequence[Column],
    protocol: str,
) -> list[str]:
    """Return the leading measures over what varies, where one thing does."""
    from mixwell.report import figures

    varied = list(summaries[0].vary)
    if len(by_part(summaries)) < 2:
        return []
    axis = ", ".join(name.replace("_", " ") for name in varied)
    by_value: dict[Any, Any] = {}
    for summary in summaries:
        value = next(iter(summary.vary.values())) if len(varied) == 1 else summary.group
        by_value.setdefault(value, []).append(summary)
    drawn = [
        figures.over_values(by_value, colours, column.key, column.title, axis, column.factor)
        for column in _leading(columns, protocol)
    ]
    return [svg for svg in drawn if svg]


def _ranks(
    summaries: Sequence[MethodSummary], columns: Sequence[Column], protocol: str
) -> dict[str, dict[str, float]]:
    """Return each leading measure's average ranks over the parts."""
    if len(by_part(summaries)) < 2:
        return {}
    found = {
        column.title: average_ranks(summaries, column.key)
        for column in _leading(columns, protocol)
        if column.best
    }
    return {title: ranks for title, ranks in found.items() if ranks}


def _sections(
    records: Sequence[RunRecord],
    summaries: Sequence[MethodSummary],
    colours: dict[str, str],
    base: str,
    protocol: str,
) -> list[dict[str, Any]]:
    """Return the figures of one part: a section for each kind that there is something of."""
    from mixwell.report import figures

    by_method: dict[str, list[RunRecord]] = {summary.method: [] for summary in summaries}
    for record in records:
        by_method[record.label].append(record)
    firsts = {method: runs[0] for method, runs in by_method.items() if runs}
    first = records[0]
    classified = first.task == "classification"
    sections: list[dict[str, Any]] = []

    def add(title: str, note: str, drawn: Sequence[dict[str, Any]], **more: Any) -> None:
        shown = [figure for figure in drawn if figure["svg"]]
        if shown:
            sections.append({"title": title, "note": note, "figures": shown, **more})

    def each(draw: Any, caption: Any = None) -> list[dict[str, Any]]:
        """Return a figure of each method's first run, where there is something to draw."""
        drawn = []
        for method, run in firsts.items():
            svg = draw(run, colours[method])
            text = caption(run.metrics) if svg and caption else ""
            drawn.append({"title": method, "svg": svg, "caption": text})
        return drawn

    def plain(*drawn: str | None) -> list[dict[str, Any]]:
        return [{"title": "", "svg": svg, "caption": ""} for svg in drawn]

    seed = f"Seed {first.seed}."
    if first.details.get("class_counts") and first.config.get("imbalance"):
        add(
            "The long tail",
            "Accuracy of classes with many, a medium number and few training samples, and of each "
            "class, from the most frequent to the rarest (its training samples below its name). "
            "Means over seeds; bars are 95 % intervals.",
            plain(
                figures.shots(summaries, colours), figures.class_accuracies(by_method, colours)
            ),
            legend=True,
        )  # fmt: skip
    add(
        "Decision surfaces",
        "Probability of the second class, the boundary, and the training samples. " + seed,
        each(
            lambda run, _: figures.surface(run),
            lambda m: f"accuracy {100 * m['accuracy']:.1f} %",
        ),
        small=True,
    )  # fmt: skip
    add(
        "Where samples are mixed to",
        "Mixed samples over four epochs, in the colour of their label. Crosses intrude: they lie "
        "among the samples of a class that makes up less than half of their label. " + seed
        + " Methods that mix features or nothing have no such picture.",
        each(
            lambda run, _: figures.surface(run, mixed=True),
            lambda m: f"intrusion {100 * m['intrusion']:.1f} %, off the manifold "
            f"{100 * m['off_manifold']:.1f} %",
        ),
        small=True,
    )  # fmt: skip
    if any("val_margin_balance" in row for row in first.history[:1]):
        add(
            "Margins over training",
            "Balance: the deviation of the class pairs' margins over their mean, 0 where all are "
            "the same; and the mean itself. On validation data; the band is one standard "
            "deviation over seeds.",
            plain(
                figures.curves(by_method, colours, "val_margin_balance", "margin balance"),
                figures.curves(by_method, colours, "val_margin", "mean margin"),
            ),
            legend=True,
        )
    if any(test for summary in summaries for test in summary.tests.values()):
        leading = [
            c for c in _leading(COLUMNS, protocol) if any(s.tests.get(c.key) for s in summaries)
        ]
        unit = {100.0: ", percentage points"}
        add(
            f"Difference to {base}",
            "Mean of the paired differences and its 95 % interval, uncorrected; an interval that "
            "crosses zero shows no difference.",
            plain(
                *(
                    figures.differences(
                        summaries, colours, c.key,
                        c.title.replace(" %", "") + unit.get(c.factor, ""), c.factor, base,
                    )
                    for c in leading[:4]
                )
            ),
        )  # fmt: skip
    add(
        "What a step costs",
        "The measure over the median time of a training step, a point for each method; bars are "
        "95 % intervals. Runs beside each other share the machine.",
        plain(
            *(
                figures.cost(summaries, colours, c.key, c.title, c.factor)
                for c in _leading(COLUMNS, protocol)[:2]
            )
        ),
    )
    charts = (
        [("val_accuracy", "validation accuracy, %", True), ("val_nll", "validation NLL", False)]
        if classified
        else [("val_rmse", "validation RMSE", False), ("loss", "training loss", False)]
    )
    if any(run.history for run in records):
        add(
            "Learning curves",
            "Mean over seeds; the band is one standard deviation.",
            plain(*(figures.curves(by_method, colours, *chart) for chart in charts)),
            legend=True,
        )
    if classified:
        add(
            "Reliability and confidence",
            "Accuracy against confidence in 15 bins, as trained and after temperature scaling; "
            "below, how confidences are spread as trained. On the dashed line confidence is what "
            "it should be; below it the network is overconfident. " + seed,
            each(
                figures.reliability,
                lambda m: f"ECE {100 * m['ece']:.1f} %, after T {100 * m['ece_scaled']:.1f} %",
            ),
            small=True,
        )
    else:
        add(
            "Calibration of the predicted deviations",
            "Root mean squared error against the deviation that MC-dropout predicts, in ten bins, "
            "as it is and after variance scaling. On the dashed line it is what it should be; "
            "above it the network is overconfident. " + seed,
            each(
                figures.uncertainty,
                lambda m: f"ENCE {m['ence']:.2f}, after s {m['ence_scaled']:.2f}",
            ),
            small=True,
        )  # fmt: skip
    add(
        f"Outliers: {first.config.get('ood')}",
        "How confident the network is in test samples and in another data set's. " + seed,
        each(
            figures.outliers,
            lambda m: f"AUROC {100 * m['ood_auroc']:.1f} %, FPR95 {100 * m['ood_fpr95']:.1f} %",
        ),
        small=True,
    )
    if first.details.get("shift"):
        add(
            "Shift",
            "Accuracy and ECE on corrupted test images, mean over all corruptions; the band is "
            "one standard deviation over seeds.",
            plain(
                figures.shifted(by_method, colours, "accuracy", "accuracy, %"),
                figures.shifted(by_method, colours, "ece", "ECE, %"),
            ),
            legend=True,
        )
        add(
            "Shift by corruption",
            "Accuracy over severity.",
            [
                {
                    "title": name,
                    "svg": figures.shifted(by_method, colours, "accuracy", "accuracy, %", name),
                    "caption": "",
                }
                for name in first.details["shift"]
            ],
            small=True,
            legend=True,
        )
    if classified and not str(first.config["data"]).startswith(("moons", "circles")):
        fine = first.details.get("fine_classes")
        names = fine or list(first.classes)
        add(
            "Features in two dimensions",
            "The first two principal components of the test features, scaled to unit length: the "
            "input of the classifier head"
            + (", coloured by the classes that it was not trained on" if fine else "")
            + ". Each method has axes of its own. " + seed,
            each(
                lambda run, _: figures.features(run),
                lambda m: f"uniformity {m['uniformity']:.2f}, alignment "
                f"{m.get('fine_alignment', m['alignment']):.2f}",
            ),
            small=True,
            classes=list(zip(names, figures.class_colours(len(names)), strict=True))
            if len(names) <= 20 else [],
        )  # fmt: skip
    return sections


def _power(
    summaries: Sequence[MethodSummary], columns: Sequence[Column], protocol: str
) -> dict[str, Any] | None:
    """Return what differences of the first leading measure these seeds could have shown."""
    leading = [c for c in _leading(columns, protocol) if any(s.tests.get(c.key) for s in summaries)]
    if not leading:
        return None
    column = leading[0]
    rows = []
    for summary in summaries:
        test = summary.tests.get(column.key)
        if test is None or test.deviation <= 0:
            continue
        least = detectable_difference(test.deviation, test.pairs)
        needed = seeds_needed(test.deviation, test.difference) if test.difference else None
        rows.append(
            {
                "method": summary.method,
                "gap": f"{column.factor * test.difference:+.{column.digits}f}",
                "deviation": f"{column.factor * test.deviation:.{column.digits}f}",
                "least": f"{column.factor * least:.{column.digits}f}",
                "needed": "over 10,000" if needed is None else str(needed),
            }
        )
    pairs = max((t.pairs for s in summaries if (t := s.tests.get(column.key))), default=0)
    return {"title": column.title, "rows": rows, "pairs": pairs} if rows else None


def _descriptions(labels: Sequence[str], records: Sequence[RunRecord]) -> list[dict[str, Any]]:
    names = {record.label: str(record.config["method"]) for record in records}
    shown = []
    for label in labels:
        try:
            shown.append({"label": label, "about": mixwell.describe(names[label])})
        except InputError:  # a method of the user's own, not registered here
            continue
    return shown


def _findings(
    summaries: Sequence[MethodSummary], columns: Sequence[Column], base: str, protocol: str
) -> list[str]:
    """Return in sentences what the tests allow to say of the leading measures."""
    sentences = []
    for column in _leading(columns, protocol):
        if column.best is None:
            continue
        better, worse, open_ = [], [], []
        for summary in summaries:
            test = summary.tests.get(column.key)
            if test is None:
                continue
            gap = column.factor * test.difference
            text = f"{summary.method} ({gap:+.{column.digits}f}, {p_text(test.adjusted)})"
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
