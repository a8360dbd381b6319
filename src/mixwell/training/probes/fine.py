"""Coarse to fine: what frozen features still know of the classes within the superclasses."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch

from mixwell.metrics.evidence import Fine
from mixwell.training.predict import predict
from mixwell.training.probes.subject import Findings, Subject

__all__ = ["fine_classes"]

_STRENGTHS = (0.01, 0.1, 1.0)  # of a probe: scikit-learn's C, less is more regularised


def fine_classes(subject: Subject, found: Findings) -> dict[str, Any]:
    """Probe frozen features for the fine classes: a logistic regression on the training split.

    Features are standardised by the training split's moments; the probe's regularisation is
    chosen on the validation split.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    fine = subject.dataset.fine
    if fine is None:
        return {}
    features, _ = subject.trained
    _, _, held_out = predict(subject.model, subject.dataset.val, subject.device, features=True)
    assert held_out is not None
    mean, std = features.mean(0), features.std(0).clamp_min(1e-6)
    train, val, test = (
        ((values - mean) / std).double() for values in (features, held_out, subject.features)
    )
    wanted = fine.test.y.cpu()
    tried = []
    for strength in _STRENGTHS:
        probe = LogisticRegression(max_iter=200, C=strength)
        with warnings.catch_warnings():
            # Collapsed features are nearly singular: the last digits would take long to come.
            warnings.simplefilter("ignore", ConvergenceWarning)
            probe.fit(train.numpy(), fine.train.y.cpu().numpy())
        tried.append((probe.score(val.numpy(), fine.val.y.cpu().numpy()), probe))
    found.measures["val_fine_accuracy"], probe = max(tried, key=lambda pair: pair[0])
    scores = probe.decision_function(test.numpy())
    if scores.ndim == 1:  # scikit-learn gives one column for two classes
        scores = np.stack([-scores, scores], 1)
    logits = torch.full((len(wanted), len(fine.classes)), -1e9, dtype=torch.float64)
    logits[:, torch.from_numpy(probe.classes_)] = torch.from_numpy(scores)
    rows: tuple[Any, Any] = (None, None)
    if len(probe.coef_) == len(fine.classes):
        rows = (torch.from_numpy(probe.coef_), torch.from_numpy(probe.intercept_))
    probed = Fine(logits, wanted, subject.features, test, *rows)
    if probed.margins is not None:
        found.details["fine_margins"] = [
            [None if value != value else round(value, 5) for value in row]
            for row in probed.margins.pairs.tolist()
        ]
    found.details["fine_classes"] = list(fine.classes)
    found.arrays["test_fine"] = np.asarray(wanted)
    return {"fine": probed}
