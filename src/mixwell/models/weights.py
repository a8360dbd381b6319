"""Weights to start from: read from a file, and put into a model, whose head may be another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mixwell.errors import InputError, suggest
from mixwell.view import find_head

__all__ = ["head_of", "load_weights", "read_weights"]

_WITHIN = ("state_dict", "model", "model_state_dict", "state_dict_ema", "model_ema", "net")
"""The names under which checkpoints hold a model's weights."""
_WRAPPED = ("module.", "_orig_mod.")
"""What data parallel and compiled models put before the names of their weights."""


def read_weights(path: Path, told: str) -> dict[str, Tensor]:
    """Return the weights in a file, by the names of their parameters and buffers.

    Args:
        path: what ``torch.save(model.state_dict(), FILE)`` wrote, a checkpoint that holds such
            under a usual name, or a ``.safetensors`` file. What modules keep beside tensors
            (``get_extra_state``) is among it.
        told: what it is called in errors.

    Raises:
        InputError: it holds no weights, or more than plain tensors.
    """
    if path.suffix == ".safetensors":
        try:
            from safetensors.torch import load_file
        except ImportError as error:
            raise InputError(f"{told} needs safetensors: pip install safetensors") from error
        read: Any = load_file
    else:

        def read(file: Path) -> Any:
            return torch.load(file, map_location="cpu", weights_only=True)

    try:
        content = read(path)
    except Exception as error:  # of any kind: it may be any file
        raise InputError(
            f"{told} holds no weights that can be read: {type(error).__name__}: "
            f"{str(error).strip().splitlines()[0]}; save them with torch.save(model.state_dict(), "
            "FILE)"
        ) from error
    for name in _WITHIN:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
            break
    tensors = (
        isinstance(content, Mapping)
        and content
        and all(isinstance(v, Tensor) or _is_extra(name) for name, v in content.items())
    )
    if not tensors:
        raise InputError(f"{told} holds no state_dict, names with their tensors")
    return _bare(dict(content))


def _bare(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights without what wrappers put before all of their names."""
    state.pop("n_averaged", None)  # of torch's AveragedModel
    for start in _WRAPPED * 2:
        if all(name.startswith(start) for name in state):
            state = {name.removeprefix(start): value for name, value in state.items()}
    return state


def head_of(model: nn.Module, input_shape: tuple[int, ...], head: str | None = None) -> str:
    """Return the name of a model's classifier head.

    Raises:
        InputError: it can't be found; the message lists what may be meant.
    """
    device = next(model.parameters()).device
    return find_head(model, torch.zeros(1, *input_shape, device=device), head)[0]


def load_weights(
    model: nn.Module,
    state: Mapping[str, Tensor],
    input_shape: tuple[int, ...],
    source: str,
    head: str | None = None,
    changed: str | None = None,
) -> list[str]:
    """Put weights into a model, all but a head of other classes.

    A first convolution of images of three channels is summed over them for grey images, which it
    then sees as if they were repeated.

    Args:
        model: that gets them.
        state: of a model that is the same but for its head.
        input_shape: of a sample, to find the head.
        source: what the weights are of, for messages.
        head: the head's name, where it can't be found.
        changed: why the head is one of other classes, where their number alone doesn't tell.

    Returns:
        What a user should know: that the head begins anew.

    Raises:
        InputError: weights beside the head's are missing, left over, or of another shape.
    """
    own = model.state_dict()
    given = {name: _grey(value, own.get(name)) for name, value in state.items()}
    missing = [n for n in own if n not in given and not _may_lack(n)]
    unexpected = [name for name in given if name not in own]
    other = [n for n, v in given.items() if n in own and _shape(v) != _shape(own[n])]
    if not (missing or unexpected or other or changed):
        model.load_state_dict(given, strict=False)
        return []
    found = head_of(model, input_shape, head)

    def outside(names: Iterable[str]) -> list[str]:
        return [name for name in names if not f"{name}.".startswith(f"{found}.")]

    _check(source, outside(missing), outside(unexpected), outside(other), own, given)
    kept = {n: value for n, value in given.items() if n in outside(given)}
    model.load_state_dict(kept, strict=False)
    before, now = (_outputs(values, found) for values in (given, own))
    why = f"{source} has none" if before is None else f"{source} has {before} outputs, this {now}"
    return [f"the head {found!r} begins anew: {changed or why}"]


def _outputs(state: Mapping[str, Tensor], head: str) -> int | None:
    """Return how many outputs a head has; None where its weights aren't there."""
    names = (f"{head}.bias", f"{head}.weight")
    return next((len(state[name]) for name in names if name in state), None)


def _is_extra(name: object) -> bool:
    """Whether a name of a ``state_dict`` is of what a module keeps beside tensors."""
    return str(name).rpartition(".")[2] == "_extra_state"


def _may_lack(name: str) -> bool:
    return _is_extra(name) or name.endswith("num_batches_tracked")


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(getattr(value, "shape", ()))


def _grey(value: Tensor, own: Tensor | None) -> Tensor:
    """Return the weights of a convolution of colour images for grey ones, where that is asked."""
    if len(_shape(value)) == len(_shape(own)) == 4 and value.shape[1] == 3:
        summed = value.sum(1, keepdim=True)
        return summed if summed.shape == _shape(own) else value
    return value


def _check(
    source: str, missing: list[str], unexpected: list[str], other: list[str],
    own: Mapping[str, Tensor], given: Mapping[str, Tensor],
) -> None:  # fmt: skip
    """Raise an InputError where weights that are not the head's don't fit."""
    words = []
    if missing:
        words.append(f"it lacks {_few(missing)}{suggest(missing[0], unexpected)}")
    if unexpected:
        words.append(f"the network has no {_few(unexpected)}{suggest(unexpected[0], missing)}")
    if other:
        first = other[0]
        words.append(
            f"{first} is of shape {_shape(given[first])}, the network's of "
            f"{_shape(own[first])}{f' (and {len(other) - 1} more)' if other[1:] else ''}"
        )
    if words:
        raise InputError(
            f"{source} doesn't fit the network beside its head: {'; '.join(words)}; give the model "
            "and the settings that it is of (--model, --model-set)"
        )


def _few(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
