"""The cross-entropies of samples that are mixed of k: what those of two classes are for pairs.

With c_1, ..., c_k the classes that are mixed, D the set of them, R = log Σ_{c ∉ D} exp z_c and Z
the whole sum,

.. code-block:: text

    ℓ = Σ_j α_j (log Z - z[c_j]) + η_j log(1 + exp(R - z[c_j]))  +  ε (w̄ log Z - v · z)

mixed cross-entropy where η = 0, decoupled mixup otherwise: all of the mixed classes are left out of
each other's softmax. A class that comes twice counts once in D, with the sum of its weights.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mixwell.kernels import must_be_plain, two_class
from mixwell.kernels.two_class import COUPLED, Decoupling, Smoothing, pull_of
from mixwell.mix import MixedTarget, MultiTarget

__all__ = ["from_features", "from_logits", "largest_share", "merged", "repeated", "weights_of"]


def repeated(classes: Tensor) -> Tensor:
    """Return which classes (B, k) have come before in their row: (B, k) bool."""
    return (classes[:, :, None] == classes[:, None, :]).tril(-1).any(2)


def _of_one_class(classes: Tensor) -> Tensor:
    return (classes == classes[:, :1]).all(1)


def merged(classes: Tensor, weights: Tensor) -> Tensor:
    """Return the weight of each class where it comes first in its row, 0 where again: (B, k)."""
    same = classes[:, :, None] == classes[:, None, :]
    total = torch.where(same, weights[:, None, :], 0.0).sum(2)
    return torch.where(repeated(classes), 0.0, total)


def largest_share(target: MixedTarget | MultiTarget) -> Tensor:
    """Return the greatest probability in each mixed label: (B,)."""
    if isinstance(target, MultiTarget):
        largest = merged(target.classes, target.weights).amax(1)
        return torch.where(_of_one_class(target.classes), 1.0, largest)
    if not target.is_index:
        return target.dense().amax(1)
    return torch.where(target.a == target.b, 1.0, torch.maximum(target.lam, 1 - target.lam))


def weights_of(
    weights: Tensor, classes: Tensor, how: Decoupling = COUPLED
) -> tuple[Tensor, Tensor | None]:
    """Return α = ``weights``, and η of each class where it comes first; None if all 0.

    Args:
        weights: (B, k).
        classes: (B, k).
        how: the decoupled terms. A class that comes twice has the sum of its shares, but for
            side "own", where the partners' share of it stays theirs.
    """
    if not how.pull:
        return weights, None
    if how.side == "own":
        eta = pull_of(weights, how)
    else:
        again = repeated(classes)
        eta = pull_of(torch.where(again, 1.0, merged(classes, weights)), how, again)
    # One class alone has nothing to compete with.
    return weights, torch.where(_of_one_class(classes)[:, None], 0.0, eta)


def _weighted(weight: Tensor, value: Tensor) -> Tensor:
    """Return Σ_j weight · value, 0 where a weight is 0 even if its value is infinite."""
    return torch.where(weight > 0, weight * value, 0.0).sum(1)


def _of_rest(
    chosen: Tensor, rest: Tensor, index: Tensor, alpha: Tensor, eta: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the loss without smoothing and log Z, from the mixed classes' logits and R."""
    distinct = chosen.masked_fill(repeated(index), -torch.inf)
    log_z = torch.cat([rest[:, None], distinct], 1).logsumexp(1)
    loss = _weighted(alpha, log_z[:, None] - chosen)
    if eta is not None:
        loss = loss + _weighted(eta, F.softplus(rest[:, None] - chosen, threshold=80.0))
    return loss, log_z


def from_logits(
    z: Tensor, index: Tensor, alpha: Tensor, eta: Tensor | None, smoothing: Smoothing | None = None
) -> Tensor:
    """Return the loss of each sample, (B,), in O(B C) memory whatever k.

    Args:
        z: (B, C) logits of any floating dtype.
        index: (B, k) int64, the mixed classes.
        alpha: (B, k) ≥ 0, in float32 at least: the precision of the computation.
        eta: (B, k) ≥ 0; None for 0.
        smoothing: None without.
    """
    z = z.to(alpha.dtype)
    chosen = z.gather(1, index)
    if eta is None:
        log_z = z.logsumexp(1)
        loss = _weighted(alpha, log_z[:, None] - chosen)
    else:
        rest = z.scatter(1, index, torch.finfo(z.dtype).min).logsumexp(1)
        loss, log_z = _of_rest(chosen, rest, index, alpha, eta)
    if smoothing is not None:
        dot = z.mean(1) if smoothing.v is None else z @ smoothing.v.to(z.dtype)
        loss = loss + smoothing.epsilon * (log_z * smoothing.mean - dot)
    return loss


class _FromFeatures(torch.autograd.Function):
    """The mixed classes' logits (B, k), and R (B,): a chunk of the classes' logits at a time."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        index: Tensor,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        flat = index.flatten()
        rows = weight.index_select(0, flat).to(features.dtype).view(*index.shape, -1)
        chosen = (rows @ features[:, :, None])[:, :, 0].to(dtype)
        if bias is not None:
            chosen = chosen + bias.index_select(0, flat).view_as(index).to(dtype)
        rest = torch.full_like(chosen[:, 0], -torch.inf)
        for part in two_class._chunks(features, weight):
            z = two_class._logits(features, weight, bias, part)
            two_class._exclude_(z, index, part)
            rest = torch.logaddexp(rest, z.logsumexp(1).to(dtype))
        ctx.save_for_backward(features, weight, bias, index, rest)
        return chosen, rest

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        features, weight, bias, index, rest = ctx.saved_tensors
        for_chosen, for_rest = gradients
        for_features, for_weight, for_bias = ctx.needs_input_grad[:3]
        d_features = torch.zeros(features.shape, dtype=rest.dtype, device=features.device)
        d_weight = torch.empty_like(weight) if for_weight else None
        d_bias = torch.empty_like(bias) if for_bias else None
        for part in two_class._chunks(features, weight):
            z = two_class._logits(features, weight, bias, part)
            two_class._exclude_(z, index, part)
            z.sub_(rest[:, None]).exp_().mul_(for_rest[:, None])
            local, inside = two_class._within(index, part)
            z.scatter_add_(1, local, for_chosen.masked_fill(~inside, 0.0).to(z.dtype))
            if d_bias is not None:
                d_bias[part] = z.sum(0)
            z = z.to(features.dtype)
            if d_weight is not None:
                d_weight[part] = z.T @ features
            if for_features:
                d_features += z @ weight[part].to(z.dtype)
        return d_features.to(features.dtype) if for_features else None, d_weight, d_bias, None, None


def from_features(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    index: Tensor,
    alpha: Tensor,
    eta: Tensor | None,
    smoothing: Smoothing | None = None,
) -> Tensor:
    """Return the same from the input of the last layer; the logits never exist whole.

    Args:
        features: (B, d).
        weight: (C, d).
        bias: (C,) or None.
        index: (B, k) int64.
        alpha: (B, k), in float32 at least.
        eta: (B, k) or None.
        smoothing: None without.
    """
    if must_be_plain():
        z = F.linear(features, weight.to(features.dtype), bias)
        return from_logits(z, index, alpha, eta, smoothing)
    chosen, rest = _FromFeatures.apply(features, weight, bias, index, alpha.dtype)
    loss, log_z = _of_rest(chosen, rest, index, alpha, eta)
    if smoothing is not None:
        # v · z is one product: it needs no logits.
        v = weight.new_full((len(weight),), 1 / len(weight)) if smoothing.v is None else smoothing.v
        v = v.to(weight.dtype)
        dot = (features @ (v @ weight).to(features.dtype)).to(alpha.dtype)
        if bias is not None:
            dot = dot + (bias @ v.to(bias.dtype)).to(alpha.dtype)
        loss = loss + smoothing.epsilon * (log_z * smoothing.mean - dot)
    return loss
