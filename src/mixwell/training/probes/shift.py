"""Shift: corrupted test images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mixwell.data.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from mixwell.data.splits import seeded
from mixwell.errors import InputError
from mixwell.metrics import measures
from mixwell.metrics.evidence import Evidence
from mixwell.training.predict import predict
from mixwell.training.probes.subject import Findings, Subject, moments

__all__ = ["shift"]

_SHIFTED = 2000  # test images that are corrupted: 45 times all would take longer than training
_TAKEN = ("accuracy", "ece")


def shift(subject: Subject, found: Findings) -> dict[str, Any]:
    """Measure accuracy and ECE on corrupted test images, where that is asked for."""
    dataset, seed = subject.dataset, subject.config.seed
    if not subject.config.shift:
        return {}
    if len(dataset.input_shape) != 3:
        raise InputError(f"shift needs images, but data={dataset.name!r} has none")
    chosen = torch.randperm(len(dataset.test), generator=seeded("shift"))[:_SHIFTED].sort().values
    part = dataset.test.subset(chosen)
    mean, std = (value.to(subject.device) for value in moments(dataset.test))
    taken = [measures.get(name) for name in _TAKEN]
    table: dict[str, list[dict[str, float]]] = {}
    for name in CORRUPTIONS:
        table[name] = []
        for severity in SEVERITIES:
            generator = seeded("shift", seed, name, severity)

            def change(
                x: Tensor, name: str = name, severity: int = severity,
                generator: torch.Generator = generator,
            ) -> Tensor:  # fmt: skip
                return (corrupt(x * std + mean, name, severity, generator) - mean) / std

            logits, labels, _ = predict(subject.model, part, subject.device, change=change)
            row = measures.take(Evidence(logits.double(), labels), taken)
            table[name].append({"severity": severity, **row})
    found.details["shift"] = table
    return {"shift": table}
