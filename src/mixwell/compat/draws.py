"""What timm's ``Mixup`` draws for a batch: by torch, and by a subclass's own methods."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mixwell import functional
from mixwell.batch import Batch
from mixwell.compat.arguments import overridden
from mixwell.compat.targets import as_lam
from mixwell.errors import InputError
from mixwell.interpolation.base import image_size
from mixwell.mix import Box, Mix

__all__ = ["Draws"]


class Draws:
    """Draws who is mixed how, from the attributes that timm's ``Mixup`` has."""

    _known: tuple[type, ...] = ()
    """The classes whose own methods are no overrides."""

    mode: str
    mixup_enabled: bool
    mixup_alpha: float
    cutmix_alpha: float
    cutmix_minmax: Sequence[float] | None
    mix_prob: float
    switch_prob: float
    correct_lam: bool

    def _own(self, name: str) -> Callable[..., Any] | None:
        """Return the method of timm's that a subclass overrides."""
        return overridden(self, name, self._known)

    def _check_active(self) -> None:
        if not (self.mixup_alpha > 0 or self.cutmix_alpha > 0):
            raise InputError(
                "one of mixup_alpha and cutmix_alpha must be > 0, or cutmix_minmax given; "
                f"got mixup_alpha={self.mixup_alpha!r}, cutmix_alpha={self.cutmix_alpha!r}"
            )

    def _draw(self, batch: Batch) -> tuple[list[Mix], Tensor | None, Tensor]:
        """Return how a batch mixes, and the λ of its targets.

        Returns:
            No mix, or one, or two, of which the first is for the samples where what comes next is
            true, (B,); and λ, (B,).
        """
        whole = self.mode == "batch"
        params = self._own("_params_per_batch" if whole else "_params_per_elem")
        off = not self.mixup_enabled or (whole and not _chance(batch, self.mix_prob))
        if params is None and off:
            return [], None, torch.ones(len(batch), device=batch.device)
        place = torch.arange(len(batch), device=batch.device)
        partner = place.flip(0)
        # Which of the draws is each sample's.
        draw = place
        if whole:
            draw = torch.zeros_like(place)
        elif self.mode == "pair":
            draw = torch.minimum(place, partner)
        count = 1 if whole else len(batch)  # of pairs the second half is drawn in vain

        if params is not None:
            cuts, lam = self._ask(params, batch, count)
        else:
            self._check_active()
            cuts = self._draw_kinds(batch, count)
            lam = self._draw_lam(batch, cuts, count)
            if not whole and self.mix_prob < 1:
                lam = torch.where(batch.rand(count) < self.mix_prob, lam, 1.0)
        if cuts is False:
            return [Mix(partner, lam[draw])], None, lam[draw]

        height, width = image_size(type(self).__name__, batch)
        edges = self._draw_edges(batch, lam, height, width)
        box, lam = Box(edges[draw], height, width), lam[draw]
        left = box.share().to(lam.dtype)
        label = left if self.correct_lam or self.cutmix_minmax is not None else lam
        paste = Mix(partner, left, box=box)
        if cuts is True:
            return [paste], None, label
        cuts = cuts[draw]
        return [paste, Mix(partner, lam)], cuts, torch.where(cuts, label, lam)

    def _ask(
        self, params: Callable[..., Any], batch: Batch, count: int
    ) -> tuple[bool | Tensor, Tensor]:
        """Return what an overridden ``_params_per_...`` draws: whether it is CutMix, and λ."""
        name = "_params_per_batch" if self.mode == "batch" else "_params_per_elem"
        wanted = (count + 1) // 2 if self.mode in ("pair", "half") else count
        given = params() if self.mode == "batch" else params(wanted)
        try:
            lam, cuts = (torch.as_tensor(value, device=batch.device) for value in given)
            lam, cuts = lam.float().reshape(wanted), cuts.bool().reshape(wanted)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(
                f"{type(self).__name__}.{name} must return λ and whether it is CutMix, {wanted} "
                f"of each, got {given!r}"
            ) from error
        lam = as_lam(f"λ of {type(self).__name__}.{name}", lam, lam)
        if not cuts.any() or cuts.all():  # drawn by NumPy: no device waits
            return bool(cuts.all()), torch.cat([lam, lam.new_ones(count - wanted)])
        rest = count - wanted
        return torch.cat([cuts, cuts.new_zeros(rest)]), torch.cat([lam, lam.new_ones(rest)])

    def _draw_kinds(self, batch: Batch, count: int) -> bool | Tensor:
        """Return whether it is CutMix: of all draws, or (count,) of each."""
        if self.mixup_alpha > 0 and self.cutmix_alpha > 0:
            if self.mode == "batch":
                return _chance(batch, self.switch_prob)
            return batch.rand(count) < self.switch_prob
        return self.cutmix_alpha > 0

    def _draw_lam(self, batch: Batch, cuts: bool | Tensor, count: int) -> Tensor:
        """Return λ ~ Beta(α, α): (count,)."""
        alpha = torch.full((count,), float(self.mixup_alpha), device=batch.device)
        if isinstance(cuts, Tensor):
            alpha = torch.where(cuts, self.cutmix_alpha, alpha)
        elif cuts:
            alpha = torch.full_like(alpha, self.cutmix_alpha)
        return functional.sample_beta(alpha, batch.generator)

    def _draw_edges(self, batch: Batch, lam: Tensor, height: int, width: int) -> Tensor:
        """Return boxes for λ (n,), as timm draws them: (n, 4) top, bottom, left, right."""
        edges = []
        for size in (height, width):
            if self.cutmix_minmax is None:
                side = ((1 - lam).sqrt() * size).floor()
                start = (batch.rand(len(lam)) * size).floor() - side.div(2, rounding_mode="floor")
            else:
                low, high = (int(share * size) for share in self.cutmix_minmax)
                side = low + (batch.rand(len(lam)) * (high - low)).floor()
                start = (batch.rand(len(lam)) * (size - side + 1)).floor()
            edges += [start.clamp_min(0), (start + side).clamp_max(size)]
        # λ = 1 is not to mix at all, also where the box has a size of its own.
        return torch.where(lam[:, None] < 1, torch.stack(edges, 1), 0).long()


def _chance(batch: Batch, probability: float) -> bool:
    """Return True with this probability, drawn on the CPU."""
    return batch.choose(1 << 30) < probability * (1 << 30)
