"""The pure functions under every method, in the papers' letters. See METHODS in the docs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from mixwell import kernels
from mixwell.errors import InputError
from mixwell.mix import Mix

__all__ = [
    "beta_cdf",
    "beta_icdf",
    "kernel_tau",
    "mix",
    "pair_distance",
    "pairwise_distance",
    "remix_lambda",
    "sample_beta",
    "similarity_tau",
]

TAU_MIN, TAU_MAX = 1e-30, 1e6
"""The range that τ is clamped to: Beta(τ, τ) is a coin toss below it and 1/2 ± 0.0004 above."""


# ---------------------------------------------------------------------------------------- mixing


def mix(x: Any, mix: Mix, *, out: Any = None) -> Any:
    """Return ``λ x + (1 - λ) x[partner]`` of anything batch-first; ``x`` is left as it is.

    On the CPU the result of a large batch takes memory of an earlier one that nobody holds any
    more (see :class:`mixwell.kernels.Recycler`): what you keep is never overwritten.

    Args:
        x: a tensor (B, ...) or a pytree (dict, tuple, list, ...) of them. Floating tensors are
            interpolated in float32 at least and keep their dtype and gradient; uint8 is rounded
            to the nearest integer (ties to even).
        mix: B partners and weights. Where it has a mask or a box, its last two dimensions must
            be those of every tensor in ``x``.
        out: memory for the result, like ``x`` in structure, shapes and dtypes; ``x`` itself
            mixes in place. Only without gradient.

    Raises:
        InputError: a tensor has another batch size, a dtype that can't be interpolated, or
            positions that the mask doesn't fit; ``out`` does not fit, or would lose a gradient.

    >>> x = torch.tensor([[0.0, 2.0], [4.0, 6.0]])
    >>> mix(x, Mix(torch.tensor([1, 0]), torch.tensor([0.75, 1.0])))
    tensor([[1., 3.],
            [4., 6.]])
    """
    if isinstance(x, Tensor):  # the usual case: a walk through a tree costs as much as 100 pixels
        return _mix_tensor(x, mix, out)
    if out is None:
        return pytree.tree_map_only(Tensor, lambda leaf: _mix_tensor(leaf, mix, None), x)
    return pytree.tree_map(
        lambda leaf, to: _mix_tensor(leaf, mix, to) if isinstance(leaf, Tensor) else leaf, x, out
    )


def _mix_tensor(x: Tensor, mix: Mix, out: Tensor | None) -> Tensor:
    if x.ndim == 0 or len(x) != len(mix):
        raise InputError(
            f"mix: x has shape {tuple(x.shape)} but the mix is for a batch of {len(mix)}; "
            "every tensor must be batch-first"
        )
    if not (x.is_floating_point() or x.is_complex() or x.dtype == torch.uint8):
        raise InputError(
            f"mix: a tensor of {x.dtype} can't be interpolated; floating, complex and uint8 can "
            "(class labels mix as a MixedTarget; of tokens, mix a hidden layer: layer='...')"
        )
    if mix.mask is not None:
        _check_positions(x, mix.mask.shape[-2:])
    elif mix.box is not None:
        _check_positions(x, (mix.box.height, mix.box.width))
    if out is not None:
        _check_out(x, out)
    return kernels.mix(x, mix, out)


def _check_positions(x: Tensor, size: Sequence[int]) -> None:
    if x.ndim < 3 or x.shape[-2:] != tuple(size):
        raise InputError(
            f"mix: the mask is for positions {tuple(size)}, but x has shape "
            f"{tuple(x.shape)}; it must end in these two dimensions"
        )


def _check_out(x: Tensor, out: Any) -> None:
    if not isinstance(out, Tensor) or (out.shape, out.dtype, out.device) != (
        x.shape,
        x.dtype,
        x.device,
    ):
        got = (
            f"{out.dtype} of shape {tuple(out.shape)} on {out.device}"
            if isinstance(out, Tensor)
            else type(out).__name__
        )
        raise InputError(
            f"mix: out must be like x, {x.dtype} of shape {tuple(x.shape)} on {x.device}, got {got}"
        )
    if torch.is_grad_enabled() and (x.requires_grad or out.requires_grad):
        raise InputError(
            "mix: out= would lose the gradient of x; leave it out, or mix under torch.no_grad()"
        )


# ------------------------------------------------------------------------------------- distances


def _flat(features: Tensor) -> Tensor:
    """(B, ...) of any dtype to (B, d) in float32 at least, without gradient."""
    features = features.detach()
    dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
    return features.reshape(len(features), -1).to(dtype)


def pair_distance(features: Tensor, partner: Tensor, *, squared: bool = True) -> Tensor:
    """Return ``d_i = ‖f_i - f_σ(i)‖²``, or its root: (B,), without gradient.

    Args:
        features: (B, ...), flattened to (B, d).
        partner: (B,) int64.
        squared: False for the plain L2 distance.
    """
    flat = _flat(features)
    distance = (flat - flat.index_select(0, partner)).square().sum(1)
    return distance if squared else distance.sqrt()


def pairwise_distance(features: Tensor) -> Tensor:
    """Return the squared L2 distance of all pairs, (B, B), exactly 0 on the diagonal."""
    flat = _flat(features)
    return torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist").square()


def similarity_tau(
    features: Tensor,
    partner: Tensor,
    tau_max: float = 1.0,
    tau_std: float = 0.25,
    *,
    squared: bool = True,
) -> Tensor:
    """Return the similarity kernel's warping parameter τ of each pair.

    .. code-block:: text

        d_i = ‖f_i - f_σ(i)‖²,   n_i = d_i / mean_j d_j
        τ_i = τ_max · exp(-(n_i - 1) / (2 τ_std²))

    Args:
        features: (B, ...) of the unmixed samples, flattened to (B, d).
        partner: (B,) int64, σ.
        tau_max: τ of a pair at the batch's mean distance; > 0.
        tau_std: the kernel's width; > 0.
        squared: False takes the plain L2 distance, as the paper's two-moons figure does.

    Returns:
        (B,), float32 (float64 for float64 features), clamped to [1e-30, 1e6]. Where all distances
        are 0 (identical samples, a batch of one) every pair is at the mean distance: τ = τ_max.

    Source: "Tailoring Mixup to Data for Calibration", arXiv:2311.01434v3, section 3.
    """
    return kernel_tau(pair_distance(features, partner, squared=squared), tau_max, tau_std)


def kernel_tau(distance: Tensor, tau_max: float = 1.0, tau_std: float = 0.25) -> Tensor:
    """Return τ from the pairs' distances (B,): :func:`similarity_tau` after its first line."""
    mean = distance.mean()
    # The inner where keeps the division finite, the outer one gives identical samples n = 1.
    normalised = torch.where(mean > 0, distance / torch.where(mean > 0, mean, 1.0), 1.0)
    log_tau = math.log(tau_max) - (normalised - 1) / (2 * tau_std**2)
    return log_tau.clamp(math.log(TAU_MIN), math.log(TAU_MAX)).exp()


# ---------------------------------------------------------------------- the symmetric Beta(τ, τ)


def _double(value: Tensor) -> Tensor:
    """``value`` in float64, on the CPU where its device has none (Apple's)."""
    return value.detach().to("cpu" if value.device.type == "mps" else value.device, torch.float64)


def sample_beta(tau: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw λ ~ Beta(τ, τ), one for each entry of ``tau``, right for any τ in [1e-30, 1e6].

    A Beta is a ratio of Gammas, and Gammas of small shape underflow: the usual samplers then
    return 1/2 just where λ must be 0 or 1. This one stays in log space:

    .. code-block:: text

        log G(τ) = log G(τ + 1) + log(U) / τ,     λ = sigmoid(log G₁ - log G₂)

    Args:
        tau: any shape, positive; clamped to [1e-30, 1e6].
        generator: the source of randomness; the default generator of ``tau``'s device without one.

    Returns:
        λ in [0, 1], like ``tau`` (float32 for half precision).
    """
    dtype = tau.dtype if tau.dtype in (torch.float32, torch.float64) else torch.float32
    shape = _double(tau).clamp(TAU_MIN, TAU_MAX)
    if generator is not None:
        shape = shape.to(generator.device)
    shape = shape.expand(2, *shape.shape).contiguous()
    log_gamma = torch._standard_gamma(shape + 1, generator=generator).log()
    # -log U is a standard exponential, drawn without the risk of log 0.
    log_gamma = log_gamma - torch.empty_like(shape).exponential_(generator=generator) / shape
    return torch.sigmoid(log_gamma[0] - log_gamma[1]).to(device=tau.device, dtype=dtype)


@lru_cache(maxsize=8)
def _legendre(device: torch.device, nodes: int = 64) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre nodes and weights on [0, 1] (Golub and Welsch, 1969)."""
    k = torch.arange(1, nodes, dtype=torch.float64)
    off_diagonal = k / (4 * k * k - 1).sqrt()
    jacobi = torch.diag(off_diagonal, 1) + torch.diag(off_diagonal, -1)
    points, vectors = torch.linalg.eigh(jacobi)
    return ((points + 1) / 2).to(device), vectors[0].square().to(device)


def _log_tail(q: Tensor, tau: Tensor) -> tuple[Tensor, Tensor]:
    """Return log P(logit λ < -q) and its derivative in q, for q ≥ 0 and λ ~ Beta(τ, τ).

    The logit s of λ has density (2 cosh(s/2))^(-2τ) / B(τ, τ), so with S(s) = log(1 + e^(-s)) the
    tail is e^(-τq) ∫ exp(-τ r - 2τ S(q + r)) dr / B. It is integrated by Gauss-Legendre, in one
    of two forms: as it stands for τ ≥ 1, where it decays within a few widths; for τ < 1, where it
    decays over 1/τ, with its slow part e^(-τr) taken out and integrated exactly.
    """
    points, weights = _legendre(q.device)
    q, tau = q[..., None], tau[..., None]
    # log(τ B(τ, τ)) without the cancellation of Γ(τ) at small τ.
    log_tau_beta = math.log(2) + 2 * torch.lgamma(tau + 1) - torch.lgamma(2 * tau + 1)

    def softplus(s: Tensor) -> Tensor:
        return torch.log1p(torch.exp(-s))

    start = softplus(q)
    # τ ≥ 1: up to the r where the integrand has fallen by e^-40.
    large = tau.clamp_min(1.0)
    level = q / 2 + start - math.log(2) + 20 / large
    reach = 2 * (level + torch.log1p((-torch.expm1(-2 * level)).sqrt())) - q
    r = reach * points
    log_fast = torch.exp(-large * r - 2 * large * (softplus(q + r) - start))
    fast = torch.log(large * reach * (log_fast * weights).sum(-1, keepdim=True))
    fast = fast - 2 * large * start
    # τ < 1: 1 + τ ∫ e^(-τr) (exp(-2τ S(q + r)) - 1) dr, whose integrand falls like e^(-r).
    small = tau.clamp_max(1.0)
    r = 40.0 * points
    correction = torch.exp(-small * r) * torch.expm1(-2 * small * softplus(q + r))
    slow = torch.log1p(40.0 * small * (correction * weights).sum(-1, keepdim=True))
    log_tail = torch.where(tau >= 1, fast, slow) - tau * q - log_tau_beta
    log_density = torch.log(tau) - tau * q - 2 * tau * start - log_tau_beta
    return log_tail[..., 0], -torch.exp(log_density - log_tail)[..., 0]


def beta_cdf(x: Tensor, tau: Tensor) -> Tensor:
    """Return I(x; τ, τ), the distribution function of Beta(τ, τ), like ``x``, without gradient."""
    wide_x, wide_tau = torch.broadcast_tensors(_double(x), _double(tau).clamp(TAU_MIN, TAU_MAX))
    q = torch.logit(wide_x).clamp(-1e30, 1e30)
    tail = _log_tail(q.abs(), wide_tau)[0].exp()
    return torch.where(q <= 0, tail, 1 - tail).to(x)


def beta_icdf(u: Tensor, tau: Tensor) -> Tensor:
    """Return I⁻¹(u; τ, τ), the inverse of :func:`beta_cdf`: the kernel's warping function ω_τ.

    Newton's method on the logarithm of the tail as a function of the logit, which is concave: it
    converges from any start, from one side after its first step.

    Args:
        u: probabilities in [0, 1].
        tau: broadcastable with ``u``, clamped to [1e-30, 1e6].

    Returns:
        λ in [0, 1], like ``u``, without gradient; within 1e-9 of SciPy's ``betaincinv``.
    """
    wide_u, wide_tau = torch.broadcast_tensors(_double(u), _double(tau).clamp(TAU_MIN, TAU_MAX))
    log_p = torch.minimum(wide_u, 1 - wide_u).clamp_min(1e-300).log()
    q = torch.zeros_like(log_p)
    for _ in range(16):
        log_tail, slope = _log_tail(q, wide_tau)
        q = (q - (log_tail - log_p) / slope).clamp_min(0)
    return torch.sigmoid(torch.where(wide_u < 0.5, -q, q)).to(u)


# ---------------------------------------------------------------------------------------- labels


def remix_lambda(
    lam: Tensor,
    count_own: Tensor,
    count_partner: Tensor,
    kappa: float = 3.0,
    t: float = 0.5,
) -> Tensor:
    """Return Remix's label weight: a mixed sample goes to the rarer class where that is close.

    .. code-block:: text

        n_a/n_b ≥ κ   and     λ < t  →  0
        n_a/n_b ≤ 1/κ and 1 - λ < t  →  1
        otherwise                       λ

    Args:
        lam: (B,), the inputs' λ.
        count_own: (B,), the number of training samples n_a of the own class.
        count_partner: (B,), n_b of the partner's class.
        kappa: how much more frequent a class must be; ≥ 1.
        t: how little of it there may be in the sample; in [0, 1].

    Source: "Remix: Rebalanced Mixup", arXiv:2007.03943.
    """
    to_partner = (count_own >= kappa * count_partner) & (lam < t)
    to_own = (kappa * count_own <= count_partner) & (1 - lam < t)
    return torch.where(to_partner, 0.0, torch.where(to_own, 1.0, lam))
