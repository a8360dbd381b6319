"""Whether what passes a layer has the samples' rows, in the order of the batch.

The model runs over the batch and over the same samples in another order: what passes a layer must
come out in that order. A layer that sees the samples sorted or shuffled, or has another dimension
first that happens to be as long as the batch, is found so. What is drawn at random in training
stands still, but for permutations, which are the same in both passes.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mixwell.mix import tensors
from mixwell.values import map_tensors
from mixwell.view.cache import known
from mixwell.view.hooks import Side, hooked, inference, run_on_copy, watchable
from mixwell.view.trace import kind_of, plain

__all__ = ["misplaced"]

Place = tuple[str, Side]

_NEAR = 0.3
"""How near rows come to where they should be, in distances between samples. What depends on the
other samples (batch statistics, capacities) moves them a little; another order by about 1."""

_ROUNDING = 1e-4
"""Of a row's size: differences that are none."""

_HALF = {torch.float16: 1e-2, torch.bfloat16: 3e-2}


class _Still(TorchDispatchMode):
    """Lets all that is drawn at random be its mean: dropout keeps all, noise is 0."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        kind = function.overloadpacket.__name__ if hasattr(function, "overloadpacket") else ""
        if kind == "native_dropout":
            result[0].copy_(args[0])
            result[1].fill_(True)
        elif kind in ("bernoulli", "bernoulli_", "exponential", "exponential_"):
            result.fill_(1)
        elif kind in ("rand", "rand_like"):
            result.fill_(0.5)
        elif kind in ("uniform", "uniform_"):
            low, high = [*args[1:3], *(0.0, 1.0)[len(args) - 1 :]][:2]
            result.fill_((low + high) / 2)
        elif kind in ("randn", "randn_like"):
            result.zero_()
        elif kind in ("normal_", "normal_functional"):
            result.fill_(args[1] if len(args) > 1 else 0.0)
        return result


def misplaced(model: nn.Module, x: Any) -> set[Place]:
    """Return the layers, and sides of them, at which rows are not the batch's, in its order.

    Found in two passes of ``x`` in the mode that the model is in, of which nothing remains, and
    remembered. Of a batch of one nothing can be said.
    """
    size = len(tensors(x)[0])
    if size < 2:
        return set()
    return known(model, ("misplaced", kind_of(x)), lambda: _misplaced(model, x, size))


def _misplaced(model: nn.Module, x: Any, size: int) -> set[Place]:
    order = _order(size)

    def turned(leaf: Tensor) -> Tensor:
        return leaf[order.to(leaf.device)] if leaf.ndim and len(leaf) == size else leaf

    weights = cache(_weights)  # many layers have rows of one length
    first = _sketches(model, x, size, weights)
    then = _sketches(model, map_tensors(turned, x), size, weights)
    return {
        place
        for place in first.keys() & then.keys()
        if not _moved_along(first[place], then[place], order)
    }


def _order(size: int) -> Tensor:
    """Return an order that is not the batch's own, always the same.

    Of some it is the one that most differs, one after the other, from the orders that models give
    their rows: what is turned by both alike would seem to be in place.
    """
    own = list(range(size))
    others = [
        own[1:] + own[:1], own[size // 2 :] + own[: size // 2], own[::-1], own[::2] + own[1::2],
        own[1::2] + own[::2], [place ^ 1 if place ^ 1 < size else place for place in own],
    ]  # fmt: skip
    best, most = own[::-1], -1
    for seed in range(12):
        places = own.copy()
        random.Random(seed).shuffle(places)
        apart = min(
            sum(places[other[i]] != other[places[i]] for i in own)
            for other in others if other != own
        )  # fmt: skip
        if places != own and apart > most:
            best, most = places, apart
    return torch.tensor(best, device="cpu")


def _sketches(
    model: nn.Module, x: Any, size: int, weights: Callable[[int, torch.device], Tensor]
) -> dict[Place, tuple[Tensor, float]]:
    """Return a few numbers of each row at each layer that runs, and what of them is rounding."""
    seen: dict[Place, tuple[Tensor, float]] = {}
    names = watchable(model)

    def sketch(leaf: Tensor) -> Tensor:
        rows = leaf.detach().reshape(size, -1).float()
        with torch.autocast(rows.device.type, enabled=False):
            return rows @ weights(rows.shape[1], rows.device)

    def note(name: str, side: Side, value: Any) -> None:
        leaves = [leaf for leaf in tensors(value) if _has_rows(leaf, size)]
        if leaves:
            rounding = max(_HALF.get(leaf.dtype, _ROUNDING) for leaf in leaves)
            seen[name, side] = torch.cat([sketch(leaf) for leaf in leaves], 1), rounding

    def before(module: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        first = next(iter([*args, *keywords.values()]), None)
        note(names[module], "input", first)

    def after(module: nn.Module, args: Any, output: Any) -> None:
        note(names[module], "output", plain(output))

    eagerly = torch.compiler.set_stance("force_eager")
    with (
        torch.inference_mode(False), hooked(names, before, after), inference(model, "look"),
        eagerly, _Still(),
    ):  # fmt: skip
        run_on_copy(model, x)
    return seen


def _has_rows(leaf: Tensor, size: int) -> bool:
    """Whether a value is a plain tensor of numbers with so many rows."""
    if type(leaf) not in (Tensor, nn.Parameter) or leaf.is_nested:
        return False
    plain = leaf.layout == torch.strided and leaf.is_floating_point() and leaf.numel() > 0
    return plain and leaf.ndim > 0 and len(leaf) == size


def _weights(length: int, device: torch.device) -> Tensor:
    """Return (length, 3) of how much each number of a row counts in the three of its sketch."""
    places = torch.arange(length, device=device, dtype=torch.float32)
    weights = torch.stack([(0.7 * k * places + k).cos() for k in (0, 1, 2)], 1)
    return weights / length**0.5


def _moved_along(first: tuple[Tensor, float], then: tuple[Tensor, float], order: Tensor) -> bool:
    """Whether rows that were given in another order came out in it."""
    (one, rounding), (two, _) = first, then
    if one.shape != two.shape:  # another way was drawn in the second pass: nothing is shown
        return True
    expected = one[order.to(one.device)]
    apart, error = (one - expected).norm(), (two - expected).norm()
    bound = torch.maximum(_NEAR * apart, rounding * one.norm())
    return not bool(error > bound)  # NaN shows nothing
