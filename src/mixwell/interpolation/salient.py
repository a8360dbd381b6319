"""Mixing by place, where the samples are salient: AttentiveMix, GuidedMix and SnapMix."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from mixwell import functional
from mixwell.batch import Batch
from mixwell.checks import Per, Range, check_choice, check_range
from mixwell.interpolation.base import Interpolation, image_size
from mixwell.interpolation.masks import draw_box
from mixwell.mix import Box, Mix
from mixwell.saliency import check_blur, smoothed

__all__ = ["AttentiveMix", "GuidedMix", "SnapMix", "cell_of", "masked", "spread"]


def cell_of(size: int, count: int, device: torch.device) -> Tensor:
    """Return which of ``count`` cells each pixel of an axis is in: (size,) int64, in order."""
    return torch.arange(size, device=device) * count // size


def spread(cells: Tensor, height: int, width: int) -> Tensor:
    """Return (B, h, w) values of cells as a mask (B, 1, H, W), the same all over each cell."""
    row = cell_of(height, cells.shape[1], cells.device)
    column = cell_of(width, cells.shape[2], cells.device)
    return cells.index_select(2, column).index_select(1, row)[:, None]


def masked(mix: Mix, mask: Tensor) -> Mix:
    """Return the mix with a mask (B, 1, H, W), and λ that is its mean."""
    lam = mask.to(torch.promote_types(mix.lam.dtype, torch.float32)).mean((1, 2, 3))
    return Mix(mix.partner, lam.to(mix.lam.dtype), mask)


class AttentiveMix(Interpolation):
    """Paste the cells that the model attends to most in the partner (arXiv:2003.13048).

    Of the h x w cells of its feature maps the partner gives round((1 - λ) h w), those of greatest
    mean over channels, to the same places of the own sample; λ is corrected to the share of
    pixels. Where the image's size is no multiple of the grid's, cells differ by a pixel.

    The paper asks a pretrained ResNet-50 and always pastes 6 of 7 x 7 cells; here the model that
    is trained is asked, and λ may have any distribution.

    Args:
        look: "maps", the last feature maps of a convolutional network; or "attention", a vision
            transformer's, of its class token.
    """

    needs_model = True

    def __init__(self, look: str = "maps") -> None:
        super().__init__()
        self.look = check_choice("look", look, ("maps", "attention"))

    def shape(self, batch: Batch, mix: Mix) -> Mix:
        height, width = image_size("AttentiveMix", batch)
        seen = batch.look(self.look)
        seen = seen.mean(1) if seen.ndim == 4 else seen
        # Each cell's place in the order from the most attended to the least.
        rank = seen.flatten(1).argsort(dim=1, descending=True, stable=True).argsort(1)
        rank = rank.index_select(0, mix.partner)
        given = ((1 - mix.lam) * rank.shape[1]).round()
        own = (rank >= given[:, None]).unflatten(1, seen.shape[1:])
        return masked(mix, spread(own, height, width))


class GuidedMix(Interpolation):
    """Weigh each pixel by how salient it is in either sample: GuidedMixup (arXiv:2306.16612).

    .. code-block:: text

        M_i = λ_i s_i / (λ_i s_i + (1 - λ_i) s_σ(i))        s: smoothed saliency, summing to 1

    At λ = 1/2 it is the paper's mask, which has no λ; others lean to one sample, up to that sample
    alone. λ is then corrected to the mask's mean.

    Args:
        saliency: "spectral" looks at the images alone (the paper's Guided-SR): the modulus of the
            spectral residual at full size, smoothed twice, as in the authors' code; "gradient" at
            the loss's gradient at each pixel (Guided-AP), for which the model runs forward and
            backward once more.
        blur: the side in pixels of the Gaussian that the saliency is smoothed with, odd; 1 for
            none. The default is the paper's for CIFAR.
        sigma: its standard deviation in pixels; > 0.
    """

    ranges: ClassVar = {"sigma": Range(0.5, 10, log=True)}

    def __init__(self, saliency: str = "spectral", blur: int = 7, sigma: float = 3.0) -> None:
        super().__init__()
        self.saliency = check_choice("saliency", saliency, ("spectral", "gradient"))
        self.blur = check_blur(blur)
        self.sigma = check_range("sigma", sigma, open=True)
        self.needs_model = saliency == "gradient"

    def shape(self, batch: Batch, mix: Mix) -> Mix:
        seen = smoothed("GuidedMix", batch, self.saliency, self.blur, self.sigma)
        lam = mix.lam[:, None, None].to(seen.dtype)
        own, theirs = lam * seen, (1 - lam) * seen.index_select(0, mix.partner)
        total = own + theirs
        # Where neither is salient, λ.
        mask = torch.where(total > 0, own / torch.where(total > 0, total, 1.0), lam)
        return masked(mix, mask[:, None])


class SnapMix(Interpolation):
    """Paste a box of the partner, resized, from another place: SnapMix (arXiv:2012.04846).

    Two boxes are drawn as in CutMix, independently: one in the own sample, of area 1 - λ, and one
    in the partner, whose area is 1 - λ' with λ' ~ Beta(α, α); what is in the second is resized into
    the first. λ is the share of pixels that is left of the own sample. Where the second box is
    empty nothing is pasted.

    The labels that go with it, by what is in the boxes, are :class:`mixwell.labels.Semantic`.

    Args:
        alpha: of λ', where the partner is cut; > 0.
        per: "sample" draws two boxes for each sample; "batch" two for all (with one λ for all).
    """

    ranges: ClassVar = {"alpha": Range(0.05, 20, log=True)}

    def __init__(self, alpha: float = 5.0, per: Per = "sample") -> None:
        super().__init__()
        self.alpha = check_range("alpha", alpha, open=True)
        self.per = check_choice("per", per, ("sample", "batch"))

    def shape(self, batch: Batch, mix: Mix) -> Mix:
        height, width = image_size("SnapMix", batch)
        size = len(batch)
        draws = 1 if self.per == "batch" else size
        centre = batch.rand(draws, 4).expand(size, 4)
        shape = torch.full((draws,), self.alpha, dtype=torch.float32, device=batch.device)
        other_lam = functional.sample_beta(shape, batch.generator).expand(size)
        box, _ = draw_box(mix.lam, centre[:, :2], height, width)
        source, left = draw_box(other_lam, centre[:, 2:], height, width)
        empty = left == 1
        edges = torch.where(empty[:, None], 0, box.edges)
        box = Box(edges, height, width, source.edges)
        return Mix(mix.partner, box.share().to(mix.lam.dtype), box=box)
