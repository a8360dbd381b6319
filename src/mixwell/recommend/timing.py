"""How long an epoch of each candidate takes: a few steps of it, before anything is planned."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from mixwell.data import Dataset, TensorSplit
from mixwell.errors import InputError
from mixwell.recommend.planning import Costs
from mixwell.training.build import make_model
from mixwell.training.config import RunConfig
from mixwell.training.evaluate import validate
from mixwell.training.machine import make_fabric, random_state, set_random_state
from mixwell.training.run import trainer

__all__ = ["measure_costs"]

_SHARE = 0.05  # of the budget, at most, for this
_PROCESS = 0.5  # seconds for a process to begin
_REST = 1.3  # what is measured at the end, over predicting alone
_MEASURES = 0.3  # seconds of it that don't depend on the size of the data
_REPORT = 3.0  # seconds that the page takes


def measure_costs(
    configs: Mapping[str, RunConfig],
    dataset: Dataset,
    *,
    budget: float,
    loading: float,
    workers: int,
    threads: int,
) -> tuple[Costs, dict[str, str]]:
    """Return what each candidate takes, and why those are out that can't make a step.

    The random numbers and threads of this process are afterwards as they were.

    Args:
        configs: by candidate, resolved.
        dataset: to train on.
        budget: seconds in all; a small part of it is used here.
        loading: seconds that reading the data took.
        workers: runs at a time.
        threads: of each.
    """
    with _untouched(threads):
        first = next(iter(configs.values()))
        device = make_fabric(first).device
        _timed(trainer(first, dataset, 1))  # imports, which runs' processes have done before
        clock, worked = time.perf_counter(), time.process_time()
        started = clock
        model = make_model(first, dataset).to(device)
        start = loading + time.perf_counter() - started
        epochs, failed = _epochs(configs, dataset, clock, _SHARE * budget)
        step = min(epochs.values(), default=0.0) / max(len(dataset.train), 1)
        validation = _validation(model, dataset, device, step, _SHARE * budget / 2)
    seen = len(dataset.test) + len(dataset.val) + min(len(dataset.train), 50_000)
    # How much slower all goes than it could: others are at work on this machine, too.
    busy = (time.perf_counter() - clock) / max(time.process_time() - worked, 1e-3)
    busy = max(1.0, busy) if threads == 1 and device.type == "cpu" else 1.0
    finish = busy * _MEASURES + _REST * validation * seen / max(len(dataset.val), 1)
    each = {label: seconds + validation for label, seconds in epochs.items()}
    return Costs(each, start + busy * _PROCESS, finish, workers, busy * _REPORT), failed


@contextlib.contextmanager
def _untouched(threads: int) -> Iterator[None]:
    """Work with so many threads, and leave random numbers and threads as they were."""
    state: dict[str, Any] = random_state()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        set_random_state(state)


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _epochs(
    configs: Mapping[str, RunConfig], dataset: Dataset, began: float, limit: float
) -> tuple[dict[str, float], dict[str, str]]:
    """Return the seconds of an epoch's steps of each candidate, and why others can make none.

    Args:
        configs: by candidate.
        dataset: to train on.
        began: when measuring did; ``limit`` seconds later the rest is guessed.
        limit: see there.
    """
    epochs: dict[str, float] = {}
    failed: dict[str, str] = {}
    for label, config in configs.items():
        if epochs and time.perf_counter() - began > limit:
            epochs[label] = max(epochs.values())  # the race will tell
            continue
        try:
            epochs[label] = _epoch(config, dataset, limit / (2 * len(configs)))
        except InputError as error:
            failed[label] = str(error)
    return epochs, failed


def _epoch(config: RunConfig, dataset: Dataset, allowance: float) -> float:
    """Return the seconds of an epoch's steps."""
    assert config.batch_size is not None
    count = dataset.train.num_batches(config.batch_size)
    step = trainer(config, dataset, 1)
    _timed(step)  # the first takes longer: memory, compiled kernels, imports
    first = _timed(step)
    if 4 * first > allowance or count == 1:
        return first * count
    few = min(4, count)
    steps = trainer(config, dataset, few)
    repeats = max(1, min(5, int(allowance / (few * first))))
    each = statistics.median(_timed(steps) for _ in range(repeats))
    if isinstance(dataset.train, TensorSplit):
        return each / few * count
    # A loader takes a while to begin: what more steps take more is the steps' own.
    return first + max(each - first, 0.0) / (few - 1) * (count - 1)


def _validation(
    model: torch.nn.Module, dataset: Dataset, device: torch.device, sample: float, limit: float
) -> float:
    """Return the seconds that validation takes, by trial where it doesn't take long.

    Args:
        model: that predicts.
        dataset: whose validation split it is.
        device: where the model is.
        sample: seconds that a sample takes in training.
        limit: seconds that may be spent here.
    """
    guess = sample * len(dataset.val) / 2  # forward alone takes a third, reading the data more
    return guess if guess > limit else _timed(lambda: validate(model, dataset, device))
