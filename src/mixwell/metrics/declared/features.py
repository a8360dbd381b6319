"""What is found in features and at heads, and what scaling was fitted."""

from __future__ import annotations

from functools import partial

from mixwell.metrics import collapse
from mixwell.metrics.declared.computing import REAL
from mixwell.metrics.evidence import Evidence
from mixwell.metrics.measure import Found, Measure

__all__ = ["MEASURES"]


def _alignment(evidence: Evidence) -> Found:
    features = evidence.features
    return None if features is None else collapse.alignment(features, evidence.targets)


def _uniformity(evidence: Evidence) -> Found:
    return None if evidence.features is None else collapse.uniformity(evidence.features)


def _margins(name: str, evidence: Evidence) -> Found:
    return getattr(evidence.margins, name, None)


def _variance_scale(evidence: Evidence) -> Found:
    return None if evidence.spread is None else evidence.spread.scale


def _fine_alignment(evidence: Evidence) -> Found:
    fine = evidence.fine
    return None if fine is None else collapse.alignment(fine.features, fine.targets)


def _fine_uniformity(evidence: Evidence) -> Found:
    return None if evidence.fine is None else collapse.uniformity(evidence.fine.features)


def _fine_margins(name: str, evidence: Evidence) -> Found:
    return None if evidence.fine is None else getattr(evidence.fine.margins, name, None)


MEASURES = (
    Measure("temperature", "T", "temperature fitted on validation data: > 1 means overconfident",
            lambda evidence: evidence.temperature, higher_is_better=None, digits=2,
            group="features"),
    Measure("variance_scale", "s", "factor of the deviation, fitted on validation data: > 1 means "
            "overconfident", _variance_scale, REAL, higher_is_better=None, digits=2,
            group="features"),
    Measure("alignment", "alignment", "mean squared distance of same-class features on the sphere",
            _alignment, higher_is_better=None, group="features"),
    Measure("uniformity", "uniformity", "log mean exp(-2 d²) of features: lower is more uniform",
            _uniformity, digits=2, group="features"),
    Measure("margin", "margin", "mean distance of class centres from their pairs' boundaries",
            partial(_margins, "mean"), higher_is_better=None, each_epoch=True, group="features"),
    Measure("margin_balance", "margin balance", "deviation over mean of the class pairs' margins",
            partial(_margins, "balance"), each_epoch=True, group="features"),
    Measure("fine_alignment", "fine alignment", "alignment by fine class", _fine_alignment,
            higher_is_better=None, group="features"),
    Measure("fine_uniformity", "fine uniformity", "uniformity of the probed features",
            _fine_uniformity, digits=2, group="features"),
    Measure("fine_margin", "fine margin", "mean margin of the probe's class pairs",
            partial(_fine_margins, "mean"), higher_is_better=None, group="features"),
    Measure("fine_margin_balance", "fine margin balance", "their deviation over their mean",
            partial(_fine_margins, "balance"), group="features"),
)  # fmt: skip
