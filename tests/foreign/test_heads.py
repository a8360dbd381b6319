"""Kinds of faults at the head: which one is mixed, and whether it is looked at anew."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from foreign.hands import (
    assert_near,
    blend,
    features,
    judged,
    logits,
    logits_with,
    step_of,
)
from foreign.heads import Cosine, LowRank
from foreign.models import MAKERS
from foreign.outputs import AgeAndGender
from foreign.truths import CLASSES, Backbone, lively, plain
from foreign.vision import vision_transformer
from foreign.work import Y, case_of, mixes_rightly_at_the_head, swaps_rightly
from torch import nn

import mixwell

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


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
    judged("refuse", lambda: mixes_rightly_at_the_head(case_of(net, "fc"), None), ("head=",))


def test_lora_that_is_put_on_and_merged_again():
    peft = pytest.importorskip("peft")
    net = plain()
    mixes_rightly_at_the_head(case_of(net, "fc"))
    wrapped = lively(peft.get_peft_model(net, peft.LoraConfig(r=2, target_modules=["fc"])))
    mixes_rightly_at_the_head(case_of(wrapped, "base_model.model.fc"))
    merged = wrapped.merge_and_unload().requires_grad_()
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
