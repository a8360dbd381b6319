"""The loss of mixed samples that have several classes each."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from mixwell.errors import InputError
from mixwell.losses.base import Loss, check_target, class_weight_buffer, wide
from mixwell.mix import MixedTarget

__all__ = ["MixedBCE"]


class MixedBCE(Loss):
    """Binary cross-entropy of each class against ``λ a + (1 - λ) b`` (multi-label mixup).

    The mean is over samples *and* classes, as in ``F.binary_cross_entropy_with_logits``: with λ = 1
    it is the loss that a multi-label network trains on without mixing, at whose scale its learning
    rate was chosen. :class:`DecoupledBCE` sums over classes instead, as its authors do: it has C
    times this scale, or the same with ``over_classes="mean"``.

    Args:
        pos_weight: (C,) weights of the positive part, as in ``F.binary_cross_entropy_with_logits``.
        reduction: "mean" and "sum" over samples and classes; "none" gives (B, C).
    """

    tasks = ("multilabel",)

    pos_weight: Tensor | None

    def __init__(
        self, pos_weight: Tensor | Sequence[float] | None = None, reduction: str = "mean"
    ) -> None:
        super().__init__(reduction)
        weight = class_weight_buffer(pos_weight, "pos_weight")
        self.register_buffer("pos_weight", weight, persistent=False)

    def unmixed(self) -> MixedBCE:
        return MixedBCE(self.pos_weight)

    def forward(self, logits: Tensor, target: MixedTarget) -> Tensor:
        """Return the loss.

        Args:
            logits: (B, C).
            target: of B samples, with (B, C) numbers in [0, 1].

        Returns:
            A scalar; with ``reduction="none"`` one value for each sample and class, (B, C).
        """
        check_target("MixedBCE", logits, target)
        if target.is_index or target.a.shape != logits.shape:
            raise InputError(
                f"MixedBCE: the target must hold (B, C) numbers in [0, 1] of logits' shape "
                f"{tuple(logits.shape)}, got {target.a.dtype} of shape {tuple(target.a.shape)}"
            )
        z = wide(logits)
        weight = self.pos_weight
        if weight is not None and len(weight) != z.shape[1]:
            raise InputError(
                f"pos_weight holds {len(weight)} weights, but logits have {z.shape[1]} classes"
            )
        loss = F.binary_cross_entropy_with_logits(
            z,
            target.dense().to(z.dtype),
            reduction="none",
            pos_weight=None if weight is None else weight.to(z.dtype),
        )
        return self._reduce(loss, target)
