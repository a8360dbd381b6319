"""A run's network as one file for other programs: raw inputs in, calibrated predictions out."""

from __future__ import annotations

import copy
import importlib.util
import json
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import mixwell
from mixwell.data.splits import scaled
from mixwell.errors import InputError, say
from mixwell.trained.run import TrainedRun
from mixwell.training.files import check_output, make_folder, write_atomically
from mixwell.training.remade import kept_of
from mixwell.view import logits_of

__all__ = ["Deployed", "Exported", "export"]

_TOLERANCE = 1e-4  # of probabilities; of values in units of the target's deviation


class Deployed(nn.Module):
    """A run's network with normalisation before it and temperature (or units) after it.

    Args:
        run: a finished run.
    """

    mean: Tensor
    rest: Tensor
    std: Tensor
    target_mean: Tensor
    target_std: Tensor

    def __init__(self, run: TrainedRun) -> None:
        super().__init__()
        transform = run.transform
        self.network = run.network
        if next(run.network.parameters()).dtype != torch.float32:  # which not all runtimes compute
            self.network = copy.deepcopy(run.network).float()
        self.is_classifier = bool(run.classes)
        self.temperature = run.temperature
        shape = (-1, *[1] * (len(transform.shape) - 1))
        self.normalises = bool(transform.mean)
        if self.normalises:
            exact = torch.tensor(transform.mean, dtype=torch.float64).view(shape)
            self.register_buffer("mean", exact.float())
            self.register_buffer("std", torch.tensor(transform.std).view(shape))
            # What float32 leaves of a large mean, subtracted after it: x - mean loses no digit.
            rest = (exact - self.mean.double()).float()
            self.has_rest = bool((rest.abs() > 1e-6 * self.std).any())
            if self.has_rest:
                self.register_buffer("rest", rest)
        if not self.is_classifier:
            self.register_buffer("target_mean", torch.tensor(transform.target_mean))
            self.register_buffer("target_std", torch.tensor(transform.target_std))

    def forward(self, x: Tensor) -> Tensor:
        """Return probabilities (N, C), or values (N, K) in the targets' units.

        Args:
            x: (N, ...) float32, raw: images in [0, 1].
        """
        if self.normalises:
            x = x - self.mean
            x = (x - self.rest if self.has_rest else x) / self.std
        outputs = logits_of(self.network(x))
        if self.is_classifier:
            return (outputs / self.temperature).softmax(1)
        return outputs.flatten(1) * self.target_std + self.target_mean


@dataclass(frozen=True)
class Exported:
    """What :func:`export` wrote.

    Attributes:
        path: the file.
        checked: how it was checked, in words.
        difference: the greatest to the network's own predictions; of values, in units of the
            target's standard deviation.
    """

    path: Path
    checked: str
    difference: float


def export(run: TrainedRun, to: str | Path) -> Exported:
    """Write a run's network to a file, after checking it against the network on real samples.

    The file takes raw inputs (N, ...), float32, images in [0, 1], any number N of them, and returns
    calibrated probabilities, or values in the targets' units (of MC-dropout's deviations it has
    none). Classes, version and method are in its metadata.

    Args:
        run: a finished run, on the CPU.
        to: ``FILE.onnx`` for ONNX, ``FILE.pt2`` for torch.export.

    Raises:
        InputError: the ending is another one, a package is missing, the network can't be exported,
            or the file predicts otherwise than the network.
    """
    path = Path(to).expanduser()
    writers = {".onnx": _write_onnx, ".pt2": _write_pt2}
    if path.suffix not in writers:
        raise InputError(f"to={str(to)!r} must end in .onnx or .pt2")
    if run.device.type != "cpu":
        raise InputError(f"export needs the run on the CPU, it is on {run.device}")
    if path.suffix == ".onnx":
        _need_onnx()
    check_output("to", path, run=run.folder)
    _tell_coarse(run)
    make_folder("to", path.absolute().parent)
    raw, real = _samples(run)
    deployed = Deployed(run).eval()
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / path.name
        try:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # exporters' own, on their own insides
                predict, how = writers[path.suffix](deployed, raw, metadata_of(run), made)
        except InputError:
            raise
        except Exception as error:  # exporters raise many kinds
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise InputError(
                f"the network {run.config.model!r} can't be exported to {path.suffix}: {reason[0]}"
            ) from error
        difference = _difference(run, predict, raw, path)
        write_atomically(path, made.read_bytes())
    samples = f"{len(raw)} {'test samples' if real else 'made-up samples: the run kept none'}"
    return Exported(path, f"{how}, {samples}", difference)


def _tell_coarse(run: TrainedRun) -> None:
    """Say which columns are so far from 0 that float32, which the file takes, can't tell values."""
    how = run.transform
    pairs = zip(how.mean, how.std, strict=True)
    places = [i for i, (mean, std) in enumerate(pairs) if abs(mean) > 1e5 * std]
    if not places or how.kind == "images":
        return
    names = [
        column.name if not column.values else f"{column.name}={value}"
        for column in how.columns for value in (column.values or ("",))
    ]  # fmt: skip
    place = places[0]
    name = repr(names[place]) if names else f"number {place + 1}"
    say(
        f"the file takes inputs in float32, which rounds the column {name} (mean "
        f"{how.mean[place]:g}, deviation {how.std[place]:g}) to "
        f"{abs(how.mean[place]) * 2**-23:.2g}: train on it less a constant where that is too coarse"
    )


def metadata_of(run: TrainedRun) -> dict[str, str]:
    """Return what a file says of the run it comes from."""
    transform = run.transform
    return {
        "mixwell": mixwell.__version__,
        "method": run.config.label,
        "model": str(run.config.model),
        "data": run.config.data.rpartition("/")[2],
        "task": "classification" if run.classes else "regression",
        "classes": json.dumps(list(run.classes), ensure_ascii=False),
        "temperature": repr(run.temperature),
        "input": json.dumps(
            {
                "shape": ["N", *transform.shape], "kind": transform.kind,
                "range": [0, 1] if transform.unit_range else None,
                "columns": [
                    name for column in transform.columns
                    for name in ([f"{column.name}={v}" for v in column.values] or [column.name])
                ],
            },
            ensure_ascii=False,
        ),
    }  # fmt: skip


def _samples(run: TrainedRun) -> tuple[Tensor, bool]:
    """Return raw samples (N, ...) float32, N ≥ 2, and whether they are real ones."""
    kept = kept_of(run.folder)
    if kept is not None:
        raw = scaled(kept.raw)
        return raw if len(raw) > 1 else raw.repeat(2, *[1] * (raw.ndim - 1)), True
    generator = torch.Generator().manual_seed(0)
    return torch.rand((4, *run.transform.shape), generator=generator), False


def _difference(
    run: TrainedRun, predict: Callable[[Tensor], Tensor], raw: Tensor, path: Path
) -> float:
    """Return how far a file's predictions are from the run's own, of one and of several samples."""
    # Not MC-dropout's mean of many passes, which is not what a file computes.
    wanted = run.calibrated(run.outputs(raw))
    found = torch.cat([predict(raw[:1]), predict(raw[1:])])
    gap = (found.double() - wanted.double()).abs()
    if not run.classes:
        gap = gap / run.transform.scale
    difference = float(gap.max())
    if not difference <= _TOLERANCE:  # NaN, too
        raise InputError(
            f"{path.name} predicts otherwise than the network, by up to {difference:.2g} (allowed: "
            f"{_TOLERANCE:g}): it is not written"
        )
    return difference


# ----------------------------------------------------------------------------------------- files

_Written = tuple[Callable[[Tensor], Tensor], str]


def _write_pt2(deployed: Deployed, raw: Tensor, metadata: dict[str, str], path: Path) -> _Written:
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(deployed, (raw,), dynamic_shapes=({0: batch},))
    extra = {"mixwell.json": json.dumps(metadata, ensure_ascii=False)}
    torch.export.save(program, path, extra_files=extra)
    loaded = torch.export.load(path).module()
    return (lambda x: loaded(x).detach()), "checked by torch.export"


def _has(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _need_onnx() -> None:
    for name in ("onnx", "onnxscript"):
        if not _has(name):
            raise InputError(f"export to .onnx needs {name}: pip install 'mixwell[export]'")


def _write_onnx(deployed: Deployed, raw: Tensor, metadata: dict[str, str], path: Path) -> _Written:
    import onnx

    batch = torch.export.Dim("batch", min=1)
    program = torch.onnx.export(
        deployed, (raw,), dynamo=True, dynamic_shapes=({0: batch},), input_names=["input"],
        output_names=["probabilities" if deployed.is_classifier else "values"], verbose=False,
    )  # fmt: skip
    assert program is not None
    model = program.model_proto
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, path)
    return _onnx_runner(path)


def _onnx_runner(path: Path) -> _Written:
    """Return what runs an ONNX file: ONNX Runtime, else ONNX's own reference."""
    if _has("onnxruntime"):
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        how = f"checked by ONNX Runtime {onnxruntime.__version__}"
        return (lambda x: torch.from_numpy(session.run(None, {"input": x.numpy()})[0])), how
    from onnx.reference import ReferenceEvaluator

    reference: Any = ReferenceEvaluator(str(path))
    how = "checked by ONNX's reference implementation (onnxruntime is not installed)"
    return (lambda x: torch.from_numpy(reference.run(None, {"input": x.numpy()})[0])), how
