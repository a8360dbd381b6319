"""Few labels and many unlabelled samples: pseudo-labels, and mixing across the two.

Every step draws a batch of labelled and a larger one of unlabelled samples (FixMatch,
arXiv:2001.07685, with a mean teacher, arXiv:1703.01780):

.. code-block:: text

    ŷ_u   = argmax p_teacher(weak(x_u)),  believed where its probability is ≥ threshold
    L     = CE(weak(x_l), y_l) + w · mean_u [believed] CE(strong(x_u), ŷ_u) + L_mix

with L_mix, of the method's loss ℓ, in one of two forms (:mod:`mixwell.training.forms`):

.. code-block:: text

    paper    w · mean_u [believed] ℓ(λ · weak(x_l) + (1 - λ) · strong(x_u)),  λ ≥ 1/2
    authors  w · ramp(t) · mean_u [mask] ℓ(λ · weak(x_l) + (1 - λ) · weak(x_u))
             + mean_l ℓ(λ · weak(x_l) + (1 - λ) · weak(x_l'))

Plain mixup labels the mix (y_l, ŷ_u; λ). In Decoupled Mixup's the guess counts for less than the
label: see the forms.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixwell.batch import Batch
from mixwell.data import Dataset
from mixwell.errors import InputError
from mixwell.losses import Loss
from mixwell.methods import Method, Recipe, Step, Term
from mixwell.mix import Mix, MixedTarget
from mixwell.training.config import RunConfig
from mixwell.training.forms import FORMS, OtherHalf, mix_mask, ramp
from mixwell.training.probes import moments
from mixwell.view import inference, logits_of

__all__ = ["SemiSupervised", "strong_view", "weak_view"]

_PARTS = 8  # groups of a batch that each get a random transform of their own


@dataclass(frozen=True)
class _Mixed:
    """Mixed samples, and what becomes of their logits: ``weight · scale · mean loss``."""

    name: str
    x: Tensor
    target: MixedTarget
    mix: Mix
    loss: Loss
    weight: Tensor | float
    scale: Tensor | float = 1.0

    def term(self, logits: Tensor) -> Tensor:
        return self.loss(logits, self.target).mean() * self.scale


@dataclass(frozen=True)
class _Guesses:
    """What the teacher says of the unlabelled samples: classes and confidence, (B,) each."""

    y: Tensor
    confidence: Tensor
    believed: Tensor


class SemiSupervised(nn.Module):
    """What stands in a method's place where most samples have no label.

    An epoch goes once over the unlabelled samples; labelled ones are drawn for each step.

    Args:
        method: as of :func:`mixwell.create`; its coefficient, interpolation, labels and loss
            serve the mixing of labelled with unlabelled samples. It must mix at the input, or
            mix nothing at all (erm: plain pseudo-labels).
        dataset: with unlabelled samples.
        config: form, threshold, ratio and weight, and which of the method's settings were given.

    Raises:
        InputError: the method mixes inside the model, there are no images or none unlabelled, or
            a setting contradicts the form.
    """

    def __init__(self, method: Method, dataset: Dataset, config: RunConfig) -> None:
        super().__init__()
        if dataset.unlabelled is None:
            raise InputError("labels must be given: without it no sample is unlabelled")
        if len(dataset.input_shape) != 3:
            raise InputError(f"labels needs images, but data={dataset.name!r} has none")
        self.form = FORMS[config.semi]
        if config.mix_cutoff is not None and not self.form.masked:
            raise InputError(
                f"mix_cutoff={config.mix_cutoff} is of semi='authors' alone; with "
                f"semi={config.semi!r} a guess that is believed is mixed: set threshold"
            )
        self.method = method
        self.recipe: Recipe | None = None
        self.own_recipe: Recipe | None = None
        self.loss: Loss | None = None
        self.own_loss: Loss | None = None
        self.mixed_weight = 0.0
        term = _mixing(method)
        if term is not None:
            self._take(term, _given(config))
        self.labelled = dataset.train
        self.size = max(1, (config.batch_size or 1) // config.unlabelled_ratio)
        self.threshold = config.threshold
        self.cutoff = config.mix_cutoff
        self.weight = config.unlabelled_weight
        self.mean, self.std = moments(dataset.test)
        self.flip = getattr(dataset.train, "flip", True)
        self._teacher: list[nn.Module] = []  # in a list: it's no part of this module's state

    def _take(self, term: Term, given: dict[str, Any]) -> None:
        """Make the recipes and losses of the mixed samples from the method's term."""
        recipe, form = term.recipe, self.form
        assert recipe is not None
        self.mixed_weight = term.weight
        self.loss = form.across(term.loss, given)
        self.own_loss = form.among(term.loss, given)
        lam = form.coefficient(recipe, term.loss, given)
        rest = (lam, recipe.interpolation, recipe.labels, recipe.p, recipe.per)
        self.recipe = Recipe(OtherHalf(), *rest)
        self.own_recipe = Recipe(recipe.pairing, *rest) if self.own_loss is not None else None

    def learn_from(self, teacher: nn.Module) -> None:
        """Take pseudo-labels from this model, an average of the student's weights."""
        self._teacher = [teacher]

    def set_progress(self, progress: float) -> None:
        """Tell the training progress t in [0, 1]."""
        self.method.set_progress(progress)

    def notes(self, history: Iterable[Mapping[str, float]]) -> list[str]:
        """Return in words what did not happen in a training, though it was asked for.

        Args:
            history: a row for each epoch, with the means of :meth:`step`'s terms.
        """
        rows = list(history)
        if any(row["believed"] for row in rows):
            return []
        unmixed = self.loss is not None and not any(row["mixed"] for row in rows)
        name = self.method.name
        return [
            f"no guess reached threshold={self.threshold:g} in the whole training: the samples "
            f"without a label taught nothing{f', and {name} mixed none of them' * unmixed}; train "
            "for longer (epochs), or set a lower threshold"
        ]

    def _draw(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return random labelled samples, each as often as the others give or take one."""
        count = len(self.labelled)
        order = torch.cat([torch.randperm(count) for _ in range(-(-self.size // count))])
        chosen = self.labelled.subset(order[: self.size])
        x, y, _ = next(iter(chosen.batches(self.size, device=device)))
        return x, y

    def _guess(self, weak: Tensor) -> _Guesses:
        """Return the teacher's guesses."""
        (teacher,) = self._teacher
        seen = weak.to(next((p.dtype for p in teacher.parameters()), weak.dtype))
        with inference(teacher):
            confidence, pseudo = logits_of(teacher(seen)).float().softmax(1).max(1)
        return _Guesses(pseudo, confidence, confidence >= self.threshold)

    def step(self, model: nn.Module, x: Tensor, y: Tensor, *, index: Tensor | None = None) -> Step:
        """Run the model on labelled, unlabelled and mixed samples; return the loss and its terms.

        Args:
            model: the student.
            x: (B, C, H, W) unlabelled samples.
            y: what a batch has in the labels' place; not looked at.
            index: not looked at, either.
        """
        labelled, y = self._draw(x.device)
        mean, std = self.mean.to(x.device), self.std.to(x.device)
        labelled, weak = (weak_view(part, self.flip) for part in (labelled, x))
        strong = (strong_view(x * std + mean) - mean) / std
        guesses = self._guess(weak)
        mixed = self._mixed(labelled, y, weak, strong, guesses)
        inputs = [labelled, strong, *(part.x for part in mixed)]
        clean, unmixed, *rows = logits_of(model(torch.cat(inputs))).split([len(p) for p in inputs])
        own = F.cross_entropy(clean, y)
        each = F.cross_entropy(unmixed, guesses.y, reduction="none")
        consistency = (each * guesses.believed).mean()
        terms = {
            "labelled": own,
            "pseudo": consistency,
            "believed": guesses.believed.float().mean(),
        }
        loss = own + self.weight * consistency
        if self.loss is not None:
            terms["mixed"] = torch.zeros_like(own)
        for part, logits in zip(mixed, rows, strict=True):
            terms[part.name] = part.term(logits)
            loss = loss + part.weight * terms[part.name]
        shown = (clean, MixedTarget.clean(y), Mix.identity(len(y), x.device))
        if mixed:
            shown = (rows[0], mixed[0].target, mixed[0].mix)
        detached = {name: value.detach() for name, value in terms.items()}
        return Step(loss, *shown, detached, clean)

    def _mixed(
        self, labelled: Tensor, y: Tensor, weak: Tensor, strong: Tensor, guesses: _Guesses
    ) -> list[_Mixed]:
        """Return the mixed samples of the step, those of labelled with unlabelled ones first."""
        if self.recipe is None or self.loss is None:
            return []
        weight = self.weight * self.mixed_weight
        if not self.form.masked:
            believed = guesses.believed
            # Two at least: a loss that contrasts samples has nothing to do with one.
            if int(believed.sum()) < 2:
                return []
            mixed = self._across(self.recipe, labelled, y, strong[believed], guesses.y[believed])
            # A mean over those that are believed; here each counts as one of all.
            return [_Mixed("mixed", *mixed, self.loss, weight, believed.float().mean())]
        x, target, mix = self._across(self.recipe, labelled, y, weak, guesses.y)
        mask = mix_mask(guesses.confidence, target.lam, self.threshold, self.cutoff)
        across = _Mixed(
            "mixed", x, replace(target, weight=mask), mix, self.loss,
            ramp(self.method.progress) * weight,
        )  # fmt: skip
        return [across, self._among(labelled, y)]

    def _across(
        self, recipe: Recipe, labelled: Tensor, y: Tensor, view: Tensor, pseudo: Tensor
    ) -> tuple[Tensor, MixedTarget, Mix]:
        """Mix each unlabelled sample into a labelled one, which keeps the larger share."""
        count = len(view)
        repeated = torch.arange(count, device=y.device) % len(y)
        x = torch.cat([labelled[repeated], view])
        made, target, mix = self._draw_mix(recipe, x, torch.cat([y[repeated], pseudo]))
        half = MixedTarget(target.a[:count], target.b[:count], target.lam[:count])
        return made[:count], half, Mix(mix.partner[:count] - count, mix.lam[:count])

    def _among(self, labelled: Tensor, y: Tensor) -> _Mixed:
        """Mix the labelled samples among themselves."""
        assert self.own_recipe is not None
        assert self.own_loss is not None
        mixed = self._draw_mix(self.own_recipe, labelled, y)
        return _Mixed("mixed_labelled", *mixed, self.own_loss, self.mixed_weight)

    def _draw_mix(self, recipe: Recipe, x: Tensor, y: Tensor) -> tuple[Tensor, MixedTarget, Mix]:
        batch = Batch(x, y, generator=self.method.generator, progress=self.method.progress)
        mix, target = recipe.draw(batch)
        assert isinstance(mix, Mix)
        assert isinstance(target, MixedTarget)
        return recipe.interpolation(x, mix), target, mix


def _mixing(method: Method) -> Term | None:
    """Return the method's term of mixed samples, or None where it mixes none.

    Raises:
        InputError: it mixes where, or what, semi-supervised training can't.
    """
    mixing = [term for term in method._terms() if term.recipe is not None]
    if not mixing:
        return None
    recipe, loss = mixing[0].recipe, mixing[0].loss
    assert recipe is not None
    inside = list(recipe.interpolation.layers) != ["input"]
    looks = (
        recipe.needs_features
        or recipe.coefficient.remembers
        or recipe.interpolation.needs_model
        or recipe.labels.needs_attention
    )
    many = recipe.coefficient.samples > 2 or bool(loss.needs)
    if inside or looks or many or len(mixing) > 1:
        raise InputError(
            f"method={method.name!r} mixes inside the model or looks at it, or mixes more "
            "than two samples; semi-supervised training takes methods that mix pairs at "
            "the input: mixup, cutmix, decoupled, sk_mixup with distance=input"
        )
    return mixing[0]


def _given(config: RunConfig) -> dict[str, Any]:
    """Return the settings of coefficient and loss that were given by hand, by name."""
    split = {name.rpartition("__")[::2]: value for name, value in config.method_options.items()}
    return {name: value for (part, name), value in split.items() if part != "recipe"}


def weak_view(x: Tensor, flip: bool) -> Tensor:
    """Return images shifted by up to an eighth, and mirrored by chance.

    Args:
        x: (B, C, H, W).
        flip: mirror half of them.
    """
    size, device = len(x), x.device
    down, across = (max(1, side // 8) for side in x.shape[2:])
    top = torch.randint(2 * down + 1, (size, 1), device=device)
    left = torch.randint(2 * across + 1, (size, 1), device=device)
    rows = top + torch.arange(x.shape[2], device=device)
    columns = left + torch.arange(x.shape[3], device=device)
    if flip:
        mirrored = torch.rand(size, 1, device=device) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    place = torch.arange(size, device=device)[:, None, None]
    padded = F.pad(x, (across, across, down, down), mode="replicate").movedim(1, -1)
    return padded[place, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)


def strong_view(x: Tensor) -> Tensor:
    """Return images changed by RandAugment and a grey patch (cutout), from the global draws.

    Args:
        x: (B, C, H, W) in [0, 1].
    """
    from torchvision.transforms import v2

    augment = v2.RandAugment(num_ops=2, magnitude=10)
    images = (x.clamp(0, 1) * 255).round().to(torch.uint8)
    grey = images.shape[1] == 1
    if grey:  # some of its operations take colour images alone
        images = images.expand(-1, 3, -1, -1)
    parts = [augment(part) for part in images.chunk(_PARTS)]
    out = torch.cat(parts).to(x.dtype) / 255
    out = out[:, :1] if grey else out
    side = max(1, x.shape[-1] // 3)
    corner = torch.rand(2, len(x), 1, 1, 1, device=x.device)
    top = (corner[0] * x.shape[2]).floor() - side / 2
    left = (corner[1] * x.shape[3]).floor() - side / 2
    rows = torch.arange(x.shape[2], device=x.device).view(1, 1, -1, 1)
    columns = torch.arange(x.shape[3], device=x.device).view(1, 1, 1, -1)
    inside = (rows >= top) & (rows < top + side) & (columns >= left) & (columns < left + side)
    return torch.where(inside, 0.5, out)
