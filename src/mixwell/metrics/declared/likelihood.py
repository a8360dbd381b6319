"""How likely the targets are by the predicted distribution."""

from __future__ import annotations

from mixwell.metrics import calibration, uncertainty
from mixwell.metrics.declared.computing import CLASSES, REAL, of_spread, with_scaled
from mixwell.metrics.evidence import Evidence
from mixwell.metrics.measure import Found, Measure

__all__ = ["MEASURES"]


def _nll(evidence: Evidence) -> Found:
    if evidence.targets.is_floating_point():  # known where a distribution is predicted
        return of_spread(uncertainty.gaussian_nll)(evidence)
    return calibration.negative_log_likelihood(evidence.outputs, evidence.targets)


MEASURES = (
    *with_scaled(
        Measure("nll", "NLL", "negative log-likelihood", _nll, (*CLASSES, *REAL),
                validated=CLASSES, each_epoch=True, tuned_by=True),
        "NLL scaled", "NLL after temperature (variance) scaling"),
    *with_scaled(
        Measure("pinball", "pinball", "quantile loss of the predicted Gaussians, MC-dropout",
                of_spread(uncertainty.pinball_loss), REAL),
        "pinball after s", "pinball loss after variance scaling"),
)  # fmt: skip
