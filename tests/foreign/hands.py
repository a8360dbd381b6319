"""The same by hand: mixing and reading at a layer by hooks of the tests' own."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from foreign.truths import Foreign
from torch import Tensor, nn

from mixwell import InputError
from mixwell.values import map_tensors

Change = Callable[[Tensor], Tensor]


def copy_of(x: Any) -> Any:
    """Return a copy of a batch: a tensor, a dict or a BatchEncoding."""
    if isinstance(x, Tensor):
        return x.clone()
    copied = {key: value.clone() for key, value in x.items()}
    return copied if isinstance(x, dict) else type(x)(copied)


def tensors_of(x: Any) -> list[Tensor]:
    return [x] if isinstance(x, Tensor) else list(x.values())


def blend(partner: Tensor, lam: Tensor) -> Change:
    """Return what mixes rows: λ of the own one, 1 - λ of the partner's."""

    def change(rows: Tensor) -> Tensor:
        if not rows.is_floating_point():
            return rows
        weight = lam.to(rows.dtype).view(-1, *[1] * (rows.ndim - 1))
        return weight * rows + (1 - weight) * rows[partner]

    return change


@contextlib.contextmanager
def changed(module: nn.Module, side: str, change: Change) -> Iterator[None]:
    """While in the context, change what enters ("input") or leaves ("output") a module."""

    def before(module: nn.Module, args: Any, keywords: Any) -> Any:
        return map_tensors(change, (args, keywords))

    def after(module: nn.Module, args: Any, output: Any) -> Any:
        return map_tensors(change, output)

    if side == "input":
        handle = module.register_forward_pre_hook(before, with_kwargs=True)
    else:
        handle = module.register_forward_hook(after)
    try:
        yield
    finally:
        handle.remove()


def logits(case: Foreign, x: Any = None) -> Tensor:
    """Return the logits of a plain pass."""
    with case.context():
        return case.logits(case.core(copy_of(case.x if x is None else x)))


def logits_with(case: Foreign, layer: str, side: str, change: Change, x: Any = None) -> Tensor:
    """Return the logits of a pass in which rows are changed at a layer."""
    if layer == case.head and case.apart is not None:
        read, score = case.apart
        with case.context():
            return score(case.core, change(read(case.core, copy_of(case.x))))
    with changed(case.core.get_submodule(layer), side, change):
        return logits(case, x)


def features(case: Foreign, head: str | None = None) -> Tensor:
    """Return what enters the head, its first argument."""
    if head is None and case.apart is not None:
        with torch.no_grad():
            return case.apart[0](case.core, copy_of(case.x))
    seen: list[Tensor] = []

    def keep(rows: Tensor) -> Tensor:
        seen.append(rows.detach().clone())
        return rows

    with torch.no_grad():
        logits_with(case, head or case.head or "", "input", keep)
    return seen[0]


def once_run(case: Foreign) -> list[str]:
    """Return the names of the layers that run once in a pass, in the order in which they end."""
    ended: list[str] = []
    names = {module: name for name, module in case.core.named_modules() if name}
    handles = [
        module.register_forward_hook(lambda module, *_: ended.append(names[module]))
        for module in names
    ]
    try:
        with torch.no_grad():
            logits(case)
    finally:
        for handle in handles:
            handle.remove()
    counts = Counter(ended)
    return [name for name in ended if counts[name] == 1]


def passes_all(case: Foreign, layer: str) -> bool:
    """Whether all paths pass a layer: with its rows rolled the logits are rolled."""
    x = case.x
    if not isinstance(x, Tensor):  # what is masked is another for each row
        x = {**x, "attention_mask": torch.ones_like(x["attention_mask"])}
    with torch.no_grad():
        rolled = logits_with(case, layer, "output", lambda rows: rows.roll(1, 0), x)
        return near(case, rolled, logits(case, x).roll(1, 0))


def distance(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference, relative to how far apart the expected rows are."""
    found, expected = found.detach().double(), expected.detach().double()
    if found.shape != expected.shape:
        return float("inf")
    spread = (expected - expected.mean(0)).abs().max().clamp_min(1e-12)
    return float((found - expected).abs().max() / spread)


def near(case: Foreign, found: Tensor, expected: Tensor) -> bool:
    return distance(found, expected) <= case.tolerance


def assert_near(case: Foreign, found: Tensor, expected: Tensor, what: str = "logits") -> None:
    far = distance(found, expected)
    assert far <= case.tolerance, f"{what} are {far:.2g} of their spread away"


def gradients(case: Foreign, found: Tensor) -> dict[str, Tensor]:
    """Return the gradients of a fixed weighing of logits, and leave none behind."""
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(5))
    case.model.zero_grad(set_to_none=True)
    (found * weights.to(found.dtype)).sum().backward()
    kept = {
        name: parameter.grad.detach().double()
        for name, parameter in case.core.named_parameters()
        if parameter.grad is not None
    }
    case.model.zero_grad(set_to_none=True)
    return kept


def assert_same_gradients(case: Foreign, found: Tensor, expected: Tensor) -> None:
    """Assert that two computations of the same logits have the same gradients."""
    if not case.own_gradients:
        return
    ours, theirs = gradients(case, found), gradients(case, expected)
    assert ours.keys() == theirs.keys()
    largest = max(float(gradient.abs().max()) for gradient in theirs.values())
    for name, gradient in theirs.items():
        far = float((ours[name] - gradient).abs().max()) / largest
        assert far <= 10 * case.tolerance, f"the gradient of {name} is {far:.2g} away"


# ------------------------------------------------------------------------- nothing is changed


def whole(parameter: Tensor) -> Tensor:
    value = parameter.detach()
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def hooks_of(model: nn.Module) -> int:
    return sum(
        len(getattr(module, kind))
        for module in model.modules()
        for kind in (
            "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks",
        )
    )  # fmt: skip


@contextlib.contextmanager
def untouched(case: Foreign) -> Iterator[None]:
    """Assert that what runs in the context changes nothing of the model."""
    model = case.model
    model.zero_grad(set_to_none=True)
    state = {name: whole(value).clone() for name, value in model.state_dict().items()
             if isinstance(value, Tensor)}  # fmt: skip
    modes = [module.training for module in model.modules()]
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    names, hooks = [name for name, _ in model.named_modules()], hooks_of(model)
    yield
    for name, value in model.state_dict().items():
        assert not isinstance(value, Tensor) or torch.equal(whole(value), state[name]), name
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == wanted
    assert all(parameter.grad is None for parameter in model.parameters()), "gradients were left"
    assert [name for name, _ in model.named_modules()] == names
    if not case.adds_hooks:
        assert hooks_of(model) == hooks, "hooks were left"


def step_of(case: Foreign, method: Any, seed: int = 0, x: Any = None, y: Any = None) -> Any:
    """Return a step, and assert that it leaves model and batch as they were."""
    torch.manual_seed(seed)
    x, y = copy_of(case.x if x is None else x), case.y if y is None else y
    before = [leaf.clone() for leaf in tensors_of(x)]
    with untouched(case), case.context():
        step = method.step(case.model, x, y)
    assert step.loss.isfinite()
    if not case.changes_x:
        assert all(torch.equal(a, b) for a, b in zip(before, tensors_of(x), strict=True))
    return step


def judged(expected: str, work: Callable[[], None], words: tuple[str, ...] = ()) -> None:
    """Run what must be right, refused, or either.

    Args:
        expected: "right", "refuse" or "either".
        work: asserts that something is right.
        words: a refusal's message holds all of these, and says "head=" or "layer".
    """
    if expected == "right":
        work()
        return
    try:
        work()
    except InputError as error:
        said = str(error)
        helps = ("head=", "layer", "model must return logits")
        assert not words or any(word in said for word in helps), said
        missing = [word for word in words if word and word not in said]
        assert not missing, f"{missing} not named in: {said}"
        return
    if expected == "refuse":
        pytest.fail("this has no one right answer, and was not refused")
