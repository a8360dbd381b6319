"""The page's figures: SVG that takes its colours from the page, so that dark pages stay dark."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib

matplotlib.use("Agg")  # never a window, wherever this runs

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mixwell import metrics
from mixwell.studies import MethodSummary, RunRecord

__all__ = ["PALETTE", "curves", "differences", "features", "reliability"]

# Wong's colours (Nature Methods 2011), apart under colour blindness, on light and dark ground.
PALETTE = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#8a8a8a",
    "#b15928", "#1b9e77",
)  # fmt: skip

# Stand-ins that matplotlib writes and the page's own colours replace.
_INK, _FAINT = "#010203", "#040506"
_STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _FAINT,
    "grid.linewidth": 0.5,
    "grid.alpha": 0.6,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


@contextmanager
def _figure(width: float, height: float) -> Iterator[tuple[Figure, Axes]]:
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(width, height), layout="constrained")
        try:
            yield figure, axes
        finally:
            plt.close(figure)


def _svg(figure: Figure, label: str) -> str:
    """Return the figure as an inline SVG with a text for those who can't see it."""
    buffer = io.StringIO()
    # The salt keeps the ids of several figures on one page apart, and the file reproducible.
    with plt.rc_context({**_STYLE, "svg.hashsalt": label}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, dpi=144)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = svg.replace(_INK, "currentColor").replace(_FAINT, "var(--line)")
    svg = svg.replace("font: 10px sans-serif", "font: 10px inherit")
    size = re.search(r'width="([\d.]+)pt" height="([\d.]+)pt"', svg)
    if size:
        svg = svg.replace(size[0], 'width="100%"', 1)
    safe = label.replace("&", "and").replace('"', "'").replace("<", "(").replace(">", ")")
    return svg.replace("<svg", f'<svg role="img" aria-label="{safe}"', 1)


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
    by_method: dict[str, list[RunRecord]], colours: dict[str, str], key: str, title: str,
    percent: bool = False,
) -> str:  # fmt: skip
    """Return learning curves: a line for each method, its band the spread over seeds."""
    with _figure(5.2, 3.1) as (figure, axes):
        lowest = []
        for method, runs in by_method.items():
            epochs, mean, spread = _band(runs, key)
            if not len(epochs):
                continue
            factor = 100 if percent else 1
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
        return _svg(figure, f"{title} over epochs, one line a method")


def differences(
    summaries: Sequence[MethodSummary], colours: dict[str, str], key: str, title: str,
    factor: float, baseline: str,
) -> str:  # fmt: skip
    """Return each method's difference to the baseline with its 95 % interval."""
    shown = [s for s in summaries if s.tests.get(key)][::-1]
    with _figure(5.2, 0.75 + 0.34 * max(len(shown), 1)) as (figure, axes):
        for row, summary in enumerate(shown):
            test = summary.tests[key]
            assert test is not None
            axes.errorbar(
                factor * test.difference, row, xerr=factor * test.half_width, fmt="o",
                color=colours[summary.method], capsize=3, markersize=5, linewidth=1.6,
            )  # fmt: skip
        axes.axvline(0, color=_INK, linewidth=0.8)
        axes.set_yticks(range(len(shown)), [summary.method for summary in shown])
        axes.set_ylim(-0.6, len(shown) - 0.4)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(title)
        return _svg(figure, f"{title}, difference to {baseline} with 95 % intervals")


def reliability(run: RunRecord, colour: str) -> str | None:
    """Return a run's reliability diagram, before and after scaling, over its confidences."""
    arrays = run.predictions()
    if "test_logits" not in arrays:
        return None
    logits = torch.from_numpy(arrays["test_logits"]).double()
    labels = torch.from_numpy(arrays["test_labels"])
    with plt.rc_context(_STYLE):
        figure, (top, bottom) = plt.subplots(
            2, 1, figsize=(2.7, 3.4), sharex=True, height_ratios=(3, 1), layout="constrained"
        )
        top.plot([0, 1], [0, 1], color=_INK, linewidth=0.8, linestyle=(0, (4, 3)))
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
        svg = _svg(
            figure, f"{run.label}: accuracy against confidence, and the histogram of confidences"
        )
        plt.close(figure)
        return svg


def features(run: RunRecord, points: int = 1000) -> str | None:
    """Return the first two principal components of a run's test features, on the unit sphere."""
    arrays = run.predictions()
    if "test_features" not in arrays or arrays["test_features"].shape[1] < 2:
        return None
    values = torch.from_numpy(arrays["test_features"][:points]).double()
    labels = arrays["test_labels"][: len(values)]
    values = torch.nn.functional.normalize(values, dim=1)
    centred = values - values.mean(0)
    _, _, directions = torch.linalg.svd(centred, full_matrices=False)
    place = (centred @ directions[:2].T).numpy()
    classes = int(labels.max()) + 1
    colours = matplotlib.colormaps["tab10" if classes <= 10 else "gist_rainbow"]
    with _figure(2.7, 2.7) as (figure, axes):
        tone = labels / 10 + 0.01 if classes <= 10 else labels / max(classes - 1, 1)
        axes.scatter(
            place[:, 0], place[:, 1], c=colours(tone), s=5, alpha=0.7, linewidths=0, rasterized=True
        )
        reach = 1.05 * max(float(np.abs(place).max()), 1e-6)
        axes.set_xlim(-reach, reach)
        axes.set_ylim(-reach, reach)
        axes.set_xticklabels([])
        axes.set_yticklabels([])
        axes.tick_params(length=0)
        axes.set_aspect("equal")
        return _svg(figure, f"{run.label}: test features in two dimensions, coloured by class")


def class_colours(count: int) -> list[str]:
    """Return the colours that :func:`features` gives to classes."""
    if count <= 10:
        scale = matplotlib.colormaps["tab10"]
        return [matplotlib.colors.to_hex(scale(i / 10 + 0.01)) for i in range(count)]
    scale = matplotlib.colormaps["gist_rainbow"]
    return [matplotlib.colors.to_hex(scale(i / max(count - 1, 1))) for i in range(count)]
