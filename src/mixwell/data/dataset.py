"""A data set, split: what training and evaluation are handed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mixwell.data.inputs import as_record
from mixwell.data.splits import FolderSplit, Split, TensorSplit
from mixwell.data.tables import Column
from mixwell.errors import InputError

__all__ = ["Dataset"]


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set, split.

    Images are normalised, and tables, series and regression targets standardised, by the mean and
    standard deviation of the training split (folders of images by ImageNet's).

    Attributes:
        name: what :func:`mixwell.data.load` was asked for.
        task: "classification" or "regression".
        train: what is trained on.
        val: held out of the training data, for choosing and for fitting temperatures.
        test: used for nothing but the final measures.
        input_shape: of one sample.
        classes: the classes' names; empty in regression.
        superclasses: name to classes, for coarse-to-fine transfer, where the set has some.
        target_mean: (K,) regression targets are trained as (y - mean) / std of the training split.
        target_std: (K,), see ``target_mean``.
        target_largest: (K,) the largest absolute value of each regression target over all splits,
            in its own unit; 1 where all are 0.
        fine: the same samples in the same order with their fine classes, where ``classes`` are
            superclasses.
        unlabelled: training samples whose labels are not to be looked at.
        columns: of a table or series, where they have names: what inputs are made of, in their
            order.
        content: a line that tells them from other data of this name; None where the name does, or
            nothing is known.
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
    columns: tuple[Column, ...] = ()
    target_largest: Tensor | None = None
    content: str | None = None

    @property
    def num_classes(self) -> int | None:
        """C; None in regression."""
        return len(self.classes) or None

    @property
    def num_outputs(self) -> int:
        """The outputs that a model of this set needs."""
        return len(self.classes) or self.train.y[:1].numel()

    @property
    def input(self) -> dict[str, Any]:
        """What samples are made to before the network sees them, as a result keeps it.

        ``size``: of one sample. ``mean`` and ``std``: of each channel (of images in [0, 1]) or
        column; None where the data's own transforms see to it. ``resize``: the shorter side before
        the middle of that size is cut out of a file's image. ``interpolation``: how images are
        resized; None where they aren't.
        """
        split = self.train
        mean, std = getattr(split, "mean", None), getattr(split, "std", None)
        if isinstance(split, FolderSplit):
            resize = split.resize or split.image_size
            return as_record(self.input_shape, mean, std, resize, split.interpolation)
        enlarged = isinstance(split, TensorSplit) and split.size is not None
        how = split.interpolation if enlarged and isinstance(split, TensorSplit) else None
        return as_record(self.input_shape, mean, std, interpolation=how)

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
