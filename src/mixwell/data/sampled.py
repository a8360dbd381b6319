"""Data sets from outside: torch's, whose samples are read when they are needed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from mixwell.data.catalogue import Raw
from mixwell.data.indexed import check_map_style
from mixwell.data.splits import Batch, Split, TensorSplit, drawing, seeded
from mixwell.errors import InputError, say

__all__ = ["SampledSplit", "raw_of"]

_LOOKED_AT = 32  # samples, to see whether a dataset's list of targets is what it returns


@dataclass(eq=False)
class SampledSplit(Split):
    """A split of a map-style dataset, whose samples are taken as its transforms leave them.

    What transforms draw (from torch, NumPy or ``random``) depends on the sample alone; where
    batches are augmented, on the seed and the epoch, too.

    Args:
        dataset: its samples are (x, y).
        y: (N,) class indices.
        positions: (N,) of the split's samples in the dataset.
        workers: processes that read them; 0 reads in this one.
        name: of the data, for errors.
    """

    dataset: Any
    y: Tensor
    positions: Tensor
    workers: int = 2
    name: str = ""

    def subset(self, indices: Tensor) -> SampledSplit:
        """Return the split of the samples at ``indices`` (M,), in this order."""
        return replace(self, y=self.y[indices], positions=self.positions[indices])

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Of the first sample; all must have it.

        Raises:
            InputError: it can't be read.
        """
        found = _Samples(self, None)[0]
        if isinstance(found, InputError):
            raise found
        return tuple(found.shape)

    @property
    def in_bytes(self) -> bool:
        """Whether the first sample comes in bytes, which are scaled to [0, 1].

        Raises:
            InputError: it can't be read.
        """
        found = _Samples(self, None).read(0, lambda sample: sample[0])
        if isinstance(found, InputError):
            raise found
        return getattr(found, "dtype", None) in (torch.uint8, "uint8")

    def _read(
        self, parts: Sequence[Tensor], key: tuple[int, ...] | None, device: torch.device
    ) -> Iterator[Batch]:
        loader: DataLoader[Any] = DataLoader(
            _Samples(self, key),
            batch_sampler=[part.tolist() for part in parts],
            collate_fn=_stacked,
            num_workers=min(self.workers, len(parts)),
            pin_memory=device.type == "cuda",
            # Without one of its own, a loader draws from the global random state.
            generator=torch.Generator(),
        )
        for part, x in zip(parts, loader, strict=True):
            if isinstance(x, InputError):
                raise x
            yield x.to(device, non_blocking=True), self.y[part].to(device), part.to(device)


class _Samples(Dataset[Any]):
    """Inputs by their place in a split, or the error that says which can't be read."""

    def __init__(self, split: SampledSplit, key: tuple[int, ...] | None) -> None:
        self.split, self.key = split, key

    def __getitem__(self, place: int) -> Tensor | InputError:
        found: Tensor | InputError = self.read(place, _input)
        return found

    def read(self, place: int, part: Callable[[Any], Any]) -> Any:
        """Return a part of a sample, or the error that says why it can't be read."""
        import numpy as np  # here, because samplers and indexed data need torch alone

        split = self.split
        position = int(split.positions[place])
        seed = seeded("augment", *(self.key or ()), position).initial_seed()
        others = random.getstate(), np.random.get_state()  # noqa: NPY002  (transforms draw from it)
        try:
            with drawing(seed):
                random.seed(seed)
                np.random.seed(seed % 2**32)  # noqa: NPY002
                return part(split.dataset[position])
        except Exception as error:  # of any kind: it is somebody's code
            return InputError(f"data={split.name!r}: sample {position} can't be read: {error}")
        finally:
            random.setstate(others[0])
            np.random.set_state(others[1])  # noqa: NPY002

    def __len__(self) -> int:
        return len(self.split)


def _input(sample: Any) -> Tensor:
    """Return a sample's input as a float tensor; bytes are scaled to [0, 1]."""
    import numpy as np

    if not isinstance(sample, (tuple, list)) or len(sample) < 2:
        raise InputError(f"it must be (input, target), got {type(sample).__name__}")
    x = sample[0]
    if isinstance(x, np.ndarray):
        x = torch.from_numpy(x)
    if not isinstance(x, Tensor):
        raise InputError(
            f"its input must be a tensor, got {type(x).__name__}; give the dataset a transform "
            "that ends in one (torchvision's ToTensor)"
        )
    return x.float() / 255 if x.dtype == torch.uint8 else x.float()


def _stacked(inputs: Sequence[Tensor | InputError]) -> Tensor | InputError:
    """Collate; an error travels as a value, which keeps a worker's traceback out of its text."""
    broken = next((x for x in inputs if isinstance(x, InputError)), None)
    if broken is not None:
        return broken
    tensors = [x for x in inputs if isinstance(x, Tensor)]
    shapes = sorted({tuple(x.shape) for x in tensors})
    if len(shapes) > 1:
        return InputError(f"samples must have one shape, got {shapes[0]} and {shapes[1]}")
    return torch.stack(tensors)


# ----------------------------------------------------------------------------------- from torch


def raw_of(name: str, made: Any, workers: int) -> Raw:
    """Return what a function from outside made, as what is split by seed.

    Args:
        name: of the data, for errors.
        made: a map-style dataset, or two: to train on and to test.
        workers: processes that read samples.

    Raises:
        InputError: it is neither, or its targets are no classes and no numbers.
    """
    parts = list(made) if isinstance(made, (tuple, list)) else [made]
    if len(parts) not in (1, 2):
        raise InputError(f"data={name!r} must return a dataset or (train, test), got {len(parts)}")
    for part in parts:
        try:
            check_map_style(part)
        except InputError as error:
            raise InputError(f"data={name!r}: {error}") from error
        if len(part) == 0:
            raise InputError(f"data={name!r}: a dataset is empty")
    targets = [_targets(name, part) for part in parts]
    real = targets[0].is_floating_point()
    if real:
        _tell_classes(name, targets[0])
        classes: tuple[str, ...] = ()
    else:
        targets, classes = _classes(name, parts, targets)
    in_memory = real or all(isinstance(part, TensorDataset) for part in parts)
    splits: list[Any] = [
        TensorSplit(_inputs(name, part), y)
        if in_memory
        else SampledSplit(part, y, torch.arange(len(part)), workers, name)
        for part, y in zip(parts, targets, strict=True)
    ]
    return Raw(splits[0], splits[1] if len(splits) == 2 else None, classes)


def _targets(name: str, part: Any) -> Tensor:
    """Return all targets: (N,) int64, or (N,) or (N, K) real; read where they aren't at hand."""
    if isinstance(part, TensorDataset) and len(part.tensors) > 1:
        found = part.tensors[1]
    else:
        try:
            listed = _listed(part)
            if listed is None or not _holds(part, listed):
                listed = _read_targets(part, range(len(part)))
            found = listed
        except Exception as error:  # of any kind: it is somebody's code
            raise InputError(f"data={name!r}: its targets can't be read: {error}") from error
    if not found.is_floating_point():
        found = found.long()
    if found.ndim not in ((1, 2) if found.is_floating_point() else (1,)):
        raise InputError(
            f"data={name!r}: targets must be a class or numbers, got shape {tuple(found.shape[1:])}"
        )
    return found


def _listed(part: Any) -> Tensor | None:
    """Return a dataset's ``.targets``, if it has some that its samples may have."""
    found = getattr(part, "targets", None)
    changed = getattr(part, "target_transform", None) is not None
    try:
        if found is None or changed or len(found) != len(part):
            return None
        return _as_targets(found)
    except (TypeError, ValueError):  # the names of files, say
        return None


def _holds(part: Any, listed: Tensor) -> bool:
    """Whether samples have the targets that are listed: the first of some values, and others."""
    import numpy as np

    flat = listed if listed.ndim == 1 else listed[:0].flatten()
    first = np.unique(flat.numpy(), return_index=True)[1].tolist()
    spread = range(0, len(listed), max(1, len(listed) // _LOOKED_AT))
    places = sorted({*first[:_LOOKED_AT], *spread})
    seen, wanted = _read_targets(part, places), listed[places]
    return seen.shape == wanted.shape and torch.equal(seen.double(), wanted.double())


def _read_targets(part: Any, places: Sequence[int]) -> Tensor:
    """Return the targets that samples are returned with; what they draw leaves no trace."""
    import numpy as np

    before = random.getstate(), np.random.get_state()  # noqa: NPY002  (transforms draw from it)
    try:
        with torch.random.fork_rng(devices=[]):
            return _as_targets([part[place][1] for place in places])
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002


def _as_targets(found: Any) -> Tensor:
    import numpy as np

    if isinstance(found, Tensor):
        return found
    return torch.as_tensor(np.asarray([np.asarray(y) for y in found]))


def _tell_classes(name: str, y: Tensor) -> None:
    """Say where real targets may be meant for classes: whole numbers, or one-hot rows."""
    if y.ndim == 2 and y.shape[1] > 1:
        one_hot = bool(((y == 0) | (y == 1)).all()) and bool((y.sum(1) == 1).all())
        what, remedy = f"one 1 among {y.shape[1]} numbers", "y.argmax(1)"
    else:
        kinds = y.unique()
        one_hot = len(kinds) <= min(20, len(y) // 3) and torch.equal(kinds, kinds.round())
        what, remedy = f"{len(kinds)} different whole numbers", "y.long()"
    if one_hot:
        say(
            f"data={name!r}: its targets, {what} of type {y.dtype}, are taken for a regression; "
            f"{remedy} makes classes of them"
        )


def _inputs(name: str, part: Any) -> Tensor:
    """Return all inputs in one tensor."""
    if isinstance(part, TensorDataset):
        return part.tensors[0]
    found = _stacked([_input(part[position]) for position in range(len(part))])
    if isinstance(found, InputError):
        raise InputError(f"data={name!r}: {found}")
    return found


def _classes(
    name: str, parts: Sequence[Any], targets: Sequence[Tensor]
) -> tuple[list[Tensor], tuple[str, ...]]:
    """Return the classes of all parts, numbered as the first does, and their names.

    These are the datasets' own, or their numbers.
    """
    low = min(int(y.min()) for y in targets)
    if low < 0:
        raise InputError(f"data={name!r}: classes must be numbered from 0, got {low}")
    named = [_names(part, y) for part, y in zip(parts, targets, strict=True)]
    first, numbered = named[0], list(targets)
    for place, other in enumerate(named[1:], 1):
        if first is None or other is None or other == first[: len(other)]:
            continue
        unknown = [one for one in other if one not in first]
        if unknown or len(set(first)) < len(first):
            raise InputError(
                f"data={name!r}: the dataset to test has other classes than the one to train on: "
                f"{', '.join(unknown[:5]) or ', '.join(other[:5])}, not {', '.join(first[:5])}; "
                "give both the same"
            )
        numbered[place] = torch.tensor([first.index(one) for one in other])[targets[place]]
    high = max(int(y.max()) for y in numbered)
    return numbered, first if first and len(first) > high else tuple(map(str, range(high + 1)))


def _names(part: Any, y: Tensor) -> tuple[str, ...] | None:
    """Return what a dataset calls the classes of its samples, if that is what its names are of."""
    given, listed = getattr(part, "classes", None), _listed(part)
    changed = getattr(part, "target_transform", None) is not None
    changed = changed or (listed is not None and not torch.equal(listed.long(), y))
    if changed or not isinstance(given, (list, tuple)) or len(given) <= int(y.max()):
        return None
    return tuple(map(str, given))
