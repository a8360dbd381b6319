"""Images: a few samples as the method mixes them, for the report."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mixwell.data import Split, TensorSplit
from mixwell.data.splits import FolderSplit, drawing
from mixwell.errors import InputError
from mixwell.methods import Method
from mixwell.mix import Mix, MixedTarget, MultiMix
from mixwell.training.probes.subject import Findings, Subject, moments

__all__ = ["samples"]

_BATCH = 32  # of which the shown ones are: a pairing by distance needs something to choose from
_SHOWN = 5
_SIDE = 48  # pixels: larger images are made smaller


def samples(subject: Subject, found: Findings) -> dict[str, Any]:
    """Keep a few training images beside their partners and what the method makes of them.

    Every run of a study with the same seed shows the same images. Methods that mix nothing, or
    features, or more than two samples, leave none.
    """
    dataset, method = subject.dataset, subject.method
    if not isinstance(method, Method) or not dataset.classes or len(dataset.input_shape) != 3:
        return {}  # of no image there is a picture
    if dataset.input_shape[0] not in (1, 3) or dataset.train.y.dim() != 1:
        return {}
    count = min(_BATCH, len(dataset.train))
    x, y, index = next(
        dataset.train.batches(count, shuffle=True, seed=subject.config.seed, device=subject.device)
    )
    x = x.to(next(subject.model.parameters()).dtype)
    was_training = method.training
    method.train()
    try:
        with drawing(subject.config.seed, subject.device):
            made, target, mix = method.preview(x, y, model=subject.model, index=index)
    except InputError:  # nothing is mixed at the input
        return {}
    finally:
        method.train(was_training)
    if isinstance(mix, MultiMix) or not isinstance(target, MixedTarget):
        return {}
    chosen = _chosen(mix, y)
    to_bytes = _Bytes(dataset.train, x)
    found.arrays.update(
        samples_own=to_bytes(x[chosen]), samples_partner=to_bytes(x[mix.partner[chosen]]),
        samples_mixed=to_bytes(made[chosen]), samples_lam=_array(target.lam[chosen].float()),
        samples_classes=_array(torch.stack([target.a[chosen], target.b[chosen]], 1)),
    )  # fmt: skip
    return {}


def _chosen(mix: Mix, y: Tensor) -> Tensor:
    """Return the first samples, those with a partner of another class before the rest."""
    same = (y == y[mix.partner]).long()
    return torch.argsort(same, stable=True)[:_SHOWN]


def _array(values: Tensor) -> np.ndarray:
    return values.detach().cpu().numpy()


class _Bytes:
    """Turns normalised images (N, C, H, W) into small ones of bytes (N, H', W', C)."""

    def __init__(self, split: Split, example: Tensor) -> None:
        if isinstance(split, FolderSplit) or (isinstance(split, TensorSplit) and split.mean):
            self.shift, self.scale = moments(split)
        else:  # how these were normalised isn't known: from the darkest value to the brightest
            low, high = example.min().float().cpu(), example.max().float().cpu()
            self.shift, self.scale = low, (high - low).clamp_min(1e-6)

    def __call__(self, x: Tensor) -> np.ndarray:
        x = x.detach().float().cpu() * self.scale + self.shift
        if max(x.shape[2:]) > _SIDE:
            factor = _SIDE / max(x.shape[2:])
            size = [max(1, round(factor * side)) for side in x.shape[2:]]
            x = F.interpolate(x, size, mode="area")
        return (255 * x.clamp(0, 1)).round().byte().permute(0, 2, 3, 1).numpy()
