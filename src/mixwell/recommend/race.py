"""Successive halving: all candidates are trained a little, the better half goes on.

Every candidate of a rung is trained with the same seeds: the same split, weights and order of the
samples. So a difference is of the method alone, as far as can be. The baseline goes along to the
end, beside the count.

Source: Karnin, Koren and Somekh, "Almost Optimal Exploration in Multi-Armed Bandits", ICML 2013;
Jamieson and Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter Optimization",
AISTATS 2016.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

__all__ = ["Rung", "Standing", "cut", "finalists", "first_alone", "race"]

Scores = Mapping[str, Sequence[tuple[float, ...]] | None]
"""For each candidate, of each seed, what it is ranked by, higher is better, and then what decides
between equals; None where a run of it failed."""


@dataclass(frozen=True)
class Rung:
    """A step of the race.

    Attributes:
        epoch: that the candidates are trained to.
        seeds: of the runs of each.
        keep: how many go on, the baseline not counted.
    """

    epoch: int
    seeds: tuple[int, ...]
    keep: int


@dataclass(frozen=True)
class Standing:
    """How a candidate came out of a rung.

    Attributes:
        label: the candidate.
        score: mean over the seeds, higher is better; NaN where a run failed.
        gap: to the baseline's.
        place: from 1 on; 0 for the baseline.
        goes_on: whether it is in the next rung, or a finalist.
        why: it is out; empty where it isn't.
    """

    label: str
    score: float
    gap: float
    place: int
    goes_on: bool
    why: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return {k: None if v != v else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Standing:
        """Return what :meth:`to_dict` was made of."""
        known = {**values}
        known.update({k: math.nan for k in ("score", "gap") if values[k] is None})
        return cls(**known)


def cut(scores: Scores, baseline: str, keep: int) -> list[Standing]:
    """Return how the candidates stand after a rung, the best first, the baseline at the end.

    Args:
        scores: of the candidates and the baseline, paired by seed; of equals the one that is named
            first stands before.
        baseline: which doesn't compete.
        keep: how many of the others go on.
    """
    means = {
        label: tuple(math.fsum(column) / len(column) for column in zip(*values, strict=True))
        for label, values in scores.items()
        if values and all(math.isfinite(number) for value in values for number in value)
    }
    reference = means.get(baseline, (math.nan,))[0]
    ranked = sorted(
        (label for label in means if label != baseline),
        key=lambda label: means[label],
        reverse=True,
    )
    standings = []
    for place, label in enumerate(ranked, start=1):
        score, goes_on = means[label][0], place <= keep
        why = "" if goes_on else f"place {place} of {len(ranked)}, of which {keep} go on"
        standings.append(Standing(label, score, score - reference, place, goes_on, why))
    for label in scores:
        if label not in means and label != baseline:
            why = "a run of it failed"
            standings.append(Standing(label, math.nan, math.nan, len(standings) + 1, False, why))
    return [*standings, Standing(baseline, reference, 0.0, 0, True)]


def finalists(standings: Sequence[Standing]) -> list[str]:
    """Return who goes on, best first, without the baseline."""
    return [standing.label for standing in standings if standing.goes_on and standing.place]


def first_alone(standings: Sequence[Standing], why: str) -> list[Standing]:
    """Return standings of which the first and the baseline alone go on."""
    return [
        replace(standing, goes_on=False, why=why)
        if standing.goes_on and standing.place > 1
        else standing
        for standing in standings
    ]


def race(
    labels: Sequence[str],
    rungs: Sequence[Rung],
    baseline: str,
    score: Callable[[Sequence[str], Rung], Scores],
    told: Callable[[list[Standing]], Sequence[Rung] | None] = lambda standings: None,
) -> list[str]:
    """Return the finalists, best first.

    Args:
        labels: the candidates that are left, without the baseline.
        rungs: that are still to be run.
        baseline: that runs along.
        score: trains the candidates and the baseline to a rung's epoch and returns their scores.
        told: is handed each rung's standings; may return the rungs that follow, changed.
    """
    alive, following = list(labels), list(rungs)
    while following and alive:
        rung = following.pop(0)
        standings = cut(score([*alive, baseline], rung), baseline, rung.keep)
        alive = finalists(standings)
        changed = told(standings)
        following = list(following if changed is None else changed)
    return alive
