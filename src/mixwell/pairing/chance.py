"""Partners by chance, whatever the samples are."""

from __future__ import annotations

import torch
from torch import Tensor

from mixwell.batch import Batch
from mixwell.checks import check_choice
from mixwell.pairing.base import Pairing, uniform

__all__ = ["Flip", "PerfectMatching", "Shuffle"]


class Shuffle(Pairing):
    """A random permutation of the batch; a sample may stay alone (one in B does, on average).

    Args:
        partners: "batch"; or "data", any other training sample, with replacement, where a step is
            given them (``method(model, x, y, data=(X, Y))``), else the batch's.
    """

    def __init__(self, partners: str = "batch") -> None:
        super().__init__()
        self.partners = check_choice("partners", partners, ("batch", "data"))

    def forward(self, batch: Batch) -> Tensor:
        return batch.randperm()

    def draw_from(
        self,
        y: Tensor,
        pool: Tensor,
        *,
        own: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        others = len(pool) - (own is not None and len(pool) > 1)
        place = (uniform(y, generator).double() * others).long().clamp_max(others - 1)
        # Past the own place: uniform over the others.
        return place if own is None or others == len(pool) else place + (place >= own)


class Flip(Pairing):
    """The batch in reverse order: no randomness, for batches that are shuffled already."""

    def forward(self, batch: Batch) -> Tensor:
        return torch.arange(len(batch) - 1, -1, -1, device=batch.device)


class PerfectMatching(Pairing):
    """Random disjoint pairs, ``σ(σ(i)) = i``; of an odd batch one sample stays alone."""

    def forward(self, batch: Batch) -> Tensor:
        order = batch.randperm()
        place = torch.arange(len(batch), device=batch.device)
        neighbour = (place ^ 1).clamp_max(len(batch) - 1)
        return torch.empty_like(order).scatter_(0, order, order[neighbour])
