"""Parts: their settings and repr come from the constructor."""

import inspect

import pytest
import torch
from torch import nn

from mixwell import InputError, coefficient, interpolation, labels, losses, pairing
from mixwell.parts import Part

ROOMS = (pairing, coefficient, interpolation, labels, losses)
PARTS = [
    getattr(room, name)
    for room in ROOMS
    for name in room.__all__
    if isinstance(getattr(room, name), type) and issubclass(getattr(room, name), Part)
]

OTHERS = {
    "alpha": 0.7, "low": 0.6, "lam0": 0.9, "lam": 0.3, "k": 4, "gamma": 0.5, "tau": -0.5,
    "tau_max": 2.0, "tau_std": 0.6, "target_tau_std": 0.4, "bandwidth": 0.9, "q": 0.2,
    "distance": "input", "side": "above", "per": "batch", "capacity": 9, "layer": "3",
    "grid": 4, "blocks": [2, 4], "cells": (2, 3), "patch": 3, "blur": 5, "sigma": 1.5, "decay": 2.0,
    "ratio": 0.5, "kappa": 4.0, "eta": 0.3, "momentum": 0.5, "pairs": "centres", "classes": 7,
    "reduction": "sum",
    "class_counts": [5, 3, 2], "policies": ["CutMix", "FMix"], "alphas": [0.5, None],
}  # fmt: skip
"""A value other than the default, for what each part may be told."""


def arguments(part):
    parameters = list(inspect.signature(part.__init__).parameters.values())[1:]
    return [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def make(part):
    known = arguments(part)
    if part is interpolation.AlignMix:
        return part(layer="3", epsilon=0.1)
    if part is losses.DecoupledCrossEntropy:
        return part(eta=0.3, side="lighter", power=0.5, reduction="sum")
    return part(**{name: value for name, value in OTHERS.items() if name in known})


def plain(value):
    """A value that can be compared."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    return [repr(part) for part in value] if isinstance(value, nn.ModuleList) else value


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_settings_build_an_equal_part(part):
    made = make(part)
    settings = made.settings()
    assert list(settings) == arguments(part)
    twin = part(**settings)
    assert repr(twin) == repr(made)
    found = {name: plain(value) for name, value in twin.settings().items()}
    assert found == {name: plain(value) for name, value in settings.items()}


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_what_a_part_declares_is_an_argument_of_its_own(part):
    known = arguments(part)
    assert set(part.needs_of_data) <= set(known)
    assert set(part.ranges) <= set(known)
    answered = {"class_counts", "target_std", "target_largest"} & set(known)
    assert answered <= set(part.needs_of_data)


def test_settings_are_the_present_ones():
    part = coefficient.SimilarityKernel(tau_std=0.5)
    part.tau_std = 0.7
    assert part.settings()["tau_std"] == 0.7
    assert "tau_std=0.7" in repr(part)
    assert part.settings()["target_tau_max"] is None


def test_a_repr_is_short_and_names_modules_by_type():
    part = labels.Remix([float(n) for n in range(1, 1001)])
    assert repr(part) == "Remix(class_counts=tensor of shape (1000,), kappa=3.0, t=0.5)"
    assert repr(labels.ContentAttention(nn.Linear(2, 2))) == "ContentAttention(teacher=Linear)"


def test_a_part_from_outside_needs_no_repr_of_its_own():
    class Every(pairing.Pairing):
        def __init__(self, step=1, lost=2):
            super().__init__()
            self.step = step

        def forward(self, batch):
            return torch.arange(len(batch)).roll(self.step)

    assert repr(Every(3)) == "Every(step=3)"
    with pytest.raises(InputError, match="does not keep its argument 'lost'"):
        Every().settings()
    assert repr(pairing.Flip()) == "Flip()"
    assert pairing.Flip().settings() == {}
