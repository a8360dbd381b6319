"""The stages of a model, for mixing at a layer that is drawn anew for every batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator
from dataclasses import dataclass
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
    inner, seen = unwrap(model), trace(model, x)
    if not seen.runs:  # a script, in which nothing can be watched
        return []
    head = evidence(model, x).head or _last_linear(inner, seen)
    search = _Search(inner, seen, head, set(mask_places(x)), misplaced(model, x))
    prefix = ""
    while head.startswith(prefix):
        found = search.within(prefix)
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


def _holds(name: str, other: str) -> bool:
    return f"{other}.".startswith(f"{name}.")


def _is_built(module: nn.Module) -> bool:
    return next(module.children(), None) is not None


@dataclass(frozen=True)
class _Search:
    """The search for a network's stages.

    Attributes:
        model: the network.
        seen: a pass of it.
        head: where the stages end.
        masks: places in x of masks, which are seen to in another way.
        elsewhere: layers and sides at which rows are not where they were.
    """

    model: nn.Module
    seen: Trace
    head: str
    masks: set[str]
    elsewhere: Container[tuple[str, str]]

    def within(self, prefix: str) -> list[str]:
        """Return the stages, all of them, of the module whose layers' names begin so."""
        opened = set(self._opened(prefix))
        names = [run.name for run in self.seen.runs if run.name in opened and self._usable(run)]
        names = self._divided(names, prefix)
        built = self._built(names)
        return built if len(built) > 1 else names

    def _opened(self, prefix: str) -> Iterator[str]:
        """Yield the names of a module's children, or of theirs, where they only hold them.

        Those are sequential ones, and those that don't run themselves (lists of layers). Several
        sequential ones that are built of the same blocks are a network's stages, as a ResNet's.
        """
        children = dict(self.model.get_submodule(prefix.rstrip(".")).named_children())
        blocks = {
            name: {type(part) for part in child if _is_built(part)}
            for name, child in children.items()
            if isinstance(child, nn.Sequential) and not _holds(prefix + name, self.head)
        }
        for name, child in children.items():
            others = [own for other, own in blocks.items() if other != name]
            if not self.seen.count(prefix + name):
                if not _holds(prefix + name, self.head):  # what stands beside the head is none
                    yield from self._opened(f"{prefix}{name}.")
            elif isinstance(child, nn.Sequential) and not any(
                blocks.get(name, set()) & own for own in others
            ):
                yield from (f"{prefix}{name}.{part}" for part, _ in child.named_children())
            else:
                yield prefix + name

    def _usable(self, run: Run) -> bool:
        return (
            run.mixable
            and self.seen.count(run.name) == 1
            and not _holds(run.name, self.head)
            and next(self.model.get_submodule(run.name).parameters(), None) is not None
            and not self.seen.around(run.name, "output") - self.masks
            and (run.name, "output") not in self.elsewhere
        )

    def _divided(self, names: list[str], prefix: str) -> list[str]:
        """Return stages of which none is most of the network, unless it is one of several alike.

        A backbone, an encoder, or what the head is in (behind a layer that adapts the input)
        stands for the stages in it, if it has several.
        """
        first, deeper, _ = self.head.removeprefix(prefix).partition(".")
        last = prefix + first
        if deeper and _holds(last, self.head) and not any(_holds(last, name) for name in names):
            names = [*names, last]
        if not names:
            return names
        kinds = Counter(type(self.model.get_submodule(name)) for name in names)
        sizes = {name: sum(_holds(name, run.name) for run in self.seen.runs) for name in names}
        largest = max(names, key=sizes.__getitem__)
        alone = kinds[type(self.model.get_submodule(largest))] == 1
        if alone and 2 * sizes[largest] > sum(sizes.values()):
            parts = self.within(f"{largest}.")
            if len(self._built(parts)) > 1:
                place = names.index(largest)
                names = [*names[:place], *parts, *names[place + 1 :]]
        return [name for name in names if not _holds(name, self.head)]

    def _built(self, names: list[str]) -> list[str]:
        return [name for name in names if _is_built(self.model.get_submodule(name))]
