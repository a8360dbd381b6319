"""What methods are asked to do with a foreign model, each with what is right by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from foreign.hands import (
    assert_near,
    assert_same_gradients,
    blend,
    distance,
    features,
    logits,
    logits_with,
    near,
    once_run,
    passes_all,
    step_of,
)
from foreign.truths import (
    CLASSES,
    LABELS,
    Foreign,
    make_images,
)
from torch import Tensor, nn
from torch.nn import functional as F

import mixwell
from mixwell import functional
from mixwell.coefficient import Constant
from mixwell.interpolation import AlignMix, Linear
from mixwell.losses import MixedCrossEntropy
from mixwell.methods import Method, Recipe, Term


def is_floating(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()


def create(case: Foreign, name: str, **arguments: Any) -> Method:
    classes = {} if case.task == "regression" else {"num_classes": CLASSES}
    return mixwell.create(name, task=case.task, **classes, **arguments)


def mixed_by_hand(case: Foreign, step: Any, layer: str | None, side: str = "input") -> Tensor:
    change = blend(step.mix.partner, step.mix.lam)
    if layer is None:
        return logits(case, functional.mix(case.x, step.mix))
    return logits_with(case, layer, side, change)


def assert_repeats(case: Foreign, make: Callable[[], Method], seed: int = 0) -> None:
    """Assert that a step with the same seed is the same, to the bit and to the last draw."""
    found = []
    for _ in range(2):
        step = step_of(case, make(), seed)
        found.append((step.logits.detach(), torch.get_rng_state()))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


# ------------------------------------------------------------------------------------ the work


def mixes_at_the_head(case: Foreign) -> None:
    method = create(case, "mixup", layer="head")
    for seed in range(2):
        step = step_of(case, method, seed)
        expected = mixed_by_hand(case, step, case.head)
        assert_near(case, step.logits, expected)
        assert_same_gradients(case, step.logits, expected)
    if case.task == "classification":
        a, b = (F.one_hot(y, CLASSES) for y in (case.y, case.y[step.mix.partner]))
        soft = torch.lerp(b.double(), a.double(), step.mix.lam.double()[:, None])
        loss = F.cross_entropy(step.logits.double(), soft)
        torch.testing.assert_close(step.loss.double(), loss, rtol=1e-3, atol=1e-5)
    assert_repeats(case, lambda: create(case, "mixup", layer="head"))


def mixes_at_the_named_head(case: Foreign) -> None:
    step = step_of(case, create(case, "mixup", layer="head", head=case.head), 3)
    expected = mixed_by_hand(case, step, case.head)
    assert_near(case, step.logits, expected)
    assert_same_gradients(case, step.logits, expected)


def adds_rows_at_the_head(case: Foreign) -> None:
    method = create(case, "am_mixup", lam0=0.8)
    for seed in range(2):
        step = step_of(case, method, seed)
        expected = mixed_by_hand(case, step, case.head)
        assert (step.mix.lam < 0.9).all()
        assert_near(case, step.logits, expected)
        assert_near(case, step.clean_logits, logits(case), "clean logits")
        assert_same_gradients(case, step.logits, expected)
        for name, z in (("clean", logits(case)), ("am_mixup", expected)):
            loss = F.cross_entropy(z.double(), case.y)
            torch.testing.assert_close(
                step.terms[name].double(), loss, rtol=10 * case.tolerance, atol=1e-5
            )


def mixes_at_input_and_head(case: Foreign) -> None:
    """Of two samples of two classes it is known which are paired."""
    x, y = case.x[:2], case.y[:2]
    step = step_of(case, create(case, "regmixup+am_mixup", lam0=0.8), 1, x, y)
    with torch.no_grad():
        assert_near(case, step.logits, logits(case, functional.mix(x, step.mix)))
        assert_near(case, step.clean_logits, logits(case, x), "clean logits")
        change = blend(torch.tensor([1, 0]), torch.full((2,), 0.8))
        moved = logits_with(case, case.head or "", "input", change, x)
    loss = F.cross_entropy(moved.double(), y)
    found = step.terms["am_mixup"].double()
    torch.testing.assert_close(found, loss, rtol=10 * case.tolerance, atol=1e-5)


def mixes_twice_at_the_head(case: Foreign) -> None:
    method = create(case, "mit", layer="head")
    for seed in range(2):
        step = step_of(case, method, seed)
        assert_near(case, step.logits, mixed_by_hand(case, step, case.head))
        step.loss.backward()
        case.model.zero_grad(set_to_none=True)


class Echo(nn.Module):
    """A model whose features are what it is given."""

    def __init__(self, seen: Tensor, outputs: int) -> None:
        super().__init__()
        self.head = nn.Linear(seen.shape[1], outputs, dtype=seen.dtype)

    def forward(self, x):
        return self.head(x)


def of_same_features(case: Foreign, step: Any, seed: int, head: str | None = None) -> bool:
    """Whether λ is what the declared head's features make of it, with the same draws.

    Of what has positions it may be made of all of them, or of their mean.
    """
    seen = features(case, head)
    if _same_lam(case, step, seed, seen.flatten(1)):
        return True
    return seen.ndim > 2 and _same_lam(case, step, seed, seen.flatten(2).mean(2))


def _same_lam(case: Foreign, step: Any, seed: int, seen: Tensor) -> bool:
    method = mixwell.create("sk_mixup", num_classes=CLASSES, head="head")
    echo = Echo(seen, CLASSES)
    torch.manual_seed(seed)
    expected = method.step(echo, seen, torch.arange(len(seen)) % CLASSES)
    assert torch.equal(step.mix.partner, expected.mix.partner)
    assert len(step.mix.lam.unique()) > 1
    return bool((step.mix.lam - expected.mix.lam).abs().max() < max(1e-4, case.tolerance))


def reads_features(case: Foreign) -> None:
    layer = None if is_floating(case.x) else case.inner
    arguments = {"distance": "features"} if case.task == "regression" else {}
    if layer is not None:
        arguments["layer"] = layer
    method = create(case, "sk_mixup", **arguments)
    for seed in range(2):
        step = step_of(case, method, seed)
        if case.task == "classification":
            for head in (None,) if case.head is not None else case.rivals:
                assert of_same_features(case, step, seed, head), "other features were compared"
        if layer is None:
            assert_near(case, step.logits, mixed_by_hand(case, step, None))


def reads_features_and_mixes_there(case: Foreign) -> None:
    method = create(case, "sk_mixup", layer="head")
    for seed in range(2):
        step = step_of(case, method, seed)
        assert of_same_features(case, step, seed), "other features were compared"
        expected = mixed_by_hand(case, step, case.head)
        assert_near(case, step.logits, expected)
        assert_same_gradients(case, step.logits, expected)


def mixes_at_drawn_layers(case: Foreign) -> None:
    # λ = 0 puts each sample's partner in its place, wherever that is done.
    recipe = Recipe(coefficient=Constant(0.0), interpolation=Linear(layer="auto"))
    loss = create(case, "mixup").terms[0].loss
    swap = Method(Term(loss, recipe), num_classes=None, task=case.task)
    clean = logits(case)
    # Of padded sentences both are seen, whatever λ.
    for seed in range(5 if isinstance(case.x, Tensor) else 0):
        step = step_of(case, swap, seed)
        assert_near(case, step.logits, clean[step.mix.partner], f"with seed {seed}, logits")
    method = create(case, "manifold_mixup")
    for seed in range(2):
        step = step_of(case, method, seed)
        expected = _at_some_layer(case, step)
        assert_same_gradients(case, step.logits, expected)
    if case.stages and is_floating(case.x):
        steps = (step_of(case, method, seed) for seed in range(12))
        assert not all(near(case, step.logits, mixed_by_hand(case, step, None)) for step in steps)


def _at_some_layer(case: Foreign, step: Any) -> Tensor:
    """Return the same logits by hand, mixed at the input or at a layer that all paths pass."""
    if is_floating(case.x):
        found = mixed_by_hand(case, step, None)
        if near(case, step.logits, found):
            return found
    change = blend(step.mix.partner, step.mix.lam)
    x = case.x if isinstance(case.x, Tensor) else _seeing_both(case.x, step.mix.partner)
    layers = sorted(once_run(case), key=lambda name: name.count("."))
    for layer in layers:
        try:
            with torch.no_grad():
                found = logits_with(case, layer, "output", change, x)
            right = near(case, step.logits, found) and passes_all(case, layer)
        except (IndexError, RuntimeError, AttributeError):
            continue  # what leaves this layer is not batch-first
        if right:
            return logits_with(case, layer, "output", change, x)
    pytest.fail("the logits are of samples mixed at no layer that all paths pass")


def mixes_at_an_inner_layer(case: Foreign) -> None:
    assert case.inner is not None
    assert passes_all(case, case.inner), "what is declared of the model is wrong"
    method = create(case, "mixup", layer=case.inner)
    for seed in range(2):
        step = step_of(case, method, seed)
        x = case.x if isinstance(case.x, Tensor) else _seeing_both(case.x, step.mix.partner)
        change = blend(step.mix.partner, step.mix.lam)
        expected = logits_with(case, case.inner, "output", change, x)
        assert_near(case, step.logits, expected)
        assert_same_gradients(case, step.logits, expected)


def adds_rows_at_an_inner_layer(case: Foreign) -> None:
    assert case.inner is not None
    method = create(case, "regmixup", layer=case.inner)
    for seed in range(2):
        step = step_of(case, method, seed)
        change = blend(step.mix.partner, step.mix.lam)
        expected = logits_with(case, case.inner, "output", change)
        assert_near(case, step.logits, expected)
        assert_near(case, step.clean_logits, logits(case), "clean logits")
        assert_same_gradients(case, step.logits, expected)


def _seeing_both(x: Any, partner: Tensor) -> Any:
    mask = x["attention_mask"]
    return {**x, "attention_mask": torch.maximum(mask, mask[partner])}


def aligns(case: Foreign) -> None:
    # With λ = 0 the partner stays where it is: the logits are its own.
    recipe = Recipe(coefficient=Constant(0.0), interpolation=AlignMix(aligned=1.0))
    swap = Method(Term(MixedCrossEntropy(), recipe), num_classes=CLASSES)
    step = step_of(case, swap)
    assert_near(case, step.logits, logits(case)[step.mix.partner])
    step = step_of(case, create(case, "alignmix", aligned=1.0))
    step.loss.backward()
    case.model.zero_grad(set_to_none=True)


class Watching(Linear):
    """Mix at the input, and keep where the model looks."""

    needs_model = True

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def shape(self, batch, mix):
        self.seen = batch.look(self.kind)
        return super().shape(batch, mix)


def _look(case: Foreign, kind: str) -> Tensor:
    """Return what a part sees of the model, to be compared at the precision of a look."""
    watching = Watching(kind)
    method = Method(Term(MixedCrossEntropy(), Recipe(interpolation=watching)), num_classes=CLASSES)
    step_of(case, method)
    return watching.seen.double()


def _maps(case: Foreign) -> Tensor:
    kept: list[Tensor] = []
    with torch.no_grad():
        logits_with(case, case.maps or "", "output", lambda rows: kept.append(rows) or rows)
    return kept[0].double()


def looks_at_maps(case: Foreign) -> None:
    step = step_of(case, create(case, "attentivemix"), 1)
    assert_near(case, step.logits, mixed_by_hand(case, step, None))
    seen = _look(case, "maps")
    if case.maps is not None:
        assert distance(seen, _maps(case)) <= max(case.tolerance, 1e-5), "these are other maps"


def looks_at_activations(case: Foreign) -> None:
    """The maps as the head weighs them, by the gradient of a class's logit for their mean."""
    step = step_of(case, create(case, "snapmix"), 1)
    assert_near(case, step.logits, mixed_by_hand(case, step, None))
    seen = _look(case, "cam")
    entering = features(case).requires_grad_()
    if case.maps is None or entering.ndim > 2:
        return
    maps = _maps(case)
    with case.context():
        z = case.core.get_submodule(case.head or "")(entering)
    (weights,) = torch.autograd.grad(z.gather(1, case.y[:, None]).sum(), entering)
    cam = (weights.double().view(*maps.shape[:2], 1, 1) * maps).sum(1)
    cam = cam - cam.amin((1, 2), keepdim=True)
    cam = cam / cam.sum((1, 2), keepdim=True)
    assert distance(seen, cam) <= max(case.tolerance, 1e-4), "this is another activation map"


def looks_by_gradient(case: Foreign) -> None:
    for name, arguments in (
        ("guidedmix", {"saliency": "gradient", "p": 1.0}),
        ("puzzlemix", {}),
    ):
        step = step_of(case, create(case, name, **arguments), 1)
        assert_near(case, step.logits, mixed_by_hand(case, step, None))
        step.loss.backward()
        case.model.zero_grad(set_to_none=True)
    assert_repeats(case, lambda: create(case, "guidedmix", saliency="gradient", p=1.0))


def looks_by_attention(case: Foreign) -> None:
    for seed in range(2):
        step = step_of(case, create(case, "transmix"), seed)
        assert_near(case, step.logits, mixed_by_hand(case, step, None))
        assert ((step.target.lam >= 0) & (step.target.lam <= 1)).all()


def mixes_classifiers(case: Foreign) -> None:
    step = step_of(case, create(case, "infinite_class"))
    expected = mixed_by_hand(case, step, None)
    assert_near(case, step.logits, expected)
    assert_same_gradients(case, step.logits, expected)


def mixes_nothing(case: Foreign) -> None:
    method = create(case, "erm")
    for _ in range(2):
        step = step_of(case, method)
        assert_near(case, step.logits, logits(case))
    assert_same_gradients(case, step.logits, logits(case))


# ------------------------------------------------------------------------ kinds of faults

Y = torch.tensor(LABELS)


def case_of(net: nn.Module, head: str | None, x: Any = None, **truths: Any) -> Foreign:
    net.double()
    return Foreign(net, make_images() if x is None else x, Y, net, head, **truths)


def mixes_rightly_at_the_head(case: Foreign, classes: int | None = CLASSES, **arguments) -> None:
    for name in ("mixup", "am_mixup"):
        more = {"layer": "head"} if name == "mixup" else {"lam0": 0.7}
        method = mixwell.create(name, num_classes=classes, **more, **arguments)
        step = step_of(case, method)
        change = blend(step.mix.partner, step.mix.lam)
        expected = logits_with(case, case.head or "", "input", change)
        assert_near(case, step.logits, expected)
        assert_same_gradients(case, step.logits, expected)


def swapping(layer: Any = "auto", task: str = "classification") -> Method:
    """Return a method that puts each sample's partner in its place, wherever it mixes."""
    recipe = Recipe(coefficient=Constant(0.0), interpolation=Linear(layer=layer))
    return Method(Term(MixedCrossEntropy(), recipe), task=task)


def swaps_rightly(case: Foreign, draws: int = 8, **arguments: Any) -> None:
    method, clean = swapping(**arguments), logits(case)
    for seed in range(draws):
        step = step_of(case, method, seed)
        assert_near(case, step.logits, clean[step.mix.partner], f"with seed {seed}, logits")
