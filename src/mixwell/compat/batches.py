"""Taking a loader's batch apart: which of it is the input, which the target, which the position."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from torch import Tensor

from mixwell.errors import InputError, say, suggest

__all__ = ["Split", "check_index", "split_batch", "take_apart"]

Split = Callable[[Any], tuple[Any, ...]]
"""Takes a batch apart into (x, y) or (x, y, index)."""

_INPUTS = ("x", "image", "images", "pixel_values", "input", "inputs", "data")
_LABELS = ("y", "label", "labels", "target", "targets")
_INDICES = ("index", "indices", "idx")

_said: set[tuple[str, ...]] = set()
"""What was left out of batches, and said so."""


def check_index(index: Any) -> int | str | None:
    """Return where the positions are in a batch: its place, its key or None; or raise."""
    if index is None or (isinstance(index, (int, str)) and not isinstance(index, bool)):
        return index
    raise InputError(
        "index must say where a batch has the samples' positions: 2 for the third element, 'index' "
        f"for that key, None for nowhere; got {index!r}"
    )


def split_batch(batch: Any, index: int | str | None = None) -> tuple[Any, Tensor, Tensor | None]:
    """Return the inputs, the targets and, where asked for, the positions in the training set.

    Args:
        batch: (x, y), or a mapping in which the target is called "y", "label", "labels", "target"
            or "targets", and the input "x", "image", "images", "pixel_values", "input", "inputs"
            or "data", or is the only other tensor. Other tensors of a mapping are left out, which
            is said once.
        index: where the batch also has the positions, (B,) whole numbers: the place in a tuple, 2
            of (x, y, index), or the key in a mapping.

    Raises:
        InputError: it is none of these, or several names of one kind are in it.

    >>> x, y, index = split_batch({"image": torch.zeros(2, 3), "label": torch.tensor([0, 1])})
    >>> x.shape, y.tolist(), index
    (torch.Size([2, 3]), [0, 1], None)
    >>> split_batch((x, y, torch.tensor([7, 3])), index=2)[2]
    tensor([7, 3])
    """
    index = check_index(index)
    if isinstance(batch, Mapping):
        return _split_mapping(batch, index)
    if isinstance(index, str):
        raise InputError(
            f"index={index!r} is a key, and the batch is {_shown(batch)}; give the place, index=2"
        )
    if isinstance(batch, (tuple, list)):
        rest, positions = list(batch), None
        if index is not None:
            if not -len(rest) <= index < len(rest):
                raise InputError(f"index={index}: the batch has no such place, {_shown(batch)}")
            positions = _check_positions(rest.pop(index), index)
        if len(rest) == 2 and isinstance(rest[1], Tensor):
            return rest[0], rest[1], positions
        if len(rest) == 3 and index is None and isinstance(rest[1], Tensor):
            raise InputError(
                f"what is the third element of a batch of {_shown(batch)}? If it holds the "
                "samples' positions in the training set, say index=2; if it is something else, "
                "leave it out with split=lambda batch: (batch[0], batch[1])"
            )
    raise InputError(
        f"can't tell inputs and targets apart in a batch of {_shown(batch)}; known are (x, y), "
        "(x, y, index) with index=2 for a (B,) tensor of positions, and mappings; say how with "
        "split=lambda batch: (x, y)"
    )


def _check_positions(value: Any, index: int | str) -> Tensor:
    if isinstance(value, Tensor) and value.ndim == 1 and not value.is_floating_point():
        return value
    raise InputError(
        f"index={index!r} must be a (B,) tensor of positions, whole numbers, got {_shown(value)}"
        f"{f' of {value.dtype}' if isinstance(value, Tensor) else ''}"
    )


def _split_mapping(
    batch: Mapping[str, Any], index: int | str | None
) -> tuple[Any, Tensor, Tensor | None]:
    def find(names: tuple[str, ...], what: str) -> str | None:
        found = [name for name in names if name in batch and name != index]
        if len(found) > 1:
            raise InputError(
                f"which is the {what} in a batch of {_shown(batch)}: {' or '.join(found)}? Say "
                f"with split=lambda batch: (batch['...'], batch['...'])"
            )
        return found[0] if found else None

    if index is not None and index not in batch:
        near = suggest(str(index), map(str, batch))
        raise InputError(f"index={index!r} is not in a batch of {_shown(batch)}{near}")
    label, found = find(_LABELS, "target"), find(_INPUTS, "input")
    # What is called so is no input, asked for or not.
    others = [
        name
        for name, value in batch.items()
        if isinstance(value, Tensor) and name not in (label, index, *_INDICES)
    ]
    if found is None and len(others) == 1:
        found = others[0]
    if label is None or found is None:
        missing = "target" if label is None else "input"
        names = ", ".join(_LABELS if label is None else _INPUTS)
        raise InputError(
            f"can't tell which is the {missing} in a batch of {_shown(batch)}; known names are "
            f"{names}; say how with split=lambda batch: (batch['...'], batch['...'])"
        )
    left = [
        name
        for name, value in batch.items()
        if isinstance(value, Tensor) and name not in (label, found, index)
    ]
    _say_left_out(left, found, label)
    return batch[found], batch[label], None if index is None else (
        _check_positions(batch[cast(str, index)], index)
    )  # fmt: skip


def _say_left_out(left: list[str], found: str, label: str) -> None:
    """Say once which tensors of a batch the method is not given."""
    key = (found, label, *left)
    if not left or key in _said:
        return
    _said.add(key)
    positions = [name for name in left if name in _INDICES]
    hint = f" For positions of the samples say index={positions[0]!r}." if positions else ""
    say(
        f"of a batch, {', '.join(map(repr, left))} {'are' if len(left) > 1 else 'is'} left out: "
        f"the method is given x=batch[{found!r}] and y=batch[{label!r}] alone. If the model or the "
        "loss needs more, say how with split=lambda batch: ({...}, batch[...]), where x may be a "
        f"dict, or write the step yourself.{hint} (said once)"
    )


def _shown(batch: Any) -> str:
    """Return what a batch is made of, for messages."""

    def one(value: Any) -> str:
        return f"{tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__

    if isinstance(batch, Mapping):
        return "{" + ", ".join(f"{name}: {one(value)}" for name, value in batch.items()) + "}"
    if isinstance(batch, (tuple, list)):
        return "[" + ", ".join(map(one, batch)) + "]"
    return one(batch)


def take_apart(split: Split, batch: Any) -> tuple[Any, Tensor, Tensor | None]:
    """Return (x, y, index) as ``split`` says, where index may be None."""
    parts = split(batch)
    if not isinstance(parts, tuple) or len(parts) not in (2, 3):
        raise InputError(f"split must return (x, y) or (x, y, index), got {_shown(parts)}")
    return cast("tuple[Any, Tensor, Tensor | None]", (*parts, None)[:3])
