"""How much of each? Each answer maps a batch and its partners to own-sample weights λ: (B,)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from mixwell import functional
from mixwell.batch import Batch, Distance
from mixwell.checks import Per, Range, check_choice, check_counts, check_range
from mixwell.errors import InputError
from mixwell.mix import Mix

__all__ = [
    "Beta",
    "ClassAware",
    "Coefficient",
    "Constant",
    "Dirichlet",
    "FeatureMemory",
    "Midpoint",
    "PSeries",
    "SimilarityKernel",
    "SkewedBeta",
    "TruncatedBeta",
]


class Coefficient(nn.Module):
    """Base class of the coefficients.

    Args:
        per: "sample" draws one λ for each sample, "batch" one for all.
    """

    needs_features = False
    """Whether :meth:`forward` reads ``batch.features``."""

    remembers = False
    """Whether :meth:`remember` wants the features of each step."""

    samples: int = 2
    """How many samples are mixed into one: with more than two, :meth:`weights` is asked."""

    def __init__(self, per: Per = "sample") -> None:
        super().__init__()
        self.per = check_choice("per", per, ("sample", "batch"))

    def forward(self, batch: Batch, partner: Tensor) -> Tensor:
        """Return (B,) λ in [0, 1]."""
        raise NotImplementedError

    def weights(self, batch: Batch) -> Tensor:
        """Return (B, k) weights, rows summing to 1, the own sample's first: for ``samples > 2``."""
        raise NotImplementedError

    def pair(self, batch: Batch, partner: Tensor) -> tuple[Tensor, Tensor]:
        """Return the λ of the inputs and the λ of the targets; the same unless overridden."""
        lam = self(batch, partner)
        return lam, lam

    def remember(self, batch: Batch, features: Tensor, mix: Mix | None) -> None:
        """Look at a step's features after the model ran: called where ``remembers`` is true.

        Args:
            batch: the unmixed batch.
            features: (B, d), of the mixed samples, or of the unmixed ones.
            mix: how they were mixed; None for unmixed ones.
        """

    def _symmetric(self, batch: Batch, alpha: float) -> Tensor:
        """Draw λ ~ Beta(α, α), (B,), one for each sample or one for all."""
        if alpha == 1.0:
            return self._uniform(batch)
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
        ends = torch.tensor([self.low, self.high], dtype=torch.float64)
        own = torch.tensor(self.alpha, dtype=torch.float64)
        self._first, self._last = functional.beta_cdf(ends, own).tolist()

    def forward(self, batch: Batch, partner: Tensor) -> Tensor:
        u = self._first + (self._last - self._first) * self._uniform(batch).double()
        lam = functional.beta_icdf(u, torch.full_like(u, self.alpha))
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


class FeatureMemory(nn.Module):
    """The features of each training sample from its last visit, in half precision.

    It is bounded: sample i has the place ``i mod capacity``, and what it held before is forgotten.
    It is part of ``state_dict()``, so checkpoints keep it.

    Args:
        capacity: how many samples are remembered; ``capacity * d * 2`` bytes.
    """

    features: Tensor
    owner: Tensor

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = int(check_range("capacity", capacity, 1))
        self.register_buffer("features", torch.empty(0, 0, dtype=torch.float16))
        self.register_buffer("owner", torch.empty(0, dtype=torch.int64))

    def write(self, index: Tensor, features: Tensor, keep: Tensor | None = None) -> None:
        """Remember features (B, d) of the samples ``index`` (B,), those alone where ``keep``."""
        features = features.detach().flatten(1)
        if self.features.shape[1:] != features.shape[1:]:
            # One place more: what isn't kept is written there, so that no device is waited for.
            self.features = features.new_zeros(
                self.capacity + 1, features.shape[1], dtype=torch.float16
            )
            self.owner = torch.full((self.capacity + 1,), -1, device=features.device)
        place = index % self.capacity
        if keep is not None:
            place = torch.where(keep, place, self.capacity)
        most = torch.finfo(torch.float16).max
        self.features[place] = features.clamp(-most, most).to(torch.float16)
        self.owner[place] = index

    def distance(self, index: Tensor, partner: Tensor, squared: bool = True) -> Tensor:
        """Return the pairs' (squared) L2 distances, (B,); their mean where one is not known."""
        if not len(self.owner):
            return torch.zeros(len(index), device=index.device)
        place = index % self.capacity
        known = self.owner[place] == index
        known = known & known.index_select(0, partner)
        distance = functional.pair_distance(self.features[place], partner, squared=squared)
        mean = torch.where(known, distance, 0.0).sum() / known.sum().clamp_min(1)
        return torch.where(known, distance, mean)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        for name in ("features", "owner"):  # they have their size from the first step on
            saved = state_dict.get(prefix + name)
            if saved is not None and saved.shape != getattr(self, name).shape:
                setattr(self, name, torch.empty_like(saved, device=self.features.device))
        if len(self.owner) not in (0, self.capacity + 1):
            raise InputError(
                f"capacity={self.capacity}, but the checkpoint remembers {len(self.owner) - 1} "
                f"samples: create the method with capacity={len(self.owner) - 1}"
            )
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        return f"capacity={self.capacity}"


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
            gradient, unless the mixing happens at the head); features "remembered" from each
            sample's last visit, which costs no pass and needs sample indices
            (``method(model, x, y, index=i)``); the "input" or the "label".
        capacity: how many samples' features are remembered; see :class:`FeatureMemory`. Give the
            size of the training set where memory allows.
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
        distance: Distance | Literal["remembered"] = "features",
        squared: bool = True,
        target_tau_max: float | None = None,
        target_tau_std: float | None = None,
        capacity: int = 1 << 16,
    ) -> None:
        super().__init__()
        self.alpha = check_range("alpha", alpha, open=True)
        self.tau_max = check_range("tau_max", tau_max, open=True)
        self.tau_std = check_range("tau_std", tau_std, open=True)
        choices = ("features", "remembered", "input", "label")
        self.distance = check_choice("distance", distance, choices)
        self.needs_features = distance == "features"
        self.remembers = distance == "remembered"
        self.memory = FeatureMemory(capacity) if self.remembers else None
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
        if self.memory is None:
            distance = batch.measure(self.distance, partner, squared=self.squared)
        else:
            distance = self.memory.distance(_index(batch), partner, self.squared)
        tau = functional.kernel_tau(distance, self.tau_max, self.tau_std)
        if self.alpha == 1.0 and not self.has_target_kernel and batch.device.type != "cpu":
            # The same distribution by few kernels; on a CPU the inverse is the faster one.
            lam = functional.sample_beta(tau, batch.generator)
            return lam, lam
        u = self._symmetric(batch, self.alpha)
        lam = functional.beta_icdf(u, tau)
        if not self.has_target_kernel:
            return lam, lam
        target_tau = functional.kernel_tau(distance, self.target_tau_max, self.target_tau_std)
        return lam, functional.beta_icdf(u, target_tau)

    def remember(self, batch: Batch, features: Tensor, mix: Mix | None) -> None:
        if self.memory is None:
            return
        # Of a mixed sample it is the heavier side's feature, and written where that is the own
        # one: each index once, so that the order of writing decides nothing.
        keep = None if mix is None else mix.lam >= 0.5
        self.memory.write(_index(batch), features, keep)

    def extra_repr(self) -> str:
        text = f"alpha={self.alpha}, tau_max={self.tau_max}, tau_std={self.tau_std}, "
        if self.has_target_kernel:
            text += f"target_tau_max={self.target_tau_max}, target_tau_std={self.target_tau_std}, "
        return text + f"distance={self.distance!r}, squared={self.squared}"


def _index(batch: Batch) -> Tensor:
    if batch.index is None:
        raise InputError(
            "distance='remembered' needs to know which samples these are: give their positions "
            "in the training set, method(model, x, y, index=i)"
        )
    return batch.index.to(batch.device)


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


class SkewedBeta(Coefficient):
    """1 - λ ~ Beta(α, 1): small α leaves the own sample nearly as it is (Balanced-MixUp).

    Args:
        alpha: α > 0; the mean of 1 - λ is α / (α + 1).
        per: "sample" or "batch".

    Source: "Balanced-MixUp for Highly Imbalanced Medical Image Classification", arXiv:2109.09850.
    """

    ranges: ClassVar = {"alpha": Range(0.05, 2, log=True)}

    def __init__(self, alpha: float = 0.1, per: Per = "sample") -> None:
        super().__init__(per)
        self.alpha = check_range("alpha", alpha, open=True)

    def forward(self, batch: Batch, partner: Tensor) -> Tensor:
        return 1 - self._uniform(batch).pow(1 / self.alpha)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}, per={self.per!r}"


class ClassAware(Coefficient):
    """λ near the partner's share of the two classes' samples: the rarer class weighs more (UniMix).

    .. code-block:: text

        ξ_i = n_b / (n_a + n_b),   u_i ~ Beta(α, α),   λ_i = u_i + ξ_i, less 1 if it exceeds 1

    with n_a and n_b the training samples of the own class and of the partner's. For α < 1, u is
    near 0 or 1, and λ near ξ; α = 1 is mixup's uniform λ.

    Args:
        class_counts: (C,) training samples of each class.
        alpha: α > 0.

    Source: "Towards Calibrated Model for Long-Tailed Visual Recognition from Prior Perspective",
    arXiv:2111.03874.
    """

    counts: Tensor

    ranges: ClassVar = {"alpha": Range(0.1, 1)}

    def __init__(self, class_counts: Tensor | Sequence[float], alpha: float = 0.8) -> None:
        super().__init__()
        self.register_buffer("counts", check_counts(class_counts), persistent=False)
        self.alpha = check_range("alpha", alpha, open=True)

    def forward(self, batch: Batch, partner: Tensor) -> Tensor:
        own = batch.count(self.counts)
        other = own.index_select(0, partner)
        lam = self._symmetric(batch, self.alpha) + other / (own + other)
        return torch.where(lam > 1, lam - 1, lam)

    def extra_repr(self) -> str:
        return f"class_counts={self.counts.tolist()}, alpha={self.alpha}"


class _ManySamples(Coefficient):
    """Weights for mixes of k samples, the own and k - 1 partners."""

    def __init__(self, k: int, per: Per = "sample") -> None:
        super().__init__(per)
        if not isinstance(k, int) or k < 2:
            raise InputError(f"k must be a whole number from 2 on, got {k!r}")
        self.samples = k

    def forward(self, batch: Batch, partner: Tensor) -> Tensor:
        if self.samples > 2:
            raise InputError(
                f"{type(self).__name__}(k={self.samples}) has no one λ for a pair: ask weights()"
            )
        return self.weights(batch)[:, 0]


class Dirichlet(_ManySamples):
    """Weights ~ Dirichlet(α, ..., α) of the own sample and k - 1 partners; of two, Beta(α, α).

    The mean weight of each is 1 / k: with α ≥ 1 the own sample is hardly more than one of k. A
    small α gives nearly all to one of them.

    Args:
        alpha: α > 0.
        k: how many samples are mixed into one; ≥ 2.
        per: "sample" or "batch".
    """

    ranges: ClassVar = {"alpha": Range(0.05, 20, log=True)}

    def __init__(self, alpha: float = 1.0, k: int = 3, per: Per = "sample") -> None:
        super().__init__(k, per)
        self.alpha = check_range("alpha", alpha, open=True)

    def weights(self, batch: Batch) -> Tensor:
        rows = 1 if self.per == "batch" else len(batch)
        alpha = torch.full((rows, self.samples), self.alpha, device=batch.device)
        return functional.sample_dirichlet(alpha, batch.generator).expand(len(batch), -1)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}, k={self.samples}, per={self.per!r}"


class PSeries(_ManySamples):
    """Weights in proportion to 1, 2^-γ, 3^-γ, ...: the own sample's first (ζ-mixup).

    For γ ≥ 1.72865 the own sample weighs more than all others together, however many.

    Args:
        gamma: γ ≥ 0.
        k: how many samples are mixed into one; ≥ 2.

    Source: "Multi-Sample ζ-mixup", arXiv:2204.03323.
    """

    ranges: ClassVar = {"gamma": Range(1.7, 6)}

    def __init__(self, gamma: float = 2.8, k: int = 8) -> None:
        super().__init__(k)
        self.gamma = check_range("gamma", gamma)

    def weights(self, batch: Batch) -> Tensor:
        place = torch.arange(1, self.samples + 1, device=batch.device, dtype=torch.float32)
        weights = place.pow(-self.gamma)
        return (weights / weights.sum()).expand(len(batch), -1)

    def extra_repr(self) -> str:
        return f"gamma={self.gamma}, k={self.samples}"
