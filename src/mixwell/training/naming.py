"""What identifies a run: the words that folders are called by, and the content of files."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mixwell.errors import InputError

__all__ = ["called", "content_digest", "digest", "files_of", "folder_name", "weights_file"]

_LONGEST = 150  # of a folder's name, in characters: file systems take 255 bytes


def called(data: str) -> str:
    """Return what a data set is called in a folder's name.

    >>> called("folder:DIR/photos"), called("digits")
    ('photos', 'digits')
    """
    return data.rstrip("/").split("/")[-1]


def digest(values: Mapping[str, Any]) -> str:
    """Return six letters that stand for these settings; none for none.

    >>> digest({}), digest({"lr": 0.1}) == digest({"lr": 0.2})
    ('', False)
    """
    if not values:
        return ""
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:6]


def files_of(config: Mapping[str, Any]) -> list[str]:
    """Return the files that a run's configuration names: a table, weights, people's doubt.

    >>> files_of({"data": "csv:houses.csv", "init": None, "people": None})
    ['houses.csv']
    """
    kind, _, rest = str(config.get("data", "")).partition(":")
    named = [rest if kind in ("csv", "parquet", "series") else None]
    named += [config.get("init"), config.get("people")]
    return [str(Path(name).expanduser()) for name in named if name]


def weights_file(init: str | Path) -> Path:
    """Return the file that holds the weights: itself, or ``model.pt`` of a run's folder.

    Raises:
        InputError: there is none.
    """
    path = Path(init).expanduser()
    if path.is_dir():
        if not (path / "model.pt").is_file():
            raise InputError(
                f"init={str(init)!r} is a folder without model.pt: name the folder of a finished "
                "run, or a file of weights"
            )
        return path / "model.pt"
    if not path.is_file():
        raise InputError(f"init={str(init)!r}: there is no such file")
    return path


def content_digest(path: Path) -> str:
    """Return twelve letters that stand for what a file holds.

    Raises:
        InputError: it can't be read.
    """
    try:
        seen = path.stat()
        return _content_digest(path, seen.st_mtime_ns, seen.st_size)
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}") from error


@functools.lru_cache(maxsize=64)
def _content_digest(path: Path, changed: int, size: int) -> str:
    """Digest a file once for as long as it stays as it is."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(2**20):
            found.update(part)
    return found.hexdigest()[:12]


def folder_name(*words: str | Iterable[str]) -> str:
    """Return words as a folder can be called; empty ones are left out, several joined by "+".

    >>> folder_name("digits", ["cnn", "mlp"], "", "sk_mixup+decoupled", "seed0")
    'digits-cnn+mlp-sk_mixup+decoupled-seed0'
    >>> folder_name("/a b", "mixup(alpha=0.2)")
    'a-b-mixup-alpha=0.2'
    """
    joined = [word if isinstance(word, str) else "+".join(word) for word in words]
    parts = [re.sub(r"[^\w+.=]+", "-", word).strip("-.") for word in joined]
    name = "-".join(part for part in parts if part)
    if len(name) > _LONGEST:
        name = f"{name[: _LONGEST - 7]}-{digest({'name': name})}"
    return name
