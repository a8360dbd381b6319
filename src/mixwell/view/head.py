"""Finding a model's classifier head by evidence: whose output becomes the logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mixwell.errors import InputError
from mixwell.view.cache import known
from mixwell.view.hooks import (
    inference,
    layer_named,
    logits_of,
    own_name,
    run_on_copy,
    tapped,
    unwrap,
)
from mixwell.view.trace import Run, Trace, kind_of, trace

__all__ = ["Evidence", "capture_features", "check_carries_all", "evidence", "find_head"]

_NORMS = {
    *("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training"),
    *("cudnn_batch_norm", "miopen_batch_norm"),
}

_CUTS = {"relu", "relu_", "tanh", "tanh_", "sigmoid", "sigmoid_"}

_PASSES = {
    # the same numbers in another shape or type
    *("view", "_unsafe_view", "reshape", "_reshape_alias", "permute", "transpose", "t", "squeeze"),
    *("unsqueeze", "expand", "alias", "detach", "clone", "_to_copy", "lift_fresh", "copy_"),
    *("flatten", "unflatten", "movedim", "contiguous", "to", "slice", "select", "narrow"),
    *("index", "gather", "index_select", "unbind", "split", "split_with_sizes", "chunk"),
    *("constant_pad_nd", "resolve_conj", "resolve_neg", "squeeze_", "unsqueeze_", "t_"),
    # scaled and shifted by what depends on no input
    *("mul", "mul_", "div", "div_", "add", "add_", "sub", "sub_", "rsub", "neg", "neg_"),
    *_NORMS,
    "native_dropout",
    # pooled, or resized, over positions
    *("mean", "sum", "amax", "max", "adaptive_avg_pool1d", "adaptive_avg_pool2d"),
    *("_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_avg_pool3d", "avg_pool1d"),
    *("avg_pool2d", "avg_pool3d", "max_pool2d", "max_pool2d_with_indices"),
    *("adaptive_max_pool2d", "mkldnn_adaptive_avg_pool2d", "upsample_nearest2d"),
    *("upsample_bilinear2d", "upsample_bicubic2d", "upsample_linear1d", "upsample_trilinear3d"),
    *("_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"),
    # cut off or capped one by one (SqueezeNet, soft caps), or made probabilities
    *_CUTS,
    *("_softmax", "_log_softmax", "softmax", "log_softmax"),
}
"""Operations that what they return can be looked through for the logits that it was made of."""

_JOINS = {"add", "add_", "sub", "sub_", "cat", "stack", "where", "maximum", "minimum", "lerp"}
"""Operations that make one output of several."""

_RESIZES = {name for name in _PASSES if name.startswith(("upsample", "_upsample"))}
_RESIZES |= {"expand", "constant_pad_nd"}
"""Those of them that may return more numbers than they were given."""


@dataclass(frozen=True)
class Evidence:
    """What a pass shows about the head.

    Attributes:
        head: its name; None where there is none, or more than one.
        candidates: the modules that may be meant.
        why: why there is none, for a message.
    """

    head: str | None
    candidates: tuple[str, ...] = ()
    why: str = ""


def find_head(model: nn.Module, x: Any, head: str | None = None) -> tuple[str, nn.Module]:
    """Return the name and module of the classifier head.

    The head is the innermost module whose output becomes the logits that the model returned (is
    them, or is them but for reshaping, casting, scaling and pooling over positions), and that has
    features (B, d) or (B, d, ...) for input, whatever its type. It is found in a forward pass of
    ``x`` in the mode that the model is in, of which nothing remains.

    Args:
        model: any module; wrappers (DDP, torch.compile) are looked through.
        x: a batch of inputs.
        head: the head's name, where it should not be searched for.

    Raises:
        InputError: there is no such layer; or none qualifies, or several do: the message lists
            what may be meant, to be named with ``head=``.
    """
    if head is not None:
        module = layer_named(model, head, "head")
        return own_name(model, head), module
    found = evidence(model, x)
    if found.head is None:
        raise InputError(_no_head(unwrap(model), found))
    return found.head, unwrap(model).get_submodule(found.head)


def _no_head(model: nn.Module, found: Evidence) -> str:
    name = type(model).__name__
    if len(found.candidates) > 1:
        listed = ", ".join(repr(candidate) for candidate in found.candidates)
        return (
            f"{name} has no one classifier head: {found.why}; candidates: {listed}; name the one "
            f"that is meant with head={found.candidates[0]!r} (where its input is to be mixed, "
            "all of the logits must come of it: else choose a layer that feeds all, layer='...')"
        )
    hint = f" (perhaps head={found.candidates[0]!r})" if found.candidates else ""
    return (
        f"{name} has no classifier head to read features from: {found.why} (of exported and traced "
        "models no module can be seen: give the model itself); name the layer whose input is the "
        f"feature with head='...'{hint}"
    )


def evidence(model: nn.Module, x: Any) -> Evidence:
    """Return what a pass of ``model`` over ``x`` shows about its head; the answer is remembered."""

    def find() -> Evidence:
        return _Search(unwrap(model), trace(model, x)).evidence()

    return known(model, ("head", kind_of(x)), find)


class _Search:
    """The search for the head in one recorded pass."""

    def __init__(self, model: nn.Module, seen: Trace) -> None:
        self.model, self.seen = model, seen

    def evidence(self) -> Evidence:
        seen = self.seen
        if seen.logits is None:
            return Evidence(None, (), "its logits do not depend on its input")
        found = self._becomes(seen.logits)
        if not found:
            return Evidence(None, self._hints(), "no module's output becomes its logits")
        others = [
            name
            for node in seen.others
            if node not in seen.reached([seen.logits]) and seen.logits not in seen.reached([node])
            for name in self._becomes(node)
        ]
        several = tuple(dict.fromkeys([*found, *others]))
        if others and len(several) > 1:
            return Evidence(None, several, "it returns a tuple that several modules made")
        if len(several) > 1:
            return Evidence(None, several, "its logits are made of the outputs of several modules")
        (name,) = several
        if seen.count(name) > 1:
            why = f"{name!r} runs {seen.count(name)} times in a pass, and has no one input"
            return Evidence(None, (), why)
        if self._picked(name):
            why = (
                f"which positions of {name!r} become the logits depends on each sample's own input "
                "(its last word), and another sample's are elsewhere"
            )
            return Evidence(None, (), why)
        return Evidence(name)

    def _picked(self, name: str) -> bool:
        """Whether the input decides which positions of what the head returned are the logits."""
        left = {node for run in self.seen.of(name) for node in run.left}
        for node in self._chain(self.seen.logits or 0):
            if node in left:
                return False
            if not all(self.seen.floating[parent] for parent in self.seen.parents[node]):
                return True
        return False

    def _becomes(self, node: int) -> list[str]:
        """Return the modules whose output becomes the node: one, or of a sum those of its parts."""
        chain = self._chain(node)
        for place in reversed(chain):
            makers = [run for run in self.seen.runs if place in run.left]  # the innermost first
            if makers and place == chain[-1] and not self._has_weights(makers[0]):
                return []  # an activation of features, whatever it stands in
            for run in makers:
                if self._qualifies(run):
                    return [run.name]
        last = chain[-1]
        parts = [parent for parent in self.seen.parents[last] if self.seen.floating[parent]]
        if len(parts) < 2 or self.seen.kinds[last] not in _JOINS:
            return []
        found = [self._becomes(part) for part in parts]
        if not all(found):  # a part that no module made: not the whole is known
            return []
        return list(dict.fromkeys(name for names in found for name in names))

    def _chain(self, node: int) -> list[int]:
        """Return the nodes that are the logits but for shape, type, scale and pooling."""
        chain, cut = [node], False
        while True:
            kind = self.seen.kinds[chain[-1]]
            if cut and kind in _NORMS:  # a block of features: norm, then activation
                return chain
            cut = cut or kind in _CUTS
            parents = [p for p in self.seen.parents[chain[-1]] if self.seen.floating[p]]
            grown = not self.seen.whole[chain[-1]] and kind not in _RESIZES
            if kind not in _PASSES or len(parents) != 1 or grown:
                return chain
            chain.append(parents[0])

    def _has_weights(self, run: Run) -> bool:
        return _has_weights(self.model.get_submodule(run.name))

    def _qualifies(self, run: Run) -> bool:
        """Whether a run is of a module that makes logits of features, and not of the network."""
        module = self.model.get_submodule(run.name)
        whole = next(module.children(), None) is not None and self._takes_the_input(run)
        return run.features and bool(run.entered) and _has_weights(module) and not whole

    def _takes_the_input(self, run: Run) -> bool:
        """Whether what enters is the network's own input but for shape, type and scale."""
        inputs = set(self.seen.inputs.values())
        return any(self._chain(node)[-1] in inputs for node in run.entered)

    def _hints(self) -> tuple[str, ...]:
        """Return the last module with a matrix of weights and features for input."""
        names = [
            run.name
            for run in self.seen.runs
            if run.features
            and run.entered
            and not len(run.inside)
            and _has_weights(self.model.get_submodule(run.name))
        ]
        return tuple(names[-1:])


def _has_weights(module: nn.Module) -> bool:
    """Whether a module has a matrix, or what it is packed in (quantised layers)."""
    held = [*module.parameters(), *module.buffers()]
    if any(
        value.ndim > 1 or (not value.is_floating_point() and value.numel() > 1) for value in held
    ):
        return True
    return not held and bool(module.state_dict())


# ------------------------------------------------------------------------------ reading and mixing


def capture_features(
    model: nn.Module, x: Any, head: str | None = None, mode: Literal["eval", "train"] = "eval"
) -> tuple[Tensor, Tensor]:
    """Return the logits (B, C) and the features (B, d), the input of the classifier head.

    Without gradient; the model's modes, buffers and random state stay as they were.

    Args:
        model: any classifier.
        x: (B, ...) or a pytree of it.
        head: the head's name, where it should not be searched for.
        mode: see :func:`mixwell.view.inference`.
    """
    name, _ = find_head(model, x, head)
    seen: list[Any] = []

    def keep(value: Any) -> Any:
        seen.append(value)
        return value

    with inference(model, mode), tapped(model, name, keep):
        logits = logits_of(run_on_copy(model, x))
    if not isinstance(seen[0], Tensor):
        raise InputError(
            f"head={name!r} of {type(unwrap(model)).__name__} is given {type(seen[0]).__name__}, "
            "not a tensor of features; name another layer"
        )
    if len(seen) > 1:
        raise InputError(
            f"the head {name!r} of {type(unwrap(model)).__name__} ran {len(seen)} times in a pass, "
            "and has no one input; name another layer with head='...'"
        )
    return logits, seen[-1].flatten(1)


def check_carries_all(
    model: nn.Module, x: Any, name: str, side: str, mixed: tuple[str, ...] = ()
) -> None:
    """Raise an InputError unless all that the logits are made of passes the layer ``name``.

    What goes around it would stay unmixed: another head's share of the logits, a skip connection,
    a second input.

    Args:
        model: any module.
        x: a batch of inputs.
        name: the layer.
        side: "input" or "output", which is mixed.
        mixed: places in x that are seen to in another way (attention masks).
    """
    owner = type(unwrap(model)).__name__
    times, around = known(
        model, ("around", kind_of(x), name, side), lambda: _around(model, x, name, side)
    )
    if times > 1:
        raise InputError(
            f"layer {name!r} of {owner} runs {times} times in a pass, and would be mixed each time;"
            " choose a layer that runs once (layer='...')"
        )
    around = around - set(mixed)
    if not around:  # or it did not run: the hook that doesn't fire says so, in its own pass
        return
    tried = "input" if not around - {""} else f"x[{sorted(around)[0]!r}]"
    raise InputError(
        f"layer {name!r} of {owner} does not carry all that the logits are made of: {tried} reaches"
        " them on a path around it (a skip connection, another head, a second input), and would "
        "stay unmixed there; choose a layer that all of it passes (layer='...'), or mix at the "
        "input"
    )


def _around(model: nn.Module, x: Any, name: str, side: str) -> tuple[int, set[str]]:
    """Return how often a layer runs, and what goes around it."""
    seen, name = trace(model, x), own_name(model, name)
    times = seen.count(name)
    return times, seen.around(name, side) if times == 1 else set()


def probabilities(logits: Tensor, one_class: bool) -> bool:
    """Whether what a model returned are probabilities, not logits. Looks at values.

    Args:
        logits: (B, C, ...).
        one_class: whether they are those of one class (or position), which sum to 1; else each is
            between 0 and 1 by itself.
    """
    z = logits.detach().float()
    if one_class or z.ndim > 2:
        sums = z.sum(1)
        return bool((z >= 0).all()) and bool(torch.allclose(sums, torch.ones_like(sums), atol=1e-3))
    return z.numel() > 16 and bool(((z > 0) & (z < 1)).all())
