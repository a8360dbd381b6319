"""The measures: what each is called, its unit, which direction is better, how it is computed.

Evaluation, tables, statistics, tuning, the report and the command line ask here and know no
measure themselves. One of your own is registered once and appears in all of them:

>>> from mixwell.metrics import accuracy, measures
>>> wrong = measures.Measure(
...     "error", "error", "share of test samples classified wrongly",
...     lambda evidence: 1 - accuracy(evidence.outputs, evidence.targets),
...     unit="%", factor=100, digits=2, validated=("classification",),
... )
>>> measures.register(wrong).heading
'error %'
>>> measures.remove("error")
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor

from mixwell.errors import InputError, suggest
from mixwell.metrics import calibration, collapse, long_tail, outliers, regression, uncertainty
from mixwell.metrics.evidence import Evidence

__all__ = ["VALIDATION", "Measure", "get", "of", "register", "registered", "remove", "take"]

VALIDATION = "val_"
"""What stands before a measure's name where it is of the validation data."""

GROUPS = ("test", "features", "cost")
"""The parts of a table, in their order."""

Found = Tensor | float | None


@dataclass(frozen=True)
class Measure:
    """A measure, declared once.

    Attributes:
        name: its key in a run's measures.
        title: what it is called.
        about: what it is, in a sentence.
        compute: returns it from the evidence, or None where that doesn't allow it; None for what
            a run tells itself: its costs.
        tasks: the names of the tasks that have it; empty: all.
        higher_is_better: whether more is better; None where neither direction is.
        unit: that it is shown in, like "%"; empty for a plain number, or the target's own unit.
        factor: what a value is multiplied by to be in that unit.
        digits: after the point.
        column: what a table's column is called; title and unit by default.
        group: the part of the table: "test", "features" or "cost".
        validated: the tasks in which it is taken of the validation data too, at the end: there
            settings can be tuned by it.
        each_epoch: taken of the validation data after each epoch: it has a learning curve.
        tuned_by: settings are tuned by it where no other is asked for.
    """

    name: str
    title: str
    about: str
    compute: Callable[[Evidence], Found] | None = None
    tasks: tuple[str, ...] = ("classification",)
    higher_is_better: bool | None = False
    unit: str = ""
    factor: float = 1.0
    digits: int = 3
    column: str = ""
    group: str = "test"
    validated: tuple[str, ...] = ()
    each_epoch: bool = False
    tuned_by: bool = False

    @property
    def heading(self) -> str:
        """What a table's column is called."""
        return self.column or f"{self.title} {self.unit}".strip()

    def fitting(self, largest: float) -> Measure:
        """Return it with as many digits as values need of which ``largest`` is the largest."""
        if self.factor == 1 and 0 < largest < 0.1:  # as many digits as larger numbers have
            return replace(self, digits=self.digits + math.ceil(-math.log10(largest)) - 1)
        return self

    def text(self, value: float, digits: int | None = None, *, signed: bool = False) -> str:
        """Return a value in the unit, which is left out: "97.31"."""
        digits = self.digits if digits is None else digits
        return f"{self.factor * value:{'+' if signed else ''}.{digits}f}"

    def shown(self, value: float, digits: int | None = None) -> str:
        """Return a value with the unit: "97.31 %"."""
        return f"{self.text(value, digits)} {self.unit}".strip()


_MEASURES: dict[str, Measure] = {}


def register(measure: Measure) -> Measure:
    """Add a measure; from then on all runs of its tasks have it.

    Raises:
        InputError: the name is taken, is no identifier or begins with "val_"; the group is
            unknown; there is no title.
    """
    name = measure.name
    if name in _MEASURES:
        raise InputError(f"name={name!r}: there is a measure of this name already")
    if not name.isidentifier() or name.startswith(VALIDATION):
        raise InputError(
            f"name={name!r} must be an identifier that doesn't begin with {VALIDATION!r}, which "
            "stands before measures of the validation data"
        )
    if not measure.title:
        raise InputError(f"title of measure {name!r} must not be empty")
    if measure.group not in GROUPS:
        raise InputError(f"group={measure.group!r} of measure {name!r} must be of {GROUPS}")
    _MEASURES[name] = measure
    return measure


def remove(name: str) -> None:
    """Take a measure out again."""
    get(name)
    del _MEASURES[name]


def get(name: str) -> Measure:
    """Return a measure by its name, or by its name on validation data ("val_nll").

    Raises:
        InputError: there is none of this name.
    """
    bare = name.removeprefix(VALIDATION)
    if bare not in _MEASURES:
        raise InputError(f"measure {name!r} is unknown{suggest(bare, _MEASURES)}")
    return _MEASURES[bare]


def registered() -> tuple[Measure, ...]:
    """Return all measures, in the order that tables have."""
    return tuple(sorted(_MEASURES.values(), key=lambda m: GROUPS.index(m.group)))


def of(task: str) -> tuple[Measure, ...]:
    """Return the measures that a task has, by its name."""
    return tuple(m for m in registered() if not m.tasks or task in m.tasks)


def take(evidence: Evidence, measures: Iterable[Measure]) -> dict[str, float]:
    """Return the measures that the evidence allows, by their names."""
    found = {m.name: m.compute(evidence) for m in measures if m.compute is not None}
    return {name: float(value) for name, value in found.items() if value is not None}


# ------------------------------------------------------------------------- mixwell's own, in order

_PERCENT = {"unit": "%", "factor": 100.0, "digits": 2}
_CLASSES, _REGRESSION = ("classification",), ("regression",)
_BOTH = (*_CLASSES, *_REGRESSION)


def _of_probs(compute: Callable[[Tensor, Tensor], Tensor], evidence: Evidence) -> Found:
    return compute(evidence.probs, evidence.targets)


def _of_uneven(compute: Callable[[Tensor, Tensor], Tensor], evidence: Evidence) -> Found:
    return compute(evidence.probs, evidence.targets) if evidence.uneven else None


def _of_outputs(compute: Callable[[Tensor, Tensor], Tensor], evidence: Evidence) -> Found:
    return compute(evidence.outputs, evidence.targets)


def _of_spread(compute: Callable[[Tensor, Tensor, Tensor], Tensor], evidence: Evidence) -> Found:
    spread = evidence.spread
    return None if spread is None else compute(spread.mean, spread.std, spread.targets)


def _of_outliers(compute: Callable[[Tensor, Tensor], Tensor], evidence: Evidence) -> Found:
    known = evidence.probs.amax(1) if evidence.outliers is not None else None
    return None if known is None else compute(known, evidence.outliers)  # type: ignore[arg-type]


def _of_scaled(compute: Callable[[Evidence], Found], evidence: Evidence) -> Found:
    return None if evidence.scaled is None else compute(evidence.scaled)


def _shifted(name: str, evidence: Evidence) -> Found:
    if evidence.shift is None:
        return None
    rows = [row for rows in evidence.shift.values() for row in rows]
    return sum(row[name] for row in rows) / len(rows)


def _nll(evidence: Evidence) -> Found:
    if evidence.targets.is_floating_point():
        return _of_spread(uncertainty.gaussian_nll, evidence)
    return calibration.negative_log_likelihood(evidence.outputs, evidence.targets)


def _shot(group: str, evidence: Evidence) -> Found:
    return evidence.shots.get(group)


def _add(*arguments: object, **options: object) -> None:
    register(Measure(*arguments, **options))  # type: ignore[arg-type]


def _add_scaled(name: str, title: str, about: str, column: str = "") -> None:
    """Register what a measure is after temperature or variance scaling."""
    plain = get(name)
    assert plain.compute is not None
    register(
        replace(
            plain, name=f"{name}_scaled", title=title, about=about, column=column,
            compute=partial(_of_scaled, plain.compute), validated=(), each_epoch=False,
            tuned_by=False,
        )
    )  # fmt: skip


def _add_classification() -> None:
    high = {**_PERCENT, "higher_is_better": True}
    _add(
        "accuracy",
        "accuracy",
        "share of test samples classified rightly",
        partial(_of_outputs, calibration.accuracy),
        validated=_CLASSES,
        each_epoch=True,
        **high,
    )
    _add(
        "balanced_accuracy",
        "balanced accuracy",
        "mean of the classes' accuracies",
        partial(_of_uneven, long_tail.balanced_accuracy),
        **high,
    )
    _add(
        "accuracy_many",
        "many-shot",
        "accuracy of classes with over 100 training samples",
        partial(_shot, "many"),
        **high,
    )
    _add(
        "accuracy_medium",
        "medium-shot",
        "of classes with 20 to 100",
        partial(_shot, "medium"),
        **high,
    )
    _add(
        "accuracy_few",
        "few-shot",
        "accuracy of classes with under 20",
        partial(_shot, "few"),
        **high,
    )
    _add(
        "fine_accuracy",
        "fine accuracy",
        "of a linear probe for the classes within the superclasses",
        lambda e: e.fine and calibration.accuracy(e.fine.logits, e.fine.targets),
        **high,
    )
    _add(
        "ece",
        "ECE",
        "expected calibration error, 15 equal-width bins",
        partial(_of_probs, calibration.expected_calibration_error),
        validated=_CLASSES,
        **_PERCENT,
    )
    _add_scaled("ece", "ECE after T", "ECE after temperature scaling", "ECE % after T")
    _add(
        "balanced_ece",
        "balanced ECE",
        "ECE in which each class weighs the same",
        partial(_of_uneven, long_tail.balanced_calibration_error),
        **_PERCENT,
    )
    _add_scaled(
        "balanced_ece", "balanced ECE after T", "likewise, after scaling", "balanced ECE % after T"
    )
    _add(
        "adaptive_ece",
        "aECE",
        "adaptive ECE, 15 bins of equal mass",
        partial(_of_probs, calibration.adaptive_calibration_error),
        **_PERCENT,
    )
    _add_scaled("adaptive_ece", "aECE after T", "adaptive ECE, likewise", "aECE % after T")
    _add(
        "brier",
        "Brier",
        "squared error of the predicted probabilities",
        partial(_of_probs, calibration.brier_score),
    )
    _add_scaled("brier", "Brier after T", "Brier score after temperature scaling")  # fmt: skip


def _add_regression() -> None:
    _add(
        "rmse",
        "RMSE",
        "root mean squared error, in the target's unit",
        partial(_of_outputs, regression.root_mean_squared_error),
        _REGRESSION,
        validated=_REGRESSION,
        each_epoch=True,
        tuned_by=True,
    )
    _add(
        "mae",
        "MAE",
        "mean absolute error, in the target's unit",
        partial(_of_outputs, regression.mean_absolute_error),
        _REGRESSION,
    )
    _add(
        "mape",
        "MAPE",
        "mean absolute error in per cent of the target",
        partial(_of_outputs, regression.mean_absolute_percentage_error),
        _REGRESSION,
        **_PERCENT,
    )
    _add(
        "r2",
        "R²",
        "share of the target's variance that is explained",
        partial(_of_outputs, regression.r2_score),
        _REGRESSION,
        higher_is_better=True,
    )
    _add(
        "uce",
        "UCE",
        "gap of predicted variance and squared error, MC-dropout",
        partial(_of_spread, uncertainty.uncertainty_calibration_error),
        _REGRESSION,
    )
    _add_scaled("uce", "UCE after s", "UCE after variance scaling")
    _add(
        "ence",
        "ENCE",
        "relative gap of predicted deviation and RMSE, MC-dropout",
        partial(_of_spread, uncertainty.expected_normalized_calibration_error),
        _REGRESSION,
    )
    _add_scaled("ence", "ENCE after s", "ENCE after variance scaling")  # fmt: skip


def _add_likelihoods() -> None:
    _add(
        "nll",
        "NLL",
        "negative log-likelihood",
        _nll,
        _BOTH,
        validated=_CLASSES,
        each_epoch=True,
        tuned_by=True,
    )
    _add_scaled("nll", "NLL scaled", "NLL after temperature (variance) scaling")
    _add(
        "pinball",
        "pinball",
        "quantile loss of the predicted Gaussians, MC-dropout",
        partial(_of_spread, uncertainty.pinball_loss),
        _REGRESSION,
    )
    _add_scaled("pinball", "pinball after s", "pinball loss after variance scaling")  # fmt: skip


def _add_outside() -> None:
    """Register measures on data of other kinds: outliers, corrupted images, mixed samples."""
    _add(
        "ood_auroc",
        "OOD AUROC",
        "of outliers, by the highest probability",
        partial(_of_outliers, outliers.auroc),
        higher_is_better=True,
        **_PERCENT,
    )
    _add(
        "ood_fpr95",
        "OOD FPR95",
        "outliers that pass where 95 % of the inliers do",
        partial(_of_outliers, outliers.false_positive_rate),
        **_PERCENT,
    )
    _add(
        "shift_accuracy",
        "accuracy shifted",
        "mean over corruptions and severities",
        partial(_shifted, "accuracy"),
        higher_is_better=True,
        column="accuracy % shifted",
        **_PERCENT,
    )
    _add(
        "shift_ece",
        "ECE shifted",
        "mean over corruptions and severities",
        partial(_shifted, "ece"),
        column="ECE % shifted",
        **_PERCENT,
    )
    share = {**_PERCENT, "digits": 1}
    _add(
        "intrusion",
        "intrusion",
        "mixed samples that lie among samples of the other class",
        lambda e: e.mixed and e.mixed.intrudes.double().mean(),
        **share,
    )
    _add("off_manifold", "off manifold", "mixed samples that lie among no samples",
         lambda e: e.mixed and (~e.mixed.among).double().mean(), **share)  # fmt: skip


def _add_features() -> None:
    plain = {"higher_is_better": None, "group": "features"}
    low = {"group": "features"}
    _add(
        "temperature",
        "T",
        "temperature fitted on validation data: > 1 means overconfident",
        lambda e: e.temperature,
        digits=2,
        **plain,
    )
    _add(
        "variance_scale",
        "s",
        "factor of the deviation, fitted on validation data: > 1 means overconfident",
        lambda e: e.spread and e.spread.scale,
        _REGRESSION,
        digits=2,
        **plain,
    )
    _add(
        "alignment",
        "alignment",
        "mean squared distance of same-class features on the sphere",
        lambda e: None if e.features is None else collapse.alignment(e.features, e.targets),
        **plain,
    )
    _add(
        "uniformity",
        "uniformity",
        "log mean exp(-2 d²) of features: lower is more uniform",
        lambda e: None if e.features is None else collapse.uniformity(e.features),
        digits=2,
        **low,
    )
    _add(
        "margin",
        "margin",
        "mean distance of class centres from their pairs' boundaries",
        lambda e: e.margins and e.margins.mean,
        each_epoch=True,
        **plain,
    )
    _add(
        "margin_balance",
        "margin balance",
        "deviation over mean of the class pairs' margins",
        lambda e: e.margins and e.margins.balance,
        each_epoch=True,
        **low,
    )
    _add(
        "fine_alignment",
        "fine alignment",
        "alignment by fine class",
        lambda e: e.fine and collapse.alignment(e.fine.features, e.fine.targets),
        **plain,
    )
    _add(
        "fine_uniformity",
        "fine uniformity",
        "uniformity of the probed features",
        lambda e: e.fine and collapse.uniformity(e.fine.features),
        digits=2,
        **low,
    )
    _add(
        "fine_margin",
        "fine margin",
        "mean margin of the probe's class pairs",
        lambda e: e.fine and e.fine.margins and e.fine.margins.mean,
        **plain,
    )
    _add("fine_margin_balance", "fine margin balance", "their deviation over their mean",
         lambda e: e.fine and e.fine.margins and e.fine.margins.balance, **low)  # fmt: skip


def _add_costs() -> None:
    cost = {"tasks": (), "group": "cost"}
    _add(
        "seconds_per_step",
        "time of a training step",
        "training time of a step, median over epochs",
        unit="ms",
        factor=1000.0,
        digits=1,
        column="ms / step",
        **cost,
    )
    _add("peak_memory_mb", "peak memory", "peak memory: of the GPU, or of the run's process",
         unit="MiB", digits=0, column="MiB", **cost)  # fmt: skip


_add_classification()
_add_regression()
_add_likelihoods()
_add_outside()
_add_features()
_add_costs()
