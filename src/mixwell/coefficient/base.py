"""The base class of the coefficients."""

from __future__ import annotations

import torch
from torch import Tensor

from mixwell import functional
from mixwell.batch import Batch
from mixwell.checks import Per, check_choice
from mixwell.mix import Mix
from mixwell.parts import Part

__all__ = ["Coefficient"]


class Coefficient(Part):
    """Base class of the coefficients.

    Args:
        per: "sample" draws one λ for each sample, "batch" one for all.
    """

    needs_features = False
    """Whether :meth:`forward` reads ``batch.features``."""

    remembers = False
    """Whether :meth:`remember` wants the features of each step."""

    samples: int = 2
    """How many samples are mixed into one: with more than two, :meth:`weights` is asked."""

    def __init__(self, per: Per = "sample") -> None:
        super().__init__()
        self.per = check_choice("per", per, ("sample", "batch"))

    def forward(self, batch: Batch, partner: Tensor) -> Tensor:
        """Return (B,) λ in [0, 1]."""
        raise NotImplementedError

    def weights(self, batch: Batch) -> Tensor:
        """Return (B, k) weights, rows summing to 1, the own sample's first: for ``samples > 2``."""
        raise NotImplementedError

    def pair(self, batch: Batch, partner: Tensor) -> tuple[Tensor, Tensor]:
        """Return the λ of the inputs and the λ of the targets; the same unless overridden."""
        lam = self(batch, partner)
        return lam, lam

    def remember(self, batch: Batch, features: Tensor, mix: Mix | None) -> None:
        """Look at a step's features after the model ran: called where ``remembers`` is true.

        Args:
            batch: the unmixed batch.
            features: (B, d), of the mixed samples, or of the unmixed ones.
            mix: how they were mixed; None for unmixed ones.
        """

    def _symmetric(self, batch: Batch, alpha: float) -> Tensor:
        """Draw λ ~ Beta(α, α), (B,), one for each sample or one for all."""
        if alpha == 1.0:
            return self._uniform(batch)
        size = 1 if self.per == "batch" else len(batch)
        shape = torch.full((size,), alpha, dtype=torch.float32, device=batch.device)
        return functional.sample_beta(shape, batch.generator).expand(len(batch))

    def _uniform(self, batch: Batch) -> Tensor:
        return batch.rand(1 if self.per == "batch" else len(batch)).expand(len(batch))
