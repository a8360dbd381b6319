"""People's doubt: the network's entropy where people are certain, and where they are not."""

from __future__ import annotations

import numpy as np
import torch

from mixwell.report.drawing import INK, canvas, svg_of
from mixwell.report.sections.base import Block, Part, Section, arrays_of, told
from mixwell.studies import RunRecord

__all__ = ["SECTION"]

_BINS = 8
_LEAST = 5  # samples of a bin: the mean of fewer says little


def _draw(part: Part) -> Block:
    return Block(
        "People's doubt",
        "The network's mean entropy over that of people's answers to the same test samples, in "
        "nats, as trained and after temperature scaling. On the dashed line it is as much in doubt "
        "as they are; above it, more. " + part.seed,
        pictures=part.each(
            doubt, lambda m: f"{told(m, 'people_kl', 3)}, {told(m, 'people_entropy_rho', 2)}"
        ),
        small=True,
    )


SECTION = Section("people", _draw, lambda part: part.measured("people_kl"), files=True)


def doubt(run: RunRecord, colour: str) -> str | None:
    """Return a run's mean entropy over people's, before and after temperature scaling."""
    arrays = arrays_of(run)
    if "people_counts" not in arrays or "test_logits" not in arrays:
        return None
    counts = torch.from_numpy(arrays["people_counts"]).double()
    wanted = torch.special.entr(counts / counts.sum(1, keepdim=True).clamp_min(1)).sum(1).numpy()
    logits = torch.from_numpy(arrays["test_logits"]).double()
    top = float(wanted.max()) or 1.0
    place = np.minimum((_BINS * wanted / top).astype(int), _BINS - 1)
    bins = [b for b in range(_BINS) if (place == b).sum() >= _LEAST]
    x = [wanted[place == b].mean() for b in bins]
    with canvas(2.7, 2.4) as (figure, axes):
        axes.plot([0, top], [0, top], color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
        temperature = run.metrics.get("temperature", 1.0)
        for scale, line, name in ((1.0, "-", "as trained"), (temperature, ":", "after T")):
            own = torch.special.entr((logits / scale).softmax(1)).sum(1).numpy()
            y = [own[place == b].mean() for b in bins]
            axes.plot(
                x, y, color=colour, linestyle=line, marker="o", markersize=3, linewidth=1.3,
                label=name,
            )  # fmt: skip
        axes.set_xlabel("people's entropy")
        axes.set_ylabel("entropy")
        axes.legend(loc="upper left", fontsize=8, handlelength=1.6)
        return svg_of(figure, f"{run.label}: the network's entropy over people's")
