"""Samples against mixed classifiers, with the gradients in closed form.

.. code-block:: text

    S_ij = λ_j z_i[a_j] + (1 - λ_j) z_i[b_j]                            (B, N)
    ℓ_i  = -log P_ii - log Q_ii,    P, Q = softmax of S over rows, over columns

    ∂(Σ_i u_i ℓ_i)/∂S_ij = u_i P_ij + u_j Q_ij - 2 u_i [i = j]
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mixwell.kernels import cpu, must_be_plain, native, two_class
from mixwell.kernels.memory import recycled

__all__ = ["contrast", "plain_contrast", "plain_similarity", "similarity", "total"]

MOST = 512
"""Samples up to which the compiled kernel is asked: S then lies in a core's cache."""


def plain_similarity(z: Tensor, a: Tensor, b: Tensor, lam: Tensor) -> Tensor:
    """Return S (B, N) by torch's own operations: see :func:`similarity`."""
    return torch.lerp(z.index_select(1, b), z.index_select(1, a), lam)


class _Similarity(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, a: Tensor, b: Tensor, lam: Tensor) -> Tensor:
        ctx.save_for_backward(z, a, b, lam)
        return plain_similarity(z, a, b, lam)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        z, a, b, lam = ctx.saved_tensors
        upstream = gradients[0]
        if torch.is_grad_enabled():
            s = plain_similarity(z, a, b, lam)
            return torch.autograd.grad(s, z, upstream, create_graph=True)[0], None, None, None
        # One buffer of the logits' size: torch's own way has one for each of a and b.
        grad = recycled.empty_like(z).zero_()
        own = upstream * lam
        grad.index_add_(1, a, own).index_add_(1, b, upstream - own)
        return grad, None, None, None


def similarity(z: Tensor, a: Tensor, b: Tensor, lam: Tensor) -> Tensor:
    """Return S: each sample's logits mixed as each classifier is, (B, N).

    Args:
        z: (B, C) logits, in float32 at least.
        a: (N,) int64, the classifiers' own classes.
        b: (N,) int64, and their partners'.
        lam: (N,) of z's dtype.
    """
    if lam.requires_grad or must_be_plain() or z.numel() == 0:
        return plain_similarity(z, a, b, lam)
    s = _Similarity.apply(z, a, b, lam)
    assert isinstance(s, Tensor)
    return s


def plain_contrast(s: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Return ℓ (B,) by torch's own operations: see :func:`contrast`."""
    losses = [-s.log_softmax(axis).diagonal() for axis in axes]
    return losses[0] if len(losses) == 1 else losses[0] + losses[1]


class _Contrast(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, s: Tensor, axes: tuple[int, ...]) -> Tensor:
        log_p = [s.log_softmax(axis) for axis in axes]
        ctx.save_for_backward(s, *log_p)
        ctx.axes = axes
        loss = log_p[0].diagonal() if len(axes) == 1 else (
            log_p[0].diagonal() + log_p[1].diagonal()
        )  # fmt: skip
        return -loss

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        s, *log_p = ctx.saved_tensors
        upstream, axes = gradients[0], ctx.axes
        if torch.is_grad_enabled():
            loss = plain_contrast(s, axes)
            return torch.autograd.grad(loss, s, upstream, create_graph=True)[0], None
        grad = None
        for log_each, axis in zip(log_p, axes, strict=True):
            each, weight = log_each.exp(), upstream.unsqueeze(axis)
            grad = each.mul_(weight) if grad is None else grad.addcmul_(each, weight)
        assert grad is not None
        grad.diagonal().sub_(upstream, alpha=len(axes))
        return grad, None


def contrast(s: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Return the loss of each sample, (B,): its own classifier is on the diagonal.

    Args:
        s: (B, B), in float32 at least.
        axes: 1, each sample against all classifiers; 0, each classifier against all samples.
    """
    if must_be_plain() or s.numel() == 0:
        return plain_contrast(s, axes)
    loss = _Contrast.apply(s, axes)
    assert isinstance(loss, Tensor)
    return loss


class _CompiledTotal(torch.autograd.Function):
    """``scale`` times the sum of the losses: the gradient is ready where the loss is."""

    @staticmethod
    def forward(
        ctx: Any,
        z: Tensor,
        a: Tensor,
        b: Tensor,
        lam: Tensor,
        how: tuple[tuple[int, ...], float],
        grad: bool,
    ) -> Tensor:
        r = recycled.empty_like(z) if grad and ctx.needs_input_grad[0] else None
        ctx.save_for_backward(z, a, b, lam)
        ctx.r, ctx.how = r, how
        loss = z.new_empty(z.shape[0])
        axes, scale = how
        native.contrast(z, a, b, lam, axes, scale, r, loss)
        return loss.sum().mul_(scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        upstream, (r, ctx.r) = gradients[0], (ctx.r, None)
        if r is None or torch.is_grad_enabled():
            z, a, b, lam = ctx.saved_tensors  # not asked for in vain: it takes a while
            axes, scale = ctx.how
            if torch.is_grad_enabled():
                loss = plain_contrast(plain_similarity(z, a, b, lam), axes).sum() * scale
                grad = torch.autograd.grad(loss, z, upstream, create_graph=True)[0]
                return grad, None, None, None, None, None
            r = torch.empty_like(z)  # a second pass through the same graph
            native.contrast(z, a, b, lam, axes, scale, r, z.new_empty(z.shape[0]))
        if upstream.item() != 1:
            r *= upstream
        return r, None, None, None, None, None


def total(
    z: Tensor, a: Tensor, b: Tensor, lam: Tensor, axes: tuple[int, ...], scale: float
) -> Tensor | None:
    """Return ``scale`` times the sum of the losses in one call; None where that can't be.

    Args:
        z: (B, C) logits.
        a: (B,) int64.
        b: (B,) int64.
        lam: (B,) of z's dtype.
        axes: as for :func:`contrast`.
        scale: 1 / B for the mean.
    """
    if lam.requires_grad or must_be_plain() or not 0 < z.shape[0] <= MOST:
        return None
    if not two_class._is_compiled(z, lam):
        return None
    a, b, lam = cpu.row_of(a, torch.int64), cpu.row_of(b, torch.int64), lam.contiguous()
    loss = _CompiledTotal.apply(z, a, b, lam, (axes, scale), torch.is_grad_enabled())
    assert isinstance(loss, Tensor)
    return loss
