"""mixwell's own measures, declared once, in the order that tables have."""

from mixwell.metrics.declared import (
    classification,
    costs,
    elsewhere,
    features,
    likelihood,
    regression,
)
from mixwell.metrics.measures import register

for _file in (classification, regression, likelihood, elsewhere, features, costs):
    for _measure in _file.MEASURES:
        register(_measure)
