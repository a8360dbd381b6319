"""The mixed cross-entropy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mixwell.checks import check_range
from mixwell.errors import InputError
from mixwell.kernels import two_class
from mixwell.losses import many
from mixwell.losses.base import (
    Loss,
    by_position,
    check_features,
    check_logits,
    check_target,
    class_weight_buffer,
    fits,
    share,
    wide,
)
from mixwell.mix import MixedTarget, MultiTarget
from mixwell.values import check_kind, check_place

__all__ = ["MixedCrossEntropy"]


def _wide(lam: Tensor, logits: Tensor) -> Tensor:
    precise = torch.float64 if logits.dtype == torch.float64 else torch.float32
    return lam if lam.dtype == precise else lam.to(precise)


class MixedCrossEntropy(Loss):
    """Mixup's loss (arXiv:1710.09412), from two class indices and a weight.

    .. code-block:: text

        MCE_i = -λ_i log p_i[a_i] - (1 - λ_i) log p_i[b_i],     p = softmax(z)

    It equals the cross-entropy with dense soft labels, without building them.

    Args:
        class_weight: (C,) weights w. As in ``F.cross_entropy`` the mean is then weighted:
            divided by Σ_i λ_i w[a_i] + (1 - λ_i) w[b_i].
        label_smoothing: ε in [0, 1]: the targets become (1 - ε) ỹ + ε / C.
        ignore_index: in segmentation, the class of positions that are left out. Where it is one of
            the two, the other remains, weighted by its share.
        reduction: "mean", "sum" or "none".

    >>> loss = MixedCrossEntropy()
    >>> target = MixedTarget(torch.tensor([0]), torch.tensor([1]), torch.tensor([0.25]))
    >>> round(float(loss(torch.tensor([[1.0, 2.0]]), target)), 4)
    0.5633
    """

    tasks = ("classification", "segmentation")

    class_weight: Tensor | None

    def __init__(
        self,
        class_weight: Tensor | Sequence[float] | None = None,
        label_smoothing: float = 0.0,
        reduction: str = "mean",
        ignore_index: int = -100,
    ) -> None:
        super().__init__(reduction)
        self.ignore_index = ignore_index
        self.register_buffer("class_weight", class_weight_buffer(class_weight), persistent=False)
        self.label_smoothing = check_range("label_smoothing", label_smoothing, 0, 1)

    def forward(self, logits: Tensor, target: MixedTarget | MultiTarget | Tensor) -> Tensor:
        """Return the loss.

        Args:
            logits: (B, C); (B, C, H, W) for a target by position.
            target: a MixedTarget, a MultiTarget, or dense probabilities (B, C).

        Returns:
            A scalar, or (B,) with ``reduction="none"``, (B, H, W) by position; in float32 at least.
        """
        if isinstance(target, Tensor):
            return self._dense(logits, target)
        if isinstance(target, MixedTarget):
            if not target.is_index:
                return self._dense(logits, target)
            if target.by_position:
                check_target(type(self).__name__, logits, target)
                loss = self.forward(*by_position(logits, target, self.ignore_index))
                return loss.view(target.a.shape) if self.reduction == "none" else loss
        if not fits(logits, target):
            check_logits(type(self).__name__, logits, target)
        try:
            return self._of_logits(logits, target)
        except (IndexError, RuntimeError):
            check_logits(type(self).__name__, logits, target)  # which index is wrong, if one is
            raise

    def unmixed(self) -> MixedCrossEntropy:
        return MixedCrossEntropy(self.class_weight, ignore_index=self.ignore_index)

    def _of_logits(self, logits: Tensor, target: MixedTarget | MultiTarget) -> Tensor:
        if isinstance(target, MultiTarget):
            return self._two_class(many.from_logits, logits.shape[1], (logits,), target)
        weighted = target.weight is not None or self.class_weight is not None
        if self.reduction == "mean" and not weighted and not self.label_smoothing:
            lam = _wide(target.lam, logits)
            how = self._decoupling()
            loss = two_class.mean_from_logits(logits, target.a, target.b, lam, how)
            if loss is not None:
                return loss
        return self._two_class(two_class.from_logits, logits.shape[1], (logits,), target)

    def from_features(
        self,
        features: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        target: MixedTarget | MultiTarget,
    ) -> Tensor:
        """Return the same loss from the last layer's input: the logits never exist whole.

        They are computed in chunks of classes, once for the loss and once for the gradient, which
        leaves little beside the gradients themselves in memory: a million classes fit.

        Args:
            features: (B, d), the input of the last linear layer.
            weight: (C, d), its weight.
            bias: (C,), its bias, or None.
            target: class indices of B samples.
        """
        check_features(type(self).__name__, features, weight, bias, target)
        layer = (features, weight, bias)
        kernel = many if isinstance(target, MultiTarget) else two_class
        return self._two_class(kernel.from_features, len(weight), layer, target)

    def _two_class(
        self,
        compute: Callable[..., Tensor],
        num_classes: int,
        inputs: tuple[Tensor | None, ...],
        target: MixedTarget | MultiTarget,
    ) -> Tensor:
        """Return the reduced loss: ``compute`` gives each sample's, of logits or features."""
        first = inputs[0]
        assert first is not None
        if isinstance(target, MultiTarget):
            index = target.classes.long()
            shares = _wide(target.weights, first)
            alpha, eta = many.weights_of(shares, index, self._decoupling())
        else:
            index = torch.stack([target.a, target.b], 1).long()
            alpha, eta = two_class.weights_of(_wide(target.lam, first), self._decoupling())
        class_weight = self._class_weight(num_classes, alpha)
        class_share = smoothing = None
        if class_weight is not None:
            chosen = class_weight[index]
            alpha = alpha * chosen
            eta = None if eta is None else eta * chosen
            class_share = alpha.sum(1)
        if self.label_smoothing:
            mean, v = (1.0, None) if class_weight is None else (
                class_weight.mean(), class_weight / num_classes
            )  # fmt: skip
            smoothing = two_class.Smoothing(self.label_smoothing, mean, v)
            alpha = alpha * (1 - self.label_smoothing)
        return self._reduce(compute(*inputs, index, alpha, eta, smoothing), target, class_share)

    def _decoupling(self) -> two_class.Decoupling:
        """Return what the decoupled terms weigh."""
        return two_class.COUPLED

    def _class_weight(self, num_classes: int, like: Tensor) -> Tensor | None:
        weight = self.class_weight
        if weight is not None and len(weight) != num_classes:
            raise InputError(
                f"class_weight holds {len(weight)} weights, but logits have {num_classes} classes"
            )
        return None if weight is None else weight.to(like)

    def _dense(self, logits: Tensor, target: MixedTarget | Tensor) -> Tensor:
        owner = type(self).__name__
        soft = target if isinstance(target, Tensor) else target.dense()
        check_kind(owner, "floating", logits=logits, target=soft)
        check_place(owner, logits=logits, target=soft)
        if logits.ndim != 2 or soft.shape != logits.shape:
            raise InputError(
                f"{owner}: target must be a MixedTarget or floating probabilities of "
                f"logits' shape {tuple(logits.shape)}, got {soft.dtype} of shape "
                f"{tuple(soft.shape)}"
            )
        z = wide(logits)
        soft = soft.to(z.dtype)
        weight = self._class_weight(z.shape[1], z)
        class_share = None if weight is None else soft @ weight
        if self.label_smoothing:
            soft = torch.lerp(soft, torch.full_like(soft, 1 / z.shape[1]), self.label_smoothing)
        if weight is not None:
            soft = soft * weight
        loss = -share(soft, F.log_softmax(z, dim=1)).sum(1)
        return self._reduce(loss, None if isinstance(target, Tensor) else target, class_share)
