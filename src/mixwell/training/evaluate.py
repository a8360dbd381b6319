"""What a trained model predicts, and how good it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mixwell import metrics
from mixwell.data import Dataset, Split
from mixwell.methods import Method
from mixwell.training import probes
from mixwell.training.config import RunConfig
from mixwell.view import find_head, inference, logits_of, tapped

__all__ = ["Findings", "measure", "predict", "quick_measure"]

_BATCH = 512
_KEPT = 2000  # test samples whose features are kept for pictures


@dataclass
class Findings:
    """What was measured of a run.

    Attributes:
        measures: name to value.
        details: what takes more than a number: accuracy by class, by corruption and severity.
        arrays: predictions and all else that figures are drawn from.
    """

    measures: dict[str, float] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


def predict(
    model: nn.Module,
    split: Split,
    device: torch.device,
    *,
    features: bool = False,
    change: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the outputs (N, C), the targets (N,) and, if asked, the features (N, d) of a split.

    On the CPU, in float32; without gradient, in evaluation mode, which is undone afterwards.

    Args:
        model: any classifier or regressor.
        split: what is predicted.
        device: where the model is.
        features: return the inputs of the model's head, too.
        change: applied to each batch of inputs first.
    """
    outputs, targets, seen = [], [], []

    def keep(value: Tensor) -> Tensor:
        seen.append(value.flatten(1).float().cpu())
        return value

    batches = split.batches(_BATCH, device=device)
    double = next((p.dtype == torch.float64 for p in model.parameters()), False)
    with inference(model):
        for x, y, _ in batches:
            x = change(x) if change else x
            x = x.double() if double else x
            if features:
                with tapped(model, find_head(model, x)[0], keep):
                    output = model(x)
            else:
                output = model(x)
            outputs.append(logits_of(output).float().cpu())
            targets.append(y.cpu())
    return torch.cat(outputs), torch.cat(targets), torch.cat(seen) if features else None


def quick_measure(
    model: nn.Module, dataset: Dataset, device: torch.device, split: Split | None = None
) -> dict[str, float]:
    """Return the few measures that are taken of the validation split after every epoch."""
    toy = dataset.is_toy
    outputs, targets, features = predict(model, split or dataset.val, device, features=toy)
    if dataset.task == "regression":
        return {"rmse": float(_rmse(dataset, outputs, targets))}
    found = {
        "accuracy": float(metrics.accuracy(outputs, targets)),
        "nll": float(metrics.negative_log_likelihood(outputs, targets)),
    }
    if features is not None:  # cheap there, and what the margins' course is drawn from
        found.update(_margins(model, dataset, device, features, targets))
    return found


def _rmse(dataset: Dataset, outputs: Tensor, targets: Tensor) -> Tensor:
    return metrics.root_mean_squared_error(dataset.in_units(outputs), dataset.in_units(targets))


def _margins(
    model: nn.Module, dataset: Dataset, device: torch.device, features: Tensor, labels: Tensor
) -> dict[str, float]:
    """Return mean and balance of the class pairs' margins at the model's own head."""
    example, _, _ = next(iter(dataset.val.batches(2, device=device)))
    if next((p.dtype == torch.float64 for p in model.parameters()), False):
        example = example.double()
    head = find_head(model, example)[1]
    if not isinstance(head, nn.Linear) or head.in_features != features.shape[1]:
        return {}
    weight, bias = head.weight.detach().cpu(), head.bias
    found = metrics.class_margins(
        features, labels, weight, None if bias is None else bias.detach().cpu()
    )
    return {"margin": float(found.mean), "margin_balance": float(found.balance)}


def measure(
    model: nn.Module,
    dataset: Dataset,
    device: torch.device,
    config: RunConfig | None = None,
    method: Method | None = None,
) -> Findings:
    """Return all measures of the test split, and the predictions that they were taken from.

    Temperature and variance scale are fitted on the validation split. Regression measures are in
    the target's own units.

    Args:
        model: the trained model.
        dataset: what it was trained on.
        device: where it is.
        config: says what is measured beside: outliers, shift, MC-dropout.
        method: how it was trained, to draw what a toy's samples were mixed to.
    """
    config = config or RunConfig()
    val_outputs, val_targets, _ = predict(model, dataset.val, device)
    outputs, targets, features = predict(model, dataset.test, device, features=True)
    assert features is not None
    found = Findings()
    arrays = {
        "val_logits": val_outputs, "val_labels": val_targets, "test_logits": outputs,
        "test_labels": targets, "test_features": features[:_KEPT],
    }  # fmt: skip
    found.arrays.update({name: np.asarray(value) for name, value in arrays.items()})
    if dataset.task == "regression":
        wanted, seen = dataset.in_units(targets), dataset.in_units(outputs)
        found.measures = {
            "rmse": float(metrics.root_mean_squared_error(seen, wanted)),
            "mae": float(metrics.mean_absolute_error(seen, wanted)),
            "mape": float(metrics.mean_absolute_percentage_error(seen, wanted)),
            "r2": float(metrics.r2_score(seen, wanted)),
            "val_rmse": float(_rmse(dataset, val_outputs, val_targets)),
        }
        probes.uncertainty(found, model, dataset, device, config.mc_samples)
        return found

    temperature = float(metrics.fit_temperature(val_outputs, val_targets))
    measures = found.measures
    measures["accuracy"] = float(metrics.accuracy(outputs, targets))
    counts = dataset.class_counts
    uneven = bool(counts.max() > 1.5 * counts.min())
    for suffix, logits in (("", outputs), ("_scaled", outputs / temperature)):
        probs = logits.double().softmax(1)
        measures["nll" + suffix] = float(metrics.negative_log_likelihood(logits, targets))
        measures["ece" + suffix] = float(metrics.expected_calibration_error(probs, targets))
        measures["adaptive_ece" + suffix] = float(
            metrics.adaptive_calibration_error(probs, targets)
        )
        measures["brier" + suffix] = float(metrics.brier_score(probs, targets))
        if uneven:
            measures["balanced_ece" + suffix] = float(
                metrics.balanced_calibration_error(probs, targets)
            )
    measures["temperature"] = temperature
    probs = outputs.double().softmax(1)
    if uneven:
        measures["balanced_accuracy"] = float(metrics.balanced_accuracy(probs, targets))
        for group, value in metrics.shot_accuracies(probs, targets, counts).items():
            measures[f"accuracy_{group}"] = float(value)
    by_class = metrics.class_accuracies(probs, targets)
    found.details["class_accuracy"] = [round(float(value), 6) for value in by_class]
    found.details["class_counts"] = counts.tolist()
    measures["alignment"] = float(metrics.alignment(features, targets))
    measures["uniformity"] = float(metrics.uniformity(features))
    measures.update(_margins(model, dataset, device, features, targets))
    measures["val_accuracy"] = float(metrics.accuracy(val_outputs, val_targets))
    measures["val_nll"] = float(metrics.negative_log_likelihood(val_outputs, val_targets))
    val_probs = val_outputs.double().softmax(1)
    measures["val_ece"] = float(metrics.expected_calibration_error(val_probs, val_targets))
    if dataset.fine is not None:
        probes.fine_classes(found, model, dataset, device, features, predict)
    if config.ood is not None:
        probes.outliers(found, model, dataset, device, config, outputs, predict)
    if config.shift:
        probes.shift(found, model, dataset, device, config.seed, predict)
    if dataset.is_toy:
        probes.surface(found, model, dataset, device, method, config.seed)
    return found
