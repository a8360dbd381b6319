"""Models that others wrote, small and untrained, each with what is true of its head declared.

What is declared is the ground on which the tests stand: they read and mix at the declared head by
hooks of their own, and never ask the library where the head is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

CLASSES = 5
SIZE = 6
LABELS = (0, 1, 2, 3, 4, 1)


@dataclass
class Foreign:
    """A model, a batch for it, and what is true of it.

    Attributes:
        model: what the method is given.
        x: a batch of six, of which the model is a function row by row.
        y: its targets.
        core: the module that layers' names refer to, called by hand.
        head: the name of the one head whose input becomes the logits; None where there is none.
        rivals: the heads, where several make the logits or stand beside each other.
        inner: a layer that all paths pass, whose output is batch-first.
        stages: whether manifold mixup finds layers in its first half at which mixing is not the
            same as at the input (as after an affine layer it is).
        maps: a layer whose output is the last feature maps; None where there are none.
        expect: by kind of work ("head", "head_rows", "features", "auto", ...), "right", "refuse"
            or "either"; see test_matrix.
        tolerance: of logits, relative to their size.
        context: in which steps and passes by hand run.
        adds_hooks: the model is compiled, and keeps idle hooks.
        own_gradients: gradients can be compared parameter by parameter.
        images: x is a batch of images, for methods that mix by place.
        vit: a plain vision transformer, whose attention can be read.
        changes_x: the model changes its input in place.
        warns: a step may warn, of probabilities.
        keyword: what the head's argument is called, where it is given by keyword.
        process: it needs a process group.
        pick: what returns the logits in the model's output, where that is not usual.
        apart: what returns the features, of core and x, and the logits, of core and features,
            where what enters the head holds more than the features.
    """

    model: nn.Module
    x: Any
    y: Tensor
    core: nn.Module
    head: str | None
    rivals: tuple[str, ...] = ()
    inner: str | None = None
    stages: bool = True
    maps: str | None = None
    task: str = "classification"
    expect: dict[str, str] = field(default_factory=dict)
    tolerance: float = 1e-9
    context: Callable[[], Any] = contextlib.nullcontext
    adds_hooks: bool = False
    own_gradients: bool = True
    images: bool = True
    vit: bool = False
    changes_x: bool = False
    warns: bool = False
    keyword: str | None = None
    process: bool = False
    pick: Callable[[Any], Tensor] | None = None
    apart: tuple[Callable[..., Tensor], Callable[..., Tensor]] | None = None

    def logits(self, output: Any) -> Tensor:
        """Return the logits in what ``core`` returned."""
        if self.pick is not None:
            return self.pick(output)
        if isinstance(output, dict) and "logits" in output:
            return output["logits"]
        if isinstance(output, tuple) and not hasattr(output, "logits"):
            return output[0]
        return getattr(output, "logits", output)


MAKERS: dict[str, Callable[[], Foreign]] = {}
TRUTHS: dict[str, dict[str, Any]] = {}


def lively(model: nn.Module, seed: int = 0) -> nn.Module:
    """Draw all parameters, so that none is zero or as small as untrained ones may be; eval mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            if parameter.ndim > 1:
                fan_in = parameter[0].numel()
                drawn = drawn / fan_in**0.5
            elif "bias" in name:
                drawn = 0.1 * drawn
            else:
                drawn = 1 + 0.2 * drawn.clamp(-2, 2)
            parameter.copy_(drawn)
    return model.eval()


def make_images(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return a batch of six inputs of this shape, far apart; 3 x 32 x 32 without one."""
    shape = shape or (3, 32, 32)
    generator = torch.Generator().manual_seed(7)
    noise = torch.randn(SIZE, *shape, generator=generator, dtype=torch.float64)
    level = torch.randn(SIZE, shape[0], *[1] * (len(shape) - 1), generator=generator)
    return (0.5 + 0.5 * noise + level).to(dtype)


def make_tokens(length: int = 7, padded: bool = False) -> dict[str, Tensor]:
    """Return sentences of a made-up language; 0 fills up the padded ones."""
    generator = torch.Generator().manual_seed(8)
    ids = torch.randint(2, 30, (SIZE, length), generator=generator)
    lengths = torch.tensor([3, 7, 5, 4, 7, 6]) if padded else torch.full((SIZE,), length)
    mask = (torch.arange(length) < lengths[:, None]).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


def foreign(
    head: str | None,
    *,
    x: Callable[[], Any] = make_images,
    y: Any = LABELS,
    dtype: torch.dtype = torch.float64,
    **truths: Any,
) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Register a maker of a model. Its answer is the model, or (what is trained, its core)."""

    def register(make: Callable[[], Any]) -> Callable[[], Any]:
        def complete() -> Foreign:
            made = make()
            model, core = made if isinstance(made, tuple) else (made, made)
            model.to(dtype)
            target = torch.tensor(y)
            target = target.to(dtype) if target.is_floating_point() else target
            return Foreign(model, x(), target, core, head, **truths)

        MAKERS[make.__name__] = complete
        TRUTHS[make.__name__] = {"head": head, **truths}
        return make

    return register


class Keywords(nn.Module):
    """What spreads a dict of inputs over a model's keyword arguments."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(**x)


def convolutions(out: int = 12) -> nn.Sequential:
    """Return a small backbone: images to (B, out, 8, 8)."""
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.GELU()),
        nn.Sequential(nn.Conv2d(8, out, 3, 2, 1), nn.BatchNorm2d(out), nn.GELU()),
    )


class Backbone(nn.Module):
    """A small convolutional network of images to features (B, 12), and heads to choose."""

    def __init__(self, **heads: nn.Module) -> None:
        super().__init__()
        self.body = convolutions()
        self.pool = nn.AdaptiveAvgPool2d(1)
        for name, head in heads.items():
            self.add_module(name, head)

    def features(self, x: Tensor) -> Tensor:
        return self.pool(self.body(x)).flatten(1)

    def forward(self, x):
        return self.fc(self.features(x))


def plain() -> Backbone:
    return lively(Backbone(fc=nn.Linear(12, CLASSES)))


NO_CAM = {"cam": "either"}
"""The head weighs no maps' means, or not by a linear layer's rows."""
