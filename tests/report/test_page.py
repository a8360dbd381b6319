import csv
import importlib
import json
import re
import sys
from dataclasses import replace
from functools import partial
from html.parser import HTMLParser

import matplotlib
import pytest
from helpers import in_fork
from matplotlib import pyplot as plt

from mixwell import InputError
from mixwell.errors import Note
from mixwell.report import page as report_page
from mixwell.report import write
from mixwell.studies import summarise

VOID = {"meta", "br", "link", "img", "input", "hr"}


class Checker(HTMLParser):
    """Checks that all elements are closed in order, and collects what is asked of the network."""

    def __init__(self):
        super().__init__()
        self.stack, self.links, self.text = [], [], []

    def handle_starttag(self, tag, attributes):
        if tag not in VOID:
            self.stack.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href", "xlink:href")]

    def handle_startendtag(self, tag, attributes):
        self.links += [value for name, value in attributes if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(path):
    checker = Checker()
    checker.feed(path.read_text(encoding="utf-8"))
    assert checker.stack == []
    return checker


def test_the_page_is_whole_self_contained_and_tells_the_numbers(make_records, tmp_path):
    records = make_records(("erm", "mixup", "am_mixup"))
    paths = write(records, tmp_path, command="mixwell compare --methods erm,mixup")
    page = read(paths.html)
    assert all(link.startswith(("#", "data:")) for link in page.links)
    text = " ".join(" ".join(page.text).split())
    for summary in summarise(records):
        assert f"{100 * summary.metrics['accuracy'].mean:.2f}" in text
        assert f"±{100 * summary.metrics['ece'].half_width:.2f}" in text
    assert "mixwell compare --methods erm,mixup" in text
    assert "torch 9.9" in text
    assert "λ_t" in text  # am_mixup's equation
    html = paths.html.read_text(encoding="utf-8")
    figures = re.findall(r"<figure>.*?</figure>", html, re.S)
    assert figures
    assert all('class="save"' in figure for figure in figures)
    assert "#010203" not in html
    assert len(re.findall(r'class="best"', html)) >= 3


def test_a_notebooks_own_figures_are_left_alone(make_records, tmp_path):
    records = make_records(seeds=1)

    def work():
        plt.switch_backend("svg")
        plt.figure()
        for name in [name for name in sys.modules if name.startswith("mixwell.report")]:
            del sys.modules[name]  # importing it changes nothing, either
        importlib.import_module("mixwell.report").write(records, tmp_path / "out", command="m")
        assert matplotlib.get_backend().lower() == "svg"
        assert plt.get_fignums() == [1]

    assert in_fork(work) == 0


def test_csv_and_json_hold_every_run(make_records, tmp_path):
    records = make_records()
    paths = write(records, tmp_path, command="")
    rows = list(csv.DictReader(paths.csv.open(encoding="utf-8")))
    assert len(rows) == 6
    for row, record in zip(rows, records, strict=True):
        assert float(row["accuracy"]) == record.metrics["accuracy"]
    summary = json.loads(paths.json.read_text(encoding="utf-8"))
    assert [entry["method"] for entry in summary] == ["erm", "mixup"]
    assert summary[1]["tests_against_baseline"]["accuracy"]["pairs"] == 3


def test_what_users_write_is_escaped(make_records, tmp_path):
    records = make_records(("erm", "<script>alert(1)</script>"), failed={("erm", 0)})
    html = write(records, tmp_path, command="mixwell <img src=x>").html
    text = html.read_text(encoding="utf-8")
    assert "<script>alert" not in text
    assert "<img" not in text
    assert "&lt;broke&gt;" in text
    read(html)


@pytest.mark.cases(quick=1)
@pytest.mark.parametrize(
    "options",
    [
        {"seeds": 1},
        {"methods": ("erm",)},
        {"task": "regression"},
        {"failed": {("mixup", 0)}},
        {"failed": {("erm", 0), ("mixup", 0)}, "seeds": 1},
    ],
)
def test_unusual_comparisons(options, make_records, tmp_path):
    page = read(write(make_records(**options), tmp_path, command="").html)
    assert "erm" in " ".join(page.text)


def test_missing_predictions_leave_out_their_figures(make_records, tmp_path):
    records = make_records()
    for record in records:
        (record.path / "predictions.npz").unlink()
    text = " ".join(read(write(records, tmp_path, command="").html).text)
    assert "Learning curves" in text
    assert "Reliability and confidence" not in text
    assert "Features in two dimensions" not in text


def test_no_runs():
    with pytest.raises(InputError, match="one run at least"):
        write([], ".", command="")


@pytest.mark.slow
def test_parts_have_an_overview_ranks_and_sections_of_their_own(make_records, tmp_path):
    parts = ({"imbalance": 10.0}, {"imbalance": 100.0})
    records = make_records(parts=parts, kind="everything", changes={"ood": "letters"}.items())
    paths = write(records, tmp_path, command="", protocol="long-tailed")
    page = read(paths.html)
    assert {"#part1", "#part2"} <= set(page.links)
    text = " ".join(" ".join(page.text).split())
    for words in (
        "Over imbalance", "Average rank over the 2 parts", "imbalance 100", "The long tail",
        "Outliers: letters", "Shift by corruption", "classes that it was not trained on",
        "over all tests of a measure",
    ):  # fmt: skip
        assert words in text
    rows = list(csv.DictReader(paths.csv.open(encoding="utf-8")))
    assert [row["imbalance"] for row in rows[:4]] == ["10.0", "10.0", "100.0", "100.0"]
    summary = json.loads(paths.json.read_text(encoding="utf-8"))
    assert [entry["part"] for entry in summary] == [parts[0], parts[0], parts[1], parts[1]]


def test_toys_and_regressions_have_figures_of_their_own(make_records, tmp_path):
    toys = make_records(kind="toy", changes={"data": "moons"}.items())
    text = " ".join(read(write(toys, tmp_path, command="", protocol="toy").html).text)
    for words in ("Decision surfaces", "Where samples are mixed to", "Margins over training"):
        assert words in text
    assert "Features in two dimensions" not in text


def test_a_regression_shows_its_deviations_calibration(make_records, tmp_path):
    records = make_records(("erm", "c_mixup"), task="regression")
    html = write(records, tmp_path, command="", protocol="regression").html
    assert "Calibration of the predicted deviations" in " ".join(read(html).text)
    assert "ENCE 0.50, after s 0.10" in html.read_text(encoding="utf-8")


def test_what_seeds_can_show_is_told(make_records, tmp_path):
    text = " ".join(" ".join(read(write(make_records(), tmp_path, command="").html).text).split())
    assert "What 3 seeds can and can’t show" in text
    assert "least difference that 3 seeds show" in text


@pytest.mark.slow
def test_figures_that_make_a_page_too_large_are_left_out_and_it_says_so(
    make_records, tmp_path, monkeypatch
):
    parts = ({"imbalance": 10.0}, {"imbalance": 100.0})
    records = make_records(parts=parts, seeds=2)
    whole = write(records, tmp_path, command="").html.read_text(encoding="utf-8")
    assert "too large" not in whole
    assert len(whole) < 1_000_000
    monkeypatch.setattr(report_page, "_fit", partial(report_page._fit, most=150_000))
    fitted = write(records, tmp_path, command="").html.read_text(encoding="utf-8")
    figures = re.findall(r"<svg role=.*?</svg>", fitted, re.S)
    own = [figure for figure in figures if "over imbalance" not in figure]
    assert 0 < sum(map(len, own)) <= 150_000
    said = [m.start() for m in re.finditer("too large", fitted)]
    assert said
    assert said[0] > fitted.index('id="part1"')
    assert len([at for at in said if at > fitted.index('id="part2"')]) * 2 >= len(said)


@pytest.mark.slow
def test_ranks_on_the_page_say_over_which_parts_they_are(make_records, tmp_path):
    parts = [{"data": name} for name in ("digits", "letters", "signs")]
    records = [
        replace(r, status="failed", metrics={})
        if r.label == "mixup" and r.vary["data"] != "digits"
        else r
        for r in make_records(parts=parts)
    ]
    text = " ".join(read(write(records, tmp_path, command="").html).text)
    assert "Average rank over 1 of 3 parts" in text
    assert "ranks over 1 of 3 parts: mixup has no result in letters, signs" in text


@pytest.mark.cases(slow=3)
@pytest.mark.parametrize("values", [
    [{"width": 8}, {"width": 16, "depth": 2}], [["layer1"], []], [None, "adamw"],
    [True, False], [0.0, 1e-4], [0.1, 0.1 + 1e-9],
])  # fmt: skip
def test_any_values_may_vary(values, make_records, tmp_path):
    records = make_records(parts=[{"own_option": value} for value in values])
    groups = {record.group for record in records}
    assert len(groups) == len(values)
    paths = write(records, tmp_path, command="")
    html = paths.html.read_text(encoding="utf-8")
    text = " ".join(" ".join(read(paths.html).text).split())
    assert "Over own option" in text
    assert "could not be drawn" not in html
    assert all(group in text for group in groups)
    rows = list(csv.DictReader(paths.csv.open(encoding="utf-8")))
    assert len({row["own_option"] for row in rows}) == len(values)


def test_of_other_data_each_has_a_scale_and_digits_of_its_own(make_records, tmp_path):
    small = {"data": "csv:a/table of small numbers.csv"}
    records = [
        replace(
            record,
            metrics={name: 1e-3 * value for name, value in record.metrics.items()},
            parameters=5678,
        )
        if record.vary == small
        else record
        for record in make_records(("erm", "mixup"), 5, "regression", parts=({"data": "b"}, small))
    ]
    html = write(records, tmp_path, command="").html.read_text(encoding="utf-8")
    told = re.compile(r'cy="([\d.]+)" r="6"><title>\w+, data (.+?): (\d\S*) ±')
    figure = next(f for f in re.findall(r"<svg.*?</svg>", html, re.S) if "RMSE over data" in f)
    heights = {}
    for y, data, mean in told.findall(figure):
        heights.setdefault(data, []).append(float(y))
        assert float(mean) > 0
    assert len(heights) == 2
    assert all(max(found) - min(found) > 40 for found in heights.values())  # of 223 points
    assert not re.search(r"[(>][+-]0\.0+[,<]", html)  # a difference, and no digit of it
    assert "1,234, 5,678" in html


@pytest.mark.slow
def test_an_overview_that_fails_says_so(make_records, tmp_path, monkeypatch):
    def fail(*arguments):
        raise KeyError("lr")

    monkeypatch.setattr(report_page, "overview", fail)
    records = make_records(parts=({"lr": 0.1}, {"lr": 0.2}))
    with pytest.warns(Note, match="'Over lr' could not be drawn"):
        paths = write(records, tmp_path, command="")
    text = " ".join(read(paths.html).text)
    assert "This section could not be drawn: KeyError" in text
    assert "Average rank over the 2 parts" in text
