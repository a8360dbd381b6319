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
from mixwell.kernels import cpu, native
from mixwell.mix import Mix, MultiMix

__all__ = [
    "beta_cdf",
    "beta_icdf",
    "kernel_tau",
    "mix",
    "pair_distance",
    "pairwise_distance",
    "remix_lambda",
    "sample_beta",
    "sample_dirichlet",
    "similarity_tau",
]

TAU_MIN, TAU_MAX = 1e-30, 1e6
"""The range that τ is clamped to: Beta(τ, τ) is a coin toss below it and 1/2 ± 0.0004 above."""


# ---------------------------------------------------------------------------------------- mixing


def mix(x: Any, mix: Mix | MultiMix, *, out: Any = None) -> Any:
    """Return ``λ x + (1 - λ) x[partner]`` of anything batch-first; ``x`` is left as it is.

    On the CPU the result of a large batch takes memory of an earlier one that nobody holds any
    more (see :class:`mixwell.kernels.Recycler`): what you keep is never overwritten.

    Args:
        x: a tensor (B, ...) or a pytree (dict, tuple, list, ...) of them. Floating tensors are
            interpolated in float32 at least and keep their dtype and gradient; uint8 is rounded
            to the nearest integer (ties to even). Other whole numbers and bool (class maps) can't
            be interpolated, but are taken from one sample or the other by a box or a bool mask.
        mix: B partners and weights. Where it has a mask or a box, its last two dimensions must
            be those of ``x``; of several tensors, those of two dimensions or fewer, (B,) and
            (B, n), have no positions and are interpolated by λ.
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
    if isinstance(mix, MultiMix):
        return pytree.tree_map_only(Tensor, lambda leaf: _mix_many(leaf, mix, out), x)
    if isinstance(x, Tensor):  # the usual case: a walk through a tree costs as much as 100 pixels
        return _mix_tensor(x, mix, out)
    if out is None:
        return pytree.tree_map_only(Tensor, lambda leaf: _mix_leaf(leaf, mix, None), x)
    if pytree.tree_structure(x) != pytree.tree_structure(out):
        raise InputError(
            f"mix: out must have the structure of x, {pytree.tree_structure(x)}, "
            f"got {pytree.tree_structure(out)}"
        )
    return pytree.tree_map(
        lambda leaf, to: _mix_leaf(leaf, mix, to) if isinstance(leaf, Tensor) else leaf, x, out
    )


def _mix_leaf(x: Tensor, mix: Mix, out: Tensor | None) -> Tensor:
    """Mix one of several tensors: what has no positions goes by λ."""
    if x.ndim < 3 and not mix.is_uniform:
        mix = Mix(mix.partner, mix.lam)
    return _mix_tensor(x, mix, out)


def _mix_many(x: Tensor, mix: MultiMix, out: Any) -> Tensor:
    if out is not None:
        raise InputError("mix: out= is for mixes of two samples; leave it out for a MultiMix")
    _check_mixable(x, len(mix), picks=False)
    flat = x.reshape(len(mix), -1)
    exact = x.is_complex() or x.dtype == torch.float64
    precise = x.dtype if exact else torch.float32
    total = torch.zeros_like(flat, dtype=precise)
    for partner, weight in zip(mix.partners.unbind(1), mix.weights.unbind(1), strict=True):
        total = total + weight[:, None].to(precise) * flat.index_select(0, partner)
    if x.dtype == torch.uint8:
        total = total.round().clamp(0, 255)
    return total.to(x.dtype).reshape(x.shape)


def _check_mixable(x: Tensor, size: int, picks: bool) -> None:
    """Raise an InputError for what can't be mixed.

    Args:
        x: what should be (size, ...).
        size: B.
        picks: whether each position is one sample's alone, so that no arithmetic is needed.
    """
    if x.ndim == 0 or x.shape[0] != size:
        raise InputError(
            f"mix: x has shape {tuple(x.shape)} but the mix is for a batch of {size}; "
            "every tensor must be batch-first"
        )
    if not (picks or x.is_floating_point() or x.is_complex() or x.dtype == torch.uint8):
        raise InputError(
            f"mix: a tensor of {x.dtype} can't be interpolated; floating, complex and uint8 can "
            "(class labels mix as a MixedTarget; of tokens, mix a hidden layer: layer='...')"
        )


def _mix_tensor(x: Tensor, mix: Mix, out: Tensor | None) -> Tensor:
    picks = mix.box is not None or (mix.mask is not None and mix.mask.dtype == torch.bool)
    _check_mixable(x, len(mix), picks)
    if mix.mask is not None:
        _check_positions(x, mix.mask.shape[-2:])
    elif mix.box is not None:
        _check_positions(x, (mix.box.height, mix.box.width))
    if out is not None:
        _check_out(x, out)
    try:
        return kernels.mix(x, mix, out)
    except IndexError as error:
        low, high = (int(end) for end in torch.aminmax(mix.partner))
        raise InputError(
            f"mix: partner must hold indices in [0, {len(mix) - 1}], got {low} to {high}"
        ) from error


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
    distance = kernels.pair_distance(_flat(features), partner)
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
    shape = shape.expand(2, *shape.shape)
    log_gamma = torch._standard_gamma(shape + 1, generator=generator).log_()
    # -log U is a standard exponential, drawn without the risk of log 0.
    log_gamma -= torch.empty_like(log_gamma).exponential_(generator=generator).div_(shape)
    return torch.sigmoid(log_gamma[0] - log_gamma[1]).to(device=tau.device, dtype=dtype)


def sample_dirichlet(alpha: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw weights ~ Dirichlet(α_1, ..., α_k), right for any α in [1e-30, 1e6].

    Of two weights the first is :func:`sample_beta`'s λ; drawn in log space like that one.

    Args:
        alpha: (..., k), positive; clamped to [1e-30, 1e6].
        generator: the source of randomness; the default generator of ``alpha``'s device without
            one.

    Returns:
        (..., k) weights ≥ 0 that sum to 1, like ``alpha`` (float32 for half precision).
    """
    dtype = alpha.dtype if alpha.dtype in (torch.float32, torch.float64) else torch.float32
    shape = _double(alpha).clamp(TAU_MIN, TAU_MAX)
    if generator is not None:
        shape = shape.to(generator.device)
    log_gamma = torch._standard_gamma(shape + 1, generator=generator).log_()
    log_gamma -= torch.empty_like(log_gamma).exponential_(generator=generator).div_(shape)
    return torch.softmax(log_gamma, -1).to(device=alpha.device, dtype=dtype)


@lru_cache(maxsize=8)
def _build_legendre(device: torch.device, nodes: int = 64) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre nodes and weights on [0, 1] (Golub and Welsch, 1969)."""
    k = torch.arange(1, nodes, dtype=torch.float64, device="cpu")
    off_diagonal = k / (4 * k * k - 1).sqrt()
    jacobi = torch.diag(off_diagonal, 1) + torch.diag(off_diagonal, -1)
    points, vectors = torch.linalg.eigh(jacobi)
    return ((points + 1) / 2).to(device), vectors[0].square().to(device)


def _legendre(device: torch.device) -> tuple[Tensor, Tensor]:
    """:func:`_build_legendre` as constants, as :func:`_quantile_terms` are."""
    return _build_legendre(device)


_legendre._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _excess(q: Tensor, tau: Tensor) -> tuple[Tensor, Tensor]:
    """Return E in 2 P(logit λ < -q) = exp(E - τq), and its derivative in q: for q ≥ 0, τ ≤ 1.

    The logit s of λ has density e^(-τs - 2τS(s)) / B(τ, τ), where S(s) = log(1 + e^(-s)). Twice its
    tail is e^(-τq) N(q) / N(0), where N(q) = τ ∫ exp(-τr - 2τS(q + r)) dr over r > 0. Only what S
    does to that is integrated, for which r ≤ 40 is enough: E is a small number, of order τ², and
    precise as such.
    """
    points, weights = _legendre(q.device)
    q, tau = q[..., None], tau[..., None]
    r, weights = 40 * points, 40 * weights
    slow, fast = torch.exp(-tau * r), -2 * tau * torch.log1p(torch.exp(-r))
    start = 1 + tau * (weights * slow * torch.expm1(fast)).sum(-1, keepdim=True)
    # S(q + r) - S(r), without cancellation.
    shift = torch.log1p(torch.expm1(-q) / (1 + torch.exp(r)))
    change = weights * slow * torch.exp(fast) * torch.expm1(-2 * tau * shift)
    excess = torch.log1p(tau * change.sum(-1, keepdim=True) / start)
    density = tau / start * torch.exp(-2 * tau * torch.log1p(torch.exp(-q)) - excess)
    return excess[..., 0], (tau - density)[..., 0]


def _log_mills(eta: Tensor, tau: Tensor) -> tuple[Tensor, Tensor]:
    """Return M in 2 P(λ < x) = exp(M - τη²), and its derivative in η: for η ≥ 0, τ ≥ 1.

    Here 4x(1 - x) = e^(-η²), which makes the Beta nearly normal: η has a density in proportion to
    φ(η) e^(-τη²), where φ(η) = η / √(1 - e^(-η²)). The integral over η + r goes as far as the
    integrand takes to fall by e^(-40).
    """
    points, weights = _legendre(eta.device)
    eta, tau = eta[..., None], tau[..., None]

    def phi(eta: Tensor) -> Tensor:
        return eta / (-torch.expm1(-eta * eta)).sqrt()

    def tail(eta: Tensor) -> Tensor:
        reach = 40 / tau / (eta + (eta * eta + 40 / tau).sqrt())
        r = reach * points
        integrand = torch.exp(-tau * r * (2 * eta + r)) * phi(eta + r)
        return reach * (integrand * weights).sum(-1, keepdim=True)

    here = tail(eta)
    log_mills = torch.log(here / tail(torch.zeros_like(eta)))
    slope = 2 * tau * eta - torch.where(eta > 0, phi(eta), 1.0) / here
    return log_mills[..., 0], slope[..., 0]


def beta_cdf(x: Tensor, tau: Tensor) -> Tensor:
    """Return I(x; τ, τ), the distribution function of Beta(τ, τ), like ``x``, without gradient."""
    wide_x, wide_tau = torch.broadcast_tensors(_double(x), _double(tau).clamp(TAU_MIN, TAU_MAX))
    logit = torch.logit(wide_x)
    q = logit.abs().clamp_max(1e300)
    small, large = wide_tau.clamp_max(1.0), wide_tau.clamp_min(1.0)
    # η² = 2 log cosh(q/2); at q = 1000 the tail of a τ ≥ 1 has long been 0.
    eta = (2 * torch.log1p(2 * torch.sinh(q.clamp_max(1e3) / 4).square())).sqrt()
    log_tail = torch.where(
        wide_tau < 1, _excess(q, small)[0] - small * q, _log_mills(eta, large)[0] - large * eta**2
    )
    tail = log_tail.exp() / 2
    return torch.where(logit <= 0, tail, 1 - tail).to(x)


ROWS, COLUMNS, TERMS = 64, 32, 5
"""The table of :func:`beta_icdf`: cells along p; along τ, below and above 1 each; terms in each."""


def _chebyshev(count: int) -> Tensor:
    """Return the Chebyshev points of [-1, 1]."""
    k = torch.arange(count, dtype=torch.float64, device="cpu")
    return torch.cos(torch.pi * (k + 0.5) / count)


def _refine(points: int, cells: int) -> Tensor:
    """Return (cells, TERMS, points): from values at Chebyshev points of [-1, 1] to cells' terms.

    The values are interpolated by a polynomial, and that by one of TERMS terms in each of the
    cells, whose variable goes from -1/2 to 1/2.
    """
    local = _chebyshev(TERMS) / 2
    middle = torch.arange(cells, dtype=torch.float64, device="cpu") + 0.5
    at = 2 * (middle[:, None] + local) / cells - 1

    def basis(x: Tensor) -> Tensor:  # Chebyshev's polynomials; the powers are no good beyond 30
        return torch.cos(torch.arange(points, device="cpu") * torch.acos(x)[..., None])

    interpolate = basis(at) @ basis(_chebyshev(points)).inverse()
    return torch.linalg.vander(local).inverse() @ interpolate


@lru_cache(maxsize=8)
def _build_terms(device: torch.device) -> list[list[Tensor]]:
    """Return the table of h and R in :func:`beta_icdf`: [j][i] are the factors of yʲ xⁱ, by cell.

    Both functions are smooth: Newton's method has to find them at some hundred Chebyshev points
    only, in 50 ms. A cell needs few terms more, and those with i + j > TERMS are below 1e-11.
    """

    def table(values: Tensor) -> Tensor:
        along_p, along_tau = _refine(len(values), ROWS), _refine(values.shape[1], COLUMNS)
        return torch.einsum("rip,pt,cjt->jirc", along_p, values, along_tau)

    with torch.no_grad():
        y = (1 + _chebyshev(20)) / 4  # τ / (1 + τ)
        w, tau = torch.meshgrid((1 + _chebyshev(20)) / 2, y / (1 - y), indexing="ij")
        q = x = -torch.log1p(-w)
        for _ in range(10):
            excess, slope = _excess(q, tau)
            q = (q - (q - excess / tau - x) / (1 - slope / tau)).clamp_min(0)
        h = _excess(q, tau)[0] / (tau * tau * w)

        y = 0.5 + (1 + _chebyshev(16)) / 4
        v, tau = torch.meshgrid((1 + _chebyshev(42)) / 2, y / (1 - y), indexing="ij")
        normal = 6 * v / (1 - v)
        # M of the normal distribution, with ζ in the place of η.
        log_mills_normal = torch.log(torch.special.erfcx((tau * normal).sqrt()))
        eta = normal.sqrt()
        for _ in range(10):
            log_mills, slope = _log_mills(eta, tau)
            error = log_mills - log_mills_normal - tau * (eta * eta - normal)
            eta = (eta - error / (slope - 2 * tau * eta)).clamp_min(0)
        gap = _log_mills(eta, tau)[0] - log_mills_normal  # τ (η² - ζ²), without cancellation
        big_r = (gap - torch.log1p(normal / 2) / 2) / v

        both = torch.cat([table(h), table(big_r)], -1).flatten(2).to(device)
    return [list(of_x[: TERMS + 1 - j]) for j, of_x in enumerate(both)]


def _quantile_terms(device: torch.device) -> list[list[Tensor]]:
    """:func:`_build_terms` as constants: torch.compile ignores its cache, and would trace it."""
    return _build_terms(device)


# What torch.compiler.assume_constant_result does, which loads the compiler: 1.7 s on import.
_quantile_terms._dynamo_marked_constant = True  # type: ignore[attr-defined]


@lru_cache(maxsize=1)
def _quantile_table() -> Tensor:
    """Return the same by cell, (ROWS, 2 COLUMNS, 19), as the compiled kernel reads it."""
    terms = [term for of_x in _build_terms(torch.device("cpu")) for term in of_x]
    return torch.stack(terms, 1).view(ROWS, 2 * COLUMNS, len(terms))


def _horner(coefficients: Sequence[Tensor], x: Tensor) -> Tensor:
    """Return ``Σ coefficients[i] xⁱ``."""
    result = coefficients[-1]
    for coefficient in coefficients[-2::-1]:
        result = torch.addcmul(coefficient, result, x)
    return result


def beta_icdf(u: Tensor, tau: Tensor) -> Tensor:
    """Return I⁻¹(u; τ, τ), the inverse of :func:`beta_cdf`: the kernel's warping function ω_τ.

    Nothing is iterated. With p = min(u, 1 - u), the lesser of λ and 1 - λ is that of a simple
    distribution, that for τ → 0 or that for τ → ∞, but for a smooth correction from a table:

    .. code-block:: text

        τ < 1:  x = -log(2p) / τ,       w = 1 - e⁻ˣ,
                q = x + τ w h(w, τ),    λ = 1 / (1 + e^q)
        τ ≥ 1:  ζ² = Φ⁻¹(p)² / (2τ),    v = ζ² / (ζ² + 6),
                η² = ζ² + (log(1 + ζ²/2) / 2 + v R(v, τ)) / τ,    4λ(1 - λ) = e^(-η²)

    Args:
        u: probabilities in [0, 1].
        tau: broadcastable with ``u``, clamped to [1e-30, 1e6].

    Returns:
        λ in [0, 1], like ``u``, without gradient; within 1e-9 of SciPy's ``betaincinv``, and to 11
        digits where λ is small.

    Source of the form for τ ≥ 1: N. M. Temme, "Asymptotic inversion of the incomplete beta
    function", J. Comput. Appl. Math. 41 (1992).
    """
    wide_u, wide_tau = _double(u), _double(tau)
    if wide_u.shape != wide_tau.shape:
        wide_u, wide_tau = torch.broadcast_tensors(wide_u, wide_tau)
    run = _compiled_icdf if _is_compiled(wide_u, wide_tau) else _icdf
    return run(wide_u, wide_tau).to(u)


def _is_compiled(u: Tensor, tau: Tensor) -> bool:
    """Whether the compiled kernel takes these."""
    return (
        not kernels.must_be_plain()
        and u.device.type == "cpu"
        and type(u) is type(tau) is Tensor
        and not (u.is_neg() or tau.is_neg())  # what is in memory is the value
        and u.numel() > 0
        and native.library() is not None
    )


def _compiled_icdf(u: Tensor, tau: Tensor) -> Tensor:
    """:func:`beta_icdf` by the compiled kernel, of float64 tensors of the same shape."""
    return cpu.beta_icdf(u.contiguous(), tau.contiguous(), _quantile_table())


def _icdf(u: Tensor, tau: Tensor) -> Tensor:
    """:func:`beta_icdf` by torch's operations, of float64 tensors of the same shape."""
    shape = u.shape
    u, tau = u.reshape(-1).clamp(0, 1), tau.reshape(-1).clamp(TAU_MIN, TAU_MAX)
    p = torch.minimum(u, 1 - u)
    along_tau = tau / (tau + 1) * (2 * COLUMNS)
    column = along_tau.floor()
    is_large = column >= COLUMNS  # τ ≥ 1

    # -x or -ζ², as the exponents are; finite at p = 0, where λ is 0 all the same.
    start = torch.where(is_large, torch.special.ndtri(p).square() * -0.5, torch.log(2 * p))
    start = (start / tau).clamp_min(-1e300)
    # w or v, which is also the place in the table.
    share = torch.where(is_large, start / (start - 6), -torch.expm1(start))
    along_p = share * ROWS
    row = along_p.floor().clamp_max(ROWS - 1)
    terms = _quantile_terms(u.device)
    # The clamp is for NaN, which has no cell but stays NaN in what follows.
    cell = torch.add(column, row, alpha=2 * COLUMNS).long().clamp(0, len(terms[0][0]) - 1)
    x, y = along_p - row - 0.5, along_tau - column - 0.5
    correction = _horner([_horner([t.index_select(0, cell) for t in of_x], x) for of_x in terms], y)

    correction = share * correction + torch.log1p(start * -0.5) * (is_large * 0.5)
    end = start - torch.minimum(tau, 1 / tau) * correction  # -q or -η²
    odds = torch.exp(end)
    # For τ ≥ 1 the lesser root of 4λ(1 - λ) = e^(-η²), without cancellation at either end.
    lam = odds / torch.where(is_large, 2 + 2 * torch.sqrt(-torch.expm1(end)), 1 + odds)
    return torch.where(u < 0.5, lam, 1 - lam).reshape(shape)


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
