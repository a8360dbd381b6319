"""What all losses share: input checks, precision, class weights and the reduction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mixwell.checks import as_numbers, check_choice, shown
from mixwell.errors import InputError
from mixwell.kernels import native
from mixwell.kernels.two_class import wide
from mixwell.losses.needs import Need, Outcome
from mixwell.mix import MixedTarget, MultiTarget
from mixwell.parts import Part
from mixwell.values import check_kind, check_place

__all__ = [
    "Loss",
    "by_position",
    "check_beside",
    "check_classes",
    "check_features",
    "check_logits",
    "check_target",
    "class_weight_buffer",
    "fits",
    "share",
    "wide",
]


def share(lam: Tensor, value: Tensor) -> Tensor:
    """Return ``lam * value``, 0 where ``lam`` is 0 even if ``value`` is infinite there."""
    return torch.where(lam > 0, lam * value, 0.0)


def check_classes(argument: str, classes: Tensor, num_classes: int) -> None:
    """Raise an InputError for a class index outside [0, num_classes).

    On an accelerator the check would wait for the device; there, the lookup itself fails.
    """
    if classes.is_complex() or classes.is_floating_point():
        raise InputError(f"{argument} must hold class indices, int64, got {classes.dtype}")
    if classes.device.type != "cpu" or torch.compiler.is_compiling() or classes.numel() == 0:
        return
    if classes.dtype != torch.int64:
        classes = classes.long()  # not all whole numbers can be compared
    if not native.all_within(classes, num_classes - 1):
        low, high = (int(end) for end in torch.aminmax(classes))
        raise InputError(
            f"{argument} must hold class indices in [0, {num_classes - 1}] "
            f"({num_classes} classes), got values from {low} to {high}"
        )


def check_target(owner: str, logits: Any, target: Any, called: str = "target") -> None:
    """Raise an InputError unless ``logits`` is a floating tensor, and ``target`` one beside it."""
    check_kind(owner, "floating", logits=logits)
    if not isinstance(target, (MixedTarget, MultiTarget)):
        raise InputError(f"{owner}: {called} must be a mixwell.MixedTarget, got {shown(target)}")
    check_place(owner, logits=logits, **{called: _classes(target)})


def _classes(target: MixedTarget | MultiTarget) -> Tensor:
    return target.classes if isinstance(target, MultiTarget) else target.a


def check_logits(owner: str, logits: Tensor, target: MixedTarget | MultiTarget) -> None:
    """Raise an InputError unless ``logits`` is (B, C) and ``target`` holds B indices below C.

    Args:
        owner: the loss, for the message.
        logits: what should be (B, C).
        target: what should hold class indices.
    """
    check_target(owner, logits, target)
    if logits.ndim != 2:
        raise InputError(
            f"{owner}: logits must be (B, C), floating, got {logits.dtype} of shape "
            f"{tuple(logits.shape)}"
        )
    if logits.shape[0] != len(target):
        raise InputError(
            f"{owner}: logits are for {logits.shape[0]} samples, the target for {len(target)}"
        )
    if isinstance(target, MultiTarget):
        check_classes(f"{owner}: target.classes", target.classes.flatten(), logits.shape[1])
        return
    if target.by_position:
        raise InputError(
            f"{owner} is not defined for a class at each position, got classes of shape "
            f"{tuple(target.a.shape)}; MixedCrossEntropy and DecoupledCrossEntropy are"
        )
    if not target.is_index:
        raise InputError(
            f"{owner} is defined for two classes a sample: the target must hold class indices "
            f"(B,) int64, got soft labels or real targets of {target.a.dtype}, shape "
            f"{tuple(target.a.shape)}; MixedCrossEntropy takes soft labels"
        )
    check_classes(f"{owner}: target.a", target.a, logits.shape[1])
    check_classes(f"{owner}: target.b", target.b, logits.shape[1])


def check_beside(
    owner: str, logits: Tensor, target: MixedTarget | MultiTarget, **others: Tensor
) -> None:
    """Raise an InputError unless ``logits`` and ``target`` fit, and the others are like logits.

    Args:
        owner: the loss, for the message.
        logits: (B, C).
        target: class indices, or soft labels, of B samples.
        others: more logits, by name; their shapes are the loss's own matter.
    """
    check_target(owner, logits, target)
    if isinstance(target, MultiTarget) or target.is_index:
        check_logits(owner, logits, target)
    check_kind(owner, "floating", **others)
    check_place(owner, logits=logits, **others)


def fits(logits: Tensor, target: MixedTarget | MultiTarget) -> bool:
    """Whether :func:`check_logits` would find nothing, but for classes that do not exist.

    Those are found on the way through the loss: to look for them first takes as long as a small
    loss itself.
    """
    given: tuple[object, object] = (logits, target)  # whatever a caller has
    if not isinstance(given[0], Tensor) or not isinstance(given[1], (MixedTarget, MultiTarget)):
        return False
    if logits.ndim != 2 or logits.shape[0] != len(target) or not logits.is_floating_point():
        return False
    if logits.layout is not torch.strided or logits.device != _classes(target).device:
        return False
    return isinstance(target, MultiTarget) or (target.is_index and target.a.ndim == 1)


def by_position(
    logits: Tensor, target: MixedTarget, ignore_index: int
) -> tuple[Tensor, MixedTarget]:
    """Return logits and target of a segmentation as those of so many single samples.

    Args:
        logits: (B, C, H, W).
        target: with classes (B, H, W).
        ignore_index: the class of positions that are left out: a position is weighted by the
            share of its samples that have a class there.

    Returns:
        (B H W, C) logits and their target.
    """
    shape = (*logits.shape[:1], *logits.shape[2:])
    if logits.ndim < 3 or target.a.shape != shape:
        raise InputError(
            "logits must be (B, C, H, W) for classes (B, H, W): got shapes "
            f"{tuple(logits.shape)} and {tuple(target.a.shape)}"
        )

    def flat(value: Tensor) -> Tensor:
        if value.ndim == 1:
            value = value.view(-1, *[1] * (target.a.ndim - 1)).expand(shape)
        return value.reshape(-1)

    a, b, lam = flat(target.a), flat(target.b), flat(target.lam)
    no_a, no_b = a == ignore_index, b == ignore_index
    own = torch.where(no_a, 0.0, lam)
    partner = torch.where(no_b, 0.0, 1 - lam)
    known = own + partner
    # One class is left of a pair with one: another in its place would be decoupled from it.
    a, b = torch.where(no_a, b, a), torch.where(no_b, a, b)
    weight = known if target.weight is None else known * flat(target.weight)
    return logits.movedim(1, -1).reshape(-1, logits.shape[1]), MixedTarget(
        torch.where(no_a & no_b, 0, a),
        torch.where(no_a & no_b, 0, b),
        torch.where(known > 0, own / known.clamp_min(torch.finfo(lam.dtype).tiny), 1.0),
        weight,
    )


def check_features(
    owner: str,
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: MixedTarget | MultiTarget,
) -> None:
    """Raise an InputError unless features, the last layer and the target fit each other."""
    layer = f"{owner}.from_features"
    check_kind(layer, "floating", features=features, weight=weight)
    if bias is not None:
        check_kind(layer, "floating", bias=bias)
    check_place(layer, features=features, weight=weight, bias=bias)
    if features.ndim != 2 or weight.ndim != 2 or features.shape[1] != weight.shape[1]:
        raise InputError(
            f"{owner}.from_features: features must be (B, d) and weight (C, d), got shapes "
            f"{tuple(features.shape)} and {tuple(weight.shape)}"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise InputError(
            f"{owner}.from_features: bias must be ({len(weight)},), one for each row of weight, "
            f"got shape {tuple(bias.shape)}"
        )
    # A stand-in of the logits' shape without their memory, for the checks that they share.
    check_logits(owner, features[:, :1].expand(-1, len(weight)), target)


def class_weight_buffer(
    weight: Tensor | Sequence[float] | None, argument: str = "class_weight"
) -> Tensor | None:
    """Return class weights as a float32 tensor (C,), checked."""
    if weight is None:
        return None
    wanted = "hold one finite, non-negative weight for each class, shape (C,)"
    tensor = as_numbers(argument, weight, wanted)
    if tensor.ndim != 1 or tensor.numel() == 0 or not bool((tensor >= 0).all()):
        raise InputError(f"{argument} must {wanted}, got {shown(tensor.tolist())}")
    return tensor


class Loss(Part):
    """Base class of the losses.

    Args:
        reduction: "mean" over the samples (weighted, where the target or the classes have
            weights), "sum", or "none" for one value a sample.
    """

    tasks: tuple[str, ...] = ("classification",)
    """The tasks whose targets this loss takes."""

    needs: Sequence[Need] = ()
    """What it reads beside the rows of its own term: see :mod:`mixwell.losses.needs`."""

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        self.reduction = check_choice("reduction", reduction, ("mean", "sum", "none"))

    def of_step(self, outcome: Outcome) -> Tensor:
        """Return the loss of a step: that of its own rows, ``self(logits, target)``, by default.

        A loss that needs more than these overrides it; its ``forward`` then takes what it likes.

        Args:
            outcome: the term's rows, and those that ``needs`` declares.

        Returns:
            A scalar, or (B,) with ``reduction="none"``; in float32 at least.
        """
        value: Tensor = self(outcome.mixed.logits, outcome.mixed.target)
        return value

    @property
    def meets(self) -> bool:
        """Whether it waits for the other processes of a distributed training to come to it."""
        return False

    def unmixed(self) -> Loss | None:
        """Return the loss that stands for this one where samples are not mixed: in evaluation.

        None for the task's usual one. One that weighs classes or leaves some out keeps that.
        """
        return None

    def _reduce(
        self,
        value: Tensor,
        target: MixedTarget | MultiTarget | None,
        class_share: Tensor | None = None,
    ) -> Tensor:
        """Reduce (B, ...) values; ``class_share`` (B,) is each sample's mean class weight."""
        sample = None if target is None else target.weight
        if sample is not None:
            sample = sample.to(value.dtype).view(-1, *[1] * (value.ndim - 1))
            value = torch.where(sample > 0, value * sample, 0.0)
        if self.reduction == "none":
            return value
        if self.reduction == "sum":
            return value.sum()
        if sample is None and class_share is None:
            return value.mean()
        total = torch.ones_like(value) if sample is None else sample.expand_as(value)
        if class_share is not None:
            total = total * class_share
        # Where every sample is left out the loss is 0, not 0 / 0.
        return value.sum() / total.sum().clamp_min(torch.finfo(value.dtype).tiny)
