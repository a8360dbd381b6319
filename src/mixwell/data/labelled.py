"""The classes of any dataset's samples, and scarce parts of it: long tails and few shots."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset

from mixwell.checks import check_range
from mixwell.data.division import choose, long_tail_counts
from mixwell.data.indexed import IndexedDataset, check_map_style
from mixwell.data.splits import check_at_least, seeded
from mixwell.errors import InputError

__all__ = ["ScarceSubset", "class_indices", "few_shot", "long_tailed"]


def _targets(dataset: Any) -> Any:
    """Return what the dataset knows of its samples' classes, unchecked; None if nothing."""
    if getattr(dataset, "target_transform", None) is not None:
        raise InputError(
            f"targets: {type(dataset).__name__} has a target_transform: its own list is not "
            "of what it returns; give the class of each sample, targets=[...]"
        )
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
    check_map_style(dataset)
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
    chosen = choose(y, counts, seeded(seed, 13), f"imbalance={imbalance}")
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
    chosen = choose(y, [per_class] * classes, seeded(seed, 14), f"per_class={per_class}")
    return ScarceSubset(dataset, chosen, y, classes)
