"""How much of each? Each answer maps a batch and its partners to own-sample weights λ: (B,)."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from mixwell import functional
from mixwell.batch import Batch, Distance, Range, check_choice, check_range
from mixwell.errors import InputError

__all__ = ["Beta", "Coefficient", "Constant", "Midpoint", "SimilarityKernel", "TruncatedBeta"]

Per = Literal["sample", "batch"]


class Coefficient(nn.Module):
    """Base class of the coefficients.

    Args:
        per: "sample" draws one λ for each sample, "batch" one for all.
    """

    needs_features = False
    """Whether :meth:`forward` reads ``batch.features``."""

    def __init__(self, per: Per = "sample") -> None:
        super().__init__()
        self.per = check_choice("per", per, ("sample", "batch"))

    def forward(self, batch: Batch, partner: Tensor) -> Tensor:
        """Return (B,) λ in [0, 1]."""
        raise NotImplementedError

    def pair(self, batch: Batch, partner: Tensor) -> tuple[Tensor, Tensor]:
        """Return the λ of the inputs and the λ of the targets; the same unless overridden."""
        lam = self(batch, partner)
        return lam, lam

    def _symmetric(self, batch: Batch, alpha: float) -> Tensor:
        """Draw λ ~ Beta(α, α), (B,), one for each sample or one for all."""
        size = 1 if self.per == "batch" else len(batch)
        shape = torch.full((size,), alpha, device=batch.device)
        return functional.sample_beta(shape, batch.generator).expand(len(batch))

    def _uniform(self, batch: Batch) -> Tensor:
        return batch.rand(1 if self.per == "batch" else len(batch)).expand(len(batch))


class Beta(Coefficient):
    """λ ~ Beta(α, α) (mixup, arXiv:1710.09412).

    Args:
        alpha: α > 0: small values mix little, 1 is uniform, large ones mix near half and half.
        per: "sample" or "batch".
    """

    ranges: ClassVar = {"alpha": Range(0.05, 20, log=True)}

    def __init__(self, alpha: float = 1.0, per: Per = "sample") -> None:
        super().__init__(per)
        self.alpha = check_range("alpha", alpha, open=True)

    def forward(self, batch: Batch, partner: Tensor) -> Tensor:
        return self._symmetric(batch, self.alpha)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}, per={self.per!r}"


class TruncatedBeta(Beta):
    """λ ~ Beta(α, α) restricted to [low, high], by the inverse distribution function.

    Args:
        alpha: α > 0.
        low: the least λ; the default 1/2 keeps the own sample the heavier one.
        high: the greatest λ.
        per: "sample" or "batch".
    """

    ranges: ClassVar = {"alpha": Range(0.05, 20, log=True)}

    def __init__(
        self, alpha: float = 1.0, low: float = 0.5, high: float = 1.0, per: Per = "sample"
    ) -> None:
        super().__init__(alpha, per)
        self.low = check_range("low", low, 0, 1)
        self.high = check_range("high", high, 0, 1)
        if self.low >= self.high:
            raise InputError(f"low must be below high, got low={low!r} and high={high!r}")

    def forward(self, batch: Batch, partner: Tensor) -> Tensor:
        ends = torch.tensor([self.low, self.high], dtype=torch.float64)
        alpha = torch.tensor(self.alpha, dtype=torch.float64)
        first, last = functional.beta_cdf(ends, alpha).tolist()
        u = first + (last - first) * self._uniform(batch).double()
        lam = functional.beta_icdf(u, alpha.to(u.device))
        return lam.float().clamp(self.low, self.high)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, low={self.low}, high={self.high}"


class Constant(Coefficient):
    """The same λ for every pair of every batch.

    Args:
        lam: λ in [0, 1].
    """

    def __init__(self, lam: float = 0.5) -> None:
        super().__init__()
        self.lam = check_range("lam", lam, 0, 1)

    def forward(self, batch: Batch, partner: Tensor) -> Tensor:
        return torch.full((len(batch),), self.lam, device=batch.device)

    def extra_repr(self) -> str:
        return f"lam={self.lam}"


class SimilarityKernel(Coefficient):
    """Similar samples mix strongly, dissimilar ones hardly (SK, arXiv:2311.01434v3).

    .. code-block:: text

        d_i = ‖f(x_i) - f(x_σ(i))‖²,   n_i = d_i / mean_j d_j
        τ_i = τ_max · exp(-(n_i - 1) / (2 τ_std²))
        λ_i = I⁻¹(u_i; τ_i, τ_i),  u ~ Beta(α, α)          (α = 1: λ_i ~ Beta(τ_i, τ_i))

    Args:
        alpha: α > 0 of the variable that is warped.
        tau_max: τ of a pair at the mean distance; > 0.
        tau_std: the kernel's width; > 0.
        distance: what d compares: "features" of the unmixed samples (an extra pass without
            gradient, unless the mixing happens at the head), the "input" or the "label".
        squared: False takes the plain L2 distance.
        target_tau_max: τ_max of the targets' own kernel; the inputs' without one.
        target_tau_std: τ_std of the targets' own kernel. With either, inputs and targets get
            their own λ from the same u.
    """

    ranges: ClassVar = {"tau_max": Range(1e-4, 10, log=True), "tau_std": Range(0.1, 2, log=True)}

    def __init__(
        self,
        alpha: float = 1.0,
        tau_max: float = 1.0,
        tau_std: float = 0.25,
        distance: Distance = "features",
        squared: bool = True,
        target_tau_max: float | None = None,
        target_tau_std: float | None = None,
    ) -> None:
        super().__init__()
        self.alpha = check_range("alpha", alpha, open=True)
        self.tau_max = check_range("tau_max", tau_max, open=True)
        self.tau_std = check_range("tau_std", tau_std, open=True)
        self.distance = check_choice("distance", distance, ("features", "input", "label"))
        self.needs_features = distance == "features"
        self.squared = squared
        self.has_target_kernel = target_tau_max is not None or target_tau_std is not None
        self.target_tau_max = (
            self.tau_max
            if target_tau_max is None
            else check_range("target_tau_max", target_tau_max, open=True)
        )
        self.target_tau_std = (
            self.tau_std
            if target_tau_std is None
            else check_range("target_tau_std", target_tau_std, open=True)
        )

    def forward(self, batch: Batch, partner: Tensor) -> Tensor:
        return self.pair(batch, partner)[0]

    def pair(self, batch: Batch, partner: Tensor) -> tuple[Tensor, Tensor]:
        distance = batch.measure(self.distance, partner, squared=self.squared)
        tau = functional.kernel_tau(distance, self.tau_max, self.tau_std)
        if self.alpha == 1.0 and not self.has_target_kernel:
            lam = functional.sample_beta(tau, batch.generator)
            return lam, lam
        u = self._symmetric(batch, self.alpha)
        lam = functional.beta_icdf(u, tau)
        if not self.has_target_kernel:
            return lam, lam
        target_tau = functional.kernel_tau(distance, self.target_tau_max, self.target_tau_std)
        return lam, functional.beta_icdf(u, target_tau)

    def extra_repr(self) -> str:
        text = f"alpha={self.alpha}, tau_max={self.tau_max}, tau_std={self.tau_std}, "
        if self.has_target_kernel:
            text += f"target_tau_max={self.target_tau_max}, target_tau_std={self.target_tau_std}, "
        return text + f"distance={self.distance!r}, squared={self.squared}"


class Midpoint(Coefficient):
    """A schedule from the own sample to the midpoint of the pair (AM, arXiv:2401.14696).

    .. code-block:: text

        asymptotic   λ_t = 1/2 + (λ_0 - 1/2) · exp(-k t)
        linear       λ_t = 1/2 + (λ_0 - 1/2) · (1 - t)
        cosine       λ_t = 1/2 + (λ_0 - 1/2) · (1 + cos πt) / 2
        constant     λ_t = λ_0

    with t in [0, 1] the training progress told by ``method.set_progress(t)``.

    Args:
        schedule: one of the four.
        lam0: λ_0 in [1/2, 1], so that the own label stays the right one.
        k: the asymptotic schedule's rate; ≥ 0.
    """

    ranges: ClassVar = {"k": Range(1, 20, log=True)}

    def __init__(self, schedule: str = "asymptotic", lam0: float = 1.0, k: float = 5.0) -> None:
        super().__init__()
        schedules = ("asymptotic", "linear", "cosine", "constant")
        self.schedule = check_choice("schedule", schedule, schedules)
        self.lam0 = check_range("lam0", lam0, 0.5, 1)
        self.k = check_range("k", k)

    def value(self, progress: Tensor) -> Tensor:
        """Return λ_t at this progress, a tensor like ``progress``."""
        if self.schedule == "asymptotic":
            rest = torch.exp(-self.k * progress)
        elif self.schedule == "linear":
            rest = 1 - progress
        elif self.schedule == "cosine":
            rest = (1 + torch.cos(math.pi * progress)) / 2
        else:
            rest = torch.ones_like(progress)
        return 0.5 + (self.lam0 - 0.5) * rest

    def forward(self, batch: Batch, partner: Tensor) -> Tensor:
        return torch.zeros(len(batch), device=batch.device) + self.value(batch.progress)

    def extra_repr(self) -> str:
        return f"schedule={self.schedule!r}, lam0={self.lam0}, k={self.k}"
