"""The two values that travel between the parts of a method: how a batch mixes, and its targets."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from mixwell.errors import InputError

__all__ = ["Box", "Mix", "MixedTarget"]


def _register(cls: type) -> type:
    """Register a dataclass of tensors as a pytree, so that it maps, compiles and exports."""
    names = [field.name for field in fields(cls)]

    def flatten(value: object) -> tuple[list[object], list[tuple[str, int | None]]]:
        # What is None stays out: to torch it would be a leaf. Numbers are part of the structure.
        present = {name: getattr(value, name) for name in names}
        present = {name: part for name, part in present.items() if part is not None}
        plain = [(name, part if isinstance(part, int) else None) for name, part in present.items()]
        return [part for part in present.values() if not isinstance(part, int)], plain

    def unflatten(children: Iterable[object], plain: list[tuple[str, int | None]]) -> object:
        # Not through __init__: while a tree is mapped its leaves need not be tensors.
        value: object = object.__new__(cls)
        parts = iter(children)
        given = {name: next(parts) if part is None else part for name, part in plain}
        for name in names:
            object.__setattr__(value, name, given.get(name))
        return value

    pytree.register_pytree_node(
        cls, flatten, unflatten, serialized_type_name=f"mixwell.{cls.__name__}"
    )
    return cls


def _check_vector(owner: str, name: str, value: Tensor, size: int) -> None:
    if value.shape != (size,):
        raise InputError(
            f"{owner}: {name} must have one entry per sample, shape ({size},), "
            f"got shape {tuple(value.shape)}"
        )


@_register
@dataclass(frozen=True, eq=False)
class Box:
    """Where the partner is, as a rectangle for each sample: a mask in short (CutMix).

    Args:
        edges: (B, 4) int64 pixels: top, bottom, left, right, half open; an empty one is
            ``top = bottom``.
        height: H of the images that it is for.
        width: W.
    """

    edges: Tensor
    height: int
    width: int

    def mask(self) -> Tensor:
        """Return the same as a mask: (B, 1, H, W) bool, True where the own sample is."""
        top, bottom, left, right = self.edges[:, :, None].unbind(1)
        row = torch.arange(self.height, device=self.edges.device)
        column = torch.arange(self.width, device=self.edges.device)
        rows, columns = (row >= top) & (row < bottom), (column >= left) & (column < right)
        return ~(rows[:, :, None] & columns[:, None, :])[:, None]

    def share(self) -> Tensor:
        """Return the share of the image that is the own sample's: (B,)."""
        inside = (self.edges[:, 1::2] - self.edges[:, ::2]).clamp_min(0).prod(1)
        whole = self.height * self.width
        return (whole - inside) / whole


@_register
@dataclass(frozen=True, eq=False)
class Mix:
    """Who mixes with whom, and how much of each: ``x̃_i = λ_i x_i + (1 - λ_i) x_σ(i)``.

    It is drawn once and can be applied to anything batch-first with :func:`functional.mix
    <mixwell.functional.mix>`: an image, a segmentation mask, a dict of modalities, a feature.

    Args:
        partner: (B,) int64, the index σ(i) of each sample's partner in the batch.
        lam: (B,) floating, the weight λ_i in [0, 1] of the *own* sample.
        mask: optional (B, 1, ..., H, W), bool or floating in [0, 1]: the own sample's weight at
            each position, where mixing is not the same everywhere. ``lam`` is its mean.
        box: optional, instead of a mask, where that is a rectangle (CutMix).
    """

    partner: Tensor
    lam: Tensor
    mask: Tensor | None = None
    box: Box | None = None

    def __post_init__(self) -> None:
        if self.partner.ndim != 1 or self.partner.dtype not in (torch.int64, torch.int32):
            raise InputError(
                "Mix: partner must be a (B,) tensor of int64 indices, "
                f"got {self.partner.dtype} of shape {tuple(self.partner.shape)}"
            )
        if not self.lam.is_floating_point():
            raise InputError(f"Mix: lam must be floating, got {self.lam.dtype}")
        _check_vector("Mix", "lam", self.lam, self.partner.shape[0])
        if self.mask is not None and self.box is not None:
            raise InputError("Mix: give a mask or a box, not both")

    @property
    def is_uniform(self) -> bool:
        """Whether a sample is mixed with the same weight everywhere."""
        return self.mask is None and self.box is None

    def dense_mask(self) -> Tensor | None:
        """Return the own sample's weight at each position, (B, 1, ..., H, W), from mask or box.

        None where the weight is λ everywhere.
        """
        return self.mask if self.box is None else self.box.mask()

    def __len__(self) -> int:
        return self.partner.shape[0]

    @classmethod
    def identity(cls, size: int, device: torch.device | str | None = None) -> Mix:
        """Return the mix that leaves ``size`` samples as they are (λ = 1, each its own partner)."""
        return cls(torch.arange(size, device=device), torch.ones(size, device=device))


@_register
@dataclass(frozen=True, eq=False)
class MixedTarget:
    """The target of mixed samples: λ_i of ``a_i`` and 1 - λ_i of ``b_i``.

    Two class indices and a weight say all that a mixed label holds; the dense (B, C) matrix is
    built on request only.

    Args:
        a: own targets. Class indices (B,) int64; or floating: soft labels (B, C), or real targets
            (B,) or (B, K) in regression.
        b: the partners' targets, like ``a``.
        lam: (B,) floating, the weight of ``a`` in [0, 1]. It may differ from the inputs' λ (Remix).
        weight: optional (B,) floating, the weight of each sample in the loss; 0 leaves it out.
    """

    a: Tensor
    b: Tensor
    lam: Tensor
    weight: Tensor | None = None

    def __post_init__(self) -> None:
        if self.a.ndim == 0 or self.a.shape != self.b.shape:
            raise InputError(
                "MixedTarget: a and b must have the same batch-first shape, "
                f"got {tuple(self.a.shape)} and {tuple(self.b.shape)}"
            )
        if self.a.is_floating_point() != self.b.is_floating_point():
            raise InputError(
                f"MixedTarget: a and b must be of one kind, got {self.a.dtype} and {self.b.dtype}"
            )
        if not self.a.is_floating_point() and self.a.ndim != 1:
            raise InputError(
                "MixedTarget: class indices must have shape (B,), got shape "
                f"{tuple(self.a.shape)}; give soft labels as a floating (B, C) tensor"
            )
        _check_vector("MixedTarget", "lam", self.lam, self.a.shape[0])
        if self.weight is not None:
            _check_vector("MixedTarget", "weight", self.weight, self.a.shape[0])

    def __len__(self) -> int:
        return self.a.shape[0]

    @property
    def is_index(self) -> bool:
        """Whether ``a`` and ``b`` are class indices, rather than soft labels or real targets."""
        return not self.a.is_floating_point()

    @classmethod
    def clean(cls, y: Tensor) -> MixedTarget:
        """Return the target of unmixed samples with targets ``y``: λ = 1."""
        return cls(y, y, torch.ones(len(y), device=y.device))

    def dense(self, num_classes: int | None = None) -> Tensor:
        """Return the mixed targets as one tensor, for losses from outside mixwell.

        Args:
            num_classes: C; needed for class indices, ignored otherwise.

        Returns:
            (B, C) probabilities, each row summing to 1; or λ a + (1 - λ) b of real targets.
        """
        if self.is_index:
            if num_classes is None:
                raise InputError("dense: num_classes is needed to expand class indices")
            a, b = (F.one_hot(y, num_classes).to(self.lam.dtype) for y in (self.a, self.b))
        else:
            a, b = self.a, self.b
        lam = self.lam.to(a.dtype).view(-1, *[1] * (a.ndim - 1))
        return torch.lerp(b, a, lam)
