import json

import pytest

from mixwell import InputError
from mixwell.studies import compare, load_records, plan
from mixwell.training import RunConfig, is_finished

TINY = RunConfig(train_size=100, epochs=1, threads=1)


def test_methods_times_seeds_and_only_what_is_missing(tmp_path):
    events = []

    def report(cell, event):
        events.append((cell.config.method, cell.config.seed, event["kind"]))

    cells = plan(TINY, ["erm", "mixup"], [0], tmp_path)
    records = compare(cells, workers=2, report=report, command="compare it")
    assert {(r.label, r.seed, r.status) for r in records} == {
        ("erm", 0, "done"), ("mixup", 0, "done"),
    }  # fmt: skip
    assert all(record.command == "compare it" for record in records)
    assert ("erm", 0, "done") in events
    assert records[0].predictions()["test_logits"].shape[1] == 10

    events.clear()
    more = compare(plan(TINY, ["erm", "mixup"], [0, 1], tmp_path), report=report)
    assert len(more) == 4
    assert {event[:2] for event in events if event[2] == "kept"} == {("erm", 0), ("mixup", 0)}
    assert {event[:2] for event in events if event[2] == "done"} == {("erm", 1), ("mixup", 1)}
    assert {r.label for r in load_records(tmp_path)} == {"erm", "mixup"}


def test_a_failing_run_is_recorded_and_does_not_stop_the_others(tmp_path):
    cells = plan(TINY, ["erm", "mixup"], [0], tmp_path)
    cells[0].folder.mkdir()
    (cells[0].folder / "checkpoint.pt").write_bytes(b"damaged")
    records = compare(cells)
    assert [record.status for record in records] == ["failed", "done"]
    assert "checkpoint.pt can't be read" in records[0].error
    (cells[0].folder / "checkpoint.pt").unlink()
    records = compare(cells)
    assert [record.status for record in records] == ["done", "done"]
    assert not (cells[0].folder / "error.json").exists()


def test_settings_go_to_the_methods_that_know_them(tmp_path):
    settings = {"alpha": 0.5, "sk_mixup:tau_std": 0.7}
    cells = plan(TINY, ["erm", "mixup", "sk_mixup"], [0], tmp_path, settings)
    options = [cell.config.method_options for cell in cells]
    assert options == [{}, {"alpha": 0.5}, {"alpha": 0.5, "tau_std": 0.7}]


@pytest.mark.parametrize(
    ("methods", "seeds", "settings", "words"),
    [
        ([], [0], {}, "must each name one"),
        (["mixup", "mixup"], [0], {}, "methods names one twice"),
        (["mixup"], [1, 1], {}, "seeds names one twice"),
        (["mixup", "nonsense"], [0], {}, "'nonsense' is unknown"),
        (["mixup", "c_mixup"], [0], {}, "c_mixup is for regression"),
        (["mixup"], [0], {"tau_std": 1}, "none of mixup has this setting"),
        (["mixup"], [0], {"erm:alpha": 1}, "'erm' is not among the methods"),
        (["mixup"], [0], {"alpha": "much"}, "alpha must be a number"),
    ],
)
def test_everything_is_checked_before_the_first_run(methods, seeds, settings, words, tmp_path):
    with pytest.raises(InputError, match=words):
        plan(TINY, methods, seeds, tmp_path, settings)
    assert not any(is_finished(path) for path in tmp_path.iterdir())


def test_a_folder_of_other_settings_is_refused(tmp_path):
    folder = tmp_path / "erm-seed0"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(RunConfig(method="erm", epochs=7).to_dict()))
    with pytest.raises(InputError, match="holds runs of other settings"):
        plan(TINY, ["erm"], [0], tmp_path)


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(InputError, match="holds no finished run"):
        load_records(tmp_path)
    with pytest.raises(InputError, match="is no folder"):
        load_records(tmp_path / "none")
