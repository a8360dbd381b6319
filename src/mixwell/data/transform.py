"""How raw inputs become what a network takes, as a value that is kept with a run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from mixwell.data.dataset import Dataset
from mixwell.data.sampled import SampledSplit
from mixwell.data.splits import (
    FolderSplit,
    Split,
    TensorSplit,
    centred,
    decoded,
    scaled,
    stretched,
)
from mixwell.data.tables import Column
from mixwell.errors import InputError

__all__ = ["Column", "Transform", "raw_samples"]


@dataclass(frozen=True)
class Transform:
    """What a run does to its inputs, and how its outputs are in the target's unit.

    Raw images are of the run's size, and what training took them for (``encoding``); of tables and
    series they are the numbers as they stand in the file, a column of text as one 0 or 1 for each
    value.

    Attributes:
        kind: "images"; "table"; "series"; or "samples", as a data set's own transforms leave them.
        shape: of one sample: (C, H, W), (F,) or (V, W).
        mean: of each channel (column, variable), which is subtracted; empty where nothing is.
        std: of each, which it is then divided by.
        unit_range: whether raw values are in [0, 1].
        encoding: what training's own raw values were. "bytes", which are divided by 255: floating
            ones are in [0, 1] then. "unit": floating in [0, 1], to which bytes are scaled.
            "numbers": in units of their own, of which bytes say nothing.
        columns: of a table or series, where they have names.
        target_mean: (K,) of the training targets of a regression.
        target_std: (K,) likewise.
        resize: pixels of an image's shorter side, before its middle is cut out; just enough for
            the middle without.
        interpolation: how images are resized.
        source: height and width of training's own images where these were stretched to the run's
            size; empty where they weren't.
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
    encoding: str = ""
    source: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.encoding:  # of a version that didn't keep it
            known = "bytes" if self.unit_range else "unit" if self._may_be_unit else "numbers"
            object.__setattr__(self, "encoding", known)

    @property
    def _may_be_unit(self) -> bool:
        """Whether they are images whose mean and deviation values in [0, 1] can have."""
        if self.kind != "images" or not self.mean:
            return False
        pairs = zip(self.mean, self.std, strict=True)
        return all(0 <= m <= 1 and s * s <= m - m * m + 1e-6 for m, s in pairs)

    @classmethod
    def of(cls, dataset: Dataset) -> Transform:
        """Return that of a data set, as it is trained on."""
        split, shape = dataset.test, dataset.input_shape
        kinds = {1: "table", 2: "series", 3: "images"}
        kind, encoding = "samples", "numbers"
        source: tuple[int, ...] = ()
        mean: Sequence[float] | None = None
        std: Sequence[float] | None = None
        resize = split.resize if isinstance(split, FolderSplit) else None
        if isinstance(split, FolderSplit):
            kind, mean, std, encoding = "images", split.mean, split.std, "bytes"
        elif isinstance(split, TensorSplit):
            kind, mean, std = kinds.get(len(shape), "samples"), split.mean, split.std
            encoding = _encoding_of(dataset, split.x)
            if split.size is not None and tuple(split.x.shape[2:]) != tuple(shape[1:]):
                source = tuple(split.x.shape[2:])
        elif isinstance(split, SampledSplit) and split.in_bytes:
            encoding = "bytes"
        centre, spread = dataset.target_mean, dataset.target_std
        return cls(
            kind, tuple(shape), tuple(mean or ()), tuple(std or ()), encoding != "numbers",
            dataset.columns,
            () if centre is None else tuple(centre.tolist()),
            () if spread is None else tuple(spread.tolist()),
            resize, getattr(split, "interpolation", "bilinear"), encoding, source,
        )  # fmt: skip

    def __call__(self, raw: Tensor) -> Tensor:
        """Return raw samples (N, ...), bytes or floating, as the network takes them: float32."""
        split = TensorSplit(raw, torch.zeros(len(raw)), self.mean or None, self.std or None)
        return split._normalise(raw)

    def fitted(self, images: Tensor) -> Tensor:
        """Return raw images (..., C, H, W) of any size as large as the run's.

        What is of the size of training's own images comes out as it did there.
        """
        if not self.source:
            return centred(images, self.size, self.resize, self.interpolation)
        found = scaled(images)
        if tuple(images.shape[-2:]) == self.size:
            return found
        (high, wide), (height, width) = images.shape[-2:], self.source
        # The middle that has the shape of training's images.
        rows = min(high, max(1, round(wide * height / width)))
        columns = min(wide, max(1, round(high * width / height)))
        top, left = (high - rows) // 2, (wide - columns) // 2
        found = found[..., top : top + rows, left : left + columns]
        many = found.reshape(-1, *found.shape[-3:])
        return stretched(many, self.size, self.interpolation).view(*found.shape[:-2], *self.size)

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


def _encoding_of(dataset: Dataset, x: Tensor) -> str:
    """Return what the raw values of a data set in memory are; see :class:`Transform`."""
    if x.dtype == torch.uint8:
        return "bytes"
    if x.ndim < 4 or not x.is_floating_point():  # rows of numbers, in whatever units
        return "numbers"
    splits = [s for s in (dataset.train, dataset.val, dataset.test) if isinstance(s, TensorSplit)]
    return "unit" if all(split.in_unit for split in splits) else "numbers"


def raw_samples(split: Split, count: int) -> Tensor:
    """Return a split's first samples as a :class:`Transform` takes them."""
    if isinstance(split, TensorSplit):
        return split.sized(split.x[:count])
    if isinstance(split, FolderSplit):
        size = (split.image_size, split.image_size)
        how = split.resize, split.interpolation
        return torch.stack([centred(decoded(path), size, *how) for path in split.paths[:count]])
    return next(iter(split.subset(torch.arange(min(count, len(split)))).batches(count)))[0]
