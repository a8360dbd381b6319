"""The data sets that are known by name, and how each is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from mixwell import plugins
from mixwell.data import content, folders, hugging_face, shapes, sources, tables
from mixwell.data.division import TEST_SEED
from mixwell.data.splits import FolderSplit, TensorSplit
from mixwell.data.toys import toy
from mixwell.errors import InputError

__all__ = ["SOURCES", "WITH_PATH", "Raw", "Request", "available", "called_with"]


@dataclass(frozen=True)
class Request:
    """What is asked for: where files lie, and what of them; ``rest`` is the path in a name."""

    data_dir: Path | None
    download: bool
    image_size: int
    workers: int
    rest: str
    target: str | None
    task: str | None
    window: int
    horizon: int
    seed: int

    def folder(self, name: str) -> Path:
        if self.data_dir is None:
            raise InputError(
                f"data={name!r} needs data_dir (--data-dir DIR, or the environment variable "
                "MIXWELL_DATA): the folder that its files lie in"
            )
        return self.data_dir


@dataclass(frozen=True)
class Raw:
    """A data set before it is split by seed; ``content`` tells it from others of its name."""

    train: TensorSplit | FolderSplit
    test: TensorSplit | FolderSplit | None
    classes: tuple[str, ...] = ()
    superclasses: dict[str, tuple[int, ...]] | None = None
    val: TensorSplit | FolderSplit | None = None
    columns: tuple[tables.Column, ...] = ()
    content: str | None = None


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


def _digits(request: Request) -> Raw:
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = torch.from_numpy(digits.images * 255 / 16).round().to(torch.uint8)[:, None]
    pool = TensorSplit(pixels, torch.from_numpy(digits.target).long())
    groups = {"round": (0, 6, 8, 9), "straight": (1, 4, 7), "open": (2, 3, 5)}
    return Raw(pool, None, tuple(str(digit) for digit in range(10)), groups)


_FASHION = (
    "T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag",
    "ankle boot",
)  # fmt: skip


def _fashion(request: Request) -> Raw:
    root = request.folder("fashion-mnist")
    if request.download:
        _fetch("FashionMNIST", root)
    folders = [".", "fashion-mnist", "FashionMNIST/raw", "raw"]
    parts = [sources.read_idx_pair(root, folders, prefix) for prefix in ("train", "t10k")]
    for _, labels in parts:
        _check_labels("fashion-mnist", labels, len(_FASHION))
    groups = {"tops": (0, 2, 3, 4, 6), "trouser": (1,), "footwear": (5, 7, 9), "bag": (8,)}
    return Raw(
        *_images(parts[0], parts[1], crop=2), classes=_FASHION, superclasses=groups,
        content=_content_of(parts),
    )  # fmt: skip


def _cifar(request: Request, hundred: bool) -> Raw:
    name = "cifar100" if hundred else "cifar10"
    root = request.folder(name)
    if request.download:
        _fetch(name.upper(), root)
    parts, classes, groups = sources.read_cifar(root, hundred)
    for _, labels in parts:
        _check_labels(name, labels, len(classes))
    return Raw(
        *_images(parts[0], parts[1], crop=4), classes=tuple(classes), superclasses=groups,
        content=_content_of(parts),
    )  # fmt: skip


def _content_of(parts: Sequence[tuple[Tensor, Tensor]]) -> str:
    """Return the line of published images: copies differ in how many of them they have."""
    labels = [labels for _, labels in parts]
    return content.line_of(sum(map(len, labels)), labels)


def _folder(request: Request) -> Raw:
    root = Path(request.rest).expanduser()
    found = folders.read_folder(root)
    splits = {
        part: FolderSplit(paths, labels, request.image_size, request.workers)
        for part, (paths, labels) in found.parts.items()
    }
    paths = [path for part, _ in found.parts.values() for path in part]
    held = content.line_of(len(paths), content.of_files(root, paths))
    return Raw(
        splits["train"], splits.get("test"), found.classes, val=splits.get("val"), content=held
    )


def _airfoil(request: Request) -> Raw:
    x, y = sources.read_airfoil(request.folder("airfoil"))
    return Raw(TensorSplit(x, y), None)


def _uci(request: Request) -> Raw:
    root = request.folder(f"uci:{request.rest}")
    x, y, test_x, test_y = sources.read_uci(root, request.rest, request.seed)
    return Raw(TensorSplit(x, y), TensorSplit(test_x, test_y))


def _diabetes(request: Request) -> Raw:
    from sklearn.datasets import load_diabetes

    table = load_diabetes(scaled=False)
    return Raw(TensorSplit(torch.from_numpy(table.data), torch.from_numpy(table.target)), None)


def _table(request: Request, read: Callable[..., tables.Table]) -> Raw:
    found = read(Path(request.rest).expanduser(), request.target, request.task)
    if found.classes:
        tables.check_classes(request.rest, found.target, found.y, found.classes)
    held = content.line_of(
        len(found.y), [repr((found.columns, found.target, found.classes)), found.x, found.y]
    )
    return Raw(
        TensorSplit(found.x, found.y), None, found.classes, columns=found.columns, content=held
    )


def _hugging_face(request: Request) -> Raw:
    found = hugging_face.read(
        Path(request.rest).expanduser(), target=request.target, task=request.task,
        image_size=request.image_size, workers=request.workers,
    )  # fmt: skip
    parts = found.parts
    splits = parts["train"], parts.get("test"), parts.get("validation")
    return Raw(
        splits[0], splits[1], found.classes, val=splits[2], columns=found.columns,
        content=content.of_splits(splits, repr((found.columns, found.classes)), *found.files),
    )  # fmt: skip


def _series(path: Path, request: Request) -> Raw:
    """Return windows and what follows them; parts are of different times, the last for testing."""
    values, target, names = tables.read_series(path, request.target)
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
    held = content.line_of(len(values), [repr((names, target)), values])
    return Raw(train, test, val=val, columns=tuple(map(tables.Column, names)), content=held)


def _exchange_rate(request: Request) -> Raw:
    folder = request.folder("exchange-rate")
    names = ["exchange_rate.txt", "exchange_rate.txt.gz"]
    path = sources.find("data_dir", folder, [".", "exchange_rate"], names)
    return replace(_series(path, request), columns=())  # they have no names


def _toy(name: str) -> Callable[[Request], Raw]:
    def read(request: Request) -> Raw:
        pool, test = (TensorSplit(*toy(name, *key)) for key in ((600, TEST_SEED), (2000, 1)))
        return Raw(pool, test, classes=("first", "second"))

    return read


def _shapes(request: Request) -> Raw:
    pool, test = (shapes.shapes(*key) for key in ((6600, TEST_SEED), (2000, 1)))
    return Raw(*_images(pool, test, crop=4), classes=shapes.CLASSES, superclasses=shapes.GROUPS)


SOURCES: dict[str, tuple[str, Callable[[Request], Raw]]] = {
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
    "uci": (
        "uci:NAME, regression: a table in data_dir with its published splits, one for each seed",
        _uci,
    ),
    "csv": (
        "csv:PATH, a table with a header: text in the column that --target names is classes, "
        "numbers a regression",
        lambda request: _table(request, tables.read_csv),
    ),
    "parquet": (
        "parquet:PATH, likewise, by pyarrow",
        lambda request: _table(request, tables.read_parquet),
    ),
    "hf": (
        "hf:PATH, a folder that save_to_disk of Hugging Face's datasets wrote: images or a table",
        _hugging_face,
    ),
    "exchange-rate": ("forecasting: 8 currencies' daily rates, a text in data_dir", _exchange_rate),
    "series": (
        "series:PATH, forecasting: a table with a row for each time",
        lambda request: _series(Path(request.rest).expanduser(), request),
    ),
    "moons": ("two interleaved half circles in the plane, by scikit-learn", _toy("moons")),
    "circles": ("a circle within a circle, likewise", _toy("circles")),
}
WITH_PATH = ("folder", "csv", "parquet", "hf", "series", "uci")


def called_with(name: str) -> str:
    """Return a data set's name as it is given: with what has to follow it, if anything."""
    return name if name not in WITH_PATH else f"{name}:{'NAME' if name == 'uci' else 'PATH'}"


def available() -> dict[str, str]:
    """Return the data sets' names, each with a line on what it is."""
    others = {n: e.value for n, e in plugins.entries("data").items() if n not in SOURCES}
    return {
        **{name: text for name, (text, _) in SOURCES.items()},
        **{name: f"of an installed package: {value}" for name, value in others.items()},
    }
