"""Reading or changing what passes a layer of a model, which is left as it was."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import FrameType, FunctionType, MethodType
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from mixwell.errors import InputError, suggest
from mixwell.values import map_tensors

__all__ = [
    "Side",
    "Tap",
    "check_not_checkpointed",
    "copied",
    "hooked",
    "in_checkpoint",
    "inference",
    "is_compiled",
    "layer_named",
    "logits_of",
    "named_as_layer",
    "own_name",
    "release",
    "run_on_copy",
    "tap_ahead",
    "tapped",
    "unwrap",
    "watch",
    "watchable",
]

Side = Literal["input", "output", "keywords"]

_TAPS: WeakKeyDictionary[nn.Module, dict[str, Tap]] = WeakKeyDictionary()
"""The idle hooks that stay on compiled models: what they hold, not what is known about them."""

_CHECKPOINTS = (
    "torch.utils.checkpoint",
    "deepspeed.runtime.activation_checkpointing.checkpointing",
    "fairscale.nn.checkpoint.checkpoint_activations",
)

_FUNCTIONS = (FunctionType, MethodType)


# ------------------------------------------------------------------------------ models as they come


def unwrap(model: nn.Module) -> nn.Module:
    """Return the user's own module inside ``torch.compile``, DDP, DataParallel and Fabric."""
    while True:
        # Asked of each step, several times: of the dict, as nn.Module's attributes take their time.
        held = {name: module for name, module in model._modules.items() if module is not None}
        inner = held.get("_orig_mod", held.get("_original_module"))
        if inner is None and list(held) == ["module"] and not model._parameters:
            inner = held["module"]
        if inner is None:
            return model
        model = inner


def is_compiled(model: nn.Module) -> bool:
    """Whether ``model``, a wrapper around it or a module inside it goes through torch.compile."""
    seen: nn.Module | None = model
    while isinstance(seen, nn.Module):
        held = dict(seen._modules.items())  # a scripted module's has no get
        if "_orig_mod" in held:
            return True
        seen = held.get("_forward_module", held.get("module"))
    return any(_compiles(module) for module in model.modules())


def _compiles(module: nn.Module) -> bool:
    """Whether a module is compiled, or runs what is: a decorated forward, a compiled function."""
    if "_orig_mod" in module._modules or module._compiled_call_impl is not None:
        return True
    kind, held = type(module), vars(module)
    if kind.__module__.startswith("torch.nn.modules.") and "forward" not in held:
        return False
    functions = [getattr(kind, "forward", None)]
    functions += [value for value in held.values() if value.__class__ in _FUNCTIONS]
    return any(hasattr(function, "_torchdynamo_orig_callable") for function in functions)


@contextlib.contextmanager
def inference(model: nn.Module, mode: Literal["eval", "train", "look"] = "eval") -> Iterator[None]:
    """Run ``model`` without gradient and leave it as it was.

    That is its modes, buffers (also those that are assigned anew), the attributes of its modules
    and the random state. What is changed inside an attribute (a list that grows) and what hooks of
    the caller's own do elsewhere is not undone.

    Args:
        model: any module.
        mode: "eval" switches to evaluation (running statistics, no dropout); "train" stays in
            the present mode; so does "look", but for batch norms that have running statistics.
    """
    modes = [(module, module.training) for module in model.modules()]
    held = [
        _Held(module)
        for module, _ in modes
        # torch's own layers change nothing of theirs in evaluation
        if mode != "eval" or not type(module).__module__.startswith("torch.nn.modules.")
    ]
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    if not torch.cuda.is_available() or (devices and torch.cuda.is_current_stream_capturing()):
        devices = set()  # a graph's random state can't be read while it is captured
    for module, _ in modes:
        if mode == "eval" or (mode == "look" and _has_statistics(module)):
            module.training = False  # not eval(), which exported modules refuse
    cache, parametrize._cache = parametrize._cache, {}  # whose weights would have no gradient
    numpy = sys.modules.get("numpy")
    drawn = random.getstate(), None if numpy is None else numpy.random.get_state()
    try:
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            yield
    finally:
        parametrize._cache = cache
        random.setstate(drawn[0])
        if numpy is not None:
            numpy.random.set_state(drawn[1])
        # Autocast keeps the weights it casts: some versions of torch would go on with these, which
        # have no gradient, in the caller's pass.
        torch.clear_autocast_cache()
        for module, training in modes:
            module.training = training
        for before in held:
            before.put_back()


def _has_statistics(module: nn.Module) -> bool:
    """Whether a module is a batch norm that needs neither a batch nor other processes."""
    return isinstance(module, _BatchNorm) and module.running_mean is not None


class _Held:
    """What a module holds before it is looked at: buffers, and attributes of the user's own kinds.

    Args:
        module: any module.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module, self.kind = module, type(module)
        self.scripted = isinstance(module, torch.jit.ScriptModule)
        own = not self.kind.__module__.startswith("torch.")
        self.attributes = dict(vars(module)) if own and not self.scripted else None
        self.buffers = dict(module._buffers.items())
        self.values = [(b, b.clone()) for b in self.buffers.values() if b is not None]

    def put_back(self) -> None:
        """Give the module back what it held."""
        if type(self.module) is not self.kind:  # a lazy module, which the look has made
            return
        if self.attributes is not None:
            now = vars(self.module)
            for name in now.keys() - self.attributes.keys():
                del now[name]
            for name, value in self.attributes.items():
                if now.get(name, now) is not value:
                    now[name] = value
        if not self.scripted:  # whose buffers are another object each time
            held = self.module._buffers
            for name, buffer in self.buffers.items():
                if held.get(name, held) is not buffer:
                    held[name] = buffer
        for buffer, value in self.values:
            buffer.data.copy_(value)  # as it was: graphs that the caller keeps are none the wiser


def copied(x: Any) -> Any:
    """Return a pytree with tensors of its own: some models change their input in place."""
    return map_tensors(lambda leaf: leaf.detach().clone(), x)


def run_on_copy(model: nn.Module, x: Any) -> Any:
    """Return what ``model`` makes of a copy of ``x``."""
    return model(copied(x))


def logits_of(output: Any) -> Tensor:
    """Return the logits in what a classifier returned.

    They are the output itself, its ``.logits``, what a dict has under "logits" or "out"
    (torchvision's segmentation), or the first of a tuple. Auxiliary outputs (Inception's,
    GoogLeNet's) are not used.
    """
    if isinstance(output, Tensor):
        return output
    logits = None
    if isinstance(output, Mapping):
        logits = output.get("logits", output.get("out"))
    logits = getattr(output, "logits", logits)
    if logits is None and isinstance(output, (tuple, list)) and output:
        logits = output[0]
    if not isinstance(logits, Tensor):
        raise InputError(
            "model must return logits: a tensor, an object or dict with 'logits', or a tuple that "
            f"starts with them; got {type(output).__name__}"
        )
    return logits


def layer_named(model: nn.Module, name: str, argument: str = "layer") -> nn.Module:
    """Return the layer of this name, which may begin with a dot: see :func:`named_as_layer`.

    Raises:
        InputError: there is none; ``argument`` is what the message calls it.
    """
    inner = unwrap(model)
    try:
        return inner.get_submodule(name.removeprefix("."))
    except AttributeError:
        names = [known for known, _ in inner.named_modules() if known]
        shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
        raise InputError(
            f"{argument}={name!r} is no layer of {type(inner).__name__}{suggest(name, names)}; "
            f"its layers: {shown}"
        ) from None


def named_as_layer(name: str) -> str:
    """Return what says, where ``layer`` may be "input", "head" or "auto", that a module is meant.

    A module that is called so is told by a dot before it: ".input".
    """
    return f".{name}" if name in ("input", "head", "auto") else name


def own_name(model: nn.Module, name: str) -> str:
    """Return the name by which a layer is known in a look, of those that it has.

    Raises:
        InputError: there is no such layer.
    """
    return watchable(model).get(layer_named(model, name), name)


def watchable(model: nn.Module) -> dict[nn.Module, str]:
    """Return the modules of a model that take hooks, with their names: none that is scripted."""
    return {
        module: name
        for name, module in unwrap(model).named_modules()
        if not isinstance(module, torch.jit.ScriptModule)
    }


@contextlib.contextmanager
def hooked(
    modules: Iterable[nn.Module], before: Callable[..., None], after: Callable[..., None]
) -> Iterator[None]:
    """Have all modules call ``before`` (with keywords) and ``after`` they run, in the context."""
    handles = []
    for module in modules:
        handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        handles.append(module.register_forward_hook(after))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def watch(
    model: nn.Module, x: Any, note: Callable[[str, nn.Module, tuple[Any, ...], Any], None]
) -> None:
    """Run ``model`` in evaluation mode, and have each module that runs noted as it ends.

    The whole batch is used: models may be made for its size.

    Args:
        model: any module, of which nothing is changed.
        x: a batch of inputs, which stays as it is.
        note: called with the module's name, itself, its arguments and its output.
    """
    names = watchable(model)

    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        note(names[module], module, args, output)

    handles = [module.register_forward_hook(hook) for module in names]
    try:
        # A compiled part would not run the hooks; eagerly it does.
        with inference(model), torch.compiler.set_stance("force_eager"):
            run_on_copy(model, x)
    finally:
        for handle in handles:
            handle.remove()


# --------------------------------------------------------------------------------------------- taps


def in_checkpoint() -> bool:
    """Whether the model's pass is inside a checkpointed segment here, to be run again backward.

    Those written by hand are autograd functions: a pass inside of one has a backward of its own.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").startswith("mixwell."):
        frame = frame.f_back  # the hook's own
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name in _CHECKPOINTS:
            return True
        if name.startswith("mixwell."):  # who runs the model
            return False
        if not torch.is_grad_enabled() and _is_function(frame):
            return True
        frame = frame.f_back
    return False


def _is_function(frame: FrameType) -> bool:
    """Whether a frame is the forward of a torch.autograd.Function: its first argument tells."""
    code = frame.f_code
    if not code.co_argcount:
        return False
    first = frame.f_locals.get(code.co_varnames[0])
    return isinstance(first, torch.autograd.function.FunctionCtx)


def check_not_checkpointed(layer: str, owner: str) -> None:
    """Raise an InputError where a layer's hook runs inside a checkpointed segment.

    Args:
        layer: its name.
        owner: the model's, for the message.
    """
    if not in_checkpoint():
        return
    raise InputError(
        f"layer {layer!r} of {owner} runs inside a checkpointed segment or a torch.autograd."
        "Function, whose backward pass is not that of what is mixed here: the gradient would be "
        "wrong. "
        "Mix at the input or the head (layer='input', layer='head'), at a layer outside of the "
        "segments, or turn activation checkpointing off"
    )


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
        if isinstance(module, torch.jit.ScriptModule):
            raise InputError(
                f"layer {name!r} is scripted or traced (torch.jit), where nothing can be read or "
                "mixed: give the model itself, or mix at the input"
            )
        if side == "input":
            self._handle = module.register_forward_pre_hook(self._before, with_kwargs=True)
        elif side == "keywords":
            self._handle = module.register_forward_pre_hook(self._look, with_kwargs=True)
        else:
            self._handle = module.register_forward_hook(self._after)

    def _before(
        self, module: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if self.function is None or not (args or keywords):
            return None
        self.fired = True
        if args:
            return (self.function(args[0]), *args[1:]), keywords
        first = next(iter(keywords))
        return args, {**keywords, first: self.function(keywords[first])}

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


def _tap(module: nn.Module, name: str, side: Side, compiled: bool) -> Tap:
    kept = _TAPS.setdefault(module, {}) if compiled else {}
    tap = kept.get(side) or Tap(module, name, side)
    kept[side] = tap
    return tap


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
    module = layer_named(model, name)
    compiled = is_compiled(model)
    tap = _tap(module, name, side, compiled)
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


def tap_ahead(model: nn.Module, names: list[str], side: Side = "output") -> None:
    """Put idle hooks on all layers that a compiled model may be tapped at in a later step."""
    if is_compiled(model):
        for name in names:
            _tap(layer_named(model, name), name, side, True)


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
