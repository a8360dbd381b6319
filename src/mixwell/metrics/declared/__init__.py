"""mixwell's own measures, in files by subject."""

from mixwell.metrics.declared import (
    classification,
    costs,
    elsewhere,
    features,
    likelihood,
    people,
    regression,
)

__all__ = ["OWN"]

OWN = (
    *classification.MEASURES, *regression.MEASURES, *likelihood.MEASURES, *people.MEASURES,
    *elsewhere.MEASURES, *features.MEASURES, *costs.MEASURES,
)  # fmt: skip
"""All of them, in the order that tables have."""
