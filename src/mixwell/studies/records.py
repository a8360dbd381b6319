"""What finished and failed runs left in their folders."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mixwell.errors import InputError
from mixwell.training.files import read_json
from mixwell.training.run import is_finished, read_result

__all__ = ["RunRecord", "load_records", "read_record"]


@dataclass(frozen=True)
class RunRecord:
    """One run as it was left in its folder.

    Attributes:
        path: the folder.
        config: all that the run was made of.
        metrics: name to value; empty for a failed run.
        history: a row for each epoch.
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
    """

    path: Path
    config: dict[str, Any]
    metrics: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
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

    @property
    def label(self) -> str:
        """The method with its settings."""
        options = self.config.get("method_options") or {}
        settings = ", ".join(f"{key}={value}" for key, value in options.items())
        return f"{self.config['method']}({settings})" if settings else str(self.config["method"])

    @property
    def seed(self) -> int:
        """The seed."""
        return int(self.config["seed"])

    def predictions(self) -> dict[str, np.ndarray]:
        """Return val_logits, val_labels, test_logits, test_labels and test_features.

        The features are of the first 2,000 test samples at most. Empty where there are none.
        """
        path = self.path / "predictions.npz"
        if not path.is_file():
            return {}
        try:
            with np.load(path) as arrays:
                return {name: arrays[name] for name in arrays.files}
        except (OSError, ValueError) as error:
            raise InputError(f"{path} can't be read: {error}") from error


def read_record(folder: Path) -> RunRecord | None:
    """Return a folder's record; None where a run has neither ended nor failed."""
    if is_finished(folder):
        result = read_result(folder)
        known = {name: result[name] for name in RunRecord.__dataclass_fields__ if name in result}
        known["classes"] = tuple(known.get("classes", ()))
        return RunRecord(path=folder, **known)
    if (folder / "error.json").is_file():
        failure = read_json(folder / "error.json")
        return RunRecord(folder, failure["config"], status="failed", error=failure["error"])
    return None


def load_records(folders: str | Path | Iterable[Path]) -> list[RunRecord]:
    """Return the records of run folders, or of all that lie in one folder.

    Raises:
        InputError: there are none.
    """
    if isinstance(folders, (str, Path)):
        root = Path(folders)
        if not root.is_dir():
            raise InputError(f"{str(root)!r} is no folder")
        folders = [root, *sorted(path for path in root.iterdir() if path.is_dir())]
        found = [record for folder in folders if (record := read_record(folder))]
        if not found:
            raise InputError(f"{str(root)!r} holds no finished run")
        return found
    return [record for folder in folders if (record := read_record(folder))]
