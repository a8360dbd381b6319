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
from mixwell.data import Dataset
from mixwell.errors import InputError
from mixwell.heads import inference, logits_of
from mixwell.losses import DecoupledCrossEntropy
from mixwell.methods import Method
from mixwell.methods.base import Recipe, Step
from mixwell.mix import Mix, MixedTarget
from mixwell.training import probes
from mixwell.training.config import RunConfig

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
        self.recipe = method.recipe
        self.loss = copy.deepcopy(mixing[0].loss) if mixing else None
        if self.recipe is not None:
            inside = list(self.recipe.interpolation.layers) != ["input"]
            if inside or self.recipe.needs_features or len(mixing) > 1:
                raise InputError(
                    f"method={method.name!r} mixes inside the model or looks at its features; "
                    "semi-supervised training takes methods that mix at the input: mixup, "
                    "cutmix, decoupled, sk_mixup with distance=input"
                )
        if isinstance(self.loss, DecoupledCrossEntropy):
            self.loss.asymmetric = True
        self.labelled = dataset.train
        self.size = max(1, (config.batch_size or 1) // config.unlabelled_ratio)
        self.threshold = config.threshold
        self.weight = config.unlabelled_weight
        self.mean, self.std = probes.moments(dataset.test)
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
        with inference(teacher):
            confidence, pseudo = logits_of(teacher(weak)).float().softmax(1).max(1)
        believed = (confidence >= self.threshold).to(x.dtype)

        inputs = [labelled, strong]
        mixed = None
        if self.recipe is not None:
            mixed = self._mix(self.recipe, labelled, y, strong, pseudo, believed)
            inputs.append(mixed[0])
        logits = logits_of(model(torch.cat(inputs)))
        clean, guesses, rows = logits.tensor_split([len(y), len(y) + len(x)])
        own = F.cross_entropy(clean, y)
        consistency = (F.cross_entropy(guesses, pseudo, reduction="none") * believed).mean()
        terms = {"labelled": own, "pseudo": consistency, "believed": believed.mean()}
        loss = own + self.weight * consistency
        shown = (clean, MixedTarget.clean(y), Mix.identity(len(y), x.device))
        if mixed is not None:
            assert self.loss is not None
            # The loss is a mean over those that are believed; here each counts as one of all.
            terms["mixed"] = self.loss(rows, mixed[1]) * believed.mean()
            loss = loss + self.weight * terms["mixed"]
            shown = (rows, mixed[1], mixed[2])
        detached = {name: value.detach() for name, value in terms.items()}
        return Step(loss, *shown, detached, clean)

    def _mix(
        self, recipe: Recipe, labelled: Tensor, y: Tensor, strong: Tensor, pseudo: Tensor,
        believed: Tensor,
    ) -> tuple[Tensor, MixedTarget, Mix]:  # fmt: skip
        """Mix each unlabelled sample into a labelled one, which keeps the larger share."""
        count = len(strong)
        repeated = torch.arange(count, device=y.device) % len(y)
        x = torch.cat([labelled[repeated], strong])
        batch = Batch(
            x, torch.cat([y[repeated], pseudo]), generator=self.method.generator,
            progress=self.method.progress,
        )  # fmt: skip
        partner = torch.arange(2 * count, device=y.device).roll(count)
        lam, target_lam = recipe.coefficient.pair(batch, partner)
        swap = lam < 0.5
        lam, target_lam = (torch.where(swap, 1 - value, value) for value in (lam, target_lam))
        mix = recipe.interpolation.shape(batch, Mix(partner, lam))
        target = recipe.labels(batch, mix, target_lam if mix.mask is None else mix.lam)
        half = MixedTarget(target.a[:count], target.b[:count], target.lam[:count], believed)
        made = recipe.interpolation(x, mix)[:count]
        return made, half, Mix(partner[:count] - count, mix.lam[:count])


def weak_view(x: Tensor, flip: bool) -> Tensor:
    """Return images shifted by up to an eighth, and mirrored by chance.

    Args:
        x: (B, C, H, W).
        flip: mirror half of them.
    """
    reach = max(1, x.shape[-1] // 8)
    size, device = len(x), x.device
    corner = torch.randint(2 * reach + 1, (2, size, 1), device=device)
    rows = corner[0] + torch.arange(x.shape[2], device=device)
    columns = corner[1] + torch.arange(x.shape[3], device=device)
    if flip:
        mirrored = torch.rand(size, 1, device=device) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    place = torch.arange(size, device=device)[:, None, None]
    padded = F.pad(x, (reach,) * 4, mode="replicate").movedim(1, -1)
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
