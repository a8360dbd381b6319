"""The mixed cross-entropy."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mixwell.batch import check_range
from mixwell.errors import InputError
from mixwell.losses.base import Loss, check_logits, class_weight_buffer, share, wide
from mixwell.mix import MixedTarget

__all__ = ["MixedCrossEntropy"]


class MixedCrossEntropy(Loss):
    """Mixup's loss (arXiv:1710.09412), from two class indices and a weight.

    .. code-block:: text

        MCE_i = -λ_i log p_i[a_i] - (1 - λ_i) log p_i[b_i],     p = softmax(z)

    It equals the cross-entropy with dense soft labels, without building them.

    Args:
        class_weight: (C,) weights w. As in ``F.cross_entropy`` the mean is then weighted:
            divided by Σ_i λ_i w[a_i] + (1 - λ_i) w[b_i].
        label_smoothing: ε in [0, 1]: the targets become (1 - ε) ỹ + ε / C.
        reduction: "mean", "sum" or "none".

    >>> loss = MixedCrossEntropy()
    >>> target = MixedTarget(torch.tensor([0]), torch.tensor([1]), torch.tensor([0.25]))
    >>> round(float(loss(torch.tensor([[1.0, 2.0]]), target)), 4)
    0.5633
    """

    class_weight: Tensor | None

    def __init__(
        self,
        class_weight: Tensor | Sequence[float] | None = None,
        label_smoothing: float = 0.0,
        reduction: str = "mean",
    ) -> None:
        super().__init__(reduction)
        self.register_buffer("class_weight", class_weight_buffer(class_weight), persistent=False)
        self.label_smoothing = check_range("label_smoothing", label_smoothing, 0, 1)

    def forward(self, logits: Tensor, target: MixedTarget | Tensor) -> Tensor:
        """Return the loss.

        Args:
            logits: (B, C).
            target: a MixedTarget, or dense probabilities (B, C).

        Returns:
            A scalar, or (B,) with ``reduction="none"``; in float32 at least.
        """
        if isinstance(target, Tensor) or not target.is_index:
            return self._dense(logits, target)
        check_logits("MixedCrossEntropy", logits, target)
        z = wide(logits)
        log_z = torch.logsumexp(z, dim=1)
        own, partner = (log_z - z.gather(1, y[:, None])[:, 0] for y in (target.a, target.b))
        return self._combine(z, log_z, target, own, partner)

    def _class_weight(self, z: Tensor) -> Tensor | None:
        weight = self.class_weight
        if weight is not None and len(weight) != z.shape[1]:
            raise InputError(
                f"class_weight holds {len(weight)} weights, but logits have {z.shape[1]} classes"
            )
        return None if weight is None else weight.to(z)

    def _combine(
        self,
        z: Tensor,
        log_z: Tensor,
        target: MixedTarget,
        own: Tensor,
        partner: Tensor,
        regularizer: Tensor | None = None,
    ) -> Tensor:
        """Weigh and smooth the (B,) losses of the two sides, add the regularizer, reduce."""
        lam = target.lam.to(z.dtype)
        weight = self._class_weight(z)
        class_share = None
        if weight is not None:
            own_weight, partner_weight = weight[target.a], weight[target.b]
            own, partner = own_weight * own, partner_weight * partner
            class_share = torch.lerp(partner_weight, own_weight, lam)
        loss = share(lam, own) + share(1 - lam, partner)
        if self.label_smoothing:
            if weight is None:
                smooth = log_z - z.mean(1)
            else:
                smooth = log_z * weight.mean() - z @ (weight / len(weight))
            loss = torch.lerp(loss, smooth, self.label_smoothing)
        if regularizer is not None:
            loss = loss + regularizer
        return self._reduce(loss, target, class_share)

    def _dense(self, logits: Tensor, target: MixedTarget | Tensor) -> Tensor:
        soft = target if isinstance(target, Tensor) else target.dense()
        if logits.ndim != 2 or soft.shape != logits.shape or not soft.is_floating_point():
            raise InputError(
                "MixedCrossEntropy: target must be a MixedTarget or floating probabilities of "
                f"logits' shape {tuple(logits.shape)}, got {soft.dtype} of shape "
                f"{tuple(soft.shape)}"
            )
        z = wide(logits)
        soft = soft.to(z.dtype)
        weight = self._class_weight(z)
        class_share = None if weight is None else soft @ weight
        if self.label_smoothing:
            soft = torch.lerp(soft, torch.full_like(soft, 1 / z.shape[1]), self.label_smoothing)
        if weight is not None:
            soft = soft * weight
        loss = -share(soft, F.log_softmax(z, dim=1)).sum(1)
        return self._reduce(loss, None if isinstance(target, Tensor) else target, class_share)

    def extra_repr(self) -> str:
        weight = None if self.class_weight is None else self.class_weight.tolist()
        return (
            f"class_weight={weight}, label_smoothing={self.label_smoothing}, {super().extra_repr()}"
        )
