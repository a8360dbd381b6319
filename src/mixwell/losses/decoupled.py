"""Decoupled Mixup: "Harnessing Hard Mixed Samples with Decoupled Regularizer"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from mixwell.checks import Range, check_choice, check_range
from mixwell.losses.base import Loss, check_logits, wide
from mixwell.losses.cross_entropy import MixedCrossEntropy
from mixwell.mix import MixedTarget, MultiTarget

__all__ = ["DecoupledBCE", "DecoupledCrossEntropy"]


class DecoupledCrossEntropy(MixedCrossEntropy):
    """DM(CE): confidence in both mixed classes at once (arXiv:2203.10761v3).

    .. code-block:: text

        φ^{i,j}(z) = exp z_i / (exp z_i + Σ_{c ∉ {i,j}} exp z_c)
        DM(CE)     = MCE + η · [w_a · (-log φ^{a,b}) + w_b · (-log φ^{b,a})]

    With R = log Σ_{c ∉ {a,b}} exp z_c this is -log φ^{a,b} = -log sigmoid(z_a - R), and the
    whole softmax is log(exp R + exp z_a + exp z_b): one masked sum serves all terms, and nothing
    cancels when p_b → 1. Where a = b the regularizer vanishes; with two classes it is 0.

    Of samples that are mixed of more than two, each mixed class leaves all the others out:
    -log φ^c = -log sigmoid(z_c - R) with R over the classes that are not mixed, weighted by the
    class's share, or 1. A class that comes twice counts once, with the sum of its shares.

    Args:
        eta: η ≥ 0.
        weighting: "lambda", w = (λ, 1 - λ), as in the released configurations; "uniform",
            w = (1, 1), as in the paper's formula.
        asymmetric: only the own side gets its decoupled term: semi-supervised training, where
            the partner's label is a guess.
        class_weight: (C,) weights, applied to each side's terms.
        label_smoothing: ε in [0, 1], of the MCE.
        reduction: "mean", "sum" or "none".
    """

    ranges: ClassVar = {"eta": Range(0.01, 1, log=True)}

    def __init__(
        self,
        eta: float = 0.1,
        weighting: str = "lambda",
        asymmetric: bool = False,
        class_weight: Tensor | Sequence[float] | None = None,
        label_smoothing: float = 0.0,
        reduction: str = "mean",
    ) -> None:
        super().__init__(class_weight, label_smoothing, reduction)
        self.eta = check_range("eta", eta)
        self.weighting = check_choice("weighting", weighting, ("lambda", "uniform"))
        self.asymmetric = asymmetric

    def forward(  # type: ignore[override]
        self, logits: Tensor, target: MixedTarget | MultiTarget
    ) -> Tensor:
        """Return the loss; see :meth:`Loss.forward`."""
        if isinstance(target, Tensor) or not target.is_index:
            check_logits("DecoupledCrossEntropy", logits, target)
        return super().forward(logits, target)

    def _decoupling(self) -> tuple[float, bool, bool]:
        return self.eta, self.weighting == "uniform", self.asymmetric

    def extra_repr(self) -> str:
        return (
            f"eta={self.eta}, weighting={self.weighting!r}, asymmetric={self.asymmetric}, "
            f"{super().extra_repr()}"
        )


class DecoupledBCE(Loss):
    """DM(BCE): two-hot binary cross-entropy with rescaled weights (arXiv:2203.10761v3).

    .. code-block:: text

        ŷ = h(λ) · a + h(1 - λ) · b,     h(λ) = min(1, (λ / t)^k)

    averaged over samples and classes; ŷ is at most 1, also where a = b. In a multilabel task a and
    b are the samples' own vectors of 0 and 1. Of samples mixed of more than two, ŷ sums over all.

    Args:
        t: the share from which on a class counts as wholly there; in (0, 1].
        k: the exponent; ≥ 0. k = 0 with t = 1 is plain two-hot.
        reduction: "mean" and "sum" over samples and classes; "none" gives (B, C).
    """

    tasks = ("classification", "multilabel")

    ranges: ClassVar = {"t": Range(0.5, 1), "k": Range(0, 2)}

    def __init__(self, t: float = 0.8, k: float = 1.0, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.t = check_range("t", t, 0, 1, open=True)
        self.k = check_range("k", k)

    def forward(self, logits: Tensor, target: MixedTarget | MultiTarget) -> Tensor:
        """Return the loss; with ``reduction="none"`` of each sample and class, (B, C)."""
        z = wide(logits)
        if isinstance(target, MultiTarget):
            check_logits("DecoupledBCE", logits, target)
            classes, shares = target.classes, self._present(target.weights, z)
        else:
            shares = self._present(torch.stack([target.lam, 1 - target.lam], 1), z)
            if not target.is_index and target.a.shape == logits.shape:
                own, partner = shares.chunk(2, 1)
                soft = own * target.a.to(z.dtype) + partner * target.b.to(z.dtype)
                loss = F.binary_cross_entropy_with_logits(z, soft.clamp_max(1), reduction="none")
                return self._reduce(loss, target)
            check_logits("DecoupledBCE", logits, target)
            classes = torch.stack([target.a, target.b], 1)
        same = classes[:, :, None] == classes[:, None, :]
        present = torch.where(same, shares[:, None, :], 0.0).sum(2).clamp_max(1)
        # All classes as absent, then those that are there: no (B, C) target is built.
        loss = -F.logsigmoid(-z)
        for y, share in zip(classes.split(1, 1), present.split(1, 1), strict=True):
            z_y = z.gather(1, y)
            loss = loss.scatter(1, y, (1 - share) * z_y - F.logsigmoid(z_y))
        return self._reduce(loss, target)

    def _present(self, shares: Tensor, z: Tensor) -> Tensor:
        """Return h of each share."""
        return (shares.to(z.dtype) / self.t).pow(self.k).clamp_max(1)

    def extra_repr(self) -> str:
        return f"t={self.t}, k={self.k}, {super().extra_repr()}"
