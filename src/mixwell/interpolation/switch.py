"""Several ways of mixing, one of them drawn at random for each sample or batch."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from mixwell.batch import Batch
from mixwell.checks import Per, check_choice, check_range, check_several
from mixwell.coefficient import Beta
from mixwell.errors import InputError, suggest
from mixwell.interpolation.base import Interpolation
from mixwell.mix import Box, Mix, MixedTarget, MultiTarget, Warp
from mixwell.parts import constructor_arguments
from mixwell.processes import agree, several

__all__ = ["Switch"]

_STEPS = 1 << 30
"""How finely the CPU's draw of a policy is resolved."""


class Switch(Interpolation):
    """Draw the way of mixing from several, as the recipes of vision transformers do.

    >>> from mixwell.interpolation import CutMix, Linear
    >>> switch = Switch([Linear(), CutMix()], probabilities=[0.5, 0.5], alphas=[0.8, 1.0])

    Args:
        policies: interpolations at the input, or their names ("CutMix"), which get ``per`` where
            they take it.
        probabilities: of each policy, summing to 1; the same for all without.
        per: "batch" draws one policy for the batch, on the CPU, and costs what that policy costs;
            "sample" draws one for each sample, and costs all of them. Processes of a distributed
            training draw each for itself, but all alike where a policy learns.
        alphas: λ is drawn anew from Beta(α, α) for what takes a policy (per batch one for all),
            or stays the coefficient's where its α is None, and everywhere without ``alphas``. A
            λ of 1, a sample that is not mixed (``p``), stays in any case.

    Raises:
        InputError: there is no such policy, or it does not mix at the input by a mix alone.
    """

    def __init__(
        self,
        policies: Sequence[Interpolation | str] = ("Linear", "CutMix"),
        probabilities: Sequence[float] | None = None,
        per: Per = "sample",
        alphas: Sequence[float | None] | None = None,
    ) -> None:
        super().__init__()
        self.per = check_choice("per", per, ("sample", "batch"))
        several = isinstance(policies, (Sequence, nn.ModuleList)) and len(policies) > 0
        if isinstance(policies, str) or not several:
            raise InputError(
                f"policies must be a list of interpolations or their names, got {policies!r}"
            )
        chosen = [_policy(policy, per) for policy in policies]
        self.policies = nn.ModuleList(chosen)
        count = len(chosen)
        self.probabilities = _probabilities(probabilities, count)
        # The last may fall short of 1 by rounding, and no draw may fall beyond it.
        self._bounds = [*accumulate(self.probabilities[:-1])]
        self.alphas = _alphas(alphas, count)
        self._betas = [None if alpha is None else Beta(alpha, per) for alpha in self.alphas]
        self.needs_model = any(policy.needs_model for policy in chosen)
        self.learns = any(policy.learns for policy in chosen)
        self._taken = 0

    def shape(self, batch: Batch, mix: Mix) -> Mix:
        if self.per == "batch":
            drawn = batch.choose(_STEPS)
            if self.learns and several():  # what learns waits for all processes
                drawn = agree(facts=(drawn,), near=mix.lam)[0][0]
            self._taken = bisect_right(self._bounds, drawn / _STEPS)
            return self._by(self._taken, batch, mix)
        draw = batch.rand(len(batch))
        taken = torch.zeros(len(batch), dtype=torch.int64, device=batch.device)
        for bound in self._bounds:
            taken = taken + (draw >= bound)
        return _join(taken, [self._by(k, batch, mix) for k in range(len(self.policies))])

    def _by(self, k: int, batch: Batch, mix: Mix) -> Mix:
        """Return the mix by policy ``k``."""
        beta, policy = self._betas[k], self.policies[k]
        assert isinstance(policy, Interpolation)
        if beta is not None:
            lam = beta(batch, mix.partner).to(mix.lam.dtype)
            mix = Mix(mix.partner, torch.where(mix.lam < 1, lam, 1.0))
        return policy.shape(batch, mix)

    def learn(self, batch: Batch, mix: Mix, target: MixedTarget | MultiTarget) -> None:
        for k, policy in enumerate(self.policies):
            assert isinstance(policy, Interpolation)
            if policy.learns and (self.per == "sample" or k == self._taken):
                policy.learn(batch, mix, target)


# --------------------------------------------------------------------------------------- arguments


def _policy(policy: Interpolation | str | Any, per: Per) -> Interpolation:
    if isinstance(policy, str):
        policy = _named(policy, per)
    if not isinstance(policy, Interpolation):
        raise InputError(f"policies must be interpolations or their names, got {policy!r}")
    name = type(policy).__name__
    inside = [layer for layer in policy.layers if layer != "input"]
    if inside:
        raise InputError(
            f"policies: {name} mixes inside the model (at {', '.join(inside)}), and a "
            "batch goes through the model once, mixed in one place; give policies at the input"
        )
    if type(policy).forward is not Interpolation.forward:
        raise InputError(
            f"policies: {name} does not say all of its mixing in a Mix, which is what policies "
            "are switched by; give it to a method of its own"
        )
    return policy


def _named(name: str, per: Per) -> Interpolation:
    from mixwell import interpolation

    parts = {key: getattr(interpolation, key) for key in interpolation.__all__}
    parts = {key: part for key, part in parts.items() if key not in ("Interpolation", "Switch")}
    if name not in parts:
        known = ", ".join(parts)
        raise InputError(f"policies: {name!r} is unknown{suggest(name, parts)}; known: {known}")
    part = parts[name]
    made: Interpolation = part(per=per) if "per" in constructor_arguments(part) else part()
    return made


def _probabilities(probabilities: Sequence[float] | None, count: int) -> list[float]:
    if probabilities is None:
        return [1 / count] * count
    given = check_several("probabilities", probabilities, "one number for each policy")
    values = [check_range("probabilities", value, 0, 1) for value in given]
    if len(values) != count or abs(sum(values) - 1) > 1e-6:
        raise InputError(
            f"probabilities must be {count} numbers, one for each policy, that sum to 1, got "
            f"{values}, which sum to {sum(values):g}"
        )
    return values


def _alphas(alphas: Sequence[float | None] | None, count: int) -> list[float | None]:
    if alphas is None:
        return [None] * count
    given = check_several("alphas", alphas, "one number or None for each policy")
    values = [None if alpha is None else check_range("alphas", alpha, open=True) for alpha in given]
    if len(values) != count:
        raise InputError(
            f"alphas must be {count} numbers or None, one for each policy, got {values}"
        )
    return values


# ------------------------------------------------------------------------------------------ joining


def _pick(taken: Tensor, values: Sequence[Tensor]) -> Tensor:
    """Return of (B, ...) tensors that broadcast, for each sample, the one that it has taken."""
    picked = values[0]
    for k, value in enumerate(values[1:], 1):
        this = (taken == k).view(-1, *[1] * (value.ndim - 1))
        picked = torch.where(this, value, picked)
    return picked


def _join(taken: Tensor, mixes: list[Mix]) -> Mix:
    """Return one mix, in which each sample is mixed as by the one that it has taken.

    Args:
        taken: (B,) int64, a number in the list.
        mixes: of the same pairs. Whatever the draw, the kinds of these alone decide what kind of
            mix comes of them: nothing has to be looked at, or compiled again.
    """
    partner, lam = mixes[0].partner, _pick(taken, [mix.lam for mix in mixes])
    moved = any(mix.warp is not None for mix in mixes)
    if all(mix.is_uniform for mix in mixes) and not moved:
        return Mix(partner, lam)
    boxes = [mix.box for mix in mixes if mix.box is not None]
    if len(boxes) == len(mixes) and not moved:
        source = None
        if any(box.source is not None for box in boxes):
            # Resized to its own size, a box is what it was.
            source = _pick(
                taken, [box.edges if box.source is None else box.source for box in boxes]
            )
        edges = _pick(taken, [box.edges for box in boxes])
        return Mix(partner, lam, box=Box(edges, boxes[0].height, boxes[0].width, source))
    warps = [mix.warped() or Warp() for mix in mixes]
    own = _pick_grids(taken, [warp.own for warp in warps])
    other = _pick_grids(taken, [warp.partner for warp in warps])
    masks = _alike(mixes, own if other is None else other)
    warp = None if own is None and other is None else Warp(own, other)
    return Mix(partner, lam, mask=_pick(taken, masks), warp=warp)


def _alike(mixes: list[Mix], grid: Tensor | None) -> list[Tensor]:
    """Return the mixes' masks, of one dtype; λ everywhere, in the size of a grid, where none is."""
    masks = [mix.dense_mask() for mix in mixes]
    count = max((mask.ndim for mask in masks if mask is not None), default=4) - 2
    if all(mask is not None and mask.dtype == torch.bool for mask in masks):
        return [mask for mask in masks if mask is not None]
    size = [1] * count if grid is None else list(grid.shape[1:3])
    return [
        mix.lam.view(-1, 1, *[1] * count).expand(-1, 1, *size)
        if mask is None
        else mask.to(mix.lam.dtype)
        for mix, mask in zip(mixes, masks, strict=True)
    ]


def _pick_grids(taken: Tensor, grids: list[Tensor | None]) -> Tensor | None:
    """Return the grid that each sample has taken; where that is None, one that moves nothing."""
    given = [grid for grid in grids if grid is not None]
    if not given:
        return None
    first = given[0]
    height, width = first.shape[1:3]
    down, across = (
        (torch.arange(size, dtype=first.dtype, device=first.device) * 2 + 1) / size - 1
        for size in (height, width)
    )
    still = torch.stack([across.expand(height, -1), down[:, None].expand(-1, width)], 2)[None]
    return _pick(taken, [still if grid is None else grid for grid in grids])
