"""Collapse: how the features of a trained network lie, within classes and between them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from mixwell.errors import InputError
from mixwell.metrics._checks import check_labels, wide

__all__ = ["ClassMargins", "alignment", "class_margins", "uniformity"]

_BLOCK = 2**21  # distances held at a time: 8 MiB each for a handful of float32 temporaries


def alignment(features: Tensor, labels: Tensor) -> Tensor:
    """Return the mean squared distance of the pairs of a class, of L2-normalised features.

    0 where each class has collapsed to a point, 2 where its features are all orthogonal. All pairs
    of all classes weigh the same. Time and memory grow with N, not with the number of pairs.

    Args:
        features: (N, d); a row of zeros stays one.
        labels: (N,) class indices.

    Returns:
        A scalar in [0, 4], differentiable; NaN if no class has two samples.

    Raises:
        InputError: a shape or dtype is wrong, or there are no samples.

    Source: "Understanding Contrastive Representation Learning through Alignment and Uniformity on
    the Hypersphere", arXiv:2005.10242.
    """
    check_labels("features", features, labels, classes=False)
    unit = F.normalize(wide(features), dim=1)
    _, group = labels.unique(return_inverse=True)
    centre, count = _centres(unit, group, int(group.max()) + 1)
    # Σ_{i<j} ‖f_i - f_j‖² = n Σ_i ‖f_i - f̄‖² within a class, without cancellation.
    spread = (unit - centre[group]).square().sum(1)
    return (count[group] * spread).sum() / (count * (count - 1) / 2).sum()


def uniformity(features: Tensor, t: float = 2.0) -> Tensor:
    """Return ``log mean exp(-t ‖f_i - f_j‖²)`` over all pairs, of L2-normalised features.

    0 where all features are one, and lower the more evenly they cover the sphere. Computed in
    blocks: memory doesn't grow with the number of pairs.

    Args:
        features: (N, d), N ≥ 2; a row of zeros stays one.
        t: > 0.

    Returns:
        A scalar in [-4 t, 0], differentiable.

    Raises:
        InputError: a shape, dtype or ``t`` is wrong, or there are fewer than two samples.

    Source: as of :func:`alignment`.
    """
    labels = torch.zeros(features.shape[:1], dtype=torch.int64)
    check_labels("features", features, labels, classes=False)
    if not t > 0:
        raise InputError(f"t={t!r} must be above 0")
    size = len(features)
    if size < 2:
        raise InputError(f"features must have 2 rows at least to make a pair, got {size}")
    unit = F.normalize(wide(features), dim=1)

    squares = unit.square().sum(1)

    def block(start: int, end: int) -> Tensor:
        """Log of the sum over the pairs of rows start..end-1 with later ones."""
        products = unit[start:end] @ unit[start:].T
        distance = squares[start:end, None] + squares[None, start:] - 2 * products
        later = torch.ones_like(distance, dtype=torch.bool).triu(1)
        return (-t * distance.clamp_min(0)).masked_fill(~later, -torch.inf).flatten().logsumexp(0)

    step = max(1, _BLOCK // size)
    edges = [*range(0, size - 1, step), size]
    run: Callable[[int, int], Tensor] = block
    if unit.requires_grad:
        # The blocks are computed again on the way back instead of being kept. Imported here: it
        # imports SymPy, which takes longer than all of mixwell.
        from torch.utils.checkpoint import checkpoint

        run = partial(checkpoint, block, use_reentrant=False)
    sums = [run(start, end) for start, end in pairwise(edges)]
    pairs = torch.tensor(size * (size - 1) / 2, dtype=unit.dtype, device=unit.device)
    return torch.stack(sums).logsumexp(0) - pairs.log()


@dataclass(frozen=True)
class ClassMargins:
    """The margins of the pairs of classes.

    Attributes:
        pairs: (C, C), the distance of class a's centre from its boundary with class b, below 0
            where it lies on the wrong side; NaN for a = b and for classes without samples.
        mean: scalar, over all pairs.
        balance: scalar, standard deviation over mean: 0 where all margins are the same.
    """

    pairs: Tensor
    mean: Tensor
    balance: Tensor


def class_margins(
    features: Tensor, labels: Tensor, weight: Tensor, bias: Tensor | None = None
) -> ClassMargins:
    """Return how far the centres of the classes lie from their decision boundaries.

    .. code-block:: text

        m_ab = ((w_a - w_b) · f̄_a + bias_a - bias_b) / ‖w_a - w_b‖ / r,   r² = mean ‖f‖²

    The boundary between two classes is where their logits are equal. Features are divided by their
    root mean square length r, all by the same: margins of different networks can be compared, and
    the boundaries stay those of the classifier.

    Args:
        features: (N, d), the inputs of the classifier's last layer.
        labels: (N,) class indices.
        weight: (C, d), that layer's.
        bias: (C,), that layer's.

    Raises:
        InputError: a shape, dtype or label is wrong, or there are no samples.

    Source: "Asymptotic Midpoint Mixup for Margin Balancing and Moderate Broadening",
    arXiv:2401.14696.
    """
    check_labels("features", features, labels, classes=False)
    if weight.ndim != 2 or weight.shape[1] != features.shape[1] or len(weight) < 2:
        raise InputError(
            f"weight must have shape (C, {features.shape[1]}), C ≥ 2, as features have "
            f"{features.shape[1]} columns; got {tuple(weight.shape)}"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise InputError(
            f"bias must have shape ({len(weight)},) like weight's rows, got {tuple(bias.shape)}"
        )
    if labels.device.type == "cpu" and not (labels.min() >= 0 and labels.max() < len(weight)):
        raise InputError(
            f"labels must be from 0 to {len(weight) - 1}, as weight has {len(weight)} rows; got "
            f"{int(labels.min())} to {int(labels.max())}"
        )
    features, weight = wide(features), wide(weight)
    centre, count = _centres(features, labels.long(), len(weight))
    logits = centre @ weight.T.to(centre)
    if bias is not None:
        logits = logits + bias.to(centre)
    length = torch.cdist(weight, weight, compute_mode="donot_use_mm_for_euclid_dist").to(centre)
    scale = features.square().sum(1).mean().sqrt()
    pairs = (logits.diagonal()[:, None] - logits) / (length * scale)
    other = ~torch.eye(len(weight), dtype=torch.bool, device=centre.device)
    present = (count > 0)[:, None] & (count > 0)[None, :] & other
    pairs = torch.where(present, pairs, torch.nan)
    mean = pairs.nanmean()
    return ClassMargins(pairs, mean, (pairs - mean).square().nanmean().sqrt() / mean)


def _centres(features: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Return each class's mean feature (C, d), 0 where it has none, and its samples (C,)."""
    count = features.new_zeros(num_classes).index_add(0, labels, torch.ones_like(features[:, 0]))
    total = features.new_zeros(num_classes, features.shape[1]).index_add(0, labels, features)
    return total / count.clamp_min(1)[:, None], count
