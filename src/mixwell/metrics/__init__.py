"""Measures of trained models: accuracy and calibration, collapse, long tails, outliers, regression.

They need torch alone, take tensors on any device, and return scalars. What each is called and
which direction is better is declared in :mod:`mixwell.metrics.measures`.
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
from mixwell.metrics.long_tail import (
    balanced_accuracy,
    balanced_calibration_error,
    class_accuracies,
    shot_accuracies,
)
from mixwell.metrics.outliers import auroc, false_positive_rate
from mixwell.metrics.regression import (
    mean_absolute_error,
    mean_absolute_percentage_error,
    r2_score,
    root_mean_squared_error,
)
from mixwell.metrics.uncertainty import (
    CalibrationCurve,
    calibration_curve,
    expected_normalized_calibration_error,
    fit_variance_scale,
    gaussian_nll,
    pinball_loss,
    uncertainty_calibration_error,
)

__all__ = [
    "CalibrationCurve",
    "ClassMargins",
    "ReliabilityDiagram",
    "accuracy",
    "adaptive_calibration_error",
    "alignment",
    "auroc",
    "balanced_accuracy",
    "balanced_calibration_error",
    "brier_score",
    "calibration_curve",
    "class_accuracies",
    "class_margins",
    "expected_calibration_error",
    "expected_normalized_calibration_error",
    "false_positive_rate",
    "fit_temperature",
    "fit_variance_scale",
    "gaussian_nll",
    "mean_absolute_error",
    "mean_absolute_percentage_error",
    "negative_log_likelihood",
    "pinball_loss",
    "r2_score",
    "reliability_diagram",
    "root_mean_squared_error",
    "shot_accuracies",
    "uncertainty_calibration_error",
    "uniformity",
]
