"""What measures are computed from: a model's predictions, and what was found out beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from torch import Tensor

from mixwell.metrics.collapse import (
    ClassMargins,
    SimplexFit,
    class_margins,
    class_variability,
    simplex_fit,
)
from mixwell.metrics.long_tail import shot_accuracies, shot_means

__all__ = ["Evidence", "Fine", "Mixed", "Spread", "Trained"]


@dataclass(frozen=True, eq=False)
class Trained:
    """Training samples, unmixed, as the trained model sees them.

    Attributes:
        features: (M, d) inputs of the model's head.
        targets: (M,) class indices.
    """

    features: Tensor
    targets: Tensor

    @cached_property
    def variability(self) -> Tensor:
        """NC1 of each class: (largest class + 1,)."""
        return class_variability(self.features.double(), self.targets)

    @cached_property
    def simplex(self) -> SimplexFit:
        """NC2: how far the class means are from a regular simplex."""
        return simplex_fit(self.features.double(), self.targets)


@dataclass(frozen=True, eq=False)
class Fine:
    """A probe of frozen features for classes that the model was not trained on.

    Attributes:
        logits: (N, C') of the probe.
        targets: (N,) the fine classes.
        features: (N, d) as the model has them.
        probed: (N, d) as the probe sees them: standardised.
        weight: (C', d) of the probe; None where it has no row for each class.
        bias: (C',), likewise.
    """

    logits: Tensor
    targets: Tensor
    features: Tensor
    probed: Tensor
    weight: Tensor | None = None
    bias: Tensor | None = None

    @cached_property
    def margins(self) -> ClassMargins | None:
        """The margins of the probe's class pairs."""
        if self.weight is None:
            return None
        return class_margins(self.probed, self.targets, self.weight, self.bias)


@dataclass(frozen=True, eq=False)
class Spread:
    """A regression's predictive distribution, in the units of ``targets``.

    Attributes:
        mean: (N, K).
        std: (N, K).
        targets: (N, K).
        scale: of the deviation, that fits the validation data.
    """

    mean: Tensor
    std: Tensor
    targets: Tensor
    scale: float = 1.0


@dataclass(frozen=True, eq=False)
class Mixed:
    """Where mixed samples came to lie.

    Attributes:
        intrudes: (M,) bool, among samples of a class that makes up less than half of the label.
        among: (M,) bool, among samples of any class.
    """

    intrudes: Tensor
    among: Tensor


@dataclass(frozen=True, eq=False)
class Evidence:
    """All that a measure may be computed from; what is None was not found out.

    Attributes:
        outputs: (N, C) logits; in regression (N, K) predictions in the targets' units.
        targets: (N,) class indices; in regression (N, K) in their units.
        features: (N, d) inputs of the model's head.
        head: weight (C, d) and bias (C,) of a linear head, the bias None where there is none.
        class_counts: (C,) training samples of each class.
        temperature: of the logits, that fits the validation data.
        trained: training samples, unmixed.
        fine: a probe for finer classes.
        people: (N, C) how many people named each class.
        outliers: (M,) the highest probabilities for samples of none of the classes.
        shift: corruption to its rows, one a severity, with the accuracy and the ECE.
        spread: a regression's predictive distribution.
        mixed: where a toy's samples are mixed to.
    """

    outputs: Tensor
    targets: Tensor
    features: Tensor | None = None
    head: tuple[Tensor, Tensor | None] | None = None
    class_counts: Tensor | None = None
    temperature: float | None = None
    trained: Trained | None = None
    fine: Fine | None = None
    people: Tensor | None = None
    outliers: Tensor | None = None
    shift: Mapping[str, Sequence[Mapping[str, float]]] | None = None
    spread: Spread | None = None
    mixed: Mixed | None = None

    @cached_property
    def probs(self) -> Tensor:
        """(N, C) probabilities of the classes."""
        return self.outputs.double().softmax(1)

    @cached_property
    def scaled(self) -> Evidence | None:
        """The same after temperature scaling, or variance scaling of a predictive distribution."""
        if self.spread is not None:
            spread = replace(self.spread, std=self.spread.scale * self.spread.std, scale=1.0)
            return replace(self, spread=spread)
        if self.temperature is not None:
            return replace(self, outputs=self.outputs / self.temperature, temperature=1.0)
        return None

    @property
    def uneven(self) -> bool:
        """Whether the classes had different numbers of training samples."""
        counts = self.class_counts
        return counts is not None and bool(counts.max() > 1.5 * counts.min())

    @cached_property
    def shots(self) -> Mapping[str, Tensor]:
        """The accuracies of classes with many, a medium number and few samples, where uneven."""
        if self.class_counts is None or not self.uneven:
            return {}
        return shot_accuracies(self.probs, self.targets, self.class_counts)

    @cached_property
    def variability_shots(self) -> Mapping[str, Tensor]:
        """NC1 of classes with many, a medium number and few training samples, where uneven."""
        if self.class_counts is None or self.trained is None or not self.uneven:
            return {}
        found = self.trained.variability
        return shot_means(found, self.class_counts[: len(found)])

    @cached_property
    def margins(self) -> ClassMargins | None:
        """The margins of the class pairs at the model's own head, where it is linear."""
        if self.head is None or self.features is None:
            return None
        return class_margins(self.features, self.targets, *self.head)
