"""Learning curves: measures of the validation data over the epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np

from mixwell.metrics.measures import VALIDATION, Measure, of
from mixwell.report.drawing import canvas, svg_of
from mixwell.report.sections.base import Block, Part, Section, plain
from mixwell.studies import RunRecord

__all__ = ["SECTION", "curves", "over_epochs"]


def _draw(part: Part) -> Block:
    drawn = [
        over_epochs(part, measure, f"validation {measure.title}")
        for measure in of(part.first.task)
        if measure.each_epoch and measure.group == "test"
    ]
    drawn = [svg for svg in drawn if svg]
    if len(drawn) == 1:
        drawn.append(curves(part.by_method, part.colours, "loss", "training loss"))
    return Block(
        "Learning curves",
        "Mean over seeds; the band is one standard deviation.",
        legend=True,
        pictures=plain(*drawn),
    )


def _applies(part: Part) -> bool:
    return any(run.history or run.known_from for run in part.records)


SECTION = Section("curves", _draw, _applies, files=True)


def over_epochs(part: Part, measure: Measure, title: str) -> str | None:
    """Return the curves of a measure of the validation data, if it was taken."""
    key = VALIDATION + measure.name
    if not any(key in row for run in part.records for row in run.history[:1]):
        return None
    title = f"{title}, {measure.unit}" if measure.unit else title
    return curves(part.by_method, part.colours, key, title, measure.factor, measure.unit == "%")


def _band(runs: Sequence[RunRecord], key: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return epochs, mean and standard deviation over seeds of a history's column."""
    rows = [
        [row[key] for row in run.history] for run in runs if run.history and key in run.history[0]
    ]
    if not rows:
        return np.array([]), np.array([]), np.array([])
    length = min(map(len, rows))
    values = np.array([row[:length] for row in rows])
    return np.arange(1, length + 1), values.mean(0), values.std(0)


def curves(
    by_method: Mapping[str, Sequence[RunRecord]], colours: Mapping[str, str], key: str, title: str,
    factor: float = 1.0,
    percent: bool = False,
) -> str:  # fmt: skip
    """Return learning curves: a line for each method, its band the spread over seeds.

    Args:
        by_method: the runs of each method.
        colours: of the methods.
        key: the history's column.
        title: of the axis.
        factor: that values are multiplied by.
        percent: whether they are shares, whose first epochs need not all be seen.
    """
    with canvas(5.2, 3.1) as (figure, axes):
        lowest = []
        for method, runs in by_method.items():
            epochs, mean, spread = _band(runs, key)
            if not len(epochs):
                continue
            mean, spread = mean * factor, spread * factor
            colour = colours[method]
            axes.plot(epochs, mean, color=colour, linewidth=1.6, label=method)
            axes.fill_between(epochs, mean - spread, mean + spread, color=colour, alpha=0.15, lw=0)
            lowest.append(np.median(mean) - 2 * (mean.max() - np.median(mean)))
        if percent and lowest:
            axes.set_ylim(bottom=max(0, min(lowest) - 3))
        axes.set_xlabel("epoch")
        axes.set_ylabel(title)
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
        return svg_of(figure, f"{title} over epochs, one line a method")
