"""What the tests say, what they could have said, and the differences themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mixwell.metrics.measures import Measure
from mixwell.report.drawing import INK, Point, canvas, mark, svg_of
from mixwell.report.sections.base import Block, Part, Section, Table, plain
from mixwell.report.tables import fitted, p_text
from mixwell.studies import PROTOCOLS, MethodSummary
from mixwell.studies.statistics import detectable_difference, seeds_needed

__all__ = ["DIFFERENCES", "FINDINGS", "POWER"]

_SHOWN = 4  # measures whose differences are drawn


def _findings(part: Part) -> Block:
    found = [_sentence(part, m) for m in _ranked(part) if m.higher_is_better is not None]
    return Block("What the tests say", sentences=[text for text in found if text], style="plain")


def _ranked(part: Part) -> list[Measure]:
    """Return the leading measures that there are tests of, in the protocol's order."""
    order = PROTOCOLS[part.protocol].measures
    return sorted(part.tested, key=lambda measure: order.index(measure.name))


def _sentence(part: Part, measure: Measure) -> str:
    """Return what the tests allow to say of a measure."""
    better, worse, open_ = [], [], []
    measure = fitted(measure, part.summaries)
    for summary in part.summaries:
        test = summary.tests.get(measure.name)
        if test is None:
            continue
        gap = measure.text(test.difference, signed=True)
        text = f"{summary.method} ({gap}, {p_text(test.adjusted)})"
        if not test.significant:
            open_.append(summary.method)
        elif (test.difference > 0) == measure.higher_is_better:
            better.append(text)
        else:
            worse.append(text)
    said = [
        f"{start}: {', '.join(methods)}"
        for start, methods in (
            (f"better than {part.base}", better), ("worse", worse),
            ("no significant difference", open_),
        )
        if methods
    ]  # fmt: skip
    return f"{measure.heading}: {'; '.join(said)}." if said else ""


FINDINGS = Section("findings", _findings)


def _power(part: Part) -> Block:
    """Return what differences of the first leading measure these seeds could have shown."""
    measure = fitted(_ranked(part)[0], part.summaries)
    rows = []
    pairs = 0
    for summary in part.summaries:
        test = summary.tests.get(measure.name)
        if test is None:
            continue
        pairs = max(pairs, test.pairs)
        if test.deviation <= 0:
            continue
        least = detectable_difference(test.deviation, test.pairs)
        needed = seeds_needed(test.deviation, test.difference) if test.difference else None
        rows.append(
            (
                summary.method, measure.text(test.difference, signed=True),
                measure.text(test.deviation), measure.text(least),
                "over 10,000" if needed is None else str(needed),
            )
        )  # fmt: skip
    headings = (
        "method", "difference seen", "its deviation over seeds",
        f"least difference that {pairs} seeds show", "seeds for a true difference as seen",
    )  # fmt: skip
    return Block(
        f"What {pairs} seeds can and can’t show",
        f"No significant difference is not proof of equality. Of {measure.heading}, with the "
        "spread that was seen, a paired t-test at 5 % shows these differences with a chance of "
        "80 %, before any correction for many tests.",
        table=Table(headings, rows) if rows else None,
        style="folded",
    )


POWER = Section("power", _power, lambda part: bool(part.tested))


def _differences(part: Part) -> Block:
    drawn = []
    for measure in part.tested[:_SHOWN]:
        unit = {"": "", "%": ", percentage points"}.get(measure.unit, f", {measure.unit}")
        title = measure.title + unit
        drawn.append(differences(part.summaries, part.colours, measure, title, part.base))
    return Block(
        f"Difference to {part.base}",
        "Mean of the paired differences and its 95 % interval, uncorrected. Where an interval "
        "crosses zero no difference is known: there may be one, either way, that these seeds "
        "don’t show.",
        pictures=plain(*drawn),
    )


DIFFERENCES = Section("differences", _differences, lambda part: bool(part.tested))


def differences(
    summaries: Sequence[MethodSummary], colours: Mapping[str, str], measure: Measure, title: str,
    baseline: str,
) -> str:  # fmt: skip
    """Return each method's difference to the baseline with its 95 % interval."""
    shown = [s for s in summaries if s.tests.get(measure.name)][::-1]
    measure = fitted(measure, summaries)
    points = []
    with canvas(5.2, 0.75 + 0.34 * max(len(shown), 1)) as (figure, axes):
        for row, summary in enumerate(shown):
            test = summary.tests[measure.name]
            assert test is not None
            middle, half = measure.factor * test.difference, measure.factor * test.half_width
            drawn = axes.errorbar(
                middle, row, xerr=half, fmt="o", color=colours[summary.method], capsize=3,
                markersize=5, linewidth=1.6,
            )  # fmt: skip
            mark(drawn, summary.method)
            low, high = (
                measure.text(test.difference + sign * test.half_width, signed=True)
                for sign in (-1, 1)
            )
            text = (
                f"{summary.method}: {measure.text(test.difference, signed=True)} [{low}, {high}], "
                f"{p_text(test.p_value)}, {p_text(test.adjusted)} after Holm"
            )
            points.append(Point(axes, middle, row, text, summary.method))
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.locator_params(axis="x", nbins=6)  # more run into each other: "−0.175−0.150"
        axes.set_yticks(range(len(shown)), [summary.method for summary in shown])
        for label, summary in zip(axes.get_yticklabels(), shown, strict=True):
            mark(label, summary.method)
        axes.set_ylim(-0.6, len(shown) - 0.4)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(title)
        name = f"{title}, difference to {baseline} with 95 % intervals"
        return svg_of(figure, name, points)
