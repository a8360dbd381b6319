"""How mixed samples are made, and the terms of a loss on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from mixwell.batch import Batch
from mixwell.checks import Per, check_choice, check_range
from mixwell.coefficient import Beta, Coefficient
from mixwell.errors import InputError
from mixwell.interpolation import Interpolation, Linear
from mixwell.labels import Labels, Soft
from mixwell.losses import Clean, Loss, Mixes, Twin
from mixwell.mix import Mix, MixedTarget, MultiMix, MultiTarget
from mixwell.pairing import Pairing, Shuffle

__all__ = ["Recipe", "Term"]

Part = TypeVar("Part")


class Recipe(nn.Module):
    """How mixed samples are made: the answers to the first four questions.

    Args:
        pairing: who mixes with whom; a random permutation by default.
        coefficient: how much of each; λ ~ Beta(1, 1) by default.
        interpolation: how, and where; linear at the input by default.
        labels: what the label is; both, weighted, by default.
        p: the probability of mixing at all; the rest keeps λ = 1.
        per: whether that is decided for each "sample" or for the whole "batch".

    Raises:
        InputError: a part answers another question, or two don't go together.
    """

    def __init__(
        self,
        pairing: Pairing | None = None,
        coefficient: Coefficient | None = None,
        interpolation: Interpolation | None = None,
        labels: Labels | None = None,
        p: float = 1.0,
        per: Per = "sample",
    ) -> None:
        super().__init__()
        self.pairing = _part("pairing", pairing, Pairing, Shuffle)
        self.coefficient = _part("coefficient", coefficient, Coefficient, Beta)
        self.interpolation = _part("interpolation", interpolation, Interpolation, Linear)
        self.labels = _part("labels", labels, Labels, Soft)
        self.p = check_range("p", p, 0, 1)
        self.per = check_choice("per", per, ("sample", "batch"))
        if self.coefficient.samples > 2 and not (
            type(self.interpolation) is Linear and type(self.labels) is Soft
        ):
            raise InputError(
                f"{type(self.coefficient).__name__} mixes {self.coefficient.samples} samples into "
                "one, which is defined for linear interpolation and soft labels, not for "
                f"{type(self.interpolation).__name__} and {type(self.labels).__name__}"
            )
        if self.coefficient.samples > 2 and self.pairing.partners == "data":
            raise InputError(
                f"partners='data' is for pairs, and {type(self.coefficient).__name__} mixes "
                f"{self.coefficient.samples} samples into one; leave it at 'batch'"
            )

    @property
    def needs_features(self) -> bool:
        """Whether drawing a mix reads the features of the unmixed samples."""
        return self.pairing.needs_features or self.coefficient.needs_features

    @property
    def looks_inside(self) -> bool:
        """Whether it mixes inside the model, or looks at it beside the pass that is trained."""
        return (
            list(self.interpolation.layers) != ["input"]
            or self.interpolation.needs_model
            or self.needs_features
            or self.coefficient.remembers
            or self.labels.needs_attention
        )

    def draw(self, batch: Batch) -> tuple[Mix | MultiMix, MixedTarget | MultiTarget]:
        """Return how the batch mixes, and its mixed targets."""
        if self.coefficient.samples > 2:
            return self._draw_many(batch)
        partner = self.pairing(batch)
        return self._shape(batch, partner, *self.coefficient.pair(batch, partner))

    def draws_from(self, batch: Batch) -> bool:
        """Whether partners come from the training data, and not from the batch.

        They do where the pairing says so and a step was given the data; not where a pair is
        weighed by features, which the data's own samples have none of here.
        """
        return (
            self.pairing.partners == "data" and batch.data is not None and not self.needs_features
        )

    def draw_with_data(
        self, batch: Batch
    ) -> tuple[Batch, Mix | MultiMix, MixedTarget | MultiTarget]:
        """Return the batch with its partners from the training data behind it, mix and targets.

        All are of 2 B rows: the batch's own, and their partners, whose mixes are of no use.
        """
        assert batch.data is not None
        size, y = len(batch), self._comparable(batch)
        places = self.pairing.draw_from(batch.y, y, own=batch.index, generator=batch.generator)
        wide = batch.beside(places)
        # Both of a pair are each other's partners, so that means over pairs are as they would be.
        own = torch.arange(size, device=batch.device)
        partner = torch.cat([own + size, own])
        return wide, *self._shape(wide, partner, *self.coefficient.pair(wide, partner))

    @staticmethod
    def _comparable(batch: Batch) -> Tensor:
        """Return the training data's targets where the batch's are."""
        assert batch.data is not None
        return batch.task.prepare(batch.data[1]).to(batch.y.device)

    def draw_twin(
        self, batch: Batch, mix: Mix, redraw: Callable[[Batch, Tensor], Tensor]
    ) -> tuple[Mix, MixedTarget]:
        """Return the same pairs, mixed a second time with λ from ``redraw``, and their targets."""
        lam = redraw(batch, mix.lam)
        return self._shape(batch, mix.partner, lam, lam)

    def learn(self, batch: Batch, mix: Mix | MultiMix, target: MixedTarget | MultiTarget) -> None:
        """Let what makes the masks learn from a step's mix, where it learns (AutoMix)."""
        if self.interpolation.learns and isinstance(mix, Mix):
            self.interpolation.learn(batch, mix, target)

    def _mixes(self, batch: Batch) -> Tensor:
        """Return whether each sample is mixed at all: (B,) or (1,) bool."""
        return batch.rand(1 if self.per == "batch" else len(batch)) < self.p

    def _shape(
        self, batch: Batch, partner: Tensor, lam: Tensor, target_lam: Tensor
    ) -> tuple[Mix, MixedTarget]:
        if self.p < 1:
            mixes = self._mixes(batch)
            lam, target_lam = (torch.where(mixes, value, 1.0) for value in (lam, target_lam))
        mix = self.interpolation.shape(batch, Mix(partner, lam))
        # A mask corrects λ to its true mean, and some policies draw their own: the target follows.
        label_lam = target_lam if mix.is_uniform and mix.lam is lam else mix.lam
        return mix, self.labels(batch, mix, label_lam)

    def _draw_many(self, batch: Batch) -> tuple[MultiMix, MixedTarget | MultiTarget]:
        own = torch.arange(len(batch), device=batch.device)
        others = [self.pairing(batch) for _ in range(self.coefficient.samples - 1)]
        weights = self.coefficient.weights(batch)
        if self.p < 1:
            alone = torch.zeros_like(weights)
            alone[:, 0] = 1
            weights = torch.where(self._mixes(batch)[:, None], weights, alone)
        mix = MultiMix(torch.stack([own, *others], 1), weights)
        return mix, Soft.of_many(batch, mix)

    def extra_repr(self) -> str:
        return f"p={self.p}, per={self.per!r}"


def _part(argument: str, given: object, kind: type[Part], usual: Callable[[], Part]) -> Part:
    """Return the part that answers a question: the usual one where none is given."""
    part = usual() if given is None else given
    if not isinstance(part, kind):
        raise InputError(
            f"{argument} must be a mixwell.{argument} part ({kind.__name__}), got {given!r}"
        )
    return part


class Term(nn.Module):
    """One term of a method's loss.

    Args:
        loss: what is the loss? A :class:`mixwell.losses.Loss`.
        recipe: how the samples are mixed; None for clean samples.
        weight: the factor of this term in the sum; ≥ 0.
        name: its name in ``step.terms``.

    Raises:
        InputError: the loss is none of mixwell's kind, needs what no step has, or does not go with
            the recipe.
    """

    def __init__(
        self,
        loss: Loss,
        recipe: Recipe | None = None,
        weight: float = 1.0,
        name: str | None = None,
    ) -> None:
        super().__init__()
        self.loss = check_loss(loss)
        if recipe is not None and not isinstance(recipe, Recipe):
            raise InputError(f"recipe must be a mixwell.Recipe, or None, got {recipe!r}")
        _check_needs(loss, recipe)
        self.recipe = recipe
        self.weight = check_range("weight", weight)
        self.name = name or ("clean" if recipe is None else "mixed")

    def extra_repr(self) -> str:
        return f"weight={self.weight}, name={self.name!r}"


def check_loss(loss: object) -> Loss:
    """Return ``loss`` if it is one of mixwell's kind; raise an InputError if not."""
    if isinstance(loss, Loss):
        return loss
    if isinstance(loss, nn.modules.loss._Loss):
        raise InputError(
            f"loss must be one of mixwell's, which know two classes and λ, got torch's {loss}; "
            "for its settings take mixwell.losses.MixedCrossEntropy(label_smoothing=..., "
            "class_weight=...), MixedBCE(pos_weight=...), MixedMSE() or MixedL1()"
        )
    raise InputError(
        f"loss must be a mixwell.losses.Loss (subclass it, with forward(logits, target)), got "
        f"{loss!r}"
    )


def _check_needs(loss: Loss, recipe: Recipe | None) -> None:
    """Raise an InputError for a need that no step can meet."""
    name = type(loss).__name__
    for need in loss.needs:
        if not isinstance(need, (Clean, Twin, Mixes)):
            raise InputError(
                f"{name} needs {need!r}, which no step has; known needs: Clean(), Twin(redraw), "
                "Mixes(count), of mixwell.losses"
            )
        if isinstance(need, (Twin, Mixes)) and recipe is None:
            raise InputError(
                f"{name} reads mixed samples ({type(need).__name__}): give its Term a recipe"
            )
        if isinstance(need, Twin) and recipe is not None and recipe.pairing.partners == "data":
            raise InputError(
                f"{name} reads each pair twice, which partners='data' is not for; leave it at "
                "'batch'"
            )
        if isinstance(need, Twin) and recipe is not None and recipe.coefficient.samples > 2:
            raise InputError(
                f"{name} reads each pair twice, and {type(recipe.coefficient).__name__} mixes "
                f"{recipe.coefficient.samples} samples into one; choose another coefficient or loss"
            )
