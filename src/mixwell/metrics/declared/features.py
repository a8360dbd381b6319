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


def _variability(evidence: Evidence) -> Found:
    trained = evidence.trained
    return None if trained is None else trained.variability.nanmean()


def _variability_shot(group: str, evidence: Evidence) -> Found:
    return evidence.variability_shots.get(group)


def _simplex(name: str, evidence: Evidence) -> Found:
    return None if evidence.trained is None else getattr(evidence.trained.simplex, name)


def _duality(evidence: Evidence) -> Found:
    trained, head = evidence.trained, evidence.head
    if trained is None or head is None:
        return None
    return collapse.self_duality(trained.features.double(), trained.targets, head[0])


def _test_variability(evidence: Evidence) -> Found:
    features = evidence.features
    if features is None:
        return None
    return collapse.class_variability(features.double(), evidence.targets).nanmean()


def _fine_variability(evidence: Evidence) -> Found:
    fine = evidence.fine
    if fine is None:
        return None
    features = fine.features.double()
    return collapse.nested_variability(features, fine.targets, evidence.targets).nanmean()


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
    Measure("nc1", "NC1", "neural collapse, of training samples: variance within classes over that "
            "between them; 0 is collapsed", _variability, higher_is_better=None, group="features"),
    Measure("nc1_many", "NC1 many-shot", "of classes with over 100 training samples",
            partial(_variability_shot, "many"), higher_is_better=None, group="features"),
    Measure("nc1_medium", "NC1 medium-shot", "of classes with 20 to 100",
            partial(_variability_shot, "medium"), higher_is_better=None, group="features"),
    Measure("nc1_few", "NC1 few-shot", "of classes with under 20",
            partial(_variability_shot, "few"), higher_is_better=None, group="features"),
    Measure("nc1_test", "NC1 test", "the same of test samples", _test_variability,
            higher_is_better=None, group="features"),
    Measure("nc2", "NC2", "distance of the class means from a regular simplex",
            partial(_simplex, "distance"), higher_is_better=None, group="features"),
    Measure("nc2_norms", "NC2 norms", "deviation over mean of the class means' lengths",
            partial(_simplex, "norms"), higher_is_better=None, group="features"),
    Measure("nc2_angles", "NC2 angles", "mean |cos + 1 / (C - 1)| of their pairs",
            partial(_simplex, "angles"), higher_is_better=None, group="features"),
    Measure("nc3", "NC3", "distance of the head's rows from the class means, both scaled to 1",
            _duality, higher_is_better=None, group="features"),
    Measure("fine_nc1", "fine NC1", "NC1 of the fine classes within each superclass, test samples: "
            "lower is better told apart", _fine_variability, group="features"),
    Measure("fine_alignment", "fine alignment", "alignment by fine class", _fine_alignment,
            higher_is_better=None, group="features"),
    Measure("fine_uniformity", "fine uniformity", "uniformity of the probed features",
            _fine_uniformity, digits=2, group="features"),
    Measure("fine_margin", "fine margin", "mean margin of the probe's class pairs",
            partial(_fine_margins, "mean"), higher_is_better=None, group="features"),
    Measure("fine_margin_balance", "fine margin balance", "their deviation over their mean",
            partial(_fine_margins, "balance"), group="features"),
)  # fmt: skip
