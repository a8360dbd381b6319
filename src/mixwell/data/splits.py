"""Splits: the samples of one part of a dataset, and their batches as a pure function of a seed."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from mixwell.errors import InputError

__all__ = ["Batch", "Split", "TensorSplit", "make_generator", "partition", "stratified_sample"]

Batch = tuple[Tensor, Tensor, Tensor]
"""A batch: inputs (B, ...) float32 normalised, targets (B,), positions in the split (B,)."""

AnySplit = TypeVar("AnySplit", bound="Split")


def make_generator(*key: Any) -> torch.Generator:
    """Return a CPU generator that is seeded by ``key``, a few numbers and strings, and by nothing else."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


# ---------------------------------------------------------------------------------------- splits


class Split(ABC):
    """The samples of one part of a dataset.

    Attributes:
        y: (N,), class indices int64 or real targets float32.
    """

    y: Tensor

    def __len__(self) -> int:
        return len(self.y)

    @abstractmethod
    def subset(self: AnySplit, indices: Tensor) -> AnySplit:
        """Return the split of the samples at ``indices`` (M,), in this order."""

    @abstractmethod
    def _read(
        self, parts: Sequence[Tensor], key: tuple[int, ...] | None, device: torch.device
    ) -> Iterator[Batch]:
        """Yield the batches of the samples at ``parts``; ``key`` seeds augmentation, if any."""

    def num_batches(self, batch_size: int, drop_last: bool = False, world_size: int = 1) -> int:
        """Return how many batches each rank sees in an epoch.

        Raises:
            InputError: ``drop_last`` would drop everything.
        """
        _check_at_least("batch_size", batch_size, 1)
        _check_at_least("world_size", world_size, 1)
        share = -(-len(self) // world_size)
        if drop_last and batch_size > share:
            raise InputError(
                f"batch_size={batch_size} leaves no full batch of {share} samples a device; "
                f"use at most {share}"
            )
        return share // batch_size if drop_last else -(-share // batch_size)

    def batches(
        self,
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        epoch: int = 0,
        drop_last: bool = False,
        augment: bool = False,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: int = 1,
    ) -> Iterator[Batch]:
        """Return the batches of one epoch.

        Order and augmentation depend on ``seed``, ``epoch`` and ``rank`` alone, never on the
        global random state, so that a resumed run sees what an uninterrupted one sees.

        Args:
            batch_size: samples in a batch on each rank; the last batch may be smaller.
            shuffle: draw a new order each epoch. Every rank then gets as many batches of the same
                sizes; up to ``world_size - 1`` samples are seen twice where they don't divide.
                Unshuffled, each sample is seen once, by the rank that its position falls to.
            seed: of order and augmentation.
            epoch: from 0.
            drop_last: leave out a last, smaller batch.
            augment: apply the split's random transforms, if it has any.
            device: where the batches are put.
            rank: this process's number, below ``world_size``.
            world_size: the number of processes that share the epoch.

        Returns:
            An iterator of (x, y, index): inputs (B, ...) float32 normalised, targets (B,), and
            positions in this split (B,) int64.
        """
        count = self.num_batches(batch_size, drop_last, world_size)
        if not 0 <= rank < world_size:
            raise InputError(f"rank={rank} must be in 0..{world_size - 1} (world_size={world_size})")
        if shuffle:
            order = torch.randperm(len(self), generator=make_generator("order", seed, epoch))
            padding = -len(order) % world_size
            # Repeated, not only appended: there may be fewer samples than ranks.
            order = order.repeat(1 + -(-padding // max(len(order), 1)))[: len(order) + padding]
        else:
            order = torch.arange(len(self))
        parts = order[rank::world_size].split(batch_size)[:count] if len(order) else ()
        return self._read(parts, (seed, epoch, rank) if augment else None, torch.device(device))


class TensorSplit(Split):
    """A split that lies in memory as one tensor, moved to a device once, transformed there in batches.

    Args:
        x: (N, ...), floating, or uint8 images (N, C, H, W), which are scaled to [0, 1].
        y: (N,), class indices or real targets.
        mean: of each channel in [0, 1], subtracted; none without ``std``.
        std: of each channel.
        pad: random crops of the image padded by so many black pixels; 0 for none. Augmentation.
        flip: mirror half of the images. Augmentation.

    Raises:
        InputError: ``x`` and ``y`` have different lengths.
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        pad: int = 0,
        flip: bool = False,
    ) -> None:
        if len(x) != len(y) or y.ndim != 1:
            raise InputError(
                f"y must have one entry per sample, shape ({len(x)},), got {tuple(y.shape)}"
            )
        if (pad or flip) and x.ndim != 4:
            raise InputError(f"crops and flips need images (N, C, H, W), x is {tuple(x.shape)}")
        if (mean is None) != (std is None):
            raise InputError(f"mean={mean} and std={std}: give both or neither")
        self.x, self.y = x, y
        self.mean, self.std, self.pad, self.flip = mean, std, pad, flip
        self._placed: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def subset(self, indices: Tensor) -> TensorSplit:
        """Return the split of the samples at ``indices`` (M,), in this order."""
        return TensorSplit(
            self.x[indices],
            self.y[indices],
            mean=self.mean,
            std=self.std,
            pad=self.pad,
            flip=self.flip,
        )

    def _place(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if device not in self._placed:
            self._placed[device] = (self.x.to(device), self.y.to(device))
        return self._placed[device]

    def _read(
        self, parts: Sequence[Tensor], key: tuple[int, ...] | None, device: torch.device
    ) -> Iterator[Batch]:
        x, y = self._place(device)
        draws = None
        if key is not None and (self.pad or self.flip):
            # Drawn on the CPU: the same on every device, and copied once an epoch.
            draws = self._draw(sum(map(len, parts)), make_generator("augment", *key)).to(device)
        done = 0
        for part in parts:
            index = part.to(device)
            batch = x.index_select(0, index)
            if draws is not None:
                batch = self._augment(batch, draws[:, done : done + len(part)])
                done += len(part)
            yield self._normalise(batch), y.index_select(0, index), index

    def _draw(self, size: int, generator: torch.Generator) -> Tensor:
        """Return top, left and whether to flip, (3, size)."""
        corner = torch.randint(2 * self.pad + 1, (2, size), generator=generator)
        flip = torch.randint(2, (1, size), generator=generator) * int(self.flip)
        return torch.cat([corner, flip])

    def _augment(self, x: Tensor, draws: Tensor) -> Tensor:
        """Crop and flip each image in one gather."""
        top, left, flip = draws
        (size, channels, height, width), device = x.shape, x.device
        rows = top[:, None] + torch.arange(height, device=device)
        columns = torch.arange(width, device=device)
        columns = left[:, None] + torch.where(flip[:, None] == 1, columns.flip(0), columns)
        return F.pad(x, (self.pad,) * 4)[
            torch.arange(size, device=device)[:, None, None, None],
            torch.arange(channels, device=device)[:, None, None],
            rows[:, None, :, None],
            columns[:, None, None, :],
        ]

    def _normalise(self, x: Tensor) -> Tensor:
        scaled = x.float() / 255 if x.dtype == torch.uint8 else x.float()
        if self.mean is None or self.std is None:
            return scaled
        shape = (-1, *[1] * (x.ndim - 2))
        mean, std = (scaled.new_tensor(value).view(shape) for value in (self.mean, self.std))
        return (scaled - mean) / std


# ------------------------------------------------------------------------------------- splitting


def stratified_sample(y: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Return ``size`` sorted positions of ``y``, each class in its share and with one at least.

    Args:
        y: (N,) class indices 0..C-1; floating targets are sampled without strata.
        size: from C (or 1) to N.
        generator: draws the positions. A larger size of the same generator state holds a smaller
            one up to the rounding of shares.
    """
    order = torch.randperm(len(y), generator=generator)
    if y.is_floating_point():
        return order[:size].sort().values
    counts = torch.bincount(y)
    share = counts.double() * size / len(y)
    take = torch.minimum(share.floor().long().clamp_min(1), counts)
    while (excess := int(take.sum()) - size) != 0:
        # The class that is furthest above its share gives, or the furthest below takes, one.
        gap = take - share
        gap[(take <= 1) if excess > 0 else (take >= counts)] = -torch.inf if excess > 0 else torch.inf
        take[gap.argmax() if excess > 0 else gap.argmin()] -= 1 if excess > 0 else -1
    chosen = [
        members[: int(take[label])]
        for label in range(len(counts))
        if len(members := order[y[order] == label])
    ]
    return torch.cat(chosen).sort().values


def _rest(size: int, *taken: Tensor) -> Tensor:
    left = torch.ones(size, dtype=torch.bool)
    for indices in taken:
        left[indices] = False
    return left.nonzero().flatten()


def partition(
    y: Tensor,
    *,
    train_size: int | None,
    val_fraction: float,
    seed: int,
    test_fraction: float = 0.0,
    held_out: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """Split positions 0..N-1 into train, validation and test; stratified where ``y`` is classes.

    Args:
        y: (N,) targets.
        train_size: a subset of the training samples is taken after validation and test are split
            off, so that these don't depend on it; None takes all.
        val_fraction: of what is left after the test split.
        seed: of validation and training subset. The test split is the same for every seed.
        test_fraction: 0 where the dataset has its own test split.
        held_out: False where it has its own validation split, too.

    Raises:
        InputError: a size can't be had.
    """
    total = len(y)
    classes = 1 if y.is_floating_point() else int(y.max()) + 1
    none = torch.empty(0, dtype=torch.int64)

    def share(fraction: float) -> int:
        return max(classes, round(fraction * total))

    test = none
    if test_fraction:
        test = stratified_sample(y, share(test_fraction), make_generator("test"))
    pool = _rest(total, test)
    val = none
    if held_out:
        if not 0 < val_fraction < 1:
            raise InputError(f"val_fraction={val_fraction} must be between 0 and 1, 0.1 say")
        size = max(classes, round(val_fraction * len(pool)))
        val = pool[stratified_sample(y[pool], size, make_generator("val", seed))]
    train = _rest(total, test, val)
    if train_size is not None:
        if not classes <= train_size <= len(train):
            raise InputError(
                f"train_size={train_size} must be from {classes}"
                f"{' (one sample a class)' if classes > 1 else ''} to {len(train)}, "
                "what is left for training"
            )
        train = train[stratified_sample(y[train], train_size, make_generator("train", seed))]
    if len(train) == 0:
        raise InputError(f"val_fraction={val_fraction} leaves nothing of {total} samples to train on")
    return train, val, test


def _check_at_least(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"{name}={value!r} must be a whole number from {least}")
