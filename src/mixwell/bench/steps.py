"""Whole training steps and epochs beside a plain loop, and under torch.compile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mixwell
from mixwell import models
from mixwell.bench.timing import Contender, reason
from mixwell.data import Dataset
from mixwell.errors import InputError
from mixwell.training.build import load_data, make_model, make_optimizer, resolved
from mixwell.training.config import RunConfig
from mixwell.training.prepare import check
from mixwell.training.run import trainer

__all__ = ["COMPILED", "METHODS", "Training", "compiled_step", "epochs", "steps"]

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "erm": ("erm", {}),
    "mixup": ("mixup", {}),
    "cutmix": ("cutmix", {}),
    "decoupled": ("decoupled", {}),
    "infinite_class": ("infinite_class", {}),
    "sk_mixup, features": ("sk_mixup", {}),
    "sk_mixup, remembered": ("sk_mixup", {"distance": "remembered"}),
    "sk_mixup, input": ("sk_mixup", {"distance": "input"}),
    "am_mixup": ("am_mixup", {}),
}
"""What is timed: a name, and what is created."""

COMPILED = tuple(name for name in METHODS if name != "sk_mixup, remembered")


@dataclass(frozen=True)
class Training:
    """A model and a batch to train it on.

    Attributes:
        model: as :func:`mixwell.models.build` knows it.
        size: B.
        side: H and W, in pixels.
        num_classes: C.
    """

    model: str
    size: int
    side: int
    num_classes: int = 100

    def __str__(self) -> str:
        return f"{self.model.removeprefix('timm:')}, {self.size}×3×{self.side}²"

    def make(self, device: torch.device) -> tuple[nn.Module, Tensor, Tensor]:
        """Return the model, images and labels."""
        torch.manual_seed(0)
        shape = (3, self.side, self.side)
        model = models.build(self.model, input_shape=shape, num_outputs=self.num_classes)
        x = torch.randn(self.size, *shape)
        y = torch.randint(self.num_classes, (self.size,))
        return model.to(device), x.to(device), y.to(device)


def _created(name: str, num_classes: int) -> nn.Module | str:
    """Return a method, or why there is none."""
    method, settings = METHODS.get(name, (name, {}))
    try:
        return mixwell.create(method, num_classes=num_classes, **settings)
    except InputError as error:
        if settings.get("distance") == "remembered" and "remembered" in str(error):
            return "not in this version"
        return reason(error)


def steps(
    case: Training, device: torch.device, names: Sequence[str] = tuple(METHODS)
) -> list[Contender]:
    """Return the contenders: forward, backward and SGD of one model on one batch.

    The floor is the loop that one would write without mixwell.

    Args:
        case: the model and the batch.
        device: of both.
        names: of :data:`METHODS`, or of any method or composition.
    """
    try:
        model, x, y = case.make(device)
    except InputError as error:
        return [Contender("plain loop", kind="floor", absent=str(error))]
    index = torch.arange(case.size, device=device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def step(loss: Callable[[], Tensor]) -> Callable[[], None]:
        def run() -> None:
            value = loss()
            optimizer.zero_grad()
            value.backward()
            optimizer.step()

        return run

    contenders = [Contender("plain loop", step(lambda: F.cross_entropy(model(x), y)), "floor")]
    for name in names:
        method = _created(name, case.num_classes)
        if isinstance(method, str):
            contenders.append(Contender(name, kind="mixwell", absent=method))
            continue
        contenders.append(
            Contender(name, step(lambda method=method: method(model, x, y, index=index)), "mixwell")  # type: ignore[misc]
        )
    return contenders


def epochs(
    data: str, data_dir: str | None, size: int, device: torch.device, names: Sequence[str]
) -> list[Contender]:
    """Return the contenders: an epoch of ``mixwell train``.

    The floor is the bare model's forward, backward and optimiser, its batches in memory: an epoch
    of ``train`` also reads, shuffles and checks the data, mixes, and keeps the mean loss. Since
    ``train`` has torch's fused optimiser, the same with that one stands beside.

    Args:
        data: a data set of classes.
        data_dir: its folder; None for one that needs none.
        size: training samples at most.
        device: of all.
        names: of :data:`METHODS`, or of any method or composition.
    """
    plain = RunConfig(
        data=data, data_dir=data_dir, method="erm",
        accelerator="cpu" if device.type == "cpu" else "gpu",
    )  # fmt: skip
    try:
        dataset = load_data(plain)
        if len(dataset.train) > size:
            plain = replace(plain, train_size=size)
            dataset = load_data(plain)
    except InputError as error:
        return [Contender("plain loop", kind="floor", absent=str(error))]
    plain = resolved(plain, dataset)
    assert plain.batch_size is not None
    batches = list(
        dataset.train.batches(
            plain.batch_size, shuffle=True, seed=0, epoch=0, augment=bool(plain.augment),
            device=device, drop_last=len(dataset.train) >= plain.batch_size,
        )
    )  # fmt: skip

    contenders = [
        Contender("plain loop", _bare(plain, dataset, batches, device, False), "floor"),
        Contender("plain loop, fused optimiser", _bare(plain, dataset, batches, device, True)),
    ]
    for name in names:
        method, settings = METHODS.get(name, (name, {}))
        try:
            config = replace(plain, method=method, method_options=settings)
            check(config, dataset)
            contenders.append(Contender(name, trainer(config, dataset), "mixwell"))
        except InputError as error:
            contenders.append(Contender(name, kind="mixwell", absent=reason(error)))
    return contenders


def _bare(
    plain: RunConfig, dataset: Dataset, batches: Sequence[Any], device: torch.device, fused: bool
) -> Callable[[], None]:
    """Return an epoch of the bare model on batches that are there."""
    torch.manual_seed(0)
    model = make_model(plain, dataset).to(device).train()
    optimizer = make_optimizer(plain, model, fused)

    def run() -> None:
        for x, y, _ in batches:
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()

    return run


# ---------------------------------------------------------------------------------------- compiled


class _Graphs:
    """A compiler's backend that counts the graphs it is given."""

    backend = "inductor"

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, module: Any, inputs: Any) -> Any:
        from torch._dynamo.backends.registry import lookup_backend

        self.count += 1
        return lookup_backend(self.backend)(module, inputs)


def compiled_step(case: Training, device: torch.device, name: str) -> list[Contender]:
    """Return two contenders: a method's loss and gradient, eager and compiled.

    The method is compiled with the model, ``fullgraph=True``, and run five times; graphs that are
    built after the first run are recompilations.

    Args:
        case: the model and the batch.
        device: of both.
        name: of :data:`METHODS`, or "plain loop".
    """
    eager = f"{name} (eager)"
    kind = "reference" if name == "plain loop" else "mixwell"

    def absent(why: str, fullgraph: str = "–") -> list[Contender]:
        traits = {"fullgraph": fullgraph, "graphs": "–", "recompilations": "–"}
        return [Contender(name, kind=kind, absent=why, traits=traits)]

    missing = _no_compiler(device)
    method = None if name == "plain loop" else _created(name, case.num_classes)
    if missing or isinstance(method, str):
        return absent(missing or str(method))
    torch.compiler.reset()
    try:
        model, x, y = case.make(device)
    except InputError as error:
        return absent(str(error))

    def loss(x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(model(x), y) if method is None else method(model, x, y)

    def step(loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], None]:
        def run() -> None:
            model.zero_grad()
            loss(x, y).backward()

        return run

    graphs = _Graphs()
    compiled = step(torch.compile(loss, fullgraph=True, backend=graphs))
    try:
        compiled()
        first = graphs.count
        for _ in range(4):
            compiled()
    except Exception as error:  # of any kind: it is the compiler's
        return absent(reason(error), "no")
    built = {"fullgraph": "yes", "graphs": str(first), "recompilations": str(graphs.count - first)}
    return [
        Contender(eager, step(loss), "floor"),
        Contender(name, compiled, kind, traits=built),
    ]


@cache
def _no_compiler(device: torch.device) -> str:
    """Return why torch.compile can't work here; an empty string where it can."""
    try:
        torch.compile(lambda t: (t + 1).relu())(torch.ones(8, device=device))
    except Exception as error:  # of any kind: a compiler, a header or Python's may be missing
        return f"no working compiler: {reason(error)}"
    return ""
