import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mixwell import InputError
from mixwell.studies import Study, as_study, compare, load_results, run_study, summarise
from mixwell.studies.engines import Engine
from mixwell.training import RunConfig

TINY = RunConfig(train_size=100, epochs=1, threads=1)


class Pretended(Engine):
    """An engine that makes results up: mixup is better than erm, by an amount that varies."""

    def __init__(self, failing=()):
        self.slots, self.failing, self.waiting = 4, failing, []

    def start(self, cell, command):
        self.waiting.append(cell)

    def events(self, timeout):
        waiting, self.waiting = self.waiting, []
        for cell in waiting:
            if cell.name in self.failing:
                yield cell, {"kind": "failed", "error": "it broke"}
            else:
                seed, gain = cell.config.seed, 0.1 * (cell.config.method == "mixup")
                accuracy = 0.5 + gain * (1 + 0.1 * seed) + 0.03 * seed + cell.config.lr
                metrics = {"accuracy": accuracy, "nll": 1.0 + seed, "val_accuracy": 0.4}
                result = {
                    "metrics": metrics, "config": cell.config.to_dict(), "seconds_per_step": 0.002,
                    "task": "classification", "parameters": 10,
                }  # fmt: skip
                yield cell, {"kind": "result", "result": result}
            yield cell, {"kind": "ended"}

    def stop(self):
        pass


STUDY = Study(TINY, ["erm", "mixup(alpha=0.5)"], [0, 1, 2], {"lr": [0.1, 0.05]})


def test_a_row_for_each_run_and_measure(tmp_path):
    records = run_study(STUDY, tmp_path / "mine", engine=Pretended(), results=tmp_path / "r.csv")
    frame = load_results(tmp_path / "mine")
    assert list(frame) == [
        "study", "data", "method", "label", "seed", "lr", "measure", "value", "unit", "split",
    ]  # fmt: skip
    assert not frame.duplicated(["label", "seed", "lr", "measure"]).any()
    assert set(frame.study) == {"mine"}
    accuracy = frame[(frame.measure == "accuracy") & (frame.lr == 0.1)]
    wanted = [100 * r.metrics["accuracy"] for r in records if r.vary["lr"] == 0.1]
    assert sorted(accuracy.value) == pytest.approx(sorted(wanted))
    assert set(accuracy.unit) == {"%"}
    assert set(accuracy.method) == {"erm", "mixup"}
    assert set(accuracy.label) == {"erm", "mixup(alpha=0.5)"}
    splits = frame.drop_duplicates("measure").set_index("measure").split
    assert splits["accuracy"] == "test"
    assert splits["val_accuracy"] == "validation"
    assert splits["seconds_per_step"] == "training"
    # The same from the file, but for its name; and of one run.
    other = load_results(tmp_path / "r.csv").drop(columns="study")
    key = ["label", "seed", "lr", "measure"]
    pd.testing.assert_frame_equal(
        other.sort_values(key).reset_index(drop=True),
        frame.drop(columns="study").sort_values(key).reset_index(drop=True),
    )


def test_comparisons_are_those_of_the_report_and_of_scipy(tmp_path):
    records = run_study(STUDY, tmp_path, engine=Pretended())
    table = compare(tmp_path)
    row = table[(table.measure == "accuracy") & (table.lr == 0.1)].iloc[0]
    values = {
        name: [100 * r.metrics["accuracy"] for r in records
               if r.vary["lr"] == 0.1 and r.config["method"] == name]
        for name in ("erm", "mixup")
    }  # fmt: skip
    wanted = stats.ttest_rel(values["mixup"], values["erm"])
    assert row.p_value == pytest.approx(wanted.pvalue)
    interval = wanted.confidence_interval()
    assert (row.low, row.high) == pytest.approx((interval.low, interval.high))
    assert row.difference == pytest.approx(np.mean(values["mixup"]) - np.mean(values["erm"]))
    assert (row.baseline, row.pairs, row.unit) == ("erm", 3, "%")
    (summary,) = (s for s in summarise(records) if s.method != "erm" and s.vary["lr"] == 0.1)
    assert row.p_adjusted == pytest.approx(summary.tests["accuracy"].adjusted)
    assert row.verdict == "better"
    assert set(table[table.measure == "nll"].verdict) == {"not known"}
    back = compare(load_results(tmp_path), "mixup(alpha=0.5)", measures=["accuracy"])
    assert set(back.verdict) == {"worse"}
    assert list(back.label) == ["erm", "erm"]
    assert list(back.difference) == pytest.approx(
        list(-table[table.measure == "accuracy"].difference)
    )


def test_one_seed_is_no_test_and_several_studies_are_parts(tmp_path):
    for name, seeds in (("a", [0]), ("b", [0, 1])):
        run_study(Study(TINY, ["erm", "mixup"], seeds), tmp_path / name, engine=Pretended())
    both = pd.concat([load_results(tmp_path / name) for name in "ab"])
    table = compare(both, measures=["accuracy"]).set_index("study")
    assert list(table.index) == ["a", "b"]
    assert table.loc["a", "verdict"] == "not known"
    assert np.isnan(table.loc["a", "p_value"])
    assert table.loc["a", "difference"] == pytest.approx(10)
    assert table.loc["b", "pairs"] == 2


def test_failed_runs_are_told_of(tmp_path):
    study = Study(TINY, ["erm", "mixup"], [0])
    run_study(study, tmp_path, engine=Pretended(["mixup-seed0"]))
    with pytest.warns(UserWarning, match="1 of 2 runs failed and have no values"):
        frame = load_results(tmp_path)
    assert set(frame.label) == {"erm"}


def test_what_does_not_fit_is_named(tmp_path):
    run_study(Study(TINY, ["erm", "mixup"], [0]), tmp_path, engine=Pretended())
    frame = load_results(tmp_path)
    with pytest.raises(InputError, match=r"'mixap' is not among .*did you mean 'mixup'"):
        compare(frame, "mixap")
    with pytest.raises(InputError, match=r"no 'acuracy' in the results.*did you mean 'accuracy'"):
        compare(frame, measures=["acuracy"])
    with pytest.raises(InputError, match="of erm, seed 0, twice"):
        compare(pd.concat([frame, frame]))
    with pytest.raises(InputError, match="it lacks 'unit'"):
        compare(frame.drop(columns="unit"))
    with pytest.raises(InputError, match="there is no such file"):
        load_results(tmp_path / "none.csv")


def test_a_study_in_pythons_own_words(tmp_path):
    records = run_study(
        "balanced", tmp_path, methods="erm,mixup(alpha=0.5)", seeds=2, data="digits",
        train_size=100, epochs=1, lr=[0.1, 0.05], engine=Pretended(),
    )  # fmt: skip
    assert len(records) == 8
    assert {record.label for record in records} == {"erm", "mixup(alpha=0.5)"}
    assert {record.vary["lr"] for record in records} == {0.1, 0.05}
    study = as_study("long-tailed", seeds=[3, 5], options={"imbalance": (10, 100)})
    assert list(study.seeds) == [3, 5]
    assert study.vary["imbalance"] == [10.0, 100.0]
    assert as_study(STUDY) is STUDY
    for given, message in (
        ({"study": "balancd"}, r"must be a Study or a protocol.*did you mean 'balanced'"),
        ({"study": "balanced", "options": {"epoch": 3}}, r"'epoch' is no option.*'epochs'"),
        ({"study": "balanced", "seeds": "3"}, r"seeds must be a count"),
        ({"study": "balanced", "seeds": 0}, r"seeds must be a whole number from 1"),
        ({"study": STUDY, "seeds": 3}, r"seeds: a Study says this itself"),
    ):
        with pytest.raises(InputError, match=message):
            as_study(**given)


def test_values_that_can_not_be_hashed_are_parts_as_well(tmp_path):
    widths = [{"width": 4}, {"width": 8}]
    study = Study(RunConfig(train_size=100, epochs=1, lr=0.1), ["erm", "mixup"], [0, 1],
                  {"model_options": widths})  # fmt: skip
    run_study(study, tmp_path, engine=Pretended())
    frame = load_results(tmp_path)
    means = frame[frame.measure == "accuracy"].groupby("model_options").value.mean()
    assert list(means.index) == ["width=4", "width=8"]
    found = compare(frame, measures=["accuracy"])
    assert list(found.model_options) == ["width=4", "width=8"]
    # As somebody's own frame may have them.
    mappings = frame.assign(model_options=[widths[t == "width=8"] for t in frame.model_options])
    assert compare(mappings, measures=["accuracy"]).equals(found)


def test_one_measure_may_be_named_alone(tmp_path):
    run_study(STUDY, tmp_path, engine=Pretended())
    frame = load_results(tmp_path)
    assert compare(frame, measures="accuracy").equals(compare(frame, measures=["accuracy"]))
    with pytest.raises(InputError, match=r"no 'accurcy'.*did you mean 'accuracy'"):
        compare(frame, measures="accurcy")
