"""What the processes of a distributed training tell each other, so that none waits in vain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from mixwell.errors import InputError

__all__ = ["agree", "agreeing", "gathered", "refusing", "several"]

Result = TypeVar("Result")

FACTS = 3
"""How many numbers processes tell each other at a meeting, beside whether they can go on."""

_TEXT = 2000
"""Bytes of an error's text that the other processes are told."""


def several() -> bool:
    """Whether this is one of several processes of a distributed training."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def gathered(tensor: Tensor) -> Tensor:
    """Return the tensors of all processes, equal in shape, stacked by rank."""
    parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.stack(parts)


def agree(
    error: Exception | None = None, facts: Sequence[int] = (), near: Any = None
) -> list[list[int]]:
    """Return what each process tells, by rank; raise in all of them if one of them can't go on.

    All processes must call it, each as often as the others: it is one small collective. It runs on
    the CPU where the process group has a backend for it (gloo); elsewhere the device is waited for.

    Args:
        error: why this process can't go on; it is raised again here.
        facts: up to three whole numbers, told to all.
        near: a tensor on this process's device, if there is one.

    Raises:
        InputError: another process can't go on, for an InputError.
        RuntimeError: likewise, for an error of another kind.
    """
    place = _place(near)
    code = 0 if error is None else 1 if isinstance(error, InputError) else 2
    numbers = [code, *facts, *[0] * (FACTS - len(facts))]
    told: list[list[int]] = gathered(torch.tensor(numbers, device=place)).tolist()
    failed = [rank for rank, (code, *_) in enumerate(told) if code]
    if failed:
        _refuse(error, failed[0], told[failed[0]][0], place)
    return [row[1:] for row in told]


def _refuse(error: Exception | None, rank: int, code: int, place: torch.device) -> None:
    """Raise this process's own error, or say what the first process that failed has said."""
    own = "" if error is None else f"{type(error).__name__}: {error}"
    text = own.encode()[:_TEXT].ljust(_TEXT, b"\0")
    texts = gathered(torch.tensor(list(text), dtype=torch.uint8, device=place))
    if error is not None:
        raise error
    said = bytes(texts[rank].tolist()).rstrip(b"\0").decode(errors="ignore")
    kind = InputError if code == 1 else RuntimeError
    raise kind(f"process {rank} can't take this step, so that no process does. It said: {said}")


def _place(near: Any) -> torch.device:
    """Return where the group's processes can meet: the CPU, or this process's device."""
    backends = [pair.split(":")[0] for pair in str(dist.get_backend_config()).split(",")]
    if "cpu" in backends or not backends:
        return torch.device("cpu")
    if isinstance(near, Tensor) and near.device.type in backends:
        return near.device
    return torch.device(backends[0])


def agreeing(meets: bool, work: Callable[[], Result], near: Any = None) -> Result:
    """Return what ``work`` returns, when all processes have done theirs; or raise in all of them.

    Args:
        meets: whether the others come here, too; without it nothing is told.
        work: what may fail.
        near: see :func:`agree`.
    """
    result = refusing(meets, work, near)
    if meets:
        agree(near=near)
    return result


def refusing(meets: bool, work: Callable[[], Result], near: Any = None) -> Result:
    """Return what ``work`` returns; tell a failure where the other processes meet next.

    Args:
        meets: whether they do.
        work: what may fail.
        near: see :func:`agree`.
    """
    if not meets:
        return work()  # compilers look into this
    try:
        return work()
    except Exception as error:
        agree(error, near=near)
        raise
