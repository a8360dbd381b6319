"""What a forward pass is made of: which layers ran, and which value came of which.

One pass in the mode that the model is in is recorded below autograd, operation by operation. Every
tensor that depends on the inputs is a *node*, a number; the inputs' own come first. What depends on
no input (weights, constants, what is only shaped like one) has none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from mixwell.functional import interpolates
from mixwell.mix import tensors
from mixwell.view.cache import known
from mixwell.view.hooks import copied, hooked, inference, logits_of, watchable

__all__ = ["Run", "Trace", "kind_of", "mask_places", "others_of", "plain", "trace"]


_SHAPED = {
    *("empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like"),
    *("randint_like", "new_empty", "new_zeros", "new_ones", "new_full", "new_empty_strided"),
}
"""Operations that take a tensor's shape and type, and nothing of what it holds."""


@dataclass(frozen=True)
class Run:
    """One run of a module.

    Attributes:
        name: the module's.
        entered: the nodes of its first argument.
        beside: the nodes of its other arguments.
        left: the nodes of what it returned.
        features: whether its first argument is floating and (B, d) or (B, d, ...).
        mixable: whether all that it returned has B rows, of numbers that can be interpolated.
        inside: the numbers of the runs of its parts: from this one's first to its own.
    """

    name: str
    entered: tuple[int, ...]
    beside: tuple[int, ...]
    left: tuple[int, ...]
    features: bool
    mixable: bool
    inside: range


@dataclass(frozen=True)
class Trace:
    """A recorded pass.

    Attributes:
        inputs: the node of each input tensor, by its place in x ("" for a single tensor).
        parents: of each node, the nodes that it was computed from.
        kinds: of each node, the operation that made it.
        floating: of each node, whether it holds real numbers.
        whole: of each node, whether it may stand for what it was computed from: the operation
            made nothing larger of it.
        runs: the modules that ran, in the order in which they ended.
        logits: the node of the logits; None where they depend on no input.
        others: the nodes of further tensors of B rows that were returned beside the logits.
        changes_input: whether the model changed its input in place.
    """

    inputs: Mapping[str, int]
    parents: list[tuple[int, ...]]
    kinds: list[str]
    floating: list[bool]
    whole: list[bool]
    runs: list[Run]
    logits: int | None
    others: tuple[int, ...]
    changes_input: bool

    def __post_init__(self) -> None:
        object.__setattr__(self, "times", Counter(run.name for run in self.runs))

    def count(self, name: str) -> int:
        """Return how often a module ran."""
        times: Counter[str] = self.times  # type: ignore[attr-defined]
        return times[name]

    def of(self, name: str) -> list[Run]:
        """Return the runs of a module."""
        return [run for run in self.runs if run.name == name]

    def reached(self, start: Iterable[int], without: Iterable[int] = ()) -> set[int]:
        """Return the nodes that ``start`` was computed from, by paths ``without`` some of them."""
        closed, waiting = set(without), list(start)
        found: set[int] = set()
        while waiting:
            node = waiting.pop()
            if node in closed or node in found:
                continue
            found.add(node)
            waiting.extend(self.parents[node])
        return found

    def around(self, name: str, side: str) -> set[str]:
        """Return the inputs that reach the logits by a path around a layer: their places in x.

        What is replaced at the layer does not change what goes around it.

        Args:
            name: the layer.
            side: "input" or "output", which is replaced.
        """
        runs = self.of(name)
        if self.logits is None:
            return set()
        own = {node for run in runs for node in run.left}
        found = self.reached([self.logits], own)
        if side == "input":
            beside = [node for run in runs for node in run.beside]
            found |= self.reached(beside)
        return {place for place, node in self.inputs.items() if node in found}


class _Recorder(TorchDispatchMode):
    """Numbers what is computed from the inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.parents: list[tuple[int, ...]] = []
        self.kinds: list[str] = []
        self.floating: list[bool] = []
        self.whole: list[bool] = []
        self.nodes: Any = WeakTensorKeyDictionary()
        self.written: dict[int, tuple[StorageWeakRef, int]] = {}
        self.memory: dict[int, tuple[StorageWeakRef, int]] = {}

    def add(self, tensor: Tensor, parents: tuple[int, ...], kind: str, whole: bool = True) -> int:
        """Return the number of a new node, which ``tensor`` is from now on."""
        node = len(self.parents)
        self.parents.append(parents)
        self.kinds.append(kind)
        self.floating.append(tensor.is_floating_point() or tensor.is_complex())
        self.whole.append(whole)
        self.nodes[tensor] = node
        if (address := _address(tensor)) != 0:
            self.memory[address] = StorageWeakRef(tensor.untyped_storage()), node
        return node

    def of(self, value: Any) -> tuple[int, ...]:
        """Return the nodes of the tensors in ``value``."""
        found = []
        for tensor in tensors(value):
            node = self.nodes.get(tensor)
            if node is None:
                node = self._in_memory_of(tensor)
            written = self.written.get(_storage(tensor)) if self.written else None
            if written is not None and (node is None or written[1] > node):
                found.append(written[1])
            if node is not None:
                found.append(node)
        return tuple(dict.fromkeys(found))

    def _in_memory_of(self, tensor: Tensor) -> int | None:
        """Return the node whose memory a tensor shares that no operation made (from NumPy)."""
        found = self.memory.get(_address(tensor))
        return None if found is None or found[0].expired() else found[1]

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        parents = self.of((args, kwargs))
        result = function(*args, **kwargs)
        kind = function.overloadpacket.__name__ if hasattr(function, "overloadpacket") else ""
        if not parents or kind in _SHAPED:
            return result
        given = [leaf.numel() for leaf in tensors((args, kwargs)) if self.of(leaf)]
        mutable = getattr(getattr(function, "_schema", None), "is_mutable", False)
        for tensor in tensors(result):
            node = self.add(tensor, parents, kind, tensor.numel() <= max(given))
            if mutable:
                self._write(tensor, node)
        if mutable:
            self._note_written(function, args, kwargs, parents, kind)
        return result

    def _note_written(
        self, function: Any, args: Any, kwargs: Any, parents: tuple[int, ...], kind: str
    ) -> None:
        """Give what an operation wrote to, and did not return, a node."""
        for argument, value in zip(function._schema.arguments, args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                for tensor in tensors(value):
                    if _storage(tensor) not in self.written:
                        self._write(tensor, self.add(tensor, parents, kind))

    def _write(self, tensor: Tensor, node: int) -> None:
        storage = tensor.untyped_storage()
        self.written[storage._cdata] = StorageWeakRef(storage), node


def _storage(tensor: Tensor) -> int:
    try:
        return tensor.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):  # sparse and other tensors that have none
        return -1


def _address(tensor: Tensor) -> int:
    """Return where a tensor's storage is; 0 where it has none."""
    if isinstance(tensor, FakeTensor):
        return 0
    try:
        return tensor.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):  # sparse and other tensors that have none
        return 0


def trace(model: nn.Module, x: Any) -> Trace:
    """Return the record of a pass of ``model`` over ``x``, in the mode that it is in.

    It is made once for each kind of input, and again when the model's modules have changed; the
    model stays as it was. The whole batch is used: models may be made for its size.
    """
    return known(model, ("trace", kind_of(x)), lambda: _record(model, x))


def kind_of(x: Any) -> tuple[tuple[str, int | tuple[int, ...], torch.dtype], ...]:
    """Return what kind of input ``x`` is: its tensors' places, types, and dimensions.

    Images and volumes of another size are of another kind; text of another length is not.
    """
    return tuple(
        (place, leaf.ndim if leaf.ndim < 4 else tuple(leaf.shape[1:]), leaf.dtype)
        for place, leaf in _places(x).items()
    )


def _places(x: Any) -> dict[str, Tensor]:
    """Return the tensors in ``x`` by their place: "" alone, a dict's keys, else numbers."""
    if isinstance(x, Tensor):
        return {"": x}
    if isinstance(x, Mapping):
        return {str(key): leaf for key, value in x.items() for leaf in tensors(value)[:1]} | {
            f"{key}.{number}": leaf
            for key, value in x.items()
            for number, leaf in enumerate(tensors(value))
            if number
        }
    return {str(number): leaf for number, leaf in enumerate(tensors(x))}


def mask_places(x: Any) -> tuple[str, ...]:
    """Return the places in ``x`` of masks and lengths that are known to say what is looked at.

    Those are a dict's entries whose name holds "attention_mask", whatever their shape (1 or True
    where it is looked at, or 0 there and less elsewhere, to be added), and "length" or "lengths".
    """
    if not isinstance(x, Mapping):
        return ()
    return tuple(
        str(key) for key in x if "attention_mask" in str(key) or key in ("length", "lengths")
    )


class _Watch:
    """Notes what enters and leaves each module, while a recorder numbers it."""

    def __init__(self, model: nn.Module, size: int, recorder: _Recorder) -> None:
        self.size, self.recorder = size, recorder
        self.names = watchable(model)
        self.runs: list[Run] = []
        self.entered: list[tuple[tuple[int, ...], tuple[int, ...], bool, int]] = []

    def before(self, module: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        everything = [*args, *keywords.values()]
        first, of = everything[0] if everything else None, self.recorder.of
        features = (
            isinstance(first, Tensor)
            and first.is_floating_point()
            and first.ndim > 1
            and len(first) == self.size
        )
        self.entered.append((of(first), of(everything[1:]), features, len(self.runs)))

    def after(self, module: nn.Module, args: Any, output: Any) -> None:
        first, beside, features, begin = self.entered.pop()
        leaves = tensors(plain(output))
        mixable = bool(leaves) and all(
            not leaf.is_nested and leaf.ndim > 0 and len(leaf) == self.size and interpolates(leaf)
            for leaf in leaves
        )
        self.runs.append(
            Run(
                name=self.names[module],
                entered=first,
                beside=beside,
                left=self.recorder.of(leaves),
                features=features,
                mixable=mixable,
                inside=range(begin, len(self.runs)),
            )
        )


@torch.inference_mode(False)  # whose tensors, of the caller's mode, don't count their changes
def _record(model: nn.Module, x: Any) -> Trace:
    x = copied(x)
    places = _places(x)
    size = len(next(iter(places.values())))
    versions = [leaf._version for leaf in places.values()]
    recorder = _Recorder()
    inputs = {place: recorder.add(leaf, (), "input") for place, leaf in places.items()}
    watch = _Watch(model, size, recorder)
    # A compiled part would not run the hooks; eagerly it does.
    with (
        hooked(watch.names, watch.before, watch.after),
        inference(model, "look"),
        torch.compiler.set_stance("force_eager"),
        recorder,
    ):
        output = model(x)
    logits = logits_of(output)
    others = [recorder.of(other)[:1] for other in others_of(output, logits)]
    return Trace(
        inputs=inputs,
        parents=recorder.parents,
        kinds=recorder.kinds,
        floating=recorder.floating,
        whole=recorder.whole,
        runs=watch.runs,
        logits=next(iter(recorder.of(logits)), None),
        others=tuple(node for nodes in others for node in nodes),
        changes_input=versions != [leaf._version for leaf in places.values()],
    )


def plain(output: Any) -> Any:
    """Return what a module returned with objects of attributes (Hugging Face's) as dicts."""
    if isinstance(output, Mapping) and not isinstance(output, dict):
        return dict(output)
    return output


def others_of(output: Any, logits: Tensor) -> list[Tensor]:
    """Return what a model returned beside its logits without saying which is which: in a tuple."""
    if not isinstance(output, (tuple, list)) or hasattr(output, "logits"):
        return []
    return [
        leaf
        for leaf in tensors(list(output))
        if leaf is not logits
        and leaf.is_floating_point()
        and leaf.ndim
        and len(leaf) == len(logits)
    ]
