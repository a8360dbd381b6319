"""What a finished or failed run left."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mixwell.errors import explained
from mixwell.training.config import RunConfig
from mixwell.training.files import Damaged, checked, set_aside

__all__ = ["REPORT_FILES", "RunRecord", "in_words", "key_of"]

REPORT_FILES = ("report.html", "results.csv", "results.json", "results.tex")
"""What a report writes into a study's folder."""

_WITHOUT = "Figures of its predictions are left out; without its folder the run is made again."


def key_of(value: Any) -> Hashable:
    """Return what tells a value of what varies from all others: it can be hashed, any value can't.

    >>> key_of({"width": 8}) == key_of({"width": 8.0}), key_of([1]) == key_of(True)
    (True, False)
    """
    if isinstance(value, Mapping):
        return "mapping", frozenset((name, key_of(inner)) for name, inner in value.items())
    if isinstance(value, (list, tuple)):
        return "list", tuple(map(key_of, value))
    return ("flag", value) if isinstance(value, bool) else value


def in_words(value: Any) -> str:
    """Return a value of what varies as parts are called by it.

    >>> in_words(100.0), in_words({"width": 8, "dropout": 0.5}), in_words(["layer1", "layer2"])
    ('100', 'width=8 dropout=0.5', 'layer1+layer2')
    """
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value or value != value else repr(value)
    if isinstance(value, Mapping):
        return " ".join(f"{name}={in_words(inner)}" for name, inner in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return "+".join(map(in_words, value)) or "none"
    return str(value)


@dataclass(frozen=True)
class RunRecord:
    """One run.

    Attributes:
        path: its folder.
        config: all that the run was made of.
        metrics: name to value; empty for a failed run.
        history: a row for each epoch.
        details: measures that take more than a number: by class, by corruption.
        seconds_per_step: median over epochs.
        seconds: of training.
        peak_memory_mb: of the GPU, or of the process.
        parameters: of the model.
        versions: of mixwell, torch and Python, and the device.
        command: the command line that started it.
        status: "done" or "failed".
        error: why it failed.
        task: "classification" or "regression".
        classes: the classes' names.
        train_samples: how many it was trained on.
        vary: what differs between the parts of its study, and its value here.
        label: the method, with the settings that it was asked for with.
        known_from: the results file that its measures were taken from, as the run's own folder is
            not here; empty where it is.
    """

    path: Path
    config: dict[str, Any]
    metrics: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    seconds_per_step: float = 0.0
    seconds: float = 0.0
    peak_memory_mb: float = 0.0
    parameters: int = 0
    versions: dict[str, str] = field(default_factory=dict)
    command: str = ""
    status: str = "done"
    error: str | None = None
    task: str = "classification"
    classes: tuple[str, ...] = ()
    train_samples: int = 0
    vary: dict[str, Any] = field(default_factory=dict)
    label: str = ""
    known_from: str = ""

    @classmethod
    def of(
        cls,
        path: Path,
        result: dict[str, Any] | None,
        config: dict[str, Any],
        error: str | None = None,
        vary: dict[str, Any] | None = None,
        label: str | None = None,
    ) -> RunRecord:
        """Return the record of a result, or of a failure where there is none."""
        own: dict[str, Any] = {
            "vary": vary or {}, "label": label or RunConfig.from_dict(config).label
        }  # fmt: skip
        if result is None:
            return cls(path, config, status="failed", error=error, **own)
        known = {name: result[name] for name in cls.__dataclass_fields__ if name in result}
        known["classes"] = tuple(known.get("classes", ()))
        return cls(**{"config": config, **known, "path": path, **own})

    @property
    def group(self) -> str:
        """What part of its study it belongs to, in words; empty where there are no parts."""
        words = []
        for name, value in self.vary.items():
            text = in_words(value)
            words.append(text if name == "data" else f"{name.replace('_', ' ')} {text}")
        return ", ".join(words)

    @property
    def seed(self) -> int:
        """The seed."""
        return int(self.config["seed"])

    def predictions(self) -> dict[str, np.ndarray]:
        """Return the arrays that the run left: logits and labels, features, and protocols' own.

        The features are of the first 2,000 test samples at most. Empty where there are none.
        """
        path = self.path / "predictions.npz"
        if not path.is_file():
            return {}
        try:
            with np.load(checked(path), allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        except Damaged as damage:
            set_aside(path, damage, _WITHOUT)
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            if isinstance(error, OSError) and explained(error) is not None:
                raise
            set_aside(path, Damaged(f"{path} can't be read: {error}"), _WITHOUT)
        return {}
