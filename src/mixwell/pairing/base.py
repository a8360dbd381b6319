"""The base class of the pairings, and how partners are drawn."""

from __future__ import annotations

import torch
from torch import Tensor

from mixwell.batch import Batch
from mixwell.errors import InputError
from mixwell.parts import Part

__all__ = ["Pairing", "draw_partner", "uniform", "without_own"]


class Pairing(Part):
    """Base class of the pairings. A sample that is given no partner is its own: ``σ(i) = i``."""

    needs_features = False
    """Whether :meth:`forward` reads ``batch.features``."""

    partners: str = "batch"
    """Where partners come from: the "batch", or the training "data" where a step is given them."""

    def forward(self, batch: Batch) -> Tensor:
        """Return (B,) int64, the index of each sample's partner."""
        raise NotImplementedError

    def draw_from(
        self,
        y: Tensor,
        pool: Tensor,
        *,
        own: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw partners from more samples than a batch has, such as a table in memory.

        Args:
            y: (N, ...), targets of the samples that want a partner.
            pool: (M, ...), those of the samples to draw from, with replacement.
            own: optional (N,), the place of each sample in the pool, which is not drawn then.
            generator: the source of randomness; the default one of y's device without it.

        Returns:
            (N,) int64 places in the pool.

        Raises:
            InputError: this pairing is of batches alone.
        """
        raise InputError(
            f"{type(self).__name__} pairs the samples of a batch; partners from all of the "
            "training data are drawn by LabelKernel and Shuffle"
        )


def uniform(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Return uniform numbers, (N,) for N rows, drawn on the generator's device."""
    device = like.device if generator is None else generator.device
    return torch.rand(len(like), generator=generator, dtype=torch.float32, device=device).to(
        like.device
    )


def draw_partner(batch: Batch, log_weight: Tensor, alone: bool = False) -> Tensor:
    """Draw ``σ(i) = j`` with probability ∝ exp(log_weight[i, j]) by the Gumbel maximum.

    Args:
        batch: draws.
        log_weight: (B, B).
        alone: whether j = i may be drawn, too.
    """
    gumbel = -torch.log(-torch.log(batch.rand(*log_weight.shape).clamp(1e-20, 1 - 1e-7)))
    score = log_weight + gumbel
    if len(batch) > 1 and not alone:
        score = score.fill_diagonal_(-torch.inf)
    return score.argmax(1)


def without_own(matrix: Tensor, rows: slice, value: float) -> Tensor:
    """Return some rows of a (B, B) matrix with ``value`` on its diagonal, in place."""
    matrix.diagonal(rows.start or 0).fill_(value)
    return matrix
