"""Samples with their positions, for what remembers samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any, NamedTuple

import torch
from torch.utils.data import Dataset, IterableDataset
from torch.utils.data import default_collate as torch_collate

from mixwell.errors import InputError

__all__ = ["Indexed", "IndexedDataset", "check_map_style"]


def check_map_style(dataset: Any) -> None:
    """Raise an InputError unless a dataset has a length and samples by position."""
    sized = hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")
    if not sized or isinstance(dataset, IterableDataset):
        raise InputError(
            "dataset must be map-style, with a length and samples by position, "
            f"got {type(dataset).__name__}"
        )


class Indexed(NamedTuple):
    """A sample that is neither a tuple nor a dict, with its position."""

    sample: Any
    index: Any


class IndexedDataset(Dataset[Any]):
    """A dataset whose samples come with their position, for what remembers samples.

    A dict gets one key more, a tuple or list one last element; anything else becomes an
    :class:`Indexed`. torch's own collate function makes a tensor (B,) of the positions, and
    others do by :meth:`collate`.

    Args:
        dataset: any map-style dataset.
        key: under which a dict gets the position.

    Raises:
        InputError: the dataset is not map-style, or its dicts have that key already.

    >>> dataset = IndexedDataset(["a", "b"])
    >>> dataset[1]
    Indexed(sample='b', index=1)
    """

    def __init__(self, dataset: Any, key: str = "index") -> None:
        check_map_style(dataset)
        self.dataset, self.key = dataset, key

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return self._with(self.dataset[index], index)

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Return several samples, read at once where the dataset can."""
        read = getattr(self.dataset, "__getitems__", None)
        samples = read(indices) if read else [self.dataset[index] for index in indices]
        return [self._with(sample, at) for sample, at in zip(samples, indices, strict=True)]

    def _with(self, sample: Any, index: int) -> Any:
        index = int(index) % len(self)
        if isinstance(sample, Mapping):
            if self.key in sample:
                raise InputError(
                    f"the samples have a key {self.key!r} already; name another one: "
                    "IndexedDataset(dataset, key=...)"
                )
            return {**sample, self.key: index}
        if isinstance(sample, (tuple, list)):
            return (*sample, index)
        return Indexed(sample, index)

    def collate(self, function: Callable[[list[Any]], Any] = torch_collate) -> _IndexedCollate:
        """Return a collate function that hands the samples to ``function`` without positions.

        Args:
            function: makes a batch of a list of samples, as this dataset wraps them.

        Returns:
            What gives the batch of ``function`` with the positions (B,) int64: under the key of a
            dict, as the last element of a tuple, or as an :class:`Indexed`.
        """
        return _IndexedCollate(function, self.key)


class _IndexedCollate:
    """See :meth:`IndexedDataset.collate`; a class, so that worker processes can be handed it."""

    def __init__(self, function: Callable[[list[Any]], Any], key: str) -> None:
        self.function, self.key = function, key

    def __call__(self, samples: list[Any]) -> Any:
        first = samples[0]
        if isinstance(first, Mapping):
            index = torch.tensor([sample[self.key] for sample in samples])
            batch = self.function(
                [{k: v for k, v in sample.items() if k != self.key} for sample in samples]
            )
            if not isinstance(batch, MutableMapping):
                raise InputError(
                    "collate: a batch of dicts must be a dict to take their positions, got "
                    f"{type(batch).__name__}"
                )
            batch[self.key] = index
            return batch
        index = torch.tensor([sample[-1] for sample in samples])
        if isinstance(first, Indexed):
            return Indexed(self.function([sample.sample for sample in samples]), index)
        batch = self.function([sample[:-1] for sample in samples])
        return (*batch, index) if isinstance(batch, (tuple, list)) else (batch, index)
