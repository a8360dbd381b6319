"""What is trained on: data sets by name, split by seed."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mixwell.data import sources
from mixwell.data.splits import FolderSplit, Split, TensorSplit, seeded
from mixwell.errors import InputError, suggest

__all__ = ["Dataset", "FolderSplit", "Split", "TensorSplit", "available", "load"]

_TEST_SEED = 20_231  # the test split of sets without an official one: the same for every seed


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set, split.

    Images are normalised, and tables and regression targets standardised, by the mean and standard
    deviation of the training split (folders of images by ImageNet's).

    Attributes:
        name: what :func:`load` was asked for.
        task: "classification" or "regression".
        train: what is trained on.
        val: held out of the training data, for choosing and for fitting temperatures.
        test: used for nothing but the final measures.
        input_shape: of one sample.
        classes: the classes' names; empty in regression.
        superclasses: name to classes, for coarse-to-fine transfer, where the set has some.
        target_mean: regression targets are trained as (y - mean) / std of the training split.
        target_std: see ``target_mean``.
    """

    name: str
    task: str
    train: Split
    val: Split
    test: Split
    input_shape: tuple[int, ...]
    classes: tuple[str, ...] = ()
    superclasses: dict[str, tuple[int, ...]] | None = None
    target_mean: float = 0.0
    target_std: float = 1.0

    @property
    def num_classes(self) -> int | None:
        """C; None in regression."""
        return len(self.classes) or None

    @property
    def num_outputs(self) -> int:
        """The outputs that a model of this set needs."""
        return len(self.classes) or 1

    @property
    def class_counts(self) -> Tensor:
        """(C,) training samples of each class; an error in regression."""
        if not self.classes:
            raise InputError(f"data={self.name!r} is a regression: it has no class counts")
        return torch.bincount(self.train.y, minlength=len(self.classes))


# ------------------------------------------------------------------------------------- splitting


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


def _split(
    raw: _Raw, *, val_fraction: float, train_size: int | None, seed: int
) -> tuple[Any, Any, Any]:
    """Return train, validation and test; these two don't depend on ``train_size``."""
    train: Any = raw.train
    val: Any = raw.val
    test: Any = raw.test
    stratify, classes = bool(raw.classes), len(raw.classes) or 1
    if test is None:
        # At least one of each class, for otherwise it couldn't be measured.
        count = max(round(0.2 * len(train)), classes)
        train, test = _divide(train, count, seeded(_TEST_SEED), stratify)
    if val is None:
        count = round(val_fraction * len(train))
        if count < classes:
            raise InputError(
                f"val_fraction={val_fraction} leaves {count} of {len(train)} samples for "
                f"validation; at least {classes} are needed"
            )
        train, val = _divide(train, count, seeded(seed, 11), stratify)
    left = torch.bincount(train.y, minlength=classes) if stratify else torch.tensor([len(train)])
    if int(left.min()) == 0:
        name = raw.classes[int(left.argmin())] if stratify else "the table"
        raise InputError(
            f"{name!r} has too few samples: none is left to train on, once validation and test "
            "have theirs; give it three or more"
        )
    if train_size is not None:
        if not classes <= train_size <= len(train):
            raise InputError(
                f"train_size={train_size} must be from {classes} (one a class) to {len(train)} "
                "(what validation leaves)"
            )
        train = train.subset(_take(train.y, train_size, seeded(seed, 12), stratify).sort().values)
    return train, val, test


# --------------------------------------------------------------------------------------- sources


@dataclass(frozen=True)
class _Request:
    data_dir: Path | None
    download: bool
    image_size: int
    workers: int
    rest: str

    def folder(self, name: str) -> Path:
        if self.data_dir is None:
            raise InputError(
                f"data={name!r} needs data_dir (--data-dir DIR, or the environment variable "
                "MIXWELL_DATA): the folder that its files lie in"
            )
        return self.data_dir


@dataclass(frozen=True)
class _Raw:
    """A data set before it is split by seed."""

    train: TensorSplit | FolderSplit
    test: TensorSplit | FolderSplit | None
    classes: tuple[str, ...] = ()
    superclasses: dict[str, tuple[int, ...]] | None = None
    val: FolderSplit | None = None


def _images(
    train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], crop: int
) -> tuple[TensorSplit, TensorSplit]:
    return TensorSplit(*train, crop=crop, flip=True), TensorSplit(*test, crop=crop, flip=True)


def _fetch(name: str, folder: Path) -> None:
    """Download a data set of torchvision's into ``folder``."""
    from torchvision import datasets

    try:
        getattr(datasets, name)(folder, download=True)
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"download: {name} can't be fetched into {folder}: {error}; put its files there"
        ) from error


def _check_labels(name: str, labels: Tensor, num_classes: int) -> None:
    if len(labels) == 0 or int(labels.min()) < 0 or int(labels.max()) >= num_classes:
        found = f"{int(labels.min())} to {int(labels.max())}" if len(labels) else "none"
        raise InputError(
            f"data={name!r}: its labels must be from 0 to {num_classes - 1}, got {found}"
        )


def _digits(request: _Request) -> _Raw:
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = torch.from_numpy(digits.images * 255 / 16).round().to(torch.uint8)[:, None]
    pool = TensorSplit(pixels, torch.from_numpy(digits.target).long())
    groups = {"round": (0, 6, 8, 9), "straight": (1, 4, 7), "open": (2, 3, 5)}
    return _Raw(pool, None, tuple(str(digit) for digit in range(10)), groups)


_FASHION = (
    "T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag",
    "ankle boot",
)  # fmt: skip


def _fashion(request: _Request) -> _Raw:
    root = request.folder("fashion-mnist")
    if request.download:
        _fetch("FashionMNIST", root)
    folders = [".", "fashion-mnist", "FashionMNIST/raw", "raw"]
    parts = [sources.read_idx_pair(root, folders, prefix) for prefix in ("train", "t10k")]
    for _, labels in parts:
        _check_labels("fashion-mnist", labels, len(_FASHION))
    groups = {"tops": (0, 2, 3, 4, 6), "trouser": (1,), "footwear": (5, 7, 9), "bag": (8,)}
    return _Raw(*_images(parts[0], parts[1], crop=2), classes=_FASHION, superclasses=groups)


def _cifar(request: _Request, hundred: bool) -> _Raw:
    name = "cifar100" if hundred else "cifar10"
    root = request.folder(name)
    if request.download:
        _fetch(name.upper(), root)
    parts, classes, groups = sources.read_cifar(root, hundred)
    for _, labels in parts:
        _check_labels(name, labels, len(classes))
    return _Raw(*_images(parts[0], parts[1], crop=4), classes=tuple(classes), superclasses=groups)


def _folder(request: _Request) -> _Raw:
    root = Path(request.rest).expanduser()

    def read(folder: Path) -> tuple[FolderSplit, list[str]]:
        paths, labels, names = sources.read_folder(folder)
        return FolderSplit(paths, labels, request.image_size, request.workers), names

    if not (root / "train").is_dir():
        pool, classes = read(root)
        return _Raw(pool, None, tuple(classes))
    classes = []
    found: dict[str, FolderSplit] = {}
    for name in ("train", "val", "test"):
        if (root / name).is_dir():
            found[name], names = read(root / name)
            classes = classes or names
            if names != classes:
                raise InputError(
                    f"{root / name} has other classes than {root / 'train'}: "
                    f"{sorted(set(names) ^ set(classes))}"
                )
    if "test" not in found and "val" in found:
        # As ImageNet is used: "val" is the test split, and validation comes out of training.
        found["test"] = found.pop("val")
    return _Raw(found["train"], found.get("test"), tuple(classes), val=found.get("val"))


def _airfoil(request: _Request) -> _Raw:
    x, y = sources.read_airfoil(request.folder("airfoil"))
    return _Raw(TensorSplit(x, y), None)


def _diabetes(request: _Request) -> _Raw:
    from sklearn.datasets import load_diabetes

    table = load_diabetes(scaled=False)
    return _Raw(TensorSplit(torch.from_numpy(table.data), torch.from_numpy(table.target)), None)


_SOURCES: dict[str, tuple[str, Callable[[_Request], _Raw]]] = {
    "digits": ("1,797 handwritten digits of 8x8 pixels, embedded in scikit-learn", _digits),
    "fashion-mnist": ("70,000 grey images of clothes, 28x28: IDX files in data_dir", _fashion),
    "cifar10": (
        "60,000 colour images, 32x32, 10 classes: torchvision's files in data_dir",
        lambda request: _cifar(request, False),
    ),
    "cifar100": (
        "60,000 colour images, 32x32, 100 classes in 20 superclasses, likewise",
        lambda request: _cifar(request, True),
    ),
    "folder": ("folder:PATH, image files with one sub-folder a class", _folder),
    "airfoil": ("regression: 1,503 sound levels of airfoils, a table in data_dir", _airfoil),
    "diabetes": ("regression: 442 patients, embedded in scikit-learn", _diabetes),
}


def available() -> dict[str, str]:
    """Return the data sets' names, each with a line on what it is."""
    return {name: text for name, (text, _) in _SOURCES.items()}


def load(
    name: str,
    *,
    data_dir: str | Path | None = None,
    train_size: int | None = None,
    val_fraction: float = 0.1,
    seed: int = 0,
    download: bool = False,
    image_size: int = 224,
    workers: int = 2,
) -> Dataset:
    """Return a data set by name, split into train, validation and test.

    The test split is the official one where there is one, else a fixed fifth; it doesn't depend
    on the seed. Validation is drawn from the training data by the seed, stratified by class.

    Args:
        name: one of :func:`available`; ``folder:PATH`` for a folder of images.
        data_dir: the folder with the set's files; the environment variable MIXWELL_DATA without.
        train_size: how many training samples to keep, stratified; all without.
        val_fraction: the share of the training data that is held out, in (0, 1).
        seed: of the split.
        download: fetch the files into ``data_dir`` by torchvision, where it can.
        image_size: of ``folder:PATH``.
        workers: processes that decode the images of ``folder:PATH``.

    Raises:
        InputError: the name is unknown, files are missing, corrupt or truncated, or a size is
            out of range.
    """
    kind, _, rest = name.partition(":")
    if kind not in _SOURCES or bool(rest) != (kind == "folder"):
        raise InputError(
            f"data={name!r} is unknown{suggest(kind, _SOURCES)}; known: "
            f"{', '.join(name if name != 'folder' else 'folder:PATH' for name in _SOURCES)}"
        )
    if not 0 < val_fraction < 1:
        raise InputError(f"val_fraction must be in (0, 1), got {val_fraction!r}")
    given = data_dir if data_dir is not None else os.environ.get("MIXWELL_DATA")
    request = _Request(Path(given) if given else None, download, image_size, workers, rest)
    raw = _SOURCES[kind][1](request)
    train, val, test = _split(raw, val_fraction=val_fraction, train_size=train_size, seed=seed)
    task = "classification" if raw.classes else "regression"
    if isinstance(train, FolderSplit):
        shape = (3, image_size, image_size)
        return Dataset(name, task, train, val, test, shape, raw.classes)
    mean, std = _moments(train.x)
    shape = tuple(train.x.shape[1:])
    if raw.classes:
        train, val, test = (replace(split, mean=mean, std=std) for split in (train, val, test))
        return Dataset(name, task, train, val, test, shape, raw.classes, raw.superclasses)
    (centre,), (scale,) = _moments(train.y[:, None])
    train, val, test = (
        TensorSplit(split.x, ((split.y - centre) / scale).float(), mean, std)
        for split in (train, val, test)
    )
    return Dataset(name, task, train, val, test, shape, target_mean=centre, target_std=scale)


def _moments(x: Tensor) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation over all but dimension 1; images in [0, 1]."""
    dims = [dim for dim in range(x.ndim) if dim != 1]
    count, size = x.numel() // x.shape[1], 255 if x.dtype == torch.uint8 else 1
    # In parts: a whole data set in float64 wouldn't fit where its bytes do.
    mean = sum(part.double().sum(dims) for part in x.split(4096)) / count
    shape = (-1, *[1] * (x.ndim - 2))
    squares = sum((part - mean.view(shape)).square().sum(dims) for part in x.split(4096))
    std = (squares / count).sqrt().clamp_min(1e-12)
    return (mean / size).tolist(), (std / size).tolist()
