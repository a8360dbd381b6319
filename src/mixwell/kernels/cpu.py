"""Mixing on the CPU: each sample is read from memory once, and nothing is in between.

Samples are mixed along the cycles of the pairing: one's partner is the next to be worked on, and is
still in the cache then. Where there is a C compiler each thread has its own part of the batch, and
goes through it in one call (:mod:`mixwell.kernels.native`). Without, torch mixes large samples one
by one and small ones in blocks that fit the cache.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from mixwell.kernels import native
from mixwell.mix import Box, positions_of

__all__ = [
    "beta_icdf",
    "fit_mask",
    "fit_weight",
    "has_rows",
    "interpolated",
    "mix_into",
    "pair_distance",
    "parts",
    "row_of",
    "rows_of",
    "run",
    "threads_for",
    "transposed_into",
]

LARGE = 1 << 16
"""Bytes of a sample from which it is worth calls of its own."""

BLOCK = 1 << 15
"""Elements of a block of small samples, or of a part of a large one where there are copies."""

THREADED = 1 << 21
"""Bytes of a batch from which it is worth waking other threads."""

EXACT = (torch.float32, torch.float64, torch.complex64, torch.complex128)
"""What is interpolated in its own precision."""

_TO_INTEGER = 12582912.0
"""1.5 · 2²³, from which on a float32 is an integer."""

_pool: ThreadPoolExecutor | None = None


def _forget_pool() -> None:
    """Threads do not live on in a forked process."""
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


def threads_for(size: int) -> int:
    """Return how many threads are worth waking for so many bytes."""
    return torch.get_num_threads() if size >= THREADED else 1


def run(work: Callable[[slice], None], parts: list[slice]) -> None:
    """Do the parts of some work side by side, the last of them here."""
    global _pool
    if len(parts) < 2:
        for part in parts:
            work(part)
        return
    if _pool is None or _pool._max_workers < len(parts) - 1:
        _pool = ThreadPoolExecutor(len(parts) - 1, thread_name_prefix="mixwell")
    inference = torch.is_inference_mode_enabled()

    def in_mode(part: slice) -> None:  # modes are a thread's own
        with torch.inference_mode(inference), torch.no_grad():
            work(part)

    waiting = [_pool.submit(in_mode, part) for part in parts[:-1]]
    work(parts[-1])
    for future in waiting:
        future.result()


def has_rows(x: Tensor) -> bool:
    """Whether :func:`rows_of` can lay ``x`` out."""
    return (x.is_contiguous() and x.numel() > 0) or rows_of(x) is not None


def rows_of(x: Tensor) -> Tensor | None:
    """Return ``x`` as (B, n) on the same memory, or None where its samples aren't dense.

    The order within a row is that of memory: two tensors of the same shape and strides agree.
    """
    if x.ndim == 0 or x.numel() == 0:
        return None
    size = x.numel() // x.shape[0]
    if x.is_contiguous():
        return x.view(x.shape[0], size)
    sample = sorted(
        (stride, length) for stride, length in zip(x.stride()[1:], x.shape[1:], strict=True)
        if length > 1
    )  # fmt: skip
    reached = 1
    for stride, length in sample:
        if stride != reached:
            return None
        reached *= length
    if x.shape[0] > 1 and x.stride(0) < size:
        return None
    return x.as_strided((x.shape[0], size), (x.stride(0), 1))


def mix_into(
    out: Tensor,
    x: Tensor,
    partner: Tensor,
    lam: Tensor,
    mask: Tensor | None = None,
    edges: Tensor | None = None,
) -> None:
    """Write ``λ x + (1 - λ) x[partner]`` to ``out``, of ``x``'s shape and strides.

    Args:
        out: (B, ...). It may be ``x`` itself; otherwise they may not overlap.
        x: (B, ...), whose samples :func:`rows_of` can lay out.
        partner: (B,).
        lam: (B,).
        mask: (B, 1, *positions), as in ``Mix``.
        edges: (B, 4), those of a ``Box`` for the last two dimensions of ``x``.
    """
    in_place = out.data_ptr() == x.data_ptr()
    if in_place and len(set(partner.tolist())) < x.shape[0]:  # one is read again after it is mixed
        mixed = torch.empty_like(x)
        mix_into(mixed, x, partner, lam, mask, edges)
        out.copy_(mixed)
        return
    size = x.numel() // x.shape[0] * x.element_size()
    if mask is None and native.takes(x.dtype) and (edges is None or _are_images(x)):
        _compiled(out, x, partner, lam, edges, threads_for(size * x.shape[0]))
    elif in_place or size >= LARGE:
        _by_sample(out, x, partner.tolist(), lam, mask, edges, in_place)
    else:
        mask = mask if edges is None else Box(edges, *x.shape[-2:]).mask()
        _by_block(out, x, partner, lam, mask)


def _are_images(x: Tensor) -> bool:
    return x.is_contiguous() or (x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last))


def row_of(x: Tensor, *dtypes: torch.dtype) -> Tensor:
    """Return ``x`` side by side in memory, in one of these dtypes: the last where it has none."""
    if x.dtype in dtypes and x.is_contiguous():  # usual, and cheaper to ask
        return x
    return x.to(x.dtype if x.dtype in dtypes else dtypes[-1]).contiguous().resolve_neg()


def _compiled(
    out: Tensor, x: Tensor, partner: Tensor, lam: Tensor, edges: Tensor | None, threads: int
) -> None:
    size = x.numel() // x.shape[0]
    partner = row_of(partner, torch.int64)
    if edges is None:
        weights = row_of(lam, torch.float32, torch.float64)
        # Threads part at multiples of a cache line.
        run(lambda part: native.mix(out, x, partner, weights, part), parts(size, threads, 64))
        return
    (height, width), pixel = x.shape[-2:], x.element_size()
    planes = size // (height * width)
    if not x.is_contiguous():  # the channels of a position side by side
        planes, pixel = 1, pixel * planes
    corners = row_of(edges, torch.int64)
    run(
        lambda part: native.paste(out, x, partner, corners, height, width * pixel, pixel, part),
        parts(planes * height, threads),
    )


def pair_distance(x: Tensor, partner: Tensor) -> Tensor:
    """Return the squared distance of each row of ``x`` (B, n) float32 to its partner's: (B,)."""
    pieces = parts(x.shape[1], threads_for(x.numel() * x.element_size()), 64)
    sums = torch.zeros(max(1, len(pieces)), x.shape[0], dtype=torch.float64, device=x.device)
    sigma = row_of(partner, torch.int64)
    run(lambda part: native.pair_distance(x, sigma, sums[pieces.index(part)], part), pieces)
    return sums.sum(0).to(x.dtype)


def beta_icdf(u: Tensor, tau: Tensor, table: Tensor) -> Tensor:
    """Return the inverse distribution function of Beta(τ, τ); see :func:`native.beta_icdf`."""
    lam = torch.empty_like(u)
    # One value takes as long as mixing some 128 bytes.
    pieces = parts(u.numel(), threads_for(128 * u.numel()), 8)
    run(lambda part: native.beta_icdf(lam, u, tau, table, part), pieces)
    return lam


def parts(size: int, count: int, multiple: int = 1) -> list[slice]:
    """Return ``range(size)`` in ``count`` parts, fewer if it is small, at multiples of a number."""
    if count == 1 and size:
        return [slice(0, size)]
    step = -(-size // (count * multiple)) * multiple
    return [slice(place, min(place + step, size)) for place in range(0, size, step)]


# ------------------------------------------------------------------------------- by torch's means


def _order(sigma: list[int]) -> list[int]:
    """Return all samples, each one's partner next to it where it is not done yet."""
    done = [False] * len(sigma)
    order = []
    for at in range(len(sigma)):
        while not done[at]:
            done[at] = True
            order.append(at)
            at = sigma[at]
    return order


def _by_sample(
    out: Tensor,
    x: Tensor,
    sigma: list[int],
    lam: Tensor,
    mask: Tensor | None,
    edges: Tensor | None,
    in_place: bool,
) -> None:
    if mask is None and edges is None:
        rows, results = rows_of(x), rows_of(out)
        assert rows is not None
        assert results is not None
        x, out = rows, results
    order = _order(sigma)
    copies = {}
    if in_place:  # the first of each cycle is mixed before the last one reads it
        for i, following in zip(order, [*order[1:], None], strict=True):
            if sigma[i] not in (i, following):
                copies[sigma[i]] = x[sigma[i]].clone()
    sources, mixed = x.unbind(0), out.unbind(0)
    masks = None
    if mask is not None:
        masks = fit_mask(mask, x).expand(x.shape[0], *[-1] * (x.ndim - 1)).unbind(0)
    boxes = None if edges is None else edges.tolist()
    weights = lam.tolist()
    for i in order:
        own, other, result = sources[i], copies.get(sigma[i], sources[sigma[i]]), mixed[i]
        if boxes is not None:
            top, bottom, left, right = (max(0, edge) for edge in boxes[i])
            if not in_place:
                result.copy_(own)
            if bottom > top and right > left:
                inside = (..., slice(top, bottom), slice(left, right))
                result[inside].copy_(other[inside])
        elif masks is not None:
            _masked(result, own, other, masks[i])
        elif x.dtype == torch.uint8:
            for place in range(0, len(own), BLOCK):
                part = slice(place, place + BLOCK)
                base = other[part].float()
                apart = own[part].float().sub_(base)
                # One fused multiply-add rounds; what is then an integer is in the lowest bits.
                base.add_(_TO_INTEGER).add_(apart, alpha=weights[i])
                result[part].copy_(base.view(torch.int32))
        else:  # λ is a Python number, so half precision is interpolated in single
            torch.lerp(other, own, weights[i], out=result)


def _masked(result: Tensor, own: Tensor, other: Tensor, mask: Tensor) -> None:
    if mask.dtype == torch.bool:
        torch.where(mask, own, other, out=result)
    else:
        result.copy_(interpolated(own, other, mask.expand_as(own)))


def interpolated(own: Tensor, other: Tensor, weight: Tensor) -> Tensor:
    """Return the mix, still to be made the samples' dtype, by ``to`` or ``copy_``."""
    if own.dtype in EXACT:
        return torch.lerp(other, own, weight.to(own.dtype))
    # λ in half precision would move the input's mix away from the label's by up to 1/256; and of
    # integers the exact value is rounded, which has 33 bits.
    whole = own.dtype == torch.uint8
    dtype = torch.complex64 if own.is_complex() else torch.float32
    if whole and own.device.type != "mps":
        dtype = torch.float64
    mixed = torch.lerp(other.to(dtype), own.to(dtype), weight.to(dtype))
    return mixed.round_() if whole else mixed


def fit_mask(mask: Tensor, x: Tensor) -> Tensor:
    """Return a mask (B, 1, *positions) with as many dimensions as ``x`` has."""
    positions = positions_of(mask)
    return mask.reshape(mask.shape[0], *[1] * (x.ndim - 1 - len(positions)), *positions)


def fit_weight(lam: Tensor, x: Tensor) -> Tensor:
    """Return λ (B,) with as many dimensions as ``x`` has."""
    return lam.view(-1, *[1] * (x.ndim - 1))


def _by_block(out: Tensor, x: Tensor, partner: Tensor, lam: Tensor, mask: Tensor | None) -> None:
    if mask is None:
        rows, results = rows_of(x), rows_of(out)
        assert rows is not None
        assert results is not None
        x, out, mask = rows, results, lam[:, None]
    else:
        mask = fit_mask(mask.expand(x.shape[0], *mask.shape[1:]), x)
    direct = x.dtype in (torch.float32, torch.float64) or mask.dtype == torch.bool
    if direct and mask.dtype != torch.bool:
        mask = mask.to(x.dtype)
    step = max(1, 2 * BLOCK // max(1, x[0].numel()))
    for place in range(0, x.shape[0], step):
        part = slice(place, place + step)
        own, result, weight = x[part], out[part], mask[part]
        if not direct:
            result.copy_(interpolated(own, x.index_select(0, partner[part]), weight))
            continue
        torch.index_select(x, 0, partner[part], out=result)
        if weight.dtype == torch.bool:
            torch.where(weight, own, result, out=result)
        else:
            torch.lerp(result, own, weight, out=result)


def transposed_into(
    out: Tensor, grad: Tensor, partner: Tensor, lam: Tensor, mask: Tensor | None
) -> None:
    """Write the gradient of what :func:`mix_into` read: ``λ g`` to oneself, the rest to partners.

    Args:
        out: (B, ...), not ``grad``.
        grad: (B, ...), floating.
        partner: (B,).
        lam: (B,).
        mask: as in ``Mix``, or None.
    """
    exact = grad.dtype in EXACT
    if mask is None and exact and grad[0].numel() * grad.element_size() >= LARGE:
        gradients, results, weights = grad.unbind(0), out.unbind(0), lam.tolist()
        for gradient, result, weight in zip(gradients, results, weights, strict=True):
            torch.mul(gradient, weight, out=result)
        for gradient, other, weight in zip(gradients, partner.tolist(), weights, strict=True):
            results[other].add_(gradient, alpha=1 - weight)
        return
    weight = fit_weight(lam, grad) if mask is None else fit_mask(mask, grad)
    wide = grad if exact else grad.float()
    weight = weight.to(wide.dtype)
    own = wide * weight
    own.index_add_(0, partner, wide - own)
    out.copy_(own)
