"""Uncertainty: the predictive distribution of a regression, by MC-dropout."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from mixwell.data import Split
from mixwell.metrics import fit_variance_scale
from mixwell.metrics.evidence import Spread
from mixwell.training.probes.subject import Findings, Subject
from mixwell.view import inference, logits_of

__all__ = ["uncertainty"]


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
    rates = [m.p for m in model.modules() if isinstance(m, nn.modules.dropout._DropoutNd)]
    if dataset.classes or not any(rates):
        return {}
    held_out, test = (_distribution(subject, split) for split in (dataset.val, dataset.test))
    scale = fit_variance_scale(*held_out)
    mean, std, wanted = test
    found.arrays.update(
        test_mean=mean.float().numpy(), test_std=std.float().numpy(),
        test_targets=wanted.float().numpy(),
    )  # fmt: skip
    return {"spread": Spread(mean, std, wanted, scale)}


def _distribution(subject: Subject, split: Split) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean and deviation of the passes over a split, and its targets: (N, K) each."""
    model, dataset = subject.model, subject.dataset
    total, squares, targets = [], [], []
    with _dropping(model), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for x, y, _ in split.batches(512, device=subject.device):
            x = x.double() if next(model.parameters()).dtype == torch.float64 else x
            passes = torch.stack(
                [logits_of(model(x)).double() for _ in range(subject.config.mc_samples)]
            )
            total.append(passes.mean(0).cpu())
            squares.append(passes.var(0).cpu())
            targets.append(y.cpu())
    mean, wanted = torch.cat(total), torch.cat(targets).double()
    std = torch.cat(squares).sqrt().clamp_min(1e-6)
    wanted = wanted.reshape(len(wanted), -1)
    if dataset.num_outputs == 1:
        assert dataset.target_std is not None
        mean, wanted = dataset.in_units(mean), dataset.in_units(wanted)
        std = std * dataset.target_std
    return mean, std, wanted
