"""mixwell's own measures, declared once, in the order that tables have."""

from collections.abc import Iterable

from mixwell.metrics.declared import (
    classification,
    costs,
    elsewhere,
    features,
    likelihood,
    regression,
)
from mixwell.metrics.measures import Measure, register, registered

__all__ = ["adopt", "outside"]

for _file in (classification, regression, likelihood, elsewhere, features, costs):
    for _measure in _file.MEASURES:
        register(_measure)

_OWN = frozenset(measure.name for measure in registered())


def outside() -> list[Measure]:
    """Return the measures that are not mixwell's own: what other processes must be told of."""
    return [measure for measure in registered() if measure.name not in _OWN]


def adopt(measures: Iterable[Measure]) -> None:
    """Register what :func:`outside` returned in another process, where it isn't there yet."""
    known = {measure.name for measure in registered()}
    for measure in measures:
        if measure.name not in known:
            register(measure)
