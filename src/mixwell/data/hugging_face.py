"""Folders that ``save_to_disk`` of Hugging Face's ``datasets`` wrote: of images, or tables."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mixwell.data.splits import FolderSplit, TensorSplit
from mixwell.data.tables import (
    Column,
    check_classes,
    check_gaps,
    column_called,
    table_of,
    target_of,
)
from mixwell.errors import InputError

__all__ = ["Found", "read"]

_SPLITS = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
_USUAL = ("label", "labels", "target", "class", "y")
"""What a column to predict is called where no type tells it."""


@dataclass(frozen=True)
class Found:
    """A data set of such a folder.

    Attributes:
        parts: its splits "train", and "validation" and "test" where they are.
        classes: their names; empty in regression.
        columns: of a table, what inputs are made of.
        files: of images, the files that hold them and their sizes: their content, in short.
    """

    parts: Mapping[str, TensorSplit | FolderSplit]
    classes: tuple[str, ...]
    columns: tuple[Column, ...] = ()
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Stored:
    """An image where it lies: read as a file is, when it is needed.

    Attributes:
        rows: the data set's, one column of images that it doesn't decode.
        column: what that is called.
        place: the row, from 0.
        where: the folder and the split.
    """

    rows: Any
    column: str
    place: int
    where: str

    def read(self) -> bytes:
        """Return the encoded image."""
        found = self.rows[self.place][self.column]
        if found is None:
            raise OSError("the row holds none")
        if found["bytes"] is not None:
            content: bytes = found["bytes"]
            return content
        return Path(found["path"] or "").read_bytes()

    def __str__(self) -> str:
        return f"{self.where}: {self.column!r} of row {self.place + 1}"


def read(
    root: Path, *, target: str | None = None, task: str | None = None, image_size: int = 224,
    workers: int = 2,
) -> Found:  # fmt: skip
    """Return a data set that lies in a folder, its images still undecoded.

    Args:
        root: the folder of a ``Dataset`` or a ``DatasetDict``.
        target: the column that is predicted; without one that of classes (``ClassLabel``), or the
            one that is called label, labels, target, class or y.
        task: see :func:`mixwell.data.tables.table_of`; whole numbers beside images are classes.
        image_size: of images, pixels of each side.
        workers: processes that decode them.

    Raises:
        InputError: ``datasets`` is missing, the folder holds no such data set, or one of texts,
            without labels, or with columns that no network takes.
    """
    from_disk = _Folder(root, _opened(root))
    label = from_disk.label(target)
    images = from_disk.of_type("Image")
    if not images:
        return from_disk.table(label, task)
    if len(images) > 1:
        raise InputError(
            f"{root} has several columns of images ({', '.join(images)}): keep one of them "
            "(remove_columns)"
        )
    if label in images:
        raise InputError(f"target={label!r}: {root} holds images there, which are not predicted")
    return from_disk.images(images[0], label, task, image_size, workers)


def _opened(root: Path) -> dict[str, Any]:
    """Return the data sets of a folder by what they are used for."""
    try:
        import datasets
    except ImportError as error:
        raise InputError(
            f"data='hf:{root}' is read by Hugging Face's datasets, which is not installed: "
            "pip install 'mixwell[datasets]'"
        ) from error
    if not root.is_dir():
        raise InputError(f"data='hf:{root}': there is no such folder")
    try:
        found = datasets.load_from_disk(str(root))
    except Exception as error:  # of any kind: it is what the files hold
        raise InputError(
            f"data='hf:{root}' is no folder that save_to_disk wrote, or is damaged: {error}"
        ) from error
    parts = found if isinstance(found, datasets.DatasetDict) else {"train": found}
    unknown = [name for name in parts if name not in _SPLITS]
    if "train" not in parts or unknown or {"val", "validation"} <= parts.keys():
        raise InputError(
            f"{root} holds the splits {', '.join(parts)}: there must be train, there may be "
            "validation (or val) and test, and no other; rename or delete them in the DatasetDict"
        )
    first = parts["train"].features
    for name, part in parts.items():
        if not len(part):
            raise InputError(f"{root}: the split {name!r} holds no rows")
        if part.features != first:
            raise InputError(
                f"{root}: the split {name!r} has other columns than 'train', or of other types: "
                f"{part.features} against {first}"
            )
    return {_SPLITS[name]: part.with_format(None) for name, part in parts.items()}


@dataclass(frozen=True)
class _Folder:
    """The data sets of a folder, of one set of columns.

    Attributes:
        root: the folder.
        parts: by what they are used for.
    """

    root: Path
    parts: Mapping[str, Any]

    @property
    def features(self) -> Mapping[str, Any]:
        """The columns and their types."""
        features: Mapping[str, Any] = self.parts["train"].features
        return features

    def of_type(self, kind: str) -> list[str]:
        """Return the columns of a type of ``datasets``."""
        import datasets

        wanted = getattr(datasets, kind)
        return [name for name, feature in self.features.items() if isinstance(feature, wanted)]

    def label(self, target: str | None) -> str:
        """Return the column that is predicted."""
        if target is not None:
            return str(column_called(str(self.root), self.features, target))
        labels = self.of_type("ClassLabel")
        if len(labels) == 1:
            return labels[0]
        usual = [name for name in labels or self.features if name.lower() in _USUAL]
        others = [name for name in self.features if name not in self.of_type("Image")]
        if len(usual) != 1 and len(others) == 1 < len(self.features):
            return others[0]
        if len(usual) != 1:
            raise InputError(
                f"{self.root} doesn't tell which of its columns is predicted: name it with target "
                f"(--target COLUMN), one of {', '.join(others)}"
            )
        return usual[0]

    def joined(self, columns: list[str]) -> Any:
        """Return columns of all parts, one after the other, as a frame; classes by their names."""
        import pandas as pd

        classes = self.of_type("ClassLabel")
        frames = []
        for part, rows in self.parts.items():
            frame = rows.select_columns(columns).to_pandas()
            for name in columns:
                if name in classes:
                    frame[name] = self._named(part, name, frame[name])
            check_gaps(f"{self.root}, split {part!r}", frame)
            frames.append(frame)
        return pd.concat(frames, ignore_index=True)

    def _named(self, part: str, name: str, values: Any) -> Any:
        """Return the names of classes; those without a label are refused."""
        known = self.features[name].names
        missing = values.isna() | (values < 0)
        if missing.any():
            raise InputError(
                f"{self.root}, split {part!r}: {int(missing.sum())} of {len(values)} rows have no "
                f"label in {name!r} (-1, or none): leave them out, or the split"
            )
        return values.map(lambda number: known[int(number)]).astype(object)

    def targets(self, label: str, task: str | None) -> tuple[Tensor, tuple[str, ...]]:
        """Return the target of all parts and the classes, those of a ClassLabel in their order."""
        values = self.joined([label])[label]
        y, classes = target_of(str(self.root), values, task)
        if label in self.of_type("ClassLabel"):
            names = self.features[label].names
            order = torch.tensor([names.index(name) for name in classes])
            return order[y], tuple(names)
        return y, classes

    def divided(self, label: str, y: Tensor, classes: tuple[str, ...]) -> dict[str, slice]:
        """Return where each part lies in what is joined, if its classes can be split."""
        ends = list(itertools.accumulate(map(len, self.parts.values()), initial=0))
        slices = itertools.starmap(slice, itertools.pairwise(ends))
        places = dict(zip(self.parts, slices, strict=True))
        if classes:
            least = 1 + sum(name not in self.parts for name in ("validation", "test"))
            check_classes(f"{self.root}", label, y[places["train"]], classes, least)
        return places

    def images(
        self, column: str, label: str, task: str | None, image_size: int, workers: int
    ) -> Found:
        """Return splits whose images are decoded when they are needed."""
        import datasets
        import pandas as pd

        held = pd.Series(self.joined([label])[label])
        number = pd.api.types.is_float_dtype(held) and task is None
        if number or task == "regression":
            raise InputError(
                f"{self.root}: {label!r} makes it a regression of images, which is not trained "
                "from files; task='classification' (--task classification) takes its values for "
                "classes"
            )
        y, classes = self.targets(label, "classification")
        places = self.divided(label, y, classes)
        parts = {}
        for part, rows in self.parts.items():
            bare = rows.select_columns([column]).cast_column(column, datasets.Image(decode=False))
            where = f"{self.root}, split {part!r}"
            stored: Any = [_Stored(bare, column, place, where) for place in range(len(bare))]
            parts[part] = FolderSplit(stored, y[places[part]], image_size, workers)
        files = sorted(path for path in self.root.rglob("*.arrow") if path.is_file())
        sizes = (f"{path.relative_to(self.root)} {path.stat().st_size}" for path in files)
        return Found(parts, classes, files=tuple(sizes))

    def table(self, label: str, task: str | None) -> Found:
        """Return splits in memory."""
        # What pandas numbers its rows by is written by it, too.
        columns = [name for name in self.features if not name.startswith("__index_level_")]
        frame = self.joined(columns)
        self._check_texts(frame.drop(columns=label))
        found = table_of(frame, str(self.root), label, task)
        y, classes = found.y, found.classes
        if label in self.of_type("ClassLabel"):
            y, classes = self.targets(label, task)
        places = self.divided(label, y, classes)
        parts = {part: TensorSplit(found.x[place], y[place]) for part, place in places.items()}
        return Found(parts, classes, found.columns)

    def _check_texts(self, inputs: Any) -> None:
        """Raise an InputError where there is nothing but sentences, which are no categories."""
        import pandas as pd

        texts = [name for name in inputs if pd.api.types.infer_dtype(inputs[name]) == "string"]
        free = [name for name in texts if inputs[name].nunique() > max(len(inputs) / 2, 10)]
        if free and len(texts) == inputs.shape[1]:
            raise InputError(
                f"{self.root} is a data set of texts ({', '.join(map(repr, free))}): images and "
                "tables are trained on from here; for texts see mixwell.compat.huggingface"
            )
