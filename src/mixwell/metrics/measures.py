"""The measures: what each is called, its unit, which direction is better, how it is computed.

Evaluation, tables, statistics, tuning, the report and the command line ask here and know no
measure themselves. One of your own is registered once and appears in all of them:

>>> from mixwell.metrics import accuracy, measures
>>> wrong = measures.Measure(
...     "error", "error", "share of test samples classified wrongly",
...     lambda evidence: 1 - accuracy(evidence.outputs, evidence.targets),
...     unit="%", factor=100, digits=2, validated=("classification",),
... )
>>> measures.register(wrong).heading
'error %'
>>> measures.remove("error")

Runs in processes of their own are told of it where ``compute`` is a function at the top of a
module; a lambda serves runs in this process alone.
"""

from __future__ import annotations

from collections.abc import Iterable

from mixwell.metrics.declared import OWN
from mixwell.metrics.evidence import Evidence
from mixwell.metrics.measure import (
    VALIDATION,
    Measure,
    get,
    of,
    register,
    registered,
    remove,
    take,
)

__all__ = [
    "VALIDATION",
    "Evidence",
    "Measure",
    "adopt",
    "get",
    "of",
    "outside",
    "register",
    "registered",
    "remove",
    "take",
]

for _measure in OWN:
    register(_measure)


def outside() -> list[Measure]:
    """Return the measures that are not mixwell's own: what other processes must be told of."""
    own = {measure.name for measure in OWN}
    return [measure for measure in registered() if measure.name not in own]


def adopt(given: Iterable[Measure]) -> None:
    """Register what :func:`outside` returned in another process, where it isn't there yet."""
    known = {measure.name for measure in registered()}
    for measure in given:
        if measure.name not in known:
            register(measure)
