"""Moving features toward the centre of the partner's class: AM's second reading."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mixwell.batch import Batch
from mixwell.checks import check_choice, check_range
from mixwell.errors import InputError
from mixwell.interpolation.linear import Linear
from mixwell.mix import Mix
from mixwell.values import register

__all__ = ["CentredMix", "Centres"]


@register
@dataclass(frozen=True, eq=False)
class CentredMix(Mix):
    """A mix with centres of classes: what :class:`Centres` draws.

    Args:
        classes: (B,) int64, the samples' classes.
    """

    classes: Tensor | None = None


class Centres(Linear):
    """Move features toward the partner's, or toward its class's centre (AM, arXiv:2401.14696).

    .. code-block:: text

        pairs="samples":  f̂_i = λ_i f_i + (1 - λ_i) f_σ(i)
        pairs="centres":  f̂_i = λ_i f_i + (1 - λ_i) c_k,   k = y_σ(i)
                          c_k ← m c_k + (1 - m) mean of the batch's features of class k

    Sources differ on which of the two the paper means. A centre is the batch's mean the first time
    that its class is seen; no gradient goes through it. With the pairing :class:`InterClass
    <mixwell.pairing.InterClass>` k is a random other class, drawn by the samples that it has in the
    batch. Centres are saved by ``state_dict()``; each process has its own.

    Args:
        pairs: "samples" or "centres".
        layer: where to mix; see :class:`Linear`. Of several layers each would need its own centres:
            for centres it is one.
        momentum: m in [0, 1]; 0 takes the batch's means.
        classes: how many classes there may be, at most; the centres take ``classes * d`` numbers.
    """

    centres: Tensor
    seen: Tensor

    def __init__(
        self,
        pairs: str = "samples",
        layer: str | Sequence[str] = "head",
        momentum: float = 0.9,
        classes: int = 1000,
    ) -> None:
        super().__init__(layer)
        self.pairs = check_choice("pairs", pairs, ("samples", "centres"))
        self.momentum = check_range("momentum", momentum, 0, 1)
        self.classes = int(check_range("classes", classes, 2))
        if pairs == "centres" and (len(self.layers) > 1 or self.layers[0] in ("input", "auto")):
            raise InputError(
                "pairs='centres' moves the features of one layer, 'head' or a layer's name, got "
                f"layer={layer!r}"
            )
        saved = pairs == "centres"
        self.register_buffer("centres", torch.empty(0, 0, dtype=torch.float32), persistent=saved)
        self.register_buffer("seen", torch.empty(0, dtype=torch.bool), persistent=saved)

    def shape(self, batch: Batch, mix: Mix) -> Mix:
        if self.pairs == "samples":
            return mix
        classes = batch.classes
        if classes.device.type == "cpu" and not torch.compiler.is_compiling():
            most = int(classes.max())
            if most >= self.classes:
                raise InputError(
                    f"Centres has room for classes={self.classes} classes, but y has values up to "
                    f"{most}: give classes={most + 1} or more"
                )
        return CentredMix(mix.partner, mix.lam, classes=classes)

    def forward(self, x: Any, mix: Mix) -> Any:
        if not isinstance(mix, CentredMix):
            return super().forward(x, mix)
        if not isinstance(x, Tensor):
            raise InputError(
                f"layer {self.layers[0]!r} must return one tensor to have centres, got "
                f"{type(x).__name__}"
            )
        assert mix.classes is not None
        precise = torch.promote_types(x.dtype, torch.float32)
        with torch.no_grad():
            self._follow(x.detach().flatten(1).to(precise), mix.classes)
            toward = self.centres.index_select(0, mix.classes.index_select(0, mix.partner))
        lam = mix.lam.to(precise).view(-1, *[1] * (x.ndim - 1))
        return torch.lerp(toward.view(x.shape).to(precise), x.to(precise), lam).to(x.dtype)

    def _follow(self, features: Tensor, classes: Tensor) -> None:
        """Move the centres toward the means of a batch's features (B, d)."""
        shape = (self.classes, features.shape[1])
        if self.centres.shape != shape:
            self.centres = features.new_zeros(shape)
            self.seen = torch.zeros(shape[0], dtype=torch.bool, device=features.device)
        total = features.new_zeros(shape).index_add_(0, classes, features)
        ones = torch.ones_like(features[:, 0])
        count = features.new_zeros(shape[0]).index_add_(0, classes, ones)
        mean = total / count.clamp_min(1)[:, None]
        keep = torch.where(self.seen, self.momentum, 0.0).to(mean.dtype)[:, None]
        moved = torch.lerp(mean, self.centres.to(mean), keep)
        here = count > 0
        self.centres = torch.where(here[:, None], moved, self.centres.to(mean))
        self.seen = self.seen | here

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        for name in ("centres", "seen"):  # they have their size from the first step on
            saved = state_dict.get(prefix + name)
            if saved is not None and saved.shape != getattr(self, name).shape:
                setattr(self, name, torch.empty_like(saved, device=self.seen.device))
        if len(self.seen) not in (0, self.classes):
            raise InputError(
                f"classes={self.classes}, but the checkpoint has centres of {len(self.seen)}: "
                f"create the method with classes={len(self.seen)}"
            )
        super()._load_from_state_dict(state_dict, prefix, *args)
