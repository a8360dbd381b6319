"""One pass of the model over all groups of rows that a step's plan asks for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from mixwell.batch import Batch
from mixwell.errors import InputError, say
from mixwell.methods.plan import CleanGroup, Drawn, MixedGroup, Plan, TwinGroup
from mixwell.methods.recipe import Recipe
from mixwell.mix import Mix, MixedTarget, MultiMix, MultiTarget
from mixwell.values import joined, map_tensors, tensors
from mixwell.view import ModelView, check_not_checkpointed, copied, logits_of
from mixwell.view.trace import mask_places, others_of

__all__ = ["CleanRows", "MixedRows", "Pass"]


class CleanRows:
    """The rows of the unmixed samples."""

    def __init__(self, batch: Batch) -> None:
        self.mix: Mix | MultiMix = Mix.identity(len(batch), batch.device)
        self.target: MixedTarget | MultiTarget = MixedTarget.clean(batch.y)
        self.rows = slice(0, len(batch))


class MixedRows:
    """The rows of a group that is mixed: where, how, and which they are.

    How they are mixed is drawn when it is first asked: where mixing at the head needs the features
    that enter it, that is in the middle of the pass.

    Args:
        group: what the plan says of them.
        layer: None for the input, "head" for what enters the classifier, or a layer's name.
        draw: draws how they are mixed.
    """

    def __init__(
        self, group: MixedGroup | TwinGroup, layer: str | None, draw: Callable[[], Drawn]
    ) -> None:
        self.recipe, self.layer, self._draw = group.recipe, layer, draw
        self.rows = slice(0, 0)
        self._drawn: Drawn | None = None
        self._refined: MixedTarget | None = None

    @property
    def is_late(self) -> bool:
        """Whether they are drawn when their features come by, in the pass itself."""
        return self.layer == "head" and self.recipe.needs_features

    def drawn(self) -> Drawn:
        """Return how they are mixed and their targets, drawn at the first call."""
        if self._drawn is None:
            self._drawn = self._draw()
        return self._drawn

    @property
    def mix(self) -> Mix | MultiMix:
        """How they are mixed."""
        return self.drawn()[0]

    @property
    def target(self) -> MixedTarget | MultiTarget:
        """Their targets; after the pass, as what the model attended to has refined them."""
        return self.drawn()[1] if self._refined is None else self._refined

    def mixed(self, x: Any) -> Any:
        """Return ``x``, the unmixed samples or what a layer made of them, mixed."""
        return self.recipe.interpolation(x, self.mix)

    def seeing_both(self, x: Any, masks: tuple[str, ...]) -> Any:
        """Return ``x`` with masks in which each sample sees what its partner does, too."""
        return _seeing_both(x, self.mix, masks)

    def refine(self, attention: Tensor) -> None:
        """Let the targets follow the attention (B, h, w) that the model paid to these rows."""
        mix, target = self.drawn()
        assert isinstance(mix, Mix)  # what is labelled by attention is mixed by place, in pairs
        assert isinstance(target, MixedTarget)
        self._refined = self.recipe.labels.refine(mix, target, attention)


class RowsWithData(MixedRows):
    """Rows whose partners come from the training data.

    At a layer the partners go through the model as far as that as rows of their own, which nobody
    reads after it.

    Args:
        group: what the plan says of them.
        layer: None for the input, or the name of a layer.
        batch: the unmixed batch, which knows the data.
    """

    def __init__(self, group: MixedGroup, layer: str | None, batch: Batch) -> None:
        super().__init__(group, layer, self._draw_with)
        self._batch = batch
        self.partners = slice(0, 0)

    def _draw_with(self) -> Drawn:
        self.wide, self._wide_mix, target = self.recipe.draw_with_data(self._batch)
        mix, target = self._own((self._wide_mix, target))
        return mix, target

    def _own(self, value: Any) -> Any:
        """Return the batch's own rows of something of 2 B rows."""
        size = len(self._batch)
        return map_tensors(lambda leaf: leaf[:size], value)

    def mixed(self, x: Any) -> Any:
        """Return the batch's own rows mixed, of ``x`` with 2 B rows: the partners' behind."""
        self.drawn()
        return self._own(self.recipe.interpolation(x, self._wide_mix))

    def seeing_both(self, x: Any, masks: tuple[str, ...]) -> Any:
        self.drawn()
        return self._own(_seeing_both(self.wide.x, self._wide_mix, masks))

    def behind(self) -> Any:
        """Return the partners as the model takes them: (B, ...)."""
        self.drawn()
        size = len(self._batch)
        return map_tensors(lambda leaf: leaf[size:], self.wide.x)


class Pass:
    """A plan, run: every group drawn and placed, then all rows through the model at once.

    Rows that are mixed at the input follow each other. What is mixed at a layer starts from the
    unmixed rows, which come first; at the layer its rows are put behind all others, or, where
    nothing else needs the unmixed ones, in their place.

    Args:
        plan: what to run.
        batch: the unmixed batch.
        view: the model.
        owner: the method's name, for messages.

    Attributes:
        groups: the rows of each of the plan's groups, after :meth:`run` with all that they hold.
    """

    def __init__(self, plan: Plan, batch: Batch, view: ModelView, owner: str) -> None:
        self.batch, self.view, self.owner = batch, view, owner
        self.size = self.count = len(batch)
        self.groups: list[CleanRows | MixedRows] = []
        for group in plan.groups:  # drawn in this order, each as soon as its place is known
            if isinstance(group, CleanGroup):
                self.groups.append(CleanRows(batch))
            else:
                self.groups.append(self._place(plan, group))
        mixed = [rows for rows in self.groups if isinstance(rows, MixedRows)]
        self.mixed = mixed
        self.clean = [rows for rows in self.groups if isinstance(rows, CleanRows)]
        self.at_input = [rows for rows in mixed if rows.layer is None]
        self.inside = [rows for rows in mixed if rows.layer is not None]
        self.in_place = len(self.inside) == 1 and not self.clean
        self.features: list[Tensor] = []
        self.attention: list[Tensor] = []

    # ------------------------------------------------------------------------------ before the pass

    def _place(self, plan: Plan, group: MixedGroup | TwinGroup) -> MixedRows:
        """Decide where a group is mixed, and draw how."""
        sibling = None
        for number, other in enumerate(plan.groups[: len(self.groups)]):
            if other is group.beside:
                sibling = self.groups[number]
        if isinstance(sibling, MixedRows):  # which comes before, and mixes at the same layer
            layer = sibling.layer
        else:
            layer = group.recipe.interpolation.layer(self.batch, self.view.model)
        if isinstance(group, TwinGroup):
            rows = MixedRows(group, layer, lambda: self._twin(group, sibling))
        elif group.recipe.draws_from(self.batch):
            rows = RowsWithData(group, layer, self.batch)
        else:
            rows = MixedRows(group, layer, lambda: group.draw(self.batch))
        if not rows.is_late:
            group.recipe.learn(self.batch, *rows.drawn())
        return rows

    def _twin(self, group: TwinGroup, sibling: CleanRows | MixedRows | None) -> Drawn:
        assert sibling is not None
        assert isinstance(sibling.mix, Mix)  # as Term sees to
        return group.draw_from(self.batch, sibling.mix)

    def run(self) -> Tensor:
        """Return the logits of all rows."""
        x = self._inputs()
        hooks = self._hooks()
        if hooks:
            given = self.count
            with contextlib.ExitStack() as stack:
                for hook in hooks:
                    stack.enter_context(hook)
                try:
                    logits = self._logits(self.view.model(x))
                except torch.OutOfMemoryError:
                    raise
                except RuntimeError as error:
                    if self.count > given:
                        raise self._remembers(given, error) from error
                    raise
        else:  # compilers of torch 2.6 know no ExitStack
            logits = self._logits(self.view.model(x))
        self._remember()
        for rows in self.mixed:
            if rows.recipe.labels.needs_attention:
                rows.refine(self.attention[0][rows.rows])
        return logits

    def _logits(self, output: Any) -> Tensor:
        """Return the logits in what the model returned; say where others like them are left out."""
        logits = logits_of(output)
        if isinstance(output, (tuple, list)) and not torch.compiler.is_compiling():
            alike = [other for other in others_of(output, logits) if other.shape == logits.shape]
            if alike:
                self.view.known("several logits", lambda: self._say_left_out(len(alike)))
        return logits

    def _say_left_out(self, count: int) -> None:
        say(
            f"{self.view.owner} returns {count + 1} outputs of the shape of logits: the first is "
            f"trained, and the other {'one is' if count == 1 else f'{count} are'} left out; put "
            "the one that is meant first, or return it under 'logits'"
        )

    def _remembers(self, given: int, error: RuntimeError) -> InputError:
        """Return the error of a model that failed after rows were added in its midst."""
        layer = self.inside[0].layer
        return InputError(
            f"{self.owner} adds mixed samples to unmixed ones at layer {layer!r}, and "
            f"{self.view.owner} went on as for the {given} rows that it was given: "
            f"{str(error).splitlines()[0]}. A model that remembers how large its batch was "
            "(x.view(B, ...), token.expand(B, ...)) can't be given more rows in its midst: mix at "
            "the input (layer='input'), or take a method without unmixed samples"
        )

    def _inputs(self) -> Any:
        """Return what the model is given, and settle which rows are whose."""
        inputs = []
        if self.clean or self.inside:
            inputs.append(self._unmixed())
            if self.in_place:
                self.inside[0].rows = slice(0, self.size)
        for rows in self.at_input:
            first = len(inputs) * self.size
            rows.rows = slice(first, first + self.size)
            rows.drawn()
            x = rows.wide.x if isinstance(rows, RowsWithData) else self.batch.x
            inputs.append(rows.mixed(x))
        for rows in self.inside:
            if isinstance(rows, RowsWithData):
                first = len(inputs) * self.size
                rows.partners = slice(first, first + self.size)
                inputs.append(rows.behind())
        self.count = len(inputs) * self.size
        return inputs[0] if len(inputs) == 1 else _concatenate(inputs)

    def _unmixed(self) -> Any:
        """Return the unmixed samples as the model is given them."""
        x = self.batch.x
        if not self.inside or torch.compiler.is_compiling():
            return x
        masks = self._check_layers()
        if self._alone() and self.view.changes_input:
            x = copied(x)
        return self.inside[0].seeing_both(x, masks) if masks else x

    def _alone(self) -> bool:
        """Whether the unmixed samples are all that the model is given: the batch's own memory."""
        behind = any(isinstance(rows, RowsWithData) for rows in self.inside)
        return not (self.at_input or behind)

    def _check_layers(self) -> tuple[str, ...]:
        """Refuse layers that something goes around; return the masks that are to be joined."""
        masks: tuple[str, ...] = ()
        for rows in self.inside:
            assert rows.layer is not None
            if rows.layer == "head":
                self.view.check_layer(self.view.head(), "input")
                continue
            masks = mask_places(self.batch.x)
            if masks and not self.in_place:
                raise InputError(
                    f"{self.owner} adds mixed samples to unmixed ones at layer {rows.layer!r}, and "
                    f"the {masks[0]} has no rows for them: mix at the head (layer='head'), or take "
                    "a method without unmixed samples"
                )
            self.view.check_layer(rows.layer, "output", masks)
        return masks

    # ------------------------------------------------------------------------------- in the pass

    def _hooks(self) -> list[contextlib.AbstractContextManager[None]]:
        """Return what is to be entered while the model runs."""
        hooks: list[contextlib.AbstractContextManager[None]] = []
        if any(rows.recipe.labels.needs_attention for rows in self.mixed):
            hooks.append(self.view.attending(self.attention))
        by_layer: dict[str, list[MixedRows]] = {}
        for rows in self.inside:
            assert rows.layer is not None
            by_layer.setdefault(rows.layer, []).append(rows)
        if self._remembering():
            by_layer.setdefault("head", [])
            if not torch.compiler.is_compiling():
                self.view.check_rows(self.view.head(), "input")
        for recipe in {id(rows.recipe): rows.recipe for rows in self.mixed}.values():
            hooks += self._ahead(recipe, by_layer)
        for layer, mixed in by_layer.items():
            hooks.append(self._tapped(layer, mixed))
        return hooks

    def _ahead(
        self, recipe: Recipe, tapped: Mapping[str, object]
    ) -> list[contextlib.AbstractContextManager[None]]:
        """See to the layers at which a recipe mixes in other steps, but not in this one.

        A compiled model is tapped at all of them before its first run. In the first step it is
        looked at whether mixing there would be right, not in the step in which one is drawn.
        """
        interpolation = recipe.interpolation
        if list(interpolation.layers) == ["input"] or torch.compiler.is_compiling():
            return []

        def others() -> list[str]:
            names = interpolation.candidates(self.batch, self.view.model)
            return [name for name in names if name not in tapped]

        return self.view.look_ahead(others, interpolation)

    def _tapped(
        self, layer: str, mixed: list[MixedRows]
    ) -> contextlib.AbstractContextManager[None]:
        """Return a context in which what passes ``layer`` is mixed for these rows."""
        if layer == "head":
            name = self.view.head()
            return self.view.tapped(name, lambda value: self._at(name, mixed, value), side="input")
        return self.view.tapped(layer, lambda value: self._at(layer, mixed, value))

    def _at(self, layer: str, mixed: list[MixedRows], value: Any) -> Any:
        """Return what goes on from a layer, the rows mixed there among it."""
        if not mixed:
            self.features.append(value.detach())
            return value
        if not torch.compiler.is_compiling():  # a compiler runs the segment with what is mixed
            check_not_checkpointed(layer, self.view.owner)
        clean = _first_rows(value, self.size, self.count, layer)
        at_head = mixed[0].layer == "head"
        if at_head:
            self.features.append(value.detach())
            if any(rows.is_late for rows in mixed):
                self.view.give_features(clean.detach().flatten(1))
        parts = [value]
        for rows in mixed:
            own = clean
            if isinstance(rows, RowsWithData):
                own = _concatenate([clean, _rows_within(value, rows.partners)])
            part = rows.mixed(own)
            if self.in_place:
                return _replace_first_rows(value, part, self.size)
            rows.rows = slice(self.count, self.count + self.size)
            self.count += self.size
            parts.append(part)
        return _concatenate(parts)

    # ------------------------------------------------------------------------------ after the pass

    def _remembering(self) -> list[MixedRows]:
        return [rows for rows in self.mixed if rows.recipe.coefficient.remembers]

    def _remember(self) -> None:
        """Hand the features that came by to what remembers them."""
        # The first rows that enter the head are the unmixed samples', where there are such rows and
        # no layer before has put mixed ones in their place.
        remembering = self._remembering()
        if not remembering:
            return
        unmixed = len(self.clean) + len(self.inside) > 0 and not (
            self.in_place and self.inside[0].layer != "head"
        )
        for rows in remembering:
            assert isinstance(rows.mix, Mix)  # what remembers draws λ for pairs
            features = self.features[0][slice(0, self.size) if unmixed else rows.rows]
            rows.recipe.coefficient.remember(self.batch, features, None if unmixed else rows.mix)


# --------------------------------------------------------------------------------------------- rows


def rows_of(x: Tensor, rows: slice) -> Tensor:
    """Return these rows of ``x``; ``x`` itself where they are all."""
    return x if rows == slice(0, x.shape[0]) else x[rows]


def _concatenate(parts: list[Any]) -> Any:
    return map_tensors(joined, *parts)


def _first_rows(value: Any, size: int, rows: int, layer: str) -> Any:
    """Return the first ``size`` rows, the clean samples, of what passes a layer."""
    for leaf in tensors(value):
        if leaf.is_nested or leaf.layout != torch.strided:
            raise InputError(
                f"layer {layer!r} passes a nested or sparse tensor, whose rows can't be mixed; "
                "choose another layer, or mix at the input"
            )
        if leaf.ndim == 0 or len(leaf) != rows:
            raise InputError(
                f"layer {layer!r} passes a tensor of shape {tuple(leaf.shape)}, which is not "
                f"batch-first for the {rows} samples given to the model; choose another layer"
            )
    return map_tensors(lambda leaf: leaf[:size], value)


def _rows_within(value: Any, rows: slice) -> Any:
    """Return some of the rows of what passes a layer."""
    return map_tensors(lambda leaf: leaf[rows], value)


def _replace_first_rows(value: Any, rows: Any, size: int) -> Any:
    def replace(old: Tensor, new: Tensor) -> Tensor:
        return new if len(old) == size else joined(new, old[size:])

    return map_tensors(replace, value, rows)


def _seeing_both(x: Mapping[str, Any], mix: Mix | MultiMix, masks: tuple[str, ...]) -> Any:
    """Return the inputs for mixing inside the model: each sequence as long as its partner's.

    In what is mixed after the embedding, positions past the end of the shorter sequence are the
    longer one's: masks (1 or True where it is looked at, or 0 there and less elsewhere, to be
    added) and lengths are the larger of both.
    """
    partners = mix.partners.unbind(1) if isinstance(mix, MultiMix) else [mix.partner]
    joined = {}
    for name in masks:
        mask = seen = x[name]
        for partner in partners:
            other = mask.index_select(0, partner.to(mask.device))
            seen = seen | other if mask.dtype == torch.bool else torch.maximum(seen, other)
        alone = (mix.lam == 1).to(mask.device).view(-1, *[1] * (mask.ndim - 1))
        joined[name] = torch.where(alone, mask, seen)
    return {**x, **joined}
