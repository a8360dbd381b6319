"""Reading data sets from where they lie."""

from __future__ import annotations

import csv
import gzip
import itertools
import pickle
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mixwell.errors import InputError, suggest

__all__ = [
    "find",
    "input_columns",
    "read_airfoil",
    "read_cifar",
    "read_csv",
    "read_folder",
    "read_idx",
    "read_idx_pair",
    "read_rows",
    "read_series",
    "series_columns",
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
            return super().find_class(module.replace("numpy.core", "numpy._core"), name)
        raise pickle.UnpicklingError(f"{module}.{name} has no place in a data file")


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

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif")


def read_folder(root: Path) -> tuple[list[Path], Tensor, list[str]]:
    """Return the image files below ``root``, their classes and the names of its sub-folders."""
    if not root.is_dir():
        raise InputError(f"data='folder:{root}': there is no such folder")
    classes = sorted(
        entry.name for entry in root.iterdir() if entry.is_dir() and entry.name[0] != "."
    )
    if len(classes) < 2:
        raise InputError(
            f"data='folder:{root}' must hold one sub-folder a class, two or more, it holds "
            f"{len(classes)}"
        )
    paths, labels = [], []
    for label, name in enumerate(classes):
        found = sorted(p for p in (root / name).rglob("*") if p.suffix.lower() in IMAGES)
        if not found:
            raise InputError(
                f"{root / name} holds no images ({', '.join(IMAGES)}): each class needs some"
            )
        paths += found
        labels += [label] * len(found)
    return paths, torch.tensor(labels), classes


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


def _read_table(path: Path, header: bool | None, only: Sequence[str] | None = None) -> Any:
    """Return a text table, all its cells as text, or an InputError that says what is wrong.

    Args:
        path: the file; the delimiter is found out.
        header: whether its first line names the columns; None finds that out, too.
        only: the columns that are read; the others may lack values.
    """
    import pandas as pd

    try:
        with path.open(encoding="utf-8-sig") as file:
            start = [line for line in itertools.islice(file, 20) if line.strip()]
        # A sniffer would find delimiters in the numbers of a single column.
        single = not any(mark in line for line in start for mark in ",;\t| ")
        found = None if single else csv.Sniffer().sniff("".join(start), ",;\t| ").delimiter
        table = pd.read_csv(
            path, sep=found or ",", header=None, dtype=str, skipinitialspace=True,
            index_col=False, encoding="utf-8-sig", engine="python",
        )  # fmt: skip
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file") from None
    except (OSError, ValueError, csv.Error) as error:  # pandas' parser errors are ValueErrors
        raise InputError(f"{path} is no table that can be read: {error}") from error
    if header is None:
        # Names stand above numbers; where there are none, the first line is data.
        first, later = (pd.to_numeric(table.iloc[row], errors="coerce") for row in (0, -1))
        header = len(table) > 1 and bool((first.isna() & later.notna()).any())
    if header:
        names = [str(name) if isinstance(name, str) else "" for name in table.iloc[0]]
        twice = next((name for name in names if name and names.count(name) > 1), None)
        if twice is not None:
            raise InputError(f"{path} names the column {twice!r} twice; rename one of the two")
        table = table.iloc[1:].reset_index(drop=True)
        table.columns = pd.Index(names)
        if names[0] == "" and list(table.iloc[:, 0]) == [str(row) for row in range(len(table))]:
            table = table.iloc[:, 1:]  # a running number that some programs write
    if only is not None:
        lacking = [name for name in only if name not in table.columns]
        if lacking:
            raise InputError(
                f"{path} lacks the column {lacking[0]!r}"
                f"{suggest(lacking[0], list(map(str, table.columns)))}; it must have "
                f"{', '.join(only)}"
            )
        table = table[list(only)]
    if not len(table):
        raise InputError(f"{path} holds no rows")
    missing = table.isna().to_numpy()
    if missing.any():
        row, column = (int(place[0]) for place in missing.nonzero())
        raise InputError(
            f"{path}: column {str(table.columns[column])!r} has no value in row {row + 1} of "
            f"{len(table)}: fill it in or leave the row out"
        )
    return table


def _numbers(path: Path, column: Any) -> Any:
    """Return a column as numbers; None where it holds text throughout, as dates do."""
    import pandas as pd

    values = pd.to_numeric(column, errors="coerce")
    if not values.notna().any():
        return None
    if values.isna().any():
        row = int(values.isna().to_numpy().argmax())
        raise InputError(
            f"{path}: column {str(column.name)!r} holds numbers, but {column.iloc[row]!r} in row "
            f"{row + 1} of {len(column)}"
        )
    return values


def _column(path: Path, table: Any, target: str) -> Any:
    """Return the column called ``target``, or numbered so where there are no names."""
    names = {str(column): column for column in table.columns}
    if target not in names:
        raise InputError(
            f"target={target!r}: {path} has no such column{suggest(target, names)}; "
            f"it has {', '.join(names)}"
        )
    return names[target]


def _finite(path: Path, values: Any) -> Tensor:
    import numpy as np

    array = np.array(values, dtype=np.float64, copy=True)
    if not np.isfinite(array).all():
        raise InputError(f"{path} holds infinite numbers")
    return torch.from_numpy(array)


def read_csv(path: Path, target: str | None) -> tuple[Tensor, Tensor]:
    """Return a table's inputs (N, F) and its target (N,).

    Columns of text become one column for each of their values (one-hot).

    Args:
        path: with a header line; the delimiter is found out.
        target: the column that is predicted; the last without one.
    """
    import pandas as pd

    table = _read_table(path, header=True)
    column = table.columns[-1] if target is None else _column(path, table, target)
    y = _numbers(path, table[column])
    if y is None:
        raise InputError(
            f"{path}: the target {str(column)!r} must hold numbers, it holds "
            f"{table[column].iloc[0]!r}; name another with target (--target COLUMN)"
        )
    x = _input_columns(path, table, column)
    wide = pd.get_dummies(x, dtype=float)
    if wide.shape[1] > 10 * x.shape[1] + 1000:
        raise InputError(
            f"{path}: columns of text have {wide.shape[1]} different values; leave out those that "
            "name each row"
        )
    return _finite(path, wide), _finite(path, y)


def _input_columns(path: Path, table: Any, target: Any) -> Any:
    """Return a table without its target, its columns of numbers as such, the others as text."""
    import pandas as pd

    x = table.drop(columns=target)
    if not x.shape[1]:
        raise InputError(f"{path} has no column beside the target {str(target)!r}")
    for name in x.columns:
        numeric = pd.to_numeric(x[name], errors="coerce").notna()
        if numeric.mean() > 0.5:  # else its values are categories
            x[name] = _numbers(path, x[name])
    return x


def input_columns(path: Path, target: str | None) -> list[tuple[str, tuple[str, ...]]]:
    """Return what :func:`read_csv` makes its inputs of: columns and, of text, their values.

    In the order of the inputs: numbers first, then a column for each value of each text column.
    """
    import pandas as pd

    table = _read_table(path, header=True)
    column = table.columns[-1] if target is None else _column(path, table, target)
    x = _input_columns(path, table, column)
    is_number = [pd.api.types.is_numeric_dtype(x[name]) for name in x.columns]
    numbers = [(str(name), ()) for name, yes in zip(x.columns, is_number, strict=True) if yes]
    texts: list[tuple[str, tuple[str, ...]]] = [
        (str(name), tuple(sorted(map(str, x[name].unique()))))
        for name, yes in zip(x.columns, is_number, strict=True)
        if not yes
    ]
    return [*numbers, *texts]


def series_columns(path: Path) -> list[str]:
    """Return the columns that :func:`read_series` reads, in their order."""
    table = _read_table(path, header=None)
    return [str(name) for name in table.columns if _numbers(path, table[name]) is not None]


def read_rows(path: Path, columns: Sequence[str] | None, header: bool | None) -> Any:
    """Return a table's columns as text, to predict from: those named, or all that hold numbers.

    Raises:
        InputError: it can't be read, lacks a column, or a value is missing.
    """
    import pandas as pd

    table = _read_table(path, header, columns)
    if columns is not None:
        return table
    found = {name: _numbers(path, table[name]) for name in table.columns}
    return pd.DataFrame({name: values for name, values in found.items() if values is not None})


def read_series(path: Path, target: str | None) -> tuple[Tensor, list[int]]:
    """Return a multivariate time series (T, V) float32 and the columns that are predicted.

    Args:
        path: a row for each time, with or without a header; columns that hold no numbers (dates)
            are left out.
        target: one column, by its name or number from 0; all without one.
    """
    import pandas as pd

    table = _read_table(path, header=None)
    columns = {name: _numbers(path, table[name]) for name in table.columns}
    table = pd.DataFrame({name: values for name, values in columns.items() if values is not None})
    if not table.shape[1]:
        raise InputError(f"{path} has no column of numbers")
    values = _finite(path, table).float()
    if target is None:
        return values, list(range(values.shape[1]))
    return values, [list(table.columns).index(_column(path, table, target))]
