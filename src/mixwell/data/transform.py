"""How raw inputs become what a network takes, as a value that is kept with a run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from mixwell.data.dataset import Dataset
from mixwell.data.splits import FolderSplit, Split, TensorSplit, centred, decoded
from mixwell.data.tables import Column
from mixwell.errors import InputError

__all__ = ["Column", "Transform", "raw_samples"]


@dataclass(frozen=True)
class Transform:
    """What a run does to its inputs, and how its outputs are in the target's unit.

    Raw images are in [0, 1] (bytes are divided by 255), of the run's size; of tables and series
    they are the numbers as they stand in the file, a column of text as one 0 or 1 for each value.

    Attributes:
        kind: "images"; "table"; "series"; or "samples", as a data set's own transforms leave them.
        shape: of one sample: (C, H, W), (F,) or (V, W).
        mean: of each channel (column, variable), which is subtracted; empty where nothing is.
        std: of each, which it is then divided by.
        unit_range: whether raw values are in [0, 1].
        columns: of a table or series, where they have names.
        target_mean: (K,) of the training targets of a regression.
        target_std: (K,) likewise.
        resize: pixels of an image's shorter side, before its middle is cut out; just enough for
            the middle without.
        interpolation: how images are resized.
    """

    kind: str
    shape: tuple[int, ...]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    unit_range: bool = False
    columns: tuple[Column, ...] = ()
    target_mean: tuple[float, ...] = ()
    target_std: tuple[float, ...] = ()
    resize: int | None = None
    interpolation: str = "bilinear"

    @classmethod
    def of(cls, dataset: Dataset) -> Transform:
        """Return that of a data set, as it is trained on."""
        split, shape = dataset.test, dataset.input_shape
        kinds = {1: "table", 2: "series", 3: "images"}
        kind, unit = "samples", False
        mean: Sequence[float] | None = None
        std: Sequence[float] | None = None
        resize = split.resize if isinstance(split, FolderSplit) else None
        if isinstance(split, FolderSplit):
            kind, mean, std, unit = "images", split.mean, split.std, True
        elif isinstance(split, TensorSplit):
            kind, mean, std = kinds.get(len(shape), "samples"), split.mean, split.std
            unit = split.x.dtype == torch.uint8
        centre, spread = dataset.target_mean, dataset.target_std
        return cls(
            kind, tuple(shape), tuple(mean or ()), tuple(std or ()), unit,
            dataset.columns,
            () if centre is None else tuple(centre.tolist()),
            () if spread is None else tuple(spread.tolist()),
            resize, getattr(split, "interpolation", "bilinear"),
        )  # fmt: skip

    def __call__(self, raw: Tensor) -> Tensor:
        """Return raw samples (N, ...), bytes or floating, as the network takes them: float32."""
        split = TensorSplit(raw, torch.zeros(len(raw)), self.mean or None, self.std or None)
        return split._normalise(raw)

    def in_units(self, outputs: Tensor) -> Tensor:
        """Return a regression's outputs (N, K) in the targets' units, in float64."""
        values = outputs.double().reshape(len(outputs), -1)
        return values * self.scale + torch.tensor(self.target_mean, dtype=torch.float64)

    @property
    def scale(self) -> Tensor:
        """(K,) what a deviation of a regression's outputs is multiplied by, float64."""
        return torch.tensor(self.target_std, dtype=torch.float64)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of images."""
        return self.shape[1], self.shape[2]

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes as JSON can hold them."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Transform:
        """Return the transform of :meth:`to_dict`'s values.

        Raises:
            InputError: they are none.
        """
        try:
            columns = tuple(Column(c["name"], tuple(c["values"])) for c in values["columns"])
            others: dict[str, Any] = {
                name: tuple(value) if isinstance(value, list) else value
                for name, value in values.items()
                if name != "columns"
            }
            return cls(**others, columns=columns)
        except (KeyError, TypeError) as error:
            raise InputError(f"the run's transform is damaged: {error}") from error


def raw_samples(split: Split, count: int) -> Tensor:
    """Return a split's first samples as a :class:`Transform` takes them."""
    if isinstance(split, TensorSplit):
        return split.sized(split.x[:count])
    if isinstance(split, FolderSplit):
        size = (split.image_size, split.image_size)
        how = split.resize, split.interpolation
        return torch.stack([centred(decoded(path), size, *how) for path in split.paths[:count]])
    return next(iter(split.subset(torch.arange(min(count, len(split)))).batches(count)))[0]
