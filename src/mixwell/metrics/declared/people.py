"""How near classifiers come to people's doubt."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor

from mixwell.metrics import people
from mixwell.metrics.declared.computing import with_scaled
from mixwell.metrics.evidence import Evidence
from mixwell.metrics.measure import Found, Measure

__all__ = ["MEASURES"]


def _of_people(compute: Callable[[Tensor, Tensor], Tensor], evidence: Evidence) -> Found:
    counts = evidence.people
    return None if counts is None else compute(evidence.outputs.double(), counts)


MEASURES = (
    *with_scaled(
        Measure("people_ce", "people's CE", "cross-entropy to people's distribution",
                partial(_of_people, people.people_cross_entropy)),
        "people's CE after T", "cross-entropy to it after temperature scaling"),
    *with_scaled(
        Measure("people_kl", "people's KL", "divergence from people's distribution",
                partial(_of_people, people.people_divergence)),
        "people's KL after T", "divergence from it after temperature scaling"),
    *with_scaled(
        Measure("people_entropy_rho", "people's ρ",
                "rank correlation of the network's entropies and people's",
                partial(_of_people, people.people_entropy_correlation), higher_is_better=True),
        "people's ρ after T", "rank correlation of them after temperature scaling"),
)  # fmt: skip
