"""Output memory that is used again once nobody holds it."""

from __future__ import annotations

import sys
import threading

import torch
from torch import Tensor

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
        dense = x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)
        if size < SMALLEST or x.device.type != "cpu" or _use_count is None or not dense:
            return torch.empty_like(x)
        worker = torch.utils.data.get_worker_info()
        if worker is not None:
            # It travels to another process: written where it is shared, it isn't copied again.
            return _shared_like(x)
        with self._lock:
            for storage in self._storages:
                if storage.nbytes() == size and _is_free(storage):
                    self._storages.remove(storage)
                    break
            else:
                storage = torch.UntypedStorage(size)
            self._storages = [*self._storages, storage][-self.keep :]
            return torch.empty(0, dtype=x.dtype).set_(storage, 0, x.shape, x.stride())

    def clear(self) -> None:
        """Give all idle memory back."""
        with self._lock:
            self._storages = []


def _is_free(storage: torch.UntypedStorage) -> bool:
    """Whether the recycler's list alone refers to the storage, in C++ and in Python."""
    assert _use_count is not None
    # The list's reference, the caller's variable, this argument and getrefcount's own.
    alone = sys.getrefcount(storage) <= 4
    return alone and _use_count(storage._cdata) == 1 and not storage.is_shared()


def _shared_like(x: Tensor) -> Tensor:
    storage = torch.UntypedStorage._new_shared(x.numel() * x.element_size(), device="cpu")
    return torch.empty(0, dtype=x.dtype).set_(storage, 0, x.shape, x.stride())


recycled = Recycler()
"""The memory behind :func:`mixwell.functional.mix`."""
