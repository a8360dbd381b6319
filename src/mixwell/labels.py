"""What is the label of a mixed sample? Each answer maps a batch and its mix to a MixedTarget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixwell import functional
from mixwell.batch import Batch, Distance
from mixwell.checks import Range, check_choice, check_counts, check_range
from mixwell.errors import InputError
from mixwell.mix import Box, Mix, MixedTarget, MultiMix, MultiTarget
from mixwell.parts import Part
from mixwell.view import attention_of

__all__ = [
    "ContentAttention",
    "HeavierSide",
    "Labels",
    "Local",
    "MixedAttention",
    "OneSided",
    "Remix",
    "Semantic",
    "Soft",
]


class Labels(Part):
    """Base class of the labels."""

    needs_attention = False
    """Whether :meth:`refine` reads the attention of the mixed samples."""

    tasks: tuple[str, ...] = ("classification", "multilabel", "regression")
    """The tasks that this is defined for."""

    def forward(self, batch: Batch, mix: Mix, lam: Tensor) -> MixedTarget:
        """Return the targets.

        Args:
            batch: the unmixed batch.
            mix: how its inputs are mixed.
            lam: (B,), the targets' λ: the inputs' true one unless the coefficient has another.
        """
        raise NotImplementedError

    def refine(self, mix: Mix, target: MixedTarget, attention: Tensor) -> MixedTarget:
        """Return the targets, now that the model has run: where ``needs_attention`` is true.

        Args:
            mix: how the inputs were mixed.
            target: what :meth:`forward` returned.
            attention: (B, h, w), of the mixed samples, each summing to 1.
        """
        return target

    @staticmethod
    def _pair(batch: Batch, mix: Mix, lam: Tensor, weight: Tensor | None = None) -> MixedTarget:
        return MixedTarget(batch.y, batch.y.index_select(0, mix.partner), lam, weight)


class Soft(Labels):
    """Both labels, weighted as the inputs are: mixup's ``λ y_i + (1 - λ) y_σ(i)``.

    Of segmentation maps the classes are mixed as the pixels are: at each position, by its mask. So
    are real targets with the positions of the inputs, (B, K, H, W) as in depth estimation, or
    (B, K, L) of signals.

    Raises:
        InputError: inputs are mixed by place, and targets by position have another size.
    """

    tasks = ("classification", "multilabel", "segmentation", "regression")

    def forward(self, batch: Batch, mix: Mix, lam: Tensor) -> MixedTarget:
        return _paired(batch, mix, lam)

    @staticmethod
    def of_many(batch: Batch, mix: MultiMix) -> MixedTarget | MultiTarget:
        """Return the targets of samples mixed of k."""
        if batch.y.is_floating_point():
            y = functional.mix(batch.y, mix)
            return MixedTarget(y, y, torch.ones_like(mix.lam))
        return MultiTarget(batch.y[mix.partners], mix.weights)


def _paired(batch: Batch, mix: Mix, lam: Tensor, weight: Tensor | None = None) -> MixedTarget:
    """Return both targets: weighted by λ (B,), or where they have positions as the inputs are.

    Args:
        batch: the unmixed batch.
        mix: how its inputs are mixed.
        lam: (B,), the targets' λ.
        weight: optional (B,), of each sample in the loss.
    """
    dense = not batch.task.has_classes and batch.y.ndim > 2
    if batch.task.by_position or (dense and not mix.is_uniform):
        own, theirs, lam = _by_position(batch, mix)
        return MixedTarget(own, theirs, lam, weight)
    return MixedTarget(batch.y, batch.y.index_select(0, mix.partner), lam, weight)


def _by_position(batch: Batch, mix: Mix) -> tuple[Tensor, Tensor, Tensor]:
    """Return both samples' targets at each position, where the pixels now are, and their λ.

    Returns:
        Two like y, and (B,) or what broadcasts to y: of its shape for classes.
    """
    y = batch.y
    size = mix.positions
    if size is not None and tuple(y.shape[-len(size) :]) != size:
        raise InputError(
            f"y has shape {tuple(y.shape)}, and inputs are mixed by place, at positions {size}, "
            f"which its last dimensions must be: resize y or the prediction, or mix linearly "
            "(targets that have no positions are (B,) or (B, K))"
        )
    own = theirs = y
    warp = mix.warped()
    if warp is not None:
        # One sample's classes where it is read, by a mix that is all of one of them.
        nothing = torch.zeros(len(mix), 1, *y.shape[-2:], dtype=torch.bool, device=y.device)
        own = functional.mix(y, Mix(mix.partner, mix.lam, ~nothing, warp=warp))
        theirs = functional.mix(y, Mix(mix.partner, mix.lam, nothing, warp=warp))
    else:
        theirs = y.index_select(0, mix.partner)
    mask = mix.dense_mask()
    if mask is None or size is None:
        return own, theirs, mix.lam
    weight = mask.reshape(len(mask), *[1] * (y.ndim - 1 - len(size)), *size).to(mix.lam.dtype)
    weight = weight.expand(len(mix), *weight.shape[1:])
    return own, theirs, weight if y.is_floating_point() else weight.expand(y.shape)


class OneSided(Labels):
    """The own label alone, for mixes on the own side of the midpoint (AM, arXiv:2401.14696).

    A sample that found no partner is left out: its weight in the loss is 0.
    """

    def forward(self, batch: Batch, mix: Mix, lam: Tensor) -> MixedTarget:
        alone = mix.partner == torch.arange(len(mix), device=mix.partner.device)
        return self._pair(batch, mix, torch.ones_like(lam), (~alone).to(lam.dtype))


class HeavierSide(Labels):
    """The label of the heavier sample alone; the own one at λ = 1/2 (MixupIO)."""

    def forward(self, batch: Batch, mix: Mix, lam: Tensor) -> MixedTarget:
        return self._pair(batch, mix, (lam >= 0.5).to(lam.dtype))


class Remix(Labels):
    """Remix's label weight for long tails (arXiv:2007.03943).

    See :func:`functional.remix_lambda <mixwell.functional.remix_lambda>`.

    Args:
        class_counts: (C,) training samples of each class.
        kappa: how much more frequent a class must be to give way; ≥ 1.
        t: how little there may be of it in the sample; in [0, 1].
    """

    class_counts: Tensor

    ranges: ClassVar = {"kappa": Range(1.5, 10, log=True), "t": Range(0.2, 0.8)}
    needs_of_data: ClassVar = ("class_counts",)

    def __init__(
        self, class_counts: Tensor | Sequence[float], kappa: float = 3.0, t: float = 0.5
    ) -> None:
        super().__init__()
        self.register_buffer("class_counts", check_counts(class_counts), persistent=False)
        self.kappa = check_range("kappa", kappa, 1)
        self.t = check_range("t", t, 0, 1)

    def forward(self, batch: Batch, mix: Mix, lam: Tensor) -> MixedTarget:
        count = batch.count(self.class_counts)
        partner_count = count.index_select(0, mix.partner)
        return self._pair(
            batch, mix, functional.remix_lambda(lam, count, partner_count, self.kappa, self.t)
        )


class Local(Labels):
    """Both labels, and the less weight in the loss the farther a pair is apart (Local Mixup).

    .. code-block:: text

        d_i = ‖x_i - x_σ(i)‖,   w_i ∝ exp(-decay · d_i) if d_i ≤ limit, else 0
        L   = Σ_i w_i ℓ_i / Σ_i w_i

    With ``decay=0`` and a limit it is the paper's threshold; without a limit its exponential.

    Args:
        decay: α of the paper; ≥ 0.
        limit: ε of the paper: pairs farther apart are left out.
        distance: between "features", "input" or "label".
        relative: take distances in units of the batch's mean, so that ``decay`` and ``limit`` don't
            depend on the scale of the data. False takes them as they are, as the paper does.

    Source: "Preventing Manifold Intrusion with Locality: Local Mixup", arXiv:2201.04368.
    """

    ranges: ClassVar = {"decay": Range(0.1, 10, log=True)}

    def __init__(
        self,
        decay: float = 1.0,
        limit: float = float("inf"),
        distance: Distance = "input",
        relative: bool = True,
    ) -> None:
        super().__init__()
        self.decay = check_range("decay", decay)
        self.limit = check_range("limit", limit, open=True, infinite=True)
        self.distance = check_choice("distance", distance, ("features", "input", "label"))
        self.relative = relative

    def forward(self, batch: Batch, mix: Mix, lam: Tensor) -> MixedTarget:
        distance = batch.measure(self.distance, mix.partner, squared=False).to(lam.dtype)
        if self.relative:
            distance = distance / distance.mean().clamp_min(torch.finfo(lam.dtype).tiny)
        # Only ratios of the weights count; beyond the nearest pair's distance none underflows.
        weight = torch.exp(-self.decay * (distance - distance.min()))
        return _paired(batch, mix, lam, torch.where(distance <= self.limit, weight, 0.0))


class Semantic(Labels):
    """Each label by how much of its object is in the mixed sample: SnapMix (arXiv:2012.04846).

    .. code-block:: text

        ρ_a = what is left of S_i,   ρ_b = what is taken of S_σ(i)
        w_i = ρ_a + ρ_b,   λ_i = ρ_a / w_i
        L   = Σ_i w_i [λ_i ℓ(z_i, y_i) + (1 - λ_i) ℓ(z_i, y_σ(i))] / Σ_i w_i

    with S the class activation map of a sample's class, summing to 1. The two need not sum to 1:
    their sum is the sample's weight. The authors take the mean of w_i times the loss, which is
    larger by the mean weight (about 1.02). A linear mix, which leaves and takes the same
    everywhere, has the usual labels.

    The authors' code counts a pair of one class twice over; here it has the weight of any other.
    """

    tasks = ("classification",)

    def forward(self, batch: Batch, mix: Mix, lam: Tensor) -> MixedTarget:
        mask = mix.dense_mask()
        if mask is None:
            return self._pair(batch, mix, lam)
        size = mask.shape[-2:]
        maps = F.interpolate(batch.look("cam")[:, None], size, mode="bilinear")
        maps = maps / maps.sum((2, 3), keepdim=True)
        return self._pair(batch, mix, *_by_content(mix, mask, maps, lam))


def _by_content(mix: Mix, mask: Tensor, maps: Tensor, lam: Tensor) -> tuple[Tensor, Tensor]:
    """Return λ and weight of targets that follow what of both samples' content is in the mix.

    Args:
        mix: how the inputs are mixed.
        mask: its mask, (B, 1, H, W).
        maps: (B, 1, H, W), how much of each sample's content is where, summing to 1.
        lam: (B,), taken where no content is seen.

    Returns:
        ρ_a / (ρ_a + ρ_b), and the sum: (B,).
    """
    own, theirs = maps, maps.index_select(0, mix.partner)
    if mix.warp is not None:
        nothing = torch.zeros_like(mask, dtype=torch.bool)
        own = functional.mix(maps, Mix(mix.partner, mix.lam, ~nothing, warp=mix.warp))
        theirs = functional.mix(maps, Mix(mix.partner, mix.lam, nothing, warp=mix.warp))
    left = mask.to(maps.dtype)
    taken = 1 - left
    if mix.box is not None and mix.box.source is not None:
        source = Box(mix.box.source, mix.box.height, mix.box.width)
        some = (mix.lam < 1).view(-1, 1, 1, 1)
        taken = torch.where(some, (~source.mask()).to(maps.dtype), 0.0)
    rho_own, rho_theirs = (own * left).sum((1, 2, 3)), (theirs * taken).sum((1, 2, 3))
    weight = rho_own + rho_theirs
    share = torch.where(weight > 0, rho_own / torch.where(weight > 0, weight, 1.0), lam)
    return share.to(lam.dtype), weight.to(lam.dtype)


class MixedAttention(Labels):
    """Labels by the attention that is paid to each part of the mix: TransMix (arXiv:2111.09833).

    .. code-block:: text

        λ_i = Σ_p A_ip ↓(M_i)_p

    with A the class token's attention to the patches p of the mixed sample in the last block, from
    the pass that is trained, without gradient (:func:`mixwell.view.attending`), and ↓(M) the
    own sample's share of each patch. (The paper takes the mask's nearest pixel; with the share,
    uniform attention gives the area's λ.) A linear mix, which is the same everywhere, has the usual
    labels.

    Args:
        ratio: how much of λ is by attention, in [0, 1]; the rest stays the area's. 1 in the paper's
            equation, 1/2 in the authors' code.
    """

    needs_attention = True
    tasks = ("classification", "multilabel")

    ranges: ClassVar = {"ratio": Range(0.25, 1)}

    def __init__(self, ratio: float = 1.0) -> None:
        super().__init__()
        self.ratio = check_range("ratio", ratio, 0, 1)

    def forward(self, batch: Batch, mix: Mix, lam: Tensor) -> MixedTarget:
        return self._pair(batch, mix, lam)

    def refine(self, mix: Mix, target: MixedTarget, attention: Tensor) -> MixedTarget:
        mask = mix.dense_mask()
        if mask is None:
            return target
        shares = mask.to(attention.dtype).flatten(1, -3)
        shares = F.adaptive_avg_pool2d(shares, (attention.shape[1], attention.shape[2])).mean(1)
        own, theirs = ((attention * part).sum((1, 2)) for part in (shares, 1 - shares))
        lam = (own / (own + theirs)).to(target.lam.dtype)
        lam = torch.lerp(target.lam, lam, self.ratio)
        return MixedTarget(target.a, target.b, lam, target.weight)


class ContentAttention(Labels):
    """Labels by what of both samples' content is in the mix: TokenMix (arXiv:2207.08409).

    .. code-block:: text

        s_a = Σ_p A_ip M_ip,   s_b = Σ_p A_σ(i)p (1 - M_ip)
        L_i = s_a ℓ(z_i, y_i) + s_b ℓ(z_i, y_σ(i))

    with A the class token's attention to the patches p of each *unmixed* sample. As in the authors'
    code the two need not sum to 1: λ is s_a / (s_a + s_b), and the sum is the sample's weight, in
    units of the batch's mean. A linear mix has the usual labels.

    Args:
        teacher: the vision transformer whose attention it is. The paper has a trained one, which
            need not be good; without one it is the model itself, which learns where to look as it
            is trained. It is kept apart: neither moved nor trained nor saved with the method.
    """

    tasks = ("classification", "multilabel")

    def __init__(self, teacher: nn.Module | None = None) -> None:
        super().__init__()
        if teacher is not None and not isinstance(teacher, nn.Module):
            raise InputError(f"teacher must be a vision transformer or None, got {teacher!r}")
        self._kept = (teacher,)  # in a tuple: it is no part of this module's state

    @property
    def teacher(self) -> nn.Module | None:
        """The vision transformer whose attention it is; None for the model itself."""
        return self._kept[0]

    def forward(self, batch: Batch, mix: Mix, lam: Tensor) -> MixedTarget:
        mask = mix.dense_mask()
        if mask is None:
            return self._pair(batch, mix, lam)
        teacher = self.teacher
        attention = batch.look("attention") if teacher is None else attention_of(teacher, batch.x)
        maps = F.interpolate(attention[:, None], mask.shape[-2:])
        maps = maps / maps.sum((2, 3), keepdim=True)
        return self._pair(batch, mix, *_by_content(mix, mask, maps, lam))
