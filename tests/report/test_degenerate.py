"""Results of which there is too little, or that are no numbers: they come, and words with them."""

import dataclasses
import io
import json
import math
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from mixwell import InputError
from mixwell.report import markdown_table, tables, write
from mixwell.report.tables import latex_table
from mixwell.studies import RunRecord, compare, load_results, summarise
from mixwell.studies.statistics import detectable_difference, interval, seeds_needed

NUMBERS = {
    "NaN": math.nan, "infinite": math.inf, "missing": None, "no number": "x", "large": 1e300,
    "tiny": 1e-300, "zero": 0.0,
}  # fmt: skip


def run(method, seed, value, status="done", error=None):
    config = {"method": method, "seed": seed, "method_options": {}, "data": "digits"}
    result = {"metrics": {"accuracy": value}} if status == "done" else None
    return RunRecord.of(Path(f"{method}-{seed}"), result, config, error)


def in_words(records, width=200):
    """Return all tables, with warnings as errors; none holds a number that is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        console = Console(width=width, record=True, file=io.StringIO())
        for table in tables(records, width=width):
            table.min_width = 150
            console.print(table)
        text = console.export_text() + markdown_table(records) + latex_table(records)
    assert not re.search(r"\bnan\b|\binf\b|\bNone\b", text), text
    return " ".join(text.split())


@pytest.mark.parametrize("which", ["all", "one", "base"])
@pytest.mark.parametrize("kind", list(NUMBERS))
def test_what_is_no_number_is_in_no_mean_and_said(kind, which):
    value = NUMBERS[kind]
    chosen = {"all": lambda m, s: True, "one": lambda m, s: m == "mixup" and s == 1,
              "base": lambda m, s: m == "erm"}[which]  # fmt: skip
    records = [run(m, s, value if chosen(m, s) else 0.8 + s / 50 + (m == "mixup") / 30 * s)
               for m in ("erm", "mixup") for s in range(3)]  # fmt: skip
    text = in_words(records)
    mean = summarise(records)[1].metrics.get("accuracy")
    if kind in ("NaN", "infinite", "missing", "no number"):
        count = "1 of 3 runs: left out" if which == "one" else "all 3 runs"
        assert f"{kind} in {count}" in text
        if which == "one":
            assert mean.values == pytest.approx((0.8, 0.84 + 2 / 30))
            assert mean.seeds == (0, 2)
    else:
        assert all(math.isfinite(v) for v in (mean.mean, mean.half_width))


@pytest.mark.parametrize(("records", "words"), [
    ([run("erm", s, 0, "failed", "lots\nof: it broke") for s in range(3)],
     "all 3 runs failed: of: it broke"),
    ([run("erm", 0, 0, "failed", "gone")], "the one run failed: gone"),
    ([run("erm", 0, 0, "failed")], "no reason is known"),
    ([run("erm", s, 0.5 + s / 9) for s in range(3)] + [run("mixup", 0, 0, "failed", "gone")],
     "mixup: the one run failed: gone"),
    ([run("erm", 0, 0.5)], "one seed: no interval, no test"),
    ([run("mixup", s, 0.5 + s / 9) for s in range(3)], "one method: nothing to compare it with"),
    ([run("erm", s, 0.5 + s / 9) for s in (0, 1)] + [run("mixup", s, s / 9) for s in (2, 3)],
     "no seed in common with erm: no test"),
    ([run("erm", s, 0.5 + s / 9) for s in (0, 1)] + [run("mixup", s, s / 9) for s in (1, 2)],
     "one seed in common with erm: no test"),
    ([run("erm", s, 0.5) for s in range(3)] + [run("mixup", s, 0.6) for s in range(3)],
     "the difference to erm is the same in all seeds: no test"),
])  # fmt: skip
def test_what_can_not_be_told_is_said(records, words):
    assert words in in_words(records)


def test_frames_of_what_is_left(tmp_path):
    records = [run(m, s, math.nan if (m, s) == ("erm", 0) else 0.5 + s / 7)
               for m in ("erm", "mixup") for s in range(3)]  # fmt: skip
    found = summarise(records)[0]
    assert found.left_out == {"accuracy": "NaN in 1 of 3 runs: left out"}
    with pytest.raises(InputError):
        load_results(tmp_path)
    with pytest.raises(InputError, match="results"):
        compare(None)


@pytest.mark.parametrize("values", [[], [math.nan], [1.0, math.inf], [None], ["x"], [True]])
def test_an_interval_is_of_numbers(values):
    with pytest.raises(InputError, match="values must be finite numbers"):
        interval(values)


@pytest.mark.parametrize("call", [
    lambda: seeds_needed(0.0, 1.0), lambda: seeds_needed(math.nan, 1.0),
    lambda: seeds_needed(1.0, "x"), lambda: seeds_needed(1.0, 1.0, level=1.0),
    lambda: detectable_difference(1.0, 1), lambda: detectable_difference(-1.0, 3),
    lambda: detectable_difference(1.0, 3, power=0.0),
])  # fmt: skip
def test_plans_are_of_numbers_in_their_range(call):
    with pytest.raises(InputError):
        call()


def spoilt(records, how):
    """Return runs whose measures, course or predictions are spoilt."""
    name, _, value = how.partition(" ")
    if name == "measures":
        other = NUMBERS[value]
        return [dataclasses.replace(r, metrics=dict.fromkeys(r.metrics, other)) for r in records]
    if name == "course":
        rows = [{"epoch": 1, **dict.fromkeys(("loss", "val_nll", "val_accuracy"), NUMBERS[value])}]
        return [dataclasses.replace(record, history=rows) for record in records]
    for record in records:
        with np.load(record.path / "predictions.npz") as file:
            arrays = {key: file[key] for key in file.files}
        real = {key: array for key, array in arrays.items() if array.dtype.kind == "f"}
        made = {
            "NaN": {key: np.full_like(array, np.nan) for key, array in real.items()},
            "empty": {key: array[:0] for key, array in arrays.items()},
            "one": {key: array[:1] for key, array in arrays.items()},
            "alike": {key: np.zeros_like(array) for key, array in arrays.items()},
        }[value]
        np.savez(record.path / "predictions.npz", **{**arrays, **made})
    return records


HOW = ("measures NaN", "measures missing", "course NaN", "course infinite", "predictions NaN",
       "predictions empty", "predictions one", "predictions alike")  # fmt: skip


def check_page(records, folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        paths = write(records, folder, command="made up")
    json.loads(paths.json.read_text(), parse_constant=lambda name: pytest.fail(name))
    page = re.sub(r'data-value="nan"|base64,[\w+/=]+', "", paths.html.read_text())
    assert not re.search(r"±nan|\bnan ±|>nan<|>inf<|>None<", page)
    return page


def test_a_report_of_nothing_says_so(make_records, tmp_path):
    records = make_records(seeds=1, failed={("erm", 0), ("mixup", 0)})
    page = check_page(records, tmp_path / "out")
    assert "No run has finished" in page
    assert "all 2 runs failed" in page


@pytest.mark.cases(slow=12)
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize(("task", "kind"), [
    ("classification", "everything"), ("classification", "toy"), ("classification", "images"),
    ("regression", ""),
])  # fmt: skip
def test_a_page_of_spoilt_runs_comes(make_records, tmp_path, task, kind, how):
    check_page(spoilt(make_records(task=task, kind=kind), how), tmp_path / "out")
