"""How measures are computed from the evidence, by what they are functions of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from torch import Tensor

from mixwell.metrics.evidence import Evidence
from mixwell.metrics.measure import Found, Measure

__all__ = [
    "CLASSES",
    "REAL",
    "of_outputs",
    "of_probs",
    "of_spread",
    "of_uneven",
    "with_scaled",
]

CLASSES, REAL = ("classification",), ("regression",)


def of_outputs(compute: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Evidence], Found]:
    """Return a measure of outputs and targets."""
    return partial(_of_outputs, compute)


def _of_outputs(compute: Callable[[Tensor, Tensor], Tensor], evidence: Evidence) -> Found:
    return compute(evidence.outputs, evidence.targets)


def of_probs(compute: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Evidence], Found]:
    """Return a measure of probabilities and labels."""
    return partial(_of_probs, compute)


def _of_probs(compute: Callable[[Tensor, Tensor], Tensor], evidence: Evidence) -> Found:
    return compute(evidence.probs, evidence.targets)


def of_uneven(compute: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Evidence], Found]:
    """Return a measure of probabilities and labels that says something where classes differ."""
    return partial(_of_uneven, compute)


def _of_uneven(compute: Callable[[Tensor, Tensor], Tensor], evidence: Evidence) -> Found:
    return compute(evidence.probs, evidence.targets) if evidence.uneven else None


def of_spread(compute: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Callable[[Evidence], Found]:
    """Return a measure of a predictive distribution: mean, deviation, targets."""
    return partial(_of_spread, compute)


def _of_spread(compute: Callable[[Tensor, Tensor, Tensor], Tensor], evidence: Evidence) -> Found:
    spread = evidence.spread
    return None if spread is None else compute(spread.mean, spread.std, spread.targets)


def with_scaled(
    measure: Measure, title: str, about: str, column: str = ""
) -> tuple[Measure, Measure]:
    """Return a measure and what it is after temperature or variance scaling.

    Args:
        measure: of the predictions as they are.
        title: of the scaled one.
        about: of the scaled one.
        column: of the scaled one.
    """
    assert measure.compute is not None
    scaled = replace(
        measure, name=f"{measure.name}_scaled", title=title, about=about, column=column,
        compute=partial(_of_scaled, measure.compute), validated=(), each_epoch=False,
        tuned_by=False,
    )  # fmt: skip
    return measure, scaled


def _of_scaled(compute: Callable[[Evidence], Found], evidence: Evidence) -> Found:
    return None if evidence.scaled is None else compute(evidence.scaled)
