# mypy: allow-untyped-defs, allow-incomplete-defs
"""Mixing in one launch on a GPU: kernels in Triton, each with its plain function on tensors.

A copy reads x once and writes once, and that is what these come near: x[partner], the mask's
float form and the products never go to memory. Importing this file does not need Triton;
:func:`available` says whether the kernels can run.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from mixwell.errors import InputError
from mixwell.mix import positions_of

try:
    import triton  # type: ignore[import-untyped, import-not-found, unused-ignore]
    import triton.language as tl  # type: ignore[import-untyped, import-not-found, unused-ignore]
except ImportError:
    triton = None

__all__ = ["available", "backward", "forward", "runs_on"]

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.uint8)
"""What can be mixed; uint8 forward alone."""

SMALL = 2**20
"""Elements below which smaller programs are launched, for enough of them to fill a GPU."""

WIDE = 2**30
"""Planes, or positions in one, from which these are counted in 64 bits; offsets always are."""


def _jit(*do_not_specialize: str) -> Callable[[Callable], Any]:
    """Return a decorator: Triton's, or none without Triton. The names are runtime values."""
    return lambda fn: fn if triton is None else triton.jit(fn, do_not_specialize=do_not_specialize)


# --------------------------------------------------------------------------------------- kernels
#
# x is seen as planes of `area` positions: B planes of n positions where a sample has one weight;
# B · C planes of H · W where it has one for each position. A program takes a tile of ROWS planes
# by BLOCK positions. Programs of one tile column run next to each other through the *batch*: x as
# own sample and x as partner are then read within a few megabytes of each other, and the second
# reading is served by the L2 cache.

_SIZES = (
    *("partner_stride", "lam_stride", "where_stride"),
    *("total", "planes", "area", "width", "tiles", "hop"),
)


@_jit()
def _place(total, area, tiles, hop, INDEX: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Return the planes (ROWS,) and positions (BLOCK,) of this program, and which exist."""
    program = tl.program_id(0)
    rest = program // tiles
    tile = program % tiles * hop + rest % hop
    plane = tile.to(INDEX) * ROWS + tl.arange(0, ROWS)
    position = (rest // hop).to(INDEX) * BLOCK + tl.arange(0, BLOCK)
    return plane, position, (plane < total)[:, None] & (position < area)[None, :]


@_jit()
def _box(box_ptr, box_stride, sample, exists, position, width, GROUP: tl.constexpr):
    """Return where (ROWS, BLOCK) the box is: at a position; in its group in part; in all of it.

    A group is the positions of one 16-byte load (fewer where the width is no multiple of it). A
    load is left out for a whole group or not at all: by single positions it would fall to pieces.
    """
    # Unsigned, the compiler sees that a group's positions share all that follows.
    UNSIGNED: tl.constexpr = tl.uint64 if position.dtype == tl.int64 else tl.uint32
    group = position.to(UNSIGNED) // GROUP
    line = group // (width // GROUP).to(UNSIGNED)
    first = (group - line * (width // GROUP).to(UNSIGNED)) * GROUP
    line = line.to(position.dtype)[None, :]
    first = first.to(position.dtype)[None, :]
    offset = (tl.arange(0, position.shape[0]) % GROUP)[None, :]

    corner = box_ptr + sample.to(tl.int64) * box_stride
    top = tl.load(corner, mask=exists, other=0).to(position.dtype)[:, None]
    bottom = tl.load(corner + 1, mask=exists, other=0).to(position.dtype)[:, None]
    left = tl.load(corner + 2, mask=exists, other=0).to(position.dtype)[:, None]
    right = tl.load(corner + 3, mask=exists, other=0).to(position.dtype)[:, None]
    low = left - first
    high = tl.where((line >= top) & (line < bottom), right - first, 0)
    inside = (offset >= low) & (offset < high)
    return inside, (low < GROUP) & (high > 0), (low <= 0) & (high >= GROUP)


@_jit(*_SIZES)
def _forward_kernel(
    x_ptr,
    partner_ptr,
    lam_ptr,
    where_ptr,
    out_ptr,
    partner_stride,
    lam_stride,
    where_stride,
    total,
    planes,
    area,
    width,
    tiles,
    hop,
    MODE: tl.constexpr,
    COMPUTE: tl.constexpr,
    INDEX: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    ALIGN: tl.constexpr,
    GROUP: tl.constexpr,
):
    # As a product the compiler knows it as a multiple, and what starts there as 16-byte aligned.
    area = area.to(INDEX) * ALIGN
    plane, position, valid = _place(total, area, tiles, hop, INDEX, ROWS, BLOCK)
    exists = plane < total
    sample = plane
    if MODE != "lam":
        sample = plane // planes
    partner = tl.load(partner_ptr + sample.to(tl.int64) * partner_stride, mask=exists, other=0)
    other_plane = partner.to(tl.int64)
    if MODE != "lam":
        other_plane = other_plane * planes + (plane - sample * planes)
    own_at = (plane.to(tl.int64) * area)[:, None] + position[None, :]
    other_at = (other_plane * area)[:, None] + position[None, :]

    if MODE == "box":
        inside, touched, covered = _box(
            where_ptr, where_stride, sample, exists, position, width, GROUP
        )
        own = tl.load(x_ptr + own_at, mask=valid & ~covered)
        other = tl.load(x_ptr + other_at, mask=valid & touched)
        tl.store(out_ptr + own_at, tl.where(inside, other, own), mask=valid)
    else:
        own = tl.load(x_ptr + own_at, mask=valid)
        other = tl.load(x_ptr + other_at, mask=valid)
        if MODE == "lam":
            weight = tl.load(lam_ptr + sample.to(tl.int64) * lam_stride, mask=exists, other=0.0)
            weight = weight.to(COMPUTE)[:, None]
        else:
            weight_at = (sample.to(tl.int64) * where_stride * ALIGN)[:, None] + position[None, :]
            weight = tl.load(where_ptr + weight_at, mask=valid, other=0)
        if MODE == "select":
            mixed = tl.where(weight != 0, own, other)
        else:
            # torch.lerp's own form, whose ends are exact; fused, so that it is so on any device.
            weight = weight.to(COMPUTE)
            near = tl.abs(weight) < 0.5
            start = tl.where(near, other.to(COMPUTE), own.to(COMPUTE))
            slope = tl.where(near, weight, weight - 1)
            mixed = tl.fma(
                tl.broadcast_to(slope, [ROWS, BLOCK]), own.to(COMPUTE) - other.to(COMPUTE), start
            )
            if out_ptr.dtype.element_ty == tl.uint8:
                # At 1.5 · 2^23 the next float is one away: the sum rounds to nearest, ties to
                # even, and the integer is what its lowest bits say.
                mixed = (mixed + 12582912.0).to(tl.int32, bitcast=True)
        tl.store(out_ptr + own_at, mixed.to(out_ptr.dtype.element_ty), mask=valid)


@_jit(*_SIZES)
def _backward_kernel(
    grad_ptr,
    order_ptr,
    start_ptr,
    lam_ptr,
    where_ptr,
    out_ptr,
    lam_stride,
    where_stride,
    total,
    planes,
    area,
    width,
    tiles,
    hop,
    MODE: tl.constexpr,
    COMPUTE: tl.constexpr,
    INDEX: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    ALIGN: tl.constexpr,
    GROUP: tl.constexpr,
):
    # As a product the compiler knows it as a multiple, and what starts there as 16-byte aligned.
    area = area.to(INDEX) * ALIGN
    plane, position, valid = _place(total, area, tiles, hop, INDEX, ROWS, BLOCK)
    exists = plane < total
    sample = plane
    if MODE != "lam":
        sample = plane // planes
    channel = plane - sample * planes
    # Who has this sample as partner: order[start:end].
    start = tl.load(start_ptr + sample, mask=exists, other=0)
    count = tl.load(start_ptr + sample + 1, mask=exists, other=0) - start
    own_at = (plane.to(tl.int64) * area)[:, None] + position[None, :]
    weight_at = (sample.to(tl.int64) * where_stride * ALIGN)[:, None] + position[None, :]

    if MODE == "box":
        inside, _, covered = _box(where_ptr, where_stride, sample, exists, position, width, GROUP)
        grad = tl.load(grad_ptr + own_at, mask=valid & ~covered).to(COMPUTE)
        total_grad = tl.where(inside, 0.0, grad)
    else:
        grad = tl.load(grad_ptr + own_at, mask=valid, other=0.0).to(COMPUTE)
        if MODE == "lam":
            weight = tl.load(lam_ptr + sample.to(tl.int64) * lam_stride, mask=exists, other=0.0)
            total_grad = weight.to(COMPUTE)[:, None] * grad
        else:
            weight = tl.load(where_ptr + weight_at, mask=valid, other=0)
            if MODE == "select":
                total_grad = tl.where(weight != 0, grad, 0.0)
            else:
                total_grad = weight.to(COMPUTE) * grad

    for k in range(0, tl.max(count, axis=0)):
        active = k < count
        mixed = tl.load(order_ptr + start + k, mask=active, other=0)
        mixed_plane = mixed
        if MODE != "lam":
            mixed_plane = mixed * planes + channel
        mixed_at = (mixed_plane * area)[:, None] + position[None, :]
        needed = valid & active[:, None]
        if MODE == "box":
            inside, touched, _ = _box(
                where_ptr, where_stride, mixed, active, position, width, GROUP
            )
            grad = tl.load(grad_ptr + mixed_at, mask=needed & touched).to(COMPUTE)
            total_grad += tl.where(inside, grad, 0.0)
        else:
            grad = tl.load(grad_ptr + mixed_at, mask=needed, other=0.0).to(COMPUTE)
            if MODE == "lam":
                weight = tl.load(lam_ptr + mixed * lam_stride, mask=active, other=0.0)
                total_grad += (1 - weight.to(COMPUTE))[:, None] * grad
            else:
                weight_at = (mixed * where_stride * ALIGN)[:, None] + position[None, :]
                weight = tl.load(where_ptr + weight_at, mask=needed, other=0)
                if MODE == "select":
                    total_grad += tl.where(weight != 0, 0.0, grad)
                else:
                    total_grad += (1 - weight.to(COMPUTE)) * grad
    tl.store(out_ptr + own_at, total_grad.to(out_ptr.dtype.element_ty), mask=valid)


# ------------------------------------------------------------------------------------- functions


def available(x: Tensor) -> bool:
    """Return whether the kernels can take ``x``: a contiguous tensor on a GPU that Triton knows.

    With ``TRITON_INTERPRET=1`` set before this file is imported, tensors on the CPU are taken too.
    """
    return x.dtype in DTYPES and x.is_contiguous() and runs_on(x.device)


@lru_cache
def runs_on(device: torch.device) -> bool:
    """Return whether the kernels run on a device."""
    if triton is None:
        return False
    if not isinstance(_forward_kernel, triton.JITFunction):  # the interpreter's
        return device.type in ("cpu", "cuda")
    if device.type != "cuda":
        return False
    return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0)


def forward(
    x: Tensor,
    partner: Tensor,
    lam: Tensor,
    *,
    mask: Tensor | None = None,
    box: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Return ``λ_i x_i + (1 - λ_i) x_σ(i)`` in one launch, without gradient.

    It is ``torch.lerp(x[partner], x, λ)`` in float32 (float64 for float64), to the bit: λ = 1
    gives ``x`` and λ = 0 the partner. uint8 is rounded to the nearest integer (ties to even).
    Nothing is read on the host, and nothing but the result allocated.

    Args:
        x: (B, ...), contiguous; float32, bfloat16, float16, float64 or uint8.
        partner: (B,) int64 or int32, σ; each in [0, B), which is *not* checked.
        lam: (B,) floating; not read where there is a mask or a box.
        mask: optional (B or 1, 1, *positions), the own sample's weight at each position of the
            last dimensions of ``x``. bool selects, without arithmetic.
        box: optional (B, 4) int64 or int32, top, bottom, left and right (half-open) of the
            partner's place in the image; outside it is the own sample. Not with a mask.
        out: optional, the result is written there; contiguous, like ``x``, and not ``x``.

    Raises:
        InputError: shapes or dtypes that don't fit.
    """
    if x.dtype not in DTYPES:
        raise InputError(f"forward: x must be one of {DTYPES}, got {x.dtype}")
    _check("forward", "x", x, partner, lam, mask, box)
    if out is None:
        out = torch.empty_like(x)
    elif out.shape != x.shape or out.dtype != x.dtype or not out.is_contiguous():
        raise InputError(
            f"forward: out must be contiguous {x.dtype} of shape {tuple(x.shape)} like x, "
            f"got {out.dtype} of shape {tuple(out.shape)}"
        )
    elif x.numel() and out.data_ptr() == x.data_ptr():
        raise InputError("forward: out must not be x, which is read as partner while out is filled")
    if x.numel() == 0:
        return out
    programs, where, arguments = _plan(x, lam, mask, box)
    with torch.cuda.device_of(x):
        _forward_kernel[programs](
            x, partner, lam, where, out, partner_stride=partner.stride(0), **arguments
        )
    return out


def backward(
    grad: Tensor,
    partner: Tensor,
    lam: Tensor,
    *,
    mask: Tensor | None = None,
    box: Tensor | None = None,
) -> Tensor:
    """Return the gradient of :func:`forward` in ``x``, for any ``partner``: permutation or not.

    .. code-block:: text

        ∂L/∂x_i = λ_i g_i + Σ_{j: σ(j) = i} (1 - λ_j) g_j

    The sum is in float32 (float64 for float64) and in the order of j: the same at every call.

    Args:
        grad: (B, ...), contiguous and floating, g: the gradient of the mixed samples.
        partner: (B,), of :func:`forward`.
        lam: (B,), of :func:`forward`.
        mask: of :func:`forward`.
        box: of :func:`forward`.

    Raises:
        InputError: shapes or dtypes that don't fit.
    """
    if grad.dtype not in DTYPES or grad.dtype == torch.uint8:
        raise InputError(f"backward: grad must be floating, one of {DTYPES[:-1]}, got {grad.dtype}")
    _check("backward", "grad", grad, partner, lam, mask, box)
    out = torch.empty_like(grad)
    if grad.numel() == 0:
        return out
    with torch.cuda.device_of(grad):
        ranked, order = torch.sort(partner, stable=True)
        samples = torch.arange(len(grad) + 1, dtype=partner.dtype, device=partner.device)
        start = torch.searchsorted(ranked, samples)
        programs, where, arguments = _plan(grad, lam, mask, box)
        _backward_kernel[programs](grad, order, start, lam, where, out, **arguments)
    return out


def _check(
    name: str,
    what: str,
    x: Tensor,
    partner: Tensor,
    lam: Tensor,
    mask: Tensor | None,
    box: Tensor | None,
) -> None:
    if x.ndim == 0 or not x.is_contiguous():
        raise InputError(
            f"{name}: {what} must be batch-first and contiguous, got shape {tuple(x.shape)} with "
            f"strides {x.stride()}"
        )
    size = len(x)
    if partner.shape != (size,) or lam.shape != (size,):
        raise InputError(
            f"{name}: partner and lam must have shape ({size},) for {what} of shape "
            f"{tuple(x.shape)}, got {tuple(partner.shape)} and {tuple(lam.shape)}"
        )
    if mask is not None:
        _check_mask(name, what, x, mask, box)
    elif box is not None and x.ndim < 3:
        raise InputError(
            f"{name}: a box is for {what} of shape (B, ..., H, W), got shape {tuple(x.shape)}"
        )
    if box is not None and box.shape != (size, 4):
        raise InputError(f"{name}: the box must have shape ({size}, 4), got {tuple(box.shape)}")


def _check_mask(name: str, what: str, x: Tensor, mask: Tensor, box: Tensor | None) -> None:
    if box is not None:
        raise InputError(f"{name}: give a mask or a box, not both")
    positions = positions_of(mask)
    if (
        tuple(x.shape[1:])[-len(positions) :] != positions
        or len(mask) not in (1, len(x))
        or mask.numel() != len(mask) * math.prod(positions)
    ):
        raise InputError(
            f"{name}: for {what} of shape {tuple(x.shape)} the mask must have shape "
            f"({len(x)} or 1, 1, *positions), where positions are the last dimensions of {what}, "
            f"got {tuple(mask.shape)}"
        )


def _plan(
    x: Tensor, lam: Tensor, mask: Tensor | None, box: Tensor | None
) -> tuple[tuple[int], Tensor, dict[str, Any]]:
    """Return how many programs, what says where (or any tensor), and a kernel's other arguments.

    It is a function of shapes, strides and dtypes alone, so that steps of the same shape launch
    the same compiled kernel.
    """
    size, total, width, where, where_stride = x.element_size(), len(x), 1, lam, 0
    if mask is None and box is None:
        mode, planes, area = "lam", 1, x.numel() // total
    else:
        width = x.shape[-1]
        area = width * x.shape[-2] if mask is None else mask.numel() // len(mask)
        planes = x.numel() // (total * area)
        total *= planes
        if mask is None:
            assert box is not None
            mode, where = "box", box if box.stride(1) == 1 else box.contiguous()
        else:
            mode = "select" if mask.dtype == torch.bool else "weigh"
            where = mask.reshape(len(mask), area)
            where = where if where.stride(1) == 1 or area == 1 else where.contiguous()
            where = where.view(torch.uint8) if mode == "select" else where
        where_stride = where.stride(0) if len(where) > 1 else 0

    # A tile gives each of 128 threads some 16-byte loads; more elements would crowd registers.
    tile = 1024 if x.numel() < SMALL else {1: 8192, 2: 4096, 4: 2048, 8: 1024}[size]
    warps = min(4, tile * size // 512)
    block = min(tile, triton.next_power_of_2(area))
    rows = min(tile // block, triton.next_power_of_2(total))
    tiles = triton.cdiv(total, rows)
    # Through the batch first, then along the sample, where tiles don't straddle samples.
    hop = planes // rows if planes % rows == 0 else 1
    programs = tiles * triton.cdiv(area, block)
    align = math.gcd(area, 16) if mode == "box" else math.gcd(area, where_stride, 16)
    arguments = {
        "lam_stride": lam.stride(0),
        "where_stride": where_stride if mode == "box" else where_stride // align,
        "total": total,
        "planes": planes,
        "area": area // align,
        "width": width,
        "tiles": tiles // hop,
        "hop": hop,
        "MODE": mode,
        "COMPUTE": tl.float64 if x.dtype == torch.float64 else tl.float32,
        "INDEX": tl.int64 if max(total, area) >= WIDE else tl.int32,
        "ROWS": rows,
        "BLOCK": block,
        "ALIGN": align,
        "GROUP": math.gcd(16 // size, width),
        "num_warps": warps,
        "enable_fp_fusion": True,
    }
    return (programs,), where, arguments
