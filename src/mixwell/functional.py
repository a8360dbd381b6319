"""The pure functions under every method, in the papers' letters. See METHODS in the docs."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from mixwell import kernels
from mixwell.beta import TAU_MAX, TAU_MIN, beta_cdf, beta_icdf, sample_beta, sample_dirichlet
from mixwell.checks import check_range, shown
from mixwell.errors import InputError
from mixwell.mix import Mix, MultiMix
from mixwell.values import (
    alike,
    check_broadcast,
    check_kind,
    check_place,
    check_vector,
    map_tensors,
    not_dense,
    tensors,
)

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


# ---------------------------------------------------------------------------------------- mixing


def mix(x: Any, mix: Mix | MultiMix, *, out: Any = None) -> Any:
    """Return ``λ x + (1 - λ) x[partner]`` of anything batch-first; ``x`` is left as it is.

    On the CPU the result of a large batch takes memory of an earlier one that nobody holds any
    more (see :class:`mixwell.kernels.Recycler`): what you keep is never overwritten.

    Args:
        x: a tensor (B, ...) or a pytree (dict, tuple, list, ...) of them; what else is in it
            (names, numbers) stays. Floating tensors are interpolated in float32 at least and keep
            their dtype and gradient; uint8 is rounded to the nearest integer (ties to even).
            Other whole numbers and bool (class maps) can't be interpolated, but are taken from
            one sample or the other by a box or a bool mask.
        mix: B partners and weights. Where it has a mask (B, 1, *positions), ``x`` must end in
            these dimensions: (B, ..., L) for a signal's mask, (B, ..., H, W) for an image's or a
            box. Of several tensors, those of two dimensions or fewer, (B,) and (B, n), have no
            positions and are interpolated by λ.
        out: memory for the result, like ``x`` in structure, shapes and dtypes; ``x`` itself
            mixes in place. Only without gradient.

    Raises:
        InputError: a tensor has another batch size or device, a dtype that can't be interpolated,
            positions that the mask doesn't fit, or isn't dense (sparse, nested, quantized); there
            is none, or NumPy's numbers in its place; ``out`` does not fit, or would lose a
            gradient.

    >>> x = torch.tensor([[0.0, 2.0], [4.0, 6.0]])
    >>> mix(x, Mix(torch.tensor([1, 0]), torch.tensor([0.75, 1.0])))
    tensor([[1., 3.],
            [4., 6.]])
    """
    if not isinstance(x, Tensor):
        _check_tree(x)
    if isinstance(mix, MultiMix):
        return map_tensors(lambda leaf: _mix_many(leaf, mix, out), x)
    if isinstance(x, Tensor):  # the usual case: a walk through a tree costs as much as 100 pixels
        return _mix_tensor(x, mix, out)
    if out is None:
        return map_tensors(lambda leaf: _mix_leaf(leaf, mix, None), x)
    if pytree.tree_structure(x) != pytree.tree_structure(out):
        raise InputError(
            f"mix: out must have the structure of x, {pytree.tree_structure(x)}, "
            f"got {pytree.tree_structure(out)}"
        )
    return map_tensors(lambda leaf, to: _mix_leaf(leaf, mix, to), x, out)


def _check_tree(x: Any) -> None:
    """Raise an InputError for what would be returned unmixed without a word."""
    leaves = pytree.tree_leaves(x)
    for leaf in leaves:
        kind = getattr(getattr(leaf, "dtype", None), "kind", "")
        if not isinstance(leaf, Tensor) and kind in ("f", "c", "u"):
            raise InputError(
                f"mix: x must be a tensor or a pytree of tensors, got a {type(leaf).__name__} of "
                f"{leaf.dtype}; torch.as_tensor(x.copy()) is one"
            )
    if not any(isinstance(leaf, Tensor) for leaf in leaves):
        raise InputError(
            f"mix: x must be a tensor or a pytree of tensors, got {type(x).__name__} without any"
        )


def _mix_leaf(x: Tensor, mix: Mix, out: Tensor | None) -> Tensor:
    """Mix one of several tensors: what has no positions goes by λ."""
    if x.ndim < 3 and not mix.is_uniform:
        mix = Mix(mix.partner, mix.lam)
    return _mix_tensor(x, mix, out)


def _mix_many(x: Tensor, mix: MultiMix, out: Any) -> Tensor:
    if out is not None:
        raise InputError("mix: out= is for mixes of two samples; leave it out for a MultiMix")
    _check_mixable(x, mix.partners, picks=False)
    _check_dense(x, mix.partners)
    flat = x.reshape(len(mix), -1)
    exact = x.dtype in (torch.float64, torch.complex64, torch.complex128)
    precise = x.dtype if exact else torch.complex64 if x.is_complex() else torch.float32
    total = torch.zeros_like(flat, dtype=precise)
    partners, weights = alike(x, mix.partners, mix.weights)
    for partner, weight in zip(partners.unbind(1), weights.unbind(1), strict=True):
        total = total + weight[:, None].to(precise) * flat.index_select(0, partner)
    if x.dtype == torch.uint8:
        total = total.round().clamp(0, 255)
    return total.to(x.dtype).reshape(x.shape)


def _check_mixable(x: Tensor, partner: Tensor, picks: bool) -> None:
    """Raise an InputError for what can't be mixed.

    Args:
        x: what should be (B, ...).
        partner: (B, ...) of the mix.
        picks: whether each position is one sample's alone, so that no arithmetic is needed.
    """
    if x.is_nested:  # which has no shape to look at
        raise not_dense("mix", "x", x)
    if x.ndim == 0 or x.shape[0] != partner.shape[0]:
        raise InputError(
            f"mix: x has shape {tuple(x.shape)} but the mix is for a batch of {partner.shape[0]}; "
            "every tensor must be batch-first"
        )
    if not (picks or _interpolates(x)):
        _check_dense(x, partner)
        raise InputError(
            f"mix: x of {x.dtype} can't be interpolated; floating, complex and uint8 can; "
            "a box or a bool mask takes each position from one sample "
            "(class labels mix as a MixedTarget; of tokens, mix a hidden layer: layer='...')"
        )


def _interpolates(x: Tensor) -> bool:
    return x.is_floating_point() or x.is_complex() or x.dtype == torch.uint8


def interpolates(x: Any) -> bool:
    """Whether all tensors of a pytree are of numbers between which there are others."""
    return all(map(_interpolates, tensors(x)))


def _check_dense(x: Tensor, partner: Tensor) -> None:
    """Raise an InputError for what only torch's own operations would find out.

    What a kernel takes is none of it: the gate has looked.
    """
    if x.layout is not torch.strided or x.is_quantized:
        raise not_dense("mix", "x", x)
    if x.device != partner.device:
        raise InputError(
            f"mix: x is on {x.device} but the mix on {partner.device}; they must be on one device "
            "(torch.utils._pytree.tree_map(lambda t: t.to(x.device), mix) moves a mix)"
        )


def _mix_tensor(x: Tensor, mix: Mix, out: Tensor | None) -> Tensor:
    if not isinstance(mix, Mix):
        raise InputError(f"mix: mix must be a Mix or a MultiMix, got {type(mix).__name__}")
    picks = mix.box is not None or (mix.mask is not None and mix.mask.dtype == torch.bool)
    _check_mixable(x, mix.partner, picks)
    positions = mix.positions
    if positions is not None:
        _check_positions(x, positions)
    if out is not None:
        _check_out(x, out)
    try:
        mixed = kernels.mix(x, mix, out)
        if mixed is None:
            _check_dense(x, mix.partner)
            mixed = kernels.mix_otherwise(x, mix, out)
        return mixed
    except IndexError as error:
        raise _no_partner("mix", mix.partner) from error


def _no_partner(owner: str, partner: Tensor) -> InputError:
    low, high = (int(end) for end in torch.aminmax(partner))
    return InputError(
        f"{owner}: partner must hold indices in [0, {len(partner) - 1}], got {low} to {high}"
    )


def _check_positions(x: Tensor, positions: tuple[int, ...]) -> None:
    count = len(positions)
    if x.ndim <= count or x.shape[-count:] != positions:
        last = {1: "dimension", 2: "two dimensions"}.get(count, f"{count} dimensions")
        raise InputError(
            f"mix: the mask is for positions {positions}, but x has shape {tuple(x.shape)}; it "
            f"must end in {'this' if count == 1 else 'these'} {last} (a mask of (B, 1, L) is for "
            "signals, of (B, 1, H, W) for images, of (B, 1, D, H, W) for volumes)"
        )


def _check_out(x: Tensor, out: Any) -> None:
    if not isinstance(out, Tensor) or (out.shape, out.dtype, out.device, out.layout) != (
        x.shape,
        x.dtype,
        x.device,
        x.layout,
    ):
        got = (
            f"{out.layout} {out.dtype} of shape {tuple(out.shape)} on {out.device}"
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


def _flat(owner: str, features: Tensor) -> Tensor:
    """(B, ...) of real numbers to (B, d) in float32 at least, without gradient."""
    check_kind(owner, "comparable", features=features)
    if features.ndim == 0 or len(features) == 0:
        raise InputError(
            f"{owner}: features must be (B, ...) of one sample or more, got shape "
            f"{tuple(features.shape)}"
        )
    features = features.detach()
    dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
    return features.reshape(len(features), -1).to(dtype)


def pair_distance(features: Tensor, partner: Tensor, *, squared: bool = True) -> Tensor:
    """Return ``d_i = ‖f_i - f_σ(i)‖²``, or its root: (B,), without gradient.

    Args:
        features: (B, ...), flattened to (B, d).
        partner: (B,) int64.
        squared: False for the plain L2 distance.

    Raises:
        InputError: ``features`` are no dense real numbers of one sample or more, or ``partner`` no
            index of one of them for each.
    """
    flat = _flat("pair_distance", features)
    check_kind("pair_distance", "whole", partner=partner)
    check_vector("pair_distance", "partner", partner, len(flat))
    check_place("pair_distance", features=features, partner=partner)
    try:
        distance = kernels.pair_distance(flat, partner)
    except IndexError as error:
        raise _no_partner("pair_distance", partner) from error
    return distance if squared else distance.sqrt()


def pairwise_distance(features: Tensor, rows: slice = slice(None)) -> Tensor:
    """Return the squared L2 distance of all pairs, (B, B), exactly 0 on the diagonal.

    Args:
        features: (B, ...), flattened to (B, d).
        rows: those of the matrix that are wanted, (n, B).

    Raises:
        InputError: ``features`` are no dense real numbers of one sample or more, ``rows`` no slice.
    """
    flat = _flat("pairwise_distance", features)
    if not isinstance(rows, slice):
        raise InputError(f"pairwise_distance: rows must be a slice, got {shown(rows)}")
    return torch.cdist(flat[rows], flat, compute_mode="donot_use_mm_for_euclid_dist").square()


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
        NaN stays NaN.

    Raises:
        InputError: as of :func:`pair_distance`, or ``tau_max`` or ``tau_std`` is not above 0.

    Source: "Tailoring Mixup to Data for Calibration", arXiv:2311.01434v3, section 3.
    """
    return kernel_tau(pair_distance(features, partner, squared=squared), tau_max, tau_std)


def kernel_tau(distance: Tensor, tau_max: float = 1.0, tau_std: float = 0.25) -> Tensor:
    """Return τ from the pairs' distances (B,): :func:`similarity_tau` after its first line.

    Raises:
        InputError: ``distance`` is no dense tensor of floating numbers, or ``tau_max`` or
            ``tau_std`` is not above 0.
    """
    check_kind("kernel_tau", "floating", distance=distance)
    tau_max = check_range("tau_max", tau_max, open=True)
    tau_std = check_range("tau_std", tau_std, open=True)
    mean = distance.mean()
    # The inner where keeps the division finite, the outer one gives identical samples n = 1.
    same = mean == 0
    normalised = torch.where(same, 1.0, distance / torch.where(same, 1.0, mean))
    log_tau = math.log(tau_max) - (normalised - 1) / (2 * tau_std**2)
    return log_tau.clamp(math.log(TAU_MIN), math.log(TAU_MAX)).exp()


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

    Raises:
        InputError: a tensor is none of real numbers, they don't broadcast, or ``kappa`` or ``t`` is
            out of its range.

    Source: "Remix: Rebalanced Mixup", arXiv:2007.03943.
    """
    check_kind("remix_lambda", "floating", lam=lam)
    check_kind("remix_lambda", "real", count_own=count_own, count_partner=count_partner)
    check_broadcast("remix_lambda", lam=lam, count_own=count_own, count_partner=count_partner)
    kappa, t = check_range("kappa", kappa, 1), check_range("t", t, 0, 1)
    to_partner = (count_own >= kappa * count_partner) & (lam < t)
    to_own = (kappa * count_own <= count_partner) & (1 - lam < t)
    return torch.where(to_partner, 0.0, torch.where(to_own, 1.0, lam))
