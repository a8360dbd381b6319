"""Mixing at the speed of memory: what :func:`mixwell.functional.mix` runs.

On the CPU, blocks that fit the cache, into memory that is used again (:class:`Recycler`); on a
GPU, one Triton kernel, forward and backward. Inside ``torch.compile``, and for whatever else
neither knows (tensor subclasses, functorch, complex numbers on a GPU), the plain form: all give
the same values.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from mixwell.kernels import cpu, native
from mixwell.kernels.memory import Recycler, recycled
from mixwell.mix import Mix

__all__ = ["Recycler", "draw_boxes", "mix", "pair_distance", "plain", "recycled"]

_PLAIN_TYPES = (Tensor, torch.nn.Parameter)


def plain(x: Tensor, mix: Mix) -> Tensor:
    """Return the mix by torch's own operations: gather, then interpolate."""
    mask = mix.dense_mask()
    weight = cpu.fit_weight(mix.lam, x) if mask is None else cpu.fit_mask(mask, x)
    other = x.index_select(0, mix.partner)
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


def mix(x: Tensor, mix: Mix, out: Tensor | None = None) -> Tensor:
    """Return ``x`` (B, ...) mixed, in ``out`` where given; the arguments have been checked."""
    run = _choose(x, mix)
    if run is None:
        mixed = plain(x, mix)
        return mixed if out is None else out.copy_(mixed)
    if x.requires_grad and torch.is_grad_enabled():
        leaves, structure = pytree.tree_flatten(mix)
        mixed = _Mix.apply(x, structure, *leaves)
        assert isinstance(mixed, Tensor)
        return mixed
    return run(x, mix, out)


def must_be_plain() -> bool:
    """Whether operations are recorded, not run: by a compiler, functorch or forward-mode AD."""
    return bool(
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or torch.jit.is_tracing()  # type: ignore[attr-defined]
    )


def pair_distance(x: Tensor, partner: Tensor) -> Tensor:
    """Return the squared distance of each row of ``x`` (B, n) to its partner's: (B,)."""
    if (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and type(x) in _PLAIN_TYPES
        and (x.ndim < 2 or x.stride(1) == 1)
        and x.numel()
        and not must_be_plain()
        and native.library() is not None
    ):
        return cpu.pair_distance(x, partner)
    return (x - x.index_select(0, partner)).square().sum(1)


def draw_boxes(
    lam: Tensor, centre: Tensor, height: int, width: int
) -> tuple[Tensor, Tensor] | None:
    """Return what :func:`native.draw_boxes` does; None where the compiled kernels can't be had."""
    if (
        must_be_plain()
        or lam.device.type != "cpu"
        or not (lam.dtype == centre.dtype == torch.float32)
        or not (type(lam) is type(centre) is Tensor)
        or (lam.requires_grad and torch.is_grad_enabled())
        or native.library() is None
    ):
        return None
    lam, centre = (cpu.row_of(x, torch.float32) for x in (lam, centre))
    return native.draw_boxes(lam, centre, height, width)


def _choose(x: Tensor, mix: Mix) -> Any:
    """Return the function that mixes this tensor, or None for the plain form."""
    if must_be_plain() or type(x) not in _PLAIN_TYPES or not x.shape[0]:
        return None
    if x.is_neg() or x.is_conj():  # what is in memory is not the value
        return None
    if mix.warp is not None or (mix.box is not None and mix.box.source is not None):
        return None
    if not (x.is_floating_point() or x.dtype == torch.uint8):
        return None
    learnt = mix.lam.requires_grad or (mix.mask is not None and mix.mask.requires_grad)
    if learnt and torch.is_grad_enabled():
        return None
    if x.device.type == "cpu" and not x.is_complex() and cpu.has_rows(x):
        return _on_cpu
    if x.device.type != "cpu" and _triton().available(x):
        return _on_gpu
    return None


def _triton() -> Any:
    """Return the module of the GPU's kernels; importing Triton takes a while."""
    from mixwell.kernels import triton

    return triton


def _on_cpu(x: Tensor, mix: Mix, out: Tensor | None) -> Tensor:
    x = x.detach()
    target = recycled.empty_like(x) if out is None else out
    strided = target if target.stride() == x.stride() else torch.empty_like(x)
    if strided.stride() != x.stride():  # of expanded batches
        return target.copy_(plain(x, mix))
    if out is not None and x.data_ptr() != out.data_ptr() and _overlap(x, out):
        return target.copy_(plain(x, mix))
    cpu.mix_into(strided, x, mix.partner, mix.lam, mix.mask, mix.box)
    if strided is not target:
        return target.copy_(strided)
    if out is not None:
        torch.autograd.graph.increment_version(out)
    return target


def _overlap(x: Tensor, y: Tensor) -> bool:
    """Whether two tensors may lie on the same memory."""
    (start, stop), (other_start, other_stop) = (_span(t) for t in (x, y))
    return start < other_stop and other_start < stop


def _span(x: Tensor) -> tuple[int, int]:
    start, reach = x.data_ptr(), x.numel() - 1
    if not x.is_contiguous():
        reach = sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
    return start, start + (reach + 1) * x.element_size()


def _on_gpu(x: Tensor, mix: Mix, out: Tensor | None) -> Tensor:
    direct = out is not None and out.is_contiguous() and not _overlap(x, out)
    mixed = _triton().forward(x.detach(), **_for_gpu(mix), out=out if direct else None)
    return mixed if out is None or direct else out.copy_(mixed)


def _for_gpu(mix: Mix) -> dict[str, Tensor | None]:
    """Return what the Triton kernels are told of a mix."""
    box = None if mix.box is None else mix.box.edges
    return {"partner": mix.partner, "lam": mix.lam, "mask": mix.mask, "box": box}


class _Mix(torch.autograd.Function):
    """The mix, linear in ``x``; its gradient is :class:`_Transposed`, whose gradient it is.

    What it is given after ``x`` is a :class:`Mix`, flattened: autograd knows tensors alone.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, structure: Any, *leaves: Tensor) -> Tensor:
        ctx.save_for_backward(*leaves)
        ctx.structure = structure
        mix = pytree.tree_unflatten(leaves, structure)
        if x.device.type != "cpu":
            return _on_gpu(x, mix, None)
        out = torch.empty_like(x)
        cpu.mix_into(out, x, mix.partner, mix.lam, mix.mask, mix.box)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        leaves = ctx.saved_tensors
        grad = _Transposed.apply(gradients[0], ctx.structure, *leaves)
        return (grad, None, *[None for _ in leaves])


class _Transposed(torch.autograd.Function):
    """The gradient of the mix: each sample's own share, and what it gave to others."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, structure: Any, *leaves: Tensor) -> Tensor:
        ctx.save_for_backward(*leaves)
        ctx.structure = structure
        mix = pytree.tree_unflatten(leaves, structure)
        if grad.device.type != "cpu":
            return _triton().backward(grad.contiguous(), **_for_gpu(mix))
        out = torch.empty_like(grad)
        cpu.transposed_into(out, grad, mix.partner, mix.lam, mix.dense_mask())
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        leaves = ctx.saved_tensors
        grad = _Mix.apply(gradients[0].contiguous(), ctx.structure, *leaves)
        return (grad, None, *[None for _ in leaves])
