"""Claims of the papers, registered before they are tested, and judged by the studies' results.

python studies/claims.py            writes docs/claims.md, from studies/claims.yaml alone
python studies/claims.py --judge    writes docs/what_holds.md and its figure, from docs/results
"""

from __future__ import annotations

import argparse
import csv
import itertools
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from mixwell.metrics.measures import get
from mixwell.studies.statistics import Test, detectable_difference, holm, paired_test
from mixwell.studies.study import read_study

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "results"
LEVEL = 0.05
Values = dict[str, dict[int, dict[str, float]]]
"""Measures by method, then by seed."""


@dataclass(frozen=True)
class Claim:
    """A sentence that a study can show, or contradict.

    Attributes:
        name: its mark in tables.
        says: the claim, in our words.
        study: the study's name.
        part: what varies in the study, and its value here; empty where nothing does.
        method: label of the method.
        baseline: label of what it is compared with.
        measure: what is compared.
        expected: "higher" or "lower".
    """

    name: str
    says: str
    study: str
    method: str
    baseline: str
    measure: str
    expected: str
    part: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sign(self) -> int:
        """1 where more is claimed, -1 where less is."""
        return {"higher": 1, "lower": -1}[self.expected]


@dataclass(frozen=True)
class Verdict:
    """What the results say of a claim; ``test`` is None where they are too few."""

    claim: Claim
    test: Test | None
    adjusted: float | None
    pairs: int

    @property
    def word(self) -> str:
        """Return the verdict in a word or two."""
        if self.test is None or self.adjusted is None:
            return "not run" if self.pairs == 0 else "too few runs"
        if self.adjusted >= LEVEL:
            return "not shown"
        return "shown" if self.test.difference * self.claim.sign > 0 else "contradicted"


@dataclass(frozen=True)
class Study:
    """A registered study: its file, what it was planned by, and how to run it."""

    name: str
    file: str
    title: str
    options: str
    seeds: int
    deviations: Mapping[str, float]
    note: str = ""

    @property
    def results(self) -> Path:
        """The CSV that its runs are entered into."""
        return RESULTS / f"{self.name}.csv"

    @property
    def command(self) -> str:
        """The command that runs it."""
        options = f" {self.options}" if self.options else ""
        return f"mixwell study {self.file} --results docs/results/{self.name}.csv{options}"


def read(path: Path = ROOT / "studies" / "claims.yaml") -> tuple[dict[str, Study], list[Claim]]:
    """Return the registered studies by name, and the claims."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    studies = {name: Study(name, **values) for name, values in content["studies"].items()}
    claims = [Claim(**values) for values in content["claims"]]
    names = [claim.name for claim in claims]
    if len(set(names)) < len(names):
        raise ValueError(f"{path}: a claim's name stands twice")
    for claim in claims:
        if claim.study not in studies:
            raise ValueError(f"{path}: claim {claim.name} names the study {claim.study!r}")
        get(claim.measure)
    return studies, claims


# ------------------------------------------------------------------------------------- results


def values_of(path: Path, part: Mapping[str, Any]) -> Values:
    """Return the measures of the runs of one part of a study; none where there is no file."""
    found: Values = {}
    if not path.is_file():
        return found
    wanted = {key: str(value) for key, value in part.items()}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            varied = yaml.safe_load(row["varied"] or "{}") or {}
            have = {key: f"{v:g}" if isinstance(v, float) else str(v) for key, v in varied.items()}
            if have != wanted:
                continue
            measured = {name: number(value) for name, value in row.items()}
            kept = {name: value for name, value in measured.items() if value is not None}
            found.setdefault(row["label"], {})[int(row["seed"])] = kept
    return found


def number(text: str | None) -> float | None:
    """Return a cell's number; None for a text or an empty cell."""
    try:
        return float(text) if text else None
    except ValueError:
        return None


def compared(
    values: Values, method: str, baseline: str, measure: str, registered: int
) -> tuple[Test | None, int]:
    """Return the paired test of two methods, and how many of the registered seeds both have.

    There is none before all of them are there: a look on the way, with the choice to stop, would
    make chance differences likelier than the level says. Later seeds don't count.
    """
    own, other = values.get(method, {}), values.get(baseline, {})
    seeds = [
        s for s in range(registered) if measure in own.get(s, {}) and measure in other.get(s, {})
    ]
    if len(seeds) < registered:
        return None, len(seeds)
    test = paired_test([own[s][measure] for s in seeds], [other[s][measure] for s in seeds])
    return test, len(seeds)


def judge(studies: Mapping[str, Study], claims: Sequence[Claim]) -> list[Verdict]:
    """Return the claims' verdicts; p-values are adjusted by Holm's method within each study."""
    verdicts = []
    for study in studies.values():
        own = [claim for claim in claims if claim.study == study.name]
        tests = [
            compared(values_of(study.results, c.part), c.method, c.baseline, c.measure, study.seeds)
            for c in own
        ]
        # Those without a test yet count among the claims that are corrected for.
        adjusted = holm([1.0 if test is None else test.p_value for test, _ in tests])
        for claim, (test, pairs), p in zip(own, tests, adjusted, strict=True):
            verdicts.append(Verdict(claim, test, p if test else None, pairs))
    return verdicts


# --------------------------------------------------------------------------------------- pages


def table(head: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Return a Markdown table; columns numbered in ``right`` stand to the right."""
    line = ["---:" if place in right else "---" for place in range(len(head))]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, line, *rows))


def amount(measure: str, value: float, signed: bool = True) -> str:
    """Return a difference of a measure in its unit."""
    known = get(measure)
    digits = known.digits + 1 if known.factor == 1 else 2
    text = f"{value * known.factor:{'+' if signed else ''}.{digits}f}"
    return text.replace("-", "−")


def registration(studies: Mapping[str, Study], claims: Sequence[Claim]) -> str:
    """Return docs/claims.md."""
    parts = [INTRODUCTION]
    for study in studies.values():
        own = [claim for claim in claims if claim.study == study.name]
        declared = read_study(ROOT / study.file)
        parts += [f"## {study.title}", study.note.strip()]
        parts += [f"    {study.command}"]
        parts += [
            f"{study.seeds} seeds; {len(own)} claims, adjusted together. {described(declared)}"
        ]
        rows = [
            (
                claim.name, claim.says + where(claim), f"`{claim.method}`", f"`{claim.baseline}`",
                f"{get(claim.measure).title} {claim.expected}", detects(study, claim),
            )
            for claim in own
        ]  # fmt: skip
        head = ("", "claim", "method", "against", "expected", "80 % power for")
        parts.append(table(head, rows, right=(5,)))
    return "\n\n".join(part for part in parts if part) + "\n"


def described(declared: Mapping[str, Any]) -> str:
    """Return in words what a study's file declares."""
    shown = [
        f"{name} {', '.join(map(str, value)) if isinstance(value, list) else value}"
        for name, value in declared.items()
        if name not in ("methods", "protocol", "seeds", "ood", "shift", "people")
    ]
    methods = ", ".join(f"`{method}`" for method in declared["methods"])
    return f"Methods: {methods}. Set: {'; '.join(shown)}."


def where(claim: Claim) -> str:
    """Return in words which part of its study a claim is about."""
    return "".join(f" ({name.replace('_', ' ')} {value})" for name, value in claim.part.items())


def detects(study: Study, claim: Claim) -> str:
    """Return the difference that the registered seeds show with power 0.8, before correction."""
    deviation = study.deviations.get(claim.measure)
    if deviation is None:
        return "no pilot"
    least = detectable_difference(deviation, study.seeds)
    unit = get(claim.measure).unit
    return amount(claim.measure, least, signed=False) + (" points" if unit == "%" else "")


def outcome(studies: Mapping[str, Study], verdicts: Sequence[Verdict], drawn: bool) -> str:
    """Return docs/what_holds.md, with the figure if it was drawn."""
    count = {word: sum(v.word == word for v in verdicts) for word in WORDS}
    told = ", ".join(f"{n} {word}" for word, n in count.items() if n)
    parts = [FOUND.format(count=len(verdicts), told=told), FIGURE if drawn else ""]
    for study in studies.values():
        own = [verdict for verdict in verdicts if verdict.claim.study == study.name]
        parts.append(f"## {study.title}")
        file = f"(results/{study.name}.csv)"
        if not study.results.is_file():
            parts.append("Not run yet. To be run by")
        elif any(verdict.test is None for verdict in own):
            parts.append(f"Begun: [the runs that have ended]{file}. The command goes on from them:")
        else:
            parts.append(f"[Every run]{file}, made by")
        parts.append(f"    {study.command}")
        rows = [
            (
                verdict.claim.name,
                verdict.claim.says + where(verdict.claim),
                f"{get(verdict.claim.measure).title}: `{verdict.claim.method}` against "
                f"`{verdict.claim.baseline}`",
                effect(verdict),
                str(verdict.pairs)
                + (f" of {study.seeds}" if verdict.word == "too few runs" else ""),
                f"{verdict.adjusted:.3f}" if verdict.adjusted is not None else "",
                f"**{verdict.word}**" if verdict.word in WORDS[:2] else verdict.word,
            )
            for verdict in own
        ]
        head = ("", "claim", "test", "effect", "seeds", "p", "verdict")
        parts.append(table(head, rows, right=(3, 4, 5)))
    return "\n\n".join(part for part in parts if part) + "\n"


WORDS = ("shown", "contradicted", "not shown", "too few runs", "not run")


def effect(verdict: Verdict) -> str:
    """Return a difference with its 95 % interval."""
    if verdict.test is None:
        return ""
    measure, test = verdict.claim.measure, verdict.test
    return f"{amount(measure, test.difference)} ± {amount(measure, test.half_width, signed=False)}"


INTRODUCTION = """\
# Claims, registered

<!-- Written by studies/claims.py from studies/claims.yaml. -->

What the papers claim, as sentences that a study of this size can show or contradict. They were
committed before the runs; what came out stands on [What holds](what_holds.md). The claims are in
our words, and at our scale: small networks, few images, minutes a run.

- **Test:** the paired t-test over seeds, two-sided. A seed draws the split, the weights, the order
  and the mixing alike for both methods.
- **Correction:** Holm's, over the claims of a study, at 5 %. *Shown* is a difference in the
  claimed direction with an adjusted p below 0.05, *contradicted* one in the other direction, *not
  shown* all else: it doesn't say that there is none.
- **Seeds:** 0 and on; a claim is judged once all of the registered ones are there, and by them
  alone. Pilots had seeds from 100 on and were looked at on validation data alone.
  The last column is the true difference that the registered seeds show four times in five, by the
  pilots' deviation of paired differences and before correction. The pilot had 2,000 validation
  images, where a test split has 10,000: the deviation on it is smaller. To show one point of
  accuracy by the pilot's deviation takes 19 seeds; the time was there for 5.
- **Settings** are each method's own defaults (`mixwell describe NAME`: α is 1 for most, 10 for
  `regmixup`, 2 for `manifold_mixup`, `c_mixup`, `automix` and `samix`, 0.8 for `unimix` and 0.1 for
  `balanced_mixup`; λ is drawn for each sample), but for those in brackets behind its name. The
  optimiser, its rate and the number of epochs are the same for all, but for epochs in brackets.
  With few labels the form is the paper's, but for `semi` in brackets.
- **Outliers and corruptions:** 5,000 of the other set's test images, and 2,000 of the own ones, by
  nine kinds in five strengths; the images are the same in all runs.
- What was not run by the end is named as not run. Nothing is left out.

Every study is run by the command beside it; a run that stands in the CSV is not trained again."""

FOUND = """\
# What holds

<!-- Written by studies/claims.py from studies/claims.yaml and docs/results. -->

The [registered claims](claims.md) and what came out: {count} claims; {told}. An effect is the mean
difference over seeds with its 95 % interval: in points for what is in per cent, p after Holm's
correction. Everything here is of small networks trained for minutes: it says what holds at this
scale, not what holds at the papers'."""
OUTSIDE = "#7f7f7f"  # of what has no ground of its own: to be read in the light and in the dark
Colour = tuple[float, float, float]
HELPS, HURTS, UNKNOWN = (0.41, 0.63, 0.84), (0.94, 0.62, 0.34), (0.95, 0.95, 0.95)
FIGURE = (
    "![Methods by situations: the difference from erm, with its interval](images/what_helps.png)"
)


# ------------------------------------------------------------------------------------- figure


@dataclass(frozen=True)
class Situation:
    """A column of the figure: a measure in a part of a study.

    Attributes:
        group: what stands above neighbouring columns: what is measured, in which unit.
        title: of the column; two lines of eleven characters have room.
        study: the study's name.
        measure: what is compared.
        part: what varies in the study, and its value here.
    """

    group: str
    title: str
    study: str
    measure: str
    part: Mapping[str, Any] = field(default_factory=dict)


def situations(path: Path = ROOT / "studies" / "claims.yaml") -> list[Situation]:
    """Return the figure's columns."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    return [Situation(**values) for values in content["situations"]]


@dataclass(frozen=True)
class Column:
    """What the runs of a situation say: a test against erm by method, and erm's own mean."""

    situation: Situation
    tests: Mapping[str, Test | None]
    base: float
    seeds: int


def measured(studies: Mapping[str, Study]) -> list[Column]:
    """Return the figure's columns; those without a method that has all its runs are left out."""
    columns = []
    for situation in situations():
        study = studies[situation.study]
        values = values_of(study.results, situation.part)
        tests = {
            method: compared(values, method, "erm", situation.measure, study.seeds)[0]
            for method in values
            if method != "erm"
        }
        if any(tests.values()):
            base = [values["erm"][seed][situation.measure] for seed in range(study.seeds)]
            columns.append(Column(situation, tests, sum(base) / len(base), len(base)))
    return columns


def draw(studies: Mapping[str, Study], path: Path) -> bool:
    """Draw methods by situations: each cell the difference from erm, paired by seed.

    Colour tells the direction where the 95 % interval is on one side of zero, and is deeper the
    further zero is from it; all other cells are grey. Without any column nothing is drawn, and
    False returned.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    columns = measured(studies)
    if not columns:
        return False
    # A method with options of its own stands below the method without.
    found = list(dict.fromkeys(method for column in columns for method in column.tests))
    names = [method.partition("(")[0] for method in found]
    rows = sorted(found, key=lambda method: names.index(method.partition("(")[0]))
    width = max(len(columns), 8)  # what stands below them takes as much
    figure, axes = plt.subplots(
        figsize=(2.1 + 0.92 * width, 1.6 + 0.44 * len(rows)), layout="constrained"
    )
    for x, column in enumerate(columns):
        for y, method in enumerate(rows):
            _cell(axes, x, y, column.situation, column.tests.get(method))
    _heads(axes, columns)
    _foot(axes, columns, len(rows))
    axes.set(xlim=(-0.52, width - 0.48), ylim=(len(rows) + 1.35, -2.0))
    axes.set_yticks(
        [*range(len(rows)), len(rows)], [*rows, "erm itself"], fontsize=10, color=OUTSIDE
    )
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.savefig(path, dpi=160, transparent=True)
    plt.close(figure)
    return True


def _cell(axes: Axes, x: float, y: float, situation: Situation, test: Test | None) -> None:
    """Draw a difference above its interval; a dot where the method was not run."""
    if test is None:
        axes.text(x, y, "·", ha="center", va="center", color=OUTSIDE)
        return
    _patch(axes, x, y, shade(situation, test))
    measure, sure = situation.measure, abs(test.difference) > test.half_width
    ink = "black" if sure else "0.45"
    difference = brief(measure, test.difference)
    half = f"± {brief(measure, test.half_width, signed=False)}"
    axes.text(x, y - 0.17, difference, ha="center", va="center", fontsize=11, color=ink,
              weight="bold" if sure else "normal")  # fmt: skip
    axes.text(x, y + 0.23, half, ha="center", va="center", fontsize=8, color=ink)


def _patch(axes: Axes, x: float, y: float, colour: Colour, width: float = 0.96) -> None:
    from matplotlib.patches import Rectangle

    place = (x - width / 2, y - 0.46)
    axes.add_patch(Rectangle(place, width, 0.92, color=colour, linewidth=0))


def _heads(axes: Axes, columns: Sequence[Column]) -> None:
    """Write each column's title, and above neighbours of a group the group's, over a line."""
    for x, column in enumerate(columns):
        title = textwrap.fill(column.situation.title, 11)
        axes.text(x, -0.6, title, ha="center", va="bottom", fontsize=9, color=OUTSIDE)
    groups = itertools.groupby(enumerate(columns), lambda pair: pair[1].situation.group)
    for group, pairs in groups:
        places = [x for x, _ in pairs]
        title = textwrap.fill(group, 12 * len(places))
        axes.plot((places[0] - 0.46, places[-1] + 0.46), (-1.62, -1.62), color=OUTSIDE, linewidth=1)
        axes.text((places[0] + places[-1]) / 2, -1.7, title, ha="center", va="bottom", fontsize=10,
                  weight="bold", color=OUTSIDE)  # fmt: skip


def _foot(axes: Axes, columns: Sequence[Column], row: int) -> None:
    """Write what erm has itself, and what the colours say."""
    for x, column in enumerate(columns):
        known = get(column.situation.measure)
        value = brief(known.name, column.base, signed=False) + (known.unit and f" {known.unit}")
        axes.text(x, row - 0.12, value, ha="center", va="center", fontsize=9, color=OUTSIDE)
        axes.text(x, row + 0.26, f"{column.seeds} seeds", ha="center", va="center", fontsize=8,
                  color=OUTSIDE)  # fmt: skip
    legend = {"helps": HELPS, "hurts": HURTS, "not known": UNKNOWN}
    for place, (word, colour) in enumerate(legend.items()):
        _patch(axes, place * 1.2 - 0.28, row + 1, colour, width=0.4)
        axes.text(place * 1.2, row + 1, word, ha="left", va="center", fontsize=9, color=OUTSIDE)
    words = "·  not run    difference from erm, with its 95 % interval"
    axes.text(3 * 1.2 - 0.1, row + 1, words, ha="left", va="center", fontsize=9, color=OUTSIDE)


def brief(measure: str, value: float, signed: bool = True) -> str:
    """Return a difference with the digits that a glance takes in."""
    known = get(measure)
    text = f"{value * known.factor:{'+' if signed else ''}.{1 if known.factor != 1 else 3}f}"
    return text.replace("-", "−")


def shade(situation: Situation, test: Test) -> Colour:
    """Return a cell's colour: blue where a method helps, orange where it hurts, grey if unknown."""
    ratio = abs(test.difference) / max(test.half_width, 1e-12)
    if ratio <= 1:
        return UNKNOWN
    helps = (test.difference > 0) == bool(get(situation.measure).higher_is_better)
    deep = min(0.3 + 0.25 * (ratio - 1), 1.0)
    full = HELPS if helps else HURTS
    return tuple(1 - deep * (1 - value) for value in full)  # type: ignore[return-value]


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the pages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--judge", action="store_true")
    options = parser.parse_args(arguments)
    studies, claims = read()
    (ROOT / "docs" / "claims.md").write_text(registration(studies, claims), encoding="utf-8")
    if options.judge:
        drawn = draw(studies, ROOT / "docs" / "images" / "what_helps.png")
        page = outcome(studies, judge(studies, claims), drawn)
        (ROOT / "docs" / "what_holds.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
