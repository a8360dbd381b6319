"""timm's ``Mixup``, ``FastCollateMixup`` and ``mixup_target``, replaced argument by argument.

.. code-block:: python

    from mixwell.compat.timm import FastCollateMixup, Mixup  # not from timm.data

    mixup_fn = Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, mode="elem", num_classes=1000)
    images, targets = mixup_fn(images, targets)

They are instances of timm's classes, draw from the same distributions as timm 1.0.29 and later
(whose boxes are a pixel longer than before where their sides are odd), though by torch's generators
and not NumPy's, and ``mixup_enabled = False`` switches them off as well.

Where timm fails, or does what nobody asks for, they do not follow it: batches may be odd; what is
given stays as it is; λ is precise in the targets of half-precision images; an unknown mode is an
error; and ``loader.mixup_enabled = False`` reaches workers that live on between epochs.

What a subclass overrides of timm's is called as timm calls it: ``_params_per_batch``,
``_params_per_elem``, ``_mix_batch``, ``_mix_elem``, ``_mix_pair``, and of ``FastCollateMixup``
``_mix_batch_collate``, ``_mix_elem_collate`` and ``_mix_pair_collate``. Their ``super()`` is timm's
own, with NumPy's draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.data import default_collate

from mixwell import functional
from mixwell.batch import Batch
from mixwell.checks import check_choice, check_range, check_whole
from mixwell.compat.arguments import check_flag, check_tensor
from mixwell.compat.draws import Draws
from mixwell.compat.targets import as_lam, as_target, smoothed
from mixwell.errors import InputError
from mixwell.mix import MixedTarget

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
        InputError: an argument is of another kind, out of range, or ``target`` is not of this
            shape, or holds an index outside [0, C).

    >>> mixup_target(torch.tensor([0, 1]), 2, lam=0.75)
    tensor([[0.7500, 0.2500],
            [0.2500, 0.7500]])
    """
    num_classes = check_whole("num_classes", num_classes, 1)
    target = as_target(target, num_classes, check_flag("multi_label", multi_label))
    mixed = MixedTarget(target, target.flip(0), as_lam("lam", lam, target))
    smoothing = check_range("smoothing", smoothing, 0, 1)
    return smoothed(mixed, num_classes, smoothing, multi_label)


class Mixup(Draws, timm_mixup.Mixup):
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
        label_smoothing = check_range("label_smoothing", label_smoothing, 0, 1)
        if label_smoothing and target == "mixed":
            how = (
                f"smooth the labels before, {1 - label_smoothing:g} * y + {label_smoothing / 2:g}"
                if multi_label
                else "give it to the loss, "
                f"mixwell.losses.MixedCrossEntropy(label_smoothing={label_smoothing!r})"
            )
            raise InputError(
                f"label_smoothing={label_smoothing!r} can't be kept in a MixedTarget: {how}, and "
                "give 0 here"
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
            correct_lam=check_flag("correct_lam", correct_lam),
            label_smoothing=label_smoothing,
            num_classes=check_whole("num_classes", num_classes, 1),
        )
        # Not every version of timm takes it.
        self.multi_label = check_flag("multi_label", multi_label)
        self._check_active()

    def __call__(self, x: Tensor, target: Tensor) -> tuple[Tensor, Any]:
        """Return the images mixed and their targets.

        Args:
            x: (B, ..., H, W) floating or uint8, on any device.
            target: (B,) class indices, or (B, C) where ``multi_label``.
        """
        target = as_target(target, self.num_classes, self.multi_label)
        if check_tensor("x", x).ndim == 0 or len(x) != len(target):
            count = len(x) if x.ndim else "no"
            raise InputError(f"there are {count} images, but {len(target)} targets")
        mixing = self._own(f"_mix_{self.mode}")
        if mixing is not None:
            x = x.clone()  # which timm's own change in place
            lam = as_lam(f"what _mix_{self.mode}(x) returns", mixing(x), target)
            return x, self._targets(target, lam)
        mixes, cuts, lam = self._draw(Batch(x, target))
        mixed = [functional.mix(x, mix) for mix in mixes] or [x]
        images = mixed[0] if cuts is None else _choose(cuts, *mixed)
        return images, self._targets(target, lam)

    def _targets(self, target: Tensor, lam: Tensor) -> Tensor | MixedTarget:
        mixed = MixedTarget(target, target.flip(0), lam.to(target.device))
        if self.target == "mixed":
            return mixed
        return smoothed(mixed, self.num_classes, self.label_smoothing, self.multi_label)


def _choose(is_first: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Return ``first`` for the samples where ``is_first`` (B,), else ``second``."""
    if first.device.type != "cpu":
        return torch.where(is_first.view(-1, *[1] * (first.ndim - 1)), first, second)
    # On the CPU torch.where takes many times as long as copying the samples in question.
    for sample in is_first.logical_not().nonzero()[:, 0].tolist():
        first[sample] = second[sample]
    return first


def _check_minmax(sides: Any) -> tuple[float, float]:
    try:
        low, high = (float(side) for side in sides)
    except (TypeError, ValueError):
        low, high = 1.0, 0.0
    if 0 <= low <= high <= 1:
        return low, high
    raise InputError(
        "cutmix_minmax must be two shares of the image's sides, 0 <= least <= greatest <= 1, "
        f"such as (0.2, 0.8), got {sides!r}"
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
        for kind in ("batch", "elem", "pair"):
            if self._own(f"_mix_{kind}") is not None:
                raise InputError(
                    f"{type(self).__name__} overrides _mix_{kind}(x), which a FastCollateMixup, "
                    f"timm's as well, never calls: override _mix_{kind}_collate(output, batch)"
                )

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
        try:
            batch = [(sample[0], sample[1]) for sample in batch]
            target = default_collate([sample[1] for sample in batch])
        except (TypeError, ValueError, RuntimeError, LookupError) as error:
            raise InputError(
                "FastCollateMixup collates a list of samples (image, target), the targets numbers "
                f"or tensors of one shape: {error}"
            ) from error
        x, is_short = _collate_images([sample[0] for sample in batch])
        half = self.mode == "half"
        mixing = self._own(f"_mix_{'elem' if half else self.mode}_collate")
        if mixing is None:
            mixed, targets = super().__call__(x, target)
            kept = slice((len(x) + 1) // 2 if half else len(x))
            mixed = mixed[kept]
        else:
            target = as_target(target, self.num_classes, self.multi_label)
            kept = slice(len(x) // 2 if half else len(x))
            mixed = torch.zeros_like(x[kept])
            lam = mixing(mixed, batch, half=True) if half else mixing(mixed, batch)
            targets = self._targets(target, as_lam("what the collation returns", lam, target))
        if is_short:
            mixed = mixed.round().to(torch.uint16)
        return mixed, pytree.tree_map(lambda part: part[kept], targets) if half else targets


def _collate_images(images: Sequence[Any]) -> tuple[Tensor, bool]:
    """Return images (B, C, H, W), and whether they are unsigned shorts: then as float32, exactly.

    torch has hardly an operation for these, and takes no array of negative strides.
    """
    is_short = getattr(images[0], "dtype", None) in (np.uint16, torch.uint16)

    def one(image: Any) -> Any:
        image = np.ascontiguousarray(image) if isinstance(image, np.ndarray) else image
        return torch.as_tensor(image).to(torch.float32) if is_short else image

    try:
        x = default_collate([one(image) for image in images])
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            "FastCollateMixup collates images (C, H, W) of one size, tensors or NumPy arrays: "
            f"{error}"
        ) from error
    if not isinstance(x, Tensor):
        raise InputError(
            "FastCollateMixup mixes one image a sample, a tensor or a NumPy array (C, H, W), "
            f"got {type(images[0]).__name__}; augmentation splits can't be mixed"
        )
    return x, is_short


Mixup._known = (timm_mixup.Mixup, timm_mixup.FastCollateMixup, Mixup, FastCollateMixup, Draws)
