"""Outliers: how confident the network is in another data set's images."""

from __future__ import annotations

import numpy as np
import torch

from mixwell.metrics.measures import get
from mixwell.report.drawing import INK, canvas, svg_of
from mixwell.report.sections.base import Block, Part, Section, arrays_of, number_of
from mixwell.studies import RunRecord

__all__ = ["SECTION"]


def _draw(part: Part) -> Block:
    auroc, passing = get("ood_auroc"), get("ood_fpr95")
    return Block(
        f"Outliers: {part.first.config.get('ood')}",
        "How confident the network is in test samples and in another data set's. " + part.seed,
        pictures=part.each(
            outliers,
            lambda m: f"AUROC {number_of(m, auroc.name, 1)}, FPR95 {number_of(m, passing.name, 1)}",
        ),
        small=True,
    )


SECTION = Section("outliers", _draw, lambda part: part.measured("ood_auroc"), files=True)


def outliers(run: RunRecord, colour: str) -> str | None:
    """Return histograms of the confidence in test samples and in outliers."""
    arrays = arrays_of(run)
    if "ood_confidence" not in arrays or "test_logits" not in arrays:
        return None
    known = torch.from_numpy(arrays["test_logits"]).double().softmax(1).amax(1).numpy()
    strange = arrays["ood_confidence"]
    with canvas(2.7, 2.2) as (figure, axes):
        edges = np.linspace(min(known.min(), strange.min()), 1, 26).tolist()
        for values, tone, name in ((known, colour, "test"), (strange, INK, "outliers")):
            weights = np.full(len(values), 100 / len(values))
            axes.hist(
                values, edges, weights=weights, color=tone, alpha=0.55 if tone == colour else 1.0,
                histtype="stepfilled" if tone == colour else "step", label=name,
            )  # fmt: skip
        axes.set_xlabel("confidence")
        axes.set_ylabel("share, %")
        axes.legend(loc="upper left", fontsize=8)
        return svg_of(figure, f"{run.label}: confidence in test samples and in outliers")
