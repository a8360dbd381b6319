"""What a step costs: the leading measures over the time of a training step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mixwell.report.drawing import canvas, svg_of
from mixwell.report.sections.base import Block, Part, Section, plain
from mixwell.studies import MethodSummary

__all__ = ["SECTION"]


def _draw(part: Part) -> Block:
    return Block(
        "What a step costs",
        "The measure over the median time of a training step, a point for each method; bars are "
        "95 % intervals. Runs beside each other share the machine.",
        pictures=plain(
            *(
                cost(part.summaries, part.colours, m.name, m.heading, m.factor)
                for m in part.leading[:2]
            )
        ),
    )


SECTION = Section("cost", _draw)


def cost(
    summaries: Sequence[MethodSummary], colours: Mapping[str, str], key: str, title: str,
    factor: float,
) -> str | None:  # fmt: skip
    """Return a measure over the time of a training step: a point for each method.

    Args:
        summaries: of the methods.
        colours: of the methods.
        key: the measure.
        title: of it.
        factor: that the measure is multiplied by.
    """
    shown = [s for s in summaries if key in s.metrics and "seconds_per_step" in s.metrics]
    if len(shown) < 2:
        return None
    with canvas(5.2, 3.4) as (figure, axes):
        for summary in shown:
            value, time = summary.metrics[key], summary.metrics["seconds_per_step"]
            axes.errorbar(
                1000 * time.mean, factor * value.mean, yerr=factor * (value.half_width or 0),
                fmt="o", color=colours[summary.method], capsize=2, markersize=6, linewidth=1.1,
            )  # fmt: skip
        axes.set_xlim(left=0)
        axes.margins(x=0.15)
        figure.draw_without_rendering()
        placed: list[tuple[float, float]] = []
        for summary in sorted(shown, key=lambda s: factor * s.metrics[key].mean):
            point = (
                1000 * summary.metrics["seconds_per_step"].mean, factor * summary.metrics[key].mean
            )  # fmt: skip
            x, y = axes.transData.transform(point)
            level = y + 4
            while any(abs(x - u) < 90 and abs(level - v) < 10 for u, v in placed):
                level += 10  # above the names that are there already
            placed.append((x, level))
            axes.annotate(
                summary.method, point, (5, level - y), textcoords="offset pixels", fontsize=7.5,
                color=colours[summary.method],
            )  # fmt: skip
        axes.set_xlabel("time of a training step, ms")
        axes.set_ylabel(title)
        return svg_of(figure, f"{title} over the time of a training step, one point a method")
