"""A run's network made again from its weights, and whether it is the one that was trained.

A run keeps its network's ``state_dict``. What a network is made of beside that (a tensor that is a
plain attribute, a buffer that isn't persistent, what changed while it was trained) is made anew,
and may come out otherwise. A few test samples are kept with what the network said of them, to tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mixwell import models
from mixwell.data.splits import TensorSplit
from mixwell.data.transform import Transform
from mixwell.errors import InputError
from mixwell.training.config import RunConfig
from mixwell.training.files import checked
from mixwell.training.machine import random_state, seed_all, set_random_state
from mixwell.training.predict import predict

__all__ = ["KEPT", "REASON", "Kept", "answers_as_before", "kept_of", "remade", "strays"]

KEPT = 8  # raw test samples
_RELATIVE, _LEAST = 0.05, 1e-4  # other hardware and bfloat16 stay below; another network doesn't

REASON = (
    "something of it is not among its weights: a tensor that is a plain attribute, a buffer with "
    "persistent=False, or what training changed beside them"
)


@dataclass(frozen=True, eq=False)
class Kept:
    """A few test samples of a run.

    Attributes:
        raw: (N, ...) as the run's transform takes them.
        outputs: (N, C) of the network when the run ended.
    """

    raw: Tensor
    outputs: Tensor


def kept_of(folder: Path) -> Kept | None:
    """Return the samples that a run keeps; None where a version before kept none, or no file.

    Raises:
        InputError: the file is damaged.
    """
    path = folder / "predictions.npz"
    if not path.is_file():
        return None
    try:
        with np.load(checked(path), allow_pickle=False) as arrays:
            if not {"test_inputs", "test_logits"} <= set(arrays.files):
                return None
            raw = torch.from_numpy(arrays["test_inputs"])
            return Kept(raw, torch.from_numpy(arrays["test_logits"])[: len(raw)])
    except InputError:
        raise
    except Exception as error:  # NumPy and zipfile raise many kinds
        raise InputError(f"{path} can't be read: {error}") from error


def remade(
    config: RunConfig, shape: tuple[int, ...], num_outputs: int, weights: Mapping[str, Tensor]
) -> nn.Module:
    """Return a run's network, made as at its beginning and given these weights.

    What it draws when it is made is drawn by the run's seed; the random state stays as it was.

    Args:
        config: of the run.
        shape: of a sample.
        num_outputs: of the network.
        weights: its ``state_dict``.

    Raises:
        InputError: the network can't be made here.
        RuntimeError: the weights don't fit it.
    """
    assert config.model is not None
    before = random_state()
    try:
        seed_all(config.seed)
        options = models.architecture(config.model, config.model_options, config.pretrained)
        network = models.build(config.model, input_shape=shape, num_outputs=num_outputs, **options)
    finally:
        set_random_state(before)
    if any(getattr(value, "dtype", None) == torch.float64 for value in weights.values()):
        network.double()
    network.load_state_dict(dict(weights))
    return network


def strays(network: nn.Module, transform: Transform, kept: Kept, device: torch.device) -> bool:
    """Whether a network answers otherwise than the one that was trained.

    One that never answers twice alike can't be told from another: it doesn't.

    Args:
        network: on ``device``.
        transform: of the run.
        kept: what the run kept.
        device: where the network is.
    """
    if not len(kept.raw):
        return False
    targets = torch.zeros(len(kept.raw), dtype=torch.int64)
    split = TensorSplit(kept.raw, targets, transform.mean or None, transform.std or None)
    if _alike(predict(network, split, device)[0], kept.outputs):
        return False
    before = random_state()
    try:
        drawn = []
        for seed in (1, 2):
            seed_all(seed)
            drawn.append(predict(network, split, device)[0])
    finally:
        set_random_state(before)
    return _alike(*drawn)


def _alike(found: Tensor, wanted: Tensor) -> bool:
    """Whether outputs (N, C) are the same but for what other hardware changes."""
    if found.shape != wanted.shape:
        return False
    found, wanted = (_centred(outputs) for outputs in (found, wanted))
    there = wanted.isfinite()
    gap = (found - wanted)[there]
    least = _LEAST + _RELATIVE * float(wanted[there].square().mean().sqrt())
    return not gap.numel() or float(gap.square().mean().sqrt()) <= least


def _centred(outputs: Tensor) -> Tensor:
    """Return outputs in float64; of logits, of which a constant says nothing, about their mean."""
    values = outputs.double().flatten(1)
    return values - values.mean(1, keepdim=True) if values.shape[1] > 1 else values


def answers_as_before(
    config: RunConfig, transform: Transform, weights: Mapping[str, Tensor], kept: Kept,
    device: torch.device,
) -> str | None:  # fmt: skip
    """Return None if a run's network can be made again, or else a sentence that says why not."""
    start = f"the network {config.model!r} can't be made again from what the run keeps"
    end = "load_run, predict and export will refuse it; keep all of it with register_buffer"
    try:
        width = kept.outputs.flatten(1).shape[1]
        network: Any = remade(config, transform.shape, width, weights).to(device).eval()
        if strays(network, transform, kept, device):
            return f"{start}, {REASON}; {end}"
    except Exception as error:  # of any kind: it is the model's code, and the run has ended
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return f"{start}: {first}; load_run, predict and export will refuse it"
    return None
