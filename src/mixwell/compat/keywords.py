"""Models that take several inputs by name: as one dict, with masks that follow what is mixed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mixwell.errors import InputError

__all__ = ["Keywords", "MaskedKeywords", "mixable"]


class Keywords(nn.Module):
    """A model that is called with one dict, and hands it on as keyword arguments.

    It lets a method run models that take several arguments, in a plain or an accelerate loop as
    well: ``method(Keywords(model), {"pixel_values": x}, y)``; a ``BatchEncoding`` does as well as a
    dict. Names of layers are those of the model inside, which stays as it is.

    Args:
        model: any module.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.module = model

    def forward(self, inputs: Mapping[str, Any]) -> Any:
        """Return ``model(**inputs)``."""
        return self.module(**inputs)


class MaskedKeywords(Keywords):
    """The same, where masks were mixed as numbers: seen is what either sample of a pair shows.

    Args:
        model: any module.
        masks: the dtype of each mask by name.
    """

    def __init__(self, model: nn.Module, masks: Mapping[str, torch.dtype]) -> None:
        super().__init__(model)
        self.masks = dict(masks)

    def forward(self, inputs: Mapping[str, Any]) -> Any:
        given = dict(inputs)
        for name, dtype in self.masks.items():
            given[name] = (given[name] > 0).to(dtype)
        return super().forward(given)


def mixable(x: Mapping[str, Any], owner: str) -> tuple[dict[str, Any], dict[str, torch.dtype]]:
    """Return inputs that can be mixed, masks among them as numbers, and the masks' dtypes.

    Args:
        x: a model's inputs by name.
        owner: the method that mixes at the input, for the message.

    Raises:
        InputError: an input of whole numbers is no mask, and can't be interpolated.
    """
    masks = {}
    for name, value in x.items():
        if not isinstance(value, Tensor) or value.is_floating_point() or value.is_complex():
            continue
        if "mask" in name:
            masks[name] = value.dtype
        elif value.dtype != torch.uint8:
            raise InputError(
                f"{owner} mixes at the input, and {name!r} holds whole numbers ({value.dtype}), "
                "which can't be interpolated; of tokens, mix a hidden layer or the head: "
                "mixup_arguments={'layer': 'head'}"
            )
    return {name: value.float() if name in masks else value for name, value in x.items()}, masks
