"""All that changes while a run goes on: weights, optimiser, averages, random numbers, progress."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from mixwell.data import Dataset
from mixwell.errors import InputError
from mixwell.methods import Method
from mixwell.training import checkpoints
from mixwell.training.build import given_to, make_optimizer, make_scheduler
from mixwell.training.config import RunConfig
from mixwell.training.machine import random_state, set_random_state
from mixwell.training.semi_supervised import SemiSupervised

__all__ = ["State", "averaging"]


class State:
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
        self.fingerprint, self.content = config.fingerprint, config.data_digest
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
        optimizer = make_optimizer(config, model, fused, dataset.input_shape)
        self.raw = model
        self.model, self.optimizer = fabric.setup(model, optimizer)
        self.backward = fabric.backward
        if world == 1 and config.precision == "32-true":
            # Nothing to cast, scale or gather: the wrappers would only take a part of each step.
            self.model, self.optimizer, self.backward = model, optimizer, torch.Tensor.backward
        self.scheduler = make_scheduler(
            config, self.optimizer, self.steps_per_epoch, self.total_steps
        )
        self.ema = None
        if config.ema is not None:
            average = averaging(config.ema)
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
    def given(self) -> dict[str, Any]:
        """What a step is given beside its batch: the training data, where partners come of it."""
        return given_to(self.method, self.split, self.fabric.device)

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

    def update(self, grad_clip: float | None) -> None:
        """Make a step of the optimiser by the gradients that are there, clipped to this norm."""
        if grad_clip is not None:
            self.fabric.clip_gradients(self.model, self.optimizer, max_norm=grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.scheduler.step()
        if self.ema is not None:
            self.ema.update_parameters(self.raw)
        self.step += 1

    def save(self, folder: Path) -> None:
        """Write a checkpoint, atomically, with the random states of all processes.

        The one before it is kept beside it.
        """
        randomness: list[Any] = [None] * self.fabric.world_size
        own = random_state()
        if self.fabric.world_size > 1:
            torch.distributed.all_gather_object(randomness, own)
        else:
            randomness = [own]
        if self.fabric.global_rank == 0:
            content = {
                "run": self.fingerprint,
                "data": self.content,
                "model": self.raw.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scheduler": self.scheduler.state_dict(),
                "method": self.method.state_dict(),
                "ema": None if self.ema is None else self.ema.state_dict(),
                "precision": self.fabric._precision.state_dict(),
                "randomness": randomness,
                "progress": {name: getattr(self, name) for name in self._PROGRESS},
            }
            checkpoints.write(folder, content)
        self.saved = time.monotonic()

    def load(self, folder: Path) -> None:
        """Go on from the last checkpoint that is whole, if there is one.

        Raises:
            InputError: it is of another run, or doesn't fit this one.
        """
        # One process looks at them and sets damaged ones aside; all take the same.
        fabric = self.fabric
        path = fabric.broadcast(checkpoints.whole(folder) if fabric.global_rank == 0 else None)
        if path is None:
            return
        content = checkpoints.read(path, fabric.device)
        if content.get("run", self.fingerprint) != self.fingerprint:
            raise InputError(f"{path} is of another run; choose another folder or delete it")
        held = content.get("data")
        if held is not None and self.content is not None and held != self.content:
            raise InputError(
                f"{path} is of a run whose data held {held}, they hold {self.content}; choose "
                "another folder or delete it"
            )
        try:
            self.raw.load_state_dict(content["model"])
            self.optimizer.load_state_dict(content["optimizer"])
            self.scheduler.load_state_dict(content["scheduler"])
            self.method.load_state_dict(content["method"])
            if self.ema is not None:
                self.ema.load_state_dict(content["ema"])
            fabric._precision.load_state_dict(content["precision"])
            for name, value in content["progress"].items():
                setattr(self, name, value)
            set_random_state(content["randomness"][fabric.global_rank])
        except (LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise InputError(
                f"{path} doesn't fit this run: {error}; delete it to start this run anew"
            ) from error


def averaging(decay: float) -> Callable[..., None]:
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
