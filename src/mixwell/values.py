"""What the values of mixwell.mix share: they are trees of tensors, and check what comes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import _pytree as fx_pytree
from torch.utils import _pytree as pytree

from mixwell.errors import InputError

__all__ = [
    "alike",
    "check_broadcast",
    "check_kind",
    "check_place",
    "check_tensors",
    "check_vector",
    "is_size",
    "joined",
    "map_tensors",
    "not_dense",
    "register",
    "tensors",
]

_FLOATING = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_WHOLE = (
    torch.int64, torch.int32, torch.uint8, torch.int16, torch.int8, torch.uint16, torch.uint32,
    torch.uint64,
)  # fmt: skip
_KINDS: dict[str, tuple[tuple[torch.dtype, ...], str]] = {
    "floating": (_FLOATING, "floating numbers (float32)"),
    "real": ((*_FLOATING, *_WHOLE), "real numbers, floating or whole"),
    "comparable": ((*_FLOATING, *_WHOLE, torch.bool), "real numbers, whole numbers or bool"),
    "whole": (_WHOLE, "whole numbers (int64)"),
}


def tensors(x: Any) -> list[Tensor]:
    """Return the tensors in a pytree, in order."""
    if isinstance(x, Tensor):  # the usual case, and a walk through a tree takes its time
        return [x]
    return [leaf for leaf in pytree.tree_leaves(x) if isinstance(leaf, Tensor)]


def is_size(value: object) -> bool:
    """Whether a node of a pytree is to be left whole: torch rebuilds a torch.Size as a tuple."""
    return isinstance(value, torch.Size)


def map_tensors(function: Callable[..., Tensor], x: Any, *others: Any) -> Any:
    """Return a pytree with what ``function`` makes of its tensors; all else stays as it is.

    Args:
        function: given a tensor, and those in its place in the others.
        x: the pytree.
        others: of its structure.
    """
    if isinstance(x, Tensor):
        return function(x, *others)

    def made(leaf: Any, *rest: Any) -> Any:
        return function(leaf, *rest) if isinstance(leaf, Tensor) else leaf

    return pytree.tree_map(made, x, *others, is_leaf=is_size)


def alike(x: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """Return tensors as operations with ``x`` take them: replicated, where it is distributed.

    A DTensor knows no operation with plain tensors. A mix is drawn alike on all ranks of its mesh.
    """
    if type(x) in (Tensor, nn.Parameter) or not hasattr(x, "device_mesh"):
        return others
    from torch.distributed.tensor import DTensor, Replicate

    assert isinstance(x, DTensor)
    mesh, everywhere = x.device_mesh, [Replicate()] * x.device_mesh.ndim
    return tuple(
        other
        if isinstance(other, DTensor)
        else DTensor.from_local(other, mesh, everywhere, run_check=False)
        for other in others
    )


def joined(*parts: Tensor) -> Tensor:
    """Return rows behind each other, of one dtype, whatever autocast makes of its operations."""
    kind = parts[0].device.type
    if parts[0].dtype == torch.float16 and kind == "cpu" and torch.is_autocast_enabled(kind):
        with torch.autocast(kind, enabled=False):  # which knows no float16 there
            return torch.cat(parts)
    return torch.cat(parts)


def register(cls: type) -> type:
    """Register a dataclass of tensors as a pytree, so that it maps, compiles, exports and loads."""
    names = [field.name for field in fields(cls)]

    def flatten(value: object) -> tuple[list[object], list[list[Any]]]:
        # What is None stays out: to torch it would be a leaf. Numbers are part of the structure.
        present = {name: getattr(value, name) for name in names}
        present = {name: part for name, part in present.items() if part is not None}
        # Lists, as JSON has no tuples: the structure is saved with an exported program.
        plain = [[name, part if isinstance(part, int) else None] for name, part in present.items()]
        return [part for part in present.values() if not isinstance(part, int)], plain

    def unflatten(children: Iterable[object], plain: list[list[Any]]) -> object:
        # Not through __init__: while a tree is mapped its leaves need not be tensors.
        value: object = object.__new__(cls)
        parts = iter(children)
        given = {name: next(parts) if part is None else part for name, part in plain}
        for name in names:
            object.__setattr__(value, name, given.get(name))
        return value

    def with_keys(value: object) -> tuple[list[tuple[Any, object]], Any]:
        children, plain = flatten(value)
        keys = [pytree.GetAttrKey(name) for name, part in plain if part is None]
        return list(zip(keys, children, strict=True)), plain

    pytree.register_pytree_node(
        cls,
        flatten,
        unflatten,
        serialized_type_name=f"mixwell.{cls.__name__}",
        flatten_with_keys_fn=with_keys,
    )
    # For torch 2.6, whose exported programs ask for it when they run.
    fx_pytree.register_pytree_flatten_spec(cls, lambda value, spec: flatten(value)[0])
    torch.serialization.add_safe_globals([cls])  # of tensors and numbers alone
    return cls


def _of(owner: str) -> str:
    return f"{owner}: " if owner else ""


def check_tensors(owner: str, **values: Any) -> None:
    """Raise an InputError for what should be a tensor, by name, and isn't."""
    for name, value in values.items():
        if isinstance(value, Tensor):
            continue
        if value is None:
            raise InputError(f"{_of(owner)}{name} must be a tensor, got None")
        kind = type(value)
        home = "" if kind.__module__ == "builtins" else f"{kind.__module__.split('.')[0]}."
        raise InputError(
            f"{_of(owner)}{name} must be a tensor, got {home}{kind.__qualname__}; "
            f"torch.as_tensor({name}) makes one of a list or of NumPy's"
        )


def check_kind(owner: str, kind: str, **values: Any) -> None:
    """Raise an InputError for what isn't a dense tensor of this kind of numbers.

    Args:
        owner: whose arguments they are, for the message; may be empty.
        kind: "floating"; "real", floating or whole; "comparable", bool too; or "whole".
        values: the tensors, by name.
    """
    dtypes, words = _KINDS[kind]
    for name, value in values.items():
        dense = isinstance(value, Tensor) and value.layout is torch.strided
        if dense and value.dtype in dtypes and not value.is_nested:
            continue  # at once: every step comes here, several times
        check_tensors(owner, **{name: value})
        if value.dtype not in dtypes:
            shape = "" if value.is_nested else f" of shape {tuple(value.shape)}"
            raise InputError(f"{_of(owner)}{name} must hold {words}, got {value.dtype}{shape}")
        raise not_dense(owner, name, value)


def not_dense(owner: str, name: str, x: Tensor) -> InputError:
    """Return the error for a nested, quantized or sparse tensor, with what makes it dense."""
    if x.is_nested:
        kind, remedy = "a nested tensor", f"torch.nested.to_padded_tensor({name}, 0.0)"
    elif x.is_quantized:
        kind, remedy = f"quantized, {x.dtype}", f"{name}.dequantize()"
    else:
        kind, remedy = f"{x.dtype} of layout {x.layout}", f"{name}.to_dense()"
    return InputError(
        f"{_of(owner)}{name} is {kind}, and only dense tensors will do; {remedy} is one"
    )


def check_place(owner: str, **values: Tensor | None) -> None:
    """Raise an InputError for tensors that are not on one device; None passes."""
    first: tuple[str, torch.device] | None = None
    for name, value in values.items():
        if value is None:
            continue
        if first is None:
            first = name, value.device
        elif value.device != first[1]:
            raise InputError(
                f"{_of(owner)}{name} is on {value.device}, {first[0]} on {first[1]}; they must be "
                f"on one device: {name}.to({str(first[1])!r})"
            )


def check_broadcast(owner: str, **values: Tensor) -> None:
    """Raise an InputError for tensors whose shapes can't be broadcast, or on several devices."""
    check_place(owner, **values)
    shapes = [tuple(value.shape) for value in values.values()]
    if all(shape == shapes[0] for shape in shapes):
        return
    try:
        torch.broadcast_shapes(*shapes)
    except RuntimeError:
        names, said = " and ".join(values), ", ".join(map(str, shapes))
        raise InputError(
            f"{_of(owner)}{names} must have one shape, or such as broadcast; got {said}"
        ) from None


def check_vector(owner: str, name: str, value: Tensor, size: int) -> None:
    """Raise an InputError for what should be (size,) and isn't."""
    if value.shape != (size,):
        raise InputError(
            f"{owner}: {name} must have one entry per sample, shape ({size},), "
            f"got shape {tuple(value.shape)}"
        )
