"""What a study of several parts shows in all: measures over what varies, and ranks."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from mixwell.metrics.measures import Measure
from mixwell.report.drawing import COLUMNS, Point, keep_shares, mark, panels, svg_of
from mixwell.report.sections.base import Block, plain, spread_text
from mixwell.report.tables import fitted
from mixwell.studies import MethodSummary
from mixwell.studies.records import in_words

__all__ = ["overview"]

_LETTERS = 16  # in a row below one of four


def overview(
    summaries: Sequence[MethodSummary], colours: Mapping[str, str], leading: Sequence[Measure]
) -> list[Block]:
    """Return figures of the leading measures over what varies; nothing where nothing does.

    Args:
        summaries: of all parts.
        colours: of the methods.
        leading: the measures.
    """
    varied = list(summaries[0].vary)
    if len({summary.group for summary in summaries}) < 2:
        return []
    axis = ", ".join(name.replace("_", " ") for name in varied)
    by_value: dict[Any, Any] = {}
    for summary in summaries:
        value = next(iter(summary.vary.values())) if len(varied) == 1 else summary.group
        known = value if _is_number(value) else in_words(value)
        by_value.setdefault(known, []).append(summary)
    # Of other data a number means something else, but a share.
    apart = [measure for measure in leading if "data" in varied and measure.unit != "%"]
    drawn = [over_values(by_value, colours, m, axis, apart=m in apart) for m in leading]
    note = "Means over seeds; bars are 95 % intervals."
    if apart:
        note += " What is no share has a scale for each."
    return [Block(f"Over {axis}", note, pictures=plain(*drawn))] if any(drawn) else []


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def over_values(
    by_value: Mapping[Any, Sequence[MethodSummary]], colours: Mapping[str, str],
    measure: Measure, axis: str, *, apart: bool = False,
) -> str | None:  # fmt: skip
    """Return a measure over what varies: a line for each method, its bars 95 % intervals.

    Args:
        by_value: the summaries of each value, in order.
        colours: of the methods.
        measure: that is shown.
        axis: what varies.
        apart: give each value a scale of its own.
    """
    there = {
        value: [summary for summary in summaries if measure.name in summary.metrics]
        for value, summaries in by_value.items()
    }
    if not any(there.values()):
        return None
    groups = [{value: found} for value, found in there.items() if found] if apart else [there]
    points: list[Point] = []
    with panels(5.2, 3.1, len(groups)) as (figure, places):
        for axes, group in zip(places, groups, strict=True):
            points += _draw_over(axes, group, colours, measure, axis)
            if apart:
                label = "\n".join(textwrap.wrap(in_words(next(iter(group))), _LETTERS))
                axes.set_xticks([0.0], [label])
            else:
                axes.set_xlabel(axis)
        for axes in places if not apart else places[::COLUMNS]:
            axes.set_ylabel(measure.heading)
        return svg_of(figure, f"{measure.heading} over {axis}, one line a method", points)


def _draw_over(
    axes: Axes, by_value: Mapping[Any, Sequence[MethodSummary]], colours: Mapping[str, str],
    measure: Measure, axis: str,
) -> list[Point]:  # fmt: skip
    """Draw a measure over values, and return what its points tell."""
    values = list(by_value)
    numeric = all(_is_number(v) and v > 0 for v in values)  # as a logarithm's axis takes them
    if numeric:
        values = sorted(values)
    place = np.array(values if numeric else range(len(values)), dtype=float)
    points: list[Point] = []
    for number, (method, colour) in enumerate(colours.items()):
        found = [
            next((s.metrics[measure.name] for s in by_value[v] if s.method == method), None)
            for v in values
        ]
        there = [i for i, interval in enumerate(found) if interval is not None]
        if not there:
            continue
        known = [interval for interval in found if interval is not None]
        means = [measure.factor * interval.mean for interval in known]
        reach = [measure.factor * (interval.half_width or 0) for interval in known]
        # Side by side, so that bars of one value don't hide each other.
        aside = (number - (len(colours) - 1) / 2) * (0.012 if numeric else 0.07)
        x = place[there] * (10**aside) if numeric else place[there] + aside
        drawn_line = axes.errorbar(
            x, means, yerr=reach, color=colour, marker="o", markersize=4, capsize=2,
            linewidth=1.5 if numeric else 0, elinewidth=1.0,
        )  # fmt: skip
        mark(drawn_line, method)
        for a, b, i, interval in zip(x, means, there, known, strict=True):
            text = spread_text(fitted(measure, by_value[values[i]]), interval)
            told = f"{method}, {axis} {in_words(values[i])}: {text}"
            points.append(Point(axes, a, b, told, method))
    if measure.unit == "%":  # a share: an interval may leave 0 to 100, the picture need not
        keep_shares(axes)
    if numeric:
        axes.set_xscale("log")
    axes.set_xticks(place, list(map(in_words, values)))
    axes.set_xticks([], minor=True)
    return points
