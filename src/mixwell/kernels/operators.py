"""Mixing as operators of torch: what a compiler or an exporter writes into its graph.

``torch.ops.mixwell.mix`` and its transpose run the same kernels. To a graph each is one step, of
known shape and gradient; what a kernel does not take it mixes by the plain form. Outside of graphs
nothing goes through them: the way there costs as much as mixing thousands of numbers.

A result takes memory of an earlier one here too: that it is free is read off its references, and a
graph that runs holds what it still needs as anyone does.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mixwell.kernels import mixing

__all__: list[str] = []

_HOW = "Tensor partner, Tensor lam, Tensor? mask, Tensor? edges"

# A kernel reads memory: how that is laid out is the result's layout, which a graph was told.
_TAGS = (torch.Tag.needs_fixed_stride_order, torch.Tag.pt2_compliant_tag)

_library = torch.library.Library("mixwell", "DEF")
_library.define(f"mix(Tensor x, {_HOW}) -> Tensor", tags=_TAGS)
_library.define(f"mix_transposed(Tensor grad, {_HOW}) -> Tensor", tags=_TAGS)


def _like(
    x: Tensor, partner: Tensor, lam: Tensor, mask: Tensor | None, edges: Tensor | None
) -> Tensor:
    """Return what a result looks like, to those who trace."""
    return torch.empty_like(x)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[1:])


def _to_inputs(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return torch.ops.mixwell.mix_transposed(grad, *ctx.saved_tensors), None, None, None, None


def _to_gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return torch.ops.mixwell.mix(grad, *ctx.saved_tensors), None, None, None, None


for _name, _run, _gradient in (
    ("mix", mixing.mixed, _to_inputs), ("mix_transposed", mixing.transposed, _to_gradients),
):  # fmt: skip
    _library.impl(_name, _run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"mixwell::{_name}", _like, lib=_library)
    torch.library.register_autograd(
        f"mixwell::{_name}", _gradient, setup_context=_keep, lib=_library
    )
