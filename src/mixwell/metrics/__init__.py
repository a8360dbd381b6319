"""Measures of trained models: accuracy and calibration, collapse, errors of regression.

They need torch alone, take tensors on any device, and return scalars.
"""

from mixwell.metrics.calibration import (
    ReliabilityDiagram,
    accuracy,
    adaptive_calibration_error,
    brier_score,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    reliability_diagram,
)
from mixwell.metrics.collapse import ClassMargins, alignment, class_margins, uniformity
from mixwell.metrics.regression import (
    mean_absolute_error,
    r2_score,
    root_mean_squared_error,
)

__all__ = [
    "ClassMargins",
    "ReliabilityDiagram",
    "accuracy",
    "adaptive_calibration_error",
    "alignment",
    "brier_score",
    "class_margins",
    "expected_calibration_error",
    "fit_temperature",
    "mean_absolute_error",
    "negative_log_likelihood",
    "r2_score",
    "reliability_diagram",
    "root_mean_squared_error",
    "uniformity",
]
