"""Decoupled Mixup: "Harnessing Hard Mixed Samples with Decoupled Regularizer"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from mixwell.checks import Range, check_choice, check_range
from mixwell.errors import InputError
from mixwell.kernels import multi_hot
from mixwell.kernels.multi_hot import Rescaling
from mixwell.kernels.two_class import Decoupling
from mixwell.losses.base import Loss, check_logits, fits, wide
from mixwell.losses.cross_entropy import MixedCrossEntropy
from mixwell.mix import MixedTarget, MultiTarget

__all__ = ["DecoupledBCE", "DecoupledCrossEntropy"]


class DecoupledCrossEntropy(MixedCrossEntropy):
    """DM(CE): confidence in both mixed classes at once (arXiv:2203.10761v3).

    .. code-block:: text

        φ^{i,j}(z) = exp z_i / (exp z_i + Σ_{c ∉ {i,j}} exp z_c)
        DM(CE)     = MCE + η · [w_a · (-log φ^{a,b}) + w_b · (-log φ^{b,a})]
        w          = (λ^power, (1 - λ)^power), or one side of it alone

    With R = log Σ_{c ∉ {a,b}} exp z_c this is -log φ^{a,b} = -log sigmoid(z_a - R), and the
    whole softmax is log(exp R + exp z_a + exp z_b): one masked sum serves all terms, and nothing
    cancels when p_b → 1. Where a = b the regularizer vanishes; with two classes it is 0.

    Of samples that are mixed of more than two, each mixed class leaves all the others out:
    -log φ^c = -log sigmoid(z_c - R) with R over the classes that are not mixed, weighted by the
    class's share, or 1. A class that comes twice counts once, with the sum of its shares.

    The paper's formula has both sides with w = (1, 1). The released configurations, 12 for
    CIFAR-100, are for each mix and network another:

    ========================  ========  =====  ====  ====
    network, mix              side      power  η     α
    ========================  ========  =====  ====  ====
    ResNet-18, mixup          heavier   ½      0.01  0.2
    ResNet-18, cutmix         lighter   ½      0.1   0.2
    ResNet-18, resizemix      lighter   ½      0.1   0.2
    ResNet-18, saliencymix    lighter   0      0.01  0.2
    ResNet-18, fmix           lighter   0      0.01  0.2
    ResNet-18, manifold       heavier   0      0.01  0.5
    ResNeXt-50, mixup         both      1      0.01  0.2
    ResNeXt-50, cutmix        both      1      0.1   0.2
    ResNeXt-50, saliencymix   both      1      0.1   0.2
    ResNeXt-50, manifold      both      1      0.05  2
    ResNeXt-50, fmix          both      0      0.5   0.2
    ResNeXt-50, resizemix     lighter   0      0.01  0.2
    ========================  ========  =====  ====  ====

    On ImageNet: both sides, power 1, η 0.1, α 1. Unlike the released code, which takes the two
    weights in the order of class indices in the batch's first row and drops the term at λ = ½,
    each sample has its own weights here, whatever its classes are called.

    Args:
        eta: η ≥ 0.
        weighting: "lambda", powers of (λ, 1 - λ); "uniform", w = (1, 1), which is power 0.
        asymmetric: only the own side gets its decoupled term: the paper's semi-supervised form,
            where the partner's label is a guess. The authors' code has both sides there, η = 1.
        class_weight: (C,) weights, applied to each side's terms.
        label_smoothing: ε in [0, 1], of the MCE.
        reduction: "mean", "sum" or "none".
        ignore_index: in segmentation, the class of positions that are left out. Where it is one of
            the two, the other remains, weighted by its share, with nothing to be decoupled from.
        side: "both"; "heavier", of the class with the larger share alone ("more" in the released
            configurations); "lighter", of that with the smaller ("less"). At λ = ½, where neither
            is, both have half of their terms, so that no order decides. Of more than two classes,
            the largest and the smallest of their shares.
        power: of the shares, ≥ 0. With 0 even a share of 0 weighs 1.

    Raises:
        InputError: settings that contradict each other: a power with "uniform", a side with
            ``asymmetric``.
    """

    ranges: ClassVar = {"eta": Range(0.01, 1, log=True), "power": Range(0, 1)}

    def __init__(
        self,
        eta: float = 0.1,
        weighting: str = "lambda",
        asymmetric: bool = False,
        class_weight: Tensor | Sequence[float] | None = None,
        label_smoothing: float = 0.0,
        reduction: str = "mean",
        ignore_index: int = -100,
        *,
        side: str = "both",
        power: float = 1.0,
    ) -> None:
        super().__init__(class_weight, label_smoothing, reduction, ignore_index)
        self.eta = check_range("eta", eta)
        self.weighting = check_choice("weighting", weighting, ("lambda", "uniform"))
        self.asymmetric = asymmetric
        self.side = check_choice("side", side, ("both", "heavier", "lighter"))
        self.power = check_range("power", power)
        if weighting == "uniform" and power not in (0, 1):
            raise InputError(
                f"power={power} raises shares, which weighting='uniform' doesn't have; "
                "leave one of the two out"
            )
        if asymmetric and side != "both":
            raise InputError(
                f"side={side!r} and asymmetric=True both choose a side: asymmetric is the own "
                "sample's, whatever its share"
            )

    def forward(  # type: ignore[override]
        self, logits: Tensor, target: MixedTarget | MultiTarget
    ) -> Tensor:
        """Return the loss; see :meth:`Loss.forward`."""
        if not isinstance(target, MultiTarget) and not getattr(target, "is_index", False):
            check_logits("DecoupledCrossEntropy", logits, target)
        return super().forward(logits, target)

    def _decoupling(self) -> Decoupling:
        power = 0.0 if self.weighting == "uniform" else self.power
        return Decoupling(self.eta, power, "own" if self.asymmetric else self.side)


class DecoupledBCE(Loss):
    """DM(BCE): two-hot binary cross-entropy with rescaled weights (arXiv:2203.10761v3).

    .. code-block:: text

        ŷ       = h(λ) · a + h(1 - λ) · b,     h(λ) = min(1, (λ / t)^k)
        DM(BCE) = Σ_c BCE(sigmoid(z_c), ŷ_c),  averaged over samples

    ŷ is at most 1, also where a = b. In a multilabel task a and b are the samples' own vectors of 0
    and 1. Of samples mixed of more than two, ŷ sums over all.

    The authors sum over classes: a mean has 1/C of their loss and gradient, with which their
    learning rates train too little. None of their released configurations has this form: its t
    and k could not be compared with their code's.

    Args:
        t: the share from which on a class counts as wholly there; in (0, 1].
        k: the exponent; ≥ 0. k = 0 with t = 1 is plain two-hot.
        reduction: over samples: "mean", "sum", or "none", one value for each, (B,).
        over_classes: "sum", the authors' scale; "mean", 1/C of it, that of
            ``F.binary_cross_entropy_with_logits``.
        asymmetric: only the own side's share is rescaled: ŷ = h(λ) · a + (1 - λ) · b. The authors'
            semi-supervised form, where the partner's label is a guess.
    """

    tasks = ("classification", "multilabel")

    ranges: ClassVar = {"t": Range(0.5, 1), "k": Range(0, 2)}

    def __init__(
        self,
        t: float = 0.8,
        k: float = 1.0,
        reduction: str = "mean",
        *,
        over_classes: str = "sum",
        asymmetric: bool = False,
    ) -> None:
        super().__init__(reduction)
        self.t = check_range("t", t, 0, 1, open=True)
        self.k = check_range("k", k)
        self.over_classes = check_choice("over_classes", over_classes, ("sum", "mean"))
        self.asymmetric = asymmetric

    def forward(self, logits: Tensor, target: MixedTarget | MultiTarget) -> Tensor:
        """Return the loss; see :meth:`Loss.forward`."""
        if (
            isinstance(target, MixedTarget)
            and not target.is_index
            and target.a.shape == logits.shape
        ):
            return self._of_vectors(logits, target)
        if not fits(logits, target):
            check_logits("DecoupledBCE", logits, target)
        try:
            return self._of_logits(logits, target)
        except (IndexError, RuntimeError):
            check_logits("DecoupledBCE", logits, target)  # which index is wrong, if one is
            raise

    def _of_logits(self, logits: Tensor, target: MixedTarget | MultiTarget) -> Tensor:
        how = Rescaling(self.t, self.k, self.asymmetric)
        precise = torch.float64 if logits.dtype == torch.float64 else torch.float32
        if isinstance(target, MultiTarget):
            classes, shares = target.classes, target.weights.to(precise)
        else:
            lam = target.lam.to(precise)
            if target.weight is None and self.reduction != "none":
                samples = len(logits) if self.reduction == "mean" else 1
                scale = self._scale(logits) / max(1, samples)
                loss = multi_hot.total(logits, target.a, target.b, lam, how, scale)
                if loss is not None:
                    return loss
            classes = torch.stack([target.a, target.b], 1)
            shares = torch.stack([lam, 1 - lam], 1)
        each = multi_hot.from_logits(logits, classes.long(), multi_hot.rescaled(shares, how))
        if self.over_classes == "mean":
            each = each * self._scale(logits)
        return self._reduce(each, target)

    def _scale(self, logits: Tensor) -> float:
        return 1 / logits.shape[1] if self.over_classes == "mean" else 1.0

    def _of_vectors(self, logits: Tensor, target: MixedTarget) -> Tensor:
        z = wide(logits)
        lam, how = target.lam.to(z.dtype), Rescaling(self.t, self.k, self.asymmetric)
        own, partner = multi_hot.rescaled(torch.stack([lam, 1 - lam], 1), how).split(1, 1)
        soft = own * target.a.to(z.dtype) + partner * target.b.to(z.dtype)
        loss = F.binary_cross_entropy_with_logits(z, soft.clamp_max(1), reduction="none")
        return self._reduce(loss.sum(1) * self._scale(logits), target)
