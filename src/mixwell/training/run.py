"""Training one model, so that it can be killed at any moment and goes on where it was."""

from __future__ import annotations

import contextlib
import itertools
import math
import platform
import random
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import mixwell
from mixwell.data import Dataset
from mixwell.errors import InputError
from mixwell.methods import Method
from mixwell.training.config import RunConfig
from mixwell.training.evaluate import measure, quick_measure
from mixwell.training.files import (
    clear_leftovers,
    make_folder,
    read_json,
    write_atomically,
    write_json,
)
from mixwell.training.semi_supervised import SemiSupervised

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["is_finished", "make_optimizer", "read_result", "train", "trainer"]

FORMAT = 1
Report = Callable[[dict[str, Any]], None]
"""Is told of a run's events: "start", "step", "epoch" and "done"."""


def _silent(event: dict[str, Any]) -> None:
    pass


def is_finished(folder: Path) -> bool:
    """Whether a run folder holds a result."""
    return (folder / "result.json").is_file()


def read_result(folder: Path) -> dict[str, Any]:
    """Return a finished run's result.

    Raises:
        InputError: the file is damaged or of a format that this version doesn't know.
    """
    result = read_json(folder / "result.json")
    if not isinstance(result, dict) or result.get("format") != FORMAT:
        raise InputError(f"{folder / 'result.json'} is no result of this version of mixwell")
    return result


def train(
    config: RunConfig,
    out: str | Path,
    *,
    report: Report = _silent,
    command: str = "",
    wait: float = 0.0,
) -> dict[str, Any]:
    """Train, evaluate and write one run; return its result.

    The folder ``out`` gets config.json, checkpoint.pt (while it runs), history and measures in
    result.json (written last: a run with it is finished), predictions.npz and model.pt. A finished
    run is returned, not repeated; an interrupted one goes on from its checkpoint, and on a
    processor ends bit for bit as if it had not been interrupted.

    Args:
        config: what to train.
        out: the run's folder.
        report: told of the run's events as they happen.
        command: the command line, to be kept in the result.
        wait: seconds to wait for another process to leave the folder: one that is being killed.

    Raises:
        InputError: the configuration, the data or the folder can't work; the loss is not finite.
    """
    folder = Path(out)
    dataset = config.load_data()
    config = config.resolved(dataset)
    config.check(dataset)
    make_folder("out", folder)
    known = folder / "config.json"
    if known.exists():
        before = RunConfig.from_dict(read_json(known))
        if before.fingerprint != config.fingerprint:
            raise InputError(
                f"out={str(folder)!r} holds another run ({before.difference(config)}); "
                "choose another folder or delete it"
            )
    if is_finished(folder):
        return read_result(folder)
    with _locked(folder, wait):
        if is_finished(folder):  # by the process that was waited for
            return read_result(folder)
        clear_leftovers(folder)
        return _launch(config, dataset, folder, report, command)


def _launch(
    config: RunConfig, dataset: Dataset, folder: Path, report: Report, command: str
) -> dict[str, Any]:
    fabric = _fabric(config)
    write_json(folder / "config.json", config.to_dict())
    if config.devices > 1:
        work: Any = _work  # typed for functions without arguments, it passes them on
        # As plain values: Lightning takes apart what it hands to processes.
        fabric.launch(work, config.to_dict(), None, str(folder), _silent, command)
        return read_result(folder)
    return _work(fabric, config, dataset, folder, report, command)


def _fabric(config: RunConfig) -> Any:
    """Return what knows the device, the precision and the other processes."""
    from lightning.fabric import Fabric

    accelerator = "cuda" if config.accelerator == "gpu" else config.accelerator
    try:
        fabric = Fabric(
            accelerator=accelerator,
            devices=config.devices,
            precision=config.precision,  # type: ignore[arg-type]
            strategy="ddp_spawn" if config.devices > 1 else "auto",
        )
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"accelerator={config.accelerator!r} with devices={config.devices} and "
            f"precision={config.precision!r} can't be had here: {error}"
        ) from error
    if fabric._precision.precision != config.precision:  # Lightning falls back, with a warning
        raise InputError(
            f"precision={config.precision!r} is not to be had on {fabric.device.type}; "
            f"{fabric._precision.precision!r} is"
        )
    return fabric


@contextlib.contextmanager
def _locked(folder: Path, wait: float) -> Iterator[None]:
    """Keep a second process out of a run folder; the system drops the lock if this one dies."""
    until = time.monotonic() + wait
    with (folder / ".lock").open("w") as file:
        while fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if time.monotonic() >= until:
                    raise InputError(
                        f"out={str(folder)!r}: another process is training in this folder"
                    ) from error
            time.sleep(0.1)
        yield


# -------------------------------------------------------------------------------------- the loop


def _work(
    fabric: Any,
    config: RunConfig | dict[str, Any],
    dataset: Dataset | None,
    folder: str | Path,
    report: Report,
    command: str,
) -> dict[str, Any]:
    """Train in one process; with several devices, each one's process calls this."""
    if isinstance(config, dict):
        config = RunConfig.from_dict(config)
    folder = Path(folder)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    dataset = dataset or config.load_data()
    random.seed(config.seed)
    np.random.seed(config.seed)  # noqa: NPY002  (what others' code draws from)
    torch.manual_seed(config.seed)
    model = config.build_model(dataset)
    method = config.build_step(dataset).to(fabric.device)
    state = _State(fabric, config, dataset, model, method)
    state.load(folder / "checkpoint.pt")
    report({"kind": "start", "steps": state.total_steps, "done": state.step, "epoch": state.epoch})
    while state.epoch < state.epochs:
        row = _epoch(fabric, config, dataset, state, folder, report)
        if fabric.global_rank == 0:
            report({"kind": "epoch", **row})
    result = _finish(fabric, config, dataset, state, folder, command)
    report({"kind": "done"})
    return result


class _State:
    """All that changes while a run goes on, and that a checkpoint holds."""

    _PROGRESS = ("epoch", "batch", "step", "sums", "epoch_seconds", "history", "seconds")

    def __init__(
        self,
        fabric: Any,
        config: RunConfig,
        dataset: Dataset,
        model: nn.Module,
        method: Method | SemiSupervised,
    ) -> None:
        assert config.epochs is not None
        assert config.batch_size is not None
        self.fabric, self.method = fabric, method
        self.epochs = config.epochs
        world = fabric.world_size
        # What an epoch goes over.
        self.split = dataset.train if dataset.unlabelled is None else dataset.unlabelled
        share = math.ceil(len(self.split) / world)
        # A last batch of a few samples is dropped, unless it is the only one.
        self.loading: dict[str, Any] = {
            "drop_last": share >= config.batch_size,
            "world_size": world,
        }
        self.batches = self.split.num_batches(config.batch_size, **self.loading)
        self.steps_per_epoch = math.ceil(self.batches / config.accumulate)
        self.total_steps = self.steps_per_epoch * config.epochs
        # Not where gradients are scaled: it would undo that itself, out of clipping's sight.
        fused = config.precision == "32-true" and fabric.device.type in ("cpu", "cuda")
        optimizer = make_optimizer(config, model, fused)
        self.raw = model
        self.model, self.optimizer = fabric.setup(model, optimizer)
        self.backward = fabric.backward
        if world == 1 and config.precision == "32-true":
            # Nothing to cast, scale or gather: the wrappers would only take a part of each step.
            self.model, self.optimizer, self.backward = model, optimizer, torch.Tensor.backward
        self.scheduler = _scheduler(config, self.optimizer, self.steps_per_epoch, self.total_steps)
        self.ema = None
        if config.ema is not None:
            average = _averaging(config.ema)
            self.ema = AveragedModel(model, multi_avg_fn=average, use_buffers=True)
        if isinstance(method, SemiSupervised):
            assert self.ema is not None
            method.learn_from(self.ema.module)
        # Each process mixes by its own draws; the weights were drawn alike.
        torch.manual_seed(config.seed + 100_003 * (1 + fabric.global_rank))
        self.epoch = 0
        self.batch = 0
        self.step = 0
        self.sums: dict[str, torch.Tensor] = {}
        self.epoch_seconds = 0.0
        self.history: list[dict[str, float]] = []
        self.seconds = 0.0
        self.saved = time.monotonic()

    @property
    def evaluated(self) -> nn.Module:
        """The model that is measured and kept: the averaged one where there is one."""
        return self.raw if self.ema is None else self.ema.module

    def next_epoch(self) -> None:
        """Begin the next epoch."""
        self.epoch, self.batch, self.sums, self.epoch_seconds = self.epoch + 1, 0, {}, 0.0

    def collecting(self, last: bool) -> contextlib.AbstractContextManager[None]:
        """Return the context of a backward pass: gradients are gathered with a group's last."""
        if last or self.fabric.world_size == 1:
            return contextlib.nullcontext()
        return self.fabric.no_backward_sync(self.model)

    def save(self, path: Path) -> None:
        """Write a checkpoint, atomically, with the random states of all processes."""
        randomness: list[Any] = [None] * self.fabric.world_size
        own = _random_state()
        if self.fabric.world_size > 1:
            torch.distributed.all_gather_object(randomness, own)
        else:
            randomness = [own]
        if self.fabric.global_rank == 0:
            content = {
                "model": self.raw.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scheduler": self.scheduler.state_dict(),
                "method": self.method.state_dict(),
                "ema": None if self.ema is None else self.ema.state_dict(),
                "precision": self.fabric._precision.state_dict(),
                "randomness": randomness,
                "progress": {name: getattr(self, name) for name in self._PROGRESS},
            }
            write_atomically(path, lambda file: torch.save(content, file))
        self.saved = time.monotonic()

    def load(self, path: Path) -> None:
        """Go on from a checkpoint, if there is one."""
        if not path.is_file():
            return
        try:
            content = torch.load(path, map_location=self.fabric.device, weights_only=False)
        except Exception as error:
            raise InputError(
                f"{path} can't be read: {error}; delete it to start this run anew"
            ) from error
        self.raw.load_state_dict(content["model"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.scheduler.load_state_dict(content["scheduler"])
        self.method.load_state_dict(content["method"])
        if self.ema is not None:
            self.ema.load_state_dict(content["ema"])
        self.fabric._precision.load_state_dict(content["precision"])
        for name, value in content["progress"].items():
            setattr(self, name, value)
        _set_random_state(content["randomness"][self.fabric.global_rank])


def _averaging(decay: float) -> Callable[..., None]:
    """Return the update of an average of weights, whose decay grows to ``decay``.

    In its first steps it follows the weights faster: else it would hold on to the random start
    for as long as it averages over.
    """

    @torch.no_grad()
    def update(
        average: Sequence[torch.Tensor], current: Sequence[torch.Tensor], count: torch.Tensor | int
    ) -> None:
        step = torch.as_tensor(count, dtype=torch.float32)
        weight = 1 - torch.clamp((1 + step) / (10 + step), max=decay)
        for mean, value in zip(average, current, strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, weight.to(mean))
            else:  # BatchNorm's count of batches
                mean.copy_(value)

    return update


def _random_state() -> dict[str, Any]:
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),  # noqa: NPY002
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _set_random_state(state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])  # noqa: NPY002
    torch.set_rng_state(state["torch"].cpu())
    if torch.cuda.is_available() and state["cuda"]:
        torch.cuda.set_rng_state_all([value.cpu() for value in state["cuda"]])


def _train_epoch(
    fabric: Any, config: RunConfig, state: _State, folder: Path, report: Report
) -> float:
    """Train from where the state is to the end of its epoch; return the seconds of all of it."""
    started = time.perf_counter()
    before = state.epoch_seconds
    state.raw.train()
    state.method.train()
    batches = state.split.batches(
        config.batch_size,  # type: ignore[arg-type]
        shuffle=True,
        seed=config.seed,
        epoch=state.epoch,
        augment=bool(config.augment),
        device=fabric.device,
        rank=fabric.global_rank,
        **state.loading,
    )
    on_cpu = fabric.device.type == "cpu"
    for x, y, index in itertools.islice(batches, state.batch, None):
        group = min(
            config.accumulate, state.batches - state.batch // config.accumulate * config.accumulate
        )
        last = (state.batch + 1) % config.accumulate == 0 or state.batch + 1 == state.batches
        state.method.set_progress(state.step / max(state.total_steps, 1))
        with state.collecting(last):
            step = state.method.step(state.model, x, y, index=index)
            state.backward(step.loss if group == 1 else step.loss / group)
        values = {"loss": step.loss.detach(), **(step.terms if len(step.terms) > 1 else {})}
        for name, value in values.items():
            state.sums[name] = state.sums.get(name, 0) + value
        if on_cpu and not math.isfinite(step.loss.item()):
            raise _diverged(config, state)  # elsewhere, at the end of the epoch: no waiting
        state.batch += 1
        if last:
            if config.grad_clip is not None:
                fabric.clip_gradients(state.model, state.optimizer, max_norm=config.grad_clip)
            state.optimizer.step()
            state.optimizer.zero_grad()
            state.scheduler.step()
            if state.ema is not None:
                state.ema.update_parameters(state.raw)
            state.step += 1
            if fabric.global_rank == 0:
                report({"kind": "step", "done": state.step})
            due = (time.monotonic() - state.saved) / 60 >= config.checkpoint_minutes
            if fabric.broadcast(due) and state.batch < state.batches:
                state.epoch_seconds = before + time.perf_counter() - started
                state.save(folder / "checkpoint.pt")
    if not math.isfinite(float(state.sums["loss"])):
        raise _diverged(config, state)
    return before + time.perf_counter() - started


def _epoch(
    fabric: Any,
    config: RunConfig,
    dataset: Dataset,
    state: _State,
    folder: Path,
    report: Report,
) -> dict[str, float]:
    """Train to the end of the state's epoch, measure and keep it; return the epoch's row."""
    seconds = _train_epoch(fabric, config, state, folder, report)
    finished = time.perf_counter()
    mean = {name: float(value) / state.batches for name, value in state.sums.items()}
    row: dict[str, float] = {"epoch": state.epoch + 1, "lr": state.optimizer.param_groups[0]["lr"]}
    row.update(mean)
    measures = quick_measure(state.evaluated, dataset, fabric.device)
    row.update({f"val_{name}": value for name, value in measures.items()})
    row["seconds"] = seconds
    state.history.append(row)
    state.seconds += seconds + time.perf_counter() - finished
    state.next_epoch()
    state.save(folder / "checkpoint.pt")
    return row


def trainer(config: RunConfig, dataset: Dataset) -> Callable[[], None]:
    """Return what trains an epoch with each call as :func:`train` does, for the benchmark.

    Nothing is measured or kept. After the last epoch training goes on, at the schedule's last rate.

    Args:
        config: resolved for the data.
        dataset: to train on.
    """
    fabric = _fabric(config)
    method = config.build_step(dataset).to(fabric.device)
    state = _State(fabric, config, dataset, config.build_model(dataset), method)
    state.saved = math.inf  # no checkpoint is ever due

    def epoch() -> None:
        _train_epoch(fabric, config, state, Path(), _silent)
        state.next_epoch()
        state.step %= state.total_steps  # progress is at most 1

    return epoch


def _diverged(config: RunConfig, state: _State) -> InputError:
    return InputError(
        f"the loss is not finite in epoch {state.epoch + 1}, step {state.step + 1} "
        f"(lr={config.lr}, method {config.label}): try a lower lr or grad_clip; the last good "
        "epoch's checkpoint is kept"
    )


def _finish(
    fabric: Any, config: RunConfig, dataset: Dataset, state: _State, folder: Path, command: str
) -> dict[str, Any]:
    """Measure the model and write all that the run leaves; the result last."""
    result: dict[str, Any] = {}
    if fabric.global_rank == 0:
        peak = _peak_memory(fabric.device)
        method = state.method if isinstance(state.method, Method) else None
        found = measure(state.evaluated, dataset, fabric.device, config, method)
        per_step = [row["seconds"] / state.steps_per_epoch for row in state.history]
        result = {
            "format": FORMAT,
            "config": config.to_dict(),
            "label": config.label,
            "task": dataset.task,
            "classes": list(dataset.classes),
            "metrics": found.measures,
            "details": found.details,
            "history": state.history,
            "seconds_per_step": statistics.median(per_step) if per_step else 0.0,
            "seconds": state.seconds,
            "peak_memory_mb": peak,
            "parameters": sum(p.numel() for p in state.raw.parameters()),
            "steps": state.step,
            "train_samples": len(dataset.train),
            "versions": {
                "mixwell": mixwell.__version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
                "device": _device_name(fabric.device),
            },
            "command": command,
        }
        write_atomically(
            folder / "predictions.npz",
            lambda file: np.savez_compressed(file, allow_pickle=False, **found.arrays),
        )
        weights = state.evaluated.state_dict()
        write_atomically(folder / "model.pt", lambda file: torch.save(weights, file))
        write_json(folder / "result.json", result)
        (folder / "checkpoint.pt").unlink(missing_ok=True)
    fabric.barrier()
    return result


def _peak_memory(device: torch.device) -> float:
    """Return the most memory that training took, in MiB: the GPU's, else the whole process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 2**20 if sys.platform == "darwin" else 2**10  # of ru_maxrss: bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()}, {torch.get_num_threads()} threads"


# ---------------------------------------------------------------------------------- optimisation


def make_optimizer(config: RunConfig, model: nn.Module, fused: bool) -> torch.optim.Optimizer:
    """Return the optimiser; weight decay is on all parameters, as in the papers' code.

    Args:
        config: resolved, its rate and decay known.
        model: whose parameters are trained.
        fused: one kernel for all parameters: a loop over small ones takes several times as long.
    """
    assert config.lr is not None
    assert config.weight_decay is not None
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    options: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    options["fused"] = fused or None  # False would keep torch from its own choice, too
    if config.optimizer == "sgd":
        nesterov = config.momentum > 0
        return torch.optim.SGD(trained, momentum=config.momentum, nesterov=nesterov, **options)
    return torch.optim.AdamW(trained, **options)


def _scheduler(
    config: RunConfig, optimizer: Any, steps_per_epoch: int, total_steps: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """Return the schedule of the learning rate, a factor of its peak, for every step."""
    warmup = round((config.warmup_epochs or 0.0) * steps_per_epoch)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        done = (step - warmup) / max(total_steps - warmup, 1)
        if config.schedule == "cosine":
            return (1 + math.cos(math.pi * min(done, 1.0))) / 2
        if config.schedule == "step":  # a tenth after a half, a hundredth after three quarters
            return 0.1 ** ((done >= 0.5) + (done >= 0.75))
        if config.schedule == "onecycle":  # up from 1/25 in the first 30 %, down to 1e-4
            rising = done < 0.3
            part = done / 0.3 if rising else min((done - 0.3) / 0.7, 1.0)
            first, second = (1 / 25, 1.0) if rising else (1.0, 1e-4)
            return second + (first - second) * (1 + math.cos(math.pi * part)) / 2
        return 1.0

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
