"""The momentum copy of a model that sees the mixes of a Mixer while it learns (AutoMix)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mixwell.errors import InputError
from mixwell.interpolation.mixer import Mixer
from mixwell.mix import tensors
from mixwell.processes import several
from mixwell.values import map_tensors
from mixwell.view import find_maps, tapped, watch

__all__ = [
    "Workshop",
    "averaged",
    "device_of",
    "frozen_copy",
    "last_stage",
    "read_maps",
    "wide",
]

_HALVES = (torch.float16, torch.bfloat16)


@dataclass
class Workshop:
    """Where the masks are made.

    Attributes:
        teacher: the momentum copy of the model.
        layer: the layer of it whose output the mixer sees.
        mixer: what makes masks.
        optimizer: trains the mixer.
        updates: how often the teacher has followed the model.
    """

    teacher: nn.Module
    layer: str
    mixer: Mixer
    optimizer: torch.optim.Optimizer
    updates: int = 0


def wide(x: Any) -> Any:
    """Return ``x`` with what can be mixed in float32 at least, as the copy takes it."""

    def widen(leaf: Tensor) -> Tensor:
        return leaf.float() if leaf.dtype in (*_HALVES, torch.uint8) else leaf

    return map_tensors(widen, x)


def frozen_copy(model: nn.Module) -> nn.Module:
    """Return a copy of a model, in float32 at least, that is not trained and always evaluates."""
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise InputError(
            "masks are learnt with a copy of the model, and what is scripted or traced (torch.jit) "
            "can't be copied and frozen: give the model itself"
        )
    made = copy.deepcopy(model)
    for module in made.modules():
        # Wrappers (Accelerate, compilers) put a forward there that is the original model's.
        if not hasattr(module, "_orig_mod"):
            vars(module).pop("forward", None)
    if any(parameter.dtype in _HALVES for parameter in made.parameters()):
        made.float()  # a momentum of 0.999 would be rounded away
    return made.requires_grad_(False).eval()


def last_stage(model: nn.Module, x: Any, head: str | None = None) -> str:
    """Return the last layer before a model's feature maps become smaller for the last time."""
    last = find_maps(model, x, head).layer
    areas: list[tuple[str, int]] = []

    def note(name: str, module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4:
            areas.append((name, output.shape[2] * output.shape[3]))

    watch(model, x, note)
    final = dict(areas)[last]
    before = areas[: max(place for place, (name, _) in enumerate(areas) if name == last)]
    larger = [name for name, area in before if area > final]
    # Whole stages rather than what is inside of a block.
    stages = [name for name in larger if _is_stage(model, name, last)]
    return (stages or larger or [last])[-1]


def _is_stage(model: nn.Module, name: str, last: str) -> bool:
    """Whether a layer is inside of nothing but sequences and what the last maps are inside of."""
    parts = name.split(".")
    around = [".".join(parts[:depth]) for depth in range(1, len(parts))]
    return all(
        last.startswith(f"{outer}.") or isinstance(model.get_submodule(outer), nn.Sequential)
        for outer in around
    )


class _Seen(Exception):
    """Ends a pass, of which no more is needed."""


def read_maps(model: nn.Module, layer: str, x: Any) -> Tensor:
    """Return the maps (B, d, h, w) that leave a layer, in float32."""
    seen: list[Any] = []

    def keep(value: Any) -> Any:
        seen.append(value)
        raise _Seen

    with suppress(_Seen), tapped(model, layer, keep, side="output"):
        model(x)
    maps = seen[0]
    size = len(tensors(x)[0])
    if not isinstance(maps, Tensor) or maps.ndim != 4 or len(maps) != size:
        shape = tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
        raise InputError(
            f"stage={layer!r} must give feature maps (B, d, h, w), got {shape}; choose a layer of "
            "a convolutional network before its maps are pooled"
        )
    return maps.float()


def averaged(gradients: Sequence[Tensor]) -> Sequence[Tensor]:
    """Return the mean of the gradients over the processes of a distributed training."""
    if not several():
        return gradients
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    torch.distributed.all_reduce(flat)
    flat = flat / torch.distributed.get_world_size()
    parts = flat.split([gradient.numel() for gradient in gradients])
    return [part.view_as(gradient) for part, gradient in zip(parts, gradients, strict=True)]


def device_of(module: nn.Module) -> torch.device:
    """Return where a module's parameters are."""
    return next(module.parameters()).device
