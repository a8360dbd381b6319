"""Infinite Class Mixup: mix the classifiers, and contrast them."""

from __future__ import annotations

from typing import Any, TypeGuard

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from mixwell.checks import check_choice
from mixwell.errors import InputError, say
from mixwell.kernels import contrast
from mixwell.losses.base import Loss, check_features, check_logits, check_target, fits, wide
from mixwell.losses.cross_entropy import MixedCrossEntropy
from mixwell.losses.many import merged, repeated
from mixwell.mix import MixedTarget, MultiTarget

__all__ = ["InfiniteClassLoss"]


_Target = MixedTarget | MultiTarget


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
            gradient. Every process must then hold a batch of the same size: they tell each other
            before each step, since a process with another would wait for ever. On an accelerator
            the device tells, so that nothing waits for it.
        reduction: "mean", "sum" or "none", (B,), of the sum of the axes.

    One sample alone, such as an epoch's last batch of one, has no other classifier to contrast
    with, and its loss would be 0 whatever the logits. Its loss is then the mixed cross-entropy
    instead: its mixed label against the C ordinary classifiers. The first time, a warning says so
    (not within ``torch.compile``, which can't).

    Raises:
        InputError: processes hold batches of different sizes.
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

    def forward(self, logits: Tensor, target: _Target) -> Tensor:
        """Return the loss; see :meth:`Loss.forward`."""
        if isinstance(target, MixedTarget) and not target.is_index:
            check_target("InfiniteClassLoss", logits, target)
            if logits.shape != target.a.shape:
                raise InputError(
                    f"InfiniteClassLoss: logits have shape {tuple(logits.shape)}, the soft labels "
                    f"{tuple(target.a.shape)}"
                )
        elif self._parallel() or not fits(logits, target):  # before others wait for this one
            check_logits("InfiniteClassLoss", logits, target)
        try:
            return self._of_logits(logits, target)
        except (IndexError, RuntimeError):
            if isinstance(target, MultiTarget) or target.is_index:
                check_logits("InfiniteClassLoss", logits, target)  # which index is wrong, if one is
            raise

    def _of_logits(self, logits: Tensor, target: _Target) -> Tensor:
        z = wide(logits)
        if self._at_once(target):
            lam, scale = target.lam.to(z.dtype), 1 / len(target) if self.reduction == "mean" else 1
            loss = contrast.total(z, target.a, target.b, lam, self._axes(), scale)
            if loss is not None:
                return loss
        everyone = self._everyone(target)
        if len(everyone) == 1:
            return self._alone()(logits, target)
        if isinstance(everyone, MultiTarget):
            similarity = torch.zeros_like(z[:, :1])
            weights = everyone.weights.to(z.dtype)
            for y, weight in zip(everyone.classes.unbind(1), weights.unbind(1), strict=True):
                similarity = similarity + weight * z.index_select(1, y.long())
        elif everyone.is_index:
            lam = everyone.lam.to(z.dtype)
            similarity = contrast.similarity(z, everyone.a.long(), everyone.b.long(), lam)
        else:
            similarity = z @ everyone.dense().to(z.dtype).T
        return self._contrast(similarity, target, everyone)

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
        check_features("InfiniteClassLoss", features, weight, bias, target)
        if features.dtype != weight.dtype and not torch.is_autocast_enabled(features.device.type):
            raise InputError(
                "InfiniteClassLoss.from_features: features and weight must be of one dtype, got "
                f"{features.dtype} and {weight.dtype}"
            )
        everyone = self._everyone(target)
        if len(everyone) == 1:
            return self._alone().from_features(features, weight, bias, target)
        # One lookup of all classes' rows: several would build gradients of the weight's size each.
        if isinstance(everyone, MultiTarget):
            rows = everyone.classes.T.flatten()
        else:
            rows = torch.cat([everyone.a, everyone.b])
        rows = rows.long()
        mixed = _blend(F.embedding(rows, weight, sparse=sparse), everyone)
        similarity = wide(features @ mixed.T)
        if bias is not None:
            similarity = similarity + wide(_blend(bias.index_select(0, rows), everyone))
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
            and not self._parallel()
        )

    def _parallel(self) -> bool:
        return (
            self.gather
            and dist.is_available()
            and dist.is_initialized()
            and dist.get_world_size() > 1
        )

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

    def _everyone(self, target: _Target) -> _Target:
        """Return the targets of all processes' samples."""
        if not self._parallel():
            return target
        if isinstance(target, MultiTarget):
            _check_sizes(len(target), target.weights.device)
            return MultiTarget(
                *(_gather(part).flatten(0, 1) for part in (target.classes, target.weights))
            )
        _check_sizes(len(target), target.lam.device)
        return MixedTarget(
            *(_gather(part).flatten(0, 1) for part in (target.a, target.b, target.lam))
        )

    def _contrast(self, similarity: Tensor, target: _Target, everyone: _Target) -> Tensor:
        """Return the loss from S: own samples down, everyone's classifiers across."""
        size = len(target)
        first = dist.get_rank() * size if self._parallel() else 0
        own = slice(first, first + size)
        if self.mask_duplicates:
            similarity = similarity.masked_fill(
                _duplicates(target, everyone, first), torch.finfo(similarity.dtype).min
            )
        axes = self._axes()
        if not self._parallel():
            return self._reduce(contrast.contrast(similarity, axes), target)
        positive = similarity[:, own].diagonal()
        loss = torch.zeros_like(positive)
        if 1 in axes:
            loss = loss + similarity.logsumexp(1) - positive
        if 0 in axes:
            everywhere: Tensor = _Gather.apply(similarity.logsumexp(0))
            loss = loss + everywhere.logsumexp(0)[own] - positive
        return self._reduce(loss, target)


def _blend(rows: Tensor, target: _Target) -> Tensor:
    """Return (N, ...): of k N rows, those of the first classes first, the mixtures."""
    if isinstance(target, MixedTarget):
        own, partner = rows.chunk(2)
        return torch.lerp(partner, own, _beside(target.lam, own))
    parts = rows.view(target.classes.shape[1], len(target), *rows.shape[1:])
    return (_beside(target.weights.T, parts) * parts).sum(0)


def _beside(weight: Tensor, values: Tensor) -> Tensor:
    return weight.to(values).view(*weight.shape, *[1] * (values.ndim - weight.ndim))


def _check_sizes(size: int, device: torch.device) -> None:
    """Raise unless all processes hold a batch of this size: gathering would wait for ever."""
    sizes = _gather(torch.full((), size, device=device))
    if device.type != "cpu":
        torch._assert_async((sizes == size).all())
    elif not bool((sizes == size).all()):
        raise InputError(
            "InfiniteClassLoss: with gather=True every process must hold a batch of the same size, "
            f"got {sizes.tolist()} by rank; drop the last incomplete batch (drop_last=True), or "
            "contrast within each process (gather=False)"
        )


def _gather(tensor: Tensor) -> Tensor:
    """Return the tensors of all processes, stacked by rank."""
    parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.stack(parts)


class _Gather(torch.autograd.Function):
    """:func:`_gather` with gradient: what all processes' losses ask of this one's tensor."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return _gather(tensor)

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
