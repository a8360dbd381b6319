"""The binary cross-entropy of samples with a few classes each, its gradient in closed form.

With y_c > 0 for the classes that are there and z the logits,

.. code-block:: text

    ℓ = Σ_c log(1 + exp z_c) - y_c z_c,     ∂ℓ/∂z_c = sigmoid(z_c) - y_c

so neither a (B, C) label is built nor anything kept but the gradient. Where z_c is large and y_c
near 1 the two parts of ℓ cancel: of the classes that are there it is (1 - y) z + log(1 + exp -z).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mixwell.kernels import cpu, must_be_plain, native, two_class
from mixwell.kernels.memory import recycled
from mixwell.kernels.two_class import wide

__all__ = ["Rescaling", "from_logits", "plain", "rescaled", "total"]


class Rescaling(NamedTuple):
    """What a class's share becomes: ``min(1, (share / t)^k)``.

    Attributes:
        t: the share from which on it is 1; > 0.
        k: the exponent; ≥ 0.
        own_alone: whether the partners' shares stay as they are.
    """

    t: float
    k: float
    own_alone: bool = False


def rescaled(shares: Tensor, how: Rescaling) -> Tensor:
    """Return what shares (B, k) become, the own sample's first."""
    share = shares / how.t
    if how.k != 1:
        share = share.pow(how.k)
    share = share.clamp_max(1)
    return torch.cat([share[:, :1], shares[:, 1:]], 1) if how.own_alone else share


def _merged(index: Tensor, share: Tensor) -> Tensor:
    """Return y of each of the classes (B, k), at most 1; one that comes again has it again."""
    same = index[:, :, None] == index[:, None, :]
    return torch.where(same, share[:, None, :], 0.0).sum(2).clamp_max(1)


def _there(z: Tensor, y: Tensor) -> Tensor:
    """Return log(1 + exp z) - y z: infinite where it is, and nothing cancels."""
    up, down = torch.where(z > 0, z, 0.0), torch.where(z > 0, 0.0, z)
    certain = torch.where(y < 1, (1 - y) * up, 0.0) + F.softplus(-up, threshold=80.0)
    doubtful = F.softplus(down, threshold=80.0) + torch.where(y > 0, y * -down, 0.0)
    return torch.where(z > 0, certain, doubtful)


def plain(z: Tensor, index: Tensor, share: Tensor) -> Tensor:
    """Return the loss of each sample, (B,), by torch's own operations.

    Args:
        z: (B, C) logits, in float32 at least.
        index: (B, k) int64.
        share: (B, k) ≥ 0.
    """
    there = _there(z.gather(1, index), _merged(index, share))
    loss = F.softplus(z, threshold=80.0)
    # One after the other: of a class that comes twice the last one's gradient counts, not both.
    for y, part in zip(index.split(1, 1), there.split(1, 1), strict=True):
        loss = loss.scatter(1, y, part)
    return loss.sum(1)


class _FromLogits(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, index: Tensor, share: Tensor) -> Tensor:
        precise, y = wide(z), _merged(index, share)
        chosen = precise.gather(1, index)
        # What :func:`_there` is, and its derivative, from what both have in common.
        far, right = chosen.abs(), chosen > 0
        rest, low = torch.where(right, 1 - y, y), torch.sigmoid(-far)
        there = F.softplus(-far, threshold=80.0) + torch.where(rest > 0, rest * far, 0.0)
        slope = rest - low
        ctx.save_for_backward(z, index, share, torch.where(right, slope, -slope))
        return F.softplus(precise, threshold=80.0).scatter_(1, index, there).sum(1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        z, index, share, slope = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _again(z, index, share, gradients[0]), None, None
        r = torch.sigmoid(wide(z)).scatter_(1, index, slope)
        r *= gradients[0][:, None]
        return r.to(z.dtype), None, None


class _Compiled(torch.autograd.Function):
    """:class:`_FromLogits` by the compiled kernel."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, index: Tensor, share: Tensor, grad: bool) -> Tensor:
        r = recycled.empty_like(z) if grad and ctx.needs_input_grad[0] else None
        ctx.save_for_backward(z, index, share)
        ctx.r = r
        loss = z.new_empty(z.shape[0])
        _run(z, index, share, r, loss)
        return loss

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        z, index, share = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _again(z, index, share, gradients[0]), None, None, None
        r, ctx.r = ctx.r, None
        if r is None:  # a second pass through the same graph
            r = torch.empty_like(z)
            _run(z, index, share, r, z.new_empty(z.shape[0]))
        r *= gradients[0][:, None]
        return r, None, None, None


class _CompiledTotal(torch.autograd.Function):
    """``scale`` times the sum of pairs' losses: the gradient is ready where the loss is."""

    @staticmethod
    def forward(
        ctx: Any,
        z: Tensor,
        a: Tensor,
        b: Tensor,
        lam: Tensor,
        how: tuple[Rescaling, float],
        grad: bool,
    ) -> Tensor:
        r = recycled.empty_like(z) if grad and ctx.needs_input_grad[0] else None
        ctx.save_for_backward(z, a, b, lam)
        ctx.r, ctx.how = r, how
        return _pairs_into(r, z, a, b, lam, *how)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        upstream, (r, ctx.r) = gradients[0], (ctx.r, None)
        if r is None or torch.is_grad_enabled():
            z, a, b, lam = ctx.saved_tensors  # not asked for in vain: it takes a while
            if torch.is_grad_enabled():
                how, scale = ctx.how
                each = upstream.expand(z.shape[0]) * scale
                share = rescaled(torch.stack([lam, 1 - lam], 1), how)
                grad = _again(z, torch.stack([a, b], 1), share, each)
                return grad, None, None, None, None, None
            r = torch.empty_like(z)  # a second pass through the same graph
            _pairs_into(r, z, a, b, lam, *ctx.how)
        if upstream.item() != 1:
            r *= upstream
        return r, None, None, None, None, None


def _pairs_into(
    r: Tensor | None,
    z: Tensor,
    a: Tensor,
    b: Tensor,
    lam: Tensor,
    how: Rescaling,
    scale: float,
) -> Tensor:
    """Return ``scale`` times the sum of the losses; its gradient goes to ``r``."""
    loss = z.new_empty(z.shape[0])
    cpu.run(
        lambda rows: native.two_hot(z, a, b, lam, how, scale, r, loss, rows), two_class._rows(z)
    )
    return loss.sum().mul_(scale)


def _run(z: Tensor, index: Tensor, share: Tensor, r: Tensor | None, loss: Tensor) -> None:
    cpu.run(lambda rows: native.multi_hot(z, index, share, 1.0, r, loss, rows), two_class._rows(z))


def _again(z: Tensor, index: Tensor, share: Tensor, upstream: Tensor) -> Tensor:
    """Return the gradient with a graph of its own, for a gradient of the gradient."""
    loss = plain(wide(z), index, share)
    return torch.autograd.grad(loss, z, upstream, create_graph=True)[0]


def _must_be_plain(z: Tensor, share: Tensor) -> bool:
    return share.requires_grad or must_be_plain() or z.shape[0] == 0


def from_logits(z: Tensor, index: Tensor, share: Tensor) -> Tensor:
    """Return the loss of each sample, (B,), summed over classes, as :func:`plain` does.

    Args:
        z: (B, C) logits of any floating dtype.
        index: (B, k) int64, the classes; one that comes again has the sum of its shares.
        share: (B, k) ≥ 0, in float32 at least; y is at most 1.
    """
    if _must_be_plain(z, share):
        return plain(z.to(share.dtype), index, share)
    if two_class._is_compiled(z, share):
        index, share = index.contiguous(), share.contiguous()
        loss = _Compiled.apply(z, index, share, torch.is_grad_enabled())
    else:
        loss = _FromLogits.apply(z, index, share)
    assert isinstance(loss, Tensor)
    return loss


def total(
    z: Tensor, a: Tensor, b: Tensor, lam: Tensor, how: Rescaling, scale: float
) -> Tensor | None:
    """Return ``scale`` times the sum of pairs' losses in one call; None where that can't be.

    Args:
        z: (B, C) logits.
        a: (B,) int64.
        b: (B,) int64.
        lam: (B,) float32.
        how: what becomes of λ and 1 - λ.
        scale: 1 / B for the mean.
    """
    if _must_be_plain(z, lam) or not two_class._is_compiled(z, lam):
        return None
    a, b, lam = cpu.row_of(a, torch.int64), cpu.row_of(b, torch.int64), lam.contiguous()
    loss = _CompiledTotal.apply(z, a, b, lam, (how, scale), torch.is_grad_enabled())
    assert isinstance(loss, Tensor)
    return loss
