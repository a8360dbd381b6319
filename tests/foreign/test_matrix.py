"""Foreign models x methods that mix inside or look: right, or an InputError that helps.

What is right is computed by hand at the layer that is declared to be the head.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
import torch
from foreign.hands import (
    copy_of,
    judged,
)
from foreign.models import MAKERS, TRUTHS
from foreign.truths import Foreign
from foreign.work import (
    adds_rows_at_an_inner_layer,
    adds_rows_at_the_head,
    aligns,
    is_floating,
    looks_at_activations,
    looks_at_maps,
    looks_by_attention,
    looks_by_gradient,
    mixes_at_an_inner_layer,
    mixes_at_drawn_layers,
    mixes_at_input_and_head,
    mixes_at_the_head,
    mixes_at_the_named_head,
    mixes_classifiers,
    mixes_nothing,
    mixes_twice_at_the_head,
    reads_features,
    reads_features_and_mixes_there,
)
from foreign.wrapped import one_process

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.fixture(scope="module", autouse=True)
def _process() -> Iterator[None]:
    with one_process():
        yield


@cache
def _kept(name: str) -> Foreign:
    if name == "wrapped_fsdp2" and torch.__version__.startswith("2.6."):
        pytest.skip("torch 2.6 shards on a GPU alone")
    case = MAKERS[name]()
    with torch.no_grad():  # some put hooks of their own on when they first run
        case.model(copy_of(case.x))
    return case


def get(name: str) -> Foreign:
    # What is compiled keeps hooks, and must be seen before it first runs.
    return MAKERS[name]() if TRUTHS[name].get("adds_hooks") else _kept(name)


# ------------------------------------------------------------------------------ what to expect


def _of_head(truth: dict[str, Any]) -> str:
    return "right" if truth["head"] else "refuse"


def _of_maps(truth: dict[str, Any]) -> str:
    if truth.get("maps"):
        return "right"
    return "either" if truth.get("images", True) else "refuse"


def _of_attention(truth: dict[str, Any]) -> str:
    if truth.get("vit"):
        return "right"
    return "either" if truth.get("images", True) else "refuse"


WORK: dict[str, tuple[Callable[[Foreign], None], str, Callable[[dict[str, Any]], str]]] = {
    "mixup_at_head": (mixes_at_the_head, "head", _of_head),
    "named_head": (mixes_at_the_named_head, "named", lambda truth: "right"),
    "am_mixup": (adds_rows_at_the_head, "head_rows", _of_head),
    "regmixup+am_mixup": (mixes_at_input_and_head, "head_rows", _of_head),
    "mit_at_head": (mixes_twice_at_the_head, "head_rows", _of_head),
    "sk_mixup": (reads_features, "features", _of_head),
    "sk_mixup_at_head": (reads_features_and_mixes_there, "features", _of_head),
    "manifold_mixup": (
        mixes_at_drawn_layers, "auto",
        lambda truth: "right" if truth["head"] else "either",
    ),
    "mixup_at_layer": (mixes_at_an_inner_layer, "inner", lambda truth: "right"),
    "regmixup_at_layer": (adds_rows_at_an_inner_layer, "inner_rows", lambda truth: "right"),
    "alignmix": (aligns, "look", _of_maps),
    "attentivemix": (looks_at_maps, "look", _of_maps),
    "snapmix": (looks_at_activations, "cam", _of_maps),
    "gradient": (
        looks_by_gradient, "gradient",
        lambda truth: "right" if truth.get("images", True) else "either",
    ),
    "transmix": (looks_by_attention, "attention", _of_attention),
    "infinite_class": (
        mixes_classifiers, "input",
        lambda truth: "right" if truth.get("images", True) else "either",
    ),
    "erm": (mixes_nothing, "erm", lambda truth: "right"),
}  # fmt: skip
# These are defined for every task.
ANY_TASK = (
    "mixup_at_head", "named_head", "sk_mixup", "manifold_mixup", "mixup_at_layer",
    "regmixup_at_layer", "erm",
)  # fmt: skip
# Compiling takes its time; methods that draw their layer are compiled in test_layers.
OF_COMPILED = ("mixup_at_head", "am_mixup", "sk_mixup_at_head", "mixup_at_layer", "snapmix", "erm")
# These ask for a tensor of x, or for a layer that is declared.
OF_TENSORS = ("regmixup+am_mixup", "infinite_class")


def pairs() -> Iterator[Any]:
    for name, truth in TRUTHS.items():
        for work in ANY_TASK if "task" in truth else WORK:
            text = "hf_bert" in name or "gpt" in name or "distilbert" in name or "on_bert" in name
            if work in OF_TENSORS and text:
                continue
            if work.endswith("_at_layer") and "inner" not in truth:
                continue
            if truth.get("adds_hooks") and work not in OF_COMPILED:
                continue
            if work == "named_head" and truth["head"] is None:
                continue
            if work == "sk_mixup" and text and "inner" not in truth:
                continue
            yield pytest.param(name, work, id=f"{name}-{work}")


@pytest.mark.cases(quick=90)
@pytest.mark.parametrize(("name", "work"), list(pairs()))
def test_right_or_refused(name: str, work: str) -> None:
    case = get(name)
    do, kind, usual = WORK[work]
    expected = case.expect.get(kind) or usual(TRUTHS[name])
    if kind in ("auto", "inner_rows") and not is_floating(case.x):
        # The input is among what is drawn from, and words don't mix; masks have no rows to add.
        expected = "either"
    about_heads = kind in ("head", "head_rows", "features")
    words = (*case.rivals, "head=") if about_heads and case.rivals else ()
    if kind in ("head", "head_rows", "features", "inner", "inner_rows", "auto"):
        words = words or ("",)
    if case.warns:
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            judged(expected, lambda: do(case), words)
    else:
        judged(expected, lambda: do(case), words)
