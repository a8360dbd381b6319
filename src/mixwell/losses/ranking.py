"""RankMixup: a mixed sample is to be believed less than the samples that it is made of."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from mixwell.checks import Range, check_choice, check_range, check_whole
from mixwell.errors import InputError
from mixwell.losses.base import Loss, check_beside, wide
from mixwell.losses.many import largest_share
from mixwell.losses.needs import Clean, Mixes, Outcome
from mixwell.mix import MixedTarget, MultiTarget

__all__ = ["MixupNDCG", "MixupRanking"]

_Target = MixedTarget | MultiTarget


def _check(owner: str, logits: Tensor, target: _Target, clean: Tensor) -> None:
    check_beside(owner, logits, target, clean=clean)
    if logits.shape != clean.shape:
        raise InputError(
            f"{owner}: logits, of mixed samples, and clean, of unmixed ones, must have one shape "
            f"(B, C), got {tuple(logits.shape)} and {tuple(clean.shape)}"
        )


def _confidence(logits: Tensor) -> Tensor:
    """Return the greatest probability of each sample: (B,)."""
    z = wide(logits)
    return torch.exp(z.amax(1) - z.logsumexp(1))


class MixupRanking(Loss):
    """MRL: unmixed samples are predicted with a margin more confidence (RankMixup).

    .. code-block:: text

        MRL_i = max(0, max_c z̃_i[c] - max_c z_i[c] + m)

    with z̃ the logits of the mixed sample and z those of the unmixed one. It is 0 where nothing of
    another class was mixed in. It is a term beside the cross-entropy of the unmixed samples, which
    it doesn't hold.

    Args:
        margin: m ≥ 0; published: 2 on CIFAR, 1 on Tiny-ImageNet.
        of: "logits", as in the authors' code and for margins of that size; "probabilities", as in
            the paper's formula: the softmax of both.
        reduction: "mean", "sum" or "none".

    Source: "RankMixup: Ranking-Based Mixup Training for Network Calibration", arXiv:2308.11990.
    """

    needs = (Clean(),)

    ranges: ClassVar = {"margin": Range(0.1, 5, log=True)}

    def __init__(self, margin: float = 2.0, of: str = "logits", reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.margin = check_range("margin", margin)
        self.of = check_choice("of", of, ("logits", "probabilities"))

    def of_step(self, outcome: Outcome) -> Tensor:
        mixed = outcome.mixed
        value: Tensor = self(mixed.logits, mixed.target, outcome.clean.logits)
        return value

    def forward(self, logits: Tensor, target: _Target, clean: Tensor) -> Tensor:
        """Return the loss.

        Args:
            logits: (B, C), of the mixed samples.
            target: theirs; read for whether a sample is mixed at all.
            clean: (B, C), of the unmixed samples.
        """
        _check("MixupRanking", logits, target, clean)
        mixed, unmixed = (
            wide(z).amax(1) if self.of == "logits" else _confidence(z) for z in (logits, clean)
        )
        loss = torch.relu(mixed - unmixed + self.margin)
        return self._reduce(torch.where(largest_share(target) < 1, loss, 0.0), target)


class MixupNDCG(Loss):
    """M-NDCG: the more of one sample is in a mix, the more confidently it is predicted (RankMixup).

    .. code-block:: text

        DCG  = p_1 / log₂ 2 + Σ_q p_q / log₂(q + 1),     IDCG = 1 / log₂ 2 + Σ_q λ_q / log₂(q + 1)
        M-NDCG = 1 - min(DCG / IDCG, IDCG / DCG),        q = 2, ..., Q

    with p_1 the confidence (the greatest probability) for the unmixed sample, p_q that for the mix
    which has the (q - 1)-th largest λ_q = max(λ, 1 - λ), or 1 where both classes are one. The
    gain's inverse, where confidences exceed the ideal, is the authors' code's.

    It is a term beside the cross-entropy of the unmixed samples, which it doesn't hold.

    Args:
        mixes: Q - 1, how many mixes of each sample, ≥ 1; all go through the model.
        reduction: "mean", "sum" or "none".

    Source: "RankMixup: Ranking-Based Mixup Training for Network Calibration", arXiv:2308.11990.
    """

    def __init__(self, mixes: int = 3, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.mixes = check_whole("mixes", mixes, 1)
        self.needs = (Clean(), Mixes(self.mixes))

    def of_step(self, outcome: Outcome) -> Tensor:
        mixed = outcome.mixed
        more = [part for rows in outcome.more for part in (rows.logits, rows.target)]
        value: Tensor = self(mixed.logits, mixed.target, outcome.clean.logits, *more)
        return value

    def forward(
        self, logits: Tensor, target: _Target, clean: Tensor, *more: Tensor | _Target
    ) -> Tensor:
        """Return the loss.

        Args:
            logits: (B, C), of the first mix.
            target: its target.
            clean: (B, C), of the unmixed samples.
            more: logits and target of the second mix, of the third, and so on.
        """
        mixed = [(logits, target), *zip(more[::2], more[1::2], strict=False)]
        if len(mixed) != self.mixes or len(more) % 2:
            raise InputError(
                f"MixupNDCG ranks {self.mixes} mixes of each sample, got {len(mixed)}: give the "
                "logits and the target of each"
            )
        gains, ideals = [], []
        for z, labels in mixed:
            _check("MixupNDCG", z, labels, clean)  # type: ignore[arg-type]
            assert isinstance(z, Tensor)
            assert not isinstance(labels, Tensor)
            gains.append(_confidence(z))
            ideals.append(largest_share(labels).to(gains[-1]))
        gain, ideal = torch.stack(gains, 1), torch.stack(ideals, 1)
        ideal, order = ideal.sort(1, descending=True)
        place = torch.arange(2, self.mixes + 2, device=gain.device, dtype=gain.dtype)
        discount = 1 / torch.log2(place + 1)
        reached = _confidence(clean) + (gain.gather(1, order) * discount).sum(1)
        best = 1 + (ideal * discount).sum(1)
        loss = 1 - torch.minimum(reached, best) / torch.maximum(reached, best)
        return self._reduce(loss, target)
