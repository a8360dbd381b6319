"""Few labels and many unlabelled samples: pseudo-labels, and mixing across the two.

Every step draws a batch of labelled and a larger one of unlabelled samples (FixMatch,
arXiv:2001.07685, with a mean teacher, arXiv:1703.01780):

.. code-block:: text

    ŷ_u   = argmax p_teacher(weak(x_u)),  believed where its probability is ≥ threshold
    L     = CE(weak(x_l), y_l) + w · mean_u [believed] CE(strong(x_u), ŷ_u) + w · L_mix
    L_mix = the method's loss of λ · weak(x_l) + (1 - λ) · strong(x_u), λ ≥ 1/2, where believed

Plain mixup labels it (y_l, ŷ_u; λ). Decoupled Mixup is asymmetric there: only the labelled side
gets the decoupled term, as the other may be wrong.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixwell.batch import Batch
from mixwell.coefficient import Coefficient
from mixwell.data import Dataset
from mixwell.errors import InputError
from mixwell.losses import DecoupledCrossEntropy
from mixwell.methods import Method, Recipe, Step
from mixwell.mix import Mix, MixedTarget
from mixwell.pairing import Pairing
from mixwell.training.config import RunConfig
from mixwell.training.probes import moments
from mixwell.view import inference, logits_of

__all__ = ["SemiSupervised", "strong_view", "weak_view"]

_PARTS = 8  # groups of a batch that each get a random transform of their own


class SemiSupervised(nn.Module):
    """What stands in a method's place where most samples have no label.

    An epoch goes once over the unlabelled samples; labelled ones are drawn for each step.

    Args:
        method: as of :func:`mixwell.create`; its coefficient, interpolation, labels and loss
            serve the mixing of labelled with unlabelled samples. It must mix at the input, or
            mix nothing at all (erm: plain pseudo-labels).
        dataset: with unlabelled samples.
        config: threshold, ratio and weight.

    Raises:
        InputError: the method mixes inside the model, or there are no images or none unlabelled.
    """

    def __init__(self, method: Method, dataset: Dataset, config: RunConfig) -> None:
        super().__init__()
        if dataset.unlabelled is None:
            raise InputError("labels must be given: without it no sample is unlabelled")
        if len(dataset.input_shape) != 3:
            raise InputError(f"labels needs images, but data={dataset.name!r} has none")
        mixing = [term for term in method._terms() if term.recipe is not None]
        self.method = method
        self.recipe = None if method.recipe is None else _across(method.recipe)
        self.loss = copy.deepcopy(mixing[0].loss) if mixing else None
        self.mixed_weight = mixing[0].weight if mixing else 0.0
        if self.recipe is not None:
            inside = list(self.recipe.interpolation.layers) != ["input"]
            looks = (
                self.recipe.needs_features
                or self.recipe.coefficient.remembers
                or self.recipe.interpolation.needs_model
                or self.recipe.labels.needs_attention
            )
            many = self.recipe.coefficient.samples > 2 or bool(getattr(self.loss, "needs", ()))
            if inside or looks or many or len(mixing) > 1:
                raise InputError(
                    f"method={method.name!r} mixes inside the model or looks at it, or mixes more "
                    "than two samples; semi-supervised training takes methods that mix pairs at "
                    "the input: mixup, cutmix, decoupled, sk_mixup with distance=input"
                )
        if isinstance(self.loss, DecoupledCrossEntropy):
            self.loss.asymmetric = True
        self.labelled = dataset.train
        self.size = max(1, (config.batch_size or 1) // config.unlabelled_ratio)
        self.threshold = config.threshold
        self.weight = config.unlabelled_weight
        self.mean, self.std = moments(dataset.test)
        self.flip = getattr(dataset.train, "flip", True)
        self._teacher: list[nn.Module] = []  # in a list: it's no part of this module's state

    def learn_from(self, teacher: nn.Module) -> None:
        """Take pseudo-labels from this model, an average of the student's weights."""
        self._teacher = [teacher]

    def set_progress(self, progress: float) -> None:
        """Tell the training progress t in [0, 1]."""
        self.method.set_progress(progress)

    def _draw(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return random labelled samples, each as often as the others give or take one."""
        count = len(self.labelled)
        order = torch.cat([torch.randperm(count) for _ in range(-(-self.size // count))])
        chosen = self.labelled.subset(order[: self.size])
        x, y, _ = next(iter(chosen.batches(self.size, device=device)))
        return x, y

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
        (teacher,) = self._teacher
        seen = weak.to(next((p.dtype for p in teacher.parameters()), weak.dtype))
        with inference(teacher):
            confidence, pseudo = logits_of(teacher(seen)).float().softmax(1).max(1)
        believed = confidence >= self.threshold
        share = believed.float().mean()

        inputs = [labelled, strong]
        mixed = None
        # Two at least: a loss that contrasts samples has nothing to do with one.
        if self.recipe is not None and int(believed.sum()) > 1:
            mixed = self._mix(self.recipe, labelled, y, strong[believed], pseudo[believed])
            inputs.append(mixed[0])
        logits = logits_of(model(torch.cat(inputs)))
        clean, guesses, rows = logits.tensor_split([len(y), len(y) + len(x)])
        own = F.cross_entropy(clean, y)
        consistency = (F.cross_entropy(guesses, pseudo, reduction="none") * believed).mean()
        terms = {"labelled": own, "pseudo": consistency, "believed": share}
        loss = own + self.weight * consistency
        shown = (clean, MixedTarget.clean(y), Mix.identity(len(y), x.device))
        if self.loss is not None:
            terms["mixed"] = torch.zeros_like(own)
        if mixed is not None:
            assert self.loss is not None
            # A mean over those that are believed; here each counts as one of all.
            terms["mixed"] = self.loss(rows, mixed[1]) * share
            loss = loss + self.weight * self.mixed_weight * terms["mixed"]
            shown = (rows, mixed[1], mixed[2])
        detached = {name: value.detach() for name, value in terms.items()}
        return Step(loss, *shown, detached, clean)

    def _mix(
        self, recipe: Recipe, labelled: Tensor, y: Tensor, strong: Tensor, pseudo: Tensor
    ) -> tuple[Tensor, MixedTarget, Mix]:
        """Mix each unlabelled sample into a labelled one, which keeps the larger share."""
        count = len(strong)
        repeated = torch.arange(count, device=y.device) % len(y)
        x = torch.cat([labelled[repeated], strong])
        batch = Batch(
            x, torch.cat([y[repeated], pseudo]), generator=self.method.generator,
            progress=self.method.progress,
        )  # fmt: skip
        mix, target = recipe.draw(batch)
        assert isinstance(mix, Mix)
        assert isinstance(target, MixedTarget)
        half = MixedTarget(target.a[:count], target.b[:count], target.lam[:count])
        made = recipe.interpolation(x, mix)[:count]
        return made, half, Mix(mix.partner[:count] - count, mix.lam[:count])


class _OtherHalf(Pairing):
    """The partner of each sample of a batch's first half is its counterpart in the second."""

    def forward(self, batch: Batch) -> Tensor:
        size = len(batch)
        return torch.arange(size, device=batch.device).roll(size // 2)


class _Heavier(Coefficient):
    """Another coefficient's λ or 1 - λ, whichever is larger."""

    def __init__(self, inner: Coefficient) -> None:
        super().__init__()
        self.inner = inner
        self.needs_features = inner.needs_features

    def pair(self, batch: Batch, partner: Tensor) -> tuple[Tensor, Tensor]:
        lam, target_lam = self.inner.pair(batch, partner)
        swap = lam < 0.5
        return torch.where(swap, 1 - lam, lam), torch.where(swap, 1 - target_lam, target_lam)


def _across(recipe: Recipe) -> Recipe:
    """Return the recipe with labelled and unlabelled samples for pairs."""
    return Recipe(
        _OtherHalf(), _Heavier(recipe.coefficient), recipe.interpolation, recipe.labels, recipe.p,
        recipe.per,
    )  # fmt: skip


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
