"""A method: terms of a loss, each on clean or on mixed samples, in one forward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from mixwell.attention import attending, attention_of
from mixwell.batch import Batch
from mixwell.checks import check_choice, check_range
from mixwell.coefficient import Beta, Coefficient, Per
from mixwell.errors import InputError
from mixwell.heads import capture_features, check_one_head, find_head, logits_of, tapped, unwrap
from mixwell.interpolation import Interpolation, Linear
from mixwell.kernels import native
from mixwell.labels import Labels, Soft
from mixwell.losses import MixedBCE, MixedCrossEntropy, MixedMSE
from mixwell.losses.base import Loss, check_classes
from mixwell.mix import Mix, MixedTarget, MultiMix, MultiTarget, tensors
from mixwell.pairing import Pairing, Shuffle
from mixwell.saliency import saliency_of

__all__ = ["TASKS", "Method", "Recipe", "Step", "Term"]

TASKS: dict[str, type[Loss]] = {
    "classification": MixedCrossEntropy,
    "multilabel": MixedBCE,
    "segmentation": MixedCrossEntropy,
    "regression": MixedMSE,
}
"""The tasks, and the usual loss of each."""


class Recipe(nn.Module):
    """How mixed samples are made: the answers to the first four questions.

    Args:
        pairing: who mixes with whom; a random permutation by default.
        coefficient: how much of each; λ ~ Beta(1, 1) by default.
        interpolation: how, and where; linear at the input by default.
        labels: what the label is; both, weighted, by default.
        p: the probability of mixing at all; the rest keeps λ = 1.
        per: whether that is decided for each "sample" or for the whole "batch".
    """

    def __init__(
        self,
        pairing: Pairing | None = None,
        coefficient: Coefficient | None = None,
        interpolation: Interpolation | None = None,
        labels: Labels | None = None,
        p: float = 1.0,
        per: Per = "sample",
    ) -> None:
        super().__init__()
        self.pairing = pairing or Shuffle()
        self.coefficient = coefficient or Beta()
        self.interpolation = interpolation or Linear()
        self.labels = labels or Soft()
        self.p = check_range("p", p, 0, 1)
        self.per = check_choice("per", per, ("sample", "batch"))
        if self.coefficient.samples > 2 and not (
            type(self.interpolation) is Linear and type(self.labels) is Soft
        ):
            raise InputError(
                f"{type(self.coefficient).__name__} mixes {self.coefficient.samples} samples into "
                "one, which is defined for linear interpolation and soft labels, not for "
                f"{type(self.interpolation).__name__} and {type(self.labels).__name__}"
            )

    @property
    def needs_features(self) -> bool:
        """Whether drawing a mix reads the features of the unmixed samples."""
        return self.pairing.needs_features or self.coefficient.needs_features

    def draw(self, batch: Batch) -> tuple[Mix | MultiMix, MixedTarget | MultiTarget]:
        """Return how the batch mixes, and its mixed targets."""
        if self.coefficient.samples > 2:
            return self._draw_many(batch)
        partner = self.pairing(batch)
        return self._shape(batch, partner, *self.coefficient.pair(batch, partner))

    def draw_twin(
        self, batch: Batch, mix: Mix | MultiMix, redraw: Callable[[Batch, Tensor], Tensor]
    ) -> tuple[Mix, MixedTarget]:
        """Return the same pairs, mixed a second time with λ from ``redraw``, and their targets."""
        assert isinstance(mix, Mix)  # as Term sees to
        lam = redraw(batch, mix.lam)
        return self._shape(batch, mix.partner, lam, lam)

    def _mixes(self, batch: Batch) -> Tensor:
        """Return whether each sample is mixed at all: (B,) or (1,) bool."""
        return batch.rand(1 if self.per == "batch" else len(batch)) < self.p

    def _shape(
        self, batch: Batch, partner: Tensor, lam: Tensor, target_lam: Tensor
    ) -> tuple[Mix, MixedTarget]:
        if self.p < 1:
            mixes = self._mixes(batch)
            lam, target_lam = (torch.where(mixes, value, 1.0) for value in (lam, target_lam))
        mix = self.interpolation.shape(batch, Mix(partner, lam))
        # A mask corrects λ to its true mean, and some policies draw their own: the target follows.
        label_lam = target_lam if mix.is_uniform and mix.lam is lam else mix.lam
        return mix, self.labels(batch, mix, label_lam)

    def _draw_many(self, batch: Batch) -> tuple[MultiMix, MixedTarget | MultiTarget]:
        own = torch.arange(len(batch), device=batch.device)
        others = [self.pairing(batch) for _ in range(self.coefficient.samples - 1)]
        weights = self.coefficient.weights(batch)
        if self.p < 1:
            alone = torch.zeros_like(weights)
            alone[:, 0] = 1
            weights = torch.where(self._mixes(batch)[:, None], weights, alone)
        mix = MultiMix(torch.stack([own, *others], 1), weights)
        return mix, Soft.of_many(batch, mix)

    def extra_repr(self) -> str:
        return f"p={self.p}, per={self.per!r}"


class Term(nn.Module):
    """One term of a method's loss.

    Args:
        loss: what is the loss?
        recipe: how the samples are mixed; None for clean samples.
        weight: the factor of this term in the sum; ≥ 0.
        name: its name in ``step.terms``.
    """

    def __init__(
        self,
        loss: nn.Module,
        recipe: Recipe | None = None,
        weight: float = 1.0,
        name: str | None = None,
    ) -> None:
        super().__init__()
        if recipe and recipe.coefficient.samples > 2 and getattr(loss, "reads", "") == "twin":
            raise InputError(
                f"{type(loss).__name__} reads each pair twice, and "
                f"{type(recipe.coefficient).__name__} mixes {recipe.coefficient.samples} samples "
                "into one; choose another coefficient or loss"
            )
        self.loss = loss
        self.recipe = recipe
        self.weight = check_range("weight", weight)
        self.name = name or ("clean" if recipe is None else "mixed")

    def extra_repr(self) -> str:
        return f"weight={self.weight}, name={self.name!r}"


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


@dataclass
class _Rows:
    """How many rows are in the model at present, and whether mixed ones take clean ones' place."""

    count: int
    in_place: bool


@dataclass
class _Stream:
    """One group of B rows that goes through the model: the clean samples, or one recipe's.

    A twin mixes the samples of another stream a second time, for a loss that reads both: the same
    pairs with ``redraw``, anew without.
    """

    recipe: Recipe | None
    twin_of: _Stream | None = None
    redraw: Callable[[Batch, Tensor], Tensor] | None = None
    layer: str | None = None
    mix: Mix | MultiMix | None = None
    target: MixedTarget | MultiTarget | None = None
    rows: slice = field(default_factory=lambda: slice(0, 0))

    def draw(self, batch: Batch) -> None:
        """Draw how these rows are mixed, and their targets."""
        assert self.recipe is not None
        if self.twin_of is None or self.redraw is None:
            self.mix, self.target = self.recipe.draw(batch)
        else:
            assert self.twin_of.mix is not None
            self.mix, self.target = self.recipe.draw_twin(batch, self.twin_of.mix, self.redraw)


class Method(nn.Module):
    """A mixup method, ready for a training loop: ``loss = method(model, x, y)``.

    It is usually made by :func:`mixwell.create` from a name. From objects:

    >>> from mixwell.coefficient import SimilarityKernel
    >>> from mixwell.losses import DecoupledCrossEntropy
    >>> recipe = Recipe(coefficient=SimilarityKernel(distance="input"))
    >>> method = Method(Term(DecoupledCrossEntropy(eta=0.1), recipe), num_classes=10)

    All terms share one forward pass of the model, over B rows for each group of samples (clean,
    mixed at the input) that the terms need; terms with the same recipe share their samples.

    In evaluation mode (``method.eval()``) nothing is mixed: the loss is that of clean samples.

    Args:
        terms: the terms that are summed, in order.
        num_classes: C, to check labels and logits against; those of the logits without it.
        task: "classification"; "multilabel", several classes a sample; "segmentation", a class for
            each position; or "regression".
        head: the name of the classifier head, where it should not be searched for.
        feature_mode: how an extra pass for features runs: "eval", or "train" with the batch's own
            statistics. Neither changes the model.
        generator: the source of all randomness; torch's default generators without one.
        name: what the method is called in messages.
    """

    progress: Tensor

    def __init__(
        self,
        *terms: Term,
        num_classes: int | None = None,
        task: str = "classification",
        head: str | None = None,
        feature_mode: str = "eval",
        generator: torch.Generator | None = None,
        name: str = "method",
    ) -> None:
        super().__init__()
        if not terms:
            raise InputError("a Method needs at least one Term")
        if num_classes is not None and (not isinstance(num_classes, int) or num_classes < 2):
            raise InputError(f"num_classes must be a whole number from 2 on, got {num_classes!r}")
        self.task = check_choice("task", task, tuple(TASKS))
        for term in terms:
            parts = [term.loss, *([term.recipe.labels] if term.recipe else [])]
            for part in parts:
                tasks = getattr(part, "tasks", (task,))
                if task not in tasks:
                    raise InputError(
                        f"{name}: {type(part).__name__} is for {' or '.join(tasks)}, "
                        f"not for task={task!r}"
                    )
        self.terms = nn.ModuleList(terms)
        self.num_classes = num_classes
        self.head = head
        self.feature_mode = check_choice("feature_mode", feature_mode, ("eval", "train"))
        self.generator = generator
        self.name = name
        self.register_buffer("progress", torch.zeros(()))
        self._checked_device: torch.device | None = None

    # ------------------------------------------------------------------------------ public face

    def set_progress(self, progress: float) -> None:
        """Tell the training progress t in [0, 1], for schedules."""
        self.progress.fill_(check_range("progress", progress, 0, 1))

    def forward(
        self, model: nn.Module, x: Any, y: Tensor, *, index: Tensor | None = None
    ) -> Tensor:
        """Return the loss, a scalar. See :meth:`step` for the arguments."""
        return self.step(model, x, y, index=index).loss

    def step(self, model: nn.Module, x: Any, y: Tensor, *, index: Tensor | None = None) -> Step:
        """Run the model on the mixed batch; return the loss and all that it was made of.

        Args:
            model: any classifier (or regressor), unmodified.
            x: (B, ...), or a pytree of batch-first tensors that ``model`` takes as its argument.
            y: class indices (B,) or soft labels (B, C); in multilabel tasks (B, C) of 0 and 1, or
                between; in segmentation class indices (B, H, W), for logits (B, C, H, W); in
                regression real targets (B,) or (B, K).
            index: (B,) positions in the training set, for what remembers samples.

        Raises:
            InputError: x, y or the model's output don't fit each other or the method; x is not
                finite (looked at on every step on the CPU, on the first elsewhere); a layer that
                the method works at did not run.
        """
        self._check(x, y, index)
        batch = self._batch(model, x, y, index)
        terms = self._terms()
        streams: list[_Stream] = []
        for term in terms:
            recipe = term.recipe if self.training else None
            own = _stream(streams, recipe)
            reads = getattr(term.loss, "reads", "") if self.training else ""
            if reads == "clean":
                _stream(streams, None)
            elif reads == "twin":
                streams.append(_Stream(recipe, own, term.loss.twin))  # type: ignore[arg-type]
            if recipe is not None:
                more = getattr(term.loss, "mixes", 1) - 1
                streams.extend(_Stream(recipe, own) for _ in range(more))
        logits = self._run(model, batch, streams)

        losses: dict[str, Tensor] = {}
        loss: Tensor | None = None
        for term in terms:
            recipe = term.recipe if self.training else None
            stream = _stream(streams, recipe)
            function = self._clean_loss() if recipe is None and term.recipe else term.loss
            beside: list[Any] = []
            reads = getattr(function, "reads", "") if self.training else ""
            if reads == "clean":
                beside = [_rows(logits, _stream(streams, None).rows)]
            if reads == "twin" or (self.training and getattr(function, "mixes", 1) > 1):
                for other in (s for s in streams if s.twin_of is stream):
                    beside += [_rows(logits, other.rows), other.target]
            value = function(_rows(logits, stream.rows), stream.target, *beside)
            losses[term.name] = value
            value = value if term.weight == 1 or not self.training else term.weight * value
            loss = value if loss is None else loss + value
            if not self.training:
                break
        assert loss is not None
        # Lists, not next(): compilers of torch 2.6 know no default there.
        shown = [*(stream for stream in streams if stream.recipe), streams[0]][0]
        clean = [stream for stream in streams if not stream.recipe]
        assert shown.target is not None
        assert shown.mix is not None
        return Step(
            loss=loss,
            logits=_rows(logits, shown.rows),
            target=shown.target,
            mix=shown.mix,
            terms={name: value.detach() for name, value in losses.items()},
            clean_logits=_rows(logits, clean[0].rows) if clean else None,
        )

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
        self._check(x, y, index)
        recipe = self.recipe
        if recipe is None:
            raise InputError(f"{self.name} doesn't mix samples: there is nothing to preview")
        batch = self._batch(model or nn.Identity(), x, y, index, has_model=model is not None)
        layers = list(recipe.interpolation.layers)
        if "input" not in layers and layers != ["auto"]:
            raise InputError(
                f"{self.name} mixes inside the model (at {', '.join(layers)}), not at the input: "
                "there are no mixed images to show"
            )
        mix, target = recipe.draw(batch)
        return recipe.interpolation(x, mix), target, mix

    @property
    def recipe(self) -> Recipe | None:
        """How the first term that mixes makes its samples; None where nothing is mixed."""
        return next((term.recipe for term in self._terms() if term.recipe), None)

    # ---------------------------------------------------------------------------------- workings

    def _terms(self) -> list[Term]:
        return [term for term in self.terms if isinstance(term, Term)]

    def _clean_loss(self) -> nn.Module:
        """Return the loss of clean samples that stands for a mixing term in evaluation mode."""
        ignored = next((t.loss.ignore_index for t in self._terms()
                        if isinstance(t.loss, MixedCrossEntropy)), None)  # fmt: skip
        if self.task == "segmentation" and ignored is not None:
            return MixedCrossEntropy(ignore_index=ignored)
        return TASKS[self.task]()

    def _batch(
        self,
        model: nn.Module,
        x: Any,
        y: Tensor,
        index: Tensor | None,
        has_model: bool = True,
    ) -> Batch:
        def features() -> Tensor:
            return capture_features(model, x, self.head, self.feature_mode)[1]

        def look(kind: str) -> Tensor:
            if kind == "attention":
                return attention_of(model, x)
            return saliency_of(kind, model, x, y, self.head, self.feature_mode, self.task)

        return Batch(
            x,
            self._as_target(y),
            index=index,
            generator=self.generator,
            progress=self.progress,
            features=features if has_model else None,
            look=look if has_model else None,
            model=model if has_model else None,
            task=self.task,
        )

    def _as_target(self, y: Tensor) -> Tensor:
        if y.is_floating_point():
            return y
        return y.float() if self.task == "multilabel" else y.long()

    def _run(self, model: nn.Module, batch: Batch, streams: list[_Stream]) -> Tensor:
        """Give each stream its mix, target and rows; return the logits of all rows."""
        size = len(batch)
        clean = [stream for stream in streams if stream.recipe is None]
        at_input: list[_Stream] = []
        inside: list[_Stream] = []
        for stream in streams:
            if stream.recipe is None:
                stream.mix = Mix.identity(size, batch.device)
                stream.target = MixedTarget.clean(batch.y)
                continue
            # Twins come after what they are twins of, and mix at the same layer.
            sibling = stream.twin_of
            stream.layer = (
                sibling.layer if sibling else stream.recipe.interpolation.layer(batch, model)
            )
            (at_input if stream.layer is None else inside).append(stream)
            if not (stream.layer == "head" and stream.recipe.needs_features):
                stream.draw(batch)
                self._learn(batch, stream)

        # Mixing inside the model starts from clean rows, which always come first. Where nothing
        # else needs them the mixed rows take their place.
        in_place = len(inside) == 1 and not clean
        inputs = []
        if clean or inside:
            inputs.append(batch.x)
            for stream in clean or (inside if in_place else []):
                stream.rows = slice(0, size)
        for stream in at_input:
            assert stream.recipe is not None
            assert stream.mix is not None
            stream.rows = slice(len(inputs) * size, (len(inputs) + 1) * size)
            inputs.append(stream.recipe.interpolation(batch.x, stream.mix))
        hidden = [stream for stream in inside if stream.layer != "head"]
        if in_place and hidden:
            inputs[0] = _seeing_both(batch.x, inside[0].mix)
        elif hidden and isinstance(batch.x, Mapping) and "attention_mask" in batch.x:
            raise InputError(
                f"{self.name} adds mixed samples to unmixed ones at layer {hidden[0].layer!r}, and "
                "the attention_mask has no rows for them: mix at the head (layer='head'), or take "
                "a method without unmixed samples"
            )
        x = inputs[0] if len(inputs) == 1 else _concatenate(inputs)
        by_layer: dict[str, list[_Stream]] = {}
        for stream in inside:
            assert stream.layer is not None
            by_layer.setdefault(stream.layer, []).append(stream)
        rows = _Rows(len(inputs) * size, in_place)
        remembering = [s for s in streams if s.recipe and s.recipe.coefficient.remembers]
        features: list[Tensor] = []
        watching = [s for s in streams if s.recipe and s.recipe.labels.needs_attention]
        attention: list[Tensor] = []
        hooks: list[contextlib.AbstractContextManager[None]] = []
        if watching:
            hooks.append(attending(model, batch.x, attention))
        for layer, mixed in by_layer.items():
            hooks.append(self._inside(model, batch, layer, mixed, rows, features))
        if remembering and "head" not in by_layer:
            hooks.append(self._inside(model, batch, "head", [], rows, features))
        if hooks:
            with contextlib.ExitStack() as stack:
                for hook in hooks:
                    stack.enter_context(hook)
                logits = logits_of(model(x))
        else:  # compilers of torch 2.6 know no ExitStack
            logits = logits_of(model(x))
        # The first rows that enter the head are the unmixed samples', where there are such rows and
        # no layer before has put mixed ones in their place.
        unmixed = len(clean) + len(inside) > 0 and not (in_place and inside[0].layer != "head")
        for stream in remembering:
            assert stream.recipe is not None
            assert not isinstance(stream.mix, MultiMix)  # what remembers draws λ for pairs
            stream.recipe.coefficient.remember(
                batch,
                features[0][:size] if unmixed else features[0][stream.rows],
                None if unmixed else stream.mix,
            )
        for stream in watching:
            assert stream.recipe is not None
            assert isinstance(stream.mix, Mix)
            assert isinstance(stream.target, MixedTarget)
            seen = attention[0][stream.rows]
            stream.target = stream.recipe.labels.refine(stream.mix, stream.target, seen)
        self._check_logits(model, logits, rows.count)
        return logits

    def _learn(self, batch: Batch, stream: _Stream) -> None:
        """Let what makes the masks of a stream learn from its mix, where it learns."""
        assert stream.recipe is not None
        if stream.recipe.interpolation.learns:
            assert isinstance(stream.mix, Mix)
            assert stream.target is not None
            stream.recipe.interpolation.learn(batch, stream.mix, stream.target)

    @contextlib.contextmanager
    def _inside(
        self,
        model: nn.Module,
        batch: Batch,
        layer: str,
        streams: list[_Stream],
        rows: _Rows,
        features: list[Tensor],
    ) -> Iterator[None]:
        """While in the context, mix what passes ``layer`` for these streams.

        What enters the head is kept in ``features``, as it comes.
        """
        size = len(batch)

        def mix(value: Any) -> Any:
            if layer == "head":
                features.append(value.detach())
            if not streams:
                return value
            clean = _first_rows(value, size, rows.count, layer)
            parts = [value]
            for stream in streams:
                assert stream.recipe is not None
                if stream.mix is None:
                    batch.features = clean.detach().flatten(1)
                    stream.draw(batch)
                mixed = stream.recipe.interpolation(clean, stream.mix)
                if rows.in_place:
                    return _replace_first_rows(value, mixed, size)
                stream.rows = slice(rows.count, rows.count + size)
                rows.count += size
                parts.append(mixed)
            return _concatenate(parts)

        if layer == "head":
            if streams:
                check_one_head(model)
            name, side = find_head(model, batch.x, self.head)[0], "input"
        else:
            name, side = layer, "output"
        with tapped(model, name, mix, side=side):  # type: ignore[arg-type]
            yield

    # ------------------------------------------------------------------------------------ checks

    def _check(self, x: Any, y: Tensor, index: Tensor | None) -> None:
        leaves = tensors(x)
        if not leaves:
            raise InputError(f"x must be a tensor or hold tensors, got {type(x).__name__}")
        if not isinstance(y, Tensor):
            raise InputError(f"y must be a tensor, got {type(y).__name__}")
        size = y.shape[0] if y.ndim else 0
        if any((leaf.shape[0] if leaf.ndim else 0) != size for leaf in leaves):
            shapes = ", ".join(str(tuple(leaf.shape)) for leaf in leaves)
            raise InputError(
                f"x and y must be batch-first and equally long: x has shape {shapes}, "
                f"y {tuple(y.shape)}"
            )
        if size == 0:
            raise InputError("x and y hold an empty batch: at least one sample is needed")
        if index is not None and index.shape != (size,):
            raise InputError(
                f"index must have shape ({size},), one position a sample, got {tuple(index.shape)}"
            )
        self._check_y(y)
        device = leaves[0].device
        if torch.compiler.is_compiling():  # what a compiled step changes, it is compiled for again
            if self.progress.device != device:
                raise InputError(
                    f"x is on {device}, {self.name} on {self.progress.device}: "
                    f"move it before its step is compiled, method.to({str(device)!r})"
                )
            return
        first = device != self._checked_device
        if first:
            self.to(device)
            self._checked_device = device
        if device.type != "cpu" and not first:
            return  # looking at values would wait for the device
        for leaf in leaves:
            if leaf.is_floating_point() and not native.all_finite(leaf):
                bad = int((~leaf.isfinite()).sum())
                raise InputError(
                    f"x must be finite, got {bad} NaN or infinite values of {leaf.numel()} "
                    f"in a tensor of shape {tuple(leaf.shape)}"
                )

    def _check_y(self, y: Tensor) -> None:
        classes = "C" if self.num_classes is None else self.num_classes
        if self.task == "multilabel":
            if y.ndim != 2 or self.num_classes not in (None, y.shape[1]):
                raise InputError(
                    f"y must be (B, {classes}) of 0 and 1, or between, in a multilabel task, got "
                    f"{y.dtype} of shape {tuple(y.shape)}; for one class a sample use "
                    "task='classification'"
                )
            if y.device.type == "cpu" and not torch.compiler.is_compiling():
                low, high = (float(end) for end in torch.aminmax(y))
                if low < 0 or high > 1:
                    raise InputError(
                        f"y must hold 0 and 1, or numbers between, got values from {low:g} to "
                        f"{high:g}"
                    )
        elif self.task == "segmentation":
            if y.is_floating_point() or y.ndim < 3:
                raise InputError(
                    "y must hold class indices (B, H, W), one for each position, in segmentation, "
                    f"got {y.dtype} of shape {tuple(y.shape)}"
                )
        elif self.task == "regression":
            if not y.is_floating_point():
                raise InputError(
                    f"y must hold real targets (B,) or (B, K) in regression, got {y.dtype} of "
                    f"shape {tuple(y.shape)}; convert it with y.float()"
                )
        elif y.is_floating_point():
            if y.ndim != 2 or self.num_classes not in (None, y.shape[1]):
                raise InputError(
                    f"y must be class indices (B,) int64 or soft labels (B, {classes}), got "
                    f"{y.dtype} of shape {tuple(y.shape)}; for real targets use task='regression'"
                )
        elif y.ndim != 1 or y.dtype == torch.bool:
            raise InputError(
                "y must be class indices (B,) int64 or soft labels (B, C) floating, got "
                f"{y.dtype} of shape {tuple(y.shape)}"
            )
        elif self.num_classes is not None:
            check_classes("y", y, self.num_classes)

    def _check_logits(self, model: nn.Module, logits: Tensor, rows: int) -> None:
        shape, classes = tuple(logits.shape), self.num_classes
        if not shape or shape[0] != rows:
            wrong = f"must return one row for each sample it is given: it got {rows}, and"
        elif self.task == "regression":
            return
        elif self.task == "segmentation" and len(shape) < 4:
            wrong = "must return logits (B, C, H, W); it"
        elif self.task != "segmentation" and len(shape) != 2:
            wrong = "must return logits (B, C); it"
        elif classes not in (None, shape[1]):
            raise InputError(
                f"num_classes={classes}, but the head of {type(unwrap(model)).__name__} gives "
                f"{shape[1]} logits a sample; the two must agree"
            )
        else:
            return
        raise InputError(f"{type(unwrap(model)).__name__} {wrong} returned shape {shape}")

    def extra_repr(self) -> str:
        return f"name={self.name!r}, num_classes={self.num_classes}, task={self.task!r}"


def _stream(streams: list[_Stream], recipe: Recipe | None) -> _Stream:
    """Return the stream of a recipe, or of the clean samples, which is added where it is new."""
    for stream in streams:
        if stream.recipe is recipe and stream.twin_of is None:
            return stream
    streams.append(_Stream(recipe))
    return streams[-1]


def _seeing_both(x: Any, mix: Mix | MultiMix | None) -> Any:
    """Return the inputs for mixing inside the model: each sequence as long as its partner's.

    In what is mixed after the embedding, positions past the end of the shorter sequence are the
    longer one's. Of a dict of inputs "attention_mask" says which positions are looked at.
    """
    if not isinstance(x, Mapping) or "attention_mask" not in x or mix is None:
        return x
    mask = x["attention_mask"]
    partners = mix.partners.unbind(1) if isinstance(mix, MultiMix) else [mix.partner]
    seen = mask
    for partner in partners:
        seen = torch.maximum(seen, mask.index_select(0, partner))
    alone = mix.lam == 1
    return {**x, "attention_mask": torch.where(alone[:, None], mask, seen)}


def _rows(x: Tensor, rows: slice) -> Tensor:
    return x if rows == slice(0, x.shape[0]) else x[rows]


def _concatenate(parts: list[Any]) -> Any:
    return pytree.tree_map(
        lambda *leaves: torch.cat(leaves) if isinstance(leaves[0], Tensor) else leaves[0], *parts
    )


def _first_rows(value: Any, size: int, rows: int, layer: str) -> Any:
    """Return the first ``size`` rows, the clean samples, of what passes a layer."""
    for leaf in pytree.tree_leaves(value):
        if isinstance(leaf, Tensor) and (leaf.ndim == 0 or len(leaf) != rows):
            raise InputError(
                f"layer {layer!r} passes a tensor of shape {tuple(leaf.shape)}, which is not "
                f"batch-first for the {rows} samples given to the model; choose another layer"
            )
    return pytree.tree_map_only(Tensor, lambda leaf: leaf[:size], value)


def _replace_first_rows(value: Any, rows: Any, size: int) -> Any:
    def replace(old: Any, new: Any) -> Any:
        if not isinstance(old, Tensor) or len(old) == size:
            return new
        return torch.cat([new, old[size:]])

    return pytree.tree_map(replace, value, rows)
