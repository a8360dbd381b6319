"""What a data set holds, as a line that is kept with a run: other data have another line."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mixwell.data.splits import FolderSplit, TensorSplit

__all__ = ["line_of", "of_files", "of_splits"]

_PIECE = 4096  # samples: windows of a series take more room as bytes than as they lie


def line_of(count: int, parts: Iterable[Tensor | str]) -> str:
    """Return the line of so many samples that are made of these tensors and words."""
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            found.update(f"{len(part)} {part}".encode("utf-8", "surrogateescape"))
            continue
        found.update(f"{part.dtype} {tuple(part.shape)}".encode())
        for piece in part.detach().cpu().split(_PIECE) if part.ndim else (part.detach().cpu(),):
            found.update(piece.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return f"{count:,} samples, {found.hexdigest()[:12]}"


def of_files(root: Path, paths: Sequence[Path]) -> list[str]:
    """Return files as :func:`line_of` takes them: where they lie below a folder, and their size."""
    return [f"{path.relative_to(root).as_posix()} {path.stat().st_size}" for path in paths]


def of_splits(splits: Iterable[Any], *words: str) -> str:
    """Return the line of splits; of samples that are read when they are needed, by their targets.

    Args:
        splits: those that are there; None for one that isn't.
        words: what else makes it the data that it is.
    """
    parts: list[Tensor | str] = list(words)
    count = 0
    for place, split in enumerate(splits):
        if split is None:
            continue
        count += len(split)
        parts += [f"split {place}", split.y]
        if isinstance(split, TensorSplit):
            parts.append(split.x)
        elif isinstance(split, FolderSplit):
            parts += [path.name for path in split.paths if isinstance(path, Path)]
    return line_of(count, parts)
