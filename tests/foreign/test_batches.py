"""Kinds of faults with what goes in and comes out: inputs changed in place, masks, outputs."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from foreign.hands import (
    assert_near,
    blend,
    distance,
    features,
    judged,
    logits,
    logits_with,
    step_of,
)
from foreign.models import MAKERS
from foreign.networks import InPlace
from foreign.outputs import Probabilities
from foreign.truths import CLASSES, SIZE, Backbone, Foreign, lively, make_images, plain
from foreign.work import Y, case_of, mixes_rightly_at_the_head
from torch import Tensor, nn
from torch.nn import functional as F

import mixwell

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


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


@pytest.mark.cases(quick=12)
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


@pytest.mark.parametrize("name", ["tied_weights", "age_and_gender", "head_runs_twice"])
@pytest.mark.parametrize("method", ["am_mixup", "sk_mixup"])
def test_in_evaluation_no_head_is_asked_for(name: str, method: str):
    case = MAKERS[name]()
    step = mixwell.create(method, num_classes=CLASSES).eval().step(case.model, case.x, case.y)
    assert_near(case, step.logits, logits(case))


@pytest.mark.parametrize("name", ["erm", "mixup", "infinite_class"])
def test_probabilities_are_warned_of_once(name: str):
    net = lively(Probabilities(fc=nn.Linear(12, CLASSES))).double()
    method = mixwell.create(name, num_classes=CLASSES)
    with pytest.warns(UserWarning, match="probabilit") as seen:
        method(net, make_images(), Y)
    assert len(seen) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        method(net, make_images(), Y)


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
