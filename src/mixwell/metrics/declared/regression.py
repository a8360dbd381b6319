"""Errors of regressions, and the calibration of their predicted deviations."""

from __future__ import annotations

from mixwell.metrics import regression, uncertainty
from mixwell.metrics.declared.computing import REAL, of_outputs, of_spread, with_scaled
from mixwell.metrics.measure import PERCENT, Measure

__all__ = ["MEASURES"]

MEASURES = (
    Measure("rmse", "RMSE", "root mean squared error, in the target's unit",
            of_outputs(regression.root_mean_squared_error), REAL, validated=REAL, each_epoch=True,
            tuned_by=True),
    Measure("mae", "MAE", "mean absolute error, in the target's unit",
            of_outputs(regression.mean_absolute_error), REAL),
    Measure("mape", "MAPE", "mean absolute error in per cent of the target",
            of_outputs(regression.mean_absolute_percentage_error), REAL, **PERCENT),
    Measure("r2", "R²", "share of the target's variance that is explained",
            of_outputs(regression.r2_score), REAL, higher_is_better=True),
    *with_scaled(
        Measure("uce", "UCE", "gap of predicted variance and squared error, MC-dropout",
                of_spread(uncertainty.uncertainty_calibration_error), REAL),
        "UCE after s", "UCE after variance scaling"),
    *with_scaled(
        Measure("ence", "ENCE", "relative gap of predicted deviation and RMSE, MC-dropout",
                of_spread(uncertainty.expected_normalized_calibration_error), REAL),
        "ENCE after s", "ENCE after variance scaling"),
)  # fmt: skip
