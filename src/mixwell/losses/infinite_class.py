"""Infinite Class Mixup: mix the classifiers, and contrast them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from mixwell import processes
from mixwell.checks import check_choice
from mixwell.errors import InputError, say
from mixwell.kernels import contrast
from mixwell.losses.base import Loss, check_features, check_logits, check_target, fits, wide
from mixwell.losses.cross_entropy import MixedCrossEntropy
from mixwell.losses.many import merged, repeated
from mixwell.mix import MixedTarget, MultiTarget

__all__ = ["InfiniteClassLoss"]


_Target = MixedTarget | MultiTarget


@dataclass(frozen=True)
class _Everyone:
    """The targets of all processes' samples, by rank; where this process's own begin."""

    target: _Target
    first: int = 0


class InfiniteClassLoss(Loss):
    """ICM: each mixed sample has a classifier of its own (BMVC 2023, arXiv:2305.10293).

    .. code-block:: text

        w̃_j  = λ_j w_{a_j} + (1 - λ_j) w_{b_j}                          (the bias likewise)
        S_ij = f_i · w̃_j + b̃_j  =  λ_j z_i[a_j] + (1 - λ_j) z_i[b_j]     (B, B)
        ICM  = CE(S, diagonal)  +  CE(Sᵀ, diagonal)      class axis + pair axis

    Testing uses the ordinary classifier. Of soft labels the classifiers are mixed alike, and of
    samples mixed of more than two: S_ij = Σ_m w_jm z_i[c_jm].

    Args:
        axis: "both", or "class" (each sample against all classifiers) or "pair" (each
            classifier against all samples) alone.
        mask_duplicates: leave out, as negatives, other samples whose mixed classifier is the
            same: the same classes and the same λ.
        gather: under ``torch.distributed``, contrast against the samples of all processes, with
            gradient. They may hold batches of different sizes: the mean is then over all
            processes' samples, so that gradients that are averaged over processes, as
            DistributedDataParallel does, are those of one process with all samples. A process's
            own value is its share of that, times the number of processes.
        reduction: "mean", "sum" or "none", (B,), of the sum of the axes.

    One sample alone, such as an epoch's last batch of one, has no other classifier to contrast
    with, and its loss would be 0 whatever the logits. Its loss is then the mixed cross-entropy
    instead: its mixed label against the C ordinary classifiers. The first time, a warning says so
    (not within ``torch.compile``, which can't).

    Raises:
        InputError: another process's logits or target can't be, with ``gather``: all raise.
    """

    _warned = False

    def __init__(
        self,
        axis: str = "both",
        mask_duplicates: bool = False,
        gather: bool = True,
        reduction: str = "mean",
    ) -> None:
        super().__init__(reduction)
        self.axis = check_choice("axis", axis, ("both", "class", "pair"))
        self.mask_duplicates = mask_duplicates
        self.gather = gather

    @property
    def meets(self) -> bool:
        return self._parallel()

    def forward(self, logits: Tensor, target: _Target) -> Tensor:
        """Return the loss; see :meth:`Loss.forward`."""
        if self._parallel():
            everyone = self._gathered(target, lambda: self._check(logits, target))
            return self._contrast(_similarity(wide(logits), everyone.target), target, everyone)
        if not _by_index(target) or not fits(logits, target):
            self._check(logits, target)
        try:
            return self._of_logits(logits, target)
        except (IndexError, RuntimeError):
            self._check(logits, target)  # which index is wrong, if one is
            raise

    def _check(self, logits: Tensor, target: _Target) -> None:
        if not isinstance(target, MixedTarget) or target.is_index:
            check_logits("InfiniteClassLoss", logits, target)
            return
        check_target("InfiniteClassLoss", logits, target)
        if logits.shape != target.a.shape:
            raise InputError(
                f"InfiniteClassLoss: logits have shape {tuple(logits.shape)}, the soft labels "
                f"{tuple(target.a.shape)}"
            )

    def _of_logits(self, logits: Tensor, target: _Target) -> Tensor:
        """Return the loss over this process's samples."""
        z = wide(logits)
        if self._at_once(target):
            lam, scale = target.lam.to(z.dtype), 1 / len(target) if self.reduction == "mean" else 1
            loss = contrast.total(z, target.a, target.b, lam, self._axes(), scale)
            if loss is not None:
                return loss
        if len(target) == 1:
            return self._alone()(logits, target)
        return self._contrast(_similarity(z, target), target, _Everyone(target))

    def from_features(
        self,
        features: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        target: _Target,
        *,
        sparse: bool = False,
    ) -> Tensor:
        """Return the same loss without ever building the (B, C) logits: O(B d + B²) for any C.

        Args:
            features: (B, d), the input of the last linear layer.
            weight: (C, d), its weight.
            bias: (C,), its bias, or None.
            target: class indices of B samples.
            sparse: give ``weight`` a sparse gradient, of 2B rows, which only some optimisers
                take; a dense one of C rows otherwise.
        """

        def check() -> None:
            check_features("InfiniteClassLoss", features, weight, bias, target)
            autocast = torch.is_autocast_enabled(features.device.type)
            if features.dtype != weight.dtype and not autocast:
                raise InputError(
                    "InfiniteClassLoss.from_features: features and weight must be of one dtype, "
                    f"got {features.dtype} and {weight.dtype}"
                )

        if self._parallel():
            everyone = self._gathered(target, check)
        else:
            check()
            everyone = _Everyone(target)
            if len(target) == 1:
                return self._alone().from_features(features, weight, bias, target)
        others = everyone.target
        # One lookup of all classes' rows: several would build gradients of the weight's size each.
        if isinstance(others, MultiTarget):
            rows = others.classes.T.flatten()
        else:
            rows = torch.cat([others.a, others.b])
        rows = rows.long()
        mixed = _blend(F.embedding(rows, weight, sparse=sparse), others)
        similarity = wide(features @ mixed.T)
        if bias is not None:
            similarity = similarity + wide(_blend(bias.index_select(0, rows), others))
        return self._contrast(similarity, target, everyone)

    def _axes(self) -> tuple[int, ...]:
        """Return the axes of S over which there is a cross-entropy."""
        return {"class": (1,), "pair": (0,), "both": (1, 0)}[self.axis]

    def _at_once(self, target: _Target) -> TypeGuard[MixedTarget]:
        """Whether the loss is the sum or mean over pairs of this process, with nothing special."""
        return (
            isinstance(target, MixedTarget)
            and target.is_index
            and len(target) > 1
            and target.weight is None
            and self.reduction != "none"
            and not self.mask_duplicates
        )

    def _parallel(self) -> bool:
        return self.gather and processes.several()

    def _alone(self) -> MixedCrossEntropy:
        """Return the loss of a batch of one."""
        if not self._warned and not torch.compiler.is_compiling():
            self._warned = True
            say(
                "InfiniteClassLoss got a batch of one sample, which has nothing to contrast with: "
                "its mixed cross-entropy is taken instead. drop_last=True of a DataLoader leaves "
                "such a last batch out"
            )
        return MixedCrossEntropy(reduction=self.reduction)

    def _gathered(self, target: _Target, check: Callable[[], None]) -> _Everyone:
        """Return the targets of all processes' samples, once all have found theirs to be right."""
        size = len(target)
        near = target.weights if isinstance(target, MultiTarget) else target.lam

        def checked() -> Tensor:
            check()
            return _packed(target)

        own = processes.refusing(True, checked, near)
        kind = 1 if isinstance(target, MultiTarget) else 2 if target.is_index else 3
        told = processes.agree(None, (size, kind, own.shape[1]), near)
        if any(other[1:] != told[0][1:] for other in told):
            kinds = {1: "several classes a sample", 2: "class indices", 3: "soft labels"}
            shown = [f"{count} x {kinds[kind]} ({width})" for count, kind, width in told]
            raise InputError(
                "InfiniteClassLoss: with gather=True all processes must hold targets of one kind, "
                f"got {', '.join(shown)} by rank"
            )
        sizes = [count for count, *_ in told]
        padded = own.new_zeros(max(sizes), own.shape[1])
        padded[:size] = own
        parts = processes.gathered(padded)
        rows = torch.cat([part[:count] for part, count in zip(parts, sizes, strict=True)])
        return _Everyone(_unpacked(rows, target), sum(sizes[: dist.get_rank()]))

    def _contrast(self, similarity: Tensor, target: _Target, everyone: _Everyone) -> Tensor:
        """Return the loss from S: own samples down, everyone's classifiers across."""
        if self.mask_duplicates:
            similarity = similarity.masked_fill(
                _duplicates(target, everyone.target, everyone.first),
                torch.finfo(similarity.dtype).min,
            )
        axes = self._axes()
        if not self._parallel():
            return self._reduce(contrast.contrast(similarity, axes), target)
        own = slice(everyone.first, everyone.first + len(target))
        positive = similarity[:, own].diagonal()
        loss = torch.zeros_like(positive)
        if 1 in axes:
            loss = loss + similarity.logsumexp(1) - positive
        if 0 in axes:
            everywhere: Tensor = _Gather.apply(similarity.logsumexp(0))
            loss = loss + everywhere.logsumexp(0)[own] - positive
        if self.reduction != "mean":
            return self._reduce(loss, target)
        # What is summed over processes and divided by their number is the mean over all samples.
        weight = everyone.target.weight
        assert weight is not None
        weight = weight.to(loss.dtype)
        total = weight.sum().clamp_min(torch.finfo(loss.dtype).tiny)
        value = torch.where(weight[own] > 0, loss * weight[own], 0.0).sum()
        return value * (dist.get_world_size() / total)


def _by_index(target: _Target) -> TypeGuard[Any]:
    """Whether the target is of class indices, not of soft labels."""
    return not isinstance(target, MixedTarget) or target.is_index


def _similarity(z: Tensor, everyone: _Target) -> Tensor:
    """Return S (B, N): each sample's logits mixed as each classifier is."""
    if isinstance(everyone, MultiTarget):
        s = torch.zeros_like(z[:, :1])
        weights = everyone.weights.to(z.dtype)
        for y, weight in zip(everyone.classes.unbind(1), weights.unbind(1), strict=True):
            s = s + weight * z.index_select(1, y.long())
        return s
    if everyone.is_index:
        lam = everyone.lam.to(z.dtype)
        return contrast.similarity(z, everyone.a.long(), everyone.b.long(), lam)
    return z @ everyone.dense().to(z.dtype).T


def _packed(target: _Target) -> Tensor:
    """Return a target as one float64 matrix (B, n), which holds each of its values exactly.

    The last column is the samples' weights, 1 where there are none.
    """
    if isinstance(target, MultiTarget):
        parts = [target.classes, target.weights]
    else:
        parts = [target.a, target.b, target.lam]
    weight = torch.ones_like(parts[-1].reshape(len(target), -1)[:, 0])
    parts.append(weight if target.weight is None else target.weight)
    size = len(target)
    return torch.cat([part.detach().reshape(size, -1).double() for part in parts], 1)


def _unpacked(rows: Tensor, like: _Target) -> _Target:
    """Return the target of which :func:`_packed` made these rows, its dtypes those of ``like``."""
    *columns, weight = rows.unbind(1)
    if isinstance(like, MultiTarget):
        classes, weights = rows[:, :-1].chunk(2, 1)
        return MultiTarget(classes.long(), weights.to(like.weights.dtype), weight)
    lam = columns.pop().to(like.lam.dtype)
    a, b = rows[:, :-2].to(like.a.dtype).chunk(2, 1)
    if like.is_index:
        a, b = a[:, 0], b[:, 0]
    return MixedTarget(a, b, lam, weight)


def _blend(rows: Tensor, target: _Target) -> Tensor:
    """Return (N, ...): of k N rows, those of the first classes first, the mixtures."""
    if isinstance(target, MixedTarget):
        own, partner = rows.chunk(2)
        return torch.lerp(partner, own, _beside(target.lam, own))
    parts = rows.view(target.classes.shape[1], len(target), *rows.shape[1:])
    return (_beside(target.weights.T, parts) * parts).sum(0)


def _beside(weight: Tensor, values: Tensor) -> Tensor:
    return weight.to(values).view(*weight.shape, *[1] * (values.ndim - weight.ndim))


class _Gather(torch.autograd.Function):
    """Gather with gradient: the sum of what all processes' losses ask of this one's tensor."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return processes.gathered(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total[dist.get_rank()]


def _in_order(target: MultiTarget) -> tuple[Tensor, Tensor]:
    """Return classes and weights by class, each once; -1 and 0 for what is left of a row."""
    weights = merged(target.classes, target.weights)
    classes, order = target.classes.masked_fill(repeated(target.classes), -1).sort(1)
    return classes, weights.gather(1, order)


def _duplicates(target: _Target, everyone: _Target, first: int) -> Tensor:
    """Return (B, N) bool: classifier j is that of sample i, and j is not i."""
    if isinstance(target, MultiTarget) or isinstance(everyone, MultiTarget):
        assert isinstance(target, MultiTarget)
        assert isinstance(everyone, MultiTarget)
        (classes, weights), (others, shares) = _in_order(target), _in_order(everyone)
        same = (classes[:, None] == others).all(2) & (weights[:, None] == shares).all(2)
    elif not target.is_index:
        soft, others = target.dense(), everyone.dense()
        same = (soft[:, None] == others[None]).all(2)
    else:
        a, b, lam = target.a[:, None], target.b[:, None], target.lam[:, None]
        straight = (a == everyone.a) & (b == everyone.b) & (lam == everyone.lam)
        crossed = (a == everyone.b) & (b == everyone.a) & (lam == 1 - everyone.lam)
        one_class = (a == b) & (a == everyone.a) & (a == everyone.b)
        same = straight | crossed | one_class
    own = torch.arange(len(target), device=same.device)
    return same.index_put((own, own + first), torch.zeros((), dtype=torch.bool, device=same.device))
