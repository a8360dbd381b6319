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

__all__ = [
    "PALETTE",
    "class_accuracies",
    "class_colours",
    "cost",
    "curves",
    "differences",
    "features",
    "outliers",
    "over_values",
    "reliability",
    "shifted",
    "shots",
    "surface",
    "uncertainty",
]

# Wong's colours (Nature Methods 2011), apart under colour blindness, on light and dark ground;
# then some of Paul Tol's, for studies of many methods.
PALETTE = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#8a8a8a",
    "#b15928", "#1b9e77", "#aa4499", "#999933", "#882255", "#44aa99", "#332288", "#ddcc77",
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
    """Return the first two principal components of a run's test features, on the unit sphere.

    Coloured by class; by fine class where the run was trained on superclasses.
    """
    arrays = run.predictions()
    if "test_features" not in arrays or arrays["test_features"].shape[1] < 2:
        return None
    values = torch.from_numpy(arrays["test_features"][:points]).double()
    labels = arrays.get("test_fine", arrays["test_labels"])[: len(values)]
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


def over_values(
    by_value: dict[Any, Sequence[MethodSummary]], colours: dict[str, str], key: str, title: str,
    axis: str, factor: float,
) -> str | None:  # fmt: skip
    """Return a measure over what varies: a line for each method, its bars 95 % intervals.

    Args:
        by_value: the summaries of each value, in order.
        colours: of the methods.
        key: the measure.
        title: of it.
        axis: what varies.
        factor: that the measure is multiplied by.
    """
    values = list(by_value)
    numeric = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)
    if numeric:
        values = sorted(values)
    place = np.array(values if numeric else range(len(values)), dtype=float)
    with _figure(5.2, 3.1) as (figure, axes):
        count = len(colours)
        drawn = False
        for number, (method, colour) in enumerate(colours.items()):
            found = [
                next((s.metrics.get(key) for s in by_value[v] if s.method == method), None)
                for v in values
            ]
            there = [i for i, interval in enumerate(found) if interval is not None]
            if not there:
                continue
            drawn = True
            means = [factor * found[i].mean for i in there]  # type: ignore[union-attr]
            reach = [factor * (found[i].half_width or 0) for i in there]  # type: ignore[union-attr]
            # Side by side, so that bars of one value don't hide each other.
            aside = (number - (count - 1) / 2) * (0.012 if numeric else 0.07)
            x = place[there] * (10**aside) if numeric else place[there] + aside
            axes.errorbar(
                x, means, yerr=reach, color=colour, marker="o", markersize=4, capsize=2,
                linewidth=1.5 if numeric else 0, elinewidth=1.0,
            )  # fmt: skip
        if not drawn:
            return None
        if factor == 100:  # a share: an interval may leave 0 to 100, the picture need not
            low, high = axes.get_ylim()
            axes.set_ylim(max(low, 0), min(high, 100.5))
        if numeric:
            axes.set_xscale("log")
        axes.set_xticks(place, [f"{v:g}" if numeric else str(v) for v in values])
        axes.set_xticks([], minor=True)
        axes.set_xlabel(axis)
        axes.set_ylabel(title)
        return _svg(figure, f"{title} over {axis}, one line a method")


def cost(
    summaries: Sequence[MethodSummary], colours: dict[str, str], key: str, title: str,
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
    with _figure(5.2, 3.4) as (figure, axes):
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
        return _svg(figure, f"{title} over the time of a training step, one point a method")


def shots(summaries: Sequence[MethodSummary], colours: dict[str, str]) -> str | None:
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
    with _figure(5.2, 3.1) as (figure, axes):
        width = 0.8 / len(summaries)
        for number, summary in enumerate(summaries):
            for place, (key, _) in enumerate(groups):
                found = summary.metrics.get(key)
                if found is None:
                    continue
                axes.bar(
                    place - 0.4 + (number + 0.5) * width, 100 * found.mean, 0.9 * width,
                    yerr=100 * (found.half_width or 0), color=colours[summary.method],
                    error_kw={"ecolor": _INK, "elinewidth": 0.8, "capsize": 1.5},
                )  # fmt: skip
        axes.set_xticks(range(len(groups)), [name for _, name in groups])
        axes.set_ylim(0, 100)
        axes.set_ylabel("accuracy, %")
        axes.grid(axis="x", visible=False)
        return _svg(figure, "accuracy of classes with many, medium and few training samples")


def class_accuracies(by_method: dict[str, list[RunRecord]], colours: dict[str, str]) -> str | None:
    """Return the accuracy of each class, from the most to the least frequent, over seeds."""
    with _figure(5.2, 3.1) as (figure, axes):
        names: list[str] = []
        for method, runs in by_method.items():
            found = [run for run in runs if "class_accuracy" in run.details]
            if not found:
                continue
            counts = np.array(found[0].details["class_counts"])
            order = np.argsort(-counts, kind="stable")
            values = np.array([run.details["class_accuracy"] for run in found])[:, order] * 100
            place = np.arange(len(order))
            axes.plot(
                place, np.nanmean(values, 0), color=colours[method], marker="o", markersize=3,
                linewidth=1.4,
            )  # fmt: skip
            names = [f"{found[0].classes[i]}\n{counts[i]}" for i in order]
        if not names or len(names) > 40:
            return None
        axes.set_xticks(range(len(names)), names, fontsize=7, rotation=30, ha="right")
        axes.set_ylabel("accuracy, %")
        axes.set_ylim(0, 103)
        return _svg(figure, "accuracy of each class, by its number of training samples")


def outliers(run: RunRecord, colour: str) -> str | None:
    """Return histograms of the confidence in test samples and in outliers."""
    arrays = run.predictions()
    if "ood_confidence" not in arrays or "test_logits" not in arrays:
        return None
    known = torch.from_numpy(arrays["test_logits"]).double().softmax(1).amax(1).numpy()
    strange = arrays["ood_confidence"]
    with _figure(2.7, 2.2) as (figure, axes):
        edges = np.linspace(min(known.min(), strange.min()), 1, 26).tolist()
        for values, tone, name in ((known, colour, "test"), (strange, _INK, "outliers")):
            weights = np.full(len(values), 100 / len(values))
            axes.hist(
                values, edges, weights=weights, color=tone, alpha=0.55 if tone == colour else 1.0,
                histtype="stepfilled" if tone == colour else "step", label=name,
            )  # fmt: skip
        axes.set_xlabel("confidence")
        axes.set_ylabel("share, %")
        axes.legend(loc="upper left", fontsize=8)
        return _svg(figure, f"{run.label}: confidence in test samples and in outliers")


def shifted(
    by_method: dict[str, list[RunRecord]], colours: dict[str, str], measure: str, title: str,
    corruption: str | None = None,
) -> str | None:  # fmt: skip
    """Return a measure over the severity of corruptions, their mean or one of them."""
    with _figure(5.2 if corruption is None else 2.7, 3.1 if corruption is None else 2.2) as (
        figure, axes,
    ):  # fmt: skip
        drawn = False
        for method, runs in by_method.items():
            rows = []
            for run in runs:
                table = run.details.get("shift")
                if not table:
                    continue
                chosen = [corruption] if corruption else list(table)
                clean = run.metrics[measure]
                values = np.mean([[row[measure] for row in table[c]] for c in chosen], 0)
                rows.append([clean, *values])
            if rows:
                drawn = True
                mean, spread = 100 * np.mean(rows, 0), 100 * np.std(rows, 0)
                place = np.arange(len(mean))
                axes.plot(place, mean, color=colours[method], marker="o", markersize=3, lw=1.4)
                axes.fill_between(
                    place, mean - spread, mean + spread, color=colours[method], alpha=0.15, lw=0
                )
        if not drawn:
            return None
        axes.set_xlabel("severity (0: as it is)")
        axes.set_ylabel(title)
        name = corruption or "all corruptions"
        return _svg(figure, f"{title} over severity, {name}")


def uncertainty(run: RunRecord, colour: str) -> str | None:
    """Return a regression's calibration: error against predicted deviation, and after scaling."""
    arrays = run.predictions()
    if "test_std" not in arrays:
        return None
    mean, std, targets = (
        torch.from_numpy(arrays[name]).double()
        for name in ("test_mean", "test_std", "test_targets")
    )
    scale = run.metrics.get("variance_scale", 1.0)
    with _figure(2.7, 2.7) as (figure, axes):
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
        axes.plot([0, top], [0, top], color=_INK, linewidth=0.8, linestyle=(0, (4, 3)))
        axes.set_xlim(0, top)
        axes.set_ylim(0, top)
        axes.set_xlabel("predicted deviation")
        axes.set_ylabel("RMSE")
        axes.legend(loc="lower right", fontsize=8)
        return _svg(figure, f"{run.label}: root mean squared error against predicted deviation")


_SIDES = ("#0072b2", "#d55e00")


def surface(run: RunRecord, mixed: bool = False) -> str | None:
    """Return a toy's decision surface with its training samples, or with its mixed ones.

    Args:
        run: on a toy.
        mixed: show where samples were mixed to; those that intrude are marked.
    """
    arrays = run.predictions()
    if "surface" not in arrays or (mixed and "mixed_points" not in arrays):
        return None
    shades = matplotlib.colors.LinearSegmentedColormap.from_list("sides", [_SIDES[0], "#ffffff",
                                                                           _SIDES[1]])  # fmt: skip
    with _figure(2.9, 2.6) as (figure, axes):
        if not mixed:  # there the background would hide the labels
            axes.pcolormesh(
                arrays["surface_x"], arrays["surface_y"], arrays["surface"].T, cmap=shades, vmin=0,
                vmax=1, alpha=0.35, shading="gouraud", rasterized=True,
            )  # fmt: skip
        axes.contour(
            arrays["surface_x"], arrays["surface_y"], arrays["surface"].T, levels=[0.5],
            colors="#777777" if mixed else "#222222", linewidths=1.0,
        )  # fmt: skip
        if mixed:
            points, intrudes = arrays["mixed_points"], arrays["mixed_intrudes"]
            weight = arrays["mixed_weight"]
            rng = np.random.default_rng(0)
            chosen = rng.permutation(len(points))[:700]
            points, intrudes, weight = points[chosen], intrudes[chosen], weight[chosen]
            axes.scatter(
                points[:, 0], points[:, 1], c=shades(weight), s=7, linewidths=0.2,
                edgecolors="#777777", rasterized=True,
            )  # fmt: skip
            axes.scatter(
                points[intrudes, 0], points[intrudes, 1], marker="x", s=14, c=_INK,
                linewidths=0.8,
            )  # fmt: skip
        else:
            points, labels = arrays["train_points"], arrays["train_labels"]
            tones = np.array(_SIDES)[labels]
            axes.scatter(
                points[:, 0], points[:, 1], c=tones, s=8, linewidths=0.3, edgecolors="#ffffff",
                rasterized=True,
            )  # fmt: skip
        axes.set_xticks([])
        axes.set_yticks([])
        axes.grid(visible=False)
        axes.set_aspect("equal")
        what = "mixed samples" if mixed else "decision surface"
        return _svg(figure, f"{run.label}: {what} on {run.config['data']}")


def class_colours(count: int) -> list[str]:
    """Return the colours that :func:`features` gives to classes."""
    if count <= 10:
        scale = matplotlib.colormaps["tab10"]
        return [matplotlib.colors.to_hex(scale(i / 10 + 0.01)) for i in range(count)]
    scale = matplotlib.colormaps["gist_rainbow"]
    return [matplotlib.colors.to_hex(scale(i / max(count - 1, 1))) for i in range(count)]
