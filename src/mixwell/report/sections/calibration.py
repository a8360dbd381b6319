"""Calibration: reliability diagrams of classifiers, predicted deviations of regressions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.axes import Axes

from mixwell import metrics
from mixwell.metrics.measures import get
from mixwell.report.drawing import INK, STYLE, Point, canvas, sheet, svg_of
from mixwell.report.sections.base import Block, Part, Section, arrays_of, number_of, told
from mixwell.studies import MethodSummary, RunRecord

__all__ = ["DEVIATIONS", "RELIABILITY"]


def _reliability(part: Part) -> Block:
    return Block(
        "Reliability and confidence",
        "Accuracy against confidence in 15 bins, the samples of all seeds together, as trained and "
        "after each run’s temperature scaling; below, the share of the samples in each bin as "
        "trained. A dot’s size is its bin’s share: what few samples say is little. On the dashed "
        "line confidence is what it should be; below it the network is overconfident.",
        pictures=part.pooled(reliability, _errors),
        small=True,
    )


def _errors(summary: MethodSummary) -> str:
    ece, scaled = (summary.metrics.get(name) for name in ("ece", "ece_scaled"))
    if ece is None:
        return ""
    after = "" if scaled is None else f", after T {get('ece').shown(scaled.mean, 1)}"
    return f"{get('ece').title} {get('ece').shown(ece.mean, 1)}{after}"


RELIABILITY = Section("reliability", _reliability, lambda part: part.measured("ece"), files=True)


def _deviations(part: Part) -> Block:
    return Block(
        "Calibration of the predicted deviations",
        "Root mean squared error against the deviation that MC-dropout predicts, in ten bins, "
        "as it is and after variance scaling. On the dashed line it is what it should be; "
        "above it the network is overconfident. " + part.seed,
        pictures=part.each(
            deviations,
            lambda m: f"{told(m, 'ence', 2)}, after s {number_of(m, 'ence_scaled', 2)}",
        ),
        small=True,
    )


DEVIATIONS = Section("deviations", _deviations, lambda part: part.measured("ence"), files=True)


def reliability(runs: Sequence[RunRecord], colour: str) -> str | None:
    """Return the reliability diagram of a method's runs together, before and after scaling."""
    found = [(run, arrays_of(run)) for run in runs]
    found = [(run, arrays) for run, arrays in found if "test_logits" in arrays]
    if not found:
        return None
    labels = torch.cat([torch.from_numpy(arrays["test_labels"]) for _, arrays in found])
    plain = torch.cat([_probabilities(arrays) for _, arrays in found])
    scaled = torch.cat(
        [_probabilities(arrays, run.metrics.get("temperature", 1.0)) for run, arrays in found]
    )
    method = runs[0].label
    with rc_context(STYLE):
        figure = sheet(2.7, 3.4)
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        top.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
        points = _draw_bins(top, plain, labels, colour, "-", "as trained", sized=True)
        points += _draw_bins(top, scaled, labels, colour, ":", "after T")
        points += _draw_shares(bottom, plain, labels, colour)
        top.set_xlim(0, 1)
        top.set_ylim(0, 1)
        top.set_ylabel("accuracy")
        top.legend(loc="best", fontsize=8, handlelength=1.6, borderaxespad=0.2)
        bottom.set_ylabel("share")
        bottom.set_ylim(bottom=0)
        bottom.set_xlabel("confidence")
        what = "accuracy against confidence, and the share of samples in each bin"
        return svg_of(figure, f"{method}: {what}", points)


def _probabilities(arrays: Mapping[str, np.ndarray], temperature: float = 1.0) -> torch.Tensor:
    return (torch.from_numpy(arrays["test_logits"]).double() / temperature).softmax(1)


def _draw_bins(
    axes: Axes, probs: torch.Tensor, labels: torch.Tensor, colour: str, line: str, name: str,
    sized: bool = False,
) -> list[Point]:  # fmt: skip
    """Draw accuracy over confidence; return what each bin tells."""
    diagram = metrics.reliability_diagram(probs, labels)
    there = diagram.count.numpy() > 0
    x, y = diagram.confidence.numpy()[there], diagram.accuracy.numpy()[there]
    count = diagram.count.numpy()[there]
    share = count / count.sum()
    axes.plot(x, y, color=colour, linestyle=line, linewidth=1.4, label=name)
    if sized:
        axes.scatter(x, y, s=4 + 60 * share, color=colour)
    return [
        Point(
            axes, a, b, f"{name}: confidence {a:.3f}, accuracy {b:.3f}, {100 * c:.1f} % ({n:.0f})"
        )
        for a, b, c, n in zip(x, y, share, count, strict=True)
    ]


def _draw_shares(axes: Axes, probs: torch.Tensor, labels: torch.Tensor, colour: str) -> list[Point]:
    """Draw the share of the samples in each bin; return what each tells."""
    count = metrics.reliability_diagram(probs, labels).count.numpy()
    share = count / count.sum()
    middle = (np.arange(len(share)) + 0.5) / len(share)
    axes.bar(middle, share, width=0.9 / len(share), color=colour)
    return [
        Point(axes, x, s / 2, f"confidence {x - 0.5 / len(share):.2f} to "
              f"{x + 0.5 / len(share):.2f}: {100 * s:.1f} % of the samples ({n:.0f})")
        for x, s, n in zip(middle, share, count, strict=True)
    ]  # fmt: skip


def deviations(run: RunRecord, colour: str) -> str | None:
    """Return a regression's calibration: error against predicted deviation, and after scaling."""
    arrays = arrays_of(run)
    if "test_std" not in arrays:
        return None
    mean, std, targets = (
        torch.from_numpy(arrays[name]).double()
        for name in ("test_mean", "test_std", "test_targets")
    )
    scale = run.metrics.get("variance_scale", 1.0)
    with canvas(2.7, 2.7) as (figure, axes):
        highest = []
        for factor, marker, line, name in (
            (1.0, "o", "-", "MC-dropout"), (scale, "s", ":", "after s"),
        ):  # fmt: skip
            expected, found, _ = metrics.calibration_curve(mean, factor * std, targets, 10)
            axes.plot(
                expected, found, color=colour, marker=marker, markersize=3.5, linestyle=line,
                linewidth=1.3, label=name,
            )  # fmt: skip
            highest += [float(expected.max()), float(found.max())]
        top = 1.05 * max(highest)
        axes.plot([0, top], [0, top], color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
        axes.set_xlim(0, top)
        axes.set_ylim(0, top)
        axes.set_xlabel("predicted deviation")
        axes.set_ylabel("RMSE")
        axes.legend(loc="lower right", fontsize=8)
        return svg_of(figure, f"{run.label}: root mean squared error against predicted deviation")
