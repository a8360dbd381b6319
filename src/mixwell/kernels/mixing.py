"""Mixing at the speed of memory: what :func:`mixwell.functional.mix` runs.

On the CPU, blocks that fit the cache, into memory that is used again (:class:`Recycler
<mixwell.kernels.memory.Recycler>`); on a GPU, one Triton kernel, forward and backward. A compiler
gets the same as one operator (:mod:`mixwell.kernels.operators`). For whatever else the gate does
not let pass there is the plain form: all give the same values.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mixwell.kernels import cpu, gate, native
from mixwell.kernels.memory import recycled
from mixwell.mix import Box, Mix
from mixwell.values import alike

__all__ = ["draw_boxes", "mix", "mix_otherwise", "mixed", "pair_distance", "plain", "transposed"]

_SIGNED = {
    torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64,
}  # fmt: skip
"""What torch has few operations for, and the same bits as what it has all for."""


def plain(x: Tensor, mix: Mix) -> Tensor:
    """Return the mix by torch's own operations: gather, then interpolate."""
    if x.dtype in _SIGNED and mix.warp is None:
        return plain(x.view(_SIGNED[x.dtype]), mix).view(x.dtype)
    mask = mix.dense_mask()
    weight = cpu.fit_weight(mix.lam, x) if mask is None else cpu.fit_mask(mask, x)
    partner, weight = alike(x, mix.partner, weight)
    other = x.index_select(0, partner)
    warp = mix.warped()
    if warp is not None:
        x, other = _read(x, warp.own), _read(other, warp.partner)
    if weight.dtype == torch.bool:
        return torch.where(weight, x, other)
    return cpu.interpolated(x, other, weight).to(x.dtype)


def _read(x: Tensor, grid: Tensor | None) -> Tensor:
    """Return ``x`` (B, ..., H, W) read at ``grid`` (B, H, W, 2), bilinearly between pixels.

    Of whole numbers that are no brightness (classes, masks) the nearest pixel is taken.
    """
    if grid is None:
        return x
    images = x.reshape(x.shape[0], -1, *x.shape[-2:])
    smooth = x.is_floating_point() or x.dtype == torch.uint8
    precise = torch.float64 if x.dtype in (torch.float64, torch.int64) else torch.float32
    read = F.grid_sample(
        images.to(precise),
        grid.to(precise),
        mode="bilinear" if smooth else "nearest",
        padding_mode="border",
        align_corners=False,
    )
    if not x.is_floating_point():
        read = read.round_()
    return read.to(x.dtype).reshape(x.shape)


# ------------------------------------------------------------------------------------ what is taken


def mix(x: Tensor, mix: Mix, out: Tensor | None = None) -> Tensor | None:
    """Return ``x`` (B, ...) mixed by a kernel, in ``out`` where given; None where none takes it."""
    if not _is_simple(x, mix):
        return None
    how = (mix.partner, mix.lam, mix.mask, None if mix.box is None else mix.box.edges)
    run = _kernel(x, *how)
    if run is None:
        return None
    if x.requires_grad and torch.is_grad_enabled():
        result = _Mix.apply(x, *how)
        assert isinstance(result, Tensor)
        return result
    return run(x, out, *how)


def mix_otherwise(x: Tensor, mix: Mix, out: Tensor | None = None) -> Tensor:
    """Return what :func:`mix` does not, by the operator in a graph, else by torch's own."""
    how = (mix.partner, mix.lam, mix.mask, None if mix.box is None else mix.box.edges)
    if _is_simple(x, mix) and _has_operator(x, *how):
        result: Tensor = torch.ops.mixwell.mix(x, *how)
    else:
        result = plain(x, mix)
    return result if out is None else out.copy_(result)


def _is_simple(x: Tensor, mix: Mix) -> bool:
    """Whether the kernels know this kind of mix, and none of its weights is learnt."""
    if mix.warp is not None or (mix.box is not None and mix.box.source is not None):
        return False
    if not (x.is_floating_point() or x.dtype == torch.uint8) or x.shape[0] == 0:
        return False
    learnt = mix.lam.requires_grad or (mix.mask is not None and mix.mask.requires_grad)
    return not (learnt and torch.is_grad_enabled())


def _kernel(x: Tensor, *how: Tensor | None) -> Callable[..., Tensor] | None:
    """Return the function that mixes this tensor by a compiled kernel, or None."""
    device = None if x.is_cpu else x.device
    if not gate.may_read(x, *how, device=device):
        return None
    if device is None:
        return _on_cpu if cpu.has_rows(x) else None
    return _on_gpu if _triton().available(x) else None


def _has_operator(x: Tensor, *how: Tensor | None) -> bool:
    """Whether the operator stands for this mix where operations are recorded."""
    if not gate.may_record(x, *how):
        return False
    return x.is_cpu or (x.is_cuda and _triton_runs_on(x.device))


def _plain(x: Tensor, partner: Tensor, lam: Tensor, *where: Tensor | None) -> Tensor:
    mask, edges = where
    box = None if edges is None else Box(edges, *x.shape[-2:])
    return plain(x, Mix(partner, lam, mask, box))


def _triton() -> Any:
    """Return the module of the GPU's kernels; importing Triton takes a while."""
    from mixwell.kernels import triton

    return triton


@lru_cache
def _look_for_triton(device: torch.device) -> bool:
    return torch.cuda.is_available() and bool(_triton().runs_on(device))


def _triton_runs_on(device: torch.device) -> bool:
    """Whether there is such a GPU, and Triton: a constant to torch.compile."""
    return _look_for_triton(device)


# What torch.compiler.assume_constant_result does, which loads the compiler: 1.7 s on import.
_triton_runs_on._dynamo_marked_constant = True  # type: ignore[attr-defined]


# ----------------------------------------------------------------------------------- on the devices


def _on_cpu(x: Tensor, out: Tensor | None, *how: Any) -> Tensor:
    if x.requires_grad:
        x = x.detach()
    if out is None:
        return _into(recycled.empty_like(x), x, *how)
    if not _may_write(x, out):
        return out.copy_(_plain(x, *how))
    if out.stride() != x.stride():
        return out.copy_(_into(torch.empty_like(x), x, *how))
    cpu.mix_into(out, x, *how)
    torch.autograd.graph.increment_version(out)
    return out


def _into(out: Tensor, x: Tensor, *how: Any) -> Tensor:
    """Write the mix to new memory like ``x``."""
    if out.stride() != x.stride():  # of expanded batches
        return out.copy_(_plain(x, *how))
    cpu.mix_into(out, x, *how)
    return out


def _may_write(x: Tensor, out: Tensor) -> bool:
    """Whether a kernel may write to ``out`` while it reads ``x``: it is x, or apart from it."""
    return gate.may_read(out) and (x.data_ptr() == out.data_ptr() or not _overlap(x, out))


def _overlap(x: Tensor, y: Tensor) -> bool:
    """Whether two tensors may lie on the same memory."""
    (start, stop), (other_start, other_stop) = (_span(t) for t in (x, y))
    return start < other_stop and other_start < stop


def _span(x: Tensor) -> tuple[int, int]:
    start, reach = x.data_ptr(), x.numel() - 1
    if not x.is_contiguous():
        reach = sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
    return start, start + (reach + 1) * x.element_size()


def _on_gpu(
    x: Tensor,
    out: Tensor | None,
    partner: Tensor,
    lam: Tensor,
    mask: Tensor | None,
    edges: Tensor | None,
) -> Tensor:
    direct = (
        out is not None
        and gate.may_read(out, device=x.device)
        and out.is_contiguous()
        and not _overlap(x, out)
    )
    result: Tensor = _triton().forward(
        x.detach(), partner, lam, mask=mask, box=edges, out=out if direct else None
    )
    return result if out is None or direct else out.copy_(result)


# ------------------------------------------------------------------------------------- its gradient


def mixed(
    x: Tensor,
    partner: Tensor,
    lam: Tensor,
    mask: Tensor | None,
    edges: Tensor | None,
    *,
    memory: Callable[[Tensor], Tensor] = recycled.empty_like,
) -> Tensor:
    """Return the mix of any tensor that torch runs kernels on, laid out as ``empty_like`` has it.

    Args:
        x: (B, ...), floating or uint8.
        partner: (B,).
        lam: (B,).
        mask: as in ``Mix``, or None.
        edges: (B, 4) of a ``Box`` for the last two dimensions of ``x``, or None.
        memory: gives that of the result.
    """
    how = (partner, lam, mask, edges)
    run = _kernel(x, *how)
    if run is None:
        return memory(x).copy_(_plain(x, *how))
    return _into(memory(x), x.detach(), *how) if run is _on_cpu else run(x, None, *how)


def transposed(
    grad: Tensor, partner: Tensor, lam: Tensor, mask: Tensor | None, edges: Tensor | None
) -> Tensor:
    """Return the gradient of :func:`mixed`: each sample's own share, and what it gave to others.

    Args:
        grad: (B, ...), floating, the gradient of what was mixed.
        partner: (B,), as that after it, of :func:`mixed`.
        lam: (B,).
        mask: as in ``Mix``, or None.
        edges: (B, 4), or None.
    """
    out = torch.empty_like(grad)
    if not grad.is_cpu and (_triton().available(whole := grad.contiguous())):
        result: Tensor = _triton().backward(whole, partner, lam, mask=mask, box=edges)
        return result if result.stride() == out.stride() else out.copy_(result)
    if edges is not None:
        mask = Box(edges, *grad.shape[-2:]).mask()
    cpu.transposed_into(out, grad, partner, lam, mask)
    return out


class _Mix(torch.autograd.Function):
    """The mix, linear in ``x``; its gradient is :class:`_Transposed`, whose gradient it is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *how: Any) -> Tensor:
        ctx.save_for_backward(*how)
        return mixed(x, *how, memory=torch.empty_like)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        grad = _Transposed.apply(gradients[0], *ctx.saved_tensors)
        return grad, None, None, None, None


class _Transposed(torch.autograd.Function):
    """The gradient of the mix, which is linear too."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, *how: Any) -> Tensor:
        ctx.save_for_backward(*how)
        return transposed(grad, *how)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        grad = _Mix.apply(gradients[0].contiguous(), *ctx.saved_tensors)
        return grad, None, None, None, None


# ------------------------------------------------------------------------------------ other kernels


def pair_distance(x: Tensor, partner: Tensor) -> Tensor:
    """Return the squared distance of each row of ``x`` (B, n) to its partner's: (B,)."""
    if (
        gate.may_read(x, dtypes=(torch.float32,))
        and gate.may_read(partner)
        and (x.ndim < 2 or x.stride(1) == 1)
        and x.numel()
        and native.library() is not None
    ):
        return cpu.pair_distance(x, partner)
    return (x - x.index_select(0, *alike(x, partner))).square().sum(1)


def draw_boxes(
    lam: Tensor, centre: Tensor, height: int, width: int
) -> tuple[Tensor, Tensor] | None:
    """Return what :func:`native.draw_boxes` does; None where the compiled kernels can't be had."""
    if (
        not gate.may_read(lam, centre, dtypes=(torch.float32,))
        or (lam.requires_grad and torch.is_grad_enabled())
        or native.library() is None
    ):
        return None
    lam, centre = (cpu.row_of(x, torch.float32) for x in (lam, centre))
    return native.draw_boxes(lam, centre, height, width)
