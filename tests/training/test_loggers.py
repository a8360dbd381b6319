import csv
import importlib.util
import json
import struct
import time

import pytest

from mixwell import InputError
from mixwell.cli import main
from mixwell.studies.protocols import PROTOCOLS
from mixwell.studies.study import build
from mixwell.training import RunConfig, read_result, train
from mixwell.training.config import loggers_of

TINY = RunConfig(train_size=60, epochs=3, threads=1, method="erm", accelerator="cpu")


def needs(package):
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"{package} is not installed")


class Stopped(Exception):
    pass


def interrupted(config, folder, after=2):
    """Train until an epoch has ended, as a run that is killed then, and once more to the end."""

    def report(event):
        if event["kind"] == "epoch" and event["epoch"] == after:
            raise Stopped

    with pytest.raises(Stopped):
        train(config, folder, report=report)
    return train(config, folder)


def with_log(names):
    return RunConfig(**{**TINY.to_dict(), "log": names})


def check_rows(rows, result):
    """Every epoch once, in order, with the history's values."""
    assert [row["step"] for row in rows] == [1, 2, 3]
    for row, wanted in zip(rows, result["history"], strict=True):
        assert row["loss"] == pytest.approx(wanted["loss"], rel=1e-5)
        assert row["val_accuracy"] == pytest.approx(wanted["val_accuracy"], rel=1e-5)


def test_a_csv_has_each_epoch_once_and_the_final_measures(tmp_path):
    result = interrupted(with_log("csv"), tmp_path)
    with (tmp_path / "log" / "csv" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[-1]["end/accuracy"] == str(result["metrics"]["accuracy"])
    numbers = [{k: float(v) for k, v in row.items() if v} for row in rows[:-1]]
    check_rows(numbers, result)


@needs("tensorboard")
def test_tensorboard_has_each_epoch_once_and_the_final_measures(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = interrupted(with_log("tensorboard"), tmp_path)
    found = EventAccumulator(str(tmp_path / "log" / "tensorboard"))
    found.Reload()
    columns = {name: found.Scalars(name) for name in ("loss", "val_accuracy")}
    rows = [
        {"step": a.step, "loss": a.value, "val_accuracy": b.value}
        for a, b in zip(*columns.values(), strict=True)
    ]
    check_rows(rows, result)
    (last,) = found.Scalars("end/accuracy")
    assert last.value == pytest.approx(result["metrics"]["accuracy"])


@pytest.mark.slow
@needs("mlflow")
def test_mlflow_has_each_epoch_once_in_one_run(tmp_path, monkeypatch):
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    result = interrupted(with_log("mlflow"), tmp_path / "run")
    client = MlflowClient(uri)
    (experiment,) = (e for e in client.search_experiments() if e.name == "mixwell")
    (run,) = client.search_runs([experiment.experiment_id])
    history = {n: client.get_metric_history(run.info.run_id, n) for n in ("loss", "val_accuracy")}
    rows = [
        {"step": a.step, "loss": a.value, "val_accuracy": b.value}
        for a, b in zip(*history.values(), strict=True)
    ]
    check_rows(rows, result)
    assert run.data.metrics["end/accuracy"] == result["metrics"]["accuracy"]
    assert run.data.params["method"] == "erm"
    assert run.info.status == "FINISHED"


def wandb_records(content):
    """The records of a file of wandb's, which is a LevelDB log after seven bytes."""
    place, parts = 7, b""
    while place + 7 <= len(content):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + 7])
        if place + 7 + length > len(content):  # still being written
            return
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or its last part
            yield parts
            parts = b""


def wandb_rows(path):
    """What was logged, with its steps."""
    from wandb.proto import wandb_internal_pb2 as messages

    for data in wandb_records(path.read_bytes()):
        record = messages.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            row = {item.key or "/".join(item.nested_key): item.value_json for item in items}
            found = {name: json.loads(value) for name, value in row.items()}
            yield {**found, "step": record.history.step.num}


@pytest.mark.slow
@needs("wandb")
def test_wandb_goes_on_in_one_run_offline(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    result = interrupted(with_log("wandb"), tmp_path)
    assert len(result["history"]) == 3
    state = json.loads((tmp_path / "log" / "state.json").read_text())
    assert state["wandb"]["epochs"] == 3
    files = list((tmp_path / "log").rglob(f"run-{state['wandb']['id']}.wandb"))
    assert len(files) == 2  # a part for each process, of one run
    rows, until = [], time.monotonic() + 60
    while sum("loss" in row for row in rows) < 3 and time.monotonic() < until:
        time.sleep(0.1)  # its own process writes, and may not have ended
        rows = [row for file in files for row in wandb_rows(file)]
    check_rows(sorted((r for r in rows if "loss" in r), key=lambda r: r["step"]), result)
    ended = [row["end/accuracy"] for row in rows if "end/accuracy" in row]
    assert ended == [result["metrics"]["accuracy"]]


def test_logging_changes_no_result_and_no_fingerprint(tmp_path):
    assert with_log("csv").fingerprint == TINY.fingerprint
    logged, plain = train(with_log("csv"), tmp_path / "a"), train(TINY, tmp_path / "b")
    assert logged["metrics"] == plain["metrics"]
    assert not (tmp_path / "b" / "log").exists()
    assert read_result(tmp_path / "a")["config"]["log"] == "csv"


def test_a_log_that_fails_does_not_end_the_run_and_catches_up(tmp_path, monkeypatch):
    from mixwell.training.loggers import Log

    tell, failing = Log._tell, [True, True]

    def fail_twice(self, name, row, step):
        if failing:
            failing.pop()
            raise OSError("no connection")
        tell(self, name, row, step)

    monkeypatch.setattr(Log, "_tell", fail_twice)
    with pytest.warns(UserWarning, match=r"could not be logged \(no connection\)"):
        result = train(with_log("csv"), tmp_path)
    with (tmp_path / "log" / "csv" / "metrics.csv").open() as file:
        steps = [row["step"] for row in csv.DictReader(file)]
    assert steps == ["1", "2", "3", "3"]
    assert len(result["history"]) == 3


def test_what_is_unknown_or_not_installed_is_said_before_a_folder_is_made(
    tmp_path, monkeypatch, capsys
):
    out = tmp_path / "run"
    monkeypatch.setattr("mixwell.training.loggers._has", lambda package: False)
    assert main(["train", "--train-size", "60", "--log", "csv,wandb", "--out", str(out)]) == 2
    assert "log='wandb' needs wandb: pip install wandb" in capsys.readouterr().err
    assert not out.exists()
    for text, message in (
        ("tensorbord", r"did you mean 'tensorboard'"), ("csv,csv", "names one twice"),
        (3, "must name loggers"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            loggers_of(text)


def test_several_loggers_are_one_study():
    study = build(PROTOCOLS["balanced"], {"log": ["csv", "tensorboard"]})
    assert study.base.log == "csv,tensorboard"
    assert "log" not in study.vary
    assert "log" not in study.shared
