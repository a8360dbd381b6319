"""The symmetric Beta(τ, τ): samples, the distribution function and its inverse, for any τ."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from mixwell.checks import check_generator
from mixwell.kernels import cpu, gate, native
from mixwell.modes import undisturbed
from mixwell.values import check_broadcast, check_kind

__all__ = ["TAU_MAX", "TAU_MIN", "beta_cdf", "beta_icdf", "sample_beta", "sample_dirichlet"]

TAU_MIN, TAU_MAX = 1e-30, 1e6
"""The range that τ is clamped to: Beta(τ, τ) is a coin toss below it and 1/2 ± 0.0004 above."""


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
        λ in [0, 1], like ``tau`` (float32 for half precision and whole numbers).

    Raises:
        InputError: ``tau`` is no dense tensor of real numbers, ``generator`` is none.
    """
    check_kind("sample_beta", "real", tau=tau)
    check_generator("generator", generator)
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
        (..., k) weights ≥ 0 that sum to 1, like ``alpha`` (float32 for half precision and whole
        numbers).

    Raises:
        InputError: as of :func:`sample_beta`.
    """
    check_kind("sample_dirichlet", "real", alpha=alpha)
    check_generator("generator", generator)
    dtype = alpha.dtype if alpha.dtype in (torch.float32, torch.float64) else torch.float32
    shape = _double(alpha).clamp(TAU_MIN, TAU_MAX)
    if generator is not None:
        shape = shape.to(generator.device)
    log_gamma = torch._standard_gamma(shape + 1, generator=generator).log_()
    log_gamma -= torch.empty_like(log_gamma).exponential_(generator=generator).div_(shape)
    return torch.softmax(log_gamma, -1).to(device=alpha.device, dtype=dtype)


@lru_cache(maxsize=8)
@undisturbed
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
    """Return I(x; τ, τ), the distribution function of Beta(τ, τ), like ``x``, without gradient.

    Args:
        x: places in [0, 1]; NaN elsewhere.
        tau: broadcastable with ``x``, clamped to [1e-30, 1e6].

    Raises:
        InputError: one is no dense tensor of real numbers, or the two don't broadcast.
    """
    check_kind("beta_cdf", "floating", x=x)
    check_kind("beta_cdf", "real", tau=tau)
    check_broadcast("beta_cdf", x=x, tau=tau)
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
@undisturbed
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
@undisturbed
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

    Raises:
        InputError: one is no dense tensor of real numbers, or the two don't broadcast.

    Source of the form for τ ≥ 1: N. M. Temme, "Asymptotic inversion of the incomplete beta
    function", J. Comput. Appl. Math. 41 (1992).
    """
    check_kind("beta_icdf", "floating", u=u)
    check_kind("beta_icdf", "real", tau=tau)
    check_broadcast("beta_icdf", u=u, tau=tau)
    wide_u, wide_tau = _double(u), _double(tau)
    if wide_u.shape != wide_tau.shape:
        wide_u, wide_tau = torch.broadcast_tensors(wide_u, wide_tau)
    readable = gate.may_read(wide_u, wide_tau, dtypes=(torch.float64,)) and wide_u.numel() > 0
    run = _compiled_icdf if readable and native.library() is not None else _icdf
    return run(wide_u, wide_tau).to(u)


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
