"""Samplers that look at classes: balanced ones, and by inverse frequency."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, distributed
from torch.utils.data import Sampler

from mixwell.data.labelled import class_indices
from mixwell.data.splits import check_at_least, seeded
from mixwell.errors import InputError

__all__ = ["ClassBalancedSampler", "InverseFrequencySampler"]


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
