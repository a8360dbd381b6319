"""Calibration: reliability diagrams of classifiers, predicted deviations of regressions."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib import pyplot as plt

from mixwell import metrics
from mixwell.metrics.measures import get
from mixwell.report.drawing import INK, STYLE, canvas, svg_of
from mixwell.report.sections.base import Block, Part, Section, told
from mixwell.studies import RunRecord

__all__ = ["DEVIATIONS", "RELIABILITY"]


def _reliability(part: Part) -> Block:
    return Block(
        "Reliability and confidence",
        "Accuracy against confidence in 15 bins, as trained and after temperature scaling; "
        "below, how confidences are spread as trained. On the dashed line confidence is what "
        "it should be; below it the network is overconfident. " + part.seed,
        pictures=part.each(
            reliability,
            lambda m: f"{told(m, 'ece', 1)}, after T {get('ece').shown(m['ece_scaled'], 1)}",
        ),
        small=True,
    )


RELIABILITY = Section("reliability", _reliability, lambda part: part.measured("ece"), files=True)


def _deviations(part: Part) -> Block:
    return Block(
        "Calibration of the predicted deviations",
        "Root mean squared error against the deviation that MC-dropout predicts, in ten bins, "
        "as it is and after variance scaling. On the dashed line it is what it should be; "
        "above it the network is overconfident. " + part.seed,
        pictures=part.each(
            deviations,
            lambda m: f"{told(m, 'ence', 2)}, after s {get('ence').shown(m['ence_scaled'], 2)}",
        ),
        small=True,
    )


DEVIATIONS = Section("deviations", _deviations, lambda part: part.measured("ence"), files=True)


def reliability(run: RunRecord, colour: str) -> str | None:
    """Return a run's reliability diagram, before and after scaling, over its confidences."""
    arrays = run.predictions()
    if "test_logits" not in arrays:
        return None
    logits = torch.from_numpy(arrays["test_logits"]).double()
    labels = torch.from_numpy(arrays["test_labels"])
    with plt.rc_context(STYLE):
        figure, (top, bottom) = plt.subplots(
            2, 1, figsize=(2.7, 3.4), sharex=True, height_ratios=(3, 1), layout="constrained"
        )
        top.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
        temperature = run.metrics.get("temperature", 1.0)
        for scale, line, alpha, name in (
            (1.0, "-", 1.0, "as trained"), (temperature, ":", 0.9, "after T"),
        ):  # fmt: skip
            diagram = metrics.reliability_diagram((logits / scale).softmax(1), labels)
            count = diagram.count.numpy()
            there = count > 0
            confidence, accuracy = diagram.confidence.numpy(), diagram.accuracy.numpy()
            top.plot(
                confidence[there],
                accuracy[there],
                color=colour,
                linestyle=line,
                linewidth=1.4,
                alpha=alpha,
                label=name,
            )
            if scale == 1.0:
                # A bin's dot grows with its share of the samples: few samples say little.
                share = count[there] / count.sum()
                top.scatter(confidence[there], accuracy[there], s=4 + 60 * share, color=colour)
                edges = np.linspace(0, 1, len(count) + 1)
                bottom.bar(
                    (edges[:-1] + edges[1:]) / 2, count / count.sum(), width=0.9 / len(count),
                    color=colour,
                )  # fmt: skip
        top.set_xlim(0, 1)
        top.set_ylim(0, 1)
        top.set_ylabel("accuracy")
        top.legend(loc="upper left", fontsize=8, handlelength=1.6)
        bottom.set_ylabel("share")
        bottom.set_xlabel("confidence")
        svg = svg_of(
            figure, f"{run.label}: accuracy against confidence, and the histogram of confidences"
        )
        plt.close(figure)
        return svg


def deviations(run: RunRecord, colour: str) -> str | None:
    """Return a regression's calibration: error against predicted deviation, and after scaling."""
    arrays = run.predictions()
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
