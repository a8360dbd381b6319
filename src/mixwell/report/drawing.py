"""How the page's figures are drawn: SVG that takes its colours from the page, dark ones too."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib

matplotlib.use("Agg")  # never a window, wherever this runs

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ["FAINT", "INK", "PALETTE", "STYLE", "canvas", "svg_of"]

# Wong's colours (Nature Methods 2011), apart under colour blindness, on light and dark ground;
# then some of Paul Tol's, for studies of many methods.
PALETTE = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#8a8a8a",
    "#b15928", "#1b9e77", "#aa4499", "#999933", "#882255", "#44aa99", "#332288", "#ddcc77",
)  # fmt: skip

# Stand-ins that matplotlib writes and the page's own colours replace.
INK, FAINT = "#010203", "#040506"
STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.5,
    "grid.alpha": 0.6,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


@contextmanager
def canvas(width: float, height: float) -> Iterator[tuple[Figure, Axes]]:
    """Give a figure of this size in inches with one pair of axes, in the page's style."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(width, height), layout="constrained")
        try:
            yield figure, axes
        finally:
            plt.close(figure)


def svg_of(figure: Figure, label: str) -> str:
    """Return the figure as an inline SVG with a text for those who can't see it."""
    buffer = io.StringIO()
    # The salt keeps the ids of several figures on one page apart, and the file reproducible.
    with plt.rc_context({**STYLE, "svg.hashsalt": label}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, dpi=144)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = svg.replace(INK, "currentColor").replace(FAINT, "var(--line)")
    svg = svg.replace("font: 10px sans-serif", "font: 10px inherit")
    size = re.search(r'width="([\d.]+)pt" height="([\d.]+)pt"', svg)
    if size:
        svg = svg.replace(size[0], 'width="100%"', 1)
    safe = label.replace("&", "and").replace('"', "'").replace("<", "(").replace(">", ")")
    return svg.replace("<svg", f'<svg role="img" aria-label="{safe}"', 1)
