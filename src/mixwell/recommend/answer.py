"""The answer: a sentence with a number and its interval, what to type, and the report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixwell.metrics.measures import Measure
from mixwell.recommend.decision import Contrast, judge
from mixwell.recommend.evidence import gaps_of
from mixwell.recommend.planning import LEAST_SEEDS, Plan, in_words
from mixwell.recommend.words import code_of, command_of, trained
from mixwell.studies.records import RunRecord
from mixwell.training.files import write_json

if TYPE_CHECKING:
    from mixwell.recommend.course import Asked

__all__ = ["Recommendation", "conclude"]


@dataclass(frozen=True)
class Recommendation:
    """What came out.

    Attributes:
        method: to use, as a study writes it; the baseline where no other is shown to be better.
        sentence: the answer.
        notes: what is to be known beside it.
        contrasts: what is known of each finalist, by its label.
        measure: the name of what counted.
        baseline: the label of what all were compared with.
        code: lines of Python that train by the method.
        command: the command that does.
        epochs: of each run.
        seeds: of the final.
        candidates: that raced.
        budget: seconds.
        spent: seconds.
        rungs: of the race, with the standings of each.
    """

    method: str
    sentence: str
    notes: tuple[str, ...]
    contrasts: Mapping[str, Contrast]
    measure: str
    baseline: str
    code: str
    command: str
    epochs: int
    seeds: int
    candidates: tuple[str, ...]
    budget: float
    spent: float
    rungs: tuple[Mapping[str, Any], ...]

    def __str__(self) -> str:
        code = "".join(f"    {line}\n" for line in self.code.splitlines())
        notes = "".join(f"- {note}\n" for note in self.notes)
        return f"{self.sentence}\n{notes}\n{code}\n    {self.command}\n"

    def write(self, folder: Path, records: Sequence[RunRecord], command: str) -> None:
        """Write recommendation.json, and the report of the final where there was one.

        Args:
            folder: that gets them.
            records: of the final.
            command: the command line that made them.
        """
        write_json(folder / "recommendation.json", asdict(self))
        if any(record.status == "done" for record in records):
            from mixwell.recommend.page import write_page

            write_page(self, records, folder, command)


def conclude(
    asked: Asked, plan: Plan, content: Mapping[str, Any], records: Sequence[RunRecord]
) -> Recommendation:
    """Return what the final's runs allow to say.

    Args:
        asked: what was asked for.
        plan: how the budget was to be spent.
        content: of the ledger.
        records: of the final.
    """
    measure, baseline = asked.measure, asked.baseline
    contrasts = judge(gaps_of(records, content.get("finalists", []), baseline, measure))
    contrasts = {name: contrasts[name] for name in contrasts if contrasts[name].pairs}
    sign = 1.0 if measure.higher_is_better else -1.0
    better = [n for n, c in contrasts.items() if c.shown and sign * c.difference > 0]
    better.sort(key=lambda name: -sign * contrasts[name].difference)
    method = better[0] if better else baseline
    run = trained(asked.given, asked.configs[method], plan.epochs)
    done = [record for record in records if record.status == "done"]
    return Recommendation(
        method,
        _sentence(contrasts, better, measure, baseline)
        if contrasts
        else f"{_nothing(content, records, baseline)}: nothing can be said.",
        tuple(_notes(asked, plan, content, records, contrasts, better)),
        contrasts,
        measure.name,
        baseline,
        code_of(asked.configs[method], asked.dataset),
        command_of(run),
        plan.epochs,
        len({record.seed for record in done}),
        plan.candidates,
        asked.budget,
        float(content["spent"]),
        tuple(content["rungs"]),
    )


# --------------------------------------------------------------------------------- in words


def amount(contrast: Contrast, measure: Measure, *, signed: bool = False) -> str:
    """Return a difference and its interval: "1.9 ± 0.8 points"."""
    value, reach = measure.factor * contrast.difference, measure.factor * contrast.half_width
    value = value if signed else abs(value)
    digits = measure.digits
    if math.isfinite(reach) and reach > 0:  # two digits of the half-width
        digits = max(0, min(6, 1 - math.floor(math.log10(reach))))
    unit = " points" if measure.unit == "%" else f" {measure.unit}".rstrip()
    spread = f" ± {reach:.{digits}f}" if math.isfinite(reach) else " (no interval)"
    return f"{value:{'+' if signed else ''}.{digits}f}{spread}{unit}"


def _level(contrast: Contrast) -> str:
    return f"{100 * (1 - contrast.level):.3g} % interval, {contrast.pairs} paired seeds"


def _sentence(
    contrasts: Mapping[str, Contrast], better: Sequence[str], measure: Measure, baseline: str
) -> str:
    """Return the answer."""
    worse = [n for n, c in contrasts.items() if c.shown and n not in better]
    open_ = [n for n, c in contrasts.items() if not c.shown]
    if not better:
        return _no_winner(contrasts, open_, worse, measure, baseline)
    first = contrasts[better[0]]
    verb = "gains" if measure.higher_is_better else f"lowers {measure.title} by"
    object_ = f" of {measure.title} over" if measure.higher_is_better else " against"
    said = f"{better[0]} {verb} {amount(first, measure)}{object_} {baseline} ({_level(first)})"
    if len(better) > 1:
        others = ", ".join(f"{n} by {amount(contrasts[n], measure)}" for n in better[1:])
        said += f"; better, too, and not tested against it: {others}"
    if worse:
        losers = (f"{n} ({amount(contrasts[n], measure, signed=True)})" for n in worse)
        said += f"; worse: {', '.join(losers)}"
    return f"{said}; nothing else is distinguishable." if open_ else f"{said}."


def _nothing(content: Mapping[str, Any], records: Sequence[RunRecord], baseline: str) -> str:
    """Return why there is nothing to compare."""
    if content.get("finalists") == []:
        return "Every candidate failed in the race"
    if any(record.status == "failed" for record in records):
        return f"No seed of the final has both {baseline} and another, for runs failed"
    return f"The budget ended before any finalist was trained beside {baseline}"


def _no_winner(
    contrasts: Mapping[str, Contrast], open_: Sequence[str], worse: Sequence[str],
    measure: Measure, baseline: str,
) -> str:  # fmt: skip
    """Return the answer where nothing is shown to be better."""
    sign = 1.0 if measure.higher_is_better else -1.0
    nearest = max(contrasts, key=lambda name: sign * contrasts[name].difference)
    gap = contrasts[nearest]
    start = "No mixup is shown to help here" if baseline == "erm" else "Nothing is shown to help"
    worst = f"; worse: {', '.join(worse)}" if worse and open_ else ""
    return (
        f"{start}: the best, {nearest}, differs from {baseline} by "
        f"{amount(gap, measure, signed=True)} of {measure.title} ({_level(gap)}){worst}."
    )


def _notes(
    asked: Asked, plan: Plan, content: Mapping[str, Any], records: Sequence[RunRecord],
    contrasts: Mapping[str, Contrast], better: Sequence[str],
) -> list[str]:  # fmt: skip
    """Return what is to be known beside the answer."""
    notes = [
        f"{len(plan.candidates)} candidates raced on validation data beside {asked.baseline}; "
        f"{len(content.get('finalists', []))} came to the final."
    ]
    if plan.epochs < plan.usual:
        enough = f"; {in_words(plan.enough)} would do for these" if plan.enough else ""
        notes.append(
            f"To keep to the budget runs had {plan.epochs} epochs, not the usual {plan.usual}: "
            f"longer ones may come out otherwise{enough}."
        )
    notes += _what_would_show(asked, content, contrasts, better)
    pairs = min((c.pairs for c in contrasts.values()), default=0)
    if pairs < LEAST_SEEDS:
        notes.append(
            f"The budget had room for {pairs} paired seeds: too few for a conclusion. Runs took "
            "longer than a few steps of each had let expect; give it more."
        )
    failed = sorted({record.label for record in records if record.status == "failed"})
    if failed:
        notes.append(f"Runs of {', '.join(failed)} failed: see the logs in final.")
    for label, error in content["unfit"].items():
        notes.append(f"{label} was left out: {error}")
    return notes


def _what_would_show(
    asked: Asked, content: Mapping[str, Any], contrasts: Mapping[str, Contrast],
    better: Sequence[str],
) -> list[str]:  # fmt: skip
    """Return how many seeds would show what was not shown, where it would be a gain."""
    sign = 1.0 if asked.measure.higher_is_better else -1.0
    gains = {n: c for n, c in contrasts.items() if not c.shown and sign * c.difference > 0}
    if better or not gains:
        return []
    name = max(gains, key=lambda n: sign * gains[n].difference)
    contrast = gains[name]
    needed = contrast.seeds_needed(len(contrasts))
    if needed is None:
        samples = len(asked.dataset.test)
        return [
            f"No number of seeds would show a difference as small as {name}'s: it is within the "
            f"chance of which {samples:,} samples were drawn for the test split."
        ]
    blocks = [block for block in content["blocks"] if "ended" in block]
    taken = sum(block["ended"] - block["began"] for block in blocks)
    seeds = sum(len(block["seeds"]) for block in blocks)
    words = f"If the difference is as seen, about {needed} seeds show {name}'s"
    if not seeds or needed > 1000:
        return [f"{words}." if needed <= 1000 else f"{words}: it is next to nothing."]
    more = content["spent"] - taken + taken / seeds * needed
    return [f"{words}: a budget of about {in_words(1.1 * more)}."]
