"""People: how often each test sample was named as each class."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mixwell.data import Dataset
from mixwell.errors import InputError
from mixwell.training.config import RunConfig
from mixwell.training.probes.subject import Findings, Subject

__all__ = ["load_people", "people"]

_KEY = "counts"


def load_people(dataset: Dataset, config: RunConfig) -> Tensor:
    """Return how many people named each class for each test sample: (N, C) float64.

    Raises:
        InputError: there is no such file, or it holds no counts of the test split's size and the
            classes' number; or what most people said is the label of less than half of the
            samples: they are in another order.
    """
    told = f"people={config.people!r}"
    if not isinstance(config.people, str):
        raise InputError(f"{told} must be the name of a file")
    if not dataset.classes:
        raise InputError(f"{told} needs classes, but data={dataset.name!r} is a regression")
    counts = _read(config)
    shape = (len(dataset.test), len(dataset.classes))
    if counts.shape != shape:
        raise InputError(
            f"{told} must hold counts of shape {shape}, one row for each test sample of "
            f"{dataset.name!r} and one column for each class, got {counts.shape}"
        )
    if counts.dtype.kind not in "iuf" or not (
        np.isfinite(counts).all() and (counts >= 0).all() and (counts % 1 == 0).all()
    ):
        raise InputError(f"{told} must hold whole numbers of people from 0 on")
    empty = int((counts.sum(1) == 0).sum())
    if empty:
        raise InputError(f"{told}: {empty} test samples were named by nobody")
    found = torch.from_numpy(counts.astype(np.float64))
    named = found.gather(1, dataset.test.y.cpu().long()[:, None])[:, 0] == found.amax(1)
    if named.double().mean() < 0.5:
        raise InputError(
            f"{told}: most people named the label of only {100 * named.double().mean():.0f} % of "
            "the test samples: its rows must be in the order of the test split, its columns in "
            "that of the classes"
        )
    return found


def _read(config: RunConfig) -> np.ndarray:
    """Return the array that is named "counts", or the only one, of the file."""
    assert config.people is not None
    told, path = f"people={config.people!r}", Path(config.people).expanduser()
    if not path.is_file():
        raise InputError(f"{told}: there is no such file")
    try:
        file = np.load(path, allow_pickle=False)
        if isinstance(file, np.ndarray):
            return file
        with file:
            names = file.files
            chosen = _KEY if _KEY in names else names[0] if len(names) == 1 else None
            if chosen is not None:
                return np.asarray(file[chosen])
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{told} can't be read as a .npz file of numbers: {error}") from error
    held = ", ".join(names) or "none"
    raise InputError(f"{told} must hold an array {_KEY!r}, or one alone, got {held}")


def people(subject: Subject, found: Findings) -> dict[str, Any]:
    """Return how people named the test samples, where a file says so."""
    if subject.config.people is None:
        return {}
    counts = load_people(subject.dataset, subject.config)
    found.arrays["people_counts"] = counts.numpy().astype(np.int64)
    return {"people": counts}
