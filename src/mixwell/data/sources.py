"""Reading data sets from where they lie."""

from __future__ import annotations

import gzip
import pickle
import re
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mixwell.errors import InputError

__all__ = [
    "find",
    "read_airfoil",
    "read_cifar",
    "read_idx",
    "read_idx_pair",
]


_PARTS = ("train", "test")


def find(argument: str, root: Path, folders: Sequence[str], names: Sequence[str]) -> Path:
    """Return the first existing file of ``names``, looked for in ``folders`` of ``root``."""
    if not root.is_dir():
        raise InputError(f"{argument}={str(root)!r} is no folder")
    for folder in folders:
        for name in names:
            if (root / folder / name).is_file():
                return root / folder / name
    places = ", ".join(str(root / folder) for folder in folders)
    raise InputError(f"{argument}={str(root)!r}: there is no {' or '.join(names)} in {places}")


# ------------------------------------------------------------------------------------------- IDX


def read_idx(path: Path) -> Tensor:
    """Return an IDX file (MNIST's format), gzipped or not, as a uint8 tensor.

    Raises:
        InputError: it is no IDX file of bytes, is truncated, or its checksum is wrong.
    """
    import numpy as np

    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rb") as file:
            content = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} can't be read: {error}; fetch it again") from error
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise InputError(
            f"{path} is no IDX file of bytes: it starts with {content[:4].hex(' ') or 'nothing'}, "
            "not with 00 00 08"
        )
    dimensions = content[3]
    start = 4 + 4 * dimensions
    if len(content) < start:
        raise InputError(f"{path} is truncated: its header of {start} bytes ends early")
    shape = struct.unpack(f">{dimensions}I", content[4:start])
    size = int(np.prod(shape, dtype=np.int64))
    if len(content) - start != size:
        raise InputError(
            f"{path} is {'truncated' if len(content) - start < size else 'too long'}: "
            f"its header says {' x '.join(map(str, shape))} = {size} bytes, it holds "
            f"{len(content) - start}"
        )
    array = np.frombuffer(content, np.uint8, offset=start).reshape(shape)
    return torch.from_numpy(array.copy())


def read_idx_pair(root: Path, folders: Sequence[str], prefix: str) -> tuple[Tensor, Tensor]:
    """Return images (N, 1, H, W) uint8 and labels (N,) int64 of MNIST-like files.

    Args:
        root: the data folder.
        folders: where below it to look.
        prefix: "train" or "t10k".
    """
    parts = []
    for kind, dimensions in (("images", 3), ("labels", 1)):
        stem = f"{prefix}-{kind}-idx{dimensions}-ubyte"
        path = find("data_dir", root, folders, [stem, f"{stem}.gz"])
        tensor = read_idx(path)
        if tensor.ndim != dimensions:
            raise InputError(f"{path} must have {dimensions} dimensions, it has {tensor.ndim}")
        parts.append((path, tensor))
    (image_path, images), (label_path, labels) = parts
    if len(images) != len(labels):
        raise InputError(
            f"{image_path} holds {len(images)} images but {label_path} {len(labels)} labels"
        )
    return images[:, None], labels.long()


# ----------------------------------------------------------------------------------------- CIFAR


class _Arrays(pickle.Unpickler):
    """An unpickler of plain data and NumPy arrays, that can run no code of a file's choosing."""

    _ALLOWED = ("_reconstruct", "ndarray", "dtype", "scalar", "_frombuffer", "encode")

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] in ("numpy", "_codecs") and name in self._ALLOWED:
            return super().find_class(re.sub(r"^numpy\._?core", _numpy_core(), module), name)
        raise pickle.UnpicklingError(f"{module}.{name} has no place in a data file")


def _numpy_core() -> str:
    """Return where this NumPy keeps what arrays are made of: its 2.0 renamed that."""
    import numpy as np

    return "numpy._core" if int(np.__version__.split(".")[0]) >= 2 else "numpy.core"


def _unpickle(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = _Arrays(file, encoding="latin1").load()
    except Exception as error:
        raise InputError(f"{path} can't be read: {error}; fetch it again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold a dictionary, it holds {type(content).__name__}")
    return content


def read_cifar(
    root: Path, hundred: bool
) -> tuple[list[tuple[Tensor, Tensor]], list[str], dict[str, tuple[int, ...]] | None]:
    """Return CIFAR's train and test images and labels, class names and superclasses.

    Args:
        root: holds torchvision's folder ``cifar-10-batches-py`` (or ``cifar-100-python``).
        hundred: CIFAR-100 instead of CIFAR-10.
    """
    import numpy as np

    folder = "cifar-100-python" if hundred else "cifar-10-batches-py"
    fine = "fine_labels" if hundred else "labels"
    train = ["train"] if hundred else [f"data_batch_{part}" for part in range(1, 6)]

    def read(name: str) -> tuple[Path, dict[str, Any]]:
        path = find("data_dir", root, [folder, "."], [name])
        return path, _unpickle(path)

    splits = []
    superclass: dict[int, int] = {}
    for names in (train, ["test" if hundred else "test_batch"]):
        images, labels = [], []
        for name in names:
            path, content = read(name)
            data, y = content.get("data"), content.get(fine)
            groups = content.get("coarse_labels", ()) if hundred else y
            shape = getattr(data, "shape", None)
            if y is None or groups is None or shape != (len(y), 3072) or len(groups) != len(y):
                raise InputError(
                    f"{path} must hold 'data' (N, 3072) and {fine!r} (N,)"
                    f"{' and coarse_labels (N,)' if hundred else ''}, "
                    f"got data of shape {shape} and {0 if y is None else len(y)} labels"
                )
            images.append(torch.from_numpy(np.array(data, np.uint8).reshape(-1, 3, 32, 32)))
            labels.append(torch.tensor(y, dtype=torch.int64))
            superclass.update(zip(y, groups, strict=True))
        splits.append((torch.cat(images), torch.cat(labels)))
    path, meta = read("meta" if hundred else "batches.meta")
    try:
        classes = list(meta["fine_label_names" if hundred else "label_names"])
        names = list(meta["coarse_label_names"]) if hundred else []
    except KeyError as error:
        raise InputError(f"{path} must hold {error}, it holds {', '.join(meta)}") from error
    if not hundred:
        return splits, classes, None
    members = {
        name: tuple(sorted(label for label, group in superclass.items() if group == number))
        for number, name in enumerate(names)
    }
    return splits, classes, members


# ---------------------------------------------------------------------------------------- others


def read_airfoil(root: Path) -> tuple[Tensor, Tensor]:
    """Return the Airfoil self-noise table: (1503, 5) inputs and (1503,) decibels."""
    import numpy as np

    path = find("data_dir", root, [".", "airfoil"], ["airfoil_self_noise.dat"])
    try:
        table = np.loadtxt(path, dtype=np.float64, ndmin=2)
    except ValueError as error:
        raise InputError(f"{path} is no table of numbers: {error}") from error
    if table.shape[1] != 6 or not np.isfinite(table).all():
        raise InputError(
            f"{path} must hold 6 finite columns (5 inputs and the target), got {table.shape[1]}"
        )
    return torch.from_numpy(table[:, :5]), torch.from_numpy(table[:, 5])


def read_uci(root: Path, name: str, split: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return a UCI regression table in one of its published splits.

    The format is that of the probabilistic back-propagation and MC-dropout papers: ``data.txt``,
    ``index_features.txt`` and ``index_target.txt`` with the columns' numbers, and the rows of
    split k in ``index_train_k.txt`` and ``index_test_k.txt``.

    Args:
        root: the folder with the set's folder, or with a folder ``uci`` that holds it.
        name: of the set's folder.
        split: its number; counted on from 0 where there are fewer.

    Returns:
        (N, F) and (N,) to train on, (M, F) and (M,) to test.

    Raises:
        InputError: a file is missing, or its numbers make no such table.
    """
    import numpy as np

    folders = [name, f"uci/{name}"]
    path = find("data_dir", root, folders, ["data.txt"])
    count = len(list(path.parent.glob("index_train_*.txt")))
    if count == 0:
        raise InputError(f"{path.parent} has no published splits (index_train_0.txt)")
    names = ("index_features", "index_target", *(f"index_{p}_{split % count}" for p in _PARTS))
    files = [path, *(path.with_name(f"{part}.txt") for part in names)]
    read = []
    for file in files:
        try:
            read.append(np.loadtxt(file, dtype=np.float64, ndmin=2 if file == path else 1))
        except (OSError, ValueError) as error:
            raise InputError(f"{file} is no table of numbers: {error}") from error
    table = read[0]
    columns, target, train, test = (found.astype(np.int64) for found in read[1:])
    rows, width = table.shape
    if (
        not np.isfinite(table).all()
        or target.size != 1
        or not all(len(found) for found in (columns, train, test))
        or max(columns.max(), target.max()) >= width
        or max(train.max(), test.max()) >= rows
        or min(found.min() for found in (columns, target, train, test)) < 0
    ):
        raise InputError(f"{path} and the files of its columns and splits don't fit each other")
    x, y = torch.from_numpy(table[:, columns]), torch.from_numpy(table[:, target[0]])
    return x[train], y[train], x[test], y[test]
