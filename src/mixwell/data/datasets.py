"""Wrappers and samplers for any map-style dataset: positions, long tails, few shots, balance.

They need torch alone, and take torchvision's, Hugging Face's, ``TensorDataset`` or your own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Sampler, Subset
from torch.utils.data import default_collate as torch_collate

from mixwell.checks import check_range
from mixwell.data import _choose, long_tail_counts
from mixwell.data.splits import check_at_least, seeded
from mixwell.errors import InputError

__all__ = [
    "ClassBalancedSampler",
    "Indexed",
    "IndexedDataset",
    "InverseFrequencySampler",
    "ScarceSubset",
    "class_indices",
    "few_shot",
    "long_tailed",
]


def _check_map_style(dataset: Any) -> None:
    sized = hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")
    if not sized or isinstance(dataset, IterableDataset):
        raise InputError(
            "dataset must be map-style, with a length and samples by position, "
            f"got {type(dataset).__name__}"
        )


# ------------------------------------------------------------------------------------- positions


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
        _check_map_style(dataset)
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


# --------------------------------------------------------------------------------------- targets


def _targets(dataset: Any) -> Any:
    """Return what the dataset knows of its samples' classes, unchecked; None if nothing."""
    for name in ("targets", "labels"):
        if getattr(dataset, name, None) is not None:
            return getattr(dataset, name)
    tensors: Any = getattr(dataset, "tensors", ())
    if len(tensors) > 1:
        return tensors[1]
    columns = getattr(dataset, "column_names", None) or ()
    for name in ("labels", "label"):
        if name in columns:
            return dataset[name]
    if isinstance(dataset, Subset):
        return class_indices(dataset.dataset)[torch.as_tensor(dataset.indices, dtype=torch.int64)]
    if isinstance(dataset, ConcatDataset):
        return torch.cat([class_indices(part) for part in dataset.datasets])
    if isinstance(dataset, IndexedDataset):
        return class_indices(dataset.dataset)
    return None


def class_indices(dataset: Any, targets: Any = None) -> Tensor:
    """Return the class of each sample, without reading the samples: (N,) int64.

    They are looked for in ``.targets``, ``.labels``, ``.tensors[1]`` and the columns "labels" and
    "label" (Hugging Face), also within ``Subset``, ``ConcatDataset`` and :class:`IndexedDataset`.

    Args:
        dataset: any map-style dataset.
        targets: the classes, where the dataset has them elsewhere: a tensor, array or sequence.

    Raises:
        InputError: there are none, or they are no class indices (N,).
    """
    _check_map_style(dataset)
    found = _targets(dataset) if targets is None else targets
    if found is None:
        raise InputError(
            f"targets: {type(dataset).__name__} has no .targets, .labels, .tensors[1] or column "
            "'labels' or 'label'; give the class of each sample, targets=[...]"
        )
    try:
        if not isinstance(found, Tensor):  # an array at once, any other container by element
            found = found.__array__() if hasattr(found, "__array__") else list(found)
        y = torch.as_tensor(found, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"targets must be class indices ({len(dataset)},), whole numbers: {error}; give them, "
            "targets=[...], where the dataset has something else by that name"
        ) from error
    whole = not (y.is_floating_point() or y.is_complex())
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if y.shape != (len(dataset),) or not whole or len(y) == 0 or int(y.long().min()) < 0:
        low = f", the least {y.long().min()}" if whole and y.numel() else ""
        raise InputError(
            f"targets must be class indices ({len(dataset)},), whole numbers from 0, one a sample; "
            f"got {y.dtype} of shape {tuple(y.shape)}{low}"
        )
    return y.long()


# ---------------------------------------------------------------------------------- made scarce


class ScarceSubset(Subset[Any]):
    """Some samples of a dataset, in its order.

    Attributes:
        indices: their positions in the dataset.
        targets: (M,) int64, their classes.
        class_counts: (C,) int64, the samples of each class, as Remix and samplers take them.
    """

    def __init__(self, dataset: Any, indices: Tensor, targets: Tensor, num_classes: int) -> None:
        super().__init__(dataset, indices.tolist())
        self.targets = targets[indices]
        self.class_counts = torch.bincount(self.targets, minlength=num_classes)


def _classes(y: Tensor, num_classes: int | None) -> int:
    """Return C: as given, or as many as are there."""
    there = int(y.max()) + 1
    if num_classes is None:
        return there
    check_at_least("num_classes", num_classes, there)
    return num_classes


def long_tailed(
    dataset: Any,
    imbalance: float,
    *,
    largest_class: int | None = None,
    num_classes: int | None = None,
    targets: Any = None,
    seed: int = 0,
) -> ScarceSubset:
    """Return a long-tailed part of a dataset: class c keeps ``n · imbalance^(-c / (C - 1))``.

    The counts are those of :func:`mixwell.data.long_tail_counts`, at least one sample a class.

    Args:
        dataset: any map-style dataset.
        imbalance: the largest class's samples over the smallest's; from 1.
        largest_class: n; by default as many as all classes have.
        num_classes: C; one more than the largest class index without it.
        targets: see :func:`class_indices`.
        seed: of the choice of samples.

    Raises:
        InputError: an argument is out of range, or a class has fewer samples than it should keep.

    >>> from torch.utils.data import TensorDataset
    >>> dataset = TensorDataset(torch.zeros(300, 2), torch.arange(300) % 3)
    >>> long_tailed(dataset, imbalance=100).class_counts
    tensor([100,  10,   1])
    """
    check_range("imbalance", imbalance, 1)
    y = class_indices(dataset, targets)
    classes = _classes(y, num_classes)
    if largest_class is None:
        largest_class = int(torch.bincount(y, minlength=classes).min())
    else:
        check_at_least("largest_class", largest_class, 1)
    counts = long_tail_counts(classes, largest_class, imbalance)
    chosen = _choose(y, counts, seeded(seed, 13), f"imbalance={imbalance}")
    return ScarceSubset(dataset, chosen, y, classes)


def few_shot(
    dataset: Any,
    per_class: int,
    *,
    num_classes: int | None = None,
    targets: Any = None,
    seed: int = 0,
) -> ScarceSubset:
    """Return a part of a dataset with so many random samples of each class.

    Args:
        dataset: any map-style dataset.
        per_class: samples of each class; from 1.
        num_classes: C; one more than the largest class index without it.
        targets: see :func:`class_indices`.
        seed: of the choice of samples.

    Raises:
        InputError: an argument is out of range, or a class has fewer samples.
    """
    check_at_least("per_class", per_class, 1)
    y = class_indices(dataset, targets)
    classes = _classes(y, num_classes)
    chosen = _choose(y, [per_class] * classes, seeded(seed, 14), f"per_class={per_class}")
    return ScarceSubset(dataset, chosen, y, classes)


# -------------------------------------------------------------------------------------- samplers


class _ClassSampler(Sampler[int]):
    """Base class of the samplers that look at classes; its arguments are documented on them."""

    def __init__(
        self,
        dataset: Any,
        *,
        num_samples: int | None = None,
        targets: Any = None,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        self.targets = class_indices(dataset, targets)
        self.class_counts = torch.bincount(self.targets)
        self.num_samples = len(self.targets) if num_samples is None else num_samples
        check_at_least("num_samples", self.num_samples, 1)
        if (rank is None) != (world_size is None):
            raise InputError(f"give rank and world_size, or neither: got {rank=}, {world_size=}")
        if rank is None or world_size is None:
            spread = distributed.is_available() and distributed.is_initialized()
            rank = distributed.get_rank() if spread else 0
            world_size = distributed.get_world_size() if spread else 1
        check_at_least("world_size", world_size, 1)
        if not 0 <= rank < world_size:
            raise InputError(f"rank={rank} must be from 0 to world_size - 1 = {world_size - 1}")
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration draws, from 0."""
        check_at_least("epoch", epoch, 0)
        self.epoch = epoch

    def __len__(self) -> int:
        return math.ceil(self.num_samples / self.world_size)

    def __iter__(self) -> Iterator[int]:
        generator = seeded(type(self).__name__, self.seed, self.epoch)
        order = self._draw(len(self) * self.world_size, generator)
        return iter(order[self.rank :: self.world_size].tolist())

    def _draw(self, size: int, generator: torch.Generator) -> Tensor:
        """Return (size,) positions in the dataset."""
        raise NotImplementedError


class ClassBalancedSampler(_ClassSampler):
    """Draw each class equally often: within an epoch, classes' counts differ by one at most.

    A class goes through its samples in random order, and again in a new one, until it has its
    share: so the counts of its samples differ by one at most, too. Classes without samples are
    left out. An epoch is a function of ``seed`` and ``epoch`` alone.

    Args:
        dataset: any map-style dataset.
        num_samples: of an epoch, all processes together (rounded up, for each to have as many);
            the dataset's length by default.
        targets: see :func:`class_indices`.
        seed: of all draws.
        rank: this process's number, each taking every ``world_size``-th sample of the epoch; that
            of ``torch.distributed`` by default, where it is set up. Give ``rank=0, world_size=1``
            to what shares batches out by itself: accelerate, and Hugging Face's Trainer with it.
        world_size: the number of processes, likewise.

    >>> labels = [0] * 90 + [1] * 9 + [2]
    >>> sampler = ClassBalancedSampler(labels, targets=labels)
    >>> torch.tensor(labels)[list(sampler)].bincount().sort().values
    tensor([33, 33, 34])
    """

    def _draw(self, size: int, generator: torch.Generator) -> Tensor:
        counts = self.class_counts
        present = counts.nonzero()[:, 0]
        share = torch.zeros_like(counts)
        share[present] = size // len(present)
        extra = torch.randperm(len(present), generator=generator)[: size % len(present)]
        share[present[extra]] += 1
        # Every sample once for each round of its class, ...
        rounds = -(-share // counts.clamp_min(1))[self.targets]
        drawn = torch.arange(len(rounds)).repeat_interleave(rounds)
        turn = torch.arange(len(drawn)) - (rounds.cumsum(0) - rounds).repeat_interleave(rounds)
        # ... by class, within it by round, within that at random: the first are the class's share.
        order = torch.randperm(len(drawn), generator=generator)
        order = order[turn[order].argsort(stable=True)]
        drawn = drawn[order]
        drawn = drawn[self.targets[drawn].argsort(stable=True)]
        label = self.targets[drawn]
        offered = torch.bincount(label, minlength=len(share))
        place = torch.arange(len(drawn)) - (offered.cumsum(0) - offered)[label]
        drawn = drawn[place < share[label]]
        return drawn[torch.randperm(len(drawn), generator=generator)]


class InverseFrequencySampler(_ClassSampler):
    """Draw class c with probability ``n_c^τ / Σ_k n_k^τ``, and a sample of it uniformly.

    With n the class counts: τ = -1 prefers rare classes and is UniMix's sampler of partners
    (NeurIPS 2021, arXiv:2111.03874), τ = 0 gives all classes the same chance, and τ = 1 all
    samples. Draws are independent, with replacement. An epoch is a function of ``seed`` and
    ``epoch`` alone.

    Args:
        dataset: any map-style dataset.
        tau: τ, a finite number.
        num_samples: see :class:`ClassBalancedSampler`, as for all that follow.
        targets: the class of each sample, where the dataset doesn't say.
        seed: of all draws.
        rank: this process's number.
        world_size: the number of processes.
    """

    def __init__(
        self,
        dataset: Any,
        tau: float = -1.0,
        *,
        num_samples: int | None = None,
        targets: Any = None,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        super().__init__(
            dataset,
            num_samples=num_samples,
            targets=targets,
            seed=seed,
            rank=rank,
            world_size=world_size,
        )
        if not math.isfinite(tau):
            raise InputError(f"tau must be a finite number, got {tau!r}")
        self.tau = tau

    def _draw(self, size: int, generator: torch.Generator) -> Tensor:
        present = self.class_counts.nonzero()[:, 0]
        counts = self.class_counts[present]
        chance = torch.softmax(self.tau * counts.double().log(), 0)
        u = torch.rand(2, size, generator=generator, dtype=torch.float64)
        drawn = torch.searchsorted(chance.cumsum(0), u[0], right=True).clamp_max(len(present) - 1)
        place = (u[1] * counts[drawn]).long()
        by_class = self.targets.argsort(stable=True)
        return by_class[(counts.cumsum(0) - counts)[drawn] + place]
