"""Accuracy and calibration of classifiers."""

from __future__ import annotations

from functools import partial

from mixwell.metrics import calibration, long_tail
from mixwell.metrics.declared.computing import (
    CLASSES,
    of_outputs,
    of_probs,
    of_uneven,
    with_scaled,
)
from mixwell.metrics.evidence import Evidence
from mixwell.metrics.measure import PERCENT, Found, Measure

__all__ = ["MEASURES"]


def _shot(group: str, evidence: Evidence) -> Found:
    return evidence.shots.get(group)


def _fine(evidence: Evidence) -> Found:
    fine = evidence.fine
    return None if fine is None else calibration.accuracy(fine.logits, fine.targets)


MEASURES = (
    Measure("accuracy", "accuracy", "share of test samples classified rightly",
            of_outputs(calibration.accuracy), higher_is_better=True, validated=CLASSES,
            each_epoch=True, **PERCENT),
    Measure("balanced_accuracy", "balanced accuracy", "mean of the classes' accuracies",
            of_uneven(long_tail.balanced_accuracy), higher_is_better=True, **PERCENT),
    Measure("accuracy_many", "many-shot", "accuracy of classes with over 100 training samples",
            partial(_shot, "many"), higher_is_better=True, **PERCENT),
    Measure("accuracy_medium", "medium-shot", "of classes with 20 to 100",
            partial(_shot, "medium"), higher_is_better=True, **PERCENT),
    Measure("accuracy_few", "few-shot", "accuracy of classes with under 20",
            partial(_shot, "few"), higher_is_better=True, **PERCENT),
    Measure("fine_accuracy", "fine accuracy",
            "of a linear probe for the classes within the superclasses", _fine,
            higher_is_better=True, **PERCENT),
    *with_scaled(
        Measure("ece", "ECE", "expected calibration error, 15 equal-width bins",
                of_probs(calibration.expected_calibration_error), validated=CLASSES, **PERCENT),
        "ECE after T", "ECE after temperature scaling", "ECE % after T"),
    *with_scaled(
        Measure("balanced_ece", "balanced ECE", "ECE in which each class weighs the same",
                of_uneven(long_tail.balanced_calibration_error), **PERCENT),
        "balanced ECE after T", "likewise, after scaling", "balanced ECE % after T"),
    *with_scaled(
        Measure("adaptive_ece", "aECE", "adaptive ECE, 15 bins of equal mass",
                of_probs(calibration.adaptive_calibration_error), **PERCENT),
        "aECE after T", "adaptive ECE, likewise", "aECE % after T"),
    *with_scaled(
        Measure("brier", "Brier", "squared error of the predicted probabilities",
                of_probs(calibration.brier_score)),
        "Brier after T", "Brier score after temperature scaling"),
)  # fmt: skip
