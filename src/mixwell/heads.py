"""Finding a model's classifier head, and reading or mixing what passes a layer of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from mixwell.errors import InputError, suggest
from mixwell.mix import tensors

__all__ = [
    "capture_features",
    "find_head",
    "inference",
    "is_compiled",
    "logits_of",
    "release",
    "stages",
    "tapped",
    "unwrap",
    "watch",
]

Side = Literal["input", "output", "keywords"]

_HEADS: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()
_STAGES: WeakKeyDictionary[nn.Module, list[str]] = WeakKeyDictionary()
_TAPS: WeakKeyDictionary[nn.Module, dict[str, Tap]] = WeakKeyDictionary()


def unwrap(model: nn.Module) -> nn.Module:
    """Return the user's own module inside ``torch.compile``, DDP, DataParallel and Fabric."""
    while True:
        inner = getattr(model, "_orig_mod", None) or getattr(model, "_original_module", None)
        if inner is None and [name for name, _ in model.named_children()] == ["module"]:
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def is_compiled(model: nn.Module) -> bool:
    """Whether ``model``, a wrapper around it or a module inside it goes through torch.compile."""
    seen: nn.Module | None = model
    while isinstance(seen, nn.Module):
        if hasattr(seen, "_orig_mod"):
            return True
        seen = getattr(seen, "_forward_module", None) or getattr(seen, "module", None)
    return any(
        hasattr(module, "_orig_mod")
        or getattr(module, "_compiled_call_impl", None) is not None
        or hasattr(vars(module).get("forward"), "_torchdynamo_orig_callable")  # Lightning's way
        for module in model.modules()
    )


@contextlib.contextmanager
def inference(model: nn.Module, mode: Literal["eval", "train"] = "eval") -> Iterator[None]:
    """Run ``model`` without gradient and leave it as it was: modes, buffers, random state.

    Args:
        model: any module.
        mode: "eval" switches to evaluation (running statistics, no dropout); "train" stays in
            the present mode and restores the buffers that a pass changes.
    """
    modes = [(module, module.training) for module in model.modules()]
    buffers = [] if mode == "eval" else [(b, b.clone()) for b in model.buffers()]
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    if devices and torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
        devices = set()  # a graph's random state can't be read while it is captured
    if mode == "eval":
        for module, _ in modes:
            module.training = False  # not eval(), which exported modules refuse
    try:
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)


def logits_of(output: Any) -> Tensor:
    """Return the logits in what a classifier returned: itself, ``.logits``, or its first tensor.

    Auxiliary outputs (Inception's, GoogLeNet's) are not used.
    """
    if isinstance(output, Tensor):
        return output
    logits = output.get("logits") if isinstance(output, Mapping) else None
    logits = getattr(output, "logits", logits)
    if logits is None and isinstance(output, (tuple, list)) and output:
        logits = output[0]
    if not isinstance(logits, Tensor):
        raise InputError(
            "model must return logits: a tensor, an object or dict with 'logits', or a tuple that "
            f"starts with them; got {type(output).__name__}"
        )
    return logits


def _module(model: nn.Module, name: str, argument: str) -> nn.Module:
    inner = unwrap(model)
    try:
        return inner.get_submodule(name)
    except AttributeError:
        names = [known for known, _ in inner.named_modules() if known]
        shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
        raise InputError(
            f"{argument}={name!r} is no layer of {type(inner).__name__}{suggest(name, names)}; "
            f"its layers: {shown}"
        ) from None


def _name_of(model: nn.Module, wanted: nn.Module) -> str | None:
    return next((name for name, module in model.named_modules() if module is wanted), None)


def find_head(model: nn.Module, x: Any, head: str | None = None) -> tuple[str, nn.Module]:
    """Return the name and module of the classifier head.

    timm's ``get_classifier()`` is asked first; else the head is the last ``nn.Linear`` that runs
    in a forward pass of ``x`` in evaluation mode, of which nothing remains.

    Args:
        model: any module; wrappers (DDP, torch.compile) are looked through.
        x: a batch of inputs.
        head: the head's name, where it should not be searched for.

    Raises:
        InputError: there is no such layer, or no ``nn.Linear`` ran.
    """
    inner = unwrap(model)
    if head is not None:
        return head, _module(model, head, "head")
    known = _HEADS.get(inner)
    if known is not None:
        module = _name_module(inner, known)
        if isinstance(module, nn.Linear):
            return known, module
    name = _timm_head(inner) or _last_linear(model, x)
    _HEADS[inner] = name
    return name, inner.get_submodule(name)


def _name_module(model: nn.Module, name: str) -> nn.Module | None:
    try:
        return model.get_submodule(name)
    except AttributeError:
        return None


def _timm_head(model: nn.Module) -> str | None:
    get_classifier = getattr(model, "get_classifier", None)
    classifier = get_classifier() if callable(get_classifier) else None
    return _name_of(model, classifier) if isinstance(classifier, nn.Linear) else None


def check_one_head(model: nn.Module) -> None:
    """Raise an InputError for a model whose output is made of several heads (distilled DeiT).

    Their inputs can be read, but mixing one's input leaves the others with another batch.
    """
    get_classifier = getattr(unwrap(model), "get_classifier", None)
    if callable(get_classifier) and isinstance(get_classifier(), (tuple, list)):
        raise InputError(
            f"{type(unwrap(model)).__name__} has several classifier heads, so there is no one "
            "input of the head to mix at; choose a layer that feeds all of them (layer='...')"
        )


def watch(
    model: nn.Module, x: Any, note: Callable[[str, nn.Module, tuple[Any, ...], Any], None]
) -> None:
    """Run ``model`` in evaluation mode, and have each module that runs noted as it ends.

    The whole batch is used: models may be made for its size.

    Args:
        model: any module, of which nothing is changed.
        x: a batch of inputs.
        note: called with the module's name, itself, its arguments and its output.
    """
    names = {module: name for name, module in unwrap(model).named_modules()}

    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        note(names[module], module, args, output)

    handles = [module.register_forward_hook(hook) for module in names]
    try:
        # A compiled part would not run the hooks; eagerly it does.
        with inference(model), torch.compiler.set_stance("force_eager"):
            model(x)
    finally:
        for handle in handles:
            handle.remove()


def _trace(model: nn.Module, x: Any) -> list[tuple[str, nn.Module, bool]]:
    """Return what runs in a forward pass: name, module, and whether its output is batch-first."""
    size = len(tensors(x)[0])
    ran: list[tuple[str, nn.Module, bool]] = []

    def note(name: str, module: nn.Module, _: Any, output: Any) -> None:
        leaves = tensors(output)
        batch_first = all(leaf.ndim > 0 and len(leaf) == size for leaf in leaves)
        ran.append((name, module, bool(leaves) and batch_first))

    watch(model, x, note)
    return ran


def _last_linear(model: nn.Module, x: Any) -> str:
    linears = [name for name, module, _ in _trace(model, x) if isinstance(module, nn.Linear)]
    if not linears:
        raise InputError(
            f"{type(unwrap(model)).__name__} has no classifier head to read features from: no "
            "nn.Linear ran in its forward pass (in exported and traced models none does: give the "
            "model itself); name the layer whose input is the feature with head='...'"
        )
    return linears[-1]


class Tap:
    """A hook on one layer, that hands what passes it to a function and passes on the answer.

    Args:
        module: the layer.
        name: its name, for messages.
        side: "input", its first argument; "output"; or "keywords", a dict of its keyword
            arguments, which stay as they are.
    """

    def __init__(self, module: nn.Module, name: str, side: Side) -> None:
        self.name, self.side = name, side
        self.function: Callable[[Any], Any] | None = None
        self.fired = False
        if side == "input":
            self._handle = module.register_forward_pre_hook(self._before)
        elif side == "keywords":
            self._handle = module.register_forward_pre_hook(self._look, with_kwargs=True)
        else:
            self._handle = module.register_forward_hook(self._after)

    def _before(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if self.function is None or not args:
            return None
        self.fired = True
        return (self.function(args[0]), *args[1:])

    def _look(self, module: nn.Module, args: Any, keywords: dict[str, Any]) -> None:
        if self.function is not None:
            self.fired = True
            self.function(keywords)

    def _after(self, module: nn.Module, args: Any, output: Any) -> Any:
        if self.function is None:
            return None
        self.fired = True
        return self.function(output)

    def remove(self) -> None:
        """Take the hook off the layer."""
        self._handle.remove()


@contextlib.contextmanager
def tapped(
    model: nn.Module,
    name: str,
    function: Callable[[Any], Any],
    *,
    side: Side = "input",
) -> Iterator[None]:
    """Pass what enters (or leaves) the layer ``name`` through ``function`` while in the context.

    Nothing remains on an ordinary model. On a compiled one the hook stays, idle: compiled code
    does not notice hooks that come and go.

    Raises:
        InputError: the layer did not run.
    """
    module = _module(model, name, "layer")
    compiled = is_compiled(model)
    kept = _TAPS.setdefault(module, {}) if compiled else {}
    tap = kept.get(side) or Tap(module, name, side)
    kept[side] = tap
    tap.fired, tap.function = False, function
    try:
        yield
        if not tap.fired:
            hint = (
                "the model was compiled and run before the method first saw it: call the method "
                "before the compiled model's first run, or torch.compiler.reset() after"
                if compiled
                else "it is not part of the forward pass (exported, replaced or unused); name "
                "another one (head='...' or layer='...')"
            )
            raise InputError(
                f"the hook on layer {name!r} of {type(unwrap(model)).__name__} did not fire, so "
                f"the method could not work: {hint}"
            )
    finally:
        tap.function = None
        if not compiled:
            tap.remove()


def release(model: nn.Module) -> None:
    """Take the idle hooks off a compiled model that methods have left there.

    Do so when training is over and before the whole module is copied, saved or exported, which
    would else have a part of mixwell in it. Models that are not compiled have none.

    Args:
        model: the compiled model, or the one that was compiled.
    """
    for module in model.modules():
        for tap in _TAPS.pop(module, {}).values():
            tap.remove()


def capture_features(
    model: nn.Module, x: Any, head: str | None = None, mode: Literal["eval", "train"] = "eval"
) -> tuple[Tensor, Tensor]:
    """Return the logits (B, C) and the features (B, d), the input of the classifier head.

    Without gradient; the model's modes, buffers and random state stay as they were.

    Args:
        model: any classifier.
        x: (B, ...) or a pytree of it.
        head: the head's name, where it should not be searched for.
        mode: see :func:`inference`.
    """
    name, _ = find_head(model, x, head)
    seen: list[Tensor] = []

    def keep(value: Tensor) -> Tensor:
        seen.append(value)
        return value

    with inference(model, mode), tapped(model, name, keep):
        logits = logits_of(model(x))
    return logits, seen[-1].flatten(1)


def stages(model: nn.Module, x: Any) -> list[str]:
    """Return the names of the first half of a model's stages, for Manifold Mixup's random layer.

    A stage is a child, or a child of a sequential child, that runs once before the classifier
    and returns something batch-first. Those built of several modules are preferred (a ResNet's
    blocks); in a plain stack of layers, those with parameters.

    Args:
        model: any module.
        x: a batch of inputs, for one forward pass; its answer is remembered.
    """
    inner = unwrap(model)
    if inner not in _STAGES:
        _STAGES[inner] = _stages(model, x)
    return _STAGES[inner]


def _stages(model: nn.Module, x: Any) -> list[str]:
    ran = _trace(model, x)
    linears = [name for name, module, _ in ran if isinstance(module, nn.Linear)]
    head = linears[-1] if linears else ""
    prefix = ""
    while head.startswith(prefix):
        found = _stages_within(unwrap(model), prefix, ran, head)
        if found:
            return found[: (len(found) + 1) // 2]
        # A module that only wraps the network (a LightningModule, torch.compile): look inside.
        prefix += head.removeprefix(prefix).partition(".")[0] + "."
    return []


def _stages_within(
    model: nn.Module, prefix: str, ran: list[tuple[str, nn.Module, bool]], head: str
) -> list[str]:
    """Return the stages, all of them, of the module whose layers' names begin with ``prefix``."""
    names = [name for name, _, _ in ran]

    def usable(name: str, module: nn.Module, batch_first: bool) -> bool:
        if not name.startswith(prefix):
            return False
        own = name.removeprefix(prefix)
        parent, _, _ = own.rpartition(".")
        stage = "." not in own and not isinstance(module, nn.Sequential)
        stage = stage or (
            "." not in parent
            and bool(parent)
            and isinstance(model.get_submodule(prefix + parent), nn.Sequential)
        )
        return (
            bool(own)
            and stage
            and names.count(name) == 1
            and not (head == name or head.startswith(name + "."))
            and next(module.parameters(), None) is not None
            and batch_first
        )

    candidates = [(name, module) for name, module, first in ran if usable(name, module, first)]
    blocks = [name for name, module in candidates if next(module.children(), None) is not None]
    return blocks if len(blocks) > 1 else [name for name, _ in candidates]
