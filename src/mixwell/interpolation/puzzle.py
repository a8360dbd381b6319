"""PuzzleMix: which blocks are whose, and where they go, by what is salient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from mixwell.batch import Batch
from mixwell.checks import Range, check_range, check_several, check_whole, plain
from mixwell.errors import InputError
from mixwell.interpolation.base import Interpolation, image_size
from mixwell.interpolation.salient import cell_of, masked, spread
from mixwell.mix import Mix, Warp
from mixwell.saliency import as_images, normalised

__all__ = ["PuzzleMix", "energy", "minimal_cut", "transport"]

_THRESHOLDS = (0.5, 0.1, 0.3, 0.7, 0.9)
"""Where a relaxed cut is rounded; of equal energies the first counts."""


def energy(labels: Tensor, unary: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """Return the energies of labelings l of n x m sites, (B,).

    .. code-block:: text

        E(l) = Σ_s U_s(l_s) + Σ_{s~t} w_st (l_s - l_t)² / (L - 1)²

    Args:
        labels: (B, n, m) int64 below L.
        unary: (B, L, n, m), U.
        down: (B, n-1, m), w of each site and the one below.
        across: (B, n, m-1), w of each site and the one to its right.
    """
    level = labels.to(unary.dtype) / (unary.shape[1] - 1)
    return (
        unary.gather(1, labels[:, None]).sum((1, 2, 3))
        + (down * level.diff(dim=1).square()).sum((1, 2))
        + (across * level.diff(dim=2).square()).sum((1, 2))
    )


def minimal_cut(unary: Tensor, down: Tensor, across: Tensor, iterations: int = 100) -> Tensor:
    """Return labelings of least :func:`energy`, (B, n, m) int64, all at once and on any device.

    The labels' level sets ``y_k = [l ≥ k]``, 0 < k < L, turn the energy into that of a cut,

    .. code-block:: text

        Σ_s Σ_k c_sk y_sk + Σ_{s~t} Σ_{k,j} w_st |y_sk - y_tj| / (L - 1)²

    whose relaxation to [0, 1] is a linear program with whole solutions. It is solved by so many
    steps of the primal-dual method of Chambolle and Pock (2011), and rounded.

    Args:
        unary: (B, L, n, m), convex in the label (which keeps level sets nested).
        down: (B, n-1, m), ≥ 0.
        across: (B, n, m-1), ≥ 0.
        iterations: the more, the nearer to the minimum.
    """
    terms, levels = (unary, down, across), unary.shape[1] - 1
    # Of (Σ_k y_sk - Σ_j y_tj)², -2 y_sk y_tj is |y_sk - y_tj| - y_sk - y_tj for 0 and 1, and
    # nested level sets make Σ_{k,j} y_sk y_sj the same as Σ_k (2k - 1) y_sk.
    order = torch.arange(1, levels + 1, device=unary.device).view(1, -1, 1, 1)
    degree = _at_sites(down, down, across, across)[:, None]
    cost = unary.diff(dim=1) + degree * (2 * order - 1 - levels) / levels**2
    # The result does not depend on the energy's scale; the steps do.
    scale = cost.abs().mean((1, 2, 3), keepdim=True).clamp_min(torch.finfo(cost.dtype).tiny)
    cost = cost / scale
    borders = _at_sites(*(torch.ones_like(w) for w in (down, down, across, across)))[:, None]
    down, across = (w[:, None, None] / (levels**2 * scale[:, None]) for w in (down, across))
    # Steps by what each variable is in (Pock and Chambolle, 2011): two sites, and so many borders.
    # Between flows, which are as large as the weights, and y they are balanced by measurement.
    reach = torch.cat([down.flatten(1), across.flatten(1)], 1).mean(1).clamp_min(1e-3) / 5
    reach = reach.view(-1, 1, 1, 1, 1)
    forth, back = reach / 2, 1 / (reach[:, 0] * levels * borders)

    y = ahead = (cost < 0).to(cost.dtype)
    flow_down, flow_across = torch.zeros_like(down), torch.zeros_like(across)
    for _ in range(iterations):
        here, there = ahead[:, :, None], ahead[:, None]
        flow_down = flow_down + forth * (here[..., :-1, :] - there[..., 1:, :])
        flow_down = torch.clamp(flow_down, -down, down)
        flow_across = flow_across + forth * (here[..., :-1] - there[..., 1:])
        flow_across = torch.clamp(flow_across, -across, across)
        out = _at_sites(
            flow_down.sum(2), -flow_down.sum(1), flow_across.sum(2), -flow_across.sum(1)
        )
        new = (y - back * (cost + out)).clamp(0, 1)
        y, ahead = new, 2 * new - y
    # A relaxed energy is the mean of those of the roundings at all thresholds (the coarea formula),
    # so that, if it has not converged, one of them is no worse.
    rounded = torch.stack([(y > threshold).sum(1) for threshold in _THRESHOLDS], 1)
    several = [term.repeat_interleave(len(_THRESHOLDS), 0) for term in terms]
    found = energy(rounded.flatten(0, 1), *several).view(len(y), -1)
    best = found.argmin(1)[:, None, None, None]
    return torch.take_along_dim(rounded, best, 1)[:, 0]


def _at_sites(below: Tensor, above: Tensor, right: Tensor, left: Tensor) -> Tensor:
    """Return the sums at n x m sites of what is at the borders below them, above, and so on."""
    vertical = F.pad(below, (0, 0, 0, 1)) + F.pad(above, (0, 0, 1, 0))
    return vertical + F.pad(right, (0, 1)) + F.pad(left, (1, 0))


def transport(salient: Tensor, mask: Tensor, cost: float = 0.8, rounds: int = 4) -> Tensor:
    """Return where the content of each block comes from: (B, n n) int64, a permutation.

    Of the assignments a of blocks to places p it looks for the one of least

    .. code-block:: text

        Σ_p cost ‖a_p - p‖² / (n - 1)² - s_{a_p} z_p

    so that salient blocks go where the mask shows them, not far. From where all stay it exchanges
    pairs of blocks, in each round all those that are each other's best exchange; no exchange
    makes it worse.

    Args:
        salient: (B, n, n), s.
        mask: (B, n, n), z.
        cost: of a distance as long as the image's side, squared; ≥ 0.
        rounds: of exchanges.
    """
    size, side = len(salient), salient.shape[1]
    count = side * side
    s, z = salient.reshape(size, count, 1), mask.reshape(size, count, 1).to(salient.dtype)
    axis = torch.arange(side, device=s.device, dtype=s.dtype) / max(side - 1, 1)
    places = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), 2).view(count, 2)
    places = places.expand(size, -1, -1)
    home = torch.arange(count, device=s.device).expand(size, -1)
    # What is at each place: its origin, that as coordinates, and its saliency.
    content, origin = home, places
    ones = torch.ones_like(s)
    for _ in range(rounds):
        # The gain of exchanging what is at p and q, (s_p - s_q)(z_q - z_p)
        # - 2 cost (a_p - a_q)·(p - q), as one product of matrices.
        pull = 2 * cost
        own = s * z + pull * (origin * places).sum(2, keepdim=True)
        left = torch.cat([s, z, pull * origin, pull * places, -own, ones], 2)
        right = torch.cat([z, s, places, origin, ones, -own], 2)
        gain, other = (left @ right.mT).max(2)
        mutual = other.gather(1, other) == home
        # Less is rounding.
        moves = mutual & (gain > 1e-6)
        swap = torch.where(moves, other, home)
        content = content.gather(1, swap)
        s = s.gather(1, swap[:, :, None])
        origin = origin.gather(1, swap[:, :, None].expand(-1, -1, 2))
    return content


def moved(content: Tensor, height: int, width: int) -> Tensor:
    """Return where pixels are read, (B, H, W, 2) as of a Warp, when blocks have moved.

    Args:
        content: (B, n n) int64, the block whose content each block takes. Blocks that are not of
            one size are cut off, or go on with their border.
        height: H in pixels.
        width: W.
    """
    side = math.isqrt(content.shape[1])
    axes = [_places(size, side, content.device) for size in (height, width)]
    (row, *_), (column, *_) = axes
    block = content[:, row[:, None] * side + column]
    sources = (block.div(side, rounding_mode="floor"), block.remainder(side))
    read = []
    for source, (_, within, start), size, shape in zip(
        sources, axes, (height, width), ((-1, 1), (1, -1)), strict=True
    ):
        place = start[source] + within.view(shape)
        place = torch.minimum(place, start[source + 1] - 1)
        read.append((2 * place + 1) / size - 1)
    return torch.stack(read[::-1], 3)


def _places(size: int, count: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return of an axis each pixel's cell, its place within, and where each cell starts."""
    cell = cell_of(size, count, device)
    start = (torch.arange(count + 1, device=device) * size + count - 1).div(
        count, rounding_mode="floor"
    )
    return cell, torch.arange(size, device=device) - start[cell], start


class PuzzleMix(Interpolation):
    """Keep what is salient of both samples, block by block: PuzzleMix (arXiv:2009.06962).

    The image is divided into n x n blocks, n drawn for each batch. Saliency is the loss's gradient
    with respect to the pixels, for which the model runs forward and backward once more. The mask,
    of L values for each block, minimises

    .. code-block:: text

        Σ_s z_s S_σ(i),s + (1 - z_s) S_i,s                     the saliency that is lost
        + β' Σ_{s~t} (z_s - z_t)²                              a smooth mask
        + β' γ Σ_{s~t} d_st(z_s, z_t)                          and a smooth image
        - η / n² Σ_s log Binomial((L - 1) z_s; L - 1, λ_i)     near λ,       β' = β / 16 n

    with d the difference of colours across a border of blocks. Then pieces of either sample are
    exchanged (see :func:`transport`) so that its salient ones are where the mask shows it. λ is
    corrected to the mask's mean; at λ = 0 and 1 it is one sample alone.

    It differs from the paper in this: the mask is a minimal cut, found for all samples at once (see
    :func:`minimal_cut`), where the paper takes alpha-beta swaps sample by sample; pieces are
    exchanged in pairs, so that none is lost or doubled, where the paper solves the assignment by
    masking in turns; colours are scaled to [0, 1] by the batch's least and greatest value, for
    want of the data set's; and there is neither adversarial noise nor a loss of clean samples
    (regmixup adds one).

    Args:
        blocks: n, or several, one of them drawn for each batch, of which those are left out whose
            blocks would have less than 2 pixels a side.
        levels: L ≥ 2, how many values the mask may have.
        beta: β ≥ 0.
        gamma: γ in [0, 1].
        prior: η ≥ 0.
        transport: what moving content costs, ≥ 0; None keeps all where it is.
        pieces: how many pieces to a side are moved, where the mask has fewer blocks; of CIFAR's
            images they are the published 4 pixels wide.
    """

    needs_model = True

    ranges: ClassVar = {"beta": Range(0.3, 5, log=True), "prior": Range(0.05, 1, log=True)}

    def __init__(
        self,
        blocks: int | Sequence[int] = (2, 4, 8, 16),
        levels: int = 3,
        beta: float = 1.2,
        gamma: float = 0.5,
        prior: float = 0.2,
        transport: float | None = 0.8,
        pieces: int = 8,
    ) -> None:
        super().__init__()
        several = not isinstance(plain(blocks), int)
        given = check_several("blocks", blocks, "whole numbers from 2 on") if several else [blocks]
        self.blocks = [check_whole("blocks", n, 2) for n in given]
        if not self.blocks:
            raise InputError(f"blocks must be whole numbers from 2 on, got {blocks!r}")
        self.levels = check_whole("levels", levels, 2)
        self.beta = check_range("beta", beta)
        self.gamma = check_range("gamma", gamma, 0, 1)
        self.prior = check_range("prior", prior)
        self.transport = None if transport is None else check_range("transport", transport)
        self.pieces = check_whole("pieces", pieces, 2)

    def shape(self, batch: Batch, mix: Mix) -> Mix:
        height, width = image_size("PuzzleMix", batch)
        side = self._side(batch, height, width)
        salient = batch.look("gradient")
        with torch.no_grad(), torch.autocast(salient.device.type, enabled=False):
            own = normalised(F.adaptive_avg_pool2d(salient, side))
            theirs = own.index_select(0, mix.partner)
            level = minimal_cut(*self.terms(batch, mix, own, theirs)) / (self.levels - 1)
            lam = mix.lam[:, None, None]
            level = torch.where((lam == 0) | (lam == 1), lam, level.to(lam.dtype))
            shaped = masked(mix, spread(level, height, width))
            if self.transport is None:
                return shaped
            finer = max(1, min(self.pieces, min(height, width) // 2) // side)
            own = normalised(F.adaptive_avg_pool2d(salient, side * finer))
            level = level.repeat_interleave(finer, 1).repeat_interleave(finer, 2)
            content = transport(
                torch.cat([own, own.index_select(0, mix.partner)]),
                torch.cat([level > 0, level < 1]),
                self.transport,
            )
            first, second = moved(content, height, width).chunk(2)
            return Mix(shaped.partner, shaped.lam, shaped.mask, warp=Warp(first, second))

    def _side(self, batch: Batch, height: int, width: int) -> int:
        """Return n."""
        fitting = [n for n in self.blocks if 2 * n <= min(height, width)]
        if not fitting:
            raise InputError(
                f"PuzzleMix: blocks={self.blocks} would be of less than 2 x 2 pixels in images of "
                f"{height} x {width}; give fewer blocks, or mix otherwise"
            )
        return fitting[batch.choose(len(fitting))] if len(fitting) > 1 else fitting[0]

    def terms(
        self, batch: Batch, mix: Mix, own: Tensor, theirs: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the energy of masks, labelled by levels, as :func:`energy` takes it.

        Args:
            batch: the images.
            mix: partners and λ.
            own: (B, n, n), the own samples' saliency in each block.
            theirs: the partners'.
        """
        side = own.shape[1]
        level = torch.arange(self.levels, device=own.device).view(1, -1, 1, 1)
        most = self.levels - 1
        lam = mix.lam.to(own.dtype).view(-1, 1, 1, 1)
        log_prior = (
            torch.lgamma(own.new_full((), most + 1))
            - torch.lgamma(level + 1.0)
            - torch.lgamma(most + 1.0 - level)
            + level * (lam + 1e-8).log()
            + (most - level) * (1 - lam + 1e-8).log()
        )
        smooth = self.beta / (16 * side)
        images = as_images("PuzzleMix", batch.x)
        low, high = images.amin(), images.amax()
        images = ((images - low) / (high - low).clamp_min(1e-12)).to(own.dtype)
        # d_ab: sample a on this side of a border and b on the other; 1 is the own one.
        (b11, b10, b01, b00), (r11, r10, r01, r00) = (
            [smooth * self.gamma * d for d in _across_borders(images, mix.partner, side, axis)]
            for axis in (0, 1)
        )
        kept = theirs + _at_sites(b10 + b11, b01 + b11, r10 + r11, r01 + r11) / 2
        lost = own + _at_sites(b01 + b00, b10 + b00, r01 + r00, r10 + r00) / 2
        down, across = (
            smooth + (d10 + d01 - d11 - d00) / 2
            for d11, d10, d01, d00 in ((b11, b10, b01, b00), (r11, r10, r01, r00))
        )
        z = level / most
        unary = z * kept[:, None] + (1 - z) * lost[:, None] - self.prior / side**2 * log_prior
        return unary, down, across


def _across_borders(images: Tensor, partner: Tensor, side: int, axis: int) -> list[Tensor]:
    """Return mean absolute differences across borders of blocks: (B, n-1, n), or (B, n, n-1).

    Args:
        images: (B, c, H, W).
        partner: (B,).
        side: n.
        axis: 0 for borders between a block and the one below, 1 for those to the right.

    Returns:
        Of own and own, own and partner, partner and own, partner and partner.
    """
    # Colours next to a border are means of 4 pixels a side, or of the block if it has less.
    parts = [max(1, size // side // 4) for size in images.shape[2:]]
    small = F.adaptive_avg_pool2d(images, (side * parts[0], side * parts[1]))
    if axis == 1:
        small, parts = small.mT, parts[::-1]
    near, far = small[:, :, parts[0] - 1 : -1 : parts[0]], small[:, :, parts[0] :: parts[0]]
    pairs = [(near, far), (near, far[partner]), (near[partner], far), (near[partner], far[partner])]
    found = [(a - b).abs().mean(1).unflatten(2, (side, parts[1])).mean(3) for a, b in pairs]
    return [d.mT for d in found] if axis == 1 else found
