"""Results as tidy pandas data frames, and methods compared in them."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixwell.errors import InputError, suggest
from mixwell.metrics.measures import VALIDATION, Measure, get, registered
from mixwell.studies.records import RunRecord, in_words, key_of
from mixwell.studies.results_file import ResultsFile, result_of
from mixwell.studies.statistics import MethodSummary, Test, measures, summarise
from mixwell.studies.store import load_records

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["compare", "load_results"]

_START = ("study", "data", "method", "label", "seed")
_END = ("measure", "value", "unit", "split")


def load_results(source: str | Path) -> DataFrame:
    """Return finished runs as a tidy frame: a row for each run and measure.

    Its columns are ``study`` (the folder's or file's name), ``data``, ``method``, ``label`` (the
    method with its settings), ``seed``, a column for each option that varies (mappings and lists
    in words: "width=8"), ``measure``,
    ``value``, ``unit`` and ``split``: "test", "validation", or "training" for costs. Values are
    in their unit, as in tables: an accuracy of 93.1 is in "%"; an empty unit is a plain number or
    the target's own unit. Runs that failed have no values; how many they are is a warning.

    Args:
        source: a study's folder, a run's, or a file that ``--results`` (``results=``) wrote.

    Raises:
        InputError: there are no finished runs, one is there twice, or something is damaged.
    """
    import pandas as pd

    path = Path(source).expanduser()
    is_file = path.suffix.lower() == ".csv"
    records = _of_file(path) if is_file else load_records(path)
    done = [record for record in records if record.status == "done"]
    if len(done) < len(records):
        warnings.warn(
            f"{path}: {len(records) - len(done)} of {len(records)} runs failed and have no values",
            stacklevel=2,
        )
    name = path.resolve().stem if is_file else path.resolve().name
    varied = list(dict.fromkeys(n for record in done for n in record.vary if n != "data"))
    taken = [column for column in varied if column in (*_START, *_END)]
    if taken:
        raise InputError(f"{path}: the study varies {taken[0]!r}, which is a column of its own")
    rows = []
    seen = set()
    for record in done:
        part = ", ".join(filter(None, (record.group, f"seed {record.seed}")))
        key = (record.config["data"], key_of(record.vary), record.label, record.seed)
        if key in seen:
            raise InputError(
                f"{path}: results hold {record.label} ({part}) twice, with other settings: they "
                "are of two studies; keep each in a file of its own"
            )
        seen.add(key)
        start = [name, record.config["data"], record.config["method"], record.label, record.seed]
        settings = [_cell(record.vary.get(column)) for column in varied]
        rows += [[*start, *settings, *row] for row in _values(record)]
    return pd.DataFrame(rows, columns=[*_START, *varied, *_END])


def _cell(value: Any) -> Any:
    """Return a value as a frame can group by it: several in one as a text."""
    return in_words(value) if isinstance(value, (Mapping, list, tuple)) else value


def _values(record: RunRecord) -> Iterable[tuple[str, float, str, str]]:
    for name, value in measures(record).items():
        known = _measure(name)
        split = "validation" if name.startswith(VALIDATION) else "test"
        if known is not None and known.compute is None:
            split = "training"
        factor, unit = (1.0, "") if known is None else (known.factor, known.unit)
        yield name, value * factor, unit, split


def _measure(name: str) -> Measure | None:
    """Return a measure's declaration; None of one that isn't registered in this process."""
    try:
        return get(name)
    except InputError:
        return None


def _of_file(path: Path) -> list[RunRecord]:
    """Return the records of a results file, of which it tells no configuration."""
    if not path.is_file():
        raise InputError(f"{path}: there is no such file")
    records = []
    for row in ResultsFile(path).rows():
        config = {"data": row["data"], "method": row["method"], "seed": int(row["seed"])}
        result, vary = result_of(row, config, path.name), json.loads(row["varied"])
        records.append(RunRecord.of(path, result, config, None, vary, row["label"]))
    if not records:
        raise InputError(f"{path} holds no finished run")
    return records


def compare(
    results: DataFrame | str | Path,
    baseline: str | None = None,
    *,
    measures: str | Sequence[str] | None = None,
) -> DataFrame:
    """Return paired comparisons of methods against a baseline: a row for each part and measure.

    Methods are paired by seed, within each part of the study (data, what varies); p-values of one
    measure, over all methods and parts, are adjusted together by Holm's method. Columns:
    ``study``, ``data``, what varies, ``label``, ``measure``, ``unit``, ``split``, ``mean``,
    ``baseline`` (its label), ``baseline_mean``, ``difference`` (its mean over pairs) with the 95 %
    interval ``low`` to ``high``, ``pairs``, ``p_value``, ``p_adjusted``, and ``verdict``: "better"
    or "worse" where the adjusted p < 0.05, else "not known"; "differs" where neither direction is
    better. Where fewer than two seeds are paired there is no interval, and nothing is known.

    Args:
        results: a frame of :func:`load_results`, or several concatenated; or what it reads.
        baseline: the label that the others are tested against; "erm" without one, where it is
            there, else the first.
        measures: which are compared, one or several; all without.

    Raises:
        InputError: the frame lacks columns or holds a run twice; the baseline or a measure is not
            in it.
    """
    import pandas as pd

    frame = load_results(results) if isinstance(results, (str, Path)) else results
    records, units = _records(frame)
    labels = list(dict.fromkeys(record.label for record in records))
    if baseline is not None and baseline not in labels:
        raise InputError(
            f"baseline={baseline!r} is not among the methods {', '.join(labels)}"
            f"{suggest(baseline, labels)}"
        )
    measures = [measures] if isinstance(measures, str) else measures
    for name in measures or ():
        if name not in units:
            raise InputError(f"measures: there is no {name!r} in the results{suggest(name, units)}")
    summaries = summarise(records, baseline)
    parts: dict[str, dict[str, MethodSummary]] = {}
    for summary in summaries:
        parts.setdefault(summary.group, {})[summary.method] = summary
    rows = []
    for part in parts.values():
        base = baseline or ("erm" if "erm" in part else next(iter(part)))
        for label, summary in part.items():
            if label == base:
                continue
            for name in measures or units:
                if name in summary.metrics:
                    row = {**summary.vary, "label": label, "measure": name}
                    rows.append({**row, **units[name], **_compared(summary, part.get(base), name)})
    varied = list(records[0].vary)
    return pd.DataFrame(rows, columns=[*varied, *_COMPARED])


_COMPARED = (
    "label", "measure", "unit", "split", "mean", "baseline", "baseline_mean", "difference", "low",
    "high", "pairs", "p_value", "p_adjusted", "verdict",
)  # fmt: skip


def _compared(summary: MethodSummary, base: MethodSummary | None, name: str) -> dict[str, Any]:
    """Return what is known of a method's measure beside the baseline's."""
    found: dict[str, Any] = {"mean": summary.metrics[name].mean, "verdict": "not known", "pairs": 0}
    if base is None or name not in base.metrics:
        return found
    shared = set(summary.seeds) & set(base.seeds)
    found |= {
        "baseline": base.method, "baseline_mean": base.metrics[name].mean, "pairs": len(shared),
        "difference": _difference(summary, base, name),
    }  # fmt: skip
    test = summary.tests.get(name)
    if test is not None:
        found |= {
            "difference": test.difference, "low": test.difference - test.half_width,
            "high": test.difference + test.half_width, "pairs": test.pairs,
            "p_value": test.p_value, "p_adjusted": test.adjusted, "verdict": _verdict(test, name),
        }  # fmt: skip
    return found


def _difference(summary: MethodSummary, base: MethodSummary, name: str) -> float:
    """Return the mean difference of the seeds that both have; NaN where there is none."""
    if any(len(s.metrics[name].values) < s.n for s in (summary, base)):
        return math.nan  # a run lacks it, and which one is not told here
    own, others = (dict(zip(s.seeds, s.metrics[name].values, strict=True)) for s in (summary, base))
    gaps = [own[seed] - others[seed] for seed in own if seed in others]
    return math.fsum(gaps) / len(gaps) if gaps else math.nan


def _verdict(test: Test, name: str) -> str:
    known = _measure(name)
    if not test.significant:
        return "not known"
    if known is None or known.higher_is_better is None:
        return "differs"
    return "better" if (test.difference > 0) == known.higher_is_better else "worse"


def _records(frame: DataFrame) -> tuple[list[RunRecord], dict[str, dict[str, str]]]:
    """Return a frame's runs as records, and each measure's unit and split."""
    lacking = [name for name in (*_START, *_END) if name not in getattr(frame, "columns", ())]
    if lacking:
        raise InputError(f"results must be a frame of load_results; it lacks {lacking[0]!r}")
    if not len(frame):
        raise InputError("results hold no run")
    varied = [name for name in frame.columns if name not in (*_START, *_END)]
    costs = [measure.name for measure in registered() if measure.compute is None]
    runs: dict[tuple[Any, ...], dict[str, float]] = {}
    units: dict[str, dict[str, str]] = {}
    for row in frame.to_dict("records"):
        names = ("study", "data", *varied, "method", "label", "seed")
        key = tuple(_cell(row[name]) for name in names)
        # NaN is no value of what doesn't vary in this study: it must not tell runs apart.
        key = tuple(None if isinstance(k, float) and math.isnan(k) else k for k in key)
        own = runs.setdefault(key, {})
        if row["measure"] in own:
            raise InputError(
                f"results hold {row['measure']!r} of {row['label']}, seed {row['seed']}, twice"
            )
        own[row["measure"]] = row["value"]
        units[row["measure"]] = {"unit": row["unit"], "split": row["split"]}
    records = []
    for (*part, method, label, seed), values in runs.items():
        vary = dict(zip(("study", "data", *varied), part, strict=True))
        config = {"data": vary["data"], "method": method, "seed": seed}
        records.append(_record(config, values, vary, label, costs))
    return records, units


def _record(
    config: dict[str, Any], values: Mapping[str, float], vary: dict[str, Any], label: str,
    costs: Sequence[str],
) -> RunRecord:  # fmt: skip
    own: dict[str, Any] = {name: values[name] for name in costs if name in values}
    others = {name: value for name, value in values.items() if name not in costs}
    return RunRecord(Path(), config, others, vary=vary, label=label, **own)
