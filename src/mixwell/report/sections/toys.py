"""Toys: decision surfaces, where samples are mixed to, and margins over training."""

from __future__ import annotations

import matplotlib
import numpy as np

from mixwell.metrics.measures import get
from mixwell.report.drawing import INK, canvas, svg_of
from mixwell.report.sections.base import Block, Part, Section, arrays_of, number_of, plain, told
from mixwell.report.sections.curves import over_epochs
from mixwell.studies import RunRecord

__all__ = ["MARGINS", "MIXED", "SURFACES"]

_SIDES = ("#0072b2", "#d55e00")


def _surfaces(part: Part) -> Block:
    return Block(
        "Decision surfaces",
        "Probability of the second class, the boundary, and the training samples. " + part.seed,
        pictures=part.each(lambda run, _: surface(run), lambda m: told(m, "accuracy", 1)),
        small=True,
    )


SURFACES = Section("surfaces", _surfaces, lambda part: part.is_toy, files=True)


def _mixed(part: Part) -> Block:
    return Block(
        "Where samples are mixed to",
        "Mixed samples over four epochs, in the colour of their label. Crosses intrude: they lie "
        "among the samples of a class that makes up less than half of their label. "
        f"{part.seed} Methods that mix features or nothing have no such picture.",
        pictures=part.each(
            lambda run, _: surface(run, mixed=True),
            lambda m: (
                f"{told(m, 'intrusion', 1)}, off the manifold {number_of(m, 'off_manifold', 1)}"
            ),
        ),
        small=True,
    )


MIXED = Section("mixed", _mixed, lambda part: part.measured("intrusion"), files=True)


def _margins(part: Part) -> Block:
    return Block(
        "Margins over training",
        "Balance: the deviation of the class pairs' margins over their mean, 0 where all are "
        "the same; and the mean itself. On validation data; the band is one standard "
        "deviation over seeds.",
        legend=True,
        pictures=plain(
            over_epochs(part, get("margin_balance"), "margin balance"),
            over_epochs(part, get("margin"), "mean margin"),
        ),
    )


MARGINS = Section("margins", _margins, lambda part: part.is_toy, files=True)


def surface(run: RunRecord, mixed: bool = False) -> str | None:
    """Return a toy's decision surface with its training samples, or with its mixed ones.

    Args:
        run: on a toy.
        mixed: show where samples were mixed to; those that intrude are marked.
    """
    arrays = arrays_of(run)
    if "surface" not in arrays or (mixed and "mixed_points" not in arrays):
        return None
    shades = matplotlib.colors.LinearSegmentedColormap.from_list("sides", [_SIDES[0], "#ffffff",
                                                                           _SIDES[1]])  # fmt: skip
    with canvas(2.9, 2.6) as (figure, axes):
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
                points[intrudes, 0], points[intrudes, 1], marker="x", s=14, c=INK,
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
        return svg_of(figure, f"{run.label}: {what} on {run.config['data']}")
