import itertools
import re
from html import escape, unescape

import numpy as np
import pytest
import torch
from matplotlib.text import Text

from mixwell.report import sections
from mixwell.report.drawing import Point, canvas, name_points
from mixwell.report.sections.cost import frontier
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
    assert names(methods=("erm", "mixup")) == usual | {
        "classes", "confusion", "reliability", "features",
    }  # fmt: skip


@pytest.mark.cases(quick=1)
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
    mean = part.summaries[0].metrics["ece"].mean
    assert block.pictures[0].caption.startswith(f"ECE {100 * mean:.1f} %, after T ")
    assert shown(part, "outliers").pictures[1].caption == "AUROC 80.0 %, FPR95 50.0 %"
    assert shown(part, "people").pictures[0].caption == "people's KL 0.250, people's ρ 0.50"
    assert shown(part, "people").note.endswith("Seed 0.")


def told(picture):
    return [unescape(text) for text in re.findall("<title>(.*?)</title>", picture.svg)]


def test_reliability_is_of_all_seeds_together_with_the_share_in_each_bin(make_part):
    part = make_part(methods=("erm", "mixup"))
    texts = told(shown(part, "reliability").pictures[0])
    for start in ("as trained", "after T", "confidence"):
        counts = [int(t.split("(")[1].rstrip(")")) for t in texts if t.startswith(start)]
        assert sum(counts) == 3 * 50
    logits = np.concatenate(
        [run.predictions()["test_logits"] for run in part.by_method["erm"]]
    ).astype(float)
    confidence = torch.from_numpy(logits).softmax(1).amax(1)
    share = ((confidence > 0.4) & (confidence <= 7 / 15)).double().mean()
    assert f"confidence 0.40 to 0.47: {100 * share:.1f} % of the samples" in " ".join(texts)


def test_the_frontier_leaves_out_what_a_faster_method_is_as_good_as():
    times, values = [3.0, 1.0, 2.0, 4.0, 1.0], [0.9, 0.7, 0.6, 0.9, 0.8]
    assert frontier(times, values, higher_is_better=True) == [4, 0]
    assert frontier(times, values, higher_is_better=False) == [1, 2]


def test_each_method_tells_its_measure_and_its_time(make_part):
    part = make_part(methods=("erm", "mixup"))
    texts = told(shown(part, "cost").pictures[0])
    mean = part.summaries[1].metrics["accuracy"].mean
    assert texts[1].startswith(f"mixup: accuracy {100 * mean:.2f} ±")
    assert texts[1].endswith("%, 2 s, 10.0 ms a step")


@pytest.mark.cases(quick=1)
@pytest.mark.parametrize("seed", range(4))
def test_names_beside_crowded_points_cover_neither_points_nor_each_other(seed):
    rng = np.random.default_rng(seed)
    places = np.stack([rng.uniform(3, 7, 12), rng.uniform(65, 73, 12)], 1)
    names = ["erm", "regmixup+infinite_class", *(f"method+{i}{'x' * (2 * i)}" for i in range(10))]
    with canvas(5.2, 3.4) as (figure, axes):
        axes.set(xlim=(0, 8), ylim=(64, 74))
        points = [Point(axes, x, y, "", n) for (x, y), n in zip(places, names, strict=True)]
        bars = [((x, y - 0.7), (x, y + 0.7)) for x, y in places]
        name_points(figure, points, ["black"] * 12, bars)
        figure.draw_without_rendering()
        boxes = {text.get_text(): Text.get_window_extent(text) for text in axes.texts}
        assert sorted(boxes) == sorted(names)
        for one, other in itertools.combinations(boxes.values(), 2):
            assert not one.padded(2).overlaps(other)
        for place in axes.transData.transform(places):
            assert not any(box.contains(*place) for box in boxes.values())


def test_no_axis_of_shares_goes_beyond_them(make_part):
    part = make_part(methods=("erm", "mixup", "am_mixup", "cutmix", "fmix", "remix"))
    for name in ("cost", "curves"):
        for picture in shown(part, name).pictures:
            if "%" in picture.svg.split('"')[3]:
                ticks = [float(t) for t in re.findall(r">([\d.]+)</text>", picture.svg)]
                assert ticks
                assert max(ticks) <= 100


def test_the_range_of_curves_is_that_of_settled_epochs(make_part):
    part = make_part(methods=("erm",))
    losses = [50.0, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.5, 0.4, 0.4]
    for run in part.records:
        run.history[:] = [{"epoch": i, "val_nll": v, "loss": v} for i, v in enumerate(losses, 1)]
    (picture,) = [p for p in shown(part, "curves").pictures if "NLL" in p.svg]
    ticks = [float(t) for t in re.findall(r"<text[^>]*>(\d+\.\d+)</text>", picture.svg)]
    assert max(ticks) < 2
    assert "epoch 1:" not in picture.svg
    assert "erm, epoch 10: 0.400 ±0.000" in told(picture)


def test_accuracy_by_class_and_what_is_taken_for_what(make_part):
    part = make_part(methods=("erm", "mixup"))
    texts = told(shown(part, "classes").pictures[0])
    assert "erm, b: 50.0 ±0.0 %" in texts
    assert len(texts) == 6
    picture = shown(part, "confusion").pictures[0]
    tables = []
    for run in part.by_method["erm"]:
        arrays = run.predictions()
        taken = arrays["test_logits"].argmax(1)[arrays["test_labels"] == 0]
        tables.append((taken == 2).mean())
    assert f"a taken for c: {100 * np.mean(tables):.1f} %" in told(picture)


def test_many_classes_have_a_table_of_what_is_confused_most(make_part, monkeypatch):
    part = make_part(methods=("erm", "mixup"))
    monkeypatch.setattr(sections.classes, "_MATRIX", 2)
    table = shown(part, "confusion").table
    assert table.headings == ("class taken for another", "erm", "mixup")
    shares = [float(row[1]) for row in table.rows]
    assert shares == sorted(shares, reverse=True)
    assert {row[0] for row in table.rows} == {
        f"{a} → {b}" for a in "abc" for b in "abc" if a != b
    }  # fmt: skip


def test_samples_are_shown_beside_what_they_are_mixed_of(make_part):
    part = make_part(methods=("erm", "mixup"), kind="images")
    (picture,) = shown(part, "samples").pictures
    assert (picture.title, picture.method) == ("mixup", "mixup")
    assert picture.svg.count("<image") == 3 * 2
    assert picture.svg.count("data:image/png;base64,") == 6
    assert "λ = 0.25" in picture.svg


def test_what_is_a_methods_own_is_marked_as_its(make_part):
    method = 'mixup(layer="a<b&c")'
    part = make_part(methods=("erm", method))
    for name in ("differences", "cost", "curves", "classes"):
        for picture in shown(part, name).pictures:
            found = set(re.findall('data-method="(.*?)"', picture.svg))
            assert escape(method) in found


def test_curves_are_of_what_the_task_takes_each_epoch(make_part):
    assert labels(shown(make_part(), "curves")) == [
        "validation accuracy, % over epochs, one line a method",
        "validation NLL over epochs, one line a method",
    ]


def test_curves_are_of_the_epochs_that_all_seeds_were_measured_at(make_part):
    part = make_part(methods=("erm",))
    for seed, run in enumerate(part.records):
        at = {2, 4, 5} if seed % 2 else {1, 2, 3, 4, 5}
        run.history[:] = [
            {"epoch": e, "loss": 1 / e, **({"val_accuracy": e / 10} if e in at else {})}
            for e in range(1, 6)
        ]
    (accuracy,) = [p for p in shown(part, "curves").pictures if "accuracy" in p.svg]
    assert told(accuracy) == [f"erm, epoch {e}: {10 * e}.00 ±0.00" for e in (2, 4, 5)]


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
