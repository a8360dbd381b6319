"""Measures of trained models: accuracy, calibration, collapse, tails, outliers, people, regression.

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
from mixwell.metrics.collapse import (
    ClassMargins,
    SimplexFit,
    alignment,
    class_margins,
    class_variability,
    nested_variability,
    self_duality,
    simplex_fit,
    uniformity,
)
from mixwell.metrics.long_tail import (
    balanced_accuracy,
    balanced_calibration_error,
    class_accuracies,
    shot_accuracies,
    shot_means,
)
from mixwell.metrics.outliers import auroc, false_positive_rate
from mixwell.metrics.people import (
    people_cross_entropy,
    people_divergence,
    people_entropy_correlation,
    rank_correlation,
)
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
    "SimplexFit",
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
    "class_variability",
    "expected_calibration_error",
    "expected_normalized_calibration_error",
    "false_positive_rate",
    "fit_temperature",
    "fit_variance_scale",
    "gaussian_nll",
    "mean_absolute_error",
    "mean_absolute_percentage_error",
    "negative_log_likelihood",
    "nested_variability",
    "people_cross_entropy",
    "people_divergence",
    "people_entropy_correlation",
    "pinball_loss",
    "r2_score",
    "rank_correlation",
    "reliability_diagram",
    "root_mean_squared_error",
    "self_duality",
    "shot_accuracies",
    "shot_means",
    "simplex_fit",
    "uncertainty_calibration_error",
    "uniformity",
]
