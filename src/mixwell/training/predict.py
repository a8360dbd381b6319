"""What a model predicts of a split, and the evidence that measures are computed from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mixwell.data import Dataset, Split
from mixwell.metrics.evidence import Evidence
from mixwell.view import feature_layer, inference, logits_of, tapped, unwrap

__all__ = ["evidence_of", "linear_head", "predict"]

_BATCH = 512


def predict(
    model: nn.Module,
    split: Split,
    device: torch.device,
    *,
    features: bool = False,
    change: Callable[[Tensor], Tensor] | None = None,
    batch_size: int = _BATCH,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the outputs (N, C), the targets (N,) and, if asked, the features (N, d) of a split.

    On the CPU, in float32; without gradient, in evaluation mode, which is undone afterwards.

    Args:
        model: any classifier or regressor.
        split: what is predicted.
        device: where the model is.
        features: return the inputs of the model's head, too.
        change: applied to each batch of inputs first.
        batch_size: samples at a time.
    """
    outputs, targets, seen = [], [], []

    def keep(value: Tensor) -> Tensor:
        seen.append(value.flatten(1).float().cpu())
        return value

    batches = split.batches(batch_size, device=device)
    double = next((p.dtype == torch.float64 for p in model.parameters()), False)
    with inference(model):
        for x, y, _ in batches:
            x = change(x) if change else x
            x = x.double() if double else x
            if features:
                with tapped(model, feature_layer(model, x), keep):
                    output = model(x)
            else:
                output = model(x)
            outputs.append(logits_of(output).float().cpu())
            targets.append(y.cpu())
    return torch.cat(outputs), torch.cat(targets), torch.cat(seen) if features else None


def linear_head(
    model: nn.Module, dataset: Dataset, device: torch.device, width: int
) -> tuple[Tensor, Tensor | None] | None:
    """Return weight and bias of a model's head, on the CPU; None unless it is linear.

    Args:
        model: a classifier.
        dataset: of which it predicts a sample.
        device: where the model is.
        width: of the features that the head should take.
    """
    example, _, _ = next(iter(dataset.val.batches(2, device=device)))
    if next((p.dtype == torch.float64 for p in model.parameters()), False):
        example = example.double()
    head = unwrap(model).get_submodule(feature_layer(model, example))
    if not isinstance(head, nn.Linear) or head.in_features != width:
        return None
    bias = None if head.bias is None else head.bias.detach().cpu()
    return head.weight.detach().cpu(), bias


def evidence_of(dataset: Dataset, outputs: Tensor, targets: Tensor, **more: Any) -> Evidence:
    """Return the evidence of predictions, those of real targets in their own units.

    Args:
        dataset: that they are of.
        outputs: of the model.
        targets: as the model is trained with them.
        more: what else was found out, by the fields of :class:`Evidence`.
    """
    if not dataset.classes:
        return Evidence(dataset.in_units(outputs), dataset.in_units(targets), **more)
    return Evidence(outputs, targets, **more)
