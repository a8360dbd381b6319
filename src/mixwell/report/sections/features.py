"""Features in two dimensions."""

from __future__ import annotations

import matplotlib
import numpy as np
import torch

from mixwell.report.drawing import canvas, svg_of
from mixwell.report.sections.base import Block, Part, Section, arrays_of, number_of, told
from mixwell.studies import RunRecord

__all__ = ["SECTION"]


def _draw(part: Part) -> Block:
    fine = part.first.details.get("fine_classes")
    names = fine or list(part.first.classes)
    return Block(
        "Features in two dimensions",
        "The first two principal components of the test features, scaled to unit length: the "
        "input of the classifier head"
        + (", coloured by the classes that it was not trained on" if fine else "")
        + f". Each method has axes of its own. {part.seed}",
        classes=list(zip(names, class_colours(len(names)), strict=True))
        if len(names) <= 20
        else [],
        pictures=part.each(
            lambda run, _: features(run),
            lambda m: (
                f"{told(m, 'uniformity', 2)}, alignment "
                f"{number_of(m, 'fine_alignment' if 'fine_alignment' in m else 'alignment', 2)}"
            ),
        ),
        small=True,
    )


def _applies(part: Part) -> bool:
    return part.measured("uniformity") and not part.is_toy


SECTION = Section("features", _draw, _applies, files=True)


def features(run: RunRecord, points: int = 1000) -> str | None:
    """Return the first two principal components of a run's test features, on the unit sphere.

    Coloured by class; by fine class where the run was trained on superclasses.
    """
    arrays = arrays_of(run)
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
    with canvas(2.7, 2.7) as (figure, axes):
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
        return svg_of(figure, f"{run.label}: test features in two dimensions, coloured by class")


def class_colours(count: int) -> list[str]:
    """Return the colours that :func:`features` gives to classes."""
    if count <= 10:
        scale = matplotlib.colormaps["tab10"]
        return [matplotlib.colors.to_hex(scale(i / 10 + 0.01)) for i in range(count)]
    scale = matplotlib.colormaps["gist_rainbow"]
    return [matplotlib.colors.to_hex(scale(i / max(count - 1, 1))) for i in range(count)]
