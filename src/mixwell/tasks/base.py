"""What a task is: what y and logits must look like, and what unmixed samples are worth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from mixwell.checks import shown
from mixwell.errors import InputError, suggest
from mixwell.kernels import native

if TYPE_CHECKING:
    from mixwell.losses import Loss

__all__ = ["Task", "get", "names", "register"]


class Task:
    """Base class of the tasks: one object each, known to :func:`get` by its name.

    Attributes:
        name: what it is called in ``create(..., task=name)``.
        loss: the class of its usual loss.
        has_classes: whether y tells of classes, and logits have one entry for each.
        one_class: whether each sample has one class, which pairs and labels can ask for.
        by_position: whether y holds something for each position of a sample.
    """

    name: ClassVar[str]
    loss: ClassVar[type[Loss]]
    has_classes: ClassVar[bool] = True
    one_class: ClassVar[bool] = False
    by_position: ClassVar[bool] = False

    # What a task says of y.

    def check_y(self, y: Tensor, num_classes: int | None) -> None:
        """Raise an InputError unless ``y`` is of the task's kind: dtype, shape and classes."""
        raise NotImplementedError

    def check_values(self, y: Tensor) -> None:
        """Raise an InputError for values that no target has: NaN, infinite or out of range."""
        if y.is_floating_point() and not native.all_finite(y):
            bad = int((~y.isfinite()).sum())
            raise InputError(
                f"y must be finite, got {bad} NaN or infinite values of {y.numel()} in a tensor of "
                f"shape {tuple(y.shape)}"
            )

    def prepare(self, y: Tensor) -> Tensor:
        """Return ``y`` in the dtype that is computed with."""
        return y if y.is_floating_point() else y.long()

    # What it says of logits.

    def check_logits(self, logits: Tensor, num_classes: int | None, owner: str) -> None:
        """Raise an InputError unless logits (B, ...) are of the task's shape.

        Args:
            logits: what the model returned.
            num_classes: C, where it is known.
            owner: the model's name, for the message.
        """
        if logits.ndim != 2:
            raise InputError(
                f"{owner} must return logits (B, C); it returned shape {tuple(logits.shape)}"
            )
        self._check_width(logits, num_classes, owner)

    @staticmethod
    def _check_width(logits: Tensor, num_classes: int | None, owner: str) -> None:
        if num_classes not in (None, logits.shape[1]):
            raise InputError(
                f"num_classes={num_classes}, but the head of {owner} gives {logits.shape[1]} logits"
                " a sample; the two must agree"
            )

    def check_fit(self, logits: Tensor, y: Tensor, owner: str) -> None:
        """Raise an InputError for logits (B, C) where y holds soft labels of other classes.

        Args:
            logits: as :meth:`check_logits` lets them pass.
            y: as :meth:`prepare` returns it.
            owner: the model's name, for the message.
        """
        soft = self.has_classes and not self.by_position and y.is_floating_point()
        if soft and y.shape[1] != logits.shape[1]:
            raise InputError(
                f"y holds labels of {y.shape[1]} classes, but the head of {owner} gives "
                f"{logits.shape[1]} logits a sample; the two must agree"
            )

    # What an unmixed sample is worth.

    def clean_loss(self, losses: Sequence[object]) -> Loss:
        """Return the loss of unmixed samples that stands for a method's in evaluation.

        Args:
            losses: the method's own, whose class weights and ignored class it keeps.
        """
        from mixwell.losses import Loss

        for loss in losses:
            kept = loss.unmixed() if isinstance(loss, Loss) else None
            if kept is not None:
                return kept
        return self.loss()

    def summed_loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return the sum of the unmixed samples' losses, without weights: for saliency."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<task {self.name!r}>"

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return get, (self.name,)


_TASKS: dict[str, Task] = {}


def register(task: type[Task]) -> type[Task]:
    """Make a task known to :func:`get` under its name; a decorator of its class."""
    if task.name in _TASKS:
        raise InputError(f"name={task.name!r} is a task already")
    _TASKS[task.name] = task()
    return task


def names() -> tuple[str, ...]:
    """Return the names of all tasks."""
    return tuple(_TASKS)


def get(task: str | Task) -> Task:
    """Return the task of a name.

    Raises:
        InputError: there is none.
    """
    if isinstance(task, Task):
        return task
    if not isinstance(task, str) or task not in _TASKS:
        near = suggest(shown(task), _TASKS)
        raise InputError(f"task={shown(task)} is unknown{near}; known: {', '.join(_TASKS)}")
    return _TASKS[task]


def values_are_seen(y: Tensor) -> bool:
    """Whether looking at ``y`` costs no waiting: it is on the CPU, and nothing is recorded."""
    return y.device.type == "cpu" and not torch.compiler.is_compiling()
