"""Learning curves: measures of the validation data over the epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from mixwell.metrics.measures import VALIDATION, Measure, of
from mixwell.report.drawing import Point, canvas, keep_shares, mark, svg_of, thinned
from mixwell.report.sections.base import Block, Part, Section, plain
from mixwell.studies import RunRecord

__all__ = ["SECTION", "curves", "over_epochs"]


_SETTLED = 0.2  # of the epochs: what comes before may leave the picture


def _draw(part: Part) -> Block:
    measures = [
        measure for measure in of(part.first.task) if measure.each_epoch and measure.group == "test"
    ]
    drawn = [over_epochs(part, m, f"validation {m.title}") for m in measures]
    drawn = [svg for svg in drawn if svg]
    if len(drawn) == 1:
        drawn.append(curves(part.by_method, part.colours, "loss", "training loss"))
    return Block(
        "Learning curves",
        "Mean over seeds; the band is one standard deviation. The range is that of the last four "
        "fifths of training: the first epochs may lie outside it.",
        legend=True,
        pictures=plain(*drawn),
    )


def _applies(part: Part) -> bool:
    return any(run.history or run.known_from for run in part.records)


SECTION = Section("curves", _draw, _applies, files=True)


def over_epochs(part: Part, measure: Measure, title: str) -> str | None:
    """Return the curves of a measure of the validation data, if it was taken."""
    key = VALIDATION + measure.name
    if not any(key in row for run in part.records for row in run.history):
        return None
    title = f"{title}, {measure.unit}" if measure.unit else title
    share = measure.unit == "%"
    return curves(part.by_method, part.colours, key, title, measure.factor, share, measure.digits)


def _band(runs: Sequence[RunRecord], key: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return epochs, mean and standard deviation over seeds of a history's column.

    Of the epochs that all runs with that column have it of: with ``val_every`` it is not all.
    """
    found = [{row["epoch"]: row[key] for row in run.history if key in row} for run in runs]
    found = [column for column in found if column]
    epochs = sorted(set(found[0]).intersection(*found[1:])) if found else []
    if not epochs:
        return np.array([]), np.array([]), np.array([])
    values = np.array([[column[epoch] for epoch in epochs] for column in found])
    return np.array(epochs), values.mean(0), values.std(0)


def curves(
    by_method: Mapping[str, Sequence[RunRecord]], colours: Mapping[str, str], key: str, title: str,
    factor: float = 1.0, share: bool = False, digits: int = 3,
) -> str | None:  # fmt: skip
    """Return learning curves: a line for each method, its band the spread over seeds.

    None where no run has that column.

    Args:
        by_method: the runs of each method.
        colours: of the methods.
        key: the history's column.
        title: of the axis.
        factor: that values are multiplied by.
        share: whether they are shares, in per cent.
        digits: of the values in what points tell.
    """
    with canvas(5.2, 3.1) as (figure, axes):
        reach: list[float] = []
        points = []
        for method, runs in by_method.items():
            epochs, mean, spread = _band(runs, key)
            if not np.isfinite(mean).any():
                continue
            mean, spread = mean * factor, spread * factor
            low, high = mean - spread, mean + spread
            if share:  # a deviation may reach beyond what a share can be
                low, high = np.clip(low, 0, 100), np.clip(high, 0, 100)
            colour = colours[method]
            mark(axes.plot(epochs, mean, color=colour, linewidth=1.6, label=method), method)
            mark(axes.fill_between(epochs, low, high, color=colour, alpha=0.15, lw=0), method)
            settled = int(_SETTLED * len(epochs))
            reach += [*low[settled:], *high[settled:]]
            points += [
                Point(axes, epochs[i], mean[i],
                      f"{method}, epoch {epochs[i]}: {mean[i]:.{digits}f} ±{spread[i]:.{digits}f}",
                      method)
                for i in thinned(len(epochs))
            ]  # fmt: skip
        if not points:
            return None
        _set_range(axes, np.array(reach), share)
        axes.set_xlabel("epoch")
        axes.set_ylabel(title)
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
        bottom, top = axes.get_ylim()
        seen = [point for point in points if bottom <= point.y <= top]
        return svg_of(figure, f"{title} over epochs, one line a method", seen)


def _set_range(axes: Axes, reach: np.ndarray, share: bool) -> None:
    """Show all that settled curves reach, and a little more."""
    reach = reach[np.isfinite(reach)]
    if len(reach) and reach.max() > reach.min():
        room = 0.06 * (reach.max() - reach.min())
        axes.set_ylim(reach.min() - room, reach.max() + room)
    if share:
        keep_shares(axes)
