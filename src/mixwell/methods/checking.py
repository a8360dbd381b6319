"""What a step is given is looked at before anything runs: each error names the argument."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mixwell.errors import InputError
from mixwell.methods.recipe import Term
from mixwell.mix import tensors
from mixwell.tasks import Task
from mixwell.values import check_kind, check_place

__all__ = ["check_shapes", "check_task", "checked_data", "plain_batch"]


def plain_batch(x: Any) -> Any:
    """Return mappings of other kinds (Hugging Face's BatchEncoding) as dicts."""
    return dict(x) if isinstance(x, Mapping) and not isinstance(x, dict) else x


def check_task(name: str, term: Term, task: Task) -> None:
    """Raise an InputError for a term whose loss or labels are not for the task."""
    parts: list[Any] = [term.loss, *([term.recipe.labels] if term.recipe else [])]
    for part in parts:
        if task.name not in part.tasks:
            raise InputError(
                f"{name}: {type(part).__name__} is for {' or '.join(part.tasks)}, "
                f"not for task={task.name!r}"
            )


def check_shapes(x: Any, y: Any, index: Any) -> torch.device:
    """Raise an InputError unless all are batch-first and equally long; return x's device."""
    leaves = tensors(x)
    if not leaves:
        raise InputError(f"x must be a tensor or hold tensors, got {type(x).__name__}")
    if not isinstance(y, Tensor):
        raise InputError(f"y must be a tensor, got {type(y).__name__}")
    _check_dense("y", y)
    for leaf in leaves:
        _check_dense("x", leaf)
    size = y.shape[0] if y.ndim else 0
    if any((leaf.shape[0] if leaf.ndim else 0) != size for leaf in leaves):
        shapes = ", ".join(str(tuple(leaf.shape)) for leaf in leaves)
        raise InputError(
            f"x and y must be batch-first and equally long: x has shape {shapes}, "
            f"y {tuple(y.shape)}"
        )
    if size == 0:
        raise InputError("x and y hold an empty batch: at least one sample is needed")
    if index is not None and (not isinstance(index, Tensor) or index.shape != (size,)):
        got = tuple(index.shape) if isinstance(index, Tensor) else type(index).__name__
        raise InputError(f"index must have shape ({size},), one position a sample, got {got}")
    if index is not None:
        check_kind("", "whole", index=index)
    check_place("", x=leaves[0], y=y)
    return leaves[0].device


def checked_data(x: Any, y: Tensor, data: Any) -> tuple[Any, Tensor] | None:
    """Return the training data that partners may come from, if they are like the batch."""
    if data is None:
        return None
    if not isinstance(data, (tuple, list)) or len(data) != 2 or not isinstance(data[1], Tensor):
        raise InputError(f"data must be the training set's (x, y), got {type(data).__name__}")
    own, theirs = (
        [tuple(leaf.shape[1:]) for leaf in [*tensors(inputs), targets]]
        for inputs, targets in ((x, y), data)
    )
    if own != theirs or any(len(leaf) != len(data[1]) for leaf in tensors(data[0])):
        raise InputError(
            f"data must hold samples like the batch's, of shapes {own}, got {theirs}, with "
            f"{len(data[1])} targets"
        )
    return data[0], data[1]


def _check_dense(argument: str, value: Tensor) -> None:
    """Raise an InputError for nested and sparse tensors."""
    if value.is_nested:
        raise InputError(f"{argument} must be dense, got a nested tensor: pad it to one length")
    if value.layout != torch.strided:
        kind = str(value.layout).removeprefix("torch.")
        raise InputError(
            f"{argument} must be dense, got a {kind} tensor of shape {tuple(value.shape)}: give "
            f"{argument}.to_dense()"
        )
