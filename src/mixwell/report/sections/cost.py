"""What it costs: the leading measures against the time that training takes, with the frontier."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from mixwell.metrics.measures import Measure
from mixwell.report.drawing import INK, Point, canvas, keep_shares, mark, name_points, svg_of
from mixwell.report.sections.base import Block, Part, Section, plain, spread_text
from mixwell.studies import MethodSummary

__all__ = ["SECTION", "frontier"]

Line = tuple[tuple[float, float], tuple[float, float]]

_UNITS = ((3600.0, "h"), (60.0, "min"), (1.0, "s"))


def _draw(part: Part) -> Block:
    return Block(
        "Accuracy against time",
        "A point for each method: the measure, with its 95 % interval, and the time that a "
        "training takes, as mean over seeds. The dotted line is the frontier: no faster method is "
        "as good. Runs beside each other share the machine, and so does what else it does.",
        pictures=plain(*(cost(part, m) for m in part.leading[:2])),
    )


SECTION = Section("cost", _draw)


def frontier(times: Sequence[float], values: Sequence[float], higher_is_better: bool) -> list[int]:
    """Return the places of those that no faster one is as good as, from the fastest on.

    >>> frontier([1.0, 3.0, 2.0], [0.8, 0.9, 0.7], higher_is_better=True)
    [0, 1]
    """
    sign = 1 if higher_is_better else -1
    best: list[int] = []
    for place in sorted(range(len(times)), key=lambda i: (times[i], -sign * values[i])):
        if not best or sign * values[place] > sign * values[best[-1]]:
            best.append(place)
    return best


def cost(part: Part, measure: Measure) -> str | None:
    """Return a measure over the time of training: a point for each method, and the frontier."""
    seconds = {
        method: float(np.mean([run.seconds for run in runs]))
        for method, runs in part.by_method.items()
        if runs
    }
    shown = [s for s in part.summaries if measure.name in s.metrics and s.method in seconds]
    if len(shown) < 2:
        return None
    longest = max(seconds[s.method] for s in shown)
    scale, unit = next((pair for pair in _UNITS if longest >= 2 * pair[0]), _UNITS[-1])
    times = [seconds[s.method] / scale for s in shown]
    means = [measure.factor * s.metrics[measure.name].mean for s in shown]
    title = measure.heading
    with canvas(5.2, 3.4) as (figure, axes):
        lines: list[Line] = []
        for summary, time, mean in zip(shown, times, means, strict=True):
            half = measure.factor * (summary.metrics[measure.name].half_width or 0)
            drawn = axes.errorbar(
                time, mean, yerr=half, fmt="o", capsize=2, markersize=6, linewidth=1.1,
                color=part.colours[summary.method],
            )  # fmt: skip
            mark(drawn, summary.method)
            lines.append(((time, mean - half), (time, mean + half)))
        if measure.higher_is_better is not None:
            lines += _draw_frontier(axes, times, means, measure.higher_is_better)
        axes.set_xlim(0, 1.18 * max(times))
        axes.margins(y=0.1)
        if measure.unit == "%":
            keep_shares(axes)
        axes.set_xlabel(f"time of training, {unit}")
        axes.set_ylabel(title)
        points = [
            Point(axes, time, mean, _text(measure, s, time, unit), s.method)
            for s, time, mean in zip(shown, times, means, strict=True)
        ]
        colours = [part.colours[s.method] for s in shown]
        name_points(figure, points, colours, lines)
        return svg_of(figure, f"{title} over the time of training, one point a method", points)


def _draw_frontier(
    axes: Axes, times: Sequence[float], means: Sequence[float], higher: bool
) -> list[Line]:
    """Draw the frontier's steps; return them."""
    best = frontier(times, means, higher)
    x, y = [times[i] for i in best], [means[i] for i in best]
    axes.step(x, y, where="post", color=INK, linewidth=0.9, linestyle=(0, (1, 2)), zorder=1)
    flat: list[Line] = [((a, b), (c, b)) for a, b, c in zip(x, y, x[1:], strict=False)]
    return flat + [((c, b), (c, d)) for b, c, d in zip(y, x[1:], y[1:], strict=False)]


def _text(measure: Measure, summary: MethodSummary, time: float, unit: str) -> str:
    step = summary.metrics.get("seconds_per_step")
    own = "" if step is None else f", {1000 * step.mean:.1f} ms a step"
    value = spread_text(measure, summary.metrics[measure.name])
    return f"{summary.method}: {measure.title} {value}, {time:.3g} {unit}{own}"
