"""What is remembered of the training set from step to step: the features of its samples."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mixwell import functional
from mixwell.checks import check_range
from mixwell.errors import InputError
from mixwell.parts import Part

__all__ = ["FeatureMemory"]


class FeatureMemory(Part):
    """The features of each training sample from its last visit, in half precision.

    It is bounded: sample i has the place ``i mod capacity``, and what it held before is forgotten.
    It is part of ``state_dict()``, so checkpoints keep it.

    Args:
        capacity: how many samples are remembered; ``capacity * d * 2`` bytes.
    """

    features: Tensor
    owner: Tensor

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = int(check_range("capacity", capacity, 1))
        self.register_buffer("features", torch.empty(0, 0, dtype=torch.float16))
        self.register_buffer("owner", torch.empty(0, dtype=torch.int64))

    def write(self, index: Tensor, features: Tensor, keep: Tensor | None = None) -> None:
        """Remember features (B, d) of the samples ``index`` (B,), those alone where ``keep``."""
        features = features.detach().flatten(1)
        if self.features.shape[1:] != features.shape[1:]:
            # One place more: what isn't kept is written there, so that no device is waited for.
            self.features = features.new_zeros(
                self.capacity + 1, features.shape[1], dtype=torch.float16
            )
            self.owner = torch.full((self.capacity + 1,), -1, device=features.device)
        place = index % self.capacity
        if keep is not None:
            place = torch.where(keep, place, self.capacity)
        most = torch.finfo(torch.float16).max
        self.features[place] = features.clamp(-most, most).to(torch.float16)
        self.owner[place] = index

    def distance(self, index: Tensor, partner: Tensor, squared: bool = True) -> Tensor:
        """Return the pairs' (squared) L2 distances, (B,); their mean where one is not known."""
        if not len(self.owner):
            return torch.zeros(len(index), dtype=torch.float32, device=index.device)
        place = index % self.capacity
        known = self.owner[place] == index
        known = known & known.index_select(0, partner)
        distance = functional.pair_distance(self.features[place], partner, squared=squared)
        mean = torch.where(known, distance, 0.0).sum() / known.sum().clamp_min(1)
        return torch.where(known, distance, mean)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        for name in ("features", "owner"):  # they have their size from the first step on
            saved = state_dict.get(prefix + name)
            if saved is not None and saved.shape != getattr(self, name).shape:
                setattr(self, name, torch.empty_like(saved, device=self.features.device))
        if len(self.owner) not in (0, self.capacity + 1):
            raise InputError(
                f"capacity={self.capacity}, but the checkpoint remembers {len(self.owner) - 1} "
                f"samples: create the method with capacity={len(self.owner) - 1}"
            )
        super()._load_from_state_dict(state_dict, prefix, *args)
