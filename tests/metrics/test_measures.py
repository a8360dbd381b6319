import dataclasses
import operator

import pytest
import torch
from rich.console import Console

from mixwell import InputError, metrics
from mixwell.metrics import measures
from mixwell.metrics.measures import Evidence, Measure
from mixwell.report import markdown_table, tables, write
from mixwell.studies import Store, Study, run_study, summarise, tune
from mixwell.studies.statistics import average_ranks, higher_is_better
from mixwell.studies.tune import tunable
from mixwell.training import RunConfig, train


def outside(**changes):
    """A measure that the library doesn't know: the share of right answers, in per mille."""
    return Measure(
        **{
            "name": "right", "title": "rightness", "about": "of all answers, in per mille",
            "compute": lambda e: metrics.accuracy(e.outputs, e.targets),
            "higher_is_better": True, "unit": "‰", "factor": 1000.0, "digits": 1,
            "validated": ("classification",), "each_epoch": True, **changes,
        }
    )  # fmt: skip


@pytest.fixture
def registered():
    yield measures.register(outside())
    measures.remove("right")


@pytest.fixture
def records(registered, tmp_path):
    """Two methods, two seeds, trained; the store that holds them."""
    from mixwell.studies.store import Cell

    store = Store(tmp_path, create=True)
    for method in ("erm", "mixup"):
        for seed in (0, 1):
            config = RunConfig(method=method, seed=seed, train_size=60, epochs=2, threads=1)
            cell = Cell(config, tmp_path / f"{method}-{seed}", {}, method)
            store.add([cell])
            store.finish(cell.name, train(config, cell.folder))
    return store.records()


@pytest.mark.slow
def test_one_from_outside_is_evaluated_tabled_tested_and_reported(records, tmp_path):
    for record in records:
        assert record.metrics["right"] == record.metrics["accuracy"]
        assert record.metrics["val_right"] == record.metrics["val_accuracy"]
        assert [row["val_right"] for row in record.history] == [
            row["val_accuracy"] for row in record.history
        ]
    erm, mixup = summarise(records)
    assert mixup.tests["right"].difference == pytest.approx(
        mixup.metrics["accuracy"].mean - erm.metrics["accuracy"].mean
    )
    assert average_ranks([erm, mixup], "right") == average_ranks([erm, mixup], "accuracy")
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    for table in tables(records, width=200):
        console.print(table)
    shown = f"{1000 * erm.metrics['accuracy'].mean:.1f}"
    for text in (console.export_text(), markdown_table(records)):
        assert "rightness ‰" in text
        assert shown in text
    page = write(records, tmp_path, command="").html.read_text(encoding="utf-8")
    assert "of all answers, in per mille" in page
    assert "validation rightness, ‰" in page
    assert shown in page


def test_settings_are_tuned_by_one_from_outside_in_its_direction(registered, monkeypatch, tmp_path):
    pytest.importorskip("optuna", reason="Optuna is not installed")

    def run_cells(cells, folder, **options):
        store = Store(folder, create=True)
        store.add(cells)
        for cell in cells:
            alpha = cell.config.method_options["alpha"]
            store.finish(cell.name, {"metrics": {"val_right": alpha}})

    monkeypatch.setattr(tune, "run_cells", run_cells)
    config = RunConfig(method="mixup", train_size=60, epochs=1)
    found = tune.tune(config, tmp_path, trials=4, measure="right")
    trials = [record.config["method_options"]["alpha"] for record in Store(tmp_path).records()]
    assert found.value == found.settings["alpha"] == max(trials)
    assert "right" in [measure.name for measure in tunable("classification")]
    assert "right" not in [measure.name for measure in tunable("regression")]


def test_runs_in_processes_of_their_own_are_told_of_those_from_outside(tmp_path):
    measures.register(outside(compute=operator.attrgetter("temperature")))
    try:
        study = Study(RunConfig(train_size=60, epochs=1, threads=1), ["erm"], [0])
        (record,) = run_study(study, tmp_path)
    finally:
        measures.remove("right")
    assert record.metrics["right"] == record.metrics["temperature"]


def test_what_no_other_process_can_be_handed_is_named(tmp_path):
    measures.register(outside(compute=lambda evidence: 0.5))
    try:
        study = Study(RunConfig(train_size=60, epochs=1, threads=1), ["erm"], [0])
        with pytest.raises(InputError, match="measure 'right' can't be handed to the runs'"):
            run_study(study, tmp_path)
    finally:
        measures.remove("right")


def test_the_task_has_the_measures_that_name_it():
    classes = {measure.name for measure in measures.of("classification")}
    real = {measure.name for measure in measures.of("regression")}
    assert {"accuracy", "nll", "ece"} <= classes
    assert {"rmse", "nll", "pinball"} <= real
    assert not {"rmse", "pinball"} & classes
    assert not {"accuracy", "ece"} & real
    assert measures.of("counting") == tuple(m for m in measures.registered() if not m.tasks)
    assert next(iter(tunable("classification"))).name == "nll"
    assert [measure.name for measure in tunable("regression")] == ["rmse"]


def test_directions():
    assert higher_is_better("accuracy")
    assert higher_is_better("val_accuracy")
    assert higher_is_better("ood_auroc")
    assert not higher_is_better("nll")
    assert measures.get("temperature").higher_is_better is None
    with pytest.raises(InputError, match=r"measure 'accurcy' is unknown.*did you mean 'accuracy'"):
        higher_is_better("accurcy")


def test_values_are_shown_in_the_unit():
    assert measures.get("accuracy").heading == "accuracy %"
    assert measures.get("accuracy").shown(0.97314) == "97.31 %"
    assert measures.get("ece_scaled").heading == "ECE % after T"
    assert measures.get("rmse").shown(3.14159, 1) == "3.1"
    assert measures.get("nll").text(0.25, signed=True) == "+0.250"
    assert measures.get("nll").fitting(0.00312).text(0.00312) == "0.00312"
    assert measures.get("nll").fitting(0.5) == measures.get("nll")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "accuracy"}, "name='accuracy': there is a measure of this name already"),
        ({"name": "val_right"}, "doesn't begin with 'val_'"),
        ({"name": "not right"}, "must be an identifier"),
        ({"title": ""}, "title of measure 'right' must not be empty"),
        ({"group": "mine"}, "group='mine' of measure 'right'"),
    ],
)
def test_what_can_be_no_measure_is_refused(changes, words):
    with pytest.raises(InputError, match=words):
        measures.register(outside(**changes))


def classified(**more):
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(200, 3, generator=generator)
    return Evidence(logits, torch.randint(3, (200,), generator=generator), **more)


def test_only_what_the_evidence_allows_is_taken():
    plain = measures.take(classified(), measures.of("classification"))
    assert set(plain) == {"accuracy", "ece", "adaptive_ece", "brier", "nll"}
    scaled = measures.take(classified(temperature=2.0), measures.of("classification"))
    assert set(scaled) - set(plain) == {
        "ece_scaled", "adaptive_ece_scaled", "brier_scaled", "nll_scaled", "temperature",
    }  # fmt: skip


def test_the_scaled_ones_are_those_of_the_scaled_logits():
    evidence = classified(temperature=2.5)
    found = measures.take(evidence, measures.of("classification"))
    cooler = dataclasses.replace(evidence, outputs=evidence.outputs / 2.5, temperature=None)
    again = measures.take(cooler, measures.of("classification"))
    for name in ("nll", "ece", "adaptive_ece", "brier"):
        assert found[f"{name}_scaled"] == again[name]
        assert found[f"{name}_scaled"] != found[name]


def test_uneven_classes_have_balanced_measures():
    known = measures.of("classification")
    even = measures.take(classified(class_counts=torch.tensor([9, 9, 9])), known)
    uneven = classified(class_counts=torch.tensor([500, 50, 5]))
    found = measures.take(uneven, known)
    assert set(found) - set(even) == {
        "balanced_accuracy", "balanced_ece", "accuracy_many", "accuracy_medium", "accuracy_few",
    }  # fmt: skip
    right = uneven.outputs.argmax(1) == uneven.targets
    assert found["accuracy_few"] == pytest.approx(float(right[uneven.targets == 2].float().mean()))
