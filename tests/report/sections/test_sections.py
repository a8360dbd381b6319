import re

import pytest

from mixwell.report import sections
from mixwell.studies import summarise

REGISTERED = {section.name: section for section in sections.registered()}


@pytest.fixture
def make_part(make_records):
    def make(protocol="balanced", **options):
        records = make_records(**options)
        methods = dict.fromkeys(record.label for record in records)
        colours = {method: f"#0000{i}0" for i, method in enumerate(methods)}
        done = [record for record in records if record.status == "done"]
        return sections.Part(done, summarise(records), colours, "erm", protocol)

    return make


def shown(part, name):
    """Return what a section shows of a part; None where it doesn't apply, or shows nothing."""
    section = REGISTERED[name]
    block = section.draw(part) if section.applies(part) else None
    return None if block is None or block.empty else block


def labels(block):
    return [re.search('aria-label="(.*?)"', picture.svg)[1] for picture in block.pictures]


def test_which_sections_a_part_has(make_part):
    def names(**options):
        part = make_part(**options)
        return {name for name in REGISTERED if shown(part, name)}

    usual = {"findings", "power", "differences", "cost", "curves"}
    assert names(methods=("erm", "mixup")) == usual | {"reliability", "features"}


@pytest.mark.parametrize(
    ("options", "there", "missing"),
    [
        ({"kind": "toy", "changes": {"data": "moons"}.items(), "protocol": "toy"},
         {"surfaces", "mixed", "margins"}, {"features", "deviations", "shift"}),
        ({"task": "regression", "protocol": "regression"},
         {"deviations", "curves"}, {"reliability", "features", "surfaces"}),
        ({"kind": "everything", "changes": {"imbalance": 10.0}.items()},
         {"long_tail", "people", "outliers", "shift", "shift_by_corruption"},
         {"surfaces", "margins"}),
        ({"seeds": 1}, {"cost", "curves"}, {"findings", "power", "differences"}),
    ],
)  # fmt: skip
def test_sections_apply_where_there_is_something_of_them(options, there, missing, make_part):
    part = make_part(**options)
    found = {name for name in REGISTERED if shown(part, name)}
    assert there <= found
    assert not missing & found


def test_a_figure_of_each_method_with_its_measures(make_part):
    part = make_part(methods=("erm", "mixup"), kind="everything")
    block = shown(part, "reliability")
    assert [picture.title for picture in block.pictures] == ["erm", "mixup"]
    first = part.first.metrics
    assert block.pictures[0].caption == (
        f"ECE {100 * first['ece']:.1f} %, after T {100 * first['ece_scaled']:.1f} %"
    )
    assert shown(part, "outliers").pictures[1].caption == "AUROC 80.0 %, FPR95 50.0 %"
    assert shown(part, "people").pictures[0].caption == "people's KL 0.250, people's ρ 0.50"
    assert block.note.endswith("Seed 0.")


def test_curves_are_of_what_the_task_takes_each_epoch(make_part):
    assert labels(shown(make_part(), "curves")) == [
        "validation accuracy, % over epochs, one line a method",
        "validation NLL over epochs, one line a method",
    ]


def test_a_regression_with_one_measure_each_epoch_shows_the_loss_beside_it(make_part):
    assert labels(shown(make_part(task="regression"), "curves")) == [
        "validation RMSE over epochs, one line a method",
        "training loss over epochs, one line a method",
    ]


def test_differences_and_costs_are_of_the_leading_measures(make_part):
    part = make_part()
    assert labels(shown(part, "differences")) == [
        "accuracy, percentage points, difference to erm with 95 % intervals",
        "ECE, percentage points, difference to erm with 95 % intervals",
        "NLL, difference to erm with 95 % intervals",
    ]
    assert [label.split(" over")[0] for label in labels(shown(part, "cost"))] == [
        "accuracy %", "ECE %",
    ]  # fmt: skip


def test_the_tests_are_told_in_sentences(make_part):
    part = make_part(methods=("erm", "mixup"))
    (first, *_) = shown(part, "findings").sentences
    test = part.summaries[1].tests["accuracy"]
    assert test.significant
    assert first == (
        f"accuracy %: better than erm: mixup ({100 * test.difference:+.2f}, "
        f"p = {test.adjusted:.3f})."
    )
    power = shown(part, "power")
    assert power.title == "What 3 seeds can and can’t show"
    assert power.table.headings[3] == "least difference that 3 seeds show"
    assert [row[0] for row in power.table.rows] == ["mixup"]


def test_corruptions_are_shown_one_by_one(make_part):
    block = shown(make_part(kind="everything"), "shift_by_corruption")
    assert [picture.title for picture in block.pictures] == ["blur", "contrast"]
    assert block.small
    assert block.legend


def test_features_are_coloured_by_the_finest_classes(make_part):
    coarse = shown(make_part(kind="everything"), "features")
    assert [name for name, _ in coarse.classes] == list("abcdef")
    assert "not trained on" in coarse.note


def test_the_loss_of_predictions_leaves_out_what_is_drawn_from_them(make_part):
    part = make_part()
    for record in part.records:
        (record.path / "predictions.npz").unlink()
    assert shown(part, "reliability") is None
    assert shown(part, "features") is None
    assert shown(part, "curves") is not None
