"""Toys: the decision surface, and where samples are mixed to."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mixwell import data
from mixwell.data import TensorSplit
from mixwell.data.splits import drawing
from mixwell.methods import Method
from mixwell.metrics.evidence import Mixed
from mixwell.training.probes.subject import Findings, Subject
from mixwell.view import inference, logits_of

__all__ = ["surface"]

_GRID = 100
_DRAWS = 4


def surface(subject: Subject, found: Findings) -> dict[str, Any]:
    """Keep the decision surface of a toy, and say where its samples are mixed to.

    A mixed sample *intrudes* where it lies among the samples of a class that makes up less than
    half of its label (manifold intrusion, arXiv:1809.02499), and is *off the manifold* where it
    lies among none. "Among": its nearest neighbour of 20,000 fresh samples is as near as that of
    99 % of the test samples.
    """
    dataset, split = subject.dataset, subject.dataset.train
    if not dataset.is_toy:
        return {}
    assert isinstance(split, TensorSplit)
    mean, std = (torch.tensor(value) for value in (split.mean, split.std))
    points, labels = data.toy(dataset.name, 20_000, seed=7)
    points = ((points - mean) / std).float()
    low, high = points.min(0).values - 0.4, points.max(0).values + 0.4
    axes = [torch.linspace(float(low[i]), float(high[i]), _GRID) for i in range(2)]
    grid = torch.cartesian_prod(*axes)
    probs = _probabilities(subject.model, grid, subject.device)[:, 1].view(_GRID, _GRID)
    found.arrays.update(
        surface=probs.numpy(), surface_x=axes[0].numpy(), surface_y=axes[1].numpy(),
        train_points=next(iter(split.batches(len(split))))[0].numpy(),
        train_labels=split.y.numpy(),
    )  # fmt: skip
    recipe = None if subject.method is None else subject.method.recipe
    if subject.method is None or recipe is None or list(recipe.interpolation.layers) != ["input"]:
        return {}  # no inputs are mixed, or not always: there is nothing to look at
    samples, weight = _mixed(subject, subject.method, split)
    test, _, _ = next(iter(dataset.test.batches(len(dataset.test))))
    reach = _nearest(test, points)[0].quantile(0.99)
    distance, place = _nearest(samples, points)
    among = distance <= reach
    own = weight.gather(1, labels[place][:, None])[:, 0]
    intrudes = among & (own < 0.5)
    found.arrays.update(
        mixed_points=samples.numpy(), mixed_intrudes=intrudes.numpy(),
        mixed_weight=weight[:, 1].float().numpy(),
    )  # fmt: skip
    return {"mixed": Mixed(intrudes, among)}


def _mixed(subject: Subject, method: Method, split: TensorSplit) -> tuple[Tensor, Tensor]:
    """Return a few epochs' mixed samples (M, 2) and their labels (M, C)."""
    model, device, seed = subject.model, subject.device, subject.config.seed
    mixed, weights = [], []
    was_training = method.training
    method.train()
    try:
        with drawing(seed, device):
            for epoch in range(_DRAWS):
                for x, y, index in split.batches(
                    64, shuffle=True, seed=seed, epoch=epoch, device=device
                ):
                    x = x.to(next(model.parameters()).dtype)
                    made, target, _ = method.preview(x, y, model=model, index=index)
                    mixed.append(made.float().cpu())
                    weights.append(target.dense(len(subject.dataset.classes)).cpu())
    finally:
        method.train(was_training)
    return torch.cat(mixed), torch.cat(weights)


def _probabilities(model: nn.Module, x: Tensor, device: torch.device) -> Tensor:
    dtype = next(model.parameters()).dtype
    with inference(model):
        return logits_of(model(x.to(device, dtype))).float().cpu().softmax(1)


def _nearest(x: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Return distance and position of each row's nearest point."""
    found = [torch.cdist(part, points).min(1) for part in x.split(512)]
    return torch.cat([part.values for part in found]), torch.cat([part.indices for part in found])
