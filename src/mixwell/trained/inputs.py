"""What is predicted: images, tensors, tables, files or folders, as samples of a run's kind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mixwell.data.folders import image_files
from mixwell.data.splits import Batch, Split, TensorSplit, _stack, decoded, scaled
from mixwell.data.tables import read_rows
from mixwell.data.transform import Transform
from mixwell.errors import InputError

__all__ = ["Samples", "samples_of"]

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_BEYOND = {"bytes": 1e-3, "unit": 1.0}  # of [0, 1]: how far off floating images may be
_FEW = 256  # files that are not worth processes of their own


@dataclass(frozen=True)
class Samples:
    """What a network is run on.

    Attributes:
        split: the samples, as the network takes them; its targets say nothing.
        files: of each sample the file that it comes from; empty for what was no file.
        rows: of each its number in the file, from 1; 0 where a file is a sample.
    """

    split: Split
    files: Sequence[str] = ()
    rows: Sequence[int] = ()


def samples_of(transform: Transform, given: Any) -> Samples:
    """Return what is given as samples.

    Args:
        transform: of the run.
        given: see :meth:`TrainedRun.predict <mixwell.trained.TrainedRun.predict>`.

    Raises:
        InputError: it is none of these, or doesn't fit the run.
    """
    several = list(given) if isinstance(given, (list, tuple)) else [given]
    if not several:
        raise InputError("there is nothing to predict: the list is empty")
    found = _samples(transform, several)
    if len(found.split) == 0:
        raise _nothing(several[0])
    return found


def _nothing(given: Any) -> InputError:
    """Return the error of what holds no sample."""
    what = str(given) if isinstance(given, (str, Path)) else f"the {type(given).__name__}"
    return InputError(f"there is nothing to predict: {what} is empty")


def _samples(transform: Transform, several: list[Any]) -> Samples:
    """Return as samples what is given as a list."""
    if all(isinstance(one, (str, Path)) for one in several):
        paths = [Path(one).expanduser() for one in several]
        for path in paths:
            if not path.exists():
                raise InputError(f"{path}: there is no such file or folder")
        return _of_files(transform, paths)
    if all(_is_picture(one) for one in several):
        return Samples(_ImageFiles(several, transform))
    frames = [one for one in several if hasattr(one, "columns") and hasattr(one, "to_numpy")]
    if frames and len(frames) == len(several):
        return Samples(_split(transform, torch.cat([_of_frame(transform, f) for f in frames])))
    return Samples(_split(transform, _joined([_of_numbers(transform, one) for one in several])))


def _joined(parts: list[Tensor]) -> Tensor:
    """Return raw samples in one tensor: as bytes, or where these meet others, all in [0, 1]."""
    if any(part.dtype != torch.uint8 for part in parts):
        parts = [scaled(part) if part.dtype == torch.uint8 else part for part in parts]
    return torch.cat(parts)


# --------------------------------------------------------------------------------------- images


def _is_picture(one: Any) -> bool:
    from PIL import Image

    return isinstance(one, Image.Image)


def _check_pictures(transform: Transform) -> None:
    """Raise an InputError where a run can't be given files or images of Pillow's, which are bytes.

    They are taken where training's own values were bytes, or in [0, 1].
    """
    if transform.kind == "samples":
        raise InputError(
            "the run's samples come from a data set's own transforms, which a file doesn't pass: "
            "give tensors, as the data set returns them"
        )
    if transform.kind != "images":
        raise InputError(f"this run predicts rows of a {transform.kind}, not images")
    if transform.encoding == "numbers":
        raise _unscaled("images", "files and Pillow's images")


def _unscaled(samples: str, given: str) -> InputError:
    """Return the error of bytes where nothing says what they are in training's units."""
    return InputError(
        f"this run's {samples} are not in [0, 1], so that nothing says how {given} are scaled: "
        "give tensors as the data set returns them"
    )


class _ImageFiles(Split, Dataset[Any]):
    """Image files, or images of Pillow's, decoded when they are needed."""

    def __init__(self, sources: Sequence[Any], transform: Transform) -> None:
        _check_pictures(transform)
        channels = transform.shape[0]
        if channels not in _MODES:
            raise InputError(
                f"the run's images have {channels} channels, image files 1, 3 or 4: give tensors"
            )
        self.sources, self.transform = sources, transform
        self.mode = _MODES[channels]
        self.y = torch.zeros(len(sources), dtype=torch.int64)

    def subset(self, indices: Tensor) -> _ImageFiles:
        return _ImageFiles([self.sources[i] for i in indices.tolist()], self.transform)

    def __getitem__(self, place: int) -> Tensor | InputError:
        try:
            return self.transform.fitted(decoded(self.sources[place], self.mode))
        except InputError as error:
            return error

    def _read(
        self, parts: Sequence[Tensor], key: tuple[int, ...] | None, device: torch.device
    ) -> Iterator[Batch]:
        loader: DataLoader[Any] = DataLoader(
            self,
            batch_sampler=[part.tolist() for part in parts],
            collate_fn=_stack,
            num_workers=0 if len(self) <= _FEW else 2,
            generator=torch.Generator(),
        )
        for part, images in zip(parts, loader, strict=True):
            if isinstance(images, InputError):
                raise images
            yield self.transform(images.to(device)), self.y[part].to(device), part.to(device)


# --------------------------------------------------------------------------------------- files


def _of_files(transform: Transform, paths: Sequence[Path]) -> Samples:
    if transform.kind in ("images", "samples"):
        _check_pictures(transform)
        files = [
            file for path in paths for file in (image_files(path) if path.is_dir() else [path])
        ]
        return Samples(_ImageFiles(files, transform), list(map(str, files)), [0] * len(files))
    parts: list[Tensor] = []
    names: list[str] = []
    rows: list[int] = []
    for path in paths:
        if path.is_dir():
            raise InputError(f"{path} is a folder; this run predicts rows of tables: name files")
        columns = [column.name for column in transform.columns] or None
        # Names stand above a table; where there are none, that is found out.
        header = True if columns and transform.kind == "table" else None
        numbered = columns == [str(i) for i in range(len(columns or ()))]
        named = None if numbered and transform.kind == "series" else columns
        part = _of_frame(transform, read_rows(path, named, header), str(path))
        parts.append(part)
        names += [str(path)] * len(part)
        # Of a window, the last row that is seen.
        first = 1 if transform.kind == "table" else transform.shape[1]
        rows += range(first, first + len(part))
    return Samples(_split(transform, torch.cat(parts)), names, rows)


def _of_frame(transform: Transform, frame: Any, name: str = "the table") -> Tensor:
    """Return a table's rows (N, F), or a series' windows (N, V, W), in float64."""
    import numpy as np

    if transform.kind not in ("table", "series"):
        raise InputError(f"this run predicts {transform.kind}, not tables")
    names = {str(column): column for column in frame.columns}
    parts = []
    for column in transform.columns:
        if column.name not in names:
            known = ", ".join(c.name for c in transform.columns)
            raise InputError(f"{name} lacks the column {column.name!r}; it must have {known}")
        parts += _inputs(frame[names[column.name]], column.name, column.values, name)
    if not transform.columns:
        parts = [
            part
            for label, own in names.items()
            for part in _inputs(frame[own], label, (), name)
        ]  # fmt: skip
    found = torch.from_numpy(np.stack(parts, 1))
    width = transform.shape[0]
    if found.shape[1] != width:
        raise InputError(f"{name} must have {width} columns of numbers, it has {found.shape[1]}")
    _check_range(transform, found, name)
    if transform.kind == "table":
        return found
    steps = transform.shape[1]
    if len(found) < steps:
        raise InputError(f"{name} has {len(found)} rows, fewer than the window of {steps}")
    return found.unfold(0, steps, 1)


def _inputs(values: Any, column: str, known: Sequence[str], name: str) -> list[Any]:
    """Return a column of numbers, or one of 0 and 1 for each value of a column of text."""
    import numpy as np
    import pandas as pd

    if known:
        text = values.astype(str).str.strip()
        strange = ~text.isin(known)
        if strange.any():
            row = int(strange.to_numpy().argmax())
            raise InputError(
                f"{name}, row {row + 1}: {column}={text.iloc[row]!r} was not among the training "
                f"data's values: {', '.join(known[:10])}{', …' if len(known) > 10 else ''}"
            )
        return [(text == value).to_numpy().astype(np.float64) for value in known]
    numbers = pd.to_numeric(values, errors="coerce").to_numpy().astype(np.float64)
    if not np.isfinite(numbers).all():
        row = int((~np.isfinite(numbers)).argmax())
        raise InputError(f"{name}, row {row + 1}: {column}={values.iloc[row]!r} is no number")
    return [numbers]


# --------------------------------------------------------------------------------------- tensors


def _split(transform: Transform, raw: Tensor) -> TensorSplit:
    targets = torch.zeros(len(raw), dtype=torch.int64)
    return TensorSplit(raw, targets, transform.mean or None, transform.std or None)


def _of_numbers(transform: Transform, given: Any) -> Tensor:
    """Return what is no file as a batch of the run's samples: bytes in [0, 255], or floating."""
    if _is_picture(given):
        picture = _ImageFiles([given], transform)[0]
        if isinstance(picture, InputError):
            raise picture
        return picture[None]
    try:
        raw = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError) as error:
        what = "image" if transform.kind == "images" else "sample"
        raise InputError(f"a {type(given).__name__} is no {what} that can be predicted") from error
    shape = transform.shape
    if raw.ndim == len(shape):
        raw = raw[None]
    if raw.ndim != len(shape) + 1:
        raise InputError(
            f"a sample of this run has shape {shape}, a batch one dimension more; got "
            f"{tuple(raw.shape)}"
        )
    if raw.numel() == 0:
        raise _nothing(given)
    if transform.kind == "images":
        return _checked_images(transform, raw)
    if tuple(raw.shape[1:]) != shape:
        raise InputError(f"a sample of this run has shape {shape}, got {tuple(raw.shape[1:])}")
    return _in_its_units(transform, raw, transform.kind == "samples")


def _checked_images(transform: Transform, raw: Tensor) -> Tensor:
    channels = transform.shape[0]
    if raw.shape[1] != channels:
        hint = ""
        if raw.shape[-1] == channels:
            hint = "; the channels stand last: permute(0, 3, 1, 2) puts them where they belong"
        raise InputError(
            f"images must have {channels} channel{'s' if channels != 1 else ''}, (N, {channels}, "
            f"H, W), got {raw.shape[1]} in shape {tuple(raw.shape)}{hint}"
        )
    return transform.fitted(_in_its_units(transform, raw, True))


def _in_its_units(transform: Transform, raw: Tensor, bytes_are_pixels: bool) -> Tensor:
    """Return raw values as training took them: bytes where these are scaled to [0, 1], or floating.

    Args:
        transform: of the run.
        raw: (N, ...) of any real dtype.
        bytes_are_pixels: and no numbers where training's own values were none in [0, 1].
    """
    samples = "images" if transform.kind == "images" else "samples"
    if raw.is_complex():
        raise InputError(f"{samples} must be real numbers, got {raw.dtype}")
    if transform.encoding == "numbers":
        if raw.dtype == torch.uint8 and bytes_are_pixels:
            raise _unscaled(samples, "bytes")
        return raw if raw.is_floating_point() else raw.double()
    if raw.dtype != torch.uint8 and not raw.is_floating_point():
        raise InputError(f"{samples} must be bytes or floating in [0, 1], got {raw.dtype}")
    if raw.dtype != torch.uint8:
        _check_range(transform, raw, f"floating {samples}")
    return raw


def _check_range(transform: Transform, raw: Tensor, name: str) -> None:
    """Raise an InputError where floating values are not those of a run whose own are in [0, 1]."""
    beyond = _BEYOND.get(transform.encoding)
    if beyond is None or raw.numel() == 0:
        return
    low, high = (float(value) for value in raw.aminmax())
    if not (low >= -beyond and high <= 1 + beyond):
        raise InputError(
            f"{name} must be raw, in [0, 1], got {low:.4g} to {high:.4g}; the run normalises them "
            "itself"
        )
