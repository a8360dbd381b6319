"""What is raced: methods that have shown something somewhere, those that are likelier first.

The order follows docs/what_holds.md; a budget that has no room for all takes the first. A candidate
is written as a study's methods are: "sk_mixup+decoupled(eta=0.5)".
"""

from __future__ import annotations

from mixwell.data import Dataset

__all__ = ["candidates"]

_CLASSES = (
    "regmixup", "infinite_class", "am_mixup", "mixup", "sk_mixup", "decoupled",
    "regmixup+infinite_class", "regmixup+cutmix", "cutmix", "sk_mixup+regmixup",
    "mixup(alpha=0.2)", "sk_mixup+decoupled", "cutmix+infinite_class", "infinite_class(alpha=0.2)",
    "am_mixup(k=2)", "manifold_mixup", "cutmix+decoupled", "sk_mixup(tau_std=0.75)",
)  # fmt: skip
_LONG_TAIL = (
    "infinite_class", "remix+infinite_class", "am_mixup", "unimix", "regmixup",
    "balanced_mixup", "regmixup+infinite_class", "cutmix+infinite_class", "remix", "mixup",
    "sk_mixup", "decoupled", "infinite_class(alpha=0.2)", "sk_mixup+regmixup",
    "mixup(alpha=0.2)", "manifold_mixup",
)  # fmt: skip
_REAL = (
    "sk_mixup", "mixup", "c_mixup(layer=auto)", "regmixup", "manifold_mixup", "c_mixup",
    "sk_mixup+regmixup", "mixup(alpha=0.2)", "c_mixup+regmixup", "c_mixup(bandwidth=1.0)",
    "local_mixup", "c_mixup(alpha=0.5)",
)  # fmt: skip
_TAIL = 5
"""How many times the smallest class the largest is, from where on methods for long tails race."""


def candidates(dataset: Dataset, baseline: str = "erm") -> list[str]:
    """Return what is raced on a data set, without the baseline, the likelier first.

    Args:
        dataset: whose task, classes and shape decide.
        baseline: that they are compared with.
    """
    chosen: tuple[str, ...] = _REAL
    if dataset.classes:
        counts = dataset.class_counts
        tailed = int(counts.max()) >= _TAIL * max(int(counts.min()), 1)
        chosen = _LONG_TAIL if tailed else _CLASSES
    images = len(dataset.input_shape) == 3
    return [name for name in chosen if name != baseline and (images or "cutmix" not in name)]
