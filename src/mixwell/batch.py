"""What the parts of a method may look at when they draw: the batch, before it is mixed."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor, nn

from mixwell import tasks
from mixwell.checks import check_generator
from mixwell.errors import InputError
from mixwell.functional import pair_distance, pairwise_distance
from mixwell.mix import tensors
from mixwell.tasks import Task
from mixwell.values import joined, map_tensors
from mixwell.view import ModelView

__all__ = ["Batch", "Distance"]

Distance = Literal["features", "input", "label"]

Result = TypeVar("Result")


class Batch:
    """The unmixed batch, and what is known about the step: all that a part may look at.

    Args:
        x: a tensor (B, ...) or a pytree of batch-first tensors.
        y: class indices (B,), soft labels (B, C) or real targets (B,) or (B, K).
        index: (B,) positions in the training set, or None.
        data: the training set's own (x, y), in memory, for partners from all of it; or None.
        generator: the source of randomness, or None for the default ones.
        progress: 0-d tensor, training progress in [0, 1].
        features: computes the features (B, d) of the unmixed samples in the model's place.
        look: computes what the model looks at, by kind, in its place; see :meth:`look`.
        model: the model that is trained, or a view of it; None where there is none (in a preview).
        task: "classification", "multilabel", "segmentation" or "regression", or a task's object.

    Attributes:
        view: what may be asked of the model, a :class:`mixwell.view.ModelView`; None without one.
        task: the :class:`mixwell.tasks.Task`.
    """

    def __init__(
        self,
        x: Any,
        y: Tensor,
        *,
        index: Tensor | None = None,
        data: tuple[Any, Tensor] | None = None,
        generator: torch.Generator | None = None,
        progress: Tensor | None = None,
        features: Callable[[], Tensor] | None = None,
        look: Callable[[str], Tensor] | None = None,
        model: nn.Module | ModelView | None = None,
        task: str | Task = "classification",
    ) -> None:
        self.x, self.y, self.index = x, y, index
        self.generator = check_generator("generator", generator)
        self.data = data
        self.task = tasks.get(task)
        self.view = ModelView(model, x, y, self.task) if isinstance(model, nn.Module) else model
        self.progress = torch.zeros((), dtype=torch.float32) if progress is None else progress
        self._features, self._look = features, look
        self._seen: dict[Hashable, Any] = {}
        leaves = tensors(x)
        self._first = leaves[0] if leaves else y

    def beside(self, places: Tensor) -> Batch:
        """Return the batch with so many samples of the training data behind its own: 2 B rows.

        Args:
            places: (B,) int64, their positions in ``data``.
        """
        assert self.data is not None
        x, y = self.data

        def with_partners(own: Tensor, all_of_them: Tensor) -> Tensor:
            rows = all_of_them.index_select(0, places.to(all_of_them.device))
            return joined(own, rows.to(own))

        return Batch(
            map_tensors(with_partners, self.x, x),
            with_partners(self.y, y),
            generator=self.generator,
            progress=self.progress,
            task=self.task,
        )

    @property
    def model(self) -> nn.Module | None:
        """The model that is trained; None where there is none."""
        return None if self.view is None else self.view.model

    def __len__(self) -> int:
        return self.y.shape[0]

    @property
    def device(self) -> torch.device:
        """The device of the inputs."""
        return self._first.device

    @property
    def features(self) -> Tensor:
        """(B, d), the features of the unmixed samples, without gradient."""
        if self._features is not None:
            return self.once("features", self._features)
        if self.view is None:
            raise InputError(
                "distance='features' needs the model's features: call method(model, x, y), "
                "or choose distance='input' or 'label'"
            )
        return self.view.features()

    @features.setter
    def features(self, value: Tensor) -> None:
        self._features, self._seen["features"] = lambda: value, value

    def look(self, kind: str) -> Tensor:
        """Return where the model looks in the unmixed samples, without gradient.

        Each kind takes a pass of the model in evaluation mode, once a step.

        Args:
            kind: "gradient": (B, H, W), the size of the loss's gradient at each pixel; "maps":
                (B, d, h, w), the last feature maps; "cam": (B, h, w), the class activation map of
                each sample's class; "attention": (B, h, w), a vision transformer's attention
                of its class token. All but the maps are ≥ 0 and sum to 1 over positions. Or one
                that was registered by :func:`mixwell.view.register_look`.

        Raises:
            InputError: there is no model to look with, or this one has nothing of the kind.
        """
        if self._look is not None:
            compute = self._look
            return self.once(("look", kind), lambda: compute(kind))
        if self.view is None:
            raise InputError(
                f"this way of mixing asks the model where it looks ({kind}): call "
                "method(model, x, y), or preview(x, y, model=model)"
            )
        return self.view.look(kind)

    def once(self, key: Hashable, compute: Callable[[], Result]) -> Result:
        """Return what ``compute()`` gives, computed at most once a step under ``key``."""
        if key not in self._seen:
            self._seen[key] = compute()
        return cast(Result, self._seen[key])

    @property
    def classes(self) -> Tensor:
        """(B,) class indices; of soft labels the most probable class."""
        if self.task.has_classes and not self.task.one_class:
            raise InputError(
                f"samples have no one class in task={self.task.name!r}, and this way of pairing or "
                "weighing asks for it; choose one that looks at inputs or features"
            )
        return self.y.argmax(1) if self.y.is_floating_point() and self.y.ndim == 2 else self.y

    def count(self, counts: Tensor) -> Tensor:
        """Return what ``counts`` (C,) holds for each sample's class: (B,)."""
        classes = self.classes
        try:
            return counts.index_select(0, classes)
        except (IndexError, RuntimeError) as error:
            low, high = (int(end) for end in torch.aminmax(classes))
            if low >= 0 and high < len(counts):
                raise
            raise InputError(
                f"class_counts holds {len(counts)} classes, but y has values from {low} to {high}"
            ) from error

    def measured(self, distance: str) -> Tensor:
        """Return what a distance compares: (B, ...)."""
        if distance == "features":
            return self.features
        if distance == "label":
            if self.y.is_floating_point():
                return self.y
            # Different classes are all equally far apart, whatever their numbers, and however many
            # samples they have here: at right angles, on the sphere.
            same = (self.y[:, None] == self.y[None, :]).float()
            return same / same.sum(1, keepdim=True).sqrt()
        if len(tensors(self.x)) != 1:
            raise InputError(
                "distance='input' needs x to be one tensor, got several; "
                "choose distance='features' or 'label'"
            )
        return self._first

    def measure(self, distance: str, partner: Tensor, *, squared: bool = True) -> Tensor:
        """Return each sample's (squared) L2 distance to its partner: (B,)."""
        return pair_distance(self.measured(distance), partner, squared=squared)

    def measure_all(self, distance: str) -> Tensor:
        """Return the squared L2 distance of all pairs: (B, B)."""
        return pairwise_distance(self.measured(distance))

    # Randomness: drawn on the generator's device where there is one, else on the batch's.

    def _draw(self, function: Callable[..., Tensor], *args: Any, **options: Any) -> Tensor:
        if self.generator is None:
            return function(*args, device=self.device, **options)
        device = self.generator.device
        drawn = function(*args, generator=self.generator, device=device, **options)
        return drawn.to(self.device)

    def rand(self, *shape: int) -> Tensor:
        """Return uniform numbers in [0, 1) of this shape."""
        return self._draw(torch.rand, shape, dtype=torch.float32)

    def randn(self, *shape: int) -> Tensor:
        """Return normal numbers of this shape."""
        return self._draw(torch.randn, shape, dtype=torch.float32)

    def randperm(self) -> Tensor:
        """Return a random permutation of the batch: (B,) int64."""
        return self._draw(torch.randperm, len(self))

    def choose(self, count: int) -> int:
        """Return a random whole number below ``count``, drawn on the CPU: no device waits."""
        on_cpu = self.generator is not None and self.generator.device.type == "cpu"
        generator = self.generator if on_cpu else None
        return int(torch.randint(count, (), generator=generator, device="cpu"))
