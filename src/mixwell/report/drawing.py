"""How the page's figures are drawn: SVG that takes its colours from the page, dark ones too.

What belongs to a method is marked as its own (:func:`mark`), so that the page can hide it, and what
a figure shows is told by points (:class:`Point`): places with a text, which browsers show under the
pointer, with scripts or without.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import Any, NamedTuple

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

__all__ = [
    "COLUMNS",
    "FAINT",
    "INK",
    "PALETTE",
    "STYLE",
    "Point",
    "canvas",
    "keep_shares",
    "mark",
    "name_points",
    "panels",
    "sheet",
    "svg_of",
    "thinned",
    "unwarned",
]

# Wong's colours (Nature Methods 2011), apart under colour blindness, on light and dark ground;
# then some of Paul Tol's, for studies of many methods.
PALETTE = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#8a8a8a",
    "#b15928", "#1b9e77", "#aa4499", "#999933", "#882255", "#44aa99", "#332288", "#ddcc77",
)  # fmt: skip

# Stand-ins that matplotlib writes and the page's own colours replace.
_DPI = 120  # of what is kept in pixels: many points
INK, FAINT = "#010203", "#040506"
STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.parse_math": False,  # names are text: a "$" in one is a "$"
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
def unwarned() -> Iterator[None]:
    """Keep quiet of glyphs that a font lacks: in an SVG the browser has them, in a PNG a box."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .*missing from")
        warnings.filterwarnings("ignore", r"Matplotlib currently does not support \w+ natively")
        yield


def sheet(width: float, height: float) -> Figure:
    """Return an empty figure of this size in inches, which no window shows, wherever this runs.

    It is none of pyplot's: whatever shows a notebook's own figures goes on to.
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


@contextmanager
def canvas(width: float, height: float) -> Iterator[tuple[Figure, Axes]]:
    """Give a figure of this size in inches with one pair of axes, in the page's style."""
    with panels(width, height, 1) as (figure, (axes,)):
        yield figure, axes


COLUMNS = 4
"""Pairs of axes in a row of :func:`panels`."""


@contextmanager
def panels(width: float, height: float, count: int) -> Iterator[tuple[Figure, list[Axes]]]:
    """Give a figure with several pairs of axes in rows, each row of this height in inches."""
    rows, columns = -(-count // COLUMNS), min(count, COLUMNS)
    with rc_context(STYLE), unwarned():
        figure = sheet(width, rows * height)
        yield figure, [figure.add_subplot(rows, columns, 1 + i) for i in range(count)]


@dataclass(frozen=True)
class Point:
    """A place in a figure that tells something.

    Attributes:
        axes: in which it is.
        x: in the axes' data.
        y: likewise.
        text: what it tells.
        method: whose it is; empty where it is no method's.
    """

    axes: Axes
    x: float
    y: float
    text: str
    method: str = ""


def mark(artists: Any, method: str) -> None:
    """Mark what was drawn as a method's own: one artist, or any nesting of containers of them."""
    if hasattr(artists, "set_gid"):
        artists.set_gid(f"method:{method}")
    elif artists is not None:
        children = artists.get_children() if hasattr(artists, "get_children") else artists
        for artist in children:
            mark(artist, method)


def thinned(count: int, most: int = 24) -> list[int]:
    """Return the places, of so many in a row, that points tell of: the first, the last, between."""
    if count <= most:
        return list(range(count))
    return sorted({round(i * (count - 1) / (most - 1)) for i in range(most)})


def keep_shares(axes: Axes, lowest: float = 0.0, highest: float = 100.0) -> None:
    """Limit a vertical axis to what a share can be: no tick beyond, half a marker's room."""
    low, high = axes.get_ylim()
    low, high = max(low, lowest), min(high, highest)
    room = 0.02 * (high - low)
    ticks = [tick for tick in axes.get_yticks() if low <= tick <= high]
    axes.set_yticks(ticks)
    axes.set_ylim(
        low - room if low == lowest else low, high + room if high == highest else high
    )  # fmt: skip


_NAME_SIZE = 8
_PLACES = (
    (1, 0, "left", "center"), (-1, 0, "right", "center"), (0, 1, "center", "bottom"),
    (0, -1, "center", "top"), (1, 1, "left", "bottom"), (1, -1, "left", "top"),
    (-1, 1, "right", "bottom"), (-1, -1, "right", "top"),
)  # fmt: skip


def name_points(
    figure: Figure, points: Sequence[Point], colours: Sequence[str], taken: Sequence[Any] = ()
) -> None:
    """Write each point's method beside it, where it covers no point, line or other name.

    Args:
        figure: whose limits are settled.
        points: in axes of the figure.
        colours: of the texts.
        taken: ((x, y), (x, y)) ends of the lines, along the axes, that no text should cover.
    """
    figure.draw_without_rendering()
    covered = []
    for point in points:
        x, y = point.axes.transData.transform((point.x, point.y))
        covered.append(Bbox.from_extents(x - 5, y - 5, x + 5, y + 5))
        covered += [_around(*point.axes.transData.transform(ends)) for ends in taken]
    places = [_places(figure, point) for point in points]
    # Each in turn takes its best place beside those of the others, until none would move.
    chosen: list[_Place | None] = [None] * len(points)
    for _ in range(10):
        before = list(chosen)
        for i, point in enumerate(points):
            others = [place.box for j, place in enumerate(chosen) if place and j != i]
            frame = point.axes.get_window_extent()
            chosen[i] = min(places[i], key=lambda place: _harm(place, [*covered, *others], frame))
        if chosen == before:
            break
    for point, colour, place in zip(points, colours, chosen, strict=True):
        assert place is not None
        line = {"arrowstyle": "-", "color": colour, "linewidth": 0.6, "alpha": 0.6, "shrinkB": 4}
        text = point.axes.annotate(
            point.method, (point.x, point.y), place.offset, ha=place.across, va=place.along,
            textcoords="offset pixels", fontsize=_NAME_SIZE, color=colour, annotation_clip=False,
            arrowprops=line if max(map(abs, place.offset)) > 16 else None,
        )  # fmt: skip
        mark([text, text.arrow_patch], point.method)


class _Place(NamedTuple):
    offset: tuple[int, int]  # from the point, in pixels
    across: Any
    along: Any
    box: Bbox


def _places(figure: Figure, point: Point) -> list[_Place]:
    """Return where a point's name may stand, near places first."""
    text = figure.text(0, 0, point.method, fontsize=_NAME_SIZE)
    size = text.get_window_extent()
    text.remove()
    width, height = 1.08 * size.width, size.height  # a browser's letters may be wider
    x, y = point.axes.transData.transform((point.x, point.y))
    places = []
    for away in (7, 16, 28, 44, 64):
        for right, up, across, along in _PLACES:
            left = x + away * right - width * {"left": 0, "center": 0.5, "right": 1}[across]
            low = y + away * up - height * {"bottom": 0, "center": 0.5, "top": 1}[along]
            box = Bbox.from_extents(left - 3, low - 1, left + width + 3, low + height + 1)
            places.append(_Place((away * right, away * up), across, along, box))
    return places


def _harm(place: _Place, covered: Sequence[Bbox], frame: Bbox) -> float:
    """Return how bad a place is: what it hides, what of it is outside, how far away it is."""
    box = place.box
    outside = box.width * box.height - _overlap(box, frame)
    away = abs(place.offset[0]) + abs(place.offset[1])
    return sum(_overlap(box, other) for other in covered) + 3 * outside + 0.3 * away


def _around(start: Any, end: Any) -> Bbox:
    low, high = (choose(start[0], end[0]) for choose in (min, max))
    below, above = (choose(start[1], end[1]) for choose in (min, max))
    return Bbox.from_extents(low - 1.5, below - 1.5, high + 1.5, above + 1.5)


def _overlap(one: Bbox, other: Bbox) -> float:
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return max(width, 0.0) * max(height, 0.0)


def svg_of(figure: Figure, label: str, points: Iterable[Point] = ()) -> str:
    """Return the figure as an inline SVG.

    Args:
        figure: that is drawn.
        label: a text for those who can't see it.
        points: what it tells where.
    """
    buffer = io.StringIO()
    # The salt keeps the ids of several figures on one page apart, and the file reproducible.
    with rc_context({**STYLE, "svg.hashsalt": label}):
        engine = figure.get_layout_engine()
        if engine is not None:  # which savefig would draw the whole figure for, and once more
            engine.execute(figure)
            figure.set_layout_engine(None)
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, dpi=_DPI)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.S)
    svg = re.sub(r"\s*\n\s*", " ", svg).replace("> <", "><")
    svg = svg.replace(INK, "currentColor").replace(FAINT, "var(--line)")
    svg = svg.replace("font: 10px sans-serif", "font: 10px inherit")
    svg = svg.replace('<g id="method:', '<g data-method="')
    # A hundredth of a point is more than any screen shows.
    svg = re.sub(r' (?:d|x|y)="[^"]*"', _rounded, svg)
    size = re.search(r'width="([\d.]+)pt" height="([\d.]+)pt"', svg)
    if size:
        svg = svg.replace(size[0], 'width="100%"', 1)
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1)
    return svg.replace("</svg>", f"{_told(figure, points)}</svg>")


def _rounded(found: re.Match[str]) -> str:
    return re.sub(r"(\.\d\d)\d+", r"\1", found[0])


def _told(figure: Figure, points: Iterable[Point]) -> str:
    """Return the points as circles that are not seen, in groups by method, each with its text."""
    groups: dict[str, list[str]] = {}
    width, height = figure.bbox.width, figure.bbox.height
    across, along = 72 * figure.get_size_inches()
    for point in points:
        x, y = point.axes.transData.transform((point.x, point.y))
        place = f'cx="{across * x / width:.1f}" cy="{along * (1 - y / height):.1f}"'
        circle = f'<circle {place} r="6"><title>{escape(point.text)}</title></circle>'
        groups.setdefault(point.method, []).append(circle)
    return "".join(
        f'<g class="told"{f" data-method={chr(34)}{escape(method)}{chr(34)}" if method else ""}>'
        f"{''.join(circles)}</g>"
        for method, circles in groups.items()
    )
