"""The finalists' test measures, with parts of the test samples left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from mixwell.metrics.evidence import Evidence
from mixwell.metrics.measures import Measure
from mixwell.recommend.decision import Gap
from mixwell.studies.records import RunRecord

__all__ = ["gaps_of"]

_PARTS = 20
_SEED = 20_232  # of the parts: the same for all runs


def gaps_of(
    records: Sequence[RunRecord], finalists: Sequence[str], baseline: str, measure: Measure
) -> dict[str, Gap]:
    """Return how each finalist differs from the baseline, over the seeds that both have.

    Args:
        records: of the final.
        finalists: their labels.
        baseline: its label.
        measure: that is compared.
    """
    runs: dict[str, dict[int, RunRecord]] = {label: {} for label in (baseline, *finalists)}
    for record in records:
        if record.status == "done" and measure.name in record.metrics:
            runs[record.label][record.seed] = record
    needed = {
        (label, seed)
        for name in finalists
        for seed in runs[name].keys() & runs[baseline].keys()
        for label in (name, baseline)
    }
    parts = {(label, seed): _left_out(runs[label][seed], measure) for label, seed in needed}
    return {
        name: _gap(runs[name], runs[baseline], parts, name, baseline, measure.name)
        for name in finalists
    }


def _gap(
    own: Mapping[int, RunRecord], base: Mapping[int, RunRecord],
    parts: Mapping[tuple[str, int], np.ndarray | None], name: str, baseline: str, measure: str,
) -> Gap:  # fmt: skip
    seeds = sorted(own.keys() & base.keys())
    values = [own[seed].metrics[measure] - base[seed].metrics[measure] for seed in seeds]
    rows = []
    for seed in seeds:
        mine, theirs = parts[name, seed], parts[baseline, seed]
        if mine is None or theirs is None or len(mine) != len(theirs):
            return Gap(values)  # the samples of some run are not known
        rows.append(mine - theirs)
    return Gap(values, np.stack(rows).tolist() if rows else None)


def _left_out(record: RunRecord, measure: Measure) -> np.ndarray | None:
    """Return a run's measure (G,) with one of G parts of the test samples left out.

    None where it can't be computed from outputs and targets alone, or they are not there.
    """
    arrays = record.predictions()
    if measure.compute is None or not {"test_logits", "test_labels"} <= arrays.keys():
        return None
    outputs, targets = (torch.from_numpy(arrays[f"test_{k}"]) for k in ("logits", "labels"))
    whole = _taken(measure, outputs, targets)
    if whole is None:
        return None
    value = record.metrics[measure.name]
    # Errors of a regression are in the target's unit, its outputs standardised.
    scale = value / whole if record.task == "regression" and whole else 1.0
    count = min(_PARTS, len(targets))
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(_SEED))
    found = []
    for part in order.chunk(count):
        kept = torch.ones(len(targets), dtype=torch.bool)
        kept[part] = False
        taken = _taken(measure, outputs[kept], targets[kept])
        if taken is None:
            return None
        found.append(scale * taken)
    return np.array(found)


def _taken(measure: Measure, outputs: torch.Tensor, targets: torch.Tensor) -> float | None:
    assert measure.compute is not None
    found = measure.compute(Evidence(outputs, targets))
    return None if found is None else float(found)
