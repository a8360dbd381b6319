"""The cross-entropies of two classes a sample, each with its gradient in closed form.

With z the logits, R = log Σ_{c ∉ {a,b}} exp z_c and Z the whole sum, all of them are

.. code-block:: text

    ℓ = Σ_{k ∈ {a,b}} α_k (log Z - z_k) + η_k log(1 + exp(R - z_k))  +  ε (w̄ log Z - v · z)

    ∂ℓ/∂z_c = r_c · [(α_a + α_b + ε w̄) exp(R - log Z) + Σ_k η_k s_k] - ε v_c,      c ∉ {a,b}
    r_c = exp(z_c - R),     s_k = sigmoid(R - z_k)

mixed cross-entropy where η = 0, decoupled mixup otherwise. The gradient is a multiple of r, row by
row, but for two entries: so r is all that is kept of (B, C) values, and becomes the gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mixwell.kernels import cpu, gate, must_be_plain, native
from mixwell.kernels.memory import recycled

__all__ = [
    "COUPLED",
    "Decoupling",
    "Smoothing",
    "from_features",
    "from_logits",
    "mean_from_logits",
    "plain",
    "pull_of",
    "weights_of",
    "wide",
]

BLOCK = 1 << 16
"""Elements that are worked on at a time on the CPU: they stay in a core's second cache."""

CHUNK = 1 << 23
"""Logits that exist at a time where they come from features."""


class Smoothing(NamedTuple):
    """Label smoothing: ``ε (mean · log Z - v · z)``.

    Attributes:
        epsilon: ε.
        mean: w̄, the mean class weight; 1 without weights.
        v: (C,), the class weights over C; None for 1/C.
    """

    epsilon: float
    mean: Tensor | float
    v: Tensor | None


class Decoupling(NamedTuple):
    """What the decoupled terms weigh: η_k = ``pull`` · share_k ^ ``power``.

    Attributes:
        pull: the multiple; without one there are no such terms.
        power: of the shares; 0 weighs all alike, also a share of 0.
        side: whose terms there are: "both"; "own", of the own sample's class; "heavier" and
            "lighter", of the class with the larger and the smaller share. Sides of equal shares
            have half of their terms each: the mean of what it is just above and just below.
    """

    pull: float = 0.0
    power: float = 1.0
    side: str = "both"


COUPLED = Decoupling()
"""No decoupled terms: the mixed cross-entropy."""


def wide(logits: Tensor) -> Tensor:
    """Return ``logits`` in float32 at least: sums of exponentials don't fit in half precision."""
    return logits if logits.dtype in (torch.float32, torch.float64) else logits.float()


def pull_of(shares: Tensor, how: Decoupling, again: Tensor | None = None) -> Tensor:
    """Return η of the shares of k classes: (B, k).

    Args:
        shares: (B, k).
        how: the decoupled terms.
        again: (B, k) bool, the classes that have come before in their row, or None; their η is 0.
    """
    eta = shares if how.power == 1 else shares.pow(how.power)
    if how.side == "own":
        eta = torch.cat([eta[:, :1], torch.zeros_like(eta[:, 1:])], 1)
    elif how.side != "both":
        rank = shares if how.side == "heavier" else -shares
        if again is not None:
            rank = rank.masked_fill(again, -2.0)
        chosen = rank == rank.amax(1, keepdim=True)
        eta = torch.where(chosen, eta / chosen.sum(1, keepdim=True), 0.0)
    if again is not None:
        eta = torch.where(again, 0.0, eta)
    return how.pull * eta


def weights_of(lam: Tensor, how: Decoupling = COUPLED) -> tuple[Tensor, Tensor | None]:
    """Return α = (λ, 1 - λ), and η; None if all 0."""
    alpha = torch.stack([lam, 1 - lam], 1)
    return alpha, pull_of(alpha, how) if how.pull else None


def _weighted(weight: Tensor, value: Tensor) -> Tensor:
    """Return Σ_k weight · value, 0 where a weight is 0 even if its value is infinite."""
    return torch.where(weight > 0, weight * value, 0.0).sum(1)


def _exclude(z: Tensor, index: Tensor) -> Tensor:
    return z.scatter(1, index, torch.finfo(z.dtype).min)


def plain(
    z: Tensor, index: Tensor, alpha: Tensor, eta: Tensor | None, smoothing: Smoothing | None = None
) -> Tensor:
    """Return the loss of each sample, (B,), by torch's own operations.

    Args:
        z: (B, C) logits, in float32 at least.
        index: (B, 2) int64, a and b.
        alpha: (B, 2), α ≥ 0.
        eta: (B, 2), η ≥ 0; None for 0.
        smoothing: None without.
    """
    chosen = z.gather(1, index)
    if eta is None:
        log_z = z.logsumexp(1)
        loss = _weighted(alpha, log_z[:, None] - chosen)
    else:
        rest = _exclude(z, index).logsumexp(1)
        loss, log_z = _of_rest(chosen, rest, index, alpha, eta)
    if smoothing is not None:
        loss = loss + smoothing.epsilon * (log_z * smoothing.mean - _dot(z, smoothing.v))
    return loss


def _dot(z: Tensor, v: Tensor | None) -> Tensor:
    return z.mean(1) if v is None else z @ v.to(z.dtype)


def _of_rest(
    chosen: Tensor, rest: Tensor, index: Tensor, alpha: Tensor, eta: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the loss without smoothing and log Z, from the two logits and R."""
    excess = F.softplus(rest[:, None] - chosen, threshold=80.0)
    same = index[:, 0] == index[:, 1]
    with_own = torch.logaddexp(chosen[:, 0], rest)
    log_z = torch.where(same, with_own, torch.logaddexp(with_own, chosen[:, 1]))
    decoupled = torch.where(same[:, None], 0.0, eta)
    loss = _weighted(alpha, log_z[:, None] - chosen) + _weighted(decoupled, excess)
    return loss, log_z


def _gradient(
    chosen: Tensor,
    rest: Tensor,
    log_z: Tensor,
    index: Tensor,
    alpha: Tensor,
    eta: Tensor | None,
    smoothing: Smoothing | None,
) -> tuple[Tensor, Tensor]:
    """Return of ∂ℓ/∂z the factor of r, (B,), and what is added at a and b, (B, 2)."""
    total = alpha.sum(1)
    if smoothing is not None:
        total = total + smoothing.epsilon * smoothing.mean
    same = index[:, 0] == index[:, 1]
    share = torch.exp(chosen - log_z[:, None])
    share[:, 1].masked_fill_(same, 0.0)
    at = total[:, None] * share - alpha
    factor = total * torch.exp(rest - log_z)
    if eta is not None:
        pull = torch.where(same[:, None], 0.0, eta) * torch.sigmoid(rest[:, None] - chosen)
        at = at - pull
        factor = factor + pull.sum(1)
    return factor, at


def _blocks(z: Tensor) -> Iterator[slice]:
    size = z.shape[0] if z.device.type != "cpu" else max(1, BLOCK // z.shape[1])
    for place in range(0, z.shape[0], size):
        yield slice(place, place + size)


def _distribution(z: Tensor, index: Tensor | None, r: Tensor | None) -> Tensor:
    """Return log Σ exp z (B,), without a and b if there is an index; softmax goes to ``r``."""
    log_sum = []
    for rows in _blocks(z):
        part = wide(z[rows])
        if index is not None:
            part = _exclude(part, index[rows])
        if r is None:
            log_sum.append(part.logsumexp(1))
            continue
        softmax = torch.softmax(part, 1, out=r[rows])
        # The largest probability is at least 1 / C: its logarithm gives the sum's exactly.
        log_sum.append(part.amax(1) - softmax.amax(1).log())
        if index is not None:
            softmax.scatter_(1, index[rows], 0.0)
    return log_sum[0] if len(log_sum) == 1 else torch.cat(log_sum)


class _Compiled(torch.autograd.Function):
    """:class:`_FromLogits` by the compiled kernels."""

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, a: Tensor, b: Tensor, weights: native.Weights, grad: bool
    ) -> Tensor:
        r = recycled.empty_like(z) if grad and ctx.needs_input_grad[0] else None
        work = z.new_empty(z.shape[0], 4)
        cpu.run(lambda rows: native.two_class(z, a, b, weights, r, work, None, rows), _rows(z))
        ctx.save_for_backward(z, a, b, work)
        ctx.r, ctx.weights = r, weights
        return work[:, 0].clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        z, a, b, work = ctx.saved_tensors
        upstream, weights = gradients[0], ctx.weights
        if torch.is_grad_enabled():
            _, alpha, eta, *_ = weights
            grad = _again(z, torch.stack([a, b], 1), alpha, eta, None, upstream)
            return grad, None, None, None, None
        parts = _rows(z)
        r, ctx.r = ctx.r, None
        if r is None:  # a second pass through the same graph
            r = torch.empty_like(z)
            cpu.run(lambda rows: native.two_class(z, a, b, weights, r, work, None, rows), parts)
        cpu.run(lambda rows: native.two_class_gradient(r, a, b, work, upstream, rows), parts)
        return r, None, None, None, None


class _CompiledMean(torch.autograd.Function):
    """The mean of the samples' losses, its gradient computed on the same way through the logits."""

    @staticmethod
    def forward(
        ctx: Any,
        z: Tensor,
        a: Tensor,
        b: Tensor,
        weights: native.Weights,
        how: Decoupling,
        grad: bool,
    ) -> Tensor:
        r = recycled.empty_like(z) if grad and ctx.needs_input_grad[0] else None
        ctx.save_for_backward(z, a, b)
        ctx.r, ctx.weights, ctx.how = r, weights, how
        return _mean_into(r, z, a, b, weights)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        upstream, (r, ctx.r) = gradients[0], (ctx.r, None)
        if r is None or torch.is_grad_enabled():
            z, a, b = ctx.saved_tensors  # not asked for in vain: it takes a while
            if torch.is_grad_enabled():
                each = upstream.expand(z.shape[0]) / z.shape[0]
                weights = weights_of(ctx.weights.lam, ctx.how)
                grad = _again(z, torch.stack([a, b], 1), *weights, None, each)
                return grad, None, None, None, None, None
            r = torch.empty_like(z)  # a second pass through the same graph
            _mean_into(r, z, a, b, ctx.weights)
        if upstream.item() != 1:
            r *= upstream
        return r, None, None, None, None, None


def _mean_into(
    r: Tensor | None, z: Tensor, a: Tensor, b: Tensor, weights: native.Weights
) -> Tensor:
    """Return the mean loss; its gradient goes to ``r``."""
    parts = _rows(z)
    if len(parts) == 1:
        mean = z.new_empty(())
        native.two_class(z, a, b, weights, r, None, mean, parts[0])
        return mean
    shares = z.new_empty(len(parts))
    cpu.run(
        lambda rows: native.two_class(z, a, b, weights, r, None, shares[parts.index(rows)], rows),
        parts,
    )
    return shares.sum()


def _rows(z: Tensor) -> list[slice]:
    """Return the rows of each thread."""
    return cpu.parts(z.shape[0], cpu.threads_for(z.numel() * z.element_size()))


def _again(
    z: Tensor,
    index: Tensor,
    alpha: Tensor,
    eta: Tensor | None,
    smoothing: Smoothing | None,
    upstream: Tensor,
) -> Tensor:
    """Return the gradient with a graph of its own, for a gradient of the gradient."""
    loss = plain(z.to(alpha.dtype), index, alpha, eta, smoothing)
    return torch.autograd.grad(loss, z, upstream, create_graph=True)[0]


class _FromLogits(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        z: Tensor,
        index: Tensor,
        alpha: Tensor,
        eta: Tensor | None,
        smoothing: Smoothing | None,
        grad: bool,
    ) -> Tensor:
        # Of half precision nothing is kept: r would be twice the logits' size.
        keep = grad and ctx.needs_input_grad[0] and alpha.dtype == z.dtype
        r = torch.empty_like(z, memory_format=torch.contiguous_format) if keep else None
        chosen = z.gather(1, index).to(alpha.dtype)
        log_sum = _distribution(z, None if eta is None else index, r)
        if eta is None:
            rest = log_z = log_sum
            loss = _weighted(alpha, log_z[:, None] - chosen)
        else:
            rest = log_sum
            loss, log_z = _of_rest(chosen, rest, index, alpha, eta)
        if smoothing is not None:
            dot = _dot(z.to(alpha.dtype), smoothing.v)
            loss += smoothing.epsilon * (log_z * smoothing.mean - dot)
        ctx.save_for_backward(z, index, alpha, eta, chosen, rest, log_z)
        ctx.r, ctx.smoothing = r, smoothing
        return loss

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        z, index, alpha, eta, chosen, rest, log_z = ctx.saved_tensors
        upstream, smoothing = gradients[0], ctx.smoothing
        if torch.is_grad_enabled():
            return _again(z, index, alpha, eta, smoothing, upstream), None, None, None, None, None
        r, ctx.r = ctx.r, None
        if r is None:  # half precision, or a second pass through the same graph
            r = torch.empty(z.shape, dtype=alpha.dtype, device=z.device)
            _distribution(z, None if eta is None else index, r)
        if eta is None:
            total = alpha.sum(1)
            if smoothing is not None:
                total = total + smoothing.epsilon * smoothing.mean
            factor, at = total, -alpha
        else:
            factor, at = _gradient(chosen, rest, log_z, index, alpha, eta, smoothing)
        factor, at = factor * upstream, at * upstream[:, None]
        for rows in _blocks(z):
            r[rows] *= factor[rows, None]
        r.scatter_add_(1, index, at)
        if smoothing is not None:
            _smooth_(r, upstream, smoothing)
        return r.to(z.dtype), None, None, None, None, None


def _smooth_(grad: Tensor, upstream: Tensor, smoothing: Smoothing) -> None:
    if smoothing.v is None:
        grad -= (smoothing.epsilon / grad.shape[1]) * upstream[:, None]
    else:
        grad.addr_(upstream, smoothing.v.to(grad.dtype), alpha=-smoothing.epsilon)


def from_logits(
    z: Tensor, index: Tensor, alpha: Tensor, eta: Tensor | None, smoothing: Smoothing | None = None
) -> Tensor:
    """Return the loss of each sample, (B,), as :func:`plain` does, in one (B, C) buffer.

    Args:
        z: (B, C) logits of any floating dtype.
        index: (B, 2) int64.
        alpha: (B, 2), in float32 at least: the precision of the computation.
        eta: (B, 2) or None.
        smoothing: None without.
    """
    if _must_be_plain(alpha, eta):
        return plain(z.to(alpha.dtype), index, alpha, eta, smoothing)
    if smoothing is None and _is_compiled(z, alpha):
        a, b = (cpu.row_of(y, torch.int64) for y in index.unbind(1))
        weights = native.Weights(
            alpha, alpha.contiguous(), None if eta is None else eta.contiguous()
        )
        loss = _Compiled.apply(z, a, b, weights, torch.is_grad_enabled())
    else:
        loss = _FromLogits.apply(z, index, alpha, eta, smoothing, torch.is_grad_enabled())
    assert isinstance(loss, Tensor)
    return loss


def _is_compiled(z: Tensor, weight: Tensor) -> bool:
    """Whether the compiled kernels take these logits."""
    return (
        gate.may_read(z, weight, dtypes=(torch.float32,))
        and z.is_contiguous()
        and native.library() is not None
    )


def mean_from_logits(
    z: Tensor, a: Tensor, b: Tensor, lam: Tensor, how: Decoupling = COUPLED
) -> Tensor | None:
    """Return the mean loss where the weights are λ's, in one call; None where that can't be.

    Args:
        z: (B, C) logits.
        a: (B,) int64.
        b: (B,) int64.
        lam: (B,) float32.
        how: the decoupled terms.
    """
    if _must_be_plain(lam, None) or not _is_compiled(z, lam):
        return None
    a, b, lam = cpu.row_of(a, torch.int64), cpu.row_of(b, torch.int64), lam.contiguous()
    if how.power in (0, 1) and how.side in ("both", "own"):
        weights = native.Weights(lam, None, None, how.pull, how.power == 0, how.side == "own")
    else:
        weights = native.Weights(lam, *weights_of(lam, how))
    loss = _CompiledMean.apply(z, a, b, weights, how, torch.is_grad_enabled())
    assert isinstance(loss, Tensor)
    return loss


def _must_be_plain(alpha: Tensor, eta: Tensor | None) -> bool:
    learnt = alpha.requires_grad or (eta is not None and eta.requires_grad)
    return learnt or must_be_plain() or alpha.shape[0] == 0


# ---------------------------------------------------------------------------------- from features


def _logits(features: Tensor, weight: Tensor, bias: Tensor | None, part: slice) -> Tensor:
    """Return the logits of some classes in float32 at least: (B, n)."""
    z = wide(features @ weight[part].to(features.dtype).T)
    return z if bias is None else z.add_(bias[part].to(z.dtype))


def _chunks(features: Tensor, weight: Tensor) -> Iterator[slice]:
    size = max(1, CHUNK // features.shape[0])
    for place in range(0, weight.shape[0], size):
        yield slice(place, min(place + size, weight.shape[0]))


def _within(index: Tensor, part: slice) -> tuple[Tensor, Tensor]:
    """Return (B, 2) columns of a chunk, and whether a and b are among its classes."""
    local = index - part.start
    inside = (local >= 0) & (local < part.stop - part.start)
    return local.clamp(0, part.stop - part.start - 1), inside


def _exclude_(z: Tensor, index: Tensor, part: slice) -> None:
    local, inside = _within(index, part)
    lowest = z.new_full(local.shape, torch.inf).masked_fill_(inside, torch.finfo(z.dtype).min)
    z.scatter_reduce_(1, local, lowest, "amin")


class _FromFeatures(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        index: Tensor,
        alpha: Tensor,
        eta: Tensor | None,
        smoothing: Smoothing | None,
    ) -> Tensor:
        flat = index.flatten()
        rows = weight.index_select(0, flat).to(features.dtype).view(features.shape[0], 2, -1)
        chosen = (rows @ features[:, :, None])[:, :, 0].to(alpha.dtype)
        if bias is not None:
            chosen = chosen + bias.index_select(0, flat).view(-1, 2).to(alpha.dtype)
        rest = torch.full_like(chosen[:, 0], -torch.inf)
        dot = torch.zeros_like(rest)
        for part in _chunks(features, weight):
            z = _logits(features, weight, bias, part)
            if smoothing is not None:
                v = None if smoothing.v is None else smoothing.v[part]
                dot += _dot(z, v) * (z.shape[1] / weight.shape[0] if v is None else 1.0)
            _exclude_(z, index, part)
            rest = torch.logaddexp(rest, z.logsumexp(1))
        loss, log_z = _of_rest(
            chosen, rest, index, alpha, torch.zeros_like(alpha) if eta is None else eta
        )
        if smoothing is not None:
            loss += smoothing.epsilon * (log_z * smoothing.mean - dot)
        ctx.save_for_backward(features, weight, bias, index, alpha, eta, chosen, rest, log_z)
        ctx.smoothing = smoothing
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        features, weight, bias, index, alpha, eta, chosen, rest, log_z = ctx.saved_tensors
        upstream, smoothing = gradients[0], ctx.smoothing
        factor, at = _gradient(chosen, rest, log_z, index, alpha, eta, smoothing)
        factor, at = factor * upstream, at * upstream[:, None]
        for_features, for_weight, for_bias = ctx.needs_input_grad[:3]
        d_features = torch.zeros(features.shape, dtype=alpha.dtype, device=features.device)
        d_weight = torch.empty_like(weight) if for_weight else None
        d_bias = torch.empty_like(bias) if for_bias else None
        for part in _chunks(features, weight):
            z = _logits(features, weight, bias, part)
            _exclude_(z, index, part)
            z.sub_(rest[:, None]).exp_().mul_(factor[:, None])
            local, inside = _within(index, part)
            z.scatter_add_(1, local, at.masked_fill(~inside, 0.0).to(z.dtype))
            if smoothing is not None:
                v = None if smoothing.v is None else smoothing.v[part]
                scale = z.shape[1] / weight.shape[0] if v is None else 1.0
                _smooth_(z, upstream, smoothing._replace(epsilon=smoothing.epsilon * scale, v=v))
            if d_bias is not None:
                d_bias[part] = z.sum(0)
            z = z.to(features.dtype)
            if d_weight is not None:
                if d_weight.dtype == z.dtype:
                    torch.mm(z.T, features, out=d_weight[part])
                else:
                    d_weight[part] = z.T @ features
            if for_features:
                d_features += z @ weight[part].to(z.dtype)
        grad = d_features.to(features.dtype) if for_features else None
        return grad, d_weight, d_bias, None, None, None, None


def from_features(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    index: Tensor,
    alpha: Tensor,
    eta: Tensor | None,
    smoothing: Smoothing | None = None,
) -> Tensor:
    """Return the same from the input of the last layer, a chunk of its classes at a time.

    The logits are computed twice, forward and backward, and never exist whole.

    Args:
        features: (B, d).
        weight: (C, d).
        bias: (C,) or None.
        index: (B, 2) int64.
        alpha: (B, 2), in float32 at least.
        eta: (B, 2) or None.
        smoothing: None without.
    """
    if _must_be_plain(alpha, eta):
        z = F.linear(features, weight.to(features.dtype), bias)
        return plain(z.to(alpha.dtype), index, alpha, eta, smoothing)
    loss = _FromFeatures.apply(features, weight, bias, index, alpha, eta, smoothing)
    assert isinstance(loss, Tensor)
    return loss
