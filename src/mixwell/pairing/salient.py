"""Partners by where they are salient."""

from __future__ import annotations

import torch
from torch import Tensor

from mixwell.batch import Batch
from mixwell.checks import check_choice, check_range
from mixwell.functional import pairwise_distance
from mixwell.pairing.base import Pairing
from mixwell.saliency import check_blur, smoothed

__all__ = ["SalientCycle"]


class SalientCycle(Pairing):
    """One cycle through the batch, from each sample to one that is salient elsewhere.

    GuidedMixup's greedy pairing (arXiv:2306.16612): it starts with the pair whose smoothed saliency
    maps are farthest apart, and goes on from each sample to the farthest of those that have not
    been a partner yet, and at last back to the first; so everyone is a partner once. B steps
    follow each other, of O(B) each, without waiting for a device; a sample is alone only in a
    batch of one. It holds the (B, B) distances of all pairs.

    Args:
        saliency: "spectral" or "gradient", as of :class:`GuidedMix
            <mixwell.interpolation.GuidedMix>`.
        blur: the side in pixels of the Gaussian that the saliency is smoothed with, odd.
        sigma: its standard deviation in pixels; > 0.
    """

    def __init__(self, saliency: str = "spectral", blur: int = 7, sigma: float = 3.0) -> None:
        super().__init__()
        self.saliency = check_choice("saliency", saliency, ("spectral", "gradient"))
        self.blur = check_blur(blur)
        self.sigma = check_range("sigma", sigma, open=True)

    def forward(self, batch: Batch) -> Tensor:
        seen = smoothed("SalientCycle", batch, self.saliency, self.blur, self.sigma)
        distance = pairwise_distance(seen).fill_diagonal_(-torch.inf)
        partner = torch.arange(len(batch), device=batch.device)
        first = row = distance.amax(1).argmax(0, keepdim=True)
        for _ in range(len(batch) - 1):
            distance.index_fill_(1, row, -torch.inf)
            column = distance.index_select(0, row).argmax(1)
            partner.scatter_(0, row, column)
            row = column
        return partner.scatter_(0, row, first)
