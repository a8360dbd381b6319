"""Where a model's last feature maps are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from mixwell.errors import InputError
from mixwell.mix import tensors
from mixwell.view.cache import known
from mixwell.view.head import find_head
from mixwell.view.hooks import unwrap, watch

__all__ = ["Maps", "find_maps"]


@dataclass(frozen=True)
class Maps:
    """Where a model's last feature maps are.

    Attributes:
        layer: the name of the layer whose output they are.
        head: the name of the classifier head.
        pooled: whether the head reads their means: nothing with weights lies between.
    """

    layer: str
    head: str
    pooled: bool


def find_maps(model: nn.Module, x: Any, head: str | None = None, *, once: bool = False) -> Maps:
    """Return where the last feature maps before the classifier head are.

    Feature maps are what has the shape (B, d, h, w), h, w > 1, and comes out of a convolution, of
    a module that holds one, or of what follows these (a norm, an activation), unless it works on
    tokens: vision transformers have none.

    Args:
        model: any module.
        x: a batch of inputs, for one forward pass; its answer is remembered.
        head: the head's name, where it should not be searched for.
        once: pass over layers that run more than once, whose output can't be replaced.

    Raises:
        InputError: there is no head, or there are no such maps.
    """
    shapes = tuple(leaf.shape[1:] for leaf in tensors(x))
    return known(model, ("maps", head, once, shapes), lambda: _search(model, x, head, once))


@dataclass(frozen=True)
class _Ran:
    """A module that ran: how many dimensions entered, and whether maps (B, d, h, w) left it."""

    name: str
    module: nn.Module
    entering: int
    spatial: bool


def _search(model: nn.Module, x: Any, head: str | None, once: bool) -> Maps:
    size = len(tensors(x)[0])
    ran: list[_Ran] = []

    def note(name: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        entering = args[0].ndim if args and isinstance(args[0], Tensor) else 0
        shape = output.shape if isinstance(output, Tensor) else ()
        spatial = len(shape) == 4 and shape[0] == size and min(shape[2:]) > 1
        ran.append(_Ran(name, module, entering, spatial))

    watch(model, x, note)
    owner = type(unwrap(model)).__name__
    head = head or find_head(model, x)[0]
    names = [one.name for one in ran]
    if head not in names:
        raise InputError(f"head={head!r} of {owner} is no part of its forward pass")
    runs = Counter(names)
    before = ran[: names.index(head)]
    found = _last(before, lambda one: not once or runs[one.name] == 1)
    if found is None:
        raise InputError(
            f"{owner} has no feature maps (B, d, h, w) with h, w > 1 before its "
            f"classifier head {head!r}, given inputs of shape "
            f"{' and '.join(str(tuple(leaf.shape)) for leaf in tensors(x))}: this way of mixing "
            "is for convolutional networks of images that are not too small"
        )
    return Maps(found[0], head, found[1])


def _last(before: list[_Ran], usable: Callable[[_Ran], bool]) -> tuple[str, bool] | None:
    """Return the layer that gives the last maps, and whether nothing with weights follows it."""
    layer, pooled, tokens = "", True, False
    for one in before:
        if one.entering > 2 and _reads_tokens(one.module):
            tokens = True
        elif one.spatial and ((layer and not tokens) or _convolves(one.module)):
            if usable(one):
                layer, pooled, tokens = one.name, True, False
        elif any(parameter.ndim > 1 for parameter in one.module.parameters(recurse=False)):
            pooled = False
    return (layer, pooled) if layer and not tokens else None


def _reads_tokens(module: nn.Module) -> bool:
    """Whether channels come last in what enters the module, where that has positions."""
    # Exactly these: subclasses for images turn the channels around.
    return type(module) is nn.Linear or (
        type(module) is nn.LayerNorm and len(module.normalized_shape) == 1
    )


def _convolves(module: nn.Module) -> bool:
    return any(isinstance(part, nn.Conv2d) for part in module.modules())
