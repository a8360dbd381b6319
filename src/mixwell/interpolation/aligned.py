"""AlignMix: features are aligned in space before they are interpolated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mixwell import functional
from mixwell.batch import Batch
from mixwell.checks import Per, check_choice, check_range
from mixwell.errors import InputError
from mixwell.interpolation.base import Interpolation
from mixwell.mix import Mix
from mixwell.values import register
from mixwell.view import find_maps, named_as_layer

__all__ = ["AlignMix", "AlignedMix", "sinkhorn"]

_STEPS = 1 << 30
"""How finely the draw of the place is resolved."""


def sinkhorn(cost: Tensor, epsilon: Tensor | float, iterations: int) -> tuple[Tensor, Tensor]:
    """Return the entropic transport plan between positions of equal weight, normalised both ways.

    Args:
        cost: (B, r, r), between each of the first's positions and each of the second's.
        epsilon: ε > 0, the weight of the entropy, in units of the cost.
        iterations: of Sinkhorn's (Cuturi, 2013), in logarithms.

    Returns:
        Two of (B, r, r), one with rows and one with columns that sum to 1; when it has converged
        they are the same.
    """
    kernel = -cost / epsilon
    v = torch.zeros_like(cost[:, :1])
    u = v.mT
    for _ in range(iterations):
        u = -torch.logsumexp(kernel + v, 2, keepdim=True)
        v = -torch.logsumexp(kernel + u, 1, keepdim=True)
    return torch.softmax(kernel + v, 2), torch.softmax(kernel + u, 1)


@register
@dataclass(frozen=True, eq=False)
class AlignedMix(Mix):
    """A mix of features that are aligned first: what :class:`AlignMix` draws.

    Args:
        own_stays: (B,) bool: whether the partner's features are moved to the own ones' positions,
            or the own ones to the partner's.
    """

    own_stays: Tensor | None = None


class AlignMix(Interpolation):
    """Interpolate features that are aligned by optimal transport: AlignMixup (arXiv:2103.15375).

    .. code-block:: text

        R = argmin Σ_kl R_kl ‖f_k(x_i) - f_l(x_σ(i))‖² - ε H(R),   rows and columns sum to 1
        f̃_i = λ_i f(x_i) + (1 - λ_i) R f(x_σ(i))    or    λ_i Rᵀ f(x_i) + (1 - λ_i) f(x_σ(i))

    f is the output of a layer, r positions of d channels: the last one with positions by default.
    Which of the two samples keeps its geometry is drawn with equal chances, but at λ = 1 the own
    one does and at λ = 0 the partner. As in the paper half of the batches, by chance, are mixed
    linearly at the input instead; its variant with an autoencoder is left out. No gradient goes
    through the plan, as in the authors' code.

    It differs in this: ε is in units of a pair's mean cost, which differs between networks by more
    than an order of magnitude, and the plan is normalised once more in the direction that it is
    used in, so that aligned features are means of features. ``relative=False``, ``epsilon=0.1``
    and ``iterations=100`` are the published settings.

    Args:
        layer: the layer whose output, (B, d, h, w), is mixed, or "auto".
        aligned: the probability that a batch is mixed there, and not at the input.
        epsilon: ε ≥ 1e-6: the smaller, the nearer to a permutation, and the more iterations it
            takes.
        iterations: of Sinkhorn's; at ε = 0.02 the default leaves the other sums within 2 percent of
            1, in the mean over the features of a ResNet-18.
        relative: whether ε is in units of the mean cost.
        per: whether it is drawn for each "sample" or for the whole "batch" which one stays.
    """

    kept_as: ClassVar = {"layer": "name"}

    def __init__(
        self,
        layer: str = "auto",
        aligned: float = 0.5,
        epsilon: float = 0.02,
        iterations: int = 30,
        relative: bool = True,
        per: Per = "sample",
    ) -> None:
        super().__init__()
        if not isinstance(layer, str) or not layer or layer in ("input", "head"):
            raise InputError(
                "layer must be 'auto' or the name of a layer that returns feature maps ('.head' if "
                f"it is called so), got {layer!r}"
            )
        self.name = layer
        self.aligned = check_range("aligned", aligned, 0, 1)
        inside = "the last feature maps" if layer == "auto" else layer
        self.layers = [inside] if self.aligned == 1 else ["input", inside]
        self.epsilon = check_range("epsilon", epsilon, 1e-6)
        self.iterations = int(check_range("iterations", iterations, 1))
        self.relative = relative
        self.per = check_choice("per", per, ("sample", "batch"))

    def layer(self, batch: Batch, model: nn.Module) -> str | None:
        if batch.task.by_position or (not batch.task.has_classes and batch.y.ndim > 3):
            raise InputError(
                "AlignMix moves features, and a target for each position would have to follow: it "
                "is not defined for segmentation and dense real targets; mix by place or linearly"
            )
        name = self._layer(batch, model)
        aligns = batch.once((self, "aligns"), lambda: batch.choose(_STEPS) < self.aligned * _STEPS)
        return name if aligns else None

    def candidates(self, batch: Batch, model: nn.Module) -> list[str]:
        return [self._layer(batch, model)]

    def _layer(self, batch: Batch, model: nn.Module) -> str:
        if self.name != "auto":
            return self.name
        view = batch.view
        found = find_maps(model, batch.x, once=True) if view is None else view.last_maps(once=True)
        return named_as_layer(found.layer)

    def shape(self, batch: Batch, mix: Mix) -> Mix:
        # Where no layer was asked for (in a preview) it is the input.
        if not batch.once((self, "aligns"), lambda: False):
            return mix
        draws = 1 if self.per == "batch" else len(batch)
        own_stays = (batch.rand(draws) < 0.5).expand(len(batch))
        own_stays = (own_stays | (mix.lam == 1)) & (mix.lam > 0)
        return AlignedMix(mix.partner, mix.lam, own_stays=own_stays)

    def forward(self, x: Any, mix: Mix) -> Any:
        if not isinstance(mix, AlignedMix):
            return functional.mix(x, mix)
        if not isinstance(x, Tensor) or x.ndim != 4:
            got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise InputError(
                f"AlignMix: layer {self.name!r} must return feature maps (B, d, h, w), got {got}"
            )
        assert mix.own_stays is not None
        features = x.flatten(2).mT.to(torch.promote_types(x.dtype, torch.float32))
        theirs = features.index_select(0, mix.partner)
        stays = mix.own_stays[:, None, None]
        with torch.autocast(x.device.type, enabled=False):
            to_own, to_theirs = self._plans(features.detach(), theirs.detach())
            # One sample's features where they are, the other's moved there.
            first = torch.where(stays, features, to_theirs.mT @ features)
            second = torch.where(stays, to_own @ theirs, theirs)
        mixed = torch.lerp(second, first, mix.lam.to(features.dtype)[:, None, None])
        return mixed.mT.reshape(x.shape).to(x.dtype)

    def _plans(self, features: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
        cost = torch.cdist(features, theirs).square()
        epsilon: Tensor | float = self.epsilon
        if self.relative:
            mean = cost.mean((1, 2), keepdim=True)
            epsilon = self.epsilon * torch.where(mean > 0, mean, 1.0)
        return sinkhorn(cost, epsilon, self.iterations)
