"""A method: terms of a loss, each on clean or on mixed samples, in one forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast
from weakref import WeakSet

import torch
from torch import Tensor, nn

from mixwell import processes, tasks
from mixwell.batch import Batch
from mixwell.checks import check_choice, check_generator, check_range, check_whole
from mixwell.errors import InputError, say
from mixwell.kernels import native
from mixwell.losses import Loss, Need, Outcome, Rows
from mixwell.methods.checking import check_shapes, check_task, checked_data, plain_batch
from mixwell.methods.passes import Pass, rows_of
from mixwell.methods.plan import Plan, Reading, make_plan, plan_of_unmixed
from mixwell.methods.recipe import Recipe, Term
from mixwell.mix import Mix, MixedTarget, MultiMix, MultiTarget, tensors
from mixwell.tasks import Task
from mixwell.tasks.base import values_are_seen
from mixwell.view import ModelView, probabilities, unwrap

__all__ = ["Method", "Step"]


@dataclass(frozen=True)
class Step:
    """What one call of a method computed.

    ``logits``, ``target`` and ``mix`` belong together: to the first term that mixes, or to the
    clean samples where none does.

    Attributes:
        loss: scalar, with gradient.
        logits: (B, C) of the mixed samples.
        target: their targets.
        mix: how they were mixed.
        terms: the loss of each term by name, unweighted.
        clean_logits: (B, C) of the unmixed samples where the method computes them, else None.
    """

    loss: Tensor
    logits: Tensor
    target: MixedTarget | MultiTarget
    mix: Mix | MultiMix
    terms: dict[str, Tensor]
    clean_logits: Tensor | None = None


class Method(nn.Module):
    """A mixup method, ready for a training loop: ``loss = method(model, x, y)``.

    It is usually made by :func:`mixwell.create` from a name. From objects:

    >>> from mixwell.coefficient import SimilarityKernel
    >>> from mixwell.losses import DecoupledCrossEntropy
    >>> recipe = Recipe(coefficient=SimilarityKernel(distance="input"))
    >>> method = Method(Term(DecoupledCrossEntropy(eta=0.1), recipe), num_classes=10)

    All terms share one forward pass of the model, over B rows for each group of samples (clean,
    mixed at the input) that the terms need; terms with the same recipe share their samples.
    ``print(method.plan())`` shows the groups, and who reads them.

    In evaluation mode (``method.eval()``) nothing is mixed: the loss is that of clean samples.

    Args:
        terms: the terms that are summed, in order.
        num_classes: C, to check labels and logits against; those of the logits without it.
        task: "classification"; "multilabel", several classes a sample; "segmentation", a class for
            each position; "regression"; or a :class:`mixwell.tasks.Task`.
        head: the name of the classifier head, where it should not be searched for.
        feature_mode: how an extra pass for features runs: "eval", or "train" with the batch's own
            statistics. Neither changes the model.
        generator: the source of all randomness; torch's default generators without one.
        name: what the method is called in messages.

    Raises:
        InputError: an argument is wrong, or a part is not for the task.
    """

    progress: Tensor

    def __init__(
        self,
        *terms: Term,
        num_classes: int | None = None,
        task: str | Task = "classification",
        head: str | None = None,
        feature_mode: Literal["eval", "train"] = "eval",
        generator: torch.Generator | None = None,
        name: str = "method",
    ) -> None:
        super().__init__()
        if not terms:
            raise InputError("a Method needs at least one Term")
        for term in terms:
            if not isinstance(term, Term):
                raise InputError(f"terms must be mixwell.Term objects, got {term!r}")
        if num_classes is not None:
            num_classes = check_whole("num_classes", num_classes, 2)
        if head is not None and not isinstance(head, str):
            raise InputError(f"head must be the name of a layer, or None, got {head!r}")
        self.task = tasks.get(task)
        for term in terms:
            check_task(name, term, self.task)
        self.terms = nn.ModuleList(terms)
        self.num_classes = num_classes
        self.head = head
        self.feature_mode: Literal["eval", "train"]
        self.feature_mode = check_choice("feature_mode", feature_mode, ("eval", "train"))
        self.generator = check_generator("generator", generator)
        self.name = name
        self.register_buffer("progress", torch.zeros(()))
        self._checked_device: torch.device | None = None
        self._met: WeakSet[nn.Module] = WeakSet()

    # ------------------------------------------------------------------------------ public face

    def set_progress(self, progress: float) -> None:
        """Tell the training progress t in [0, 1], for schedules."""
        self.progress.fill_(check_range("progress", progress, 0, 1))

    def forward(
        self,
        model: nn.Module,
        x: Any,
        y: Tensor,
        *,
        index: Tensor | None = None,
        data: tuple[Any, Tensor] | None = None,
    ) -> Tensor:
        """Return the loss, a scalar. See :meth:`step` for the arguments."""
        return self.step(model, x, y, index=index, data=data).loss

    def step(
        self,
        model: nn.Module,
        x: Any,
        y: Tensor,
        *,
        index: Tensor | None = None,
        data: tuple[Any, Tensor] | None = None,
    ) -> Step:
        """Run the model on the mixed batch; return the loss and all that it was made of.

        Args:
            model: any classifier (or regressor), unmodified.
            x: (B, ...), or a pytree of batch-first tensors that ``model`` takes as its argument.
            y: class indices (B,) or soft labels (B, C); in multilabel tasks (B, C) of 0 and 1, or
                between; in segmentation class indices (B, H, W), for logits (B, C, H, W); in
                regression real targets (B,) or (B, K).
            index: (B,) positions in the training set, for what remembers samples.
            data: (X, Y), the training set in memory, like x and y: where a pairing takes its
                partners from there (``partners="data"``).

        Raises:
            InputError: x, y or the model's output don't fit each other or the method; x or y is not
                finite (looked at on every step on the CPU, on the first elsewhere); a layer that
                the method works at did not run, or mixing there would be wrong.
        """
        if torch.compiler.is_compiling() and (self._looks_inside() or self.plan().meets):
            # Hooks, looks and what processes tell each other are no part of a graph: the step runs
            # by itself, the model as it is.
            return cast(Step, torch.compiler.disable(self._step)(model, x, y, index, data))
        return self._step(model, x, y, index, data)

    def _step(
        self,
        model: nn.Module,
        x: Any,
        y: Tensor,
        index: Tensor | None,
        data: tuple[Any, Tensor] | None,
    ) -> Step:
        plan = self.plan()

        def checked() -> tuple[bool, Batch]:
            inputs = plain_batch(x)
            looks = self._check(inputs, y, index)
            return looks, self._batch(model, inputs, y, index, checked_data(inputs, y, data))

        # Before the model runs, in which processes may wait for each other, too.
        looks, batch = processes.agreeing(plan.meets, checked, y)
        groups = processes.refusing(plan.loss_meets, lambda: self._run(plan, batch, looks), y)
        values = _values(plan.readings, groups)
        terms = {reading.term: v.detach() for reading, v in zip(plan.readings, values, strict=True)}
        shown, clean = groups[plan.shown], plan.clean
        return Step(
            loss=_total(plan.readings, values),
            logits=shown.logits,
            target=shown.target,
            mix=shown.mix,
            terms=terms,
            clean_logits=None if clean is None else groups[clean].logits,
        )

    def _run(self, plan: Plan, batch: Batch, looks: bool) -> list[Rows]:
        """Return the plan's groups of rows, after one pass of the model."""
        view = batch.view
        assert view is not None
        work = Pass(plan, batch, view, self.name)
        logits = work.run()
        self._check_logits(view, logits, work.count, looks)
        return [Rows(rows_of(logits, g.rows), g.target, g.mix) for g in work.groups]

    def plan(self) -> Plan:
        """Return what a step runs in the present mode: groups of rows, and who reads which."""
        terms = self._terms()
        if self.training:
            return make_plan(terms)
        first = terms[0]
        own = first.loss if first.recipe is None else self._clean_loss()
        return plan_of_unmixed(first, own)

    def preview(
        self, x: Any, y: Tensor, *, model: nn.Module | None = None, index: Tensor | None = None
    ) -> tuple[Any, MixedTarget | MultiTarget, Mix | MultiMix]:
        """Return the mixed inputs, their targets and their mix, as a step would make them.

        Args:
            x: (B, ...).
            y: as for :meth:`step`.
            model: needed where mixing looks at features.
            index: as for :meth:`step`.

        Raises:
            InputError: the method doesn't mix at the input.
        """
        x = plain_batch(x)
        self._check(x, y, index)
        recipe = self.recipe
        if recipe is None:
            raise InputError(f"{self.name} doesn't mix samples: there is nothing to preview")
        layers = list(recipe.interpolation.layers)
        if "input" not in layers and layers != ["auto"]:
            raise InputError(
                f"{self.name} mixes inside the model (at {', '.join(layers)}), not at the input: "
                "there are no mixed images to show"
            )
        mix, target = recipe.draw(self._batch(model, x, y, index))
        return recipe.interpolation(x, mix), target, mix

    @property
    def recipe(self) -> Recipe | None:
        """How the first term that mixes makes its samples; None where nothing is mixed."""
        recipes = [term.recipe for term in self._terms() if term.recipe is not None]
        return recipes[0] if recipes else None

    # ---------------------------------------------------------------------------------- workings

    def _terms(self) -> list[Term]:
        return [term for term in self.terms if isinstance(term, Term)]

    def _looks_inside(self) -> bool:
        """Whether a step mixes inside the model, or looks at it beside the pass that is trained."""
        recipes = [term.recipe for term in self._terms() if term.recipe is not None]
        return self.training and any(recipe.looks_inside for recipe in recipes)

    def _clean_loss(self) -> Loss:
        """Return the loss of unmixed samples that stands for a mixing term in evaluation mode."""
        return self.task.clean_loss([term.loss for term in self._terms()])

    def _batch(
        self,
        model: nn.Module | None,
        x: Any,
        y: Tensor,
        index: Tensor | None,
        data: tuple[Any, Tensor] | None = None,
    ) -> Batch:
        y = self.task.prepare(y)
        view = None
        if model is not None:
            view = ModelView(model, x, y, self.task, self.head, self.feature_mode)
        return Batch(
            x,
            y,
            index=index,
            data=data,
            generator=self.generator,
            progress=self.progress,
            model=view,
            task=self.task,
        )

    # ------------------------------------------------------------------------------------ checks

    def _check(self, x: Any, y: Tensor, index: Tensor | None) -> bool:
        """Raise an InputError for a batch that can't be; return whether values may be looked at."""
        device = check_shapes(x, y, index)
        self.task.check_y(y, self.num_classes)
        if torch.compiler.is_compiling():  # what a compiled step changes, it is compiled for again
            if self.progress.device != device:
                raise InputError(
                    f"x is on {device}, {self.name} on {self.progress.device}: "
                    f"move it before its step is compiled, method.to({str(device)!r})"
                )
            return False
        first = device != self._checked_device
        if first:
            self.to(device)
            self._checked_device = device
        if first or values_are_seen(y):
            self.task.check_values(y)
        if device.type != "cpu" and not first:
            return False  # it would wait for the device
        for leaf in tensors(x):
            if leaf.is_floating_point() and not native.all_finite(leaf):
                bad = int((~leaf.isfinite()).sum())
                raise InputError(
                    f"x must be finite, got {bad} NaN or infinite values of {leaf.numel()} "
                    f"in a tensor of shape {tuple(leaf.shape)}"
                )
        return True

    def _check_logits(self, view: ModelView, logits: Tensor, rows: int, looks: bool) -> None:
        shape = tuple(logits.shape)
        if not shape or shape[0] != rows:
            raise InputError(
                f"{view.owner} must return one row for each sample it is given: it got {rows}, and "
                f"returned shape {shape}"
            )
        self.task.check_logits(logits, self.num_classes, view.owner)
        self.task.check_fit(logits, view.y, view.owner)
        if not looks or view.model in self._met:
            return
        self._met.add(view.model)
        if self.task.has_classes and probabilities(logits, self.task.one_class):
            say(
                f"{type(unwrap(view.model)).__name__} seems to return probabilities, and losses "
                "take logits: training would go through the softmax twice; return what is before "
                "it (said once for each model)"
            )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_met": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({**state, "_met": WeakSet()})

    def extra_repr(self) -> str:
        return f"name={self.name!r}, num_classes={self.num_classes}, task={self.task.name!r}"


def _values(readings: Sequence[Reading], groups: list[Rows]) -> list[Tensor]:
    """Return the loss of each term, first of those that wait for no other process."""
    meeting = [reading for reading in readings if reading.loss.meets]

    def values(some: Sequence[Reading]) -> list[Tensor]:
        return [reading.loss.of_step(_outcome(reading, groups)) for reading in some]

    if not meeting:
        return values(readings)
    alone = [reading for reading in readings if not reading.loss.meets]
    first = iter(processes.refusing(True, lambda: values(alone), groups[0].logits))
    then = iter(values(meeting))
    return [next(then if reading.loss.meets else first) for reading in readings]


def _outcome(reading: Reading, groups: list[Rows]) -> Outcome:
    """Return what a term's loss reads."""
    others: dict[type[Need], tuple[Rows, ...]] = {}
    for need, numbers in reading.others.items():
        others[need] = tuple([groups[number] for number in numbers])
    return Outcome(groups[reading.own], others)


def _total(readings: tuple[Reading, ...], values: list[Tensor]) -> Tensor:
    """Return the weighted sum of the terms."""
    weights = [reading.weight for reading in readings]
    parts = [v if w == 1 else w * v for w, v in zip(weights, values, strict=True)]
    loss = parts[0]
    for part in parts[1:]:
        loss = loss + part
    return loss
