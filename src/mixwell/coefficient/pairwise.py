"""λ by the pair: by its distance, or by its classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from mixwell import functional
from mixwell.batch import Batch, Distance
from mixwell.checks import Range, check_choice, check_counts, check_range
from mixwell.coefficient.base import Coefficient
from mixwell.coefficient.memory import FeatureMemory
from mixwell.errors import InputError
from mixwell.mix import Mix

__all__ = ["ClassAware", "SimilarityKernel"]


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
    needs_of_data: ClassVar = ("capacity",)

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
        self.capacity = int(check_range("capacity", capacity, 1))
        self.memory = FeatureMemory(self.capacity) if self.remembers else None
        self.squared = squared
        self.target_tau_max, self.target_tau_std = (
            None if value is None else check_range(name, value, open=True)
            for name, value in (
                ("target_tau_max", target_tau_max),
                ("target_tau_std", target_tau_std),
            )
        )

    @property
    def has_target_kernel(self) -> bool:
        """Whether the targets have a kernel of their own."""
        return self.target_tau_max is not None or self.target_tau_std is not None

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
        target_tau = functional.kernel_tau(
            distance,
            self.tau_max if self.target_tau_max is None else self.target_tau_max,
            self.tau_std if self.target_tau_std is None else self.target_tau_std,
        )
        return lam, functional.beta_icdf(u, target_tau)

    def remember(self, batch: Batch, features: Tensor, mix: Mix | None) -> None:
        if self.memory is None:
            return
        # Of a mixed sample it is the heavier side's feature, and written where that is the own
        # one: each index once, so that the order of writing decides nothing.
        keep = None if mix is None else mix.lam >= 0.5
        self.memory.write(_index(batch), features, keep)


def _index(batch: Batch) -> Tensor:
    if batch.index is None:
        raise InputError(
            "distance='remembered' needs to know which samples these are: give their positions "
            "in the training set, method(model, x, y, index=i)"
        )
    return batch.index.to(batch.device)


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

    class_counts: Tensor

    ranges: ClassVar = {"alpha": Range(0.1, 1)}
    needs_of_data: ClassVar = ("class_counts",)

    def __init__(self, class_counts: Tensor | Sequence[float], alpha: float = 0.8) -> None:
        super().__init__()
        self.register_buffer("class_counts", check_counts(class_counts), persistent=False)
        self.alpha = check_range("alpha", alpha, open=True)

    def forward(self, batch: Batch, partner: Tensor) -> Tensor:
        own = batch.count(self.class_counts)
        other = own.index_select(0, partner)
        lam = self._symmetric(batch, self.alpha) + other / (own + other)
        return torch.where(lam > 1, lam - 1, lam)
