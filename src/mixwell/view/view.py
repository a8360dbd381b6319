"""One object for what may be asked of a model in a step."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable
from typing import Any, ClassVar, Literal, Protocol, TypeVar, cast

from torch import Tensor, nn

from mixwell.errors import InputError, suggest
from mixwell.view import saliency
from mixwell.view.attention import attending, attention_of, token_grid
from mixwell.view.cache import among, facts
from mixwell.view.head import capture_features, check_carries_all, find_head
from mixwell.view.hooks import (
    Side,
    check_not_checkpointed,
    is_compiled,
    own_name,
    tap_ahead,
    tapped,
    unwrap,
)
from mixwell.view.maps import Maps, find_maps
from mixwell.view.rows import misplaced
from mixwell.view.stages import stages
from mixwell.view.trace import kind_of, mask_places, trace

__all__ = ["ModelView", "looks", "register_look"]

Result = TypeVar("Result")

Tapped = contextlib.AbstractContextManager[None]
"""What is entered while the model runs."""

_LOOKS: dict[str, Callable[[ModelView], Tensor]] = {}


class Task(Protocol):
    """A task as a view sees it: what unmixed samples are worth, and whether they have a class."""

    name: ClassVar[str]
    has_classes: ClassVar[bool]
    by_position: ClassVar[bool]

    def check_y(self, y: Tensor, num_classes: int | None) -> None:
        """Raise an InputError unless targets are of the task's kind and of so many classes."""
        ...

    def check_logits(self, logits: Tensor, num_classes: int | None, owner: str) -> None:
        """Raise an InputError unless logits are of the task's shape."""
        ...

    def check_fit(self, logits: Tensor, y: Tensor, owner: str) -> None:
        """Raise an InputError unless logits and y are of the same classes."""
        ...

    def summed_loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return the sum of the unmixed samples' losses."""
        ...


class ModelView:
    """A model as the parts of a method see it in one step: what it makes of the unmixed samples.

    Each thing is computed at most once a step, on a copy of the input, without gradient, and leaves
    the model as it was: its modes, buffers, gradients, hooks and the random state.

    Args:
        model: any module; wrappers (DDP, torch.compile) are looked through.
        x: (B, ...) or a pytree of it: the unmixed samples.
        y: their targets, as :meth:`mixwell.Method.step` takes them.
        task: what y is.
        head: the name of the classifier head, where it should not be searched for.
        feature_mode: how a pass for features and maps runs: "eval", or "train" with the batch's own
            statistics.
    """

    def __init__(
        self,
        model: nn.Module,
        x: Any,
        y: Tensor,
        task: Task,
        head: str | None = None,
        feature_mode: Literal["eval", "train"] = "eval",
    ) -> None:
        self.model, self.x, self.y, self.task = model, x, y, task
        self.named_head, self.feature_mode = head, feature_mode
        self._seen: dict[Hashable, Any] = {}
        self._facts: dict[Hashable, Any] | None = None

    def known(self, key: Hashable, find: Callable[[], Result]) -> Result:
        """Return a fact about the model that holds until it is made otherwise, found once.

        Args:
            key: what is asked, with all that the answer depends on beside model and kind of input.
            find: finds it out.
        """
        if self._facts is None:  # whether they still hold is asked once a step
            self._facts = among(facts(self.model), kind_of(self.x), dict)
        return among(self._facts, key, find)

    def once(self, key: Hashable, compute: Callable[[], Result]) -> Result:
        """Return what ``compute()`` gives, computed at most once a step under ``key``."""
        if key not in self._seen:
            self._seen[key] = compute()
        return cast(Result, self._seen[key])

    @property
    def owner(self) -> str:
        """The model's class, for messages."""
        return type(unwrap(self.model)).__name__

    def head(self) -> str:
        """Return the name of the classifier head; see :func:`mixwell.view.find_head`."""
        named = self.named_head
        return self.known(("head", named), lambda: find_head(self.model, self.x, named)[0])

    def features(self) -> Tensor:
        """Return what enters the classifier head: (B, d)."""

        def compute() -> Tensor:
            self.check_rows(self.head(), "input")
            return capture_features(self.model, self.x, self.named_head, self.feature_mode)[1]

        return self.once("features", compute)

    def give_features(self, features: Tensor) -> None:
        """Say what enters the head, where the pass that is trained has shown it already."""
        self._seen["features"] = features

    def stages(self) -> list[str]:
        """Return the first half of the model's stages; see :func:`mixwell.view.stages`."""
        return self.known("stages", lambda: stages(self.model, self.x))

    def last_maps(self, *, once: bool = False) -> Maps:
        """Return where the last feature maps are; see :func:`mixwell.view.find_maps`."""
        return find_maps(self.model, self.x, self.named_head, once=once)

    def maps(self) -> Tensor:
        """Return the last feature maps before the head: (B, d, h, w) float32."""
        layer = self.last_maps().layer

        def compute() -> Tensor:
            self.check_rows(layer, "output")
            return saliency.maps(self.model, self.x, layer, self.feature_mode)

        return self.once("maps", compute)

    def attention(self) -> Tensor:
        """Return a vision transformer's attention of its class token: (B, h, w), sums of 1."""
        return self.once("attention", lambda: attention_of(self.model, self.x))

    def token_grid(self) -> tuple[int, int]:
        """Return (h, w), the grid of patches of a vision transformer."""
        return token_grid(self.model, self.x)

    def saliency(self, kind: str = "gradient") -> Tensor:
        """Return where the model looks: (B, H, W) or (B, h, w), ≥ 0, each summing to 1.

        Args:
            kind: "gradient", the size of the loss's gradient at each pixel; "cam", the class
                activation map of each sample's class.
        """
        if kind == "gradient":
            return self.once(
                kind, lambda: saliency.gradient(self.model, self.x, self._loss, self.feature_mode)
            )
        if kind != "cam":
            raise InputError(f"kind={kind!r} is unknown; known: 'gradient', 'cam'")
        if not self.task.has_classes or self.task.by_position:
            raise InputError(
                f"class activation maps are of a sample's class: task={self.task.name!r} has none"
            )

        def compute() -> Tensor:
            return saliency.activation(
                self.model, self.maps(), self.y, self.last_maps(), self.task.check_y
            )

        return self.once(kind, compute)

    def _loss(self, logits: Tensor) -> Tensor:
        """Return the samples' summed loss, of logits that are of the task's shape."""
        self.task.check_logits(logits, None, self.owner)
        if len(logits) != len(self.y):
            raise InputError(
                f"{self.owner} must return one row for each sample it is given: it got "
                f"{len(self.y)}, and returned shape {tuple(logits.shape)}"
            )
        self.task.check_fit(logits, self.y, self.owner)
        return self.task.summed_loss(logits, self.y)

    def look(self, kind: str) -> Tensor:
        """Return a look by its name: one of :func:`looks`, yours among them.

        Raises:
            InputError: there is none of the name, or the model has nothing of the kind.
        """
        if kind not in _LOOKS:
            known = ", ".join(repr(name) for name in _LOOKS)
            raise InputError(f"kind={kind!r} is unknown{suggest(kind, _LOOKS)}; known: {known}")
        return self.once(("look", kind), lambda: _LOOKS[kind](self))

    # ----------------------------------------------------------------- in the pass that is trained

    def tapped(
        self,
        layer: str,
        function: Callable[[Any], Any],
        *,
        side: Side = "output",
    ) -> Tapped:
        """Pass what enters or leaves a layer through a function; see :func:`tapped`."""
        return tapped(self.model, layer, function, side=side)

    def attending(self, seen: list[Tensor]) -> Tapped:
        """Read the attention of the pass that runs in the context; see :func:`attending`."""
        return attending(self.model, self.x, seen)

    def look_ahead(self, layers: Callable[[], list[str]], who: Hashable) -> list[Tapped]:
        """See to layers at which other steps will mix, in the first step.

        A compiled model is tapped at all of them before its first run. Of another it is looked at
        whether all passes each of them, and whether the backward pass will run it anew.

        Args:
            layers: returns their names; "head" is the classifier head's input.
            who: will mix there.

        Returns:
            What is to be entered while the model runs.
        """
        looked: list[bool] = self.known(("looked ahead", who), list)
        if looked:
            return []
        looked.append(True)
        names = layers()
        if is_compiled(self.model):
            tap_ahead(self.model, [name for name in names if name != "head"], "output")
            tap_ahead(self.model, [self.head()] if "head" in names else [], "input")
            return []
        return [self._looked(name) for name in names if name != "head"]

    def _looked(self, layer: str) -> Tapped:
        self.check_layer(layer, "output", mask_places(self.x))

        def look(value: Any) -> Any:
            check_not_checkpointed(layer, self.owner)
            return value

        return tapped(self.model, layer, look, side="output")

    def check_layer(self, layer: str, side: Side, mixed: tuple[str, ...] = ()) -> None:
        """Raise an InputError where something goes around a layer that is to be mixed.

        See :func:`mixwell.view.check_carries_all`.
        """
        self.known(
            ("carries all", layer, side, mixed),
            lambda: check_carries_all(self.model, self.x, layer, side, mixed),
        )
        self.check_rows(layer, side)

    def check_rows(self, layer: str, side: Side) -> None:
        """Raise an InputError where what enters or leaves a layer has not the samples' rows.

        They are to be those of the batch, in its order: what is mixed, or measured, there is put
        together with labels by its place.
        """

        def check() -> None:
            if (own_name(self.model, layer), side) in misplaced(self.model, self.x):
                raise InputError(reason)

        reason = (
            f"layer {layer!r} of {self.owner} has not the samples' rows in the order of the batch "
            "(it sorts, shuffles or regroups them before, or another dimension comes first, as "
            "time in RNNs without batch_first): choose another layer, or mix at the input"
        )
        self.known(("rows", layer, side, len(self.y) > 1), check)

    @property
    def changes_input(self) -> bool:
        """Whether the model changes its input in place."""
        return self.known("changes input", lambda: trace(self.model, self.x).changes_input)


def register_look(kind: str, look: Callable[[ModelView], Tensor]) -> None:
    """Make a look of your own known to ``batch.look(kind)``.

    Args:
        kind: its name.
        look: computes it from the view, once a step: from ``view.features()``, a pass of
            ``view.model`` under :func:`mixwell.view.inference`, or whatever it likes.

    Raises:
        InputError: the name is taken.
    """
    if kind in _LOOKS:
        raise InputError(f"kind={kind!r} is taken: there is a look of this name already")
    _LOOKS[kind] = look


def looks() -> list[str]:
    """Return the names of all looks."""
    return sorted(_LOOKS)


register_look("gradient", lambda view: view.saliency("gradient"))
register_look("cam", lambda view: view.saliency("cam"))
register_look("maps", ModelView.maps)
register_look("attention", ModelView.attention)
