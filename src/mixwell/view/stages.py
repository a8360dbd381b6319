"""The stages of a model, for mixing at a layer that is drawn anew for every batch."""

from __future__ import annotations

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

    A stage is a child, or a child of a sequential child, that runs once before the classifier,
    returns something batch-first, and is passed by all that the logits are made of. Those built of
    several modules are preferred (a ResNet's blocks); in a plain stack of layers, those with
    parameters.

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
    prefix = ""
    while head.startswith(prefix):
        found = _within(inner, prefix, seen, head)
        found = [
            name for name in found
            if not seen.around(name, "output") - masks and (name, "output") not in elsewhere
        ]  # fmt: skip
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


def _within(model: nn.Module, prefix: str, seen: Trace, head: str) -> list[str]:
    """Return the stages, all of them, of the module whose layers' names begin with ``prefix``."""

    def usable(run: Run) -> bool:
        if not run.name.startswith(prefix):
            return False
        own = run.name.removeprefix(prefix)
        parent, _, _ = own.rpartition(".")
        module = model.get_submodule(run.name)
        stage = "." not in own and not isinstance(module, nn.Sequential)
        stage = stage or (
            "." not in parent
            and bool(parent)
            and isinstance(model.get_submodule(prefix + parent), nn.Sequential)
        )
        return (
            bool(own)
            and stage
            and seen.count(run.name) == 1
            and not (head == run.name or head.startswith(run.name + "."))
            and next(module.parameters(), None) is not None
            and run.batch_first
        )

    candidates = [run.name for run in seen.runs if usable(run)]
    blocks = [
        name for name in candidates
        if next(model.get_submodule(name).children(), None) is not None
    ]  # fmt: skip
    return blocks if len(blocks) > 1 else candidates
