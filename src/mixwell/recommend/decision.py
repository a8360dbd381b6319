"""What the finalists' test measures allow to say: paired differences, with an interval.

Training draws at random, and the test split is a sample. A difference has both errors:

    d[s] is the difference of seed s, n of them; N test samples
    var(mean d) = S / n + I / N + SI / (n N)

S of training, I of the samples, SI of the two together. The spread over seeds shows S + SI / N; the
jackknife, which leaves a part of the samples out at a time, shows I + SI / n of the mean and I + SI
of each seed alone. From these three the variance is put together, and its degrees of freedom by
Satterthwaite's rule. A t-test over seeds alone would take what is peculiar to one test split for a
difference.

Nothing here trains or reads a file: it can be simulated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mixwell.errors import InputError

__all__ = ["Contrast", "Gap", "judge"]

LEVEL = 0.05
"""The chance that any claim at all is made where no finalist differs from the baseline."""
_POWER = 0.8


@dataclass(frozen=True)
class Gap:
    """How a finalist differs from the baseline on the test split.

    Attributes:
        by_seed: (n,) its measure minus the baseline's, of each seed.
        left_out: (n, G) the same with one of G equal parts of the test samples left out; None
            where the samples are not known, and the error is that over seeds alone.
    """

    by_seed: Sequence[float]
    left_out: Sequence[Sequence[float]] | None = None


@dataclass(frozen=True)
class Contrast:
    """What is known of a finalist.

    Attributes:
        difference: mean over seeds of its measure minus the baseline's, in the measure's unit.
        half_width: of the interval, at the level at which Holm's method tested it: 95 % for one
            finalist, more for several. It holds zero unless ``shown``.
        p_value: two-sided, adjusted by Holm's method.
        pairs: seeds.
        seed_variance: of one seed's difference.
        sample_variance: of a difference over endless seeds, that comes from the test samples.
        level: see ``half_width``.
        shown: whether it differs from the baseline, better or worse.
    """

    difference: float
    half_width: float
    p_value: float
    pairs: int
    seed_variance: float
    sample_variance: float
    level: float
    shown: bool

    def seeds_needed(self, tests: int = 1) -> int | None:
        """Return about how many seeds would show the difference as seen with a chance of 80 %.

        None where no number would, for it is within the error of the test samples.

        Args:
            tests: how many finalists are tested.
        """
        from scipy import stats

        reach = float(stats.norm.ppf(1 - LEVEL / tests / 2) + stats.norm.ppf(_POWER))
        room = (self.difference / reach) ** 2 - self.sample_variance
        if room <= 0 or not math.isfinite(room):
            return None
        # Two more: a t-test of few seeds sees less than one with a known spread.
        return max(self.pairs + 1, math.ceil(self.seed_variance / room) + 2)


def judge(gaps: Mapping[str, Gap], level: float = LEVEL) -> dict[str, Contrast]:
    """Return what is known of each finalist.

    With probability ``1 - level`` no finalist is shown to differ that does not, whatever their
    number and dependence (Holm's method).

    Args:
        gaps: of the finalists, by their names; of seeds that took no part in choosing them.
        level: the chance of any false claim.

    Source: Holm, "A simple sequentially rejective multiple test procedure", 1979; Satterthwaite,
    "An approximate distribution of estimates of variance components", 1946.
    """
    from scipy import stats

    found = {name: _estimate(gap) for name, gap in gaps.items()}
    order = sorted(found, key=lambda name: found[name].p_value)
    judged: dict[str, Contrast] = {}
    own, adjusted, open_ = level, 0.0, True
    for place, name in enumerate(order):
        this, tests = found[name], len(order) - place
        adjusted = max(adjusted, min(1.0, tests * this.p_value))
        if open_:  # after the first that isn't shown, Holm's method tests no further
            own = level / tests
            open_ = this.p_value < own
        reach = math.inf
        if this.freedom > 0:
            reach = float(stats.t.ppf(1 - own / 2, this.freedom)) * this.error
        judged[name] = Contrast(
            this.mean, reach, adjusted, this.pairs, this.seed_variance, this.sample_variance, own,
            open_,
        )  # fmt: skip
    return {name: judged[name] for name in gaps}


@dataclass(frozen=True)
class _Estimate:
    mean: float
    error: float
    freedom: float
    p_value: float
    pairs: int
    seed_variance: float
    sample_variance: float


def _estimate(gap: Gap) -> _Estimate:
    """Return a mean difference with its standard error and two-sided p-value."""
    from scipy import stats

    values = np.asarray(gap.by_seed, dtype=float)
    count = len(values)
    if not np.isfinite(values).all():
        raise InputError(f"by_seed must be finite, got {values.tolist()}")
    mean = float(values.mean()) if count else 0.0
    if count < 2:
        return _Estimate(mean, math.inf, 0.0, 1.0, count, math.nan, math.nan)
    spread = float(values.var(ddof=1))
    of_seeds, of_samples, parts = spread / count, 0.0, 2
    if gap.left_out is not None:
        left_out = np.asarray(gap.left_out, dtype=float)
        parts = left_out.shape[1]
        of_samples = _from_samples(left_out)
    error = math.sqrt(of_seeds + of_samples)
    if error <= 1e-9 * max(1.0, abs(mean)):  # nothing to judge a difference by
        return _Estimate(mean, 0.0 if mean == 0 else math.inf, 0.0, 1.0, count, spread, of_samples)
    total = of_seeds + of_samples
    freedom = total**2 / (of_seeds**2 / (count - 1) + of_samples**2 / (parts - 1))
    p_value = 2 * float(stats.t.sf(abs(mean) / error, freedom))
    return _Estimate(mean, error, freedom, p_value, count, spread, of_samples)


def _from_samples(left_out: np.ndarray) -> float:
    """Return I / N, the variance that the test samples leave at any number of seeds.

    Args:
        left_out: (n, G) differences, one of G parts of the samples left out.
    """
    count, parts = left_out.shape

    def jackknife(values: np.ndarray) -> np.ndarray:
        """Return the variance of what is computed from all parts, over the last dimension."""
        return np.asarray((parts - 1) * values.var(axis=-1))

    of_mean = float(jackknife(left_out.mean(axis=0)))  # I / N + SI / (n N)
    of_one = float(jackknife(left_out).mean())  # I / N + SI / N
    both = max(of_one - of_mean, 0.0) / (count - 1)  # SI / (n N), which the seeds show, too
    return max(of_mean - both, 0.0)
