"""What is the label of a mixed sample? Each answer maps a batch and its mix to a MixedTarget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from mixwell import functional
from mixwell.batch import Batch, Range, check_range
from mixwell.errors import InputError
from mixwell.mix import Mix, MixedTarget

__all__ = ["HeavierSide", "Labels", "OneSided", "Remix", "Soft"]


class Labels(nn.Module):
    """Base class of the labels."""

    def forward(self, batch: Batch, mix: Mix, lam: Tensor) -> MixedTarget:
        """Return the targets.

        Args:
            batch: the unmixed batch.
            mix: how its inputs are mixed.
            lam: (B,), the targets' λ: the inputs' true one unless the coefficient has another.
        """
        raise NotImplementedError

    @staticmethod
    def _pair(batch: Batch, mix: Mix, lam: Tensor, weight: Tensor | None = None) -> MixedTarget:
        return MixedTarget(batch.y, batch.y.index_select(0, mix.partner), lam, weight)


class Soft(Labels):
    """Both labels, weighted as the inputs are: mixup's ``λ y_i + (1 - λ) y_σ(i)``."""

    def forward(self, batch: Batch, mix: Mix, lam: Tensor) -> MixedTarget:
        return self._pair(batch, mix, lam)


class OneSided(Labels):
    """The own label alone, for mixes on the own side of the midpoint (AM, arXiv:2401.14696).

    A sample that found no partner is left out: its weight in the loss is 0.
    """

    def forward(self, batch: Batch, mix: Mix, lam: Tensor) -> MixedTarget:
        alone = mix.partner == torch.arange(len(mix), device=mix.partner.device)
        return self._pair(batch, mix, torch.ones_like(lam), (~alone).to(lam.dtype))


class HeavierSide(Labels):
    """The label of the heavier sample alone; the own one at λ = 1/2 (MixupIO)."""

    def forward(self, batch: Batch, mix: Mix, lam: Tensor) -> MixedTarget:
        return self._pair(batch, mix, (lam >= 0.5).to(lam.dtype))


class Remix(Labels):
    """Remix's label weight for long tails (arXiv:2007.03943).

    See :func:`functional.remix_lambda <mixwell.functional.remix_lambda>`.

    Args:
        class_counts: (C,) training samples of each class.
        kappa: how much more frequent a class must be to give way; ≥ 1.
        t: how little there may be of it in the sample; in [0, 1].
    """

    counts: Tensor

    ranges: ClassVar = {"kappa": Range(1.5, 10, log=True), "t": Range(0.2, 0.8)}

    def __init__(
        self, class_counts: Tensor | Sequence[float], kappa: float = 3.0, t: float = 0.5
    ) -> None:
        super().__init__()
        counts = torch.as_tensor(class_counts, dtype=torch.float32)
        if counts.ndim != 1 or len(counts) < 2 or not bool((counts > 0).all()):
            raise InputError(
                "class_counts must hold a positive count for each of two classes or more, "
                f"got {counts.tolist()}"
            )
        self.register_buffer("counts", counts, persistent=False)
        self.kappa = check_range("kappa", kappa, 1)
        self.t = check_range("t", t, 0, 1)

    def forward(self, batch: Batch, mix: Mix, lam: Tensor) -> MixedTarget:
        count = self.counts[batch.classes]
        partner_count = count.index_select(0, mix.partner)
        return self._pair(
            batch, mix, functional.remix_lambda(lam, count, partner_count, self.kappa, self.t)
        )

    def extra_repr(self) -> str:
        return f"class_counts={self.counts.tolist()}, kappa={self.kappa}, t={self.t}"
