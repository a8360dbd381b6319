"""Loading a data set by name: read, split by the seed, made scarce, normalised."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mixwell import plugins
from mixwell.checks import check_choice
from mixwell.data import content
from mixwell.data.catalogue import SOURCES, WITH_PATH, Raw, Request, called_with
from mixwell.data.dataset import Dataset
from mixwell.data.division import choose, divide, long_tail_counts
from mixwell.data.inputs import Inputs
from mixwell.data.sampled import SampledSplit, raw_of
from mixwell.data.splits import FolderSplit, TensorSplit, check_at_least, seeded
from mixwell.errors import InputError, suggest

__all__ = ["is_plugged", "load", "takes"]


_TABLES = ("csv", "parquet", "hf")


def is_plugged(name: str) -> bool:
    """Whether a data set is named as MODULE:NAME."""
    return ":" in name and name.partition(":")[0] not in SOURCES


def takes(name: str, argument: str) -> bool:
    """Whether a data set is made by a function from outside that has this argument."""
    own = _own(name)
    return own is not None and bool(plugins.taken(own, {argument: None})[0])


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
    task: str | None = None,
    window: int = 24,
    horizon: int = 12,
    download: bool = False,
    image_size: int | None = None,
    workers: int = 2,
    inputs: Inputs | None = None,
) -> Dataset:
    """Return a data set by name, split into train, validation and test.

    The test split is the official one where there is one, else a fixed fifth; it doesn't depend
    on the seed. Validation is drawn from the training data by the seed, stratified by class, and
    before anything is made scarce: it stays as balanced as the data are. Series are split by time,
    60 : 20 : 20. The sets of UCI with published splits are tested on that of the seed's number.

    Args:
        name: one of :func:`available`; ``folder:PATH`` for a folder of images, ``csv:PATH`` and
            ``parquet:PATH`` for a table, ``hf:PATH`` for a folder that Hugging Face's datasets
            wrote, ``series:PATH`` for a multivariate time series; ``MODULE:NAME`` for a function
            that returns a :class:`Dataset`, a map-style dataset of torch's, or two of these: to
            train on and to test. It is given data_dir, download, seed, val_fraction and
            image_size where it takes them. Tensors (a TensorDataset) and real targets are
            normalised as all are; other samples are taken as their transforms leave them.
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
        target: the column that is predicted: of a table in a file the last by default, of ``hf:``
            that of classes, or what is called so; of a series all.
        task: of tables: "classification" takes numbers in the target for classes, "regression"
            takes nothing but numbers. Without one, text is classes and numbers are a regression.
        window: of a series, the steps that are seen.
        horizon: of a series, how many steps after them the predicted one comes.
        download: fetch the files into ``data_dir`` by torchvision, where it can.
        image_size: of ``folder:PATH`` and ``hf:PATH``, and of other images where ``inputs`` are
            given; theirs by default, or 224.
        workers: processes that decode the images of these two, or read your own samples.
        inputs: what images are made to, where a network that was trained on others expects it:
            size, mean and standard deviation. What your own transforms leave stays as it is.

    Raises:
        InputError: the name is unknown, files are missing, corrupt or truncated, or a size is
            out of range.
    """
    kind, _, rest = name.partition(":")
    own = _own(name)
    if not 0 < val_fraction < 1:
        raise InputError(f"val_fraction must be in (0, 1), got {val_fraction!r}")
    for argument, value in (
        ("train_size", train_size), ("largest_class", largest_class), ("shots", shots),
        ("labels", labels), ("window", window), ("horizon", horizon),
    ):  # fmt: skip
        if value is not None:
            check_at_least(argument, value, 1)
    if target is not None and kind not in (*_TABLES, "series", "exchange-rate"):
        raise InputError(f"target={target!r}: data={name!r} has no columns to choose from")
    if task is not None:
        check_choice("task", task, ("classification", "regression"))
        if kind not in _TABLES:
            raise InputError(f"task={task!r}: what data={name!r} is for is known")
    inputs = inputs and inputs.sized(image_size)
    size = inputs.size if inputs else image_size or 224
    given = data_dir if data_dir is not None else os.environ.get("MIXWELL_DATA")
    request = Request(
        Path(given) if given else None, download, size, workers, rest, target, task,
        window, horizon, seed,
    )  # fmt: skip
    if own is None:
        raw = SOURCES[kind][1](request)
    else:
        offered = {
            "data_dir": request.data_dir, "download": download, "seed": seed,
            "val_fraction": val_fraction, "image_size": size,
        }  # fmt: skip
        made, is_drawn = _made(name, own, offered)
        if isinstance(made, Dataset):
            _check_whole(
                name, train_size=train_size, imbalance=imbalance, shots=shots, labels=labels
            )
            if not is_drawn:
                made = replace(made, content=content.of_splits((made.train, made.val, made.test)))
            return _coarsened(made) if coarse else made
        raw = raw_of(name, made, workers)
        if not is_drawn:
            held = content.of_splits((raw.train, raw.test), repr(raw.classes))
            raw = replace(raw, content=held)
    _check_scarcity(
        name, raw, train_size=train_size, imbalance=imbalance, largest_class=largest_class,
        shots=shots, labels=labels, coarse=coarse or None,
    )  # fmt: skip
    train, val, test = divide(
        raw.train, raw.val, raw.test, raw.classes,
        val_fraction=val_fraction, train_size=train_size, seed=seed,
    )  # fmt: skip
    num_classes, unlabelled = len(raw.classes), None
    if imbalance is not None:
        there = int(torch.bincount(train.y, minlength=num_classes).min())
        kept = long_tail_counts(num_classes, largest_class or there, imbalance)
        why = f"imbalance={imbalance}"
        train = train.subset(choose(train.y, kept, seeded(seed, 13), why))
    if shots is not None:
        kept = [shots] * num_classes
        train = train.subset(choose(train.y, kept, seeded(seed, 14), f"shots={shots}"))
    if labels is not None:
        train, unlabelled = _labelled(train, labels, num_classes, seed)
    dataset = _prepared(name, raw, [train, val, test, unlabelled], inputs)
    dataset = replace(dataset, content=raw.content)
    return _coarsened(dataset) if coarse else dataset


def _own(name: str) -> Callable[..., Any] | None:
    """Return the function that makes a data set from outside; None for mixwell's own.

    Raises:
        InputError: there is neither.
    """
    if is_plugged(name):
        return plugins.find("data", name)[0]
    if name not in SOURCES and name in plugins.entries("data"):
        found: Callable[..., Any] = plugins.load_entry("data", name)
        return found
    _check_name(name)
    return None


def _made(name: str, function: Callable[..., Any], offered: dict[str, Any]) -> tuple[Any, bool]:
    """Return what a function from outside makes, under the name it was asked for by.

    And whether it takes the seed: what it makes then is another for each.
    """
    given = plugins.taken(function, offered)[0]
    try:
        made = function(**given)
    except InputError:
        raise
    except Exception as error:  # of any kind: it is somebody's code
        raise InputError(f"data={name!r} fails: {type(error).__name__}: {error}") from error
    if isinstance(made, Dataset):
        made = replace(made, name=name, content=None)
    return made, "seed" in given


def _check_whole(name: str, **asked: Any) -> None:
    """Raise an InputError where a data set that comes split is to be made scarce."""
    first = next((argument for argument, value in asked.items() if value is not None), None)
    if first:
        raise InputError(
            f"{first}: data={name!r} returns a Dataset, which is split already; let it return a "
            "dataset of torch's"
        )


def _check_name(name: str) -> None:
    kind, _, rest = name.partition(":")
    if kind not in SOURCES or bool(rest) != (kind in WITH_PATH):
        shown = [*map(called_with, SOURCES), "MODULE:NAME", *plugins.entries("data")]
        raise InputError(
            f"data={name!r} is unknown{suggest(kind, SOURCES)}; known: {', '.join(shown)}"
        )


def _check_scarcity(
    name: str, raw: Raw, *, train_size: int | None, imbalance: float | None,
    largest_class: int | None, **asked: Any,
) -> None:  # fmt: skip
    """Raise an InputError where what makes the data scarce doesn't fit them, or itself."""
    asked = {"imbalance": imbalance, **asked}
    first = next((argument for argument, value in asked.items() if value is not None), None)
    if first and not raw.classes:
        hint = "; task='classification' makes the target's numbers classes"
        raise InputError(
            f"{first}: data={name!r} is a regression: it has no classes"
            f"{hint if name.partition(':')[0] in _TABLES else ''}"
        )
    sizes = (imbalance, asked["shots"], train_size)
    if sum(value is not None for value in sizes) > 1:
        raise InputError("give one of train_size, imbalance and shots: each says what is kept")
    if imbalance is not None and not imbalance >= 1:
        raise InputError(f"imbalance must be 1 at least, got {imbalance!r}")
    if largest_class is not None and imbalance is None:
        raise InputError("largest_class says nothing without imbalance")


def _labelled(train: Any, labels: int, num_classes: int, seed: int) -> tuple[Any, Any]:
    """Return the samples that keep their labels, of each class as many, and the others."""
    if labels % num_classes or not num_classes <= labels < len(train):
        raise InputError(
            f"labels={labels} must be a multiple of the {num_classes} classes and fewer than "
            f"the {len(train)} training samples"
        )
    kept = [labels // num_classes] * num_classes
    chosen = choose(train.y, kept, seeded(seed, 15), f"labels={labels}")
    others = torch.ones(len(train), dtype=torch.bool)
    others[chosen] = False
    return train.subset(chosen), train.subset(others.nonzero()[:, 0])


def _prepared(name: str, raw: Raw, splits: list[Any], inputs: Inputs | None) -> Dataset:
    """Return the data set with its inputs and real targets normalised."""
    task = "classification" if raw.classes else "regression"
    train = splits[0]
    if isinstance(train, SampledSplit):
        train, val, test, unlabelled = splits
        shape = train.sample_shape
        return Dataset(name, task, train, val, test, shape, raw.classes, unlabelled=unlabelled)
    own: dict[str, Any] = {}
    if isinstance(train, FolderSplit):
        if inputs:
            own = {
                "mean": inputs.mean, "std": inputs.std, "resize": inputs.resize,
                "interpolation": inputs.interpolation,
            }  # fmt: skip
        train, val, test, unlabelled = (split and replace(split, **own) for split in splits)
        shape = (3, train.image_size, train.image_size)
        return Dataset(name, task, train, val, test, shape, raw.classes, unlabelled=unlabelled)
    shape = tuple(train.x.shape[1:])
    mean, std = _moments(train.x)
    if raw.classes:
        own = {"mean": mean, "std": std}
        if inputs and len(shape) == 3 and all(split.in_unit for split in splits if split):
            known = inputs.of_channels(shape[0])
            own = {
                "mean": known.mean, "std": known.std, "size": known.size,
                "interpolation": known.interpolation,
            }  # fmt: skip
            shape = (shape[0], known.size, known.size)
        train, val, test, unlabelled = (split and replace(split, **own) for split in splits)
        return Dataset(
            name, task, train, val, test, shape, raw.classes, raw.superclasses,
            unlabelled=unlabelled, columns=raw.columns,
        )  # fmt: skip
    y = train.y.double().reshape(len(train), -1)
    centre = y.mean(0)
    scale = _scale(centre, y.std(0, correction=0))

    def standardised(split: TensorSplit) -> TensorSplit:
        values = (split.y.double().reshape(len(split), -1) - centre) / scale
        return TensorSplit(split.x, values.reshape(split.y.shape).float(), mean, std)

    largest = torch.stack(
        [split.y.double().reshape(len(split), -1).abs().amax(0) for split in splits[:3]]
    ).amax(0)
    train, val, test = (standardised(split) for split in splits[:3])
    return Dataset(
        name, task, train, val, test, shape, target_mean=centre, target_std=scale,
        columns=raw.columns, target_largest=torch.where(largest == 0, 1.0, largest),
    )  # fmt: skip


def _moments(x: Tensor) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation over all but dimension 1; images in [0, 1]."""
    dims = [dim for dim in range(x.ndim) if dim != 1]
    count, size = x.numel() // x.shape[1], 255 if x.dtype == torch.uint8 else 1
    # In parts: a whole data set in float64 wouldn't fit where its bytes do.
    mean = sum(part.double().sum(dims) for part in x.split(4096)) / count
    shape = (-1, *[1] * (x.ndim - 2))
    squares = sum((part - mean.view(shape)).square().sum(dims) for part in x.split(4096))
    std = (squares / count).sqrt() / size
    return (mean / size).tolist(), _scale(mean / size, std).tolist()


def _scale(mean: Tensor, std: Tensor) -> Tensor:
    """Return what values are divided by: their deviation; 1 where they are all the same.

    A column that is constant in training may still vary in what is measured and predicted: a
    value of a text that is rare, say. Divided by next to nothing it would drown all others.
    """
    return torch.where(std <= 1e-12 * mean.abs(), 1.0, std)
