"""Shift: accuracy and calibration on corrupted images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mixwell.metrics.measures import Measure, get
from mixwell.report.drawing import Point, canvas, keep_shares, mark, svg_of
from mixwell.report.sections.base import Block, Part, Picture, Section, plain
from mixwell.studies import RunRecord

__all__ = ["BY_CORRUPTION", "MEANS"]


def _means(part: Part) -> Block:
    return Block(
        "Shift",
        "Accuracy and ECE on corrupted test images, mean over all corruptions; the band is "
        "one standard deviation over seeds.",
        legend=True,
        pictures=plain(
            *(shifted(part.by_method, part.colours, get(name)) for name in ("accuracy", "ece"))
        ),
    )


def _by_corruption(part: Part) -> Block:
    drawn = {
        name: shifted(part.by_method, part.colours, get("accuracy"), name)
        for name in part.first.details["shift"]
    }
    return Block(
        "Shift by corruption",
        "Accuracy over severity.",
        legend=True,
        pictures=[Picture(svg, name) for name, svg in drawn.items() if svg],
        small=True,
    )


def _applies(part: Part) -> bool:
    return bool(part.first.details.get("shift"))


def _measured(part: Part) -> bool:
    # Of runs that are known by their measures alone the configuration tells what was measured.
    return _applies(part) or bool(part.first.known_from and part.first.config.get("shift"))


MEANS = Section("shift", _means, _measured, files=True)
BY_CORRUPTION = Section("shift_by_corruption", _by_corruption, _applies, files=True)


def shifted(
    by_method: Mapping[str, Sequence[RunRecord]], colours: Mapping[str, str], measure: Measure,
    corruption: str | None = None,
) -> str | None:  # fmt: skip
    """Return a measure over the severity of corruptions, their mean or one of them."""
    with canvas(5.2 if corruption is None else 2.7, 3.1 if corruption is None else 2.2) as (
        figure, axes,
    ):  # fmt: skip
        points: list[Point] = []
        for method, runs in by_method.items():
            rows = []
            for run in runs:
                table = run.details.get("shift")
                if not table or measure.name not in run.metrics:
                    continue
                chosen = [corruption] if corruption else list(table)
                clean = run.metrics[measure.name]
                values = np.mean([[row[measure.name] for row in table[c]] for c in chosen], 0)
                rows.append([clean, *values])
            if rows:
                mean, spread = (
                    measure.factor * value for value in (np.mean(rows, 0), np.std(rows, 0))
                )
                place = np.arange(len(mean))
                colour = colours[method]
                line = axes.plot(place, mean, color=colour, marker="o", markersize=3, lw=1.4)
                low, high = mean - spread, mean + spread
                band = axes.fill_between(place, low, high, color=colour, alpha=0.15, lw=0)
                mark([line, band], method)
                points += [
                    Point(axes, x, y, f"{method}, severity {x}: {y:.2f} ±{s:.2f} {measure.unit}",
                          method)
                    for x, y, s in zip(place.tolist(), mean, spread, strict=True)
                ]  # fmt: skip
        if not points:
            return None
        if measure.unit == "%":
            keep_shares(axes)
        axes.set_xlabel("severity (0: as it is)")
        title = f"{measure.title}, {measure.unit}"
        axes.set_ylabel(title)
        name = corruption or "all corruptions"
        return svg_of(figure, f"{title} over severity, {name}", points)
