"""Training one model, so that it can be killed at any moment and goes on where it was."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mixwell
from mixwell import plugins
from mixwell.checks import check_whole
from mixwell.data import Dataset
from mixwell.data.transform import Transform, raw_samples
from mixwell.errors import InputError, say
from mixwell.methods import Method
from mixwell.metrics.measures import VALIDATION
from mixwell.training import build, checkpoints
from mixwell.training.config import RunConfig
from mixwell.training.evaluate import measure, quick_measure, validate
from mixwell.training.files import (
    clear_leftovers,
    make_folder,
    write_atomically,
    write_json,
)
from mixwell.training.loggers import Log
from mixwell.training.machine import (
    device_name,
    forget_peak_memory,
    locked,
    make_fabric,
    peak_memory,
    precision_notes,
    seed_all,
)
from mixwell.training.prepare import Prepared, check_readable, prepare
from mixwell.training.remade import KEPT, Kept, answers_as_before
from mixwell.training.result import (
    FORMAT,
    finished_result,
    is_finished,
    read_config,
    read_result,
)
from mixwell.training.semi_supervised import SemiSupervised
from mixwell.training.starting import train_mode
from mixwell.training.state import State

__all__ = ["is_finished", "read_result", "train", "trainer"]

Report = Callable[[dict[str, Any]], None]
"""Is told of a run's events: "note", "start", "step", "epoch" and "done"."""


def _silent(event: dict[str, Any]) -> None:
    """Tell nothing but what goes otherwise than it was asked for."""
    if event["kind"] == "note" and event["warns"]:
        say(event["text"])


def train(
    config: RunConfig | Prepared,
    out: str | Path,
    *,
    report: Report = _silent,
    command: str = "",
    wait: float = 0.0,
    until: int | None = None,
) -> dict[str, Any]:
    """Train, evaluate and write one run; return its result.

    The folder ``out`` gets config.json, checkpoint.pt (while it runs), history and measures in
    result.json (written last: a run with it is finished), predictions.npz and model.pt. A finished
    run is returned, not repeated; an interrupted one goes on from its checkpoint, and on a
    processor ends bit for bit as if it had not been interrupted.

    Args:
        config: what to train; or what :func:`prepare` made of it, which isn't done again.
        out: the run's folder.
        report: told of the run's events as they happen.
        command: the command line, to be kept in the result.
        wait: seconds to wait for another process to leave the folder: one that is being killed.
        until: stop after this epoch, or the last, and leave the checkpoint. The schedule is that
            of the whole run, and the test split is not looked at: what is returned has measures
            of the validation split alone. Called again, the run goes on.

    Raises:
        InputError: the configuration, the data or the folder can't work; the loss is not finite.
    """
    if until is not None:
        check_whole("until", until, 1)
    folder = Path(out)
    prepared = config if isinstance(config, Prepared) else prepare(config)
    config, dataset = prepared.config, prepared.dataset
    if not os.path.isfile(folder / "config.json"):  # else it has been looked at
        check_readable(dataset)
    make_folder("out", folder)
    _refuse_another(folder, read_config(folder), config)
    if (kept := finished_result(folder)) is not None:
        _refuse_another(folder, RunConfig.from_dict(kept["config"]), config)
        return kept
    with locked(folder, wait):
        if (kept := finished_result(folder)) is not None:  # by the process that was waited for
            return kept
        clear_leftovers(folder)
        return _launch(config, dataset, folder, report, command, until)


def _refuse_another(folder: Path, before: RunConfig | None, config: RunConfig) -> None:
    """Raise an InputError if what a folder holds is another run's."""
    if before is not None and not before.is_same_run(config):
        raise InputError(
            f"out={str(folder)!r} holds another run ({before.difference(config)}); "
            "choose another folder or delete it"
        )


def _launch(
    config: RunConfig, dataset: Dataset, folder: Path, report: Report, command: str,
    until: int | None,
) -> dict[str, Any]:  # fmt: skip
    fabric = make_fabric(config)
    write_json(folder / "config.json", config.to_dict())
    if config.devices > 1:
        work: Any = _work  # typed for functions without arguments, it passes them on
        # As plain values: Lightning takes apart what it hands to processes.
        back = fabric.launch(work, config.to_dict(), None, str(folder), _silent, command, until)
        return read_result(folder) if until is None else dict(back)
    return _work(fabric, config, dataset, folder, report, command, until)


# -------------------------------------------------------------------------------------- the loop


def _work(
    fabric: Any,
    config: RunConfig | dict[str, Any],
    dataset: Dataset | None,
    folder: str | Path,
    report: Report,
    command: str,
    until: int | None = None,
) -> dict[str, Any]:
    """Train in one process; with several devices, each one's process calls this."""
    if isinstance(config, dict):
        config = RunConfig.from_dict(config)
    folder = Path(folder)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    dataset = dataset or build.load_data(config)
    forget_peak_memory(fabric.device)
    seed_all(config.seed)
    notes: list[str] = []
    model = build.make_model(config, dataset, notes)
    method = build.make_step(config, dataset).to(fabric.device)
    state = State(fabric, config, dataset, model, method)
    warnings = precision_notes(config.precision, fabric.device)
    warnings += build.schedule_notes(config, state.steps_per_epoch, state.total_steps)
    state.load(folder)
    if fabric.global_rank == 0:
        for note in (*notes, *warnings):
            report({"kind": "note", "text": note, "warns": note in warnings})
    report({"kind": "start", "steps": state.total_steps, "done": state.step, "epoch": state.epoch})
    with contextlib.closing(Log(config, folder, state.history, fabric.global_rank == 0)) as log:
        while state.epoch < min(until or state.epochs, state.epochs):
            row = _epoch(fabric, config, dataset, state, folder, report)
            log.epoch()
            if fabric.global_rank == 0:
                report({"kind": "epoch", **row})
        if until is not None:
            return _stopped(fabric, config, dataset, state)
        told = [*notes, *warnings]
        result = _finish(fabric, config, dataset, state, folder, command, told)
        for note in told[len(notes) + len(warnings) :]:
            report({"kind": "note", "text": note, "warns": True})
        log.end(result.get("metrics", {}))
    report({"kind": "done"})
    return result


def _train_epoch(
    fabric: Any, config: RunConfig, state: State, folder: Path, report: Report
) -> float:
    """Train from where the state is to the end of its epoch; return the seconds of all of it."""
    started = time.perf_counter()
    before = state.epoch_seconds
    train_mode(state.raw)
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
    given = state.given
    for x, y, index in itertools.islice(batches, state.batch, state.batches):
        group = min(
            config.accumulate, state.batches - state.batch // config.accumulate * config.accumulate
        )
        last = (state.batch + 1) % config.accumulate == 0 or state.batch + 1 == state.batches
        state.method.set_progress(state.step / max(state.total_steps, 1))
        with state.collecting(last):
            step = state.method.step(state.model, x, y, index=index, **given)
            state.backward(step.loss if group == 1 else step.loss / group)
        values = {"loss": step.loss.detach(), **(step.terms if len(step.terms) > 1 else {})}
        for name, value in values.items():
            state.sums[name] = state.sums.get(name, 0) + value
        if on_cpu and not math.isfinite(step.loss.item()):
            raise _diverged(config, state)  # elsewhere, at the end of the epoch: no waiting
        state.batch += 1
        if last:
            state.update(config.grad_clip)
            if fabric.global_rank == 0:
                report({"kind": "step", "done": state.step})
            due = (time.monotonic() - state.saved) / 60 >= config.checkpoint_minutes
            if fabric.broadcast(due) and state.batch < state.batches:
                state.epoch_seconds = before + time.perf_counter() - started
                state.save(folder)
    if not math.isfinite(float(state.sums["loss"])):
        raise _diverged(config, state)
    return before + time.perf_counter() - started


def _epoch(
    fabric: Any,
    config: RunConfig,
    dataset: Dataset,
    state: State,
    folder: Path,
    report: Report,
) -> dict[str, float]:
    """Train to the end of the state's epoch, measure and keep it; return the epoch's row."""
    seconds = _train_epoch(fabric, config, state, folder, report)
    finished = time.perf_counter()
    mean = {name: float(value) / state.batches for name, value in state.sums.items()}
    row: dict[str, float] = {"epoch": state.epoch + 1, "lr": _highest_rate(state)}
    row.update(mean)
    if row["epoch"] % config.val_every == 0 or row["epoch"] == state.epochs:
        measures = quick_measure(state.evaluated, dataset, fabric.device)
        row.update({VALIDATION + name: value for name, value in measures.items()})
    row["seconds"] = seconds
    state.history.append(row)
    state.seconds += seconds + time.perf_counter() - finished
    state.next_epoch()
    state.save(folder)
    return row


def _highest_rate(state: State) -> float:
    return max(float(group["lr"]) for group in state.optimizer.param_groups)


def trainer(config: RunConfig, dataset: Dataset, batches: int | None = None) -> Callable[[], None]:
    """Return what trains an epoch with each call as :func:`train` does, to measure its time.

    Nothing is measured or kept. After the last epoch training goes on, at the schedule's last rate.

    Args:
        config: resolved for the data.
        dataset: to train on.
        batches: that an epoch is cut to; all without.
    """
    fabric = make_fabric(config)
    method = build.make_step(config, dataset).to(fabric.device)
    state = State(fabric, config, dataset, build.make_model(config, dataset), method)
    state.saved = math.inf  # no checkpoint is ever due
    state.batches = min(state.batches, batches or state.batches)

    def epoch() -> None:
        _train_epoch(fabric, config, state, Path(), _silent)
        state.next_epoch()
        state.step %= state.total_steps  # progress is at most 1

    return epoch


def _diverged(config: RunConfig, state: State) -> InputError:
    return InputError(
        f"the loss is not finite in epoch {state.epoch + 1}, step {state.step + 1} "
        f"(lr={config.lr}, method {config.label}): try a lower lr or grad_clip; the last good "
        "epoch's checkpoint is kept"
    )


def _stopped(fabric: Any, config: RunConfig, dataset: Dataset, state: State) -> dict[str, Any]:
    """Return what is known of a run that goes on later: nothing of the test split."""
    found = validate(state.evaluated, dataset, fabric.device)
    return {
        "format": FORMAT,
        "config": config.to_dict(),
        "label": config.label,
        "task": dataset.task,
        "metrics": {VALIDATION + name: value for name, value in found.items()},
        "history": state.history,
        "seconds": state.seconds,
        "epoch": state.epoch,
    }


def _finish(
    fabric: Any, config: RunConfig, dataset: Dataset, state: State, folder: Path, command: str,
    notes: list[str],
) -> dict[str, Any]:  # fmt: skip
    """Measure the model and write all that the run leaves; the result last, with its notes."""
    result: dict[str, Any] = {}
    if fabric.global_rank == 0:
        peak = peak_memory(fabric.device)
        method = state.method if isinstance(state.method, Method) else None
        found = measure(state.evaluated, dataset, fabric.device, config, method)
        per_step = [row["seconds"] / state.steps_per_epoch for row in state.history]
        transform = Transform.of(dataset)
        # On the processor: torch.load puts them back where they were, and elsewhere is no GPU.
        weights = checkpoints.on_the_processor(state.evaluated.state_dict())
        # To tell the network by, and to check an export against, where the data aren't at hand.
        raw = raw_samples(dataset.test, KEPT)
        kept = Kept(raw, torch.from_numpy(found.arrays["test_logits"])[: len(raw)])
        lost = answers_as_before(config, transform, weights, kept, fabric.device)
        notes += [lost] if lost else []
        if isinstance(state.method, SemiSupervised):
            notes += state.method.notes(state.history)
        result = {
            "format": FORMAT,
            "config": config.to_dict(),
            "label": config.label,
            "task": dataset.task,
            "classes": list(dataset.classes),
            "transform": transform.to_dict(),
            "input": dataset.input,
            "notes": notes,
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
                "device": device_name(fabric.device),
                **plugins.installed(),
            },
            "command": command,
        }
        found.arrays["test_inputs"] = raw.numpy()
        write_atomically(
            folder / "predictions.npz",
            lambda file: np.savez_compressed(file, allow_pickle=False, **found.arrays),
            seal=True,
        )
        write_atomically(folder / "model.pt", lambda file: torch.save(weights, file), seal=True)
        write_json(folder / "result.json", result)
        checkpoints.clear(folder)
    fabric.barrier()
    return result
