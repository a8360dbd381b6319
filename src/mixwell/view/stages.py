"""The stages of a model, for mixing at a layer that is drawn anew for every batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from mixwell.errors import say
from mixwell.view.cache import known
from mixwell.view.head import evidence, find_head
from mixwell.view.hooks import unwrap
from mixwell.view.rows import misplaced
from mixwell.view.trace import Run, Trace, kind_of, mask_places, trace

__all__ = ["feature_layer", "stages"]


def stages(model: nn.Module, x: Any) -> list[str]:
    """Return the names of the first half of a model's stages, for Manifold Mixup's random layer.

    A stage is a child that runs once before the classifier, returns real numbers, batch-first, and
    is passed by all that the logits are made of. What only holds others (a sequential child, a list
    of layers), and a backbone or an encoder in which most modules run, stands for the stages in it.
    Several sequential ones that are built of the same blocks are stages, as a ResNet's. Those built
    of several modules are preferred; in a plain stack of layers, those with parameters.

    Args:
        model: any module.
        x: a batch of inputs, for one forward pass; its answer is remembered.
    """
    return known(model, ("stages", kind_of(x)), lambda: _find(model, x))


def feature_layer(model: nn.Module, x: Any) -> str:
    """Return the layer whose input is measured as the features: the head, where that is evident.

    Where it isn't (two heads that are averaged), measuring does no harm, and it is the last linear
    layer that runs: a warning says so, once for each model.

    Args:
        model: a trained model.
        x: a batch of inputs.

    Raises:
        InputError: no head is evident, and no linear layer runs.
    """

    def find() -> str:
        name = evidence(model, x).head or _last_linear(unwrap(model), trace(model, x))
        if not name:
            return find_head(model, x)[0]  # which says why there is none
        if name != evidence(model, x).head:
            say(
                f"{type(unwrap(model)).__name__} has no one classifier head: features are measured "
                f"at what enters {name!r}"
            )
        return name

    return known(model, ("measured at", kind_of(x)), find)


def _find(model: nn.Module, x: Any) -> list[str]:
    seen, inner, masks = trace(model, x), unwrap(model), set(mask_places(x))
    elsewhere = misplaced(model, x)
    head = evidence(model, x).head or _last_linear(inner, seen)

    def usable(run: Run) -> bool:
        return (
            run.mixable
            and seen.count(run.name) == 1
            and not _holds(run.name, head)
            and next(inner.get_submodule(run.name).parameters(), None) is not None
            and not seen.around(run.name, "output") - masks
            and (run.name, "output") not in elsewhere
        )

    def within(prefix: str) -> list[str]:
        opened = set(_opened(inner, prefix, seen, head))
        names = [run.name for run in seen.runs if run.name in opened and usable(run)]
        names = _divided(inner, names, seen, within)
        built = [name for name in names if _built(inner, name)]
        return built if len(built) > 1 else names

    prefix = ""
    while head.startswith(prefix):
        found = within(prefix)
        if found:
            return found[: (len(found) + 1) // 2]
        # A module that only wraps the network (a LightningModule, torch.compile): look inside.
        prefix += head.removeprefix(prefix).partition(".")[0] + "."
    return []


def _last_linear(model: nn.Module, seen: Trace) -> str:
    """Return where the stages end in a model whose head is not evident: its last linear layer."""
    names = [run.name for run in seen.runs]
    linear = [name for name in names if isinstance(model.get_submodule(name), nn.Linear)]
    return linear[-1] if linear else ""


def _opened(model: nn.Module, prefix: str, seen: Trace, head: str) -> Iterator[str]:
    """Yield the names of a module's children, or of theirs, where they only hold them.

    Those are sequential ones, and those that don't run themselves (lists of layers). Several
    sequential ones that are built of the same blocks are a network's stages, as a ResNet's.
    """
    children = dict(model.get_submodule(prefix.rstrip(".")).named_children())
    blocks = {
        name: {type(part) for part in child if next(part.children(), None) is not None}
        for name, child in children.items()
        if isinstance(child, nn.Sequential) and not _holds(prefix + name, head)
    }
    for name, child in children.items():
        others = [own for other, own in blocks.items() if other != name]
        if not seen.count(prefix + name):
            if not _holds(prefix + name, head):  # what stands beside the head is none
                yield from _opened(model, f"{prefix}{name}.", seen, head)
        elif isinstance(child, nn.Sequential) and not any(
            blocks.get(name, set()) & own for own in others
        ):
            yield from (f"{prefix}{name}.{part}" for part, _ in child.named_children())
        else:
            yield prefix + name


def _holds(name: str, head: str) -> bool:
    return head == name or head.startswith(f"{name}.")


def _built(model: nn.Module, name: str) -> bool:
    return next(model.get_submodule(name).children(), None) is not None


def _divided(
    model: nn.Module, names: list[str], seen: Trace, within: Callable[[str], list[str]]
) -> list[str]:
    """Return stages of which none is most of the network.

    Where several are of a kind (a ResNet's four) they are the stages. Else one in which most of
    the modules ran, a backbone or an encoder, stands for the stages in it, if it has several.
    """
    built = [name for name in names if _built(model, name)]
    if not built or len({type(model.get_submodule(name)) for name in built}) < len(built):
        return names
    sizes = {name: sum(len(run.inside) for run in seen.of(name)) for name in names}
    largest = max(built, key=lambda name: sizes[name])
    if 2 * sizes[largest] <= sum(sizes.values()):
        return names
    parts = within(f"{largest}.")
    if sum(_built(model, name) for name in parts) < 2:
        return names
    place = names.index(largest)
    return [*names[:place], *parts, *names[place + 1 :]]
