"""``MixUp`` and ``CutMix`` in the place of torchvision's, with the same arguments and results.

.. code-block:: python

    from mixwell.compat.torchvision import CutMix, MixUp  # not from torchvision.transforms.v2

    transform = v2.RandomChoice([CutMix(num_classes=100), MixUp(num_classes=100, per="sample")])
    images, labels = transform(images, labels)

They are instances of torchvision's classes. What is new has to be asked for: a λ for each sample,
any pairing, segmentation masks, and labels as :class:`mixwell.MixedTarget`.

Where torchvision fails they do what was meant: in a dict whose labels come before the images, plain
tensors both, the images are mixed (torchvision's MixUp mixes the labels alone, in silence), and
MixUp takes uint8 images, and rounds.

A subclass may override ``make_params`` and ``transform`` as it would torchvision's, with
torchvision's keys or with ``"mix"``; what would never be called is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from mixwell import functional
from mixwell.batch import Batch
from mixwell.checks import Per, check_choice, check_range, check_whole
from mixwell.coefficient import Beta
from mixwell.compat.arguments import check_tensor, overridden, takes
from mixwell.compat.params import NEVER_CALLED, Leaves, Params, as_mix, draw_box
from mixwell.errors import InputError
from mixwell.interpolation.base import image_size
from mixwell.losses.base import check_classes
from mixwell.mix import Mix, MixedTarget
from mixwell.pairing import Flip, Pairing, PerfectMatching, Shuffle
from mixwell.values import is_size

try:
    from PIL.Image import Image as PILImage
    from torchvision import tv_tensors
    from torchvision.transforms import v2
except ImportError as error:
    raise InputError(
        "mixwell.compat.torchvision needs torchvision: pip install torchvision"
    ) from error

__all__ = ["CutMix", "MixUp", "Roll"]

_PICTURES = (tv_tensors.Image, tv_tensors.Video)
_UNSUPPORTED = (PILImage, tv_tensors.BoundingBoxes, getattr(tv_tensors, "KeyPoints", ()))


class Roll(Pairing):
    """The sample before, and for the first the last one: for batches that are shuffled already."""

    def forward(self, batch: Batch) -> Tensor:
        return torch.arange(len(batch), device=batch.device).roll(1)


class _OfBatches(v2.Transform):
    """What both transforms share: finding images, labels and masks, and mixing them alike."""

    def __init__(
        self,
        *,
        alpha: float = 1.0,
        num_classes: int | None = None,
        labels_getter: Callable[[Any], Any] | Literal["default"] | None = "default",
        per: Per = "batch",
        pairing: Pairing | None = None,
        target: Literal["dense", "mixed"] = "dense",
    ) -> None:
        alpha = check_range("alpha", alpha, open=True)
        if num_classes is not None:
            num_classes = check_whole("num_classes", num_classes, 1)
        named = isinstance(labels_getter, str) and labels_getter == "default"
        if not (named or labels_getter is None or callable(labels_getter)):
            raise InputError(
                "labels_getter should either be 'default', a function of the sample, or None, "
                f"got {labels_getter!r}"
            )
        # torchvision makes None a lambda, which can't be pickled.
        getter = "default" if labels_getter is None else labels_getter
        super().__init__(alpha=alpha, num_classes=num_classes, labels_getter=getter)
        self._is_labelled = labels_getter is not None
        self.per = check_choice("per", per, ("batch", "sample"))
        self.target = check_choice("target", target, ("dense", "mixed"))
        pairing = Roll() if pairing is None else pairing
        if not isinstance(pairing, Pairing):
            raise InputError(
                "pairing must be a part of mixwell.pairing, such as Shuffle(), "
                f"got {type(pairing).__name__}"
            )
        if pairing.needs_features:
            raise InputError(
                f"pairing={pairing!r} looks at features, and a transform has no model; choose "
                "distance='input' or 'label', or use a mixwell method"
            )
        self.pairing = pairing
        self._coefficient = Beta(alpha, self.per)
        for name, instead in NEVER_CALLED.items():
            if overridden(self, name, _known()) is not None:
                raise InputError(
                    f"{type(self).__name__} overrides {name}, which is never called here: override "
                    f"{instead}"
                )

    def forward(self, *inputs: Any) -> Any:
        """Return the sample with its images, labels and masks mixed, and the rest as it was."""
        if not inputs:
            raise InputError(f"{type(self).__name__}() takes a sample: images and labels")
        inputs = inputs if len(inputs) > 1 else inputs[0]
        flat, structure = pytree.tree_flatten(inputs, is_leaf=is_size)
        masks = [leaf for leaf in flat if isinstance(leaf, tv_tensors.Mask)]
        alone = masks and sum(isinstance(leaf, Tensor) for leaf in flat) == len(masks)
        if alone or any(isinstance(leaf, _UNSUPPORTED) for leaf in flat):
            raise InputError(
                f"{type(self).__name__}() does not support PIL images, bounding boxes, keypoints, "
                "and masks alone: it takes batches of images or videos as tensors"
            )
        labels = self._find_labels(inputs, flat, masks)
        images = self._find_images(flat, labels)
        size = len(masks[0] if labels is None else labels)
        for leaf in images:
            self._check_images(leaf, size)
        for leaf in masks:
            if leaf.ndim < 3 or len(leaf) != size:
                raise InputError(
                    f"masks must be batched, ({size}, H, W) or ({size}, N, H, W), "
                    f"got shape {tuple(leaf.shape)}"
                )

        leaves = Leaves([*images, *masks], labels)
        params = Params({"labels": labels, "batch_size": size, **self._make_params(leaves)})
        moved = {id(leaf) for leaf in (*images, *masks)}
        mixed = [
            self.transform(leaf, params) if leaf is labels or id(leaf) in moved else leaf
            for leaf in flat
        ]
        return pytree.tree_unflatten(mixed, structure)

    def _make_params(self, leaves: Leaves) -> dict[str, Any]:
        make = overridden(self, "make_params", _known())
        if make is None:
            return self.make_params(leaves, leaves.labels)
        params = make(leaves, leaves.labels) if takes(make, 2) else make(leaves)
        batch = self._batch(leaves, leaves.labels)
        size = image_size(type(self).__name__, batch) if isinstance(self, v2.CutMix) else None
        mix = as_mix(type(self).__name__, params, self.pairing(batch), size)
        return {**params, "mix": mix}

    def make_params(self, flat_inputs: list[Any], labels: Tensor | None = None) -> dict[str, Any]:
        """Draw how a batch mixes.

        Args:
            flat_inputs: its images, videos and masks.
            labels: its labels; without, the pairing is given the first mask. It needs neither
                where it does not look at labels.

        Returns:
            ``{"mix": Mix}``, which :meth:`transform` applies to each of them. An override may
            return that, or what torchvision's returns: ``{"lam": λ}``, or
            ``{"box": (x1, y1, x2, y2), "lam_adjusted": λ}``.

        Raises:
            InputError: there are no images, or the pairing looks at labels and has none.
        """
        batch = self._batch(flat_inputs, labels)
        partner = self.pairing(batch)
        mix = self._shape(batch, Mix(partner, self._coefficient(batch, partner)))
        return {"mix": mix}

    def _batch(self, flat_inputs: list[Any], labels: Tensor | None) -> Batch:
        labels = getattr(flat_inputs, "labels", None) if labels is None else labels
        flat_inputs = flat_inputs if isinstance(flat_inputs, (list, tuple)) else [flat_inputs]
        tensors = [leaf for leaf in flat_inputs if isinstance(leaf, Tensor)]
        images = [_plain(leaf) for leaf in tensors if not isinstance(leaf, tv_tensors.Mask)]
        masks = [_plain(leaf) for leaf in tensors if isinstance(leaf, tv_tensors.Mask)]
        if not images or images[0].ndim == 0:
            raise InputError(
                f"{type(self).__name__}.make_params needs a list with a batch of images, "
                f"got {[type(leaf).__name__ for leaf in flat_inputs]}"
            )
        if labels is not None:
            return Batch(images, _as_target(check_tensor("labels", labels)))
        if masks:
            return Batch(images, masks[0], task="segmentation")
        blind = isinstance(self.pairing, _BLIND) or getattr(self.pairing, "distance", "") == "input"
        if not blind:
            raise InputError(
                f"pairing={self.pairing!r} may look at labels, and make_params was given none: "
                "make_params(images, labels)"
            )
        return Batch(images, torch.arange(len(images[0]), device=images[0].device))

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        mix = params["mix"]
        if inpt is params["labels"]:
            return self._mix_labels(inpt, mix)
        if isinstance(inpt, tv_tensors.Mask) and mix.is_uniform and not inpt.is_floating_point():
            return self._mix_classes(_plain(inpt), mix)
        mixed = functional.mix(_plain(inpt), mix)
        return mixed if _is_plain(inpt) else tv_tensors.wrap(mixed, like=inpt)

    def _shape(self, batch: Batch, mix: Mix) -> Mix:
        return mix

    def _find_labels(self, inputs: Any, flat: list[Any], masks: list[Any]) -> Any:
        """Return the labels, checked, or None of a sample that has masks instead."""
        if not self._is_labelled and masks:
            return None
        try:
            labels = self._labels_getter(inputs) if self._is_labelled else None
        except ValueError as error:
            also = " Or pass labels_getter=None: images and masks are mixed without labels."
            raise InputError(f"{error}{also if masks else ''}") from error
        if not isinstance(labels, Tensor):
            raise InputError(
                f"labels must be a tensor of the sample, got {type(labels).__name__}; "
                "labels_getter=None is for samples with masks alone"
            )
        shape = tuple(labels.shape)
        if labels.ndim not in (1, 2):
            raise InputError(
                "labels should be index based, (B,), or soft, (B, num_classes), "
                f"but got a tensor of shape {shape}"
            )
        if labels.ndim == 2 and self.num_classes not in (None, shape[1]):
            raise InputError(
                f"labels are of shape {shape}: the number of elements in last dimension must match "
                f"num_classes={self.num_classes}, or leave that out"
            )
        if labels.ndim == 1 and self.target == "dense":
            if self.num_classes is None:
                raise InputError(
                    "num_classes must be passed if the labels are index-based (1D), "
                    "unless target='mixed'"
                )
            if labels.is_floating_point():
                raise InputError(
                    f"labels of shape {shape} must be class indices, got {labels.dtype}; "
                    "real targets mix with target='mixed'"
                )
            check_classes("labels", labels.long(), self.num_classes)
        if not any(leaf is labels for leaf in flat):
            raise InputError(
                "labels_getter must return a tensor of the sample itself, got another one of "
                f"shape {shape}, whose place in the sample is not known"
            )
        return labels

    def _find_images(self, flat: list[Any], labels: Any) -> list[Any]:
        """Return the images and videos; without any the first plain tensor but the labels."""
        others = [leaf for leaf in flat if leaf is not labels]
        images = [
            leaf
            for leaf, chosen in zip(others, self._needs_transform_list(others), strict=True)
            if chosen and (_is_plain(leaf) or isinstance(leaf, _PICTURES))
        ]
        if not images:
            raise InputError(f"{type(self).__name__}() found no batch of images in the sample")
        return images

    @staticmethod
    def _check_images(leaf: Tensor, size: int) -> None:
        check_tensor("images", leaf)
        expected = 5 if isinstance(leaf, tv_tensors.Video) else 4
        if leaf.ndim != expected:
            raise InputError(
                f"Expected a batched input with {expected} dims, got shape {tuple(leaf.shape)}"
            )
        if len(leaf) != size:
            raise InputError(
                f"the batch size of the images, {len(leaf)}, does not match the batch size of the "
                f"labels or masks, {size}"
            )

    def _mix_labels(self, labels: Tensor, mix: Mix) -> Tensor | MixedTarget:
        labels = _as_target(labels)
        # Labels may be on the CPU, and images not.
        partner, lam = mix.partner.to(labels.device), mix.lam.to(labels.device)
        target = MixedTarget(labels, labels.index_select(0, partner), lam)
        return target if self.target == "mixed" else target.dense(self.num_classes)

    def _mix_classes(self, mask: Tensor, mix: Mix) -> MixedTarget:
        if self.target == "dense":
            raise InputError(
                f"{type(self).__name__}() can't interpolate the classes of a mask of {mask.dtype}: "
                "target='mixed' gives those of both samples as a MixedTarget, with its .dense(C); "
                "CutMix pastes them; floating masks are interpolated"
            )
        mask = mask.long()
        return MixedTarget(mask, mask.index_select(0, mix.partner), mix.lam)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()}, pairing={self.pairing!r})"


class MixUp(_OfBatches, v2.MixUp):
    """``torchvision.transforms.v2.MixUp`` with a λ for each sample, any pairing, and masks.

    .. code-block:: text

        λ ~ Beta(α, α),   x̃_i = λ x_i + (1 - λ) x_σ(i),   ỹ_i = λ y_i + (1 - λ) y_σ(i)

    It takes a batch as torchvision does: images and labels, as two arguments or in a tuple, a
    list, a dict. Images are ``tv_tensors.Image`` (B, C, H, W), ``tv_tensors.Video``
    (B, T, C, H, W), or the first plain tensor (B, C, H, W) of the sample; they keep their class
    and dtype, and what was given is left as it is. Labels, class indices (B,) or soft labels
    (B, C), become (B, C) floating. Everything else passes.

    ``tv_tensors.Mask`` of the sample, (B, H, W) or (B, N, H, W), mix as the images do; those of
    classes (whole numbers) need ``target="mixed"`` here. torchvision refuses masks.

    Args:
        alpha: α > 0.
        num_classes: C, to expand class indices; not needed for soft labels or ``target="mixed"``.
        labels_getter: "default" finds the labels as torchvision does: the second item of a tuple,
            or what a dict has under a key with "label" in it. Or a function of the sample that
            returns them. None of a sample with masks and without labels.
        per: "batch" draws one λ for all samples, "sample" one for each.
        pairing: who mixes with whom, of :mod:`mixwell.pairing`; :class:`Roll` by default.
        target: "dense" or "mixed": labels as a :class:`mixwell.MixedTarget`, for mixwell's losses.

    Raises:
        InputError: a :class:`ValueError`, where torchvision raises one, and where the sample has no
            images, or labels that are not in it.

    Source: "mixup: Beyond Empirical Risk Minimization", arXiv:1710.09412.

    >>> images, labels = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])
    >>> mixed, soft = MixUp(num_classes=10)(images, labels)
    >>> soft.shape
    torch.Size([4, 10])
    """


class CutMix(_OfBatches, v2.CutMix):
    """``torchvision.transforms.v2.CutMix`` with a box for each sample, any pairing, and masks.

    The box has the area 1 - λ, λ ~ Beta(α, α), rounded down to an even number of pixels a side as
    in torchvision, and a uniform centre; it is clipped at the border, and λ becomes the share of
    the own sample that is left.

    Samples are as for :class:`MixUp`. All images and masks of one must be of one size; masks are
    pasted as the images are, whatever their dtype, and stay masks.

    Args:
        alpha: α > 0.
        num_classes: C, to expand class indices; not needed for soft labels or ``target="mixed"``.
        labels_getter: as for :class:`MixUp`.
        per: "batch" draws one box for all samples, "sample" one for each.
        pairing: who mixes with whom, of :mod:`mixwell.pairing`; :class:`Roll` by default.
        target: "dense" or "mixed": labels as a :class:`mixwell.MixedTarget`, for mixwell's losses.

    Raises:
        InputError: as of :class:`MixUp`; and images are of several sizes.

    Source: "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable
    Features", arXiv:1905.04899.

    >>> images, maps = torch.rand(4, 3, 8, 8), tv_tensors.Mask(torch.randint(21, (4, 8, 8)))
    >>> mixed, pasted = CutMix(labels_getter=None)(images, maps)
    >>> pasted.dtype
    torch.int64
    """

    def _shape(self, batch: Batch, mix: Mix) -> Mix:
        height, width = image_size("CutMix", batch)
        centre = batch.rand(1 if self.per == "batch" else len(batch), 2).expand(len(batch), 2)
        box = draw_box(mix.lam, centre, height, width)
        return Mix(mix.partner, box.share().to(mix.lam.dtype), box=box)


_BLIND = (Roll, Shuffle, Flip, PerfectMatching)
"""Pairings that look at nothing."""


def _known() -> tuple[type, ...]:
    """Return the classes whose own methods are no overrides."""
    return (_OfBatches, MixUp, CutMix, *v2.MixUp.__mro__, *v2.CutMix.__mro__)


def _is_plain(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and not isinstance(leaf, tv_tensors.TVTensor)


def _plain(leaf: Tensor) -> Tensor:
    return leaf if _is_plain(leaf) else leaf.as_subclass(Tensor)


def _as_target(labels: Tensor) -> Tensor:
    """Return class indices (B,) as int64, one-hot ones (B, C) as floating, others as they are."""
    if labels.is_floating_point():
        return labels
    return labels.long() if labels.ndim == 1 else labels.float()
