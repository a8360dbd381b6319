"""Collapse: how the features of a trained network lie, within classes and between them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from mixwell.checks import check_range
from mixwell.errors import InputError
from mixwell.metrics._checks import check_labels, check_numbers, check_rows, wide

__all__ = [
    "ClassMargins",
    "SimplexFit",
    "alignment",
    "class_margins",
    "class_variability",
    "nested_variability",
    "self_duality",
    "simplex_fit",
    "uniformity",
]

_BLOCK = 2**21  # distances held at a time: 8 MiB each for a handful of float32 temporaries


_LARGEST = 10**7


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
    check_rows("features", features)
    t = check_range("t", t, open=True)
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
    _check_weight(features, labels, weight)
    if bias is not None:
        check_numbers("floating", bias=bias, weight=weight)
    if bias is not None and bias.shape != weight.shape[:1]:
        raise InputError(
            f"bias must have shape ({len(weight)},) like weight's rows, got {tuple(bias.shape)}"
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


# ------------------------------------------------------------------------------ neural collapse


def class_variability(features: Tensor, labels: Tensor) -> Tensor:
    """Return NC1 class by class: how far features lie about their class's mean, for its distance.

    .. code-block:: text

        NC1_c = tr(Σ_c Σ_B†) / C,   Σ_B = mean over classes of (μ_c - μ)(μ_c - μ)ᵀ

    with Σ_c the covariance of class c, C the classes that have samples and μ the mean of their
    means. Its mean over the classes is the NC1 of the source, tr(Σ_W Σ_B†) / C, in which each class
    weighs the same here, however many samples it has. 0 where a class has collapsed to a point.
    Scaling and rotating all features changes nothing.

    Args:
        features: (N, d), the inputs of the classifier's last layer.
        labels: (N,) class indices.

    Returns:
        (largest label + 1,) from 0 on; NaN for classes without samples, and for all where no two
        classes' means differ.

    Raises:
        InputError: a shape, dtype or label is wrong, or there are no samples.

    Source: Papyan, Han & Donoho, "Prevalence of neural collapse during the terminal phase of deep
    learning training", arXiv:2008.08186.
    """
    features, labels = _checked(features, labels)
    centre, count = _centres(features, labels, int(labels.max()) + 1)
    present = count > 0
    means = centre[present]
    _, size, across = torch.linalg.svd(means - means.mean(0), full_matrices=False)
    # Centring leaves C - 1 directions; what rounding leaves of means that are one is none.
    least = torch.finfo(size.dtype).eps * max(means.shape) * means.norm()
    kept = (size > least) & (torch.arange(len(size), device=size.device) < len(means) - 1)
    if not bool(kept.any()):
        return torch.full_like(count, torch.nan)
    root = across[kept].T * (len(means) ** 0.5 / size[kept])  # of Σ_B†, (d, rank)
    spread = ((features - centre[labels]) @ root).square().sum(1)
    return torch.zeros_like(count).index_add(0, labels, spread) / count / len(means)


def nested_variability(features: Tensor, labels: Tensor, groups: Tensor) -> Tensor:
    """Return the NC1 of the classes within each group of classes, of its samples alone.

    How well fine classes can be told apart within a coarse one: the lower the better, and 1 and
    more where the classes overlap.

    Args:
        features: (N, d).
        labels: (N,) class indices.
        groups: (N,) the indices of their groups.

    Returns:
        (largest group + 1,), the mean of :func:`class_variability` over each group's classes; NaN
        where they are fewer than two.

    Raises:
        InputError: as of :func:`class_variability`.
    """
    features, labels = _checked(features, labels)
    _, groups = _checked(features, groups, "groups")
    found = features.new_full((int(groups.max()) + 1,), torch.nan)
    for group in groups.unique().tolist():
        inside = groups == group
        _, own = labels[inside].unique(return_inverse=True)
        found[group] = class_variability(features[inside], own).mean()
    return found


@dataclass(frozen=True)
class SimplexFit:
    """How far the centred class means are from a simplex equiangular tight frame.

    Attributes:
        distance: NC2, in [0, √2]: ‖G / ‖G‖ - E / ‖E‖‖ of their inner products G = M Mᵀ and the
            frame's, E = I - 11ᵀ / C, in Frobenius norms.
        norms: deviation over mean of their lengths.
        angles: mean over their pairs of how far the cosine is from -1 / (C - 1).
    """

    distance: Tensor
    norms: Tensor
    angles: Tensor


def simplex_fit(features: Tensor, labels: Tensor) -> SimplexFit:
    """Return NC2: how far the class means, from their mean, are of one length and evenly apart.

    All three numbers are 0 where the means are the corners of a regular simplex; of two classes
    they always are. C counts the classes that have samples.

    Args:
        features: (N, d), the inputs of the classifier's last layer.
        labels: (N,) class indices.

    Returns:
        Three scalars from 0 on; NaN where the means are one, or there is one class alone.

    Raises:
        InputError: a shape, dtype or label is wrong, or there are no samples.

    Source: lengths and angles as of :func:`class_variability`; the distance, Zhu et al., "A
    Geometric Analysis of Neural Collapse with Unconstrained Features", arXiv:2105.02375.
    """
    means = _centred(*_checked(features, labels))[0]
    size = len(means)
    if size < 2:
        none = means.new_full((), torch.nan)
        return SimplexFit(none, none, none)
    gram = means @ means.T
    frame = torch.eye(size, dtype=gram.dtype, device=gram.device) - 1 / size
    distance = (gram / gram.norm() - frame / frame.norm()).norm()
    norms = gram.diagonal().sqrt()
    first, second = torch.triu_indices(size, size, 1, device=gram.device)
    cosine = gram[first, second] / (norms[first] * norms[second])
    angles = (cosine + 1 / (size - 1)).abs().mean()
    return SimplexFit(distance, norms.std(correction=0) / norms.mean(), angles)


def self_duality(features: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    """Return NC3: how far a classifier's rows are from the centred class means, both scaled to 1.

    .. code-block:: text

        ‖W / ‖W‖ - M / ‖M‖‖   in Frobenius norms, over the classes that have samples

    Args:
        features: (N, d), the inputs of the classifier's last layer.
        labels: (N,) class indices.
        weight: (C, d), that layer's.

    Returns:
        A scalar in [0, 2]; NaN where the means are one.

    Raises:
        InputError: a shape, dtype or label is wrong, or there are no samples.

    Source: as of :func:`class_variability`.
    """
    features, labels = _checked(features, labels)
    _check_weight(features, labels, weight)
    means, present = _centred(features, labels)
    rows = weight.to(means)[: len(present)][present]
    return (rows / rows.norm() - means / means.norm()).norm()


def _centred(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the means of the classes that have samples, from their mean, and which these are.

    What rounding leaves of means that are one is 0.
    """
    centre, count = _centres(features, labels, int(labels.max()) + 1)
    means = centre[count > 0]
    centred = means - means.mean(0)
    least = torch.finfo(means.dtype).eps * max(means.shape) * means.norm()
    return torch.where(centred.norm() > least, centred, 0.0), count > 0


def _checked(features: Tensor, labels: Tensor, called: str = "labels") -> tuple[Tensor, Tensor]:
    """Return features in float32 at least, and labels as indices; raise if they aren't."""
    check_labels("features", features, labels, classes=False, called=called)
    if labels.device.type == "cpu":
        low, high = (int(end) for end in labels.aminmax())
        if low < 0 or high > _LARGEST:  # each class up to the largest takes memory
            raise InputError(
                f"{called} must be class indices from 0 to {_LARGEST} at most, got {low} to {high}"
            )
    return wide(features), labels.long()


def _check_weight(features: Tensor, labels: Tensor, weight: Tensor) -> None:
    """Raise unless ``weight`` is (C, d) of a classifier that takes the features, C ≥ 2."""
    check_numbers("floating", weight=weight, features=features)
    if weight.ndim != 2 or weight.shape[1] != features.shape[1] or len(weight) < 2:
        raise InputError(
            f"weight must have shape (C, {features.shape[1]}), C ≥ 2, as features have "
            f"{features.shape[1]} columns; got {tuple(weight.shape)}"
        )
    if labels.device.type == "cpu" and not (labels.min() >= 0 and labels.max() < len(weight)):
        raise InputError(
            f"labels must be from 0 to {len(weight) - 1}, as weight has {len(weight)} rows; got "
            f"{int(labels.min())} to {int(labels.max())}"
        )


def _centres(features: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Return each class's mean feature (C, d), 0 where it has none, and its samples (C,)."""
    count = features.new_zeros(num_classes).index_add(0, labels, torch.ones_like(features[:, 0]))
    total = features.new_zeros(num_classes, features.shape[1]).index_add(0, labels, features)
    return total / count.clamp_min(1)[:, None], count
