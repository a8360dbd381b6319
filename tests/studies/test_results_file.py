import csv
import json
import shutil
import threading
from dataclasses import replace

import pytest

from mixwell import InputError
from mixwell.cli import main
from mixwell.report import write
from mixwell.studies import Study, load_records, load_results, run_study, summarise
from mixwell.studies.engines import Engine
from mixwell.studies.results_file import FIXED, ResultsFile
from mixwell.training import RunConfig

TINY = RunConfig(train_size=100, epochs=1, threads=1)


class Pretended(Engine):
    """An engine that makes results up."""

    def __init__(self, failing=()):
        self.slots, self.failing, self.started, self.waiting = 2, failing, [], []

    def start(self, cell, command):
        self.started.append(cell.name)
        self.waiting.append(cell)

    def events(self, timeout):
        waiting, self.waiting = self.waiting, []
        for cell in waiting:
            if cell.name in self.failing:
                yield cell, {"kind": "failed", "error": "it broke"}
            else:
                # No short decimal, and no number at all: both must come back as they were.
                share = 1 / (3 + len(cell.label) + cell.config.seed)
                result = {
                    "config": cell.config.to_dict(), "classes": ["a", "b"], "seconds": 1.5,
                    "metrics": {"accuracy": share, "nll": float("nan"), "ece": 0.1 * share},
                    "versions": {"mixwell": "9", "torch": "8", "device": "a, b"},
                    "task": "classification", "parameters": 12,
                }  # fmt: skip
                yield cell, {"kind": "result", "result": result}
            yield cell, {"kind": "ended"}

    def stop(self):
        pass


def rows_of(path):
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


STUDY = Study(TINY, ["erm", "mixup(alpha=0.5)"], [0, 1], {"lr": [0.1, 0.05]})


def test_a_study_goes_on_from_the_file_alone(tmp_path):
    path = tmp_path / "evidence" / "study.csv"
    first = run_study(STUDY, tmp_path / "a", engine=Pretended(), results=path)
    assert len(rows_of(path)) == 8
    content = path.read_bytes()
    shutil.rmtree(tmp_path / "a")
    engine, told = Pretended(), []
    again = run_study(
        STUDY, tmp_path / "b", engine=engine, results=path,
        report=lambda cell, event: told.append(event["kind"]),
    )  # fmt: skip
    assert engine.started == []
    assert told == ["kept"] * 8
    assert path.read_bytes() == content
    assert [r.known_from for r in again] == ["study.csv"] * 8
    for old, new in zip(first, again, strict=True):
        assert (old.label, old.seed, old.vary) == (new.label, new.seed, new.vary)
        assert repr(old.metrics) == repr(new.metrics)  # to the last digit, NaN too
        assert (old.seconds, old.parameters) == (new.seconds, new.parameters)
    assert repr(summarise(first)) == repr(summarise(again))
    more = run_study(replace(STUDY, seeds=[0, 1, 2]), tmp_path / "b", engine=engine, results=path)
    assert sorted(engine.started) == sorted(r.path.name for r in more if r.seed == 2)
    assert len(rows_of(path)) == 12


def test_the_row_says_what_and_with_which_versions(tmp_path):
    path = tmp_path / "r.csv"
    run_study(STUDY, tmp_path / "a", engine=Pretended(), results=path)
    row = rows_of(path)[1]
    assert list(row) == [*FIXED, "accuracy", "nll", "ece"]
    assert row["label"] == "mixup(alpha=0.5)"
    assert row["method"] == "mixup"
    assert json.loads(row["varied"]) == {"lr": 0.1}
    assert (row["mixwell"], row["torch"], row["device"]) == ("9", "8", "a, b")
    cell = STUDY.plan(tmp_path / "a")[1]
    assert row["fingerprint"] == cell.config.fingerprint


def test_failed_runs_are_not_taken_for_done(tmp_path):
    path = tmp_path / "r.csv"
    study = Study(TINY, ["erm", "mixup"], [0])
    run_study(study, tmp_path / "a", engine=Pretended(["mixup-seed0"]), results=path)
    assert [row["label"] for row in rows_of(path)] == ["erm"]
    engine = Pretended()
    run_study(study, tmp_path / "b", engine=engine, results=path)
    assert engine.started == ["mixup-seed0"]


@pytest.mark.cases(quick=1)
@pytest.mark.parametrize("vary", [{}, {"lr": [0.1, 0.05]}])
def test_another_study_is_refused_before_a_run(vary, tmp_path):
    path = tmp_path / "r.csv"
    study = Study(TINY, ["erm", "mixup"], [0], vary)
    run_study(study, tmp_path / "a", engine=Pretended(), results=path)
    content, engine = path.read_bytes(), Pretended()
    other = replace(study, base=replace(TINY, epochs=2))
    with pytest.raises(InputError, match=r"r\.csv' holds a run of other settings \(erm, digits"):
        run_study(other, tmp_path / "c", engine=engine, results=path)
    assert not engine.started
    assert not (tmp_path / "c").exists()
    assert path.read_bytes() == content
    # Other seeds, methods and data stand beside them, and so does what varies by its values.
    run_study(replace(other, seeds=[7]), tmp_path / "d", engine=engine, results=path)
    run_study(replace(study, vary={"lr": [0.3, 0.4]}), tmp_path / "e", engine=engine, results=path)
    assert len(engine.started) == 2 * (len(vary.get("lr", [0])) + 2)


def test_what_is_varied_later_is_said_of_what_was_made_before(tmp_path):
    path = tmp_path / "r.csv"
    base = replace(TINY, lr=0.1)
    run_study(Study(base, ["erm", "mixup"], [0]), tmp_path / "a", engine=Pretended(), results=path)
    engine = Pretended()
    wide = Study(TINY, ["erm", "mixup"], [0], {"lr": [0.1, 0.2]})
    run_study(wide, tmp_path / "b", engine=engine, results=path)
    assert sorted(engine.started) == ["erm-lr=0.2-seed0", "mixup-lr=0.2-seed0"]
    frame = load_results(path)
    assert set(frame.lr) == {0.1, 0.2}
    narrow = Study(base, ["erm", "cutmix"], [0])
    run_study(narrow, tmp_path / "c", engine=engine, results=path)
    assert len(engine.started) == 3
    frame = load_results(path)
    assert set(frame[frame.label == "cutmix"].lr) == {0.1}
    assert not frame.duplicated(["label", "seed", "lr", "measure"]).any()


def spoilt(path, change):
    """Rewrite a results file as its rows are changed; the header is the first."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = change(list(csv.reader(file)))
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def test_files_that_were_put_together(tmp_path):
    path = tmp_path / "r.csv"
    run_study(STUDY, tmp_path / "a", engine=Pretended(), results=path)
    whole, rows = path.read_bytes(), ResultsFile(path).rows()
    spoilt(path, lambda rows: [*rows, *rows[1:]])
    assert ResultsFile(path).rows() == rows
    # With other times it is the same run, with other measures it is not known which.
    column = rows_of(path)[0]
    seconds, accuracy = (list(column).index(name) for name in ("seconds", "accuracy"))

    def other(place):
        def change(rows):
            more = list(rows[3])
            more[place] = "0.125"
            return [*rows, more]

        return change

    path.write_bytes(whole)
    spoilt(path, other(seconds))
    assert ResultsFile(path).rows() == rows
    path.write_bytes(whole)
    spoilt(path, other(accuracy))
    with pytest.raises(InputError, match=r"rows 4 and 10 are one run.*accuracy=.*, 0\.125"):
        ResultsFile(path)
    # Of other settings: no file says which is meant.
    path.write_bytes(whole)
    spoilt(path, lambda r: [*r, [c if i != r[0].index("fingerprint") else "0" * 12
                                 for i, c in enumerate(r[3])]])  # fmt: skip
    with pytest.raises(InputError, match=r"hold erm \(lr 0.05, seed 0\) twice, with other"):
        load_results(path)


def test_what_a_spreadsheet_makes_of_it_is_read(tmp_path):
    path = tmp_path / "r.csv"
    run_study(STUDY, tmp_path / "a", engine=Pretended(), results=path)
    rows = ResultsFile(path).rows()
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert ResultsFile(path).rows() == rows
    spoilt(path, lambda rows: [row[::-1] for row in rows])
    path.write_text(path.read_text(encoding="utf-8-sig").replace("\ufeff", ""), encoding="utf-8")
    assert ResultsFile(path).rows() == rows
    engine = Pretended()
    run_study(STUDY, tmp_path / "b", engine=engine, results=path)
    assert engine.started == []
    spoilt(path, lambda rows: [[c for c, n in zip(r, rows[0], strict=True) if n != "label"]
                               for r in rows])  # fmt: skip
    with pytest.raises(InputError, match="it lacks label"):
        ResultsFile(path)
    path.write_text(path.read_text().replace(",", ";"))
    with pytest.raises(InputError, match="separated by commas"):
        ResultsFile(path)


def test_what_was_done_before_the_file_was_named_is_entered(tmp_path):
    path = tmp_path / "r.csv"
    study = Study(TINY, ["erm", "mixup"], [0])
    run_study(study, tmp_path / "a", engine=Pretended())
    engine = Pretended()
    records = run_study(study, tmp_path / "a", engine=engine, results=path)
    assert engine.started == []
    assert [record.known_from for record in records] == ["", ""]
    assert len(rows_of(path)) == 2


def test_several_studies_enter_at_once_and_none_is_lost(tmp_path):
    path = tmp_path / "r.csv"

    def enter(seed):
        study = Study(TINY, ["erm", "mixup"], [seed])
        run_study(study, tmp_path / f"s{seed}", engine=Pretended(), results=path)

    threads = [threading.Thread(target=enter, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({(row["label"], row["seed"]) for row in rows_of(path)}) == 12
    assert [file.name for file in tmp_path.glob(".*")] == []


def test_a_file_that_cannot_be_written_loses_nothing(tmp_path, monkeypatch):
    path = tmp_path / "r.csv"
    study = Study(TINY, ["erm", "mixup"], [0])

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("mixwell.studies.results_file.write_atomically", full)
        with pytest.raises(InputError, match=r"No space left.*the same command enters them"):
            run_study(study, tmp_path / "a", engine=Pretended(), results=path)
    assert len(load_records(tmp_path / "a")) == 2
    run_study(study, tmp_path / "a", engine=Pretended(), results=path)
    assert len(rows_of(path)) == 2


def test_other_files_and_damaged_ones_are_refused(tmp_path):
    path = tmp_path / "r.csv"
    study = Study(TINY, ["erm"], [0])
    path.write_text("name,age\na,3\n")
    with pytest.raises(InputError, match="another kind of file"):
        run_study(study, tmp_path / "a", engine=Pretended(), results=path)
    assert path.read_text() == "name,age\na,3\n"
    path.unlink()
    run_study(study, tmp_path / "a", engine=Pretended(), results=path)
    whole = path.read_text()
    cut = whole.rsplit(",", 2)[0] + "\n"
    for damaged in (cut, whole.replace("1.5", "x"), whole.replace("{}", "{")):
        path.write_text(damaged)
        with pytest.raises(InputError, match=r"row 2 is damaged"):
            ResultsFile(path)
    with pytest.raises(InputError, match="is a folder"):
        ResultsFile(tmp_path)


def test_the_report_says_what_it_lacks(tmp_path):
    study, path = Study(TINY, ["erm", "mixup"], [0, 1]), tmp_path / "r.csv"
    run_study(study, tmp_path / "a", engine=Pretended(), results=path)
    records = run_study(study, tmp_path / "b", engine=Pretended(), results=path)
    text = write(records, tmp_path / "b", command="").html.read_text(encoding="utf-8")
    assert text.count("All 4 runs are known from r.csv, by their measures alone") >= 2
    assert "Learning curves" in text


@pytest.mark.cases(slow=1)
@pytest.mark.parametrize("gone", ["erm-seed0", "*-seed0", "mixup-*"])
def test_a_report_of_runs_of_which_some_are_known_by_the_file_alone(gone, tmp_path):
    path = tmp_path / "r.csv"
    base = replace(TINY, shift=True, imbalance=2.0, train_size=None)
    study = Study(base, ["erm", "mixup"], [0, 1])
    run_study(study, tmp_path / "a", results=path)
    missing = [run for run in (tmp_path / "a").glob(gone) if run.is_dir()]
    assert missing
    for run in missing:
        shutil.rmtree(run)
    (tmp_path / "a" / "study.db").unlink()
    records = run_study(study, tmp_path / "a", engine=Pretended(), results=path)
    assert sum(bool(record.known_from) for record in records) == len(missing)
    text = write(records, tmp_path / "a", command="").html.read_text(encoding="utf-8")
    for heading in ("Confusion", "Reliability", "Learning curves"):
        assert heading in text


def test_the_command_trains_nothing_twice(tmp_path, capsys, monkeypatch):
    engine = Pretended()
    monkeypatch.setattr("mixwell.studies.run.LocalEngine", lambda workers: engine)
    path, out = tmp_path / "r.csv", tmp_path / "out"
    words = ["compare", "--methods", "erm,mixup", "--seeds", "1", "--train-size", "100"]
    words += ["--epochs", "1", "--out", str(out), "--results"]
    assert main([*words, str(path)]) == 0
    table = capsys.readouterr().out.split("Report:")[0].partition("digits, cnn")[2]
    assert "mixup" in table
    shutil.rmtree(out)
    assert main([*words, str(path)]) == 0
    assert capsys.readouterr().out.split("Report:")[0].partition("digits, cnn")[2] == table
    assert len(engine.started) == 2
    assert main([*words, str(out / "results.csv")]) == 2
    assert "is the table that the report writes" in capsys.readouterr().err
