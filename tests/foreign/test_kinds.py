"""Kinds of faults with models that others wrote, each by itself.

A method must be right on them, or say before anything is trained what to do instead.
"""

from __future__ import annotations

import copy
import warnings
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
    gradients,
    judged,
    logits,
    logits_with,
    step_of,
)
from foreign.models import (
    CLASSES,
    MAKERS,
    SIZE,
    AgeAndGender,
    Backbone,
    Checkpointed,
    Cosine,
    Foreign,
    InPlace,
    LowRank,
    Probabilities,
    UNet,
    convolutions,
    lively,
    make_images,
    plain,
    vision_transformer,
)
from torch import Tensor, nn
from torch.nn import functional as F

import mixwell
from mixwell.coefficient import Constant
from mixwell.interpolation import Linear
from mixwell.losses import MixedCrossEntropy
from mixwell.methods import Method, Recipe, Term

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

Y = torch.tensor([0, 1, 2, 3, 4, 1])


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


# ------------------------------------------------------------------------- the head, by its name


def test_of_a_tuple_of_heads_the_first_may_be_named():
    net = AgeAndGender(age=nn.Linear(12, CLASSES), gender=nn.Linear(12, CLASSES))
    mixes_rightly_at_the_head(case_of(lively(net), "age"), head="age")


def test_a_head_that_has_no_part_in_the_logits_is_refused():
    net = AgeAndGender(age=nn.Linear(12, CLASSES), gender=nn.Linear(12, CLASSES))
    case = case_of(lively(net), "age")
    for name in ("mixup", "sk_mixup"):
        method = mixwell.create(name, layer="head", head="gender", num_classes=CLASSES)
        judged("refuse", lambda method=method: step_of(case, method), ("gender",))


@pytest.mark.parametrize("name", ["timm_distilled_deit", "timm_crossvit", "hf_distilled_deit"])
def test_one_of_averaged_heads_can_be_read_and_not_be_mixed(name):
    case = MAKERS[name]()
    with torch.no_grad():
        logits(case)  # some put hooks of their own on when they first run
    for head in case.rivals:
        method = mixwell.create("mixup", layer="head", head=head, num_classes=CLASSES)
        judged("refuse", lambda method=method: step_of(case, method), ("layer",))
        seen = features(case, head)
        sk = mixwell.create("sk_mixup", head=head, num_classes=CLASSES)
        step = step_of(case, sk, 2)
        echo = nn.Sequential(nn.Identity(), nn.Linear(seen.shape[1], CLASSES)).double()
        torch.manual_seed(2)
        expected = mixwell.create("sk_mixup", head="1", num_classes=CLASSES).step(echo, seen, Y)
        torch.testing.assert_close(step.mix.lam, expected.mix.lam, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("inside", ["fc.base", "fc.down", "fc.up"])
def test_a_part_of_the_head_is_not_the_head(inside):
    case = case_of(lively(Backbone(fc=LowRank(nn.Linear(12, CLASSES)))), "fc")
    method = mixwell.create("mixup", layer="head", head=inside, num_classes=CLASSES)
    judged("refuse", lambda: step_of(case, method), (inside,))


# --------------------------------------------------------- a head that is gained, lost, replaced


def linear(net: Backbone) -> str:
    net.fc = nn.Linear(12, CLASSES)
    return "fc"


def cosine(net: Backbone) -> str:
    net.fc = Cosine()
    return "fc"


def two_layers(net: Backbone) -> str:
    net.fc = nn.Sequential(nn.Linear(12, 12), nn.GELU(), nn.Linear(12, CLASSES))
    return "fc.2"


def low_rank(net: Backbone) -> str:
    net.fc = LowRank(net.fc)
    return "fc"


def parametrised(net: Backbone) -> str:
    nn.utils.parametrizations.weight_norm(net.fc)
    return "fc"


def adapted(net: Backbone) -> str:
    peft = pytest.importorskip("peft")
    peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=["fc"]), net)
    return "fc"


def another_forward(net: Backbone) -> str:
    """The same modules, another way: what was the head still runs, and counts no more."""
    net.add_module("second", nn.Linear(12, CLASSES))
    net.forward = lambda x: net.second(net.features(x)) + 0 * net.fc(net.features(x)).detach()
    return "second"


@pytest.mark.parametrize(
    "change", [linear, cosine, two_layers, low_rank, parametrised, adapted, another_forward]
)
def test_a_head_that_was_changed_between_steps_is_found_anew(change: Callable[[Any], str]):
    net = plain()
    mixes_rightly_at_the_head(case_of(net, "fc"))
    sk = mixwell.create("sk_mixup", num_classes=CLASSES)
    step_of(case_of(net, "fc"), sk)
    head = change(net)
    lively(net, seed=1)
    case = case_of(net, head)
    expected = "either" if change is another_forward else "right"
    judged(expected, lambda: mixes_rightly_at_the_head(case), ("",))


def test_a_reset_classifier_of_timm_is_found_anew():
    net = vision_transformer()
    mixes_rightly_at_the_head(case_of(net, "head"))
    net.reset_classifier(7)
    mixes_rightly_at_the_head(case_of(lively(net), "head"), classes=7)


def test_a_model_that_lost_its_head_is_refused():
    net = plain()
    mixes_rightly_at_the_head(case_of(net, "fc"))
    net.fc = nn.Identity()  # features are what it returns now
    method = mixwell.create("am_mixup")
    judged("refuse", lambda: step_of(case_of(net, None), method), ("head=",))


def test_lora_that_is_put_on_and_merged_again():
    peft = pytest.importorskip("peft")
    net = plain()
    mixes_rightly_at_the_head(case_of(net, "fc"))
    wrapped = lively(peft.get_peft_model(net, peft.LoraConfig(r=2, target_modules=["fc"])))
    mixes_rightly_at_the_head(case_of(wrapped, "base_model.model.fc"))
    merged = wrapped.merge_and_unload()
    mixes_rightly_at_the_head(case_of(merged, "fc"))


def test_a_stage_that_was_replaced_is_found_anew():
    net = plain()
    swaps_rightly(case_of(net, "fc"), 3)
    net.body = nn.Sequential(nn.Sequential(nn.Conv2d(3, 12, 3, 4), nn.GELU()), nn.Identity())
    swaps_rightly(case_of(lively(net), "fc"))


def test_of_two_heads_the_active_one_is_mixed_or_it_is_refused():
    class Switched(Backbone):
        active = "a"

        def forward(self, x):
            return self.get_submodule(self.active)(self.features(x))

    net = lively(Switched(a=Cosine(), b=nn.Linear(12, CLASSES)))
    for name in ("a", "b", "a"):
        net.active = name
        case = case_of(net, name)
        judged("either", lambda case=case: mixes_rightly_at_the_head(case), ("",))


def test_a_method_goes_from_model_to_model():
    method = mixwell.create("mixup", layer="head", num_classes=CLASSES)
    for net, head in ((plain(), "fc"), (vision_transformer(), "head")) * 2:
        case = case_of(copy.deepcopy(net), head)
        step = step_of(case, method)
        change = blend(step.mix.partner, step.mix.lam)
        assert_near(case, step.logits, logits_with(case, head, "input", change))


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
    from mixwell.interpolation import AlignMix

    case = case_of(lively(make()), "fc", make_images(3, 12, 12))
    recipe = Recipe(coefficient=Constant(0.0), interpolation=AlignMix(aligned=1.0))
    method = Method(Term(MixedCrossEntropy(), recipe), num_classes=CLASSES)

    def swaps() -> None:
        step = step_of(case, method)
        assert_near(case, step.logits, logits(case)[step.mix.partner])

    judged("either", swaps, ("",))


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


@pytest.mark.parametrize("name", ["mixup", "regmixup"])
@pytest.mark.parametrize(
    ("kind", "layer"),
    [(kind, layer) for kind in pairs_of_checkpointed() for layer in OUTSIDE[kind.split(",")[0]]],
)
def test_outside_of_checkpoints_all_is_right(kind: str, layer: str, name: str):
    if layer != "head" and layer not in dict(pairs_of_checkpointed()[kind][0]().named_modules()):
        pytest.skip("this version has no such layer")
    same_as_without_checkpoints(kind, name, layer=layer)


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


# ------------------------------------------------------------------- inputs changed in the model


class OutOfPlace(Backbone):
    def forward(self, x):
        return super().forward((x - 0.5) / 0.25)


def methods_of_images() -> list[str]:
    names = [*mixwell.list_methods(), "regmixup+am_mixup", "manifold_mixup+am_mixup"]
    described = (name for name in names)
    return [
        name
        for name in described
        if "classification" in mixwell.describe(name).tasks
        and not {"transmix", "tokenmix", "automix", "samix"} & {name}
    ]


@pytest.mark.parametrize("name", methods_of_images())
def test_a_model_that_changes_its_input_in_place_is_as_one_that_does_not(name: str):
    from mixwell.methods.registry import accepts

    counts = {"class_counts": [40.0, 20, 10, 5, 5]} if accepts(name, "class_counts") else {}
    found = []
    for make in (InPlace, OutOfPlace):
        net = lively(make(fc=nn.Linear(12, CLASSES))).double()
        method = mixwell.create(name, num_classes=CLASSES, task="classification", **counts)
        for seed in range(3):
            torch.manual_seed(seed)
            step = method.step(net, make_images(), Y, index=torch.arange(SIZE))
            found.append(step.logits)
    for ours, theirs in zip(found[:3], found[3:], strict=True):
        assert distance(ours, theirs) < 1e-6


# ----------------------------------------------------------------------- statistics and dropout


@pytest.mark.parametrize(
    "name", ["am_mixup", "sk_mixup", "manifold_mixup", "attentivemix", "snapmix", "guidedmix"]
)
def test_looking_leaves_the_statistics_of_batch_norms_alone(name: str):
    net = plain().double().train()
    arguments = {"saliency": "gradient"} if name == "guidedmix" else {}
    method = mixwell.create(name, num_classes=CLASSES, **arguments)
    for count in (1, 2):
        method(net, make_images(), Y).backward()
        norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
        assert [int(norm.num_batches_tracked) for norm in norms] == [count, count]


# ----------------------------------------------------------------------------------------- text


class Sentences(nn.Module):
    """Words to classes: the mean of what is seen, by a mask or lengths of any name.

    Args:
        mask: what the mask is called, and how it is made of which words are there (B, T) bool.
    """

    def __init__(self, name: str, read: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.name, self.read = name, read
        self.embed = nn.Embedding(30, 12)
        self.body = nn.Sequential(nn.Linear(12, 12), nn.GELU())
        self.fc = nn.Linear(12, CLASSES)

    def forward(self, x):
        z = self.body(self.embed(x["words"]))
        seen = self.read(x[self.name], x["words"])[..., None].to(z.dtype)
        return self.fc((z * seen).sum(1) / seen.sum(1))


LENGTHS = torch.tensor([3, 7, 5, 4, 7, 6])
THERE = torch.arange(7) < LENGTHS[:, None]
MASKS: dict[str, tuple[str, Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "attention_mask": ("attention_mask", lambda m: m.long(), lambda m, w: m > 0),
    "a mask of bools": ("attention_mask", lambda m: m, lambda m, w: m),
    "a mask of floats": ("attention_mask", lambda m: m.double(), lambda m, w: m > 0.5),
    "a 4-D mask": (
        "attention_mask",
        lambda m: (m[:, None, None] & m[:, None, :, None]).long(),
        lambda m, w: m[:, 0].amax(1) > 0,
    ),
    "an additive mask": (
        "attention_mask",
        lambda m: torch.where(m, 0.0, torch.finfo(torch.float32).min)[:, None, None],
        lambda m, w: m[:, 0, 0] > -1,
    ),
    "lengths": (
        "lengths",
        lambda m: m.sum(1),
        lambda m, w: torch.arange(w.shape[1]) < m[:, None],
    ),
    "padding": ("padding", lambda m: ~m, lambda m, w: ~m),
    "mask": ("mask", lambda m: m.long(), lambda m, w: m > 0),
    "valid": ("valid", lambda m: m, lambda m, w: m),
}  # fmt: skip


def sentences(kind: str) -> tuple[Foreign, Callable[[Tensor], Tensor]]:
    name, make, read = MASKS[kind]
    words = torch.randint(1, 30, (SIZE, 7), generator=torch.Generator().manual_seed(2))
    x = {"words": words * THERE, name: make(THERE)}
    net = lively(Sentences(name, read))
    return case_of(net, "fc", x, images=False), make


@pytest.mark.parametrize("kind", MASKS)
def test_at_the_head_masks_do_not_matter(kind: str):
    case, _ = sentences(kind)
    mixes_rightly_at_the_head(case)


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("layer", ["embed", "body"])
def test_mixed_words_are_seen_where_either_is_or_it_is_refused(kind: str, layer: str):
    case, make = sentences(kind)
    name = MASKS[kind][0]

    def right() -> None:
        method = mixwell.create("mixup", layer=layer, num_classes=CLASSES)
        for seed in range(2):
            step = step_of(case, method, seed)
            both = {**case.x, name: make(THERE | THERE[step.mix.partner])}
            change = blend(step.mix.partner, step.mix.lam)
            assert_near(case, step.logits, logits_with(case, layer, "output", change, both))

    expected = "right" if kind == "attention_mask" else "either"
    judged(expected, right, ("layer",))


@pytest.mark.parametrize("kind", MASKS)
def test_rows_that_are_added_behind_masks_are_right_or_refused(kind: str):
    """Clean rows beside mixed ones: masks have no rows for these."""
    case, make = sentences(kind)
    name = MASKS[kind][0]

    def right() -> None:
        step = step_of(case, mixwell.create("regmixup", layer="embed", num_classes=CLASSES))
        both = {**case.x, name: make(THERE | THERE[step.mix.partner])}
        change = blend(step.mix.partner, step.mix.lam)
        assert_near(case, step.logits, logits_with(case, "embed", "output", change, both))
        assert_near(case, step.clean_logits, logits(case), "clean logits")

    judged("either", right, ("layer",))


# ----------------------------------------------------------------------------- what is returned


@pytest.mark.parametrize("name", ["erm", "mixup", "infinite_class"])
def test_probabilities_are_warned_of_once(name: str):
    net = lively(Probabilities(fc=nn.Linear(12, CLASSES))).double()
    method = mixwell.create(name, num_classes=CLASSES)
    with pytest.warns(UserWarning, match="probabilit") as seen:
        for _ in range(3):
            method(net, make_images(), Y)
    assert len(seen) == 1


@pytest.mark.parametrize(
    "last", [nn.Identity(), nn.LogSoftmax(1), nn.ReLU(), nn.Sigmoid()], ids=repr
)
def test_logits_are_not_taken_for_probabilities(last: nn.Module):
    net = lively(Backbone(fc=nn.Sequential(nn.Linear(12, CLASSES), last))).double()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert mixwell.create("mixup", num_classes=CLASSES)(net, make_images(), Y).isfinite()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_auxiliary_outputs_of_torchvision_in_training(name: str):
    models = pytest.importorskip("torchvision").models
    size = 75 if name == "inception_v3" else 32
    net = models.get_model(name, num_classes=CLASSES, aux_logits=True, init_weights=False)
    lively(net).train()
    for module in net.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.Dropout)):
            module.eval()
    if name == "inception_v3":  # at 75 pixels the auxiliary head's maps are too small
        net.AuxLogits = lively(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                                             nn.Linear(768, CLASSES)))  # fmt: skip
    case = case_of(net, "fc", make_images(3, size, size))
    case.own_gradients, case.tolerance = False, 1e-8
    mixes_rightly_at_the_head(case)


# ------------------------------------------------------------------------------- late failures


@pytest.mark.parametrize(
    "name", ["infinite_class", "cutmix+infinite_class", "regmixup+infinite_class"]
)
def test_a_last_batch_of_one_row_does_not_end_an_epoch(name: str):
    net = plain().double()
    method = mixwell.create(name, num_classes=CLASSES)
    for rows in (slice(0, 5), slice(5, 6)):
        loss = method(net, make_images()[rows], Y[rows])
        assert loss.isfinite()
        if loss.requires_grad:
            loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in net.parameters())


def test_a_loss_by_hand_is_that_of_a_step():
    """The ground on which the others stand: the same loss by torch's own functions."""
    case = case_of(plain(), "fc")
    step = step_of(case, mixwell.create("mixup", layer="head", num_classes=CLASSES))
    hidden = blend(step.mix.partner, step.mix.lam)(features(case))
    z = case.core.fc(hidden)
    lam = step.mix.lam.double()
    own = F.cross_entropy(z, Y, reduction="none")
    other = F.cross_entropy(z, Y[step.mix.partner], reduction="none")
    torch.testing.assert_close(step.loss, (lam * own + (1 - lam) * other).mean())
