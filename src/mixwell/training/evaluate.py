"""How good a trained model is."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from mixwell import metrics
from mixwell.data import Dataset, Split
from mixwell.methods import Method
from mixwell.metrics import measures
from mixwell.metrics.measures import VALIDATION, Evidence
from mixwell.training.config import RunConfig
from mixwell.training.predict import evidence_of, linear_head, predict
from mixwell.training.probes import PROBES, Findings, Subject

__all__ = ["Findings", "measure", "predict", "quick_measure", "validate"]

_KEPT = 2000  # test samples whose features are kept for pictures


def quick_measure(
    model: nn.Module, dataset: Dataset, device: torch.device, split: Split | None = None
) -> dict[str, float]:
    """Return the few measures that are taken of the validation split between epochs."""
    # Features are cheap on a toy, and what the margins' course is drawn from.
    outputs, targets, features = predict(
        model, split or dataset.val, device, features=dataset.is_toy
    )
    head = None if features is None else linear_head(model, dataset, device, features.shape[1])
    found = evidence_of(dataset, outputs, targets, features=features, head=head)
    return measures.take(found, (m for m in measures.of(dataset.task) if m.each_epoch))


def validate(model: nn.Module, dataset: Dataset, device: torch.device) -> dict[str, float]:
    """Return all measures that are taken of the validation split; the test split stays closed."""
    outputs, targets, _ = predict(model, dataset.val, device)
    known = [m for m in measures.of(dataset.task) if m.each_epoch or dataset.task in m.validated]
    return measures.take(evidence_of(dataset, outputs, targets), known)


def measure(
    model: nn.Module,
    dataset: Dataset,
    device: torch.device,
    config: RunConfig | None = None,
    method: Method | None = None,
) -> Findings:
    """Return all measures of the test split, and the predictions that they were taken from.

    They are those that are registered for the data set's task. Temperature and variance scale are
    fitted on the validation split. Regression measures are in the target's own units.

    Args:
        model: the trained model.
        dataset: what it was trained on.
        device: where it is.
        config: says what is measured beside: people, outliers, shift, MC-dropout.
        method: how it was trained, to draw what a toy's samples were mixed to.
    """
    val_outputs, val_targets, _ = predict(model, dataset.val, device)
    outputs, targets, features = predict(model, dataset.test, device, features=True)
    assert features is not None
    found = Findings()
    arrays = {
        "val_logits": val_outputs, "val_labels": val_targets, "test_logits": outputs,
        "test_labels": targets, "test_features": features[:_KEPT],
    }  # fmt: skip
    found.arrays.update({name: np.asarray(value) for name, value in arrays.items()})
    subject = Subject(model, dataset, device, config or RunConfig(), method, outputs, features)
    more = {name: value for probe in PROBES for name, value in probe(subject, found).items()}
    if dataset.classes:
        more["temperature"] = metrics.fit_temperature(val_outputs, val_targets)
        more["class_counts"] = dataset.class_counts
        more["features"] = features
        more["head"] = linear_head(model, dataset, device, features.shape[1])
    test = evidence_of(dataset, outputs, targets, **more)
    held_out = evidence_of(dataset, val_outputs, val_targets)
    known = measures.of(dataset.task)
    taken = measures.take(test, known)
    validated = measures.take(held_out, (m for m in known if dataset.task in m.validated))
    found.measures = {
        **taken, **{VALIDATION + name: value for name, value in validated.items()},
        **found.measures,
    }  # fmt: skip
    if dataset.classes:
        _tell_classes(found, test)
    return found


def _tell_classes(found: Findings, test: Evidence) -> None:
    """Keep each class's accuracy, its NC1 and its number of training samples."""
    assert test.class_counts is not None
    by_class = metrics.class_accuracies(test.probs, test.targets)
    found.details["class_accuracy"] = [round(float(value), 6) for value in by_class]
    if test.trained is not None:
        found.details["class_nc1"] = [
            None if value != value else round(value, 6)
            for value in test.trained.variability.tolist()
        ]
    found.details["class_counts"] = test.class_counts.tolist()
