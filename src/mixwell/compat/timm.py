"""timm's ``Mixup``, ``FastCollateMixup`` and ``mixup_target``, replaced argument by argument.

.. code-block:: python

    from mixwell.compat.timm import FastCollateMixup, Mixup  # not from timm.data

    mixup_fn = Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, mode="elem", num_classes=1000)
    images, targets = mixup_fn(images, targets)

They are instances of timm's classes, draw from the same distributions, though by torch's generators
and not NumPy's, and ``mixup_enabled = False`` switches them off as well.

Where timm fails, or does what nobody asks for, they do not follow it: batches may be odd; what is
given stays as it is; λ is precise in the targets of half-precision images; an unknown mode is an
error; and ``loader.mixup_enabled = False`` reaches workers that live on between epochs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.data import default_collate

from mixwell import functional
from mixwell.batch import Batch
from mixwell.checks import check_choice, check_range
from mixwell.errors import InputError
from mixwell.interpolation.base import image_size
from mixwell.losses.base import check_classes
from mixwell.mix import Box, Mix, MixedTarget

try:
    from timm.data import mixup as timm_mixup
except ImportError as error:
    raise InputError("mixwell.compat.timm needs timm: pip install timm") from error

__all__ = ["FastCollateMixup", "Mixup", "mixup_target"]


def mixup_target(
    target: Tensor,
    num_classes: int,
    lam: float | Tensor = 1.0,
    smoothing: float = 0.0,
    multi_label: bool = False,
) -> Tensor:
    """Return the dense, smoothed targets of a batch that is mixed with itself in reverse order.

    .. code-block:: text

        ỹ_i = λ_i y_i + (1 - λ_i) y_{B-1-i},   y ← (1 - ε) y + ε / C      (multi-label: ε / 2)

    Args:
        target: class indices (B,); or (B, C) with ``multi_label``.
        num_classes: C.
        lam: λ, a number or one for each sample, (B,) or (B, 1).
        smoothing: ε in [0, 1].
        multi_label: whether each class has a label of its own.

    Returns:
        (B, C) float32, or of a floating λ's dtype where that is wider.

    Raises:
        InputError: ``target`` is not of this shape, or holds an index outside [0, C).

    >>> mixup_target(torch.tensor([0, 1]), 2, lam=0.75)
    tensor([[0.7500, 0.2500],
            [0.2500, 0.7500]])
    """
    target = _as_target(target, num_classes, multi_label)
    weight = torch.as_tensor(lam, device=target.device)
    if not weight.is_floating_point() or weight.dtype in (torch.float16, torch.bfloat16):
        weight = weight.float()
    mixed = MixedTarget(target, target.flip(0), weight.reshape(-1).expand(len(target)))
    return _smoothed(mixed, num_classes, smoothing, multi_label)


def _as_target(target: Tensor, num_classes: int, multi_label: bool) -> Tensor:
    """Return class indices (B,) as int64, multi-label targets (B, C) as floating, checked."""
    shape = tuple(target.shape)
    if multi_label:
        if target.ndim != 2 or shape[1] != num_classes:
            raise InputError(
                f"multi_label=True needs targets of shape (B, num_classes), (B, {num_classes}), "
                f"got shape {shape}"
            )
        return target.float()
    if target.ndim != 1:
        raise InputError(
            f"target must be class indices (B,), got shape {shape}; "
            "a label for each class, (B, C), is mixed with multi_label=True"
        )
    target = target.long()
    check_classes("target", target, num_classes)
    return target


def _smoothed(target: MixedTarget, num_classes: int, smoothing: float, multi_label: bool) -> Tensor:
    # Smoothing is affine, so that it may as well follow the mixing.
    even = 0.5 if multi_label else 1 / num_classes
    return target.dense(num_classes).mul_(1 - smoothing).add_(smoothing * even)


class Mixup(timm_mixup.Mixup):
    """``timm.data.Mixup``: mixup and CutMix, or either of them by chance, with dense targets.

    .. code-block:: text

        σ(i) = B-1-i,   λ ~ Beta(α, α) of mixup or of CutMix
        mixup:   x̃_i = λ x_i + (1 - λ) x_σ(i)
        CutMix:  a box of x_σ(i) in x_i, of area 1 - λ with a uniform centre, clipped at the border

    The middle sample of an odd batch has no other partner and stays as it is. The attributes that
    timm has (``mix_prob``, ``switch_prob``, ``label_smoothing``, ``mixup_enabled`` ...) may be
    changed between batches.

    Args:
        mixup_alpha: mixup's α; 0 for CutMix alone.
        cutmix_alpha: CutMix's α; 0 for mixup alone.
        cutmix_minmax: instead of ``cutmix_alpha``: the least and the greatest side of the box, as
            shares of the image's; λ is the area's then. Where there is no whole number of pixels
            between them, it is the least one; timm fails there.
        prob: the probability of mixing at all.
        switch_prob: the probability of CutMix where both are active.
        mode: what a draw is for: the whole "batch", a "pair" (of which each sample becomes the
            other's partner, with the same λ and box), or each sample, "elem".
        correct_lam: whether the target's λ is the share of the own sample that is truly left, also
            where the box is clipped.
        label_smoothing: ε of the targets; 0.1 by default, and with ``target="mixed"`` 0, as the
            smoothing is up to the loss there: ``MixedCrossEntropy(label_smoothing=...)``.
        num_classes: C.
        multi_label: whether targets are (B, C), with a label for each class.
        target: "dense" for (B, C), "mixed" for :class:`mixwell.MixedTarget` and mixwell's losses.

    Raises:
        InputError: a setting is out of range, nothing is active, or the images and targets of a
            batch don't fit.

    Sources: arXiv:1710.09412 (mixup), arXiv:1905.04899 (CutMix).

    >>> images, labels = torch.rand(5, 3, 8, 8), torch.tensor([0, 1, 2, 3, 4])
    >>> mixed, targets = Mixup(0.8, 1.0, mode="elem", num_classes=10)(images, labels)
    >>> targets.shape
    torch.Size([5, 10])
    """

    _modes: tuple[str, ...] = ("batch", "pair", "elem")

    def __init__(
        self,
        mixup_alpha: float = 1.0,
        cutmix_alpha: float = 0.0,
        cutmix_minmax: Sequence[float] | None = None,
        prob: float = 1.0,
        switch_prob: float = 0.5,
        mode: str = "batch",
        correct_lam: bool = True,
        label_smoothing: float | None = None,
        num_classes: int = 1000,
        multi_label: bool = False,
        *,
        target: Literal["dense", "mixed"] = "dense",
    ) -> None:
        self.target = check_choice("target", target, ("dense", "mixed"))
        if label_smoothing is None:
            label_smoothing = 0.0 if target == "mixed" else 0.1
        elif label_smoothing and target == "mixed":
            raise InputError(
                f"label_smoothing={label_smoothing!r} can't be kept in a MixedTarget: give it to "
                f"the loss, MixedCrossEntropy(label_smoothing={label_smoothing!r}), and 0 here"
            )
        if cutmix_minmax is not None:
            cutmix_minmax = _check_minmax(cutmix_minmax)
        super().__init__(
            mixup_alpha=check_range("mixup_alpha", mixup_alpha),
            cutmix_alpha=check_range("cutmix_alpha", cutmix_alpha),
            cutmix_minmax=cutmix_minmax,
            prob=check_range("prob", prob, 0, 1),
            switch_prob=check_range("switch_prob", switch_prob, 0, 1),
            mode=check_choice("mode", mode, self._modes),
            correct_lam=correct_lam,
            label_smoothing=check_range("label_smoothing", label_smoothing, 0, 1),
            num_classes=num_classes,
        )
        self.multi_label = multi_label  # which not every version of timm takes
        self._check_active()

    def __call__(self, x: Tensor, target: Tensor) -> tuple[Tensor, Any]:
        """Return the images mixed and their targets.

        Args:
            x: (B, ..., H, W) floating or uint8, on any device.
            target: (B,) class indices, or (B, C) where ``multi_label``.
        """
        target = _as_target(target, self.num_classes, self.multi_label)
        if len(x) != len(target):
            raise InputError(f"there are {len(x)} images, but {len(target)} targets")
        mixes, cuts, lam = self._draw(Batch(x, target))
        mixed = [functional.mix(x, mix) for mix in mixes] or [x]
        images = mixed[0] if cuts is None else _choose(cuts, *mixed)
        return images, self._targets(target, lam)

    def _targets(self, target: Tensor, lam: Tensor) -> Tensor | MixedTarget:
        mixed = MixedTarget(target, target.flip(0), lam.to(target.device))
        if self.target == "mixed":
            return mixed
        return _smoothed(mixed, self.num_classes, self.label_smoothing, self.multi_label)

    def _check_active(self) -> None:
        if not (self.mixup_alpha > 0 or self.cutmix_alpha > 0):
            raise InputError(
                "one of mixup_alpha and cutmix_alpha must be > 0, or cutmix_minmax given; "
                f"got mixup_alpha={self.mixup_alpha!r}, cutmix_alpha={self.cutmix_alpha!r}"
            )

    def _draw(self, batch: Batch) -> tuple[list[Mix], Tensor | None, Tensor]:
        """Return how a batch mixes, and the λ of its targets.

        Returns:
            No mix, or one, or two, of which the first is for the samples where what comes next is
            true, (B,); and λ, (B,).
        """
        whole = self.mode == "batch"
        if not self.mixup_enabled or (whole and not _chance(batch, self.mix_prob)):
            return [], None, torch.ones(len(batch), device=batch.device)
        self._check_active()
        place = torch.arange(len(batch), device=batch.device)
        partner = place.flip(0)
        # Which of the draws is each sample's.
        draw = place
        if whole:
            draw = torch.zeros_like(place)
        elif self.mode == "pair":
            draw = torch.minimum(place, partner)
        count = 1 if whole else len(batch)  # of pairs the second half is drawn in vain

        cuts = self._draw_kinds(batch, count)
        lam = self._draw_lam(batch, cuts, count)
        if not whole and self.mix_prob < 1:
            lam = torch.where(batch.rand(count) < self.mix_prob, lam, 1.0)
        if cuts is False:
            return [Mix(partner, lam[draw])], None, lam[draw]

        height, width = image_size(type(self).__name__, batch)
        edges = self._draw_edges(batch, lam, height, width)
        box, lam = Box(edges[draw], height, width), lam[draw]
        left = box.share().to(lam.dtype)
        label = left if self.correct_lam or self.cutmix_minmax is not None else lam
        paste = Mix(partner, left, box=box)
        if cuts is True:
            return [paste], None, label
        cuts = cuts[draw]
        return [paste, Mix(partner, lam)], cuts, torch.where(cuts, label, lam)

    def _draw_kinds(self, batch: Batch, count: int) -> bool | Tensor:
        """Return whether it is CutMix: of all draws, or (count,) of each."""
        if self.mixup_alpha > 0 and self.cutmix_alpha > 0:
            if self.mode == "batch":
                return _chance(batch, self.switch_prob)
            return batch.rand(count) < self.switch_prob
        return self.cutmix_alpha > 0

    def _draw_lam(self, batch: Batch, cuts: bool | Tensor, count: int) -> Tensor:
        """Return λ ~ Beta(α, α): (count,)."""
        alpha = torch.full((count,), float(self.mixup_alpha), device=batch.device)
        if isinstance(cuts, Tensor):
            alpha = torch.where(cuts, self.cutmix_alpha, alpha)
        elif cuts:
            alpha = torch.full_like(alpha, self.cutmix_alpha)
        return functional.sample_beta(alpha, batch.generator)

    def _draw_edges(self, batch: Batch, lam: Tensor, height: int, width: int) -> Tensor:
        """Return boxes for λ (n,), as timm draws them: (n, 4) top, bottom, left, right."""
        edges = []
        for size in (height, width):
            if self.cutmix_minmax is None:
                side = ((1 - lam).sqrt() * size).floor()
                start = (batch.rand(len(lam)) * size).floor() - side.div(2, rounding_mode="floor")
            else:
                low, high = (int(share * size) for share in self.cutmix_minmax)
                side = low + (batch.rand(len(lam)) * (high - low)).floor()
                start = (batch.rand(len(lam)) * (size - side + 1)).floor()
            edges += [start.clamp_min(0), (start + side).clamp_max(size)]
        # λ = 1 is not to mix at all, also where the box has a size of its own.
        return torch.where(lam[:, None] < 1, torch.stack(edges, 1), 0).long()


def _chance(batch: Batch, probability: float) -> bool:
    """Return True with this probability, drawn on the CPU."""
    return batch.choose(1 << 30) < probability * (1 << 30)


def _choose(is_first: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Return ``first`` for the samples where ``is_first`` (B,), else ``second``."""
    if first.device.type != "cpu":
        return torch.where(is_first.view(-1, *[1] * (first.ndim - 1)), first, second)
    # On the CPU torch.where takes many times as long as copying the samples in question.
    for sample in is_first.logical_not().nonzero()[:, 0].tolist():
        first[sample] = second[sample]
    return first


def _check_minmax(sides: Sequence[float]) -> tuple[float, float]:
    if len(sides) == 2 and 0 <= sides[0] <= sides[1] <= 1:
        return float(sides[0]), float(sides[1])
    raise InputError(
        "cutmix_minmax must be two shares of the image's sides, 0 <= least <= greatest <= 1, "
        f"got {tuple(sides)!r}"
    )


class FastCollateMixup(Mixup, timm_mixup.FastCollateMixup):
    """``timm.data.FastCollateMixup``: a :class:`Mixup` that collates a list of samples.

    For ``create_loader(collate_fn=...)`` and its prefetcher, which normalises on the device:
    uint8 images are mixed as such, and rounded to the nearest integer. Images of another dtype
    keep it; timm casts them to uint8.

    The mode "half" mixes as "elem" does, but gives the first half of the batch alone, mixed with
    the second half.

    Setting ``mixup_enabled`` reaches the workers of a running loader: it is in shared memory.

    Args:
        arguments: as of :class:`Mixup`.
    """

    _modes = ("batch", "pair", "elem", "half")

    def __init__(self, *args: Any, **arguments: Any) -> None:
        self._enabled = torch.ones((), dtype=torch.bool).share_memory_()
        super().__init__(*args, **arguments)

    @property
    def mixup_enabled(self) -> bool:
        """Whether batches are mixed; set by the training loop, seen by all workers."""
        return bool(self._enabled)

    @mixup_enabled.setter
    def mixup_enabled(self, value: bool) -> None:
        self._enabled.fill_(value)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._enabled.share_memory_()  # with the workers of this copy

    def __call__(  # type: ignore[override]
        self, batch: Sequence[tuple[Any, Any]], _: Any = None
    ) -> tuple[Tensor, Any]:
        """Return images (B, C, H, W) mixed and their targets.

        Args:
            batch: B samples (image, target), the images (C, H, W) tensors or NumPy arrays.
        """
        x = default_collate([sample[0] for sample in batch])
        if not isinstance(x, Tensor):
            raise InputError(
                "FastCollateMixup mixes one image a sample, a tensor or a NumPy array (C, H, W), "
                f"got {type(batch[0][0]).__name__}; augmentation splits can't be mixed"
            )
        target = default_collate([sample[1] for sample in batch])
        mixed, targets = super().__call__(x, target)
        if self.mode != "half":
            return mixed, targets
        kept = slice((len(x) + 1) // 2)
        return mixed[kept], pytree.tree_map(lambda part: part[kept], targets)
