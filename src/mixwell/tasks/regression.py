"""Real targets."""

from __future__ import annotations

from torch import Tensor

from mixwell.errors import InputError
from mixwell.losses import MixedMSE
from mixwell.tasks.base import Task, register

__all__ = ["Regression"]


@register
class Regression(Task):
    """Real targets: (B,) or (B, K), or (B, K, H, W), one for each position."""

    name = "regression"
    loss = MixedMSE
    has_classes = False

    def check_y(self, y: Tensor, num_classes: int | None) -> None:
        if not y.is_floating_point():
            raise InputError(
                f"y must hold real targets (B,) or (B, K) in regression, got {y.dtype} of "
                f"shape {tuple(y.shape)}; convert it with y.float()"
            )

    def check_logits(self, logits: Tensor, num_classes: int | None, owner: str) -> None:
        if not logits.ndim:
            raise InputError(f"{owner} must return predictions (B,) or (B, K); it returned one")

    def summed_loss(self, logits: Tensor, y: Tensor) -> Tensor:
        if logits.numel() != y.numel():
            raise InputError(
                f"predictions of shape {tuple(logits.shape)} don't fit targets of shape "
                f"{tuple(y.shape)}"
            )
        return (logits.reshape(y.shape) - y).square().sum()
