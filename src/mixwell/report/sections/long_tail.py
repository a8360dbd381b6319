"""The long tail: accuracy by the number of training samples that classes have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mixwell.report.drawing import INK, Point, canvas, mark, svg_of
from mixwell.report.sections.base import Block, Part, Section, plain
from mixwell.studies import MethodSummary, RunRecord

__all__ = ["SECTION"]


def _draw(part: Part) -> Block:
    return Block(
        "The long tail",
        "Accuracy of classes with many, a medium number and few training samples, and of each "
        "class, from the most frequent to the rarest (its training samples below its name). "
        "Means over seeds; bars are 95 % intervals.",
        legend=True,
        pictures=plain(
            shots(part.summaries, part.colours), class_accuracies(part.by_method, part.colours)
        ),
    )


def _applies(part: Part) -> bool:
    known = part.first.details.get("class_counts") or part.first.known_from
    return bool(known and part.first.config.get("imbalance"))


SECTION = Section("long_tail", _draw, _applies, files=True)


def shots(summaries: Sequence[MethodSummary], colours: Mapping[str, str]) -> str | None:
    """Return bars of the accuracy of classes with many, medium and few samples, and of all."""
    groups = [
        (key, name)
        for key, name in (
            ("accuracy", "all"), ("accuracy_many", "many\n(> 100)"),
            ("accuracy_medium", "medium\n(20 to 100)"), ("accuracy_few", "few\n(< 20)"),
        )
        if any(key in s.metrics for s in summaries)
    ]  # fmt: skip
    if len(groups) < 2:
        return None
    points = []
    with canvas(5.2, 3.1) as (figure, axes):
        width = 0.8 / len(summaries)
        for number, summary in enumerate(summaries):
            for place, (key, name) in enumerate(groups):
                found = summary.metrics.get(key)
                if found is None:
                    continue
                x, half = place - 0.4 + (number + 0.5) * width, 100 * (found.half_width or 0)
                drawn = axes.bar(
                    x, 100 * found.mean, 0.9 * width, yerr=half, color=colours[summary.method],
                    error_kw={"ecolor": INK, "elinewidth": 0.8, "capsize": 1.5},
                )  # fmt: skip
                mark([drawn, drawn.errorbar], summary.method)
                value = f"{100 * found.mean:.2f} ±{half:.2f} %"
                text = f"{summary.method}, {name.split(chr(10))[0]}: {value}"
                points.append(Point(axes, x, 50 * found.mean, text, summary.method))
        axes.set_xticks(range(len(groups)), [name for _, name in groups])
        axes.set_ylim(0, 100)
        axes.set_ylabel("accuracy, %")
        axes.grid(axis="x", visible=False)
        return svg_of(
            figure, "accuracy of classes with many, medium and few training samples", points
        )


def class_accuracies(
    by_method: Mapping[str, Sequence[RunRecord]], colours: Mapping[str, str]
) -> str | None:
    """Return the accuracy of each class, from the most to the least frequent, over seeds."""
    with canvas(5.2, 3.1) as (figure, axes):
        names: list[str] = []
        points: list[Point] = []
        for method, runs in by_method.items():
            found = [run for run in runs if "class_accuracy" in run.details]
            if not found:
                continue
            counts = np.array(found[0].details["class_counts"])
            order = np.argsort(-counts, kind="stable")
            values = np.array([run.details["class_accuracy"] for run in found])[:, order] * 100
            place = np.arange(len(order))
            mean = np.nanmean(values, 0)
            line = axes.plot(
                place, mean, color=colours[method], marker="o", markersize=3, linewidth=1.4,
                clip_on=False,
            )  # fmt: skip
            mark(line, method)
            names = [f"{found[0].classes[i]}\n{counts[i]}" for i in order]
            points += [
                Point(axes, x, y, f"{method}, {found[0].classes[i]} ({counts[i]}): {y:.1f} %",
                      method)
                for x, y, i in zip(place.tolist(), mean, order, strict=True)
            ]  # fmt: skip
        if not names or len(names) > 40:
            return None
        axes.set_xticks(range(len(names)), names, fontsize=7, rotation=30, ha="right")
        axes.set_ylabel("accuracy, %")
        axes.set_ylim(0, 100)
        return svg_of(figure, "accuracy of each class, by its number of training samples", points)
