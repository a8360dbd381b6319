"""What people see of the benchmark: a table for each case, Markdown, and the figure."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, NullLocator
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from mixwell.report import drawing

__all__ = ["draw", "duration", "markdown", "table"]

Row = dict[str, Any]

TITLES = {
    "mixing": "Mixing a batch",
    "losses": "Losses, forward and backward",
    "lambda": "λ of the similarity kernel",
    "step": "A training step",
    "epoch": "An epoch of mixwell train",
    "compile": "torch.compile(fullgraph=True)",
}
FLOORS = {
    "mixing": "torch.add of two batches into a third",
    "losses": "F.cross_entropy of one class index a sample",
    "lambda": "torch.distributions.Beta",
    "step": "the same loop without mixwell",
    "epoch": "the bare model and torch's default optimiser, batches in memory",
    "compile": "the same step, eager",
}
_MIXING = (
    "'preview' draws, mixes and labels in one call, as the peers do; 'mix' applies a draw. timm's "
    "needs an even number of samples; it pairs them by flipping the batch, torchvision's pairs "
    "neighbours, the others and mixwell by chance."
)
# The figure has no ground of its own: these can be read on a light and on a dark one.
_INK, _FAINT = "#7b8490", "#7b849060"
_COLOURS = {
    "mixwell": drawing.PALETTE[0],
    "peer": drawing.PALETTE[1],
    "reference": drawing.PALETTE[7],
    "floor": drawing.PALETTE[7],
}
_STYLES = {"mixwell": "bold", "floor": "dim", "reference": "", "peer": ""}


def duration(seconds: float) -> str:
    """Return a duration with three digits and a unit.

    >>> duration(0.01234), duration(2.5e-6), duration(63.2)
    ('12.3 ms', '2.50 µs', '63.2 s')
    """
    for factor, unit in ((1, "s"), (1e3, "ms"), (1e6, "µs")):
        if seconds * factor >= 0.9995 or unit == "µs":
            value = seconds * factor
            break
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{digits}f} {unit}"


def _times(value: float) -> str:
    return (
        f"{value:.2f}×" if value < 9.995 else f"{value:.1f}×" if value < 99.95 else f"{value:.0f}×"
    )


def _trait_names(rows: Iterable[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row["traits"]))


# ------------------------------------------------------------------------------------- on terminals


def table(rows: list[Row]) -> Table:
    """Return the table of one case, at most 100 columns wide."""
    section = rows[0]["section"]
    reasons = [
        f"{row['name']}: {row['absent']}"
        for row in rows
        if ": " in row["absent"] or _short(row["absent"]) == "failed"
    ]
    caption = f"×: beside {FLOORS[section]}; in parentheses quartiles; bold: mixwell"
    shown = Table(
        title=f"{TITLES[section]}: {rows[0]['case']}",
        caption=Text("\n".join([caption, *reasons])),
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    traits = _trait_names(rows)
    shown.add_column("contender", overflow="fold")
    shown.add_column("median", justify="right", no_wrap=True)
    shown.add_column("× floor", justify="right", no_wrap=True)
    for name in traits:
        shown.add_column(name, overflow="fold")
    for row in rows:
        if row["seconds"] is None:
            cells: list[Any] = ["–", Text(_short(row["absent"]), style="dim")]
        else:
            cells = [duration(row["seconds"]["median"]), _ratio(row)]
        cells += [row["traits"].get(name, "") for name in traits]
        shown.add_row(Text(row["name"]), *cells, style=_STYLES[row["kind"]])
    return shown


def _short(absent: str) -> str:
    """Return what of a reason fits a column."""
    text = absent.partition(":")[0].partition(" (")[0]
    return text if len(text) <= 26 else "failed"


def _ratio(row: Row) -> str:
    if row["ratio"] is None:
        return "–"
    low, high = row["ratio"]["lower_quartile"], row["ratio"]["upper_quartile"]
    return f"{_times(row['ratio']['median'])} ({_times(low)[:-1]}–{_times(high)[:-1]})"


# --------------------------------------------------------------------------------------- Markdown


def _groups(document: dict[str, Any]) -> dict[tuple[str, str], list[Row]]:
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in document["rows"]:
        groups.setdefault((row["section"], row["group"]), []).append(row)
    return groups


def _many(count: int, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def headline(document: dict[str, Any]) -> str:
    """Return the machine and the versions, in a line."""
    machine, packages = document["machine"], document["packages"]
    where = f"{machine['cpu']}, {_many(machine['cores'], 'core')}, "
    where += _many(machine["threads"], "thread")
    if machine["gpu"]:
        where = f"{machine['gpu']} ({where})"
    return f"{where}; torch {packages['torch']}; {machine['date']}"


def markdown(document: dict[str, Any]) -> str:
    """Return the results as Markdown: a table for each section, its cases side by side."""
    options, packages = document["options"], document["packages"]
    there = [f"{name} {version}" for name, version in packages.items() if version]
    lacking = [name for name, version in packages.items() if not version]
    lines = [
        "# Speed", "",
        f"{headline(document)}. Medians of {options['repeats']} interleaved samples "
        f"({options['step_repeats']} of training steps); in parentheses how many times longer than "
        "the floor, the median of the ratios within each repeat. Bold: mixwell.", "",
        f"With {', '.join(there)}."
        + (f" Not installed, and so not measured: {', '.join(lacking)}." if lacking else ""),
    ]  # fmt: skip
    for (section, group), rows in _groups(document).items():
        title = TITLES[section] + ("" if group == "main" else f", by {group}")
        lines += ["", f"## {title}", "", f"Floor: {FLOORS[section]}.", "", *_matrix(rows)]
        absent = {row["name"]: row["absent"] for row in rows if row["absent"]}
        notes = [f"{name}: {why}" for name, why in absent.items()]
        if notes:
            lines += ["", "Not measured: " + "; ".join(notes) + "."]
        if section == "mixing" and group == "main":
            lines += ["", _MIXING]
    return "\n".join(lines) + "\n"


def _matrix(rows: list[Row]) -> list[str]:
    """Return contenders down and cases across; traits are those of the last case."""
    cases = list(dict.fromkeys(row["case"] for row in rows))
    traits = _trait_names(rows)
    found = {(row["name"], row["case"]): row for row in rows}
    lines = [
        "| " + " | ".join(["contender", *cases, *traits]) + " |",
        "|---|" + "---:|" * len(cases) + "---|" * len(traits),
    ]
    # In the order of the case that has the most of them.
    fullest = max(cases, key=lambda case: sum(row["case"] == case for row in rows))
    ordered = sorted(rows, key=lambda row: row["case"] != fullest)
    for name in dict.fromkeys(row["name"] for row in ordered):
        cells, last = [], None
        for case in cases:
            row = found.get((name, case))
            last = row or last
            if row is None or row["seconds"] is None:
                why = "" if row is None else row["absent"]
                cells.append("not installed" if why.startswith("not installed") else "–")
            elif row["kind"] == "floor" or row["ratio"] is None:
                cells.append(duration(row["seconds"]["median"]))
            else:
                time, ratio = row["seconds"]["median"], row["ratio"]["median"]
                cells.append(f"{duration(time)} ({_times(ratio)})")
        assert last is not None
        label = f"**{name}**" if last["kind"] == "mixwell" else name
        cells += [last["traits"].get(trait, "") for trait in traits]
        lines.append("| " + " | ".join([label, *cells]) + " |")
    return lines


# ----------------------------------------------------------------------------------------- figure


def draw(document: dict[str, Any]) -> dict[str, bytes]:
    """Return the figure, as "svg" and "png": a panel for each case, bars of × floor."""
    panels: list[list[Row]] = []
    for (_, group), rows in _groups(document).items():
        if group != "main":
            continue
        for case in dict.fromkeys(row["case"] for row in rows):
            bars = [
                row for row in rows
                if row["case"] == case and row["ratio"] is not None and row["kind"] != "floor"
            ]  # fmt: skip
            if bars:
                panels.append(bars)
    style = {
        **drawing.STYLE,
        **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), _INK),
        **dict.fromkeys(("axes.edgecolor", "grid.color"), _FAINT),
        "svg.hashsalt": "mixwell-speed",
    }
    columns = min(2, max(1, len(panels)))
    count = -(-max(1, len(panels)) // columns)
    most = [
        max((len(bars) for bars in panels[i * columns : (i + 1) * columns]), default=1)
        for i in range(count)
    ]
    heights = [0.9 + 0.24 * bars for bars in most]
    with rc_context(style):
        figure = drawing.sheet(5.6 * columns, sum(heights) + 0.9)
        places = figure.subplots(count, columns, squeeze=False, height_ratios=heights)
        for axes in places.flat:
            axes.set_visible(False)
        for axes, bars, tallest in zip(
            places.flat, panels, [most[i // columns] for i in range(len(panels))], strict=False
        ):
            axes.set_visible(True)
            _panel(axes, bars, tallest)
        kinds = {"mixwell": "mixwell", "peer": "other libraries", "reference": "plain PyTorch"}
        handles = [Patch(color=_COLOURS[kind]) for kind in kinds]
        figure.legend(handles, list(kinds.values()), loc="outside upper center", ncols=3)
        figure.supxlabel(headline(document), fontsize=8)
        pictures = {}
        for kind in ("svg", "png"):
            buffer = io.BytesIO()
            metadata = {"Date": None} if kind == "svg" else None
            figure.savefig(buffer, format=kind, dpi=144, transparent=True, metadata=metadata)
            pictures[kind] = buffer.getvalue()
    return pictures


def _panel(axes: Axes, bars: list[Row], tallest: int) -> None:
    """Draw one case; ``tallest`` is how many bars the row of panels leaves room for."""
    section = bars[0]["section"]
    values = [row["ratio"]["median"] for row in bars]
    low = [row["ratio"]["median"] - row["ratio"]["lower_quartile"] for row in bars]
    high = [row["ratio"]["upper_quartile"] - row["ratio"]["median"] for row in bars]
    place = range(len(bars))
    # From 1, the floor, outward: on a logarithmic scale a bar has no other beginning.
    axes.barh(
        place, [value - 1 for value in values], left=1, height=0.72,
        color=[_COLOURS[row["kind"]] for row in bars],
    )  # fmt: skip
    axes.errorbar(
        values, place, xerr=[low, high], fmt="none", ecolor=_INK, elinewidth=0.8, capsize=1.5
    )
    axes.set_xscale("log")
    left = min(1.0, *(v - d for v, d in zip(values, low, strict=True)))
    right = max(1.0, *(v + d for v, d in zip(values, high, strict=True)))
    reach = max(right / left, 2.0)
    # Room for the numbers at the bars' ends.
    axes.set_xlim(left / reach**0.04 if left == 1 else left / reach**0.2, right * reach**0.22)
    for spot, row in zip(place, bars, strict=True):
        value = row["ratio"]["median"]
        end = row["ratio"]["upper_quartile"] if value >= 1 else row["ratio"]["lower_quartile"]
        side = 1 if value >= 1 else -1
        axes.annotate(
            _times(value), (end, spot), (4 * side, 0), textcoords="offset points", va="center",
            ha="left" if side > 0 else "right", fontsize=8,
        )  # fmt: skip
    axes.axvline(1, color=_INK, linewidth=0.9)
    axes.set_yticks(list(place), [row["name"] for row in bars], fontsize=8)
    axes.set_ylim(tallest - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_locator(FixedLocator(_ticks(*axes.get_xlim())))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_title(f"{TITLES[section]}: {bars[0]['case']}", fontsize=10, loc="left")
    axes.set_xlabel(f"times {FLOORS[section]}", fontsize=8)


def _ticks(left: float, right: float) -> list[float]:
    """Return round numbers, few enough to be read, on a logarithmic axis."""
    decades = range(-4, 7)
    for digits in (
        (1, 1.1, 1.2, 1.3, 1.5, 1.7, 2, 3, 4, 5, 6, 7, 8, 9),
        (1, 2, 3, 5, 7),
        (1, 2, 5),
    ):
        found = [digit * 10.0**decade for decade in decades for digit in digits]
        found = [round(tick, 6) for tick in found if left <= tick <= right]
        if len(found) <= 9:
            return found
    return [tick for tick in found if f"{tick:.0e}"[0] == "1"]
