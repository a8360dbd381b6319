"""The two values that travel between the parts of a method: how a batch mixes, and its targets."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from mixwell.errors import InputError
from mixwell.values import (
    alike,
    check_kind,
    check_place,
    check_tensors,
    check_vector,
    register,
    tensors,
)

__all__ = [
    "Box",
    "Mix",
    "MixedTarget",
    "MultiMix",
    "MultiTarget",
    "Warp",
    "positions_of",
    "tensors",
]


def positions_of(mask: Tensor) -> tuple[int, ...]:
    """Return the dimensions that a mask (B, 1, *positions) is for, the last of what it mixes.

    Of more than two the first are left out where they are 1: (B, 1, 1, H, W) is for images, in
    whatever number a sample has them.
    """
    positions = tuple(mask.shape[2:])
    while len(positions) > 2 and positions[0] == 1:
        positions = positions[1:]
    return positions


@register
@dataclass(frozen=True, eq=False)
class Box:
    """Where the partner is, as a rectangle for each sample: a mask in short (CutMix).

    Args:
        edges: (B, 4) int64 pixels: top, bottom, left, right, half open; an empty one is
            ``top = bottom``.
        height: H of the images that it is for.
        width: W.
        source: optional (B, 4), in the order of ``edges``: the rectangle of the partner that is
            resized into the box (ResizeMix, SnapMix). Without it the same pixels are taken.
    """

    edges: Tensor
    height: int
    width: int
    source: Tensor | None = None

    def __post_init__(self) -> None:
        check_kind("Box", "whole", edges=self.edges)
        for name, edges in (("edges", self.edges), ("source", self.source)):
            if edges is None:
                continue
            check_tensors("Box", **{name: edges})
            if edges.ndim != 2 or edges.shape[1] != 4:
                raise InputError(
                    f"Box: {name} must have shape (B, 4): top, bottom, left and right of each "
                    f"sample's; got shape {tuple(edges.shape)}"
                )

    def mask(self) -> Tensor:
        """Return the same as a mask: (B, 1, H, W) bool, True where the own sample is."""
        top, bottom, left, right = self.edges[:, :, None].unbind(1)
        row = torch.arange(self.height, device=self.edges.device)
        column = torch.arange(self.width, device=self.edges.device)
        row, column = alike(self.edges, row, column)
        rows, columns = (row >= top) & (row < bottom), (column >= left) & (column < right)
        return ~(rows[:, :, None] & columns[:, None, :])[:, None]

    def share(self) -> Tensor:
        """Return the share of the image that is the own sample's: (B,)."""
        inside = (self.edges[:, 1::2] - self.edges[:, ::2]).clamp_min(0).prod(1)
        whole = self.height * self.width
        return (whole - inside).float() / whole

    def grid(self) -> Tensor | None:
        """Return where the partner is read to fill the box, as ``F.grid_sample`` takes it.

        (B, H, W, 2), of use inside the box alone; None where the same pixels are taken.
        """
        if self.source is None:
            return None
        down, across = (
            _stretch(self.edges[:, side], self.source[:, side], size)
            for side, size in ((slice(0, 2), self.height), (slice(2, 4), self.width))
        )
        height, width = self.height, self.width
        return torch.stack(
            [across[:, None, :].expand(-1, height, -1), down[:, :, None].expand(-1, -1, width)], 3
        )


def _stretch(to: Tensor, source: Tensor, size: int) -> Tensor:
    """Return where each pixel of an axis reads, in [-1, 1]: ``source`` (B, 2) resized into ``to``.

    (B, size). As in ``F.interpolate``, nothing outside of the source is read at its border.
    """
    (start, stop), (first, last) = to.float().unbind(1), source.float().unbind(1)
    pixel = torch.arange(size, dtype=torch.float32, device=to.device) + 0.5
    scale = (last - first) / (stop - start).clamp_min(1)
    place = first[:, None] + (pixel - start[:, None]) * scale[:, None]
    inside = torch.maximum(torch.minimum(place, last[:, None] - 0.5), first[:, None] + 0.5)
    return inside * (2 / size) - 1


@register
@dataclass(frozen=True, eq=False)
class Warp:
    """Where the two samples of each pair are read before they are mixed (PuzzleMix).

    Args:
        own: optional (B, H, W, 2) floating, places as ``F.grid_sample`` takes them (across and
            down, -1 to 1 from edge to edge) of the own sample; None leaves it where it is.
        partner: likewise of the partner.
    """

    own: Tensor | None = None
    partner: Tensor | None = None

    def __post_init__(self) -> None:
        for name, places in (("own", self.own), ("partner", self.partner)):
            if places is not None:
                check_kind("Warp", "floating", **{name: places})


@register
@dataclass(frozen=True, eq=False)
class Mix:
    """Who mixes with whom, and how much of each: ``x̃_i = λ_i x_i + (1 - λ_i) x_σ(i)``.

    It is drawn once and can be applied to anything batch-first with :func:`functional.mix
    <mixwell.functional.mix>`: an image, a segmentation mask, a dict of modalities, a feature.

    Args:
        partner: (B,) int64, the index σ(i) of each sample's partner in the batch.
        lam: (B,) floating, the weight λ_i in [0, 1] of the *own* sample.
        mask: optional (B, 1, *positions), bool or floating in [0, 1]: the own sample's weight at
            each position, where mixing is not the same everywhere; (1, 1, *positions) for all
            samples alike. ``lam`` is its mean. (B, 1, L) is for signals, (B, 1, H, W) for
            images, (B, 1, D, H, W) for volumes: for whatever ends in these dimensions.
        box: optional, instead of a mask, where that is a rectangle (CutMix): for images.
        warp: optional: content of the two samples moves before they are mixed (PuzzleMix).
    """

    partner: Tensor
    lam: Tensor
    mask: Tensor | None = None
    box: Box | None = None
    warp: Warp | None = None

    def __post_init__(self) -> None:
        check_tensors("Mix", partner=self.partner, lam=self.lam)
        if self.partner.ndim != 1 or self.partner.dtype not in (torch.int64, torch.int32):
            raise InputError(
                "Mix: partner must be a (B,) tensor of int64 indices, "
                f"got {self.partner.dtype} of shape {tuple(self.partner.shape)}"
            )
        check_kind("Mix", "whole", partner=self.partner)
        check_kind("Mix", "floating", lam=self.lam)
        check_vector("Mix", "lam", self.lam, self.partner.shape[0])
        check_place("Mix", partner=self.partner, lam=self.lam)
        if self.mask is not None:
            self._check_mask(self.mask)
        for name, value, kind in (("box", self.box, Box), ("warp", self.warp, Warp)):
            if value is not None and not isinstance(value, kind):
                raise InputError(
                    f"Mix: {name} must be a mixwell.mix.{kind.__name__}, got {type(value).__name__}"
                )
        if self.box is not None and self.box.edges.shape[0] != len(self):
            raise InputError(
                f"Mix: the box's edges must have shape ({len(self)}, 4) as there are {len(self)} "
                f"partners, got shape {tuple(self.box.edges.shape)}"
            )

    def _check_mask(self, mask: Tensor) -> None:
        if self.box is not None:
            raise InputError("Mix: give a mask or a box, not both")
        check_tensors("Mix", mask=mask)
        if not (mask.is_floating_point() or mask.dtype == torch.bool):
            raise InputError(f"Mix: mask must be bool or floating, got {mask.dtype}")
        check_kind("Mix", "comparable", mask=mask)
        if mask.ndim < 3 or mask.shape[1] != 1 or mask.shape[0] not in (1, len(self)):
            raise InputError(
                f"Mix: mask must have shape ({len(self)} or 1, 1, *positions), as (B, 1, L) for "
                f"signals or (B, 1, H, W) for images, got shape {tuple(mask.shape)}"
            )
        check_place("Mix", partner=self.partner, mask=mask)

    @property
    def is_uniform(self) -> bool:
        """Whether a sample is mixed with the same weight everywhere."""
        return self.mask is None and self.box is None

    @property
    def positions(self) -> tuple[int, ...] | None:
        """The last dimensions of what it mixes; None where the weight is λ everywhere."""
        if self.box is not None:
            return self.box.height, self.box.width
        return None if self.mask is None else positions_of(self.mask)

    def dense_mask(self) -> Tensor | None:
        """Return the own sample's weight at each position, (B, 1, *positions), from mask or box.

        None where the weight is λ everywhere.
        """
        return self.mask if self.box is None else self.box.mask()

    def warped(self) -> Warp | None:
        """Return where both samples are read, of the warp or of a box that resizes; else None."""
        if self.box is None or self.box.source is None:
            return self.warp
        return Warp(partner=self.box.grid())

    def __len__(self) -> int:
        return self.partner.shape[0]

    @classmethod
    def identity(cls, size: int, device: torch.device | str | None = None) -> Mix:
        """Return the mix that leaves ``size`` samples as they are (λ = 1, each its own partner)."""
        one = torch.ones(size, dtype=torch.float32, device=device)
        return cls(torch.arange(size, device=device), one)


@register
@dataclass(frozen=True, eq=False)
class MixedTarget:
    """The target of mixed samples: λ_i of ``a_i`` and 1 - λ_i of ``b_i``.

    Two class indices and a weight say all that a mixed label holds; the dense (B, C) matrix is
    built on request only.

    Args:
        a: own targets. Class indices (B,) int64, or (B, H, W), one for each position
            (segmentation); or floating: soft labels (B, C), or real targets (B,) or (B, K), or by
            position, (B, K, H, W).
        b: the partners' targets, like ``a``.
        lam: (B,) floating, the weight of ``a`` in [0, 1]. It may differ from the inputs' λ (Remix).
            Of classes by position it may have their shape, one weight for each position; of real
            targets by position one that broadcasts to theirs, (B, 1, H, W).
        weight: optional (B,) floating, the weight of each sample in the loss; 0 leaves it out.
    """

    a: Tensor
    b: Tensor
    lam: Tensor
    weight: Tensor | None = None

    def __post_init__(self) -> None:
        check_tensors("MixedTarget", a=self.a, b=self.b)
        check_kind("MixedTarget", "floating", lam=self.lam)
        if self.a.ndim == 0 or self.a.shape != self.b.shape:
            raise InputError(
                "MixedTarget: a and b must have the same batch-first shape, "
                f"got {tuple(self.a.shape)} and {tuple(self.b.shape)}"
            )
        kind = "floating" if self.a.is_floating_point() else "whole"
        check_kind("MixedTarget", kind, a=self.a)
        alike = self.b.is_floating_point() == (kind == "floating")
        if not alike or (kind == "floating" and self.a.dtype != self.b.dtype):
            raise InputError(
                f"MixedTarget: a and b must be of one kind, got {self.a.dtype} and {self.b.dtype}"
            )
        check_kind("MixedTarget", kind, b=self.b)
        if not self.a.is_floating_point() and self.a.ndim == 2:
            raise InputError(
                "MixedTarget: class indices must have shape (B,), or (B, H, W) by position, got "
                f"shape {tuple(self.a.shape)}; give soft labels as a floating (B, C) tensor"
            )
        if not self._weighs_positions():
            check_vector("MixedTarget", "lam", self.lam, self.a.shape[0])
        if self.weight is not None:
            check_kind("MixedTarget", "floating", weight=self.weight)
            check_vector("MixedTarget", "weight", self.weight, self.a.shape[0])
        check_place("MixedTarget", a=self.a, b=self.b, lam=self.lam, weight=self.weight)

    def _weighs_positions(self) -> bool:
        """Whether λ is one for each position of targets that have positions."""
        if self.is_index or self.lam.shape == self.a.shape:
            return self.a.ndim > 1 and self.lam.shape == self.a.shape
        fits = zip(self.lam.shape, self.a.shape, strict=False)
        return self.a.ndim > 2 and self.lam.ndim == self.a.ndim and (
            len(self.lam) == len(self.a) and all(size in (1, whole) for size, whole in fits)
        )  # fmt: skip

    def __len__(self) -> int:
        return self.a.shape[0]

    @property
    def is_index(self) -> bool:
        """Whether ``a`` and ``b`` are class indices, rather than soft labels or real targets."""
        return not self.a.is_floating_point()

    @property
    def by_position(self) -> bool:
        """Whether there is a class for each position of a sample (segmentation)."""
        return self.is_index and self.a.ndim > 1

    @classmethod
    def clean(cls, y: Tensor) -> MixedTarget:
        """Return the target of unmixed samples with targets ``y``: λ = 1."""
        return cls(y, y, torch.ones(len(y), dtype=torch.float32, device=y.device))

    def to(self, device: torch.device | str, non_blocking: bool = False) -> MixedTarget:
        """Return the same on another device, for loaders that move what they load."""
        return pytree.tree_map(lambda part: part.to(device, non_blocking=non_blocking), self)

    def pin_memory(self) -> MixedTarget:
        """Return the same in pinned memory, for a DataLoader with ``pin_memory=True``."""
        return pytree.tree_map(lambda part: part.pin_memory(), self)

    def dense(self, num_classes: int | None = None) -> Tensor:
        """Return the mixed targets as one tensor, for losses from outside mixwell.

        Args:
            num_classes: C; needed for class indices, ignored otherwise.

        Returns:
            (B, C) probabilities, each row summing to 1; (B, C, H, W) of classes by position; or
            λ a + (1 - λ) b of real targets.
        """
        if self.is_index:
            if num_classes is None:
                raise InputError("dense: num_classes is needed to expand class indices")
            a, b = (
                F.one_hot(y, num_classes).to(self.lam.dtype).movedim(-1, 1)
                for y in (self.a, self.b)
            )
        else:
            a, b = self.a, self.b
        lam = self.lam.to(a.dtype)
        if lam.ndim == 1:
            lam = lam.view(-1, *[1] * (a.ndim - 1))
        elif self.is_index:
            lam = lam[:, None]
        return torch.lerp(b, a, lam)


@register
@dataclass(frozen=True, eq=False)
class MultiMix:
    """A mix of k samples each: ``x̃_i = Σ_j w_ij x_{p_ij}``; of two it is a :class:`Mix`.

    Args:
        partners: (B, k) int64, k ≥ 2: the indices of the samples that are mixed, the own first.
        weights: (B, k) floating, ≥ 0, each row summing to 1.
    """

    partners: Tensor
    weights: Tensor

    is_uniform = True

    def __post_init__(self) -> None:
        check_tensors("MultiMix", partners=self.partners, weights=self.weights)
        check_place("MultiMix", partners=self.partners, weights=self.weights)
        if self.partners.ndim != 2 or self.partners.dtype not in (torch.int64, torch.int32):
            raise InputError(
                "MultiMix: partners must be a (B, k) tensor of int64 indices, "
                f"got {self.partners.dtype} of shape {tuple(self.partners.shape)}"
            )
        if not self.weights.is_floating_point() or self.weights.shape != self.partners.shape:
            raise InputError(
                f"MultiMix: weights must be floating of shape {tuple(self.partners.shape)}, "
                f"got {self.weights.dtype} of shape {tuple(self.weights.shape)}"
            )

    @property
    def lam(self) -> Tensor:
        """(B,), the own sample's weight."""
        return self.weights[:, 0]

    def __len__(self) -> int:
        return self.partners.shape[0]


@register
@dataclass(frozen=True, eq=False)
class MultiTarget:
    """The target of samples mixed of k: ``weights`` w_ij of the classes ``classes`` c_ij.

    Args:
        classes: (B, k) int64 class indices, the own first; a class may come more than once.
        weights: (B, k) floating, ≥ 0, each row summing to 1.
        weight: optional (B,) floating, the weight of each sample in the loss; 0 leaves it out.
    """

    classes: Tensor
    weights: Tensor
    weight: Tensor | None = None

    is_index = True
    by_position = False

    def __post_init__(self) -> None:
        check_kind("MultiTarget", "whole", classes=self.classes)
        check_kind("MultiTarget", "floating", weights=self.weights)
        if self.classes.ndim != 2:
            raise InputError(
                "MultiTarget: classes must be a (B, k) tensor of int64 class indices, "
                f"got {self.classes.dtype} of shape {tuple(self.classes.shape)}"
            )
        if self.weights.shape != self.classes.shape:
            raise InputError(
                f"MultiTarget: weights must be floating of shape {tuple(self.classes.shape)}, "
                f"got {self.weights.dtype} of shape {tuple(self.weights.shape)}"
            )
        if self.weight is not None:
            check_kind("MultiTarget", "floating", weight=self.weight)
            check_vector("MultiTarget", "weight", self.weight, self.classes.shape[0])
        check_place("MultiTarget", classes=self.classes, weights=self.weights, weight=self.weight)

    def __len__(self) -> int:
        return self.classes.shape[0]

    def dense(self, num_classes: int) -> Tensor:
        """Return the mixed labels as (B, C) probabilities, each row summing to 1."""
        zeros = self.weights.new_zeros(len(self), num_classes)
        return zeros.scatter_add(1, self.classes, self.weights)
