"""Folders of images: which of their files are images, and what their sub-folders stand for."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mixwell.errors import InputError, say

__all__ = ["IMAGES", "Found", "image_files", "read_folder"]

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif")
_SPLITS = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
"""What sub-folders of splits are called, in any case of letters."""
_SYSTEM = ("thumbs.db", "desktop.ini")


@dataclass(frozen=True)
class Found:
    """What a folder of images holds.

    Attributes:
        parts: image files and their classes (N,), by what they are used for: "train", and "val"
            and "test" where they are.
        classes: their names.
    """

    parts: Mapping[str, tuple[list[Path], Tensor]]
    classes: tuple[str, ...]


# ----------------------------------------------------------------------------------------- files


def image_files(folder: Path) -> list[Path]:
    """Return the image files below a folder, sorted, for training and for prediction alike.

    Hidden ones and those of ``__MACOSX`` are left out. How many files are none by their ending is
    said.

    Raises:
        InputError: there is none; one is a link to nothing; a folder can't be read.
    """
    others: Counter[str] = Counter()
    found = _images(folder, others)
    if not found:
        raise InputError(f"{folder} holds no images ({', '.join(IMAGES)}){_shown(others, '; ')}")
    _tell(folder, others)
    return found


def _images(folder: Path, others: Counter[str]) -> list[Path]:
    """Return the image files below a folder, sorted; the endings of other files are counted."""
    found = []
    for path, is_file in _walk(folder):
        if path.suffix.lower() not in IMAGES:
            others.update([path.suffix.lower()] if path.name.lower() not in _SYSTEM else [])
        elif is_file:
            found.append(path)
        else:
            raise InputError(
                f"{path} is a link to what is not there, or no file: remove it, or put the image "
                "there"
            )
    return sorted(found)


def _walk(folder: Path, above: tuple[str, ...] = ()) -> Iterator[tuple[Path, bool]]:
    """Yield what lies below a folder and is no folder, and whether it is a file."""
    real = os.path.realpath(folder)
    if real in above:  # a link to where we come from
        return
    for entry in _visible(folder):
        if entry.is_dir():
            yield from _walk(folder / entry.name, (*above, real))
        else:
            yield folder / entry.name, entry.is_file()


def _visible(folder: Path) -> list[os.DirEntry[str]]:
    """Return a folder's entries but for hidden ones and what macOS puts into archives."""
    try:
        with os.scandir(folder) as entries:
            return [e for e in entries if not e.name.startswith(".") and e.name != "__MACOSX"]
    except OSError as error:
        raise InputError(f"{folder} can't be read: {error.strerror}") from error


def _tell(folder: Path, others: Counter[str]) -> None:
    """Say how many files were left out for their ending."""
    if others:
        say(f"{folder}: {_shown(others)}; images are {', '.join(IMAGES)}: convert what is to count")


def _shown(others: Counter[str], before: str = "") -> str:
    """Return in words how many files have which other endings; nothing where there are none."""
    if not others:
        return ""
    kinds = ", ".join(f"{count} {ending or 'without'}" for ending, count in others.most_common(5))
    count = sum(others.values())
    verb = "is" if count == 1 else "are"
    return f"{before}{count} file{'s' * (count > 1)} {verb} left out by the ending ({kinds})"


# ---------------------------------------------------------------------------------------- layout


def read_folder(root: Path) -> Found:
    """Return the images of a folder: a sub-folder a class, or splits that hold these.

    Splits are called train, val and test, or as is usual for these. Where there is no test, val is
    the test split, as ImageNet is used.

    Raises:
        InputError: there is no such folder, or what its sub-folders are can't be told.
    """
    if not root.is_dir():
        raise InputError(f"data='folder:{root}': there is no such folder")
    others: Counter[str] = Counter()
    splits = _splits(root)
    if not splits:
        _refuse_unnamed_splits(root)
        paths, labels, classes = _classes(root, others)
        _tell(root, others)
        return Found({"train": (paths, labels)}, classes)
    parts: dict[str, tuple[list[Path], Tensor]] = {}
    known: tuple[str, ...] = ()
    for part in ("train", "val", "test"):
        if part not in splits:
            continue
        paths, labels, classes = _classes(splits[part], others)
        known = known or classes
        if classes != known:
            raise InputError(
                f"{splits[part]} has other classes than {splits['train']}: "
                f"{sorted(set(classes) ^ set(known))}"
            )
        parts[part] = paths, labels
    if "test" not in parts and "val" in parts:
        parts["test"] = parts.pop("val")
        say(
            f"{root} has no test: {splits['val'].name} is the test split, and validation is taken "
            f"out of {splits['train'].name}"
        )
    _tell(root, others)
    return Found(parts, known)


def _folders(root: Path) -> list[Path]:
    return sorted(root / entry.name for entry in _visible(root) if entry.is_dir())


def _splits(root: Path) -> dict[str, Path]:
    """Return the folders of splits by what they are used for; none where there are classes.

    Raises:
        InputError: two are for the same, or "train" may be a class.
    """
    folders = _folders(root)
    found: dict[str, Path] = {}
    for folder in folders:
        part = _SPLITS.get(folder.name.lower())
        if part is not None and part in found and _folders(folder) and _folders(found[part]):
            raise InputError(
                f"{root} holds {found[part].name} and {folder.name}, which both stand for the "
                f"split {part}: join or rename one"
            )
        if part is not None:
            found.setdefault(part, folder)
    if "train" not in found:
        return {}
    others = [folder.name for folder in folders if folder.name.lower() not in _SPLITS]
    if others and not _folders(found["train"]):
        return {}  # a class that is called so, among others
    if others and len(found) == 1:
        raise InputError(
            f"{root} holds {found['train'].name} beside {', '.join(others[:5])}: "
            f"{found['train'].name} may be the split to train on or a class; rename it, or move "
            "the others away"
        )
    if others:
        say(f"{root}: {', '.join(others[:5])} is no split (train, val, test) and is left out")
    return found


def _refuse_unnamed_splits(root: Path) -> None:
    """Raise an InputError where all classes hold the same sub-folders, as splits do."""
    inner = [
        {entry.name for entry in _visible(folder) if entry.is_dir()} for folder in _folders(root)
    ]
    if len(inner) > 1 and len(inner[0]) > 1 and all(names == inner[0] for names in inner):
        names = ", ".join(folder.name for folder in _folders(root)[:5])
        raise InputError(
            f"data='folder:{root}': {names} hold the same sub-folders "
            f"({', '.join(sorted(inner[0])[:5])}): if these are the classes, call the splits "
            "train, val and test; else put each class's images into its folder"
        )


def _classes(root: Path, others: Counter[str]) -> tuple[list[Path], Tensor, tuple[str, ...]]:
    """Return the images below a folder, their classes and the names of its sub-folders."""
    folders = _folders(root)
    if len(folders) < 2:
        raise InputError(
            f"data='folder:{root}' must hold one sub-folder a class, two or more, it holds "
            f"{len(folders)}"
        )
    paths, labels = [], []
    for label, folder in enumerate(folders):
        own: Counter[str] = Counter()
        found = _images(folder, own)
        if not found:
            raise InputError(
                f"{folder} holds no images ({', '.join(IMAGES)}): each class needs some"
                f"{_shown(own, '; ')}"
            )
        others += own
        paths += found
        labels += [label] * len(found)
    return paths, torch.tensor(labels), tuple(folder.name for folder in folders)
