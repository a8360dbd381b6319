"""Uncertainty: the predictive distribution of a regression, by MC-dropout."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from mixwell.data import Split
from mixwell.data.splits import drawing
from mixwell.metrics import fit_variance_scale
from mixwell.metrics.evidence import Spread
from mixwell.training.probes.subject import Findings, Subject
from mixwell.view import inference, logits_of

__all__ = ["dropped", "has_dropout", "uncertainty"]


@contextlib.contextmanager
def _dropping(model: nn.Module) -> Iterator[None]:
    """Run ``model`` in evaluation mode with its dropout at work, without gradient."""
    with inference(model):
        for module in model.modules():
            if isinstance(module, nn.modules.dropout._DropoutNd):
                module.train()
        yield


def uncertainty(subject: Subject, found: Findings) -> dict[str, Any]:
    """Return the predictive distribution of MC-dropout on the test split, and its fitted scale.

    Of several targets, in units of their standard deviations. Networks without dropout have none,
    nor have classifiers.
    """
    model, dataset = subject.model, subject.dataset
    if dataset.classes or not has_dropout(model):
        return {}
    held_out, test = (_distribution(subject, split) for split in (dataset.val, dataset.test))
    scale = fit_variance_scale(*held_out)
    mean, std, wanted = test
    found.arrays.update(
        test_mean=mean.float().numpy(), test_std=std.float().numpy(),
        test_targets=wanted.float().numpy(),
    )  # fmt: skip
    return {"spread": Spread(mean, std, wanted, scale)}


def dropped(
    model: nn.Module, split: Split, device: torch.device, passes: int, batch_size: int = 512
) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean and deviation of passes with dropout at work, and the targets: (N, K) each.

    Standardised as the model is trained. What is dropped depends on the batch size alone.
    """
    total, squares, targets = [], [], []
    with _dropping(model), drawing(0, device):
        for x, y, _ in split.batches(batch_size, device=device):
            x = x.double() if next(model.parameters()).dtype == torch.float64 else x
            found = torch.stack([logits_of(model(x)).double() for _ in range(passes)])
            total.append(found.mean(0).cpu())
            squares.append(found.var(0).cpu())
            targets.append(y.cpu())
    wanted = torch.cat(targets).double()
    std = torch.cat(squares).sqrt().clamp_min(1e-6)
    return torch.cat(total), std, wanted.reshape(len(wanted), -1)


def has_dropout(model: nn.Module) -> bool:
    """Whether MC-dropout has anything to draw in a network."""
    return any(m.p for m in model.modules() if isinstance(m, nn.modules.dropout._DropoutNd))


def _distribution(subject: Subject, split: Split) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean and deviation of the passes over a split, and its targets: (N, K) each."""
    dataset = subject.dataset
    passes = subject.config.mc_samples
    mean, std, wanted = dropped(subject.model, split, subject.device, passes)
    if dataset.num_outputs == 1:
        assert dataset.target_std is not None
        mean, wanted = dataset.in_units(mean), dataset.in_units(wanted)
        std = std * dataset.target_std
    return mean, std, wanted
