"""Output memory that is used again once nobody holds it."""

from __future__ import annotations

import os
import sys
import threading

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

__all__ = ["Recycler", "recycled"]

SMALLEST = 1 << 18
"""Bytes below which the allocator's own reuse is as good."""

_use_count = getattr(torch._C, "_storage_Use_Count", None)


class Recycler:
    """Memory for results on the CPU, handed out again when its last user has let go of it.

    A fresh tensor of many megabytes costs several times what filling it does: its pages come
    from the operating system one by one. A training loop drops each mixed batch before it asks
    for the next, so two or three buffers serve it for ever. Whether a buffer is free is read
    off its storage's reference count, which a tensor, a view, a NumPy array or an autograd graph
    holds: what anyone can still see is never overwritten.

    Args:
        keep: how many buffers are kept at most.
    """

    def __init__(self, keep: int = 3) -> None:
        self.keep = keep
        self._storages: list[torch.UntypedStorage] = []
        self._lock = threading.Lock()

    def empty_like(self, x: Tensor) -> Tensor:
        """Return memory of ``x``'s shape, strides and dtype, its content undefined."""
        size = x.numel() * x.element_size()
        if size < SMALLEST or not x.is_cpu or _use_count is None:
            return torch.empty_like(x)
        if not (x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)):
            return torch.empty_like(x)
        if get_worker_info() is not None:
            # It travels to another process: written where it is shared, it isn't copied again.
            return _shared_like(x)
        with self._lock:
            for place in range(len(self._storages)):
                if self._storages[place].nbytes() == size and _is_free(self._storages, place):
                    storage = self._storages.pop(place)
                    break
            else:
                storage = torch.UntypedStorage(size)
            self._storages = [*self._storages, storage][-self.keep :]
            return _on(storage, x)

    def clear(self) -> None:
        """Give all idle memory back."""
        with self._lock:
            self._storages = []


def _references(storages: list[torch.UntypedStorage], place: int) -> int:
    return sys.getrefcount(storages[place])


_ALONE = _references([torch.UntypedStorage(1)], 0)
"""What this Python counts where the list alone refers to a storage."""


def _is_free(storages: list[torch.UntypedStorage], place: int) -> bool:
    """Whether the recycler's list alone refers to the storage, in C++ and in Python."""
    assert _use_count is not None
    storage_is_idle = _references(storages, place) <= _ALONE
    return (
        storage_is_idle
        and _use_count(storages[place]._cdata) == 1
        and not storages[place].is_shared()
    )


def _shared_like(x: Tensor) -> Tensor:
    storage = torch.UntypedStorage._new_shared(x.numel() * x.element_size(), device="cpu")
    return _on(storage, x)


def _on(storage: torch.UntypedStorage, x: Tensor) -> Tensor:
    """Return a tensor like ``x`` on a storage."""
    return x.new_empty(0).set_(storage, 0, x.shape, x.stride())


def _forked() -> None:
    """Renew the lock: one that another thread held is held for ever in a forked process."""
    recycled._lock = threading.Lock()


recycled = Recycler()
"""The memory behind :func:`mixwell.functional.mix`."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
