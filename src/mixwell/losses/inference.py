"""Mixup inference in training (MIT): from two mixes of a pair back to its two samples."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from mixwell import functional
from mixwell.checks import Per, Range, check_choice, check_range
from mixwell.errors import InputError
from mixwell.losses.base import Loss, check_beside, check_target, share, wide
from mixwell.losses.needs import Draws, Outcome, Twin
from mixwell.mix import MixedTarget, MultiTarget

__all__ = ["MixupInference"]


class MixupInference(Loss):
    """MIT: the samples' own logits, solved from two mixes of each pair, learn their own labels.

    .. code-block:: text

        z¹ = f(λ¹ x_a + (1 - λ¹) x_b),   z² = f(λ² x_a + (1 - λ²) x_b),   |λ¹ - λ²| ≥ margin
        ẑ_a = ((1 - λ²) z¹ - (1 - λ¹) z²) / (λ¹ - λ²),   ẑ_b = (λ¹ z² - λ² z¹) / (λ¹ - λ²)
        MIT = (CE(ẑ_a, y_a) + CE(ẑ_b, y_b)) / 2

    ẑ are the logits that the samples would have if the network were linear between them. λ² lies
    on the other side of 1/2, and follows Beta(α, α) where it is a margin away from λ¹; the authors
    draw both until they are.

    Where masks have brought the two nearer than half the margin, or nothing is mixed, there is
    nothing to solve with: that pair's loss is λ CE(z¹, y_a) + (1 - λ) CE(z², y_b), the mixed
    cross-entropy shared between its mixes, with λ the mean of the two.

    Args:
        alpha: α > 0 of λ².
        margin: how far apart the two are at least, in [0, 1/2]. Without one a few pairs with little
            between their mixes have gradients of any size.
        per: "sample" draws one λ² for each sample, "batch" one for all.
        reduction: "mean", "sum" or "none".

    Source: "On the Pitfall of Mixup for Uncertainty Calibration", CVPR 2023; this is MIT-L, which
    solves at the last layer.
    """

    ranges: ClassVar = {"alpha": Range(0.05, 20, log=True), "margin": Range(0.1, 0.5)}

    def __init__(
        self,
        alpha: float = 1.0,
        margin: float = 0.5,
        per: Per = "sample",
        reduction: str = "mean",
    ) -> None:
        super().__init__(reduction)
        self.alpha = check_range("alpha", alpha, open=True)
        self.margin = check_range("margin", margin, 0, 0.5)
        self.per = check_choice("per", per, ("sample", "batch"))
        self.needs = (Twin(self.twin),)

    def twin(self, batch: Draws, lam: Tensor) -> Tensor:
        """Return (B,), λ² of the second mix from λ¹ of the first."""
        u = batch.rand(1 if self.per == "batch" else len(batch)).double()
        own = lam.double()
        limit = (torch.maximum(own, 1 - own) - self.margin).clamp(0, 0.5)
        alpha = torch.full_like(limit, self.alpha)
        other = functional.beta_icdf(u * functional.beta_cdf(limit, alpha), alpha)
        other = torch.minimum(other, limit)
        return torch.where(own >= 0.5, other, 1 - other).to(lam)

    def of_step(self, outcome: Outcome) -> Tensor:
        mixed, twin = outcome.mixed, outcome.twin
        assert isinstance(twin.target, MixedTarget)  # of pairs a twin is drawn, as Term sees to
        return self(mixed.logits, mixed.target, twin.logits, twin.target)

    def forward(
        self,
        logits: Tensor,
        target: MixedTarget | MultiTarget,
        twin: Tensor,
        twin_target: MixedTarget,
    ) -> Tensor:
        """Return the loss.

        Args:
            logits: (B, C), of the first mixes.
            target: theirs, with the inputs' λ.
            twin: (B, C), of the same pairs' second mixes.
            twin_target: theirs.
        """
        if isinstance(target, MultiTarget):
            raise InputError("MixupInference solves for two samples, got mixes of more")
        check_beside("MixupInference", logits, target, twin=twin)
        check_target("MixupInference", twin, twin_target, "twin_target")
        if logits.shape != twin.shape:
            raise InputError(
                "MixupInference: logits of both mixes must have one shape (B, C), got "
                f"{tuple(logits.shape)} and {tuple(twin.shape)}"
            )
        z1, z2 = wide(logits), wide(twin)
        lam1, lam2 = target.lam.to(z1.dtype), twin_target.lam.to(z1.dtype)
        gap = lam1 - lam2
        solvable = gap.abs() >= max(self.margin / 2, 1e-3)
        scale = torch.where(solvable, 1 / torch.where(solvable, gap, 1.0), 0.0)[:, None]
        # Each from its mix, and the rest of the way along the line through both.
        own = z1 + (1 - lam1)[:, None] * scale * (z1 - z2)
        partner = z2 - lam2[:, None] * scale * (z1 - z2)
        weight = torch.where(solvable, 0.5, (lam1 + lam2) / 2)
        loss = share(weight, F.cross_entropy(own, target.a, reduction="none"))
        loss = loss + share(1 - weight, F.cross_entropy(partner, target.b, reduction="none"))
        return self._reduce(loss, target)
