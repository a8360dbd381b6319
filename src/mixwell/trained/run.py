"""Loading a finished run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mixwell import models, plugins
from mixwell.data import is_plugged
from mixwell.data.splits import Split
from mixwell.data.transform import Transform
from mixwell.errors import InputError
from mixwell.trained.inputs import samples_of
from mixwell.training.build import load_data
from mixwell.training.config import RunConfig
from mixwell.training.files import checked
from mixwell.training.predict import predict
from mixwell.training.probes.uncertainty import dropped, has_dropout
from mixwell.training.remade import REASON, kept_of, remade, strays
from mixwell.training.result import is_finished, read_result

__all__ = ["Estimate", "TrainedRun", "load_run"]


class Estimate(NamedTuple):
    """A regression's predictions.

    Attributes:
        mean: (N, K) in the targets' units.
        std: (N, K) calibrated standard deviations in these units; None where the network has no
            dropout to draw them from.
    """

    mean: Tensor
    std: Tensor | None


@dataclass(frozen=True, eq=False)
class TrainedRun:
    """A finished run, ready to predict.

    Attributes:
        folder: of the run.
        network: in evaluation mode, on ``device``.
        transform: what is done to raw inputs before the network sees them.
        classes: their names, in the order of the probabilities; empty in regression.
        temperature: that logits are divided by, fitted on validation data; 1 in regression.
        variance_scale: what MC-dropout's deviations are multiplied by, likewise.
        config: what the run was made of.
        metrics: of the test split.
        device: where the network is.
    """

    folder: Path
    network: nn.Module
    transform: Transform
    classes: tuple[str, ...]
    temperature: float
    variance_scale: float
    config: RunConfig
    metrics: dict[str, float]
    device: torch.device

    def predict(self, inputs: Any, *, batch_size: int = 512) -> Tensor | Estimate:
        """Return calibrated probabilities (N, C); in regression, an :class:`Estimate`.

        Args:
            inputs: an image of Pillow's; a tensor or array, bytes or floating, of one sample or a
                batch (of images (C, H, W) or (N, C, H, W)); a path to an image file, to a folder
                of them, or to a table; a pandas DataFrame; or a list of one of these. Raw: images
                in [0, 1] or bytes, tables and series in the units of the training file. Images of
                another size are resized and cropped in the centre. A series' table is predicted
                from each of its windows.
            batch_size: samples at a time.

        Raises:
            InputError: they don't fit what the run was trained on, or a file can't be read.
        """
        return self.predict_split(samples_of(self.transform, inputs).split, batch_size=batch_size)

    def outputs(self, inputs: Any, *, batch_size: int = 512) -> Tensor:
        """Return the network's own outputs (N, C): logits, or standardised values in regression.

        Args:
            inputs: as of :meth:`predict`, like ``batch_size`` and errors.
            batch_size: see ``inputs``.
        """
        split = samples_of(self.transform, inputs).split
        return predict(self.network, split, self.device, batch_size=batch_size)[0]

    def predict_split(self, split: Split, *, batch_size: int = 512) -> Tensor | Estimate:
        """Return the predictions of a split, whose inputs are as the network takes them."""
        if not self.classes and has_dropout(self.network):
            passes = self.config.mc_samples
            mean, std, _ = dropped(self.network, split, self.device, passes, batch_size)
            scaled = self.variance_scale * std * self.transform.scale
            return Estimate(self.transform.in_units(mean), scaled)
        outputs = predict(self.network, split, self.device, batch_size=batch_size)[0]
        found = self.calibrated(outputs)
        return found if self.classes else Estimate(found, None)

    def calibrated(self, outputs: Tensor) -> Tensor:
        """Return the network's outputs (N, C) as probabilities; in regression, in units (N, K)."""
        if not self.classes:
            return self.transform.in_units(outputs)
        return (outputs.double() / self.temperature).softmax(1).float()


def load_run(
    folder: str | Path, *, device: str | torch.device = "cpu", trust: bool = False
) -> TrainedRun:
    """Return a finished run, ready to predict.

    Nothing that a folder holds is executed unasked. A network from outside (``MODULE:NAME``) is
    made by its module where this process has imported that already: the run's own text of it, or
    by mixwell (``--import``, :func:`mixwell.plugins.load`). Otherwise it takes ``trust``.

    Args:
        folder: of ``mixwell train``, or one of a study's.
        device: where the network is put.
        trust: import all that the run imported, of the source that it keeps, which can do
            whatever you can: read it first (``imports`` in config.json).

    Raises:
        InputError: it holds no finished run, or something of it is damaged; it needs code that is
            not here, and is not trusted; the network answers otherwise than when the run ended, on
            the few test samples that were kept (runs of versions that kept none are not checked).
    """
    root = Path(folder).expanduser()
    result = _result(root)
    config = RunConfig.from_dict(result["config"])
    plugins.load_installed()
    if trust:
        plugins.revive(config.imports)
    else:
        remedy = "read it (imports in its config.json) and trust it: trust=True (--trust)"
        needed, whose = _needed(result, config), f"the run in {str(root)!r}"
        plugins.recognise(config.imports, needed, whose, remedy)
    transform = _transform(root, result, config)
    classes = tuple(result.get("classes", ()))
    place = _device(device)
    network = _network(root, config, transform, len(classes)).to(place).eval()
    kept = kept_of(root)
    if kept is not None and strays(network, transform, kept, place):
        raise InputError(
            f"{str(root)!r}: the network {config.model!r}, as it is made here, answers otherwise "
            f"than when the run ended, on {len(kept.raw)} test samples that it kept: {REASON}; "
            "keep all of it with register_buffer and train again, or load it with the versions "
            "that it was trained with"
        )
    metrics = dict(result["metrics"])
    return TrainedRun(
        root, network, transform, classes,
        _positive(metrics.get("temperature")), _positive(metrics.get("variance_scale")),
        config, metrics, place,
    )  # fmt: skip


def _needed(result: dict[str, Any], config: RunConfig) -> list[str]:
    """Return the modules without which a run can't be loaded."""
    named = [config.model or ""] if models.is_plugged(config.model or "") else []
    if "transform" in result:
        return [name.partition(":")[0] for name in named]
    # Of a version that kept none: its data are loaded, and with them all that it imported.
    named += [config.data] if is_plugged(config.data) else []
    others = [record["module"] for record in config.imports]
    return list(dict.fromkeys([*(name.partition(":")[0] for name in named), *others]))


def _positive(value: float | None) -> float:
    """Return a fitted factor; 1 where none could be fitted."""
    return value if value is not None and math.isfinite(value) and value > 0 else 1.0


def _device(device: str | torch.device) -> torch.device:
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise InputError(f"device={str(device)!r} can't be had here: {error}") from error
    return place


def _result(root: Path) -> dict[str, Any]:
    """Return a run's result, or an InputError that says what the folder is instead."""
    if not root.is_dir():
        raise InputError(f"{str(root)!r} is no folder")
    if is_finished(root):
        return read_result(root)
    inner = sorted(path.name for path in root.iterdir() if path.is_dir() and is_finished(path))
    if inner:
        shown = ", ".join(inner[:5]) + (", …" if len(inner) > 5 else "")
        raise InputError(f"{str(root)!r} holds several runs; name one of them: {shown}")
    if (root / "config.json").is_file():
        raise InputError(
            f"{str(root)!r} holds a run that hasn't ended; the command that began it goes on"
        )
    raise InputError(f"{str(root)!r} holds no finished run: there is no result.json")


def _transform(root: Path, result: dict[str, Any], config: RunConfig) -> Transform:
    """Return what was kept; of a run of an older version, what its data say."""
    if "transform" in result:
        return Transform.from_dict(result["transform"])
    try:
        return Transform.of(load_data(config))
    except InputError as error:
        raise InputError(
            f"{str(root)!r} was written by a version that kept no transform, and its data can't "
            f"be loaded to make it again: {error}"
        ) from error


def _network(root: Path, config: RunConfig, transform: Transform, classes: int) -> nn.Module:
    path = root / "model.pt"
    if not path.is_file():
        raise InputError(f"{str(root)!r} lacks its weights: there is no model.pt")
    try:
        weights = torch.load(checked(path), map_location="cpu", weights_only=True)
    except InputError:  # it is damaged
        raise
    except Exception as error:  # pickle raises many kinds
        raise InputError(f"{path} can't be read: {error}") from error
    try:
        return remade(config, transform.shape, classes or len(transform.target_mean), weights)
    except InputError:
        raise
    except RuntimeError as error:
        raise InputError(
            f"{path} doesn't fit the network {config.model!r} as it is made here: {error}"
        ) from error
