"""Dividing samples by the seed: into training, validation and test, and by class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mixwell.data.splits import FolderSplit, TensorSplit, seeded
from mixwell.errors import InputError

__all__ = ["TEST_SEED", "choose", "divide", "long_tail_counts"]

TEST_SEED = 20_231
"""Of the test split of sets without an official one: the same for every seed of a run."""

AnySplit = TensorSplit | FolderSplit


def _take(y: Tensor, count: int, generator: torch.Generator, stratify: bool) -> Tensor:
    """Return ``count`` random positions, of each class its share (largest remainders first)."""
    if not stratify:
        return torch.randperm(len(y), generator=generator)[:count]
    counts = torch.bincount(y)
    exact = counts * (count / len(y))
    share = exact.floor().long()
    # Every class that is there keeps one sample at least, however rare it is.
    share = torch.where((share == 0) & (counts > 0) & (count >= (counts > 0).sum()), 1, share)
    while int(share.sum()) != count:
        step = 1 if int(share.sum()) < count else -1
        room = (share < counts) if step > 0 else (share > 1)
        gap = torch.where(room, step * (exact - share), -torch.inf)
        share[int(gap.argmax())] += step
    order = torch.randperm(len(y), generator=generator)
    taken = [order[y[order] == label][: int(share[label])] for label in range(len(counts))]
    return torch.cat(taken)


def _divide(split: Any, count: int, generator: torch.Generator, stratify: bool) -> tuple[Any, Any]:
    """Return the split without ``count`` random samples, and these."""
    taken = _take(split.y, count, generator, stratify)
    rest = torch.ones(len(split), dtype=torch.bool)
    rest[taken] = False
    return split.subset(rest.nonzero()[:, 0]), split.subset(taken.sort().values)


def divide(
    train: AnySplit, val: AnySplit | None, test: AnySplit | None, classes: Sequence[str], *,
    val_fraction: float, train_size: int | None, seed: int,
) -> tuple[Any, Any, Any]:  # fmt: skip
    """Return train, validation and test; these two don't depend on ``train_size``.

    Args:
        train: the samples to train on, and to take from what is not there.
        val: the official validation split, if there is one.
        test: the official test split, if there is one.
        classes: their names; none in regression.
        val_fraction: the share of the training data that is held out, where ``val`` is None.
        train_size: training samples to keep; all without.
        seed: of the split.

    Raises:
        InputError: there are too few samples.
    """
    stratify, least = bool(classes), len(classes) or 1
    if test is None:
        # At least one of each class, for otherwise it couldn't be measured.
        count = max(round(0.2 * len(train)), least)
        train, test = _divide(train, count, seeded(TEST_SEED), stratify)
    if val is None:
        count = round(val_fraction * len(train))
        if count < least:
            raise InputError(
                f"val_fraction={val_fraction} leaves {count} of {len(train)} samples for "
                f"validation; at least {least} are needed"
            )
        train, val = _divide(train, count, seeded(seed, 11), stratify)
    left = torch.bincount(train.y, minlength=least) if stratify else torch.tensor([len(train)])
    if int(left.min()) == 0:
        name = classes[int(left.argmin())] if stratify else "the table"
        raise InputError(
            f"{name!r} has too few samples: none is left to train on, once validation and test "
            "have theirs; give it three or more"
        )
    if train_size is not None:
        if not least <= train_size <= len(train):
            raise InputError(
                f"train_size={train_size} must be from {least} (one a class) to {len(train)} "
                "(what validation leaves)"
            )
        train = train.subset(_take(train.y, train_size, seeded(seed, 12), stratify).sort().values)
    return train, val, test


def long_tail_counts(num_classes: int, largest: int, imbalance: float) -> list[int]:
    """Return how many samples each class keeps: ``largest · imbalance^(-c / (C - 1))``.

    >>> long_tail_counts(5, 100, 100)
    [100, 32, 10, 3, 1]
    """
    shares = [imbalance ** (-label / max(num_classes - 1, 1)) for label in range(num_classes)]
    return [max(1, round(largest * share)) for share in shares]


def choose(y: Tensor, counts: Sequence[int], generator: torch.Generator, why: str) -> Tensor:
    """Return the sorted positions of so many random samples of each class."""
    there = torch.bincount(y, minlength=len(counts)).tolist()
    for label, (wanted, found) in enumerate(zip(counts, there, strict=True)):
        if wanted > found:
            raise InputError(
                f"{why} asks for {wanted} training samples of class {label}, which has {found}"
            )
    order = torch.randperm(len(y), generator=generator)
    taken = [order[y[order] == label][:count] for label, count in enumerate(counts)]
    return torch.cat(taken).sort().values
