"""A run's course in other programs' logs, by Lightning's own loggers.

What is logged is the run's history, which its checkpoint holds: a run that goes on writes what its
log lacks, and no epoch twice. Logs on disk are written anew from the history then; a service's is
told which epochs it has in ``log/state.json``.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import uuid
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mixwell.errors import InputError
from mixwell.training.config import RunConfig, loggers_of
from mixwell.training.files import read_json, write_json

__all__ = ["Log", "check_available"]

_PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}

_FOLDER = "log"


def check_available(text: str | None) -> None:
    """Raise an InputError that says what to install for a logger that is asked for."""
    for name in loggers_of(text):
        package = _PACKAGES.get(name)
        if package is not None and not _has(package):
            raise InputError(f"log={name!r} needs {package}: pip install {package}")


def _has(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


class Log:
    """The logs of a run.

    Where a service can't be reached, training goes on with a warning; what it lacks is sent with
    the next epoch.

    Args:
        config: names the loggers, and is logged.
        folder: the run's.
        history: the rows of the epochs so far, to which the run adds.
        first: whether this is the process that logs.

    Raises:
        InputError: a logger can't begin.
    """

    def __init__(
        self, config: RunConfig, folder: Path, history: Sequence[Mapping[str, float]],
        first: bool = True,
    ) -> None:  # fmt: skip
        self.folder, self.history = folder / _FOLDER, history
        self.names = loggers_of(config.log) if first else ()
        self.loggers: dict[str, Any] = {}
        if not self.names:
            return
        self.folder.mkdir(exist_ok=True)
        self.path = self.folder / "state.json"
        self.state: dict[str, Any] = read_json(self.path) if self.path.is_file() else {}
        self.given = {
            name: value for name, value in config.to_dict().items()
            if name not in ("imports", "log") and value is not None
        }  # fmt: skip
        for name in self.names:
            begin = getattr(self, f"_{name}")
            try:
                self.loggers[name] = begin(config, folder.name)
                if name in ("wandb", "mlflow"):
                    self.loggers[name].log_hyperparams(self.given)
            except Exception as error:  # of any kind: it is a service's
                hint = "; WANDB_MODE=offline keeps it here" if name == "wandb" else ""
                raise InputError(f"log={name!r} can't begin: {error}{hint}") from error
        self._keep()
        self.epoch()

    # ------------------------------------------------------------------------------ the loggers

    def _csv(self, config: RunConfig, run: str) -> Any:
        from lightning.fabric.loggers.csv_logs import CSVLogger

        shutil.rmtree(self.folder / "csv", ignore_errors=True)  # all of it is in the history
        self.state["csv"] = {"epochs": 0}
        return CSVLogger(self.folder.parent, _FOLDER, "csv", flush_logs_every_n_steps=1)

    def _tensorboard(self, config: RunConfig, run: str) -> Any:
        from lightning.fabric.loggers.tensorboard import TensorBoardLogger

        shutil.rmtree(self.folder / "tensorboard", ignore_errors=True)
        self.state["tensorboard"] = {"epochs": 0}
        return TensorBoardLogger(
            self.folder.parent, _FOLDER, "tensorboard", default_hp_metric=False
        )  # fmt: skip

    def _wandb(self, config: RunConfig, run: str) -> Any:
        from lightning.pytorch.loggers import WandbLogger

        own = self.state.setdefault("wandb", {"id": uuid.uuid4().hex[:12], "epochs": 0})
        logger = WandbLogger(
            name=run, save_dir=self.folder, id=own["id"], resume="allow",
            project=os.environ.get("WANDB_PROJECT", "mixwell"),
        )  # fmt: skip
        _ = logger.experiment  # begins here, where it can still be said that it can't
        return logger

    def _mlflow(self, config: RunConfig, run: str) -> Any:
        from lightning.pytorch.loggers import MLFlowLogger

        own = self.state.setdefault("mlflow", {"epochs": 0})
        local = f"sqlite:///{(self.folder / 'mlflow.db').resolve()}"
        logger = MLFlowLogger(
            experiment_name=os.environ.get("MLFLOW_EXPERIMENT_NAME", "mixwell"), run_name=run,
            tracking_uri=os.environ.get("MLFLOW_TRACKING_URI") or local, run_id=own.get("id"),
            artifact_location=None if os.environ.get("MLFLOW_TRACKING_URI")
            else (self.folder / "mlflow").resolve().as_uri(),
        )  # fmt: skip
        known = own.get("id")
        own["id"] = logger.run_id
        if known:  # what it has counts, not what was kept of it
            there = logger.experiment.get_metric_history(known, "loss")
            own["epochs"] = max((metric.step for metric in there), default=0)
        return logger

    # ------------------------------------------------------------------------------ what is told

    def epoch(self) -> None:
        """Log the epochs that the history has and a log lacks."""
        for name, logger in self.loggers.items():
            try:
                for row in self.history[self.state[name]["epochs"] :]:
                    step = int(row["epoch"])
                    self._tell(name, {k: v for k, v in row.items() if k != "epoch"}, step)
                    self.state[name]["epochs"] = step
                logger.save()
            except Exception as error:  # of any kind: it is a service's
                warnings.warn(
                    f"log={name!r}: epoch {len(self.history)} could not be logged ({error}); it "
                    "is sent with the next", stacklevel=2,
                )  # fmt: skip
        if self.loggers:
            self._keep()

    def end(self, measures: Mapping[str, float]) -> None:
        """Log the final measures, as ``end/NAME``, and close the logs."""
        self.epoch()
        final = {f"end/{name}": value for name, value in measures.items()}
        for name, logger in self.loggers.items():
            try:
                if name == "tensorboard":
                    logger.log_hyperparams(self.given, final, step=len(self.history))
                else:
                    self._tell(name, final, len(self.history))
            except Exception as error:  # of any kind: it is a service's
                warnings.warn(
                    f"log={name!r}: the final measures could not be logged ({error}); they are in "
                    "result.json", stacklevel=2,
                )  # fmt: skip
        self.close("success")

    def close(self, status: str = "failed") -> None:
        """Close what is open; the same run may go on in it."""
        loggers, self.loggers = self.loggers, {}
        for name, logger in loggers.items():
            try:
                logger.finalize(status)
                if name == "wandb":
                    logger.experiment.finish(exit_code=0 if status == "success" else 1)
            except Exception as error:  # of any kind: it is a service's
                warnings.warn(f"log={name!r} could not be closed: {error}", stacklevel=2)

    def _tell(self, name: str, row: Mapping[str, float], step: int) -> None:
        if name == "wandb":  # which drops a step that it has
            self.loggers[name].experiment.log(dict(row), step=step)
        else:
            self.loggers[name].log_metrics(dict(row), step)

    def _keep(self) -> None:
        write_json(self.path, self.state)
