"""The two forms of mixing labelled with pseudo-labelled samples: the paper's and the authors'.

Decoupled Mixup's semi-supervised form (arXiv:2203.10761v3) is not the same in print and in code:

====================  ============================  ==============================================
what                  paper                         authors
====================  ============================  ==============================================
DM(CE)                the labelled side alone is    both sides are; η = 1, power 1
                      decoupled; η of the method
DM(BCE)               the labelled side's λ alone   likewise
                      is rescaled
λ                     max(λ, 1 - λ), as the method  max(λ, 1 - λ), with DM one a batch
                      draws it
what is mixed in      the strong view               the weak view
which unlabelled      those that are believed       all, masked by :func:`mix_mask`
labelled-labelled     -                             the same loss, both sides, weight 1
weight in time        constant                      :func:`ramp`
====================  ============================  ==============================================

Both divide by the number of unlabelled samples, and not by that of those that are believed. With
another loss than DM a form is all of this but the loss's settings, and λ is drawn as the method
draws it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from mixwell.batch import Batch
from mixwell.coefficient import Coefficient
from mixwell.errors import InputError
from mixwell.losses import DecoupledBCE, DecoupledCrossEntropy, Loss
from mixwell.methods import Recipe
from mixwell.pairing import Pairing
from mixwell.parts import Part

__all__ = ["FORMS", "Form", "Heavier", "OtherHalf", "mix_mask", "ramp", "rebuilt"]

P = TypeVar("P", bound=Part)

Settings = Mapping[type[Loss], Mapping[str, Any]]


@dataclass(frozen=True)
class Form:
    """One form of mixing labelled with pseudo-labelled samples.

    Attributes:
        name: what ``semi`` calls it.
        decides: settings of Decoupled Mixup's losses that are the form itself.
        usual: settings that it has where none are given by hand; they stand above a published
            set-up's, which is for training with all labels.
        per: of λ beside such a loss, where it isn't given; None for the method's own.
        masked: whether all unlabelled samples are mixed, in their weak view, and masked, and
            labelled ones among themselves, too.
    """

    name: str
    decides: Settings
    usual: Settings = field(default_factory=dict)
    per: str | None = None
    masked: bool = False

    def across(self, loss: Loss, given: Mapping[str, Any]) -> Loss:
        """Return the loss of labelled samples that are mixed with unlabelled ones.

        Args:
            loss: the method's; it stays as it is.
            given: the method's settings that were given by hand, by name.

        Raises:
            InputError: one of these contradicts the form.
        """
        decided = _settings_for(loss, self.decides)
        for name, value in given.items():
            if decided.get(name, value) != value:
                raise InputError(
                    f"{name}={value!r} contradicts semi={self.name!r}, in which {name} is "
                    f"{decided[name]!r}; leave it out, or choose another of semi: "
                    f"{', '.join(FORMS)}"
                )
        changed = {**_without(_settings_for(loss, self.usual), given), **decided}
        if self.masked:
            changed["reduction"] = "none"
        return rebuilt(loss, **changed) if changed else copy.deepcopy(loss)

    def among(self, loss: Loss, given: Mapping[str, Any]) -> Loss | None:
        """Return the loss of labelled samples mixed among themselves: both sides alike, or none."""
        if not self.masked:
            return None
        changed = _without(_settings_for(loss, self.usual), given)
        both = {"asymmetric": False} if _settings_for(loss, self.decides) else {}
        return rebuilt(loss, **{**changed, **both, "reduction": "mean"})

    def coefficient(self, recipe: Recipe, loss: Loss, given: Collection[str]) -> Coefficient:
        """Return λ ≥ ½, one a batch where the form says so."""
        inner = recipe.coefficient
        decoupled = bool(_settings_for(loss, self.decides))
        if self.per and decoupled and "per" not in given and "per" in inner.settings():
            inner = rebuilt(inner, per=self.per)
        return Heavier(inner)


def _settings_for(loss: Loss, table: Settings) -> dict[str, Any]:
    return {
        name: value
        for kind, settings in table.items()
        if isinstance(loss, kind)
        for name, value in settings.items()
    }


def _without(settings: Mapping[str, Any], given: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in given}


FORMS = {
    "paper": Form(
        "paper",
        decides={
            DecoupledCrossEntropy: {"asymmetric": True, "side": "both"},
            DecoupledBCE: {"asymmetric": True},
        },
    ),
    "authors": Form(
        "authors",
        decides={
            DecoupledCrossEntropy: {"asymmetric": False},
            DecoupledBCE: {"asymmetric": True},
        },
        usual={DecoupledCrossEntropy: {"eta": 1.0, "side": "both", "power": 1.0}},
        per="batch",
        masked=True,
    ),
}
"""The forms by name."""


def rebuilt(part: P, **changed: Any) -> P:
    """Return a part of the same kind and settings but for those that change, checked as ever.

    Raises:
        InputError: it has no such setting, or the settings contradict each other.
    """
    settings = part.settings()
    for name in changed:
        if name not in settings:
            raise InputError(
                f"{type(part).__name__} has no setting {name!r}, which semi-supervised training "
                f"sets to {changed[name]!r}; it has {', '.join(settings) or 'none'}"
            )
    return type(part)(**{**settings, **changed})


def ramp(progress: Tensor) -> Tensor:
    """Return the weight ½ (1 - cos πt), from 0 to 1, at training progress t in [0, 1]."""
    return (1 - torch.cos(math.pi * progress)) / 2


def mix_mask(
    confidence: Tensor, lam: Tensor, threshold: float, cutoff: float | None = None
) -> Tensor:
    """Return which unlabelled samples count where they are mixed: (B,) of 0 and 1.

    confidence ≥ min(threshold, max(cutoff, 1 - λ)): where the guess has a small share, and the
    cutoff is low, a less certain one is let in than alone. With the authors' cutoff, their
    threshold of 0.95, it is the threshold.

    Args:
        confidence: (B,) the teacher's, in its guess.
        lam: (B,) the share of the labelled sample.
        threshold: from which on a guess is believed where it stands alone.
        cutoff: the authors' ``p_mix_cutoff``; the threshold without one.
    """
    if cutoff is None:
        cutoff = threshold
    least = (1 - lam).clamp_min(cutoff).clamp_max(threshold)
    return (confidence >= least).to(lam.dtype)


class OtherHalf(Pairing):
    """The partner of each sample of a batch's first half is its counterpart in the second."""

    def forward(self, batch: Batch) -> Tensor:
        size = len(batch)
        return torch.arange(size, device=batch.device).roll(size // 2)


class Heavier(Coefficient):
    """Another coefficient's λ or 1 - λ, whichever is larger."""

    def __init__(self, inner: Coefficient) -> None:
        super().__init__()
        self.inner = inner
        self.needs_features = inner.needs_features

    def pair(self, batch: Batch, partner: Tensor) -> tuple[Tensor, Tensor]:
        lam, target_lam = self.inner.pair(batch, partner)
        swap = lam < 0.5
        return torch.where(swap, 1 - lam, lam), torch.where(swap, 1 - target_lam, target_lam)
