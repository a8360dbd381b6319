"""Kinds of faults at layers: with ways around them, compiled, checkpointed."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from foreign.hands import (
    assert_near,
    blend,
    distance,
    gradients,
    judged,
    logits,
    logits_with,
    step_of,
)
from foreign.models import MAKERS
from foreign.networks import Checkpointed, UNet
from foreign.truths import CLASSES, SIZE, Foreign, convolutions, lively, make_images, plain
from foreign.vision import vision_transformer
from foreign.work import Y, case_of, swaps_rightly
from torch import Tensor, nn

import mixwell
from mixwell import InputError
from mixwell.coefficient import Constant
from mixwell.errors import Note
from mixwell.interpolation import AlignMix
from mixwell.losses import MixedCrossEntropy
from mixwell.methods import Method, Recipe, Step, Term

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


# ------------------------------------------------------------------ layers that are gone around


class Dense(nn.Module):
    """What came before goes along with what was made of it."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 1, 1)
        self.three, self.fc = nn.Conv2d(8, 6, 3, 2, 1), nn.Linear(6, CLASSES)

    def forward(self, x):
        one = self.one(x).relu()
        both = torch.cat([one, self.two(one).relu()], 1)
        return self.fc(self.three(both).relu().mean((2, 3)))


class Branches(nn.Module):
    """Two networks look at the image, and a head at both."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = convolutions(), convolutions()
        self.fc = nn.Linear(24, CLASSES)

    def forward(self, x):
        seen = [branch(x).mean((2, 3)) for branch in (self.left, self.right)]
        return self.fc(torch.cat(seen, 1))


class Around(nn.Module):
    """A connection from the input to the end."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, 1, 1), nn.GELU())
        self.out = nn.Sequential(nn.Conv2d(6, 3, 3, 1, 1), nn.GELU())
        self.fc = nn.Linear(3, CLASSES)

    def forward(self, x):
        return self.fc((x + self.out(self.body(x))).mean((2, 3)))


class Segmenting(UNet):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Conv2d(8, CLASSES, 1)

    def forward(self, x):
        first = self.enter(x)
        return self.fc(self.join(torch.cat([first, self.up(self.deep(self.down(first)))], 1)))


@pytest.mark.parametrize("make", [Dense, Branches, Around, UNet, Segmenting])
def test_drawn_layers_are_passed_by_all_paths(make: type[nn.Module]):
    case = case_of(lively(make()), "fc", make_images(3, 12, 12))
    task = "classification"
    if make is Segmenting:
        case.y, task = torch.randint(CLASSES, (SIZE, 12, 12)), "segmentation"
    judged("either", lambda: swaps_rightly(case, 12, task=task), ("",))


@pytest.mark.parametrize("make", [Dense, Branches, Around, UNet])
def test_aligned_maps_are_passed_by_all_paths(make: type[nn.Module]):

    case = case_of(lively(make()), "fc", make_images(3, 12, 12))
    recipe = Recipe(coefficient=Constant(0.0), interpolation=AlignMix(aligned=1.0))
    method = Method(Term(MixedCrossEntropy(), recipe), num_classes=CLASSES)

    def swaps() -> None:
        step = step_of(case, method)
        assert_near(case, step.logits, logits(case)[step.mix.partner])

    judged("either", swaps, ("",))


class Block(nn.Module):
    def __init__(self, entering: int, leaving: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(entering, leaving, 3, 1, 1)

    def forward(self, x):
        return torch.tanh(self.conv(x))


class CalledAsPlaces(nn.Module):
    """Its layers have the names that say where to mix."""

    def __init__(self) -> None:
        super().__init__()
        self.input, self.auto, self.head = Block(3, 6), Block(6, 8), Block(8, 8)
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, x):
        return self.fc(self.head(self.auto(self.input(x))).mean((2, 3)))


def mixed_at(case: Foreign, place: str, step: Step) -> Tensor:
    """What the logits are by hand: at the input, at what enters the last layer, or at a layer."""
    change = blend(step.mix.partner, step.mix.lam)
    if place == "input":
        return logits(case, change(case.x))
    layer, side = ("fc", "input") if place == "head" else (place.removeprefix("."), "output")
    return logits_with(case, layer, side, change)


@pytest.mark.parametrize("place", ["input", "head", ".input", ".auto", ".head"])
def test_a_dot_says_that_a_layer_is_meant(place: str):
    case = case_of(lively(CalledAsPlaces()), "fc", make_images(3, 12, 12))
    step = step_of(case, mixwell.create("mixup", layer=place, num_classes=CLASSES))
    assert_near(case, step.logits, mixed_at(case, place, step))


def test_layers_that_are_drawn_may_be_called_as_places_are():
    case = case_of(lively(CalledAsPlaces()), "fc", make_images(3, 12, 12))
    method = mixwell.create("manifold_mixup", num_classes=CLASSES)
    places = ("input", ".input", ".auto")  # the first half of the stages, and the input
    seen = set()
    for seed in range(12):
        step = step_of(case, method, seed)
        near = [p for p in places if distance(step.logits, mixed_at(case, p, step)) < 1e-9]
        assert len(near) == 1
        seen.update(near)
    assert seen == set(places)


def test_the_last_maps_may_come_of_a_module_called_head():
    case = case_of(lively(CalledAsPlaces()), "fc", make_images(3, 12, 12))
    recipe = Recipe(coefficient=Constant(0.0), interpolation=AlignMix(aligned=1.0))
    step = step_of(case, Method(Term(MixedCrossEntropy(), recipe), num_classes=CLASSES))
    assert_near(case, step.logits, logits(case)[step.mix.partner])


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.hidden, self.last = nn.Embedding(20, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, ids):
        x = torch.tanh(self.embed(ids))
        for layer in (self.hidden, self.last):
            x = torch.tanh(layer(x))
        return self.fc(x.mean(1))


def test_of_whole_numbers_no_layer_is_drawn_that_can_not_be_mixed():
    """It would fail in the first step that draws the input."""
    ids = torch.arange(6 * SIZE).view(SIZE, 6) % 20
    case = case_of(lively(Words()), "fc", ids)
    method = mixwell.create("manifold_mixup", num_classes=CLASSES)
    with pytest.warns(Note, match="mixed at embed, hidden alone"):
        method(case.model, ids, Y)
    seen = set()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it is said once
        for seed in range(10):
            step = step_of(case, method, seed)
            change = blend(step.mix.partner, step.mix.lam)
            near = [
                layer for layer in ("embed", "hidden")
                if distance(step.logits, logits_with(case, layer, "output", change)) < 1e-9
            ]  # fmt: skip
            assert len(near) == 1
            seen.update(near)
    assert seen == {"embed", "hidden"}
    for seed in range(4):  # whatever is drawn
        torch.manual_seed(seed)
        with pytest.raises(InputError, match="leave 'input' out"):
            mixwell.create("mixup", layer=["input", "embed"], num_classes=CLASSES)(
                case.model, ids, Y
            )
    with pytest.raises(InputError, match="int64 can't be interpolated"):
        mixwell.create("mixup", num_classes=CLASSES)(case.model, ids, Y)


# -------------------------------------------------------------------------------------- compile

DRAWING = {
    "manifold_mixup": {},
    "alignmix": {},
    "mixup": {"layer": ["input", "body.0", "head"]},
    "regmixup": {"layer": "auto"},
    "sk_mixup": {"layer": "auto"},
    "manifold_mixup+infinite_class": {},
    "manifold_mixup+am_mixup": {},
    "mit": {"layer": "auto"},
}


COMPILED = [(name, "eager") for name in DRAWING]
COMPILED += [(name, "aot_eager") for name in ("manifold_mixup", "alignmix")]


@pytest.mark.cases(slow=3)
@pytest.mark.parametrize(("name", "backend"), COMPILED)
def test_compiled_models_with_layers_that_are_drawn(name: str, backend: str):
    """Whichever layer comes up, and whenever."""
    for start in range(2 if name == "manifold_mixup" else 1):
        torch.compiler.reset()
        net = plain().double()
        case = case_of(copy.deepcopy(net), "fc")
        compiled = torch.compile(net, backend=backend)
        methods = [mixwell.create(name, num_classes=CLASSES, **DRAWING[name]) for _ in range(2)]
        for seed in range(start * 100, start * 100 + 6):
            torch.manual_seed(seed)
            expected = methods[0].step(case.model, case.x, Y)
            torch.manual_seed(seed)
            step = methods[1].step(compiled, case.x, Y)
            assert distance(step.logits, expected.logits) < 1e-9, f"with seed {seed}"
        expected.loss.backward()
        step.loss.backward()
        for ours, theirs in zip(net.parameters(), case.model.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad)
    torch.compiler.reset()


@pytest.mark.cases(quick=1)
@pytest.mark.parametrize("name", ["manifold_mixup", "am_mixup"])
@pytest.mark.parametrize("before", ["run", "another method", "another model"])
def test_models_that_were_compiled_before_the_method_saw_them(name: str, before: str):
    torch.compiler.reset()
    net = plain().double()
    case = case_of(copy.deepcopy(net), "fc")
    compiled = torch.compile(net, backend="eager")
    method = mixwell.create(name, num_classes=CLASSES)
    if before == "run":
        compiled(case.x)
    elif before == "another method":
        mixwell.create("mixup", layer="head", num_classes=CLASSES)(compiled, case.x, Y)
    else:
        other = torch.compile(copy.deepcopy(net), backend="eager")
        mixwell.create("mixup", num_classes=CLASSES)(other, case.x, Y)

    def steps() -> None:
        for seed in range(4):
            torch.manual_seed(seed)
            expected = mixwell.create(name, num_classes=CLASSES).step(case.model, case.x, Y)
            torch.manual_seed(seed)
            step = method.step(compiled, case.x, Y)
            assert distance(step.logits, expected.logits) < 1e-9, f"with seed {seed}"

    judged("either", steps, ("compile",))
    torch.compiler.reset()


# -------------------------------------------------------------------------------- checkpointing


def pairs_of_checkpointed() -> dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module]]]:
    def timm_vit() -> nn.Module:
        net = vision_transformer()
        net.set_grad_checkpointing()
        return net

    def hf_vit(reentrant: bool | None) -> nn.Module:
        net = MAKERS["hf_vit"]().model
        if reentrant is not None:
            net.train()  # Hugging Face's checkpoint in training alone
            net.gradient_checkpointing_enable({"use_reentrant": reentrant})
        return net

    def by_hand(reentrant: bool | None) -> nn.Module:
        return lively(Checkpointed(reentrant))

    return {
        "by hand": (lambda: by_hand(False), lambda: by_hand(None)),
        "by hand, reentrant": (lambda: by_hand(True), lambda: by_hand(None)),
        "timm": (timm_vit, vision_transformer),
        "transformers": (lambda: hf_vit(False), lambda: hf_vit(None)),
        "transformers, reentrant": (lambda: hf_vit(True), lambda: hf_vit(None)),
    }


# Hugging Face's layers are checkpointed within: hooks on them run outside.
OUTSIDE = {
    "by hand": ("stem", "last", "head"),
    "timm": ("patch_embed", "norm", "head"),
    "transformers": ("vit.embeddings", "vit.layers.0", "vit.layernorm", "head"),
}
INSIDE = {
    "by hand": ("segment", "segment.0", "segment.1", "segment.0.1"),
    "timm": ("blocks.0", "blocks.1"),
    "transformers": ("vit.layers.0.attention", "vit.layers.1.layernorm_after"),
}


def same_as_without_checkpoints(kind: str, name: str, steps: int = 1, **arguments: Any) -> None:
    made = [make() for make in pairs_of_checkpointed()[kind]]
    found = []
    for net in made:
        case = case_of(net, "head")
        with torch.no_grad():
            logits(case)
        method = mixwell.create(name, num_classes=CLASSES, **arguments)
        for seed in range(steps):
            torch.manual_seed(seed)
            z = method.step(net, make_images(), Y).logits
            found.append(gradients(case, z))
    for ours, theirs in zip(found[:steps], found[steps:], strict=True):
        assert ours.keys() == theirs.keys()
        for key, expected in theirs.items():
            torch.testing.assert_close(ours[key], expected, rtol=1e-8, atol=1e-10, msg=key)


@pytest.mark.cases(quick=6)
@pytest.mark.parametrize("name", ["mixup", "regmixup"])
@pytest.mark.parametrize(
    ("kind", "layer"),
    [(kind, layer) for kind in pairs_of_checkpointed() for layer in OUTSIDE[kind.split(",")[0]]],
)
def test_outside_of_checkpoints_all_is_right(kind: str, layer: str, name: str):
    if layer != "head" and layer not in dict(pairs_of_checkpointed()[kind][0]().named_modules()):
        pytest.skip("this version has no such layer")
    same_as_without_checkpoints(kind, name, layer=layer)


@pytest.mark.cases(quick=6)
@pytest.mark.parametrize("name", ["mixup", "regmixup"])
@pytest.mark.parametrize(
    ("kind", "layer"),
    [(kind, layer) for kind in pairs_of_checkpointed() for layer in INSIDE[kind.split(",")[0]]],
)
def test_inside_of_checkpoints_it_is_right_or_refused_by_the_layers_name(kind, layer, name):
    net = pairs_of_checkpointed()[kind][0]()
    if layer not in dict(net.named_modules()):
        pytest.skip("this version has no such layer")
    judged("either", lambda: same_as_without_checkpoints(kind, name, layer=layer), (layer,))


@pytest.mark.cases(quick=3)
@pytest.mark.parametrize("kind", pairs_of_checkpointed())
@pytest.mark.parametrize("name", ["manifold_mixup", "am_mixup", "sk_mixup", "guidedmix"])
def test_methods_on_checkpointed_models(kind: str, name: str):
    arguments = {"saliency": "gradient", "p": 1.0} if name == "guidedmix" else {}
    refusable = name in ("manifold_mixup", "guidedmix")
    judged(
        "either" if refusable else "right",
        lambda: same_as_without_checkpoints(kind, name, 4, **arguments),
        ("",) if name == "manifold_mixup" else (),
    )
