"""Measures on other samples than the test split's: outliers, corrupted and mixed ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor

from mixwell.metrics import outliers
from mixwell.metrics.evidence import Evidence
from mixwell.metrics.measure import PERCENT, Found, Measure

__all__ = ["MEASURES"]


def _of_outliers(compute: Callable[[Tensor, Tensor], Tensor], evidence: Evidence) -> Found:
    strange = evidence.outliers
    return None if strange is None else compute(evidence.probs.amax(1), strange)


def _shifted(name: str, evidence: Evidence) -> Found:
    if evidence.shift is None:
        return None
    rows = [row for rows in evidence.shift.values() for row in rows]
    return sum(row[name] for row in rows) / len(rows)


def _intrusion(evidence: Evidence) -> Found:
    mixed = evidence.mixed
    return None if mixed is None else mixed.intrudes.double().mean()


def _off_manifold(evidence: Evidence) -> Found:
    mixed = evidence.mixed
    return None if mixed is None else (~mixed.among).double().mean()


MEASURES = (
    Measure("ood_auroc", "OOD AUROC", "of outliers, by the highest probability",
            partial(_of_outliers, outliers.auroc), higher_is_better=True, **PERCENT),
    Measure("ood_fpr95", "OOD FPR95", "outliers that pass where 95 % of the inliers do",
            partial(_of_outliers, outliers.false_positive_rate), **PERCENT),
    Measure("shift_accuracy", "accuracy shifted", "mean over corruptions and severities",
            partial(_shifted, "accuracy"), higher_is_better=True, column="accuracy % shifted",
            **PERCENT),
    Measure("shift_ece", "ECE shifted", "mean over corruptions and severities",
            partial(_shifted, "ece"), column="ECE % shifted", **PERCENT),
    Measure("intrusion", "intrusion", "mixed samples that lie among samples of the other class",
            _intrusion, unit="%", factor=100.0, digits=1),
    Measure("off_manifold", "off manifold", "mixed samples that lie among no samples",
            _off_manifold, unit="%", factor=100.0, digits=1),
)  # fmt: skip
