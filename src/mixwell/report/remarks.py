"""What a table's numbers can't say: failures, what is left out, which tests can't be made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mixwell.metrics.measures import registered
from mixwell.studies import MethodSummary
from mixwell.studies.statistics import choose_baseline

__all__ = ["by_part", "remarks", "told_of"]


def by_part(summaries: Sequence[MethodSummary]) -> dict[str, list[MethodSummary]]:
    """Return the summaries of each part of a study."""
    parts: dict[str, list[MethodSummary]] = {}
    for summary in summaries:
        parts.setdefault(summary.group, []).append(summary)
    return parts


def told_of(summaries: Sequence[MethodSummary], baseline: str | None = None) -> str:
    """Return in words what the numbers are: means over how many seeds, tested against what."""
    counts = sorted({s.n for s in summaries if s.n})
    if not counts:
        return "no run has finished: there are no numbers"
    if counts[-1] < 2:
        return "one seed: no interval, no test; run more seeds before you conclude anything"
    seeds = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0]}"
    start = f"mean ± 95 % t-interval over {seeds} seeds"
    methods = list(dict.fromkeys(s.method for s in summaries))
    if len(methods) == 1:
        return f"{start}; one method: nothing to compare it with"
    if not any(any(s.tests.values()) for s in summaries):
        return f"{start}; bold: best mean; no test could be made"
    return (
        f"{start}; bold: best mean; ↑ better, ↓ worse than {choose_baseline(methods, baseline)} "
        "(paired t-test, p < 0.05 after Holm's correction over all tests of a measure)"
    )


def remarks(summaries: Sequence[MethodSummary], baseline: str | None = None) -> list[str]:
    """Return in words what a table's numbers can't say: failures, what is left out, no tests.

    Args:
        summaries: of all methods and parts.
        baseline: as of :func:`summarise`.
    """
    runs = sum(s.n + s.failed for s in summaries)
    if not any(s.n for s in summaries):
        return [_failed("", runs, [error for s in summaries for error in s.errors])]
    said = [
        _failed(_whose(s), s.n + s.failed, s.errors) if not s.n else
        f"{_whose(s)}: {s.failed} of {s.n + s.failed} runs failed: {_reasons(s.errors)}"
        for s in summaries
        if s.failed
    ]  # fmt: skip
    for name, part in by_part(summaries).items():
        methods = [s.method for s in part]
        base = baseline or choose_baseline(methods)
        if base in methods:
            said += _of_seeds(part, base)
        elif any(s.n for s in part):
            said.append(f"{name + ': ' if name else ''}{base} has no run here: no test")
    for s in summaries:
        said += _by_measure(s, s.left_out)
        said += _by_measure(s, {n: text for n, text in s.untested.items() if "the same" in text})
    return said


def _failed(whose: str, runs: int, errors: Sequence[str]) -> str:
    count = f"all {runs} runs failed" if runs > 1 else "the one run failed"
    return f"{f'{whose}: ' if whose else ''}{count}: {_reasons(errors)}"


def _reasons(errors: Sequence[str], most: int = 3) -> str:
    kinds = list(dict.fromkeys(errors))
    more = f"; and {len(kinds) - most} other reasons" if len(kinds) > most else ""
    return "; ".join(kinds[:most]) + more


def _whose(summary: MethodSummary) -> str:
    return f"{summary.method} ({summary.group})" if summary.group else summary.method


def _of_seeds(part: Sequence[MethodSummary], base: str) -> list[str]:
    """Return in words where the methods of a part don't have the same seeds."""
    done = [s for s in part if s.n]
    if len(done) < 2 or len({s.seeds for s in done}) < 2:
        return []
    own = next((set(s.seeds) for s in part if s.method == base), set())
    said = []
    for s in done:
        if s.n == 1:
            said.append(f"{_whose(s)}: one seed: no interval, no test")
        elif s.method != base and own and len(own & set(s.seeds)) < 2:
            count = "one seed" if own & set(s.seeds) else "no seed"
            said.append(f"{_whose(s)}: {count} in common with {base}: no test")
    if any(set(s.seeds) != own for s in done) and own:
        said.append(f"methods have different seeds: tests take those that {base} has, too")
    return said


def _by_measure(summary: MethodSummary, words: Mapping[str, str]) -> list[str]:
    """Return what is said of a method's measures, of the same words once."""
    known = {m.name: m for m in registered() if m.compute is not None}
    ranked = {n: text for n, text in words.items() if n not in known
              or known[n].higher_is_better is not None or n in summary.left_out}  # fmt: skip
    by_words: dict[str, list[str]] = {}
    for name, text in ranked.items():
        by_words.setdefault(text, []).append(known[name].heading if name in known else name)
    return [f"{_whose(summary)}, {', '.join(names)}: {text}" for text, names in by_words.items()]
