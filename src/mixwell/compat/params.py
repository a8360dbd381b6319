"""How torchvision's transforms and ours say how a batch mixes, and each read the other's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from mixwell.errors import InputError
from mixwell.mix import Box, Mix

__all__ = ["NEVER_CALLED", "Leaves", "Params", "as_mix", "draw_box"]

NEVER_CALLED = {
    "_get_params": "make_params",
    "_transform": "transform",
    "_mixup_label": "transform, whose inpt is params['labels'] for the labels",
    "_check_image_or_video": "forward",
    "check_inputs": "forward; torchvision's never calls it either",
}
"""What torchvision's has, or had, that a subclass would override in vain."""

_THEIRS = ("lam", "lam_adjusted", "box")


class Leaves(list[Any]):
    """The images, videos and masks of a sample, with its labels beside them.

    An override of ``make_params(flat_inputs)`` hands them to ``super()`` so.
    """

    def __init__(self, leaves: Iterable[Any], labels: Tensor | None) -> None:
        super().__init__(leaves)
        self.labels = labels


class Params(dict[str, Any]):
    """What ``transform(inpt, params)`` is given: "mix", "labels", "batch_size" and what is added.

    An override reads torchvision's own keys as well, "lam", "lam_adjusted" and "box", where one λ
    and one box are the whole batch's.
    """

    def __missing__(self, key: str) -> Any:
        mix = self.get("mix")
        if key not in _THEIRS or not isinstance(mix, Mix):
            raise KeyError(key)
        if key == "box" and mix.box is None:
            raise KeyError(key)
        per_batch = mix.box.edges if key == "box" and mix.box is not None else mix.lam
        if not bool((per_batch == per_batch[:1]).all()):
            raise InputError(
                f"params[{key!r}] is one for the whole batch, and here it is another for each "
                "sample: read params['mix'], or take per='batch'"
            )
        if key != "box":
            return float(per_batch[0])
        top, bottom, left, right = per_batch[0].tolist()
        return left, top, right, bottom


def as_mix(owner: str, params: Any, partner: Tensor, size: tuple[int, int] | None) -> Mix:
    """Return the mix that an override of ``make_params`` says, ours or in torchvision's keys.

    Args:
        owner: the transform, for messages.
        params: what the override returned.
        partner: (B,), who mixes with whom where it says nothing of that.
        size: (H, W) of the images where it may have a box, else None.
    """
    if not isinstance(params, Mapping):
        raise InputError(f"{owner}.make_params must return a dict, got {type(params).__name__}")
    theirs = [key for key in _THEIRS if key in params]
    wanted = "lam" if size is None else "box and lam_adjusted"
    if "mix" in params:
        if theirs:
            raise InputError(
                f"{owner}.make_params returns 'mix' and {theirs[0]!r}: one of them would be left "
                f"unread; return {{'mix': Mix(partner, lam)}}, or {wanted} alone"
            )
        if not isinstance(params["mix"], Mix):
            raise InputError(
                f"{owner}.make_params must return a mixwell.Mix as 'mix', got "
                f"{type(params['mix']).__name__}"
            )
        return params["mix"]
    try:
        if size is None:
            lam, box = float(params["lam"]), None
        else:
            lam = float(params["lam_adjusted"])
            left, top, right, bottom = (int(edge) for edge in params["box"])
            edges = torch.tensor([[top, bottom, left, right]], device=partner.device)
            box = Box(edges.expand(len(partner), 4), *size)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{owner}.make_params must return 'mix', a mixwell.Mix, or as torchvision's does "
            f"{wanted}; got {dict(params)!r}"
        ) from error
    if not 0 <= lam <= 1:
        raise InputError(f"{owner}.make_params must return λ in [0, 1], got {lam!r}")
    return Mix(partner, torch.full((len(partner),), lam, device=partner.device), box=box)


def draw_box(lam: Tensor, centre: Tensor, height: int, width: int) -> Box:
    """Return torchvision's boxes of λ (B,) and a centre (B, 2) in [0, 1), down and across."""
    reach = (1 - lam).sqrt() / 2
    edges = []
    for place, size in zip(centre.unbind(1), (height, width), strict=True):
        middle, half = (place * size).floor(), (reach * size).floor()
        edges += [(middle - half).clamp_min(0), (middle + half).clamp_max(size)]
    return Box(torch.stack(edges, 1).long(), height, width)
