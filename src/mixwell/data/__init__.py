"""What is trained on: data sets by name, split by seed, and made scarce as protocols ask."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mixwell.data import shapes, sources
from mixwell.data.splits import FolderSplit, Split, TensorSplit, check_at_least, seeded
from mixwell.errors import InputError, suggest

__all__ = [
    "Dataset",
    "FolderSplit",
    "Split",
    "TensorSplit",
    "available",
    "load",
    "long_tail_counts",
    "toy",
]

_TEST_SEED = 20_231  # the test split of sets without an official one: the same for every seed


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set, split.

    Images are normalised, and tables, series and regression targets standardised, by the mean and
    standard deviation of the training split (folders of images by ImageNet's).

    Attributes:
        name: what :func:`load` was asked for.
        task: "classification" or "regression".
        train: what is trained on.
        val: held out of the training data, for choosing and for fitting temperatures.
        test: used for nothing but the final measures.
        input_shape: of one sample.
        classes: the classes' names; empty in regression.
        superclasses: name to classes, for coarse-to-fine transfer, where the set has some.
        target_mean: (K,) regression targets are trained as (y - mean) / std of the training split.
        target_std: (K,), see ``target_mean``.
        fine: the same samples in the same order with their fine classes, where ``classes`` are
            superclasses.
        unlabelled: training samples whose labels are not to be looked at.
    """

    name: str
    task: str
    train: Split
    val: Split
    test: Split
    input_shape: tuple[int, ...]
    classes: tuple[str, ...] = ()
    superclasses: dict[str, tuple[int, ...]] | None = None
    target_mean: Tensor | None = None
    target_std: Tensor | None = None
    fine: Dataset | None = None
    unlabelled: Split | None = None

    @property
    def num_classes(self) -> int | None:
        """C; None in regression."""
        return len(self.classes) or None

    @property
    def num_outputs(self) -> int:
        """The outputs that a model of this set needs."""
        return len(self.classes) or self.train.y[:1].numel()

    @property
    def is_toy(self) -> bool:
        """Whether it is points in the plane, whose decision surface can be drawn."""
        return self.name in ("moons", "circles")

    def in_units(self, values: Tensor) -> Tensor:
        """Return standardised regression values (N, K) or (N,) as (N, K) in the targets' units."""
        assert self.target_mean is not None
        assert self.target_std is not None
        return values.reshape(len(values), -1) * self.target_std + self.target_mean

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
    target: str | None
    window: int
    horizon: int

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
    val: TensorSplit | FolderSplit | None = None


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


def _csv(request: _Request) -> _Raw:
    x, y = sources.read_csv(Path(request.rest).expanduser(), request.target)
    return _Raw(TensorSplit(x, y), None)


def _series(path: Path, request: _Request) -> _Raw:
    """Return windows and what follows them; parts are of different times, the last for testing."""
    values, target = sources.read_series(path, request.target)
    window, horizon = request.window, request.horizon
    count = len(values) - window - horizon + 1
    if count < 10:
        raise InputError(
            f"{path} has {len(values)} rows: window={window} and horizon={horizon} leave "
            f"{max(count, 0)} samples; shorten them"
        )
    x = values.unfold(0, window, 1)[:count]
    y = values[window + horizon - 1 :]
    y = y[:, target[0]] if len(target) == 1 else y[:, target]
    ends = [0, round(0.6 * count), round(0.8 * count), count]
    train, val, test = (TensorSplit(x[a:b], y[a:b]) for a, b in pairwise(ends))
    return _Raw(train, test, val=val)


def _exchange_rate(request: _Request) -> _Raw:
    folder = request.folder("exchange-rate")
    names = ["exchange_rate.txt", "exchange_rate.txt.gz"]
    return _series(sources.find("data_dir", folder, [".", "exchange_rate"], names), request)


def _toy(name: str) -> Callable[[_Request], _Raw]:
    def read(request: _Request) -> _Raw:
        pool, test = (TensorSplit(*toy(name, *key)) for key in ((600, _TEST_SEED), (2000, 1)))
        return _Raw(pool, test, classes=("first", "second"))

    return read


def toy(name: str, size: int, seed: int, noise: float = 0.15) -> tuple[Tensor, Tensor]:
    """Return points (N, 2) and classes (N,) of "moons" or "circles", by scikit-learn."""
    from sklearn import datasets

    if name not in ("moons", "circles"):
        raise InputError(f"name={name!r} must be moons or circles")
    if name == "moons":
        x, y = datasets.make_moons(size, noise=noise, random_state=seed)
    else:
        x, y = datasets.make_circles(size, noise=noise / 2, factor=0.5, random_state=seed)
    return torch.from_numpy(x), torch.from_numpy(y).long()


def _shapes(request: _Request) -> _Raw:
    pool, test = (shapes.shapes(*key) for key in ((6600, _TEST_SEED), (2000, 1)))
    return _Raw(*_images(pool, test, crop=4), classes=shapes.CLASSES, superclasses=shapes.GROUPS)


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
    "shapes": ("8,600 colour images of shapes on clutter, 32x32, made when asked for", _shapes),
    "folder": ("folder:PATH, image files with one sub-folder a class", _folder),
    "airfoil": ("regression: 1,503 sound levels of airfoils, a table in data_dir", _airfoil),
    "diabetes": ("regression: 442 patients, embedded in scikit-learn", _diabetes),
    "csv": ("csv:PATH, regression: a table with a header; --target names its column", _csv),
    "exchange-rate": ("forecasting: 8 currencies' daily rates, a text in data_dir", _exchange_rate),
    "series": (
        "series:PATH, forecasting: a table with a row for each time",
        lambda request: _series(Path(request.rest).expanduser(), request),
    ),
    "moons": ("two interleaved half circles in the plane, by scikit-learn", _toy("moons")),
    "circles": ("a circle within a circle, likewise", _toy("circles")),
}
_WITH_PATH = ("folder", "csv", "series")


def available() -> dict[str, str]:
    """Return the data sets' names, each with a line on what it is."""
    return {name: text for name, (text, _) in _SOURCES.items()}


# ---------------------------------------------------------------------------------- made scarce


def long_tail_counts(num_classes: int, largest: int, imbalance: float) -> list[int]:
    """Return how many samples each class keeps: ``largest · imbalance^(-c / (C - 1))``.

    >>> long_tail_counts(5, 100, 100)
    [100, 32, 10, 3, 1]
    """
    shares = [imbalance ** (-label / max(num_classes - 1, 1)) for label in range(num_classes)]
    return [max(1, round(largest * share)) for share in shares]


def _choose(y: Tensor, counts: Sequence[int], generator: torch.Generator, why: str) -> Tensor:
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


def _coarsened(dataset: Dataset) -> Dataset:
    """Return the data set with its superclasses for classes."""
    if dataset.superclasses is None:
        raise InputError(f"coarse: data={dataset.name!r} has no superclasses")
    parent = torch.empty(len(dataset.classes), dtype=torch.int64)
    for number, members in enumerate(dataset.superclasses.values()):
        parent[list(members)] = number

    def lift(split: Any) -> Any:
        return replace(split, y=parent[split.y])

    return replace(
        dataset,
        train=lift(dataset.train),
        val=lift(dataset.val),
        test=lift(dataset.test),
        unlabelled=dataset.unlabelled and lift(dataset.unlabelled),
        classes=tuple(dataset.superclasses),
        superclasses=None,
        fine=dataset,
    )


def load(
    name: str,
    *,
    data_dir: str | Path | None = None,
    train_size: int | None = None,
    val_fraction: float = 0.1,
    seed: int = 0,
    imbalance: float | None = None,
    largest_class: int | None = None,
    shots: int | None = None,
    labels: int | None = None,
    coarse: bool = False,
    target: str | None = None,
    window: int = 24,
    horizon: int = 12,
    download: bool = False,
    image_size: int = 224,
    workers: int = 2,
) -> Dataset:
    """Return a data set by name, split into train, validation and test.

    The test split is the official one where there is one, else a fixed fifth; it doesn't depend
    on the seed. Validation is drawn from the training data by the seed, stratified by class, and
    before anything is made scarce: it stays as balanced as the data are. Series are split by time,
    60 : 20 : 20.

    Args:
        name: one of :func:`available`; ``folder:PATH`` for a folder of images, ``csv:PATH`` for a
            table, ``series:PATH`` for a multivariate time series.
        data_dir: the folder with the set's files; the environment variable MIXWELL_DATA without.
        train_size: how many training samples to keep, stratified; all without.
        val_fraction: the share of the training data that is held out, in (0, 1).
        seed: of the split.
        imbalance: long-tailed: class c keeps ``n · imbalance^(-c / (C - 1))`` training samples.
        largest_class: n, the samples of the largest class; by default as many as all classes have.
        shots: training samples of each class.
        labels: training samples that keep their label, of each class as many; the rest is
            ``unlabelled``.
        coarse: superclasses are the classes, and ``fine`` holds the others.
        target: the column that is predicted: of ``csv:PATH`` the last by default, of a series all.
        window: of a series, the steps that are seen.
        horizon: of a series, how many steps after them the predicted one comes.
        download: fetch the files into ``data_dir`` by torchvision, where it can.
        image_size: of ``folder:PATH``.
        workers: processes that decode the images of ``folder:PATH``.

    Raises:
        InputError: the name is unknown, files are missing, corrupt or truncated, or a size is
            out of range.
    """
    kind, _, rest = name.partition(":")
    if kind not in _SOURCES or bool(rest) != (kind in _WITH_PATH):
        shown = (name if name not in _WITH_PATH else f"{name}:PATH" for name in _SOURCES)
        raise InputError(
            f"data={name!r} is unknown{suggest(kind, _SOURCES)}; known: {', '.join(shown)}"
        )
    if not 0 < val_fraction < 1:
        raise InputError(f"val_fraction must be in (0, 1), got {val_fraction!r}")
    for argument, value in (
        ("train_size", train_size), ("largest_class", largest_class), ("shots", shots),
        ("labels", labels), ("window", window), ("horizon", horizon),
    ):  # fmt: skip
        if value is not None:
            check_at_least(argument, value, 1)
    if target is not None and kind not in ("csv", "series", "exchange-rate"):
        raise InputError(f"target={target!r}: data={name!r} has no columns to choose from")
    given = data_dir if data_dir is not None else os.environ.get("MIXWELL_DATA")
    request = _Request(
        Path(given) if given else None, download, image_size, workers, rest, target, window, horizon
    )
    raw = _SOURCES[kind][1](request)
    scarce = {"imbalance": imbalance, "shots": shots, "labels": labels, "coarse": coarse or None}
    asked = [name for name, value in scarce.items() if value is not None]
    if asked and not raw.classes:
        raise InputError(f"{asked[0]}: data={name!r} is a regression: it has no classes")
    if (imbalance is not None) + (shots is not None) + (train_size is not None) > 1:
        raise InputError("give one of train_size, imbalance and shots: each says what is kept")
    if imbalance is not None and not imbalance >= 1:
        raise InputError(f"imbalance must be 1 at least, got {imbalance!r}")
    if largest_class is not None and imbalance is None:
        raise InputError("largest_class says nothing without imbalance")
    train, val, test = _split(raw, val_fraction=val_fraction, train_size=train_size, seed=seed)
    num_classes, unlabelled = len(raw.classes), None
    if imbalance is not None:
        there = int(torch.bincount(train.y, minlength=num_classes).min())
        kept = long_tail_counts(num_classes, largest_class or there, imbalance)
        why = f"imbalance={imbalance}"
        train = train.subset(_choose(train.y, kept, seeded(seed, 13), why))
    if shots is not None:
        kept = [shots] * num_classes
        train = train.subset(_choose(train.y, kept, seeded(seed, 14), f"shots={shots}"))
    if labels is not None:
        if labels % num_classes or not num_classes <= labels < len(train):
            raise InputError(
                f"labels={labels} must be a multiple of the {num_classes} classes and fewer than "
                f"the {len(train)} training samples"
            )
        kept = [labels // num_classes] * num_classes
        chosen = _choose(train.y, kept, seeded(seed, 15), f"labels={labels}")
        others = torch.ones(len(train), dtype=torch.bool)
        others[chosen] = False
        train, unlabelled = train.subset(chosen), train.subset(others.nonzero()[:, 0])
    dataset = _prepared(name, raw, [train, val, test, unlabelled], image_size)
    return _coarsened(dataset) if coarse else dataset


def _prepared(name: str, raw: _Raw, splits: list[Any], image_size: int) -> Dataset:
    """Return the data set with its inputs and real targets normalised."""
    task = "classification" if raw.classes else "regression"
    train = splits[0]
    if isinstance(train, FolderSplit):
        train, val, test, unlabelled = splits
        shape: tuple[int, ...] = (3, image_size, image_size)
        return Dataset(name, task, train, val, test, shape, raw.classes, unlabelled=unlabelled)
    shape = tuple(train.x.shape[1:])
    mean, std = _moments(train.x)
    if raw.classes:
        train, val, test, unlabelled = (
            split and replace(split, mean=mean, std=std) for split in splits
        )
        return Dataset(
            name, task, train, val, test, shape, raw.classes, raw.superclasses,
            unlabelled=unlabelled,
        )  # fmt: skip
    y = train.y.double().reshape(len(train), -1)
    centre, scale = y.mean(0), y.std(0, correction=0).clamp_min(1e-12)

    def standardised(split: TensorSplit) -> TensorSplit:
        values = (split.y.double().reshape(len(split), -1) - centre) / scale
        return TensorSplit(split.x, values.reshape(split.y.shape).float(), mean, std)

    train, val, test = (standardised(split) for split in splits[:3])
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
