"""By class: the accuracy of each, and which are taken for which."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import matplotlib
import numpy as np

from mixwell.errors import InputError
from mixwell.report.drawing import Point, canvas, mark, svg_of
from mixwell.report.sections.base import Block, Part, Section, Table, arrays_of, plain
from mixwell.studies import RunRecord

__all__ = ["ACCURACY", "CONFUSION", "confusion"]

_SHOWN = 30  # classes whose accuracy is drawn
_MATRIX = 20  # classes at most whose confusions fit into a picture
_PAIRS = 15  # confusions in the table, where they don't


def _accuracy(part: Part) -> Block:
    names, chosen = part.first.classes, _chosen(part)
    of_all = (
        "" if len(chosen) == len(names)
        else f" Of {len(names)} classes those {len(chosen)} in which methods differ most."
    )  # fmt: skip
    return Block(
        "Accuracy by class",
        f"Means over seeds, from the hardest class for {part.base} to the easiest.{of_all} A class "
        "of few test samples moves by much from seed to seed.",
        legend=True,
        pictures=plain(class_accuracies(part, chosen)),
    )


def _by_class(part: Part) -> dict[str, np.ndarray]:
    """Return each method's accuracies (seeds, classes), in per cent."""
    found = {}
    for method, runs in part.by_method.items():
        rows = [run.details["class_accuracy"] for run in runs if "class_accuracy" in run.details]
        if rows:
            found[method] = 100 * np.array(rows, dtype=float)
    return found


def _chosen(part: Part) -> list[int]:
    """Return the classes that are shown, from the hardest on."""
    means = {method: np.nanmean(rows, 0) for method, rows in _by_class(part).items()}
    base = means.get(part.base, next(iter(means.values())))
    gaps = np.ptp(np.array(list(means.values())), axis=0)
    shown = np.argsort(-gaps, kind="stable")[:_SHOWN]
    return sorted(shown.tolist(), key=lambda c: (base[c], c))


def _has_classes(part: Part) -> bool:
    there = any("class_accuracy" in run.details for run in part.records)
    return there and len(part.first.classes) > 1


ACCURACY = Section("classes", _accuracy, _has_classes, files=True)


def class_accuracies(part: Part, chosen: Sequence[int]) -> str:
    """Return the accuracy of classes: a row for each, in it a dot for each method.

    Args:
        part: of a study.
        chosen: the classes, from the top on.
    """
    names = [part.first.classes[c] for c in chosen]
    found = _by_class(part)
    points = []
    with canvas(6.4, 0.9 + 0.24 * len(chosen)) as (figure, axes):
        rows = np.arange(len(chosen))[::-1].astype(float)
        for number, (method, values) in enumerate(found.items()):
            mean, spread = np.nanmean(values, 0)[chosen], np.nanstd(values, 0)[chosen]
            # Side by side, so that dots of one value don't hide each other.
            place = rows - 0.5 * ((number + 0.5) / len(found) - 0.5)
            colour = part.colours[method]
            mark(axes.scatter(mean, place, s=16, color=colour, clip_on=False, zorder=3), method)
            points += [
                Point(axes, m, p, f"{method}, {name}: {m:.1f} ±{s:.1f} %", method)
                for m, p, s, name in zip(mean, place, spread, names, strict=True)
                if np.isfinite(m)
            ]
        axes.set_yticks(rows, names)
        axes.set_ylim(-0.6, len(chosen) - 0.4)
        axes.grid(axis="y", visible=True)
        low, _ = axes.get_xlim()
        axes.set_xlim(max(low, -1), 100)
        axes.set_xlabel("accuracy, %")
        return svg_of(figure, "accuracy of each class, a dot for each method", points)


def _confusion(part: Part) -> Block:
    count = len(part.first.classes)
    note = (
        "Which class (down) is taken for which (across): the share of a class’s test samples, in "
        "per cent, as mean over seeds. "
    )
    if count <= _MATRIX:
        note += (
            "The stronger the colour, the more; what is right, the diagonal, is not coloured so."
        )
        return Block(
            "Confusion", note, small=True,
            pictures=part.pooled(confusion),
        )  # fmt: skip
    rows = _most_confused(part)
    return Block(
        "Confusion",
        note + f"Of {count} classes the {len(rows)} pairs that {part.base} confuses most.",
        table=Table(("class taken for another", *part.by_method), rows) if rows else None,
    )


CONFUSION = Section("confusion", _confusion, _has_classes, files=True)


def _shares(runs: Sequence[RunRecord]) -> np.ndarray | None:
    """Return (C, C): of each class's samples the per cent that are taken for each, over seeds."""
    found = []
    for run in runs:
        arrays = arrays_of(run)
        if "test_logits" not in arrays:
            continue
        count = arrays["test_logits"].shape[1]
        table = np.zeros((count, count))
        np.add.at(table, (arrays["test_labels"], arrays["test_logits"].argmax(1)), 1)
        found.append(100 * table / np.maximum(table.sum(1, keepdims=True), 1))
    return np.mean(found, 0) if found else None


def _most_confused(part: Part) -> list[tuple[str, ...]]:
    shares: dict[str, np.ndarray | None] = {}
    for method, runs in part.by_method.items():
        with contextlib.suppress(InputError):  # predictions that are NaN, say
            shares[method] = _shares(runs)
    base = shares.get(part.base)
    if base is None:
        return []
    wrong = np.where(np.eye(len(base), dtype=bool), 0, base)
    names, rows = part.first.classes, []
    for place in np.argsort(-wrong, axis=None, kind="stable")[:_PAIRS]:
        a, b = np.unravel_index(place, wrong.shape)
        if not wrong[a, b]:
            break
        own = [shares.get(method) for method in part.by_method]
        told = ["–" if table is None else f"{table[a, b]:.1f}" for table in own]
        rows.append((f"{names[a]} → {names[b]}", *told))
    return rows


def confusion(runs: Sequence[RunRecord], colour: str) -> str | None:
    """Return a method's confusions: the more often, the stronger its colour."""
    shares = _shares(runs)
    if shares is None:
        return None
    # Of a run that is known from a file of results there are no classes.
    names, method = next(run.classes for run in runs if run.classes), runs[0].label
    right = np.eye(len(shares), dtype=bool)
    top = max(float(shares[~right].max()), 1e-9)
    tones = np.zeros((*shares.shape, 4))
    tones[..., :3] = matplotlib.colors.to_rgb(colour)
    tones[..., 3] = np.where(right, 0.08, np.minimum(shares / top, 1))
    many = len(names) > 12
    with canvas(3.2, 3.2) as (figure, axes):
        axes.imshow(tones, interpolation="nearest")
        size = 5.5 if many else 7
        short = [name if len(name) <= 12 else name[:11] + "…" for name in names]
        axes.set_xticks(range(len(names)), short, rotation=90, fontsize=size)
        axes.set_yticks(range(len(names)), short, fontsize=size)
        axes.grid(visible=False)
        for c in range(len(names)) if not many else ():
            axes.text(c, c, f"{shares[c, c]:.0f}", ha="center", va="center", fontsize=6)
        points = [
            Point(axes, b, a, f"{names[a]} taken for {names[b]}: {shares[a, b]:.1f} %")
            for a, b in zip(*np.nonzero(shares >= 0.05), strict=True)
        ]
        return svg_of(figure, f"{method}: which class is taken for which", points)
