"""What a trained model predicts, and how good it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mixwell import metrics
from mixwell.data import Dataset, Split
from mixwell.heads import find_head, inference, logits_of, tapped

__all__ = ["measure", "predict", "quick_measure"]

_BATCH = 512


def predict(
    model: nn.Module, split: Split, device: torch.device, *, features: bool = False
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the outputs (N, C), the targets (N,) and, if asked, the features (N, d) of a split.

    On the CPU, in float32; without gradient, in evaluation mode, which is undone afterwards.
    """
    outputs, targets, seen = [], [], []

    def keep(value: Tensor) -> Tensor:
        seen.append(value.flatten(1).float().cpu())
        return value

    batches = split.batches(_BATCH, device=device)
    double = next((p.dtype == torch.float64 for p in model.parameters()), False)
    with inference(model):
        for x, y, _ in batches:
            x = x.double() if double else x
            if features:
                with tapped(model, find_head(model, x)[0], keep):
                    output = model(x)
            else:
                output = model(x)
            outputs.append(logits_of(output).float().cpu())
            targets.append(y.cpu())
    return torch.cat(outputs), torch.cat(targets), torch.cat(seen) if features else None


def quick_measure(dataset: Dataset, outputs: Tensor, targets: Tensor) -> dict[str, float]:
    """Return the few measures that are taken of the validation split after every epoch."""
    if dataset.task == "regression":
        return {"rmse": _rmse(dataset, outputs, targets)}
    return {
        "accuracy": float((outputs.argmax(1) == targets).float().mean()),
        "nll": float(metrics.negative_log_likelihood(outputs, targets)),
    }


def _rmse(dataset: Dataset, outputs: Tensor, targets: Tensor) -> float:
    error = (outputs[:, 0] - targets) * dataset.target_std
    return float(error.square().mean().sqrt())


def measure(
    model: nn.Module, dataset: Dataset, device: torch.device
) -> tuple[dict[str, float], dict[str, Any]]:
    """Return all measures of the test split, and the predictions that they were taken from.

    The temperature is fitted on the validation split. Regression measures are in the target's
    own units.
    """
    val_outputs, val_targets, _ = predict(model, dataset.val, device)
    outputs, targets, features = predict(model, dataset.test, device, features=True)
    assert features is not None
    arrays = {
        "val_logits": val_outputs, "val_labels": val_targets, "test_logits": outputs,
        "test_labels": targets, "test_features": features[:2000],
    }  # fmt: skip
    saved = {name: np.asarray(value) for name, value in arrays.items()}
    val = {f"val_{k}": v for k, v in quick_measure(dataset, val_outputs, val_targets).items()}
    if dataset.task == "regression":
        found, wanted = (
            value * dataset.target_std + dataset.target_mean for value in (outputs[:, 0], targets)
        )
        return {
            "rmse": float(metrics.root_mean_squared_error(found, wanted)),
            "mae": float(metrics.mean_absolute_error(found, wanted)),
            "r2": float(metrics.r2_score(found, wanted)),
            **val,
        }, saved

    temperature = float(metrics.fit_temperature(val_outputs, val_targets))
    measures = {"accuracy": float((outputs.argmax(1) == targets).float().mean())}
    for suffix, logits in (("", outputs), ("_scaled", outputs / temperature)):
        probs = logits.double().softmax(1)
        measures["nll" + suffix] = float(metrics.negative_log_likelihood(logits, targets))
        measures["ece" + suffix] = float(metrics.expected_calibration_error(probs, targets))
        measures["adaptive_ece" + suffix] = float(
            metrics.adaptive_calibration_error(probs, targets)
        )
        measures["brier" + suffix] = float(metrics.brier_score(probs, targets))
    measures["temperature"] = temperature
    measures["alignment"] = float(metrics.alignment(features, targets))
    measures["uniformity"] = float(metrics.uniformity(features))
    return {**measures, **val}, saved
