import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace

import psutil
import pytest
import sqlalchemy as sql

from mixwell import InputError
from mixwell.studies import Cell, LocalEngine, Store, Study, load_records, run_study
from mixwell.studies.engines import Engine
from mixwell.studies.owners import lives, myself
from mixwell.training import RunConfig
from mixwell.training.files import write_json

TINY = RunConfig(train_size=100, epochs=1, threads=1)


class Pretended(Engine):
    """An engine that makes results up, and fails where it is told to."""

    def __init__(self, slots=2, failing=()):
        self.slots, self.failing, self.started, self.waiting = slots, failing, [], []

    def start(self, cell, command):
        self.started.append(cell.name)
        self.waiting.append((cell, command))

    def events(self, timeout):
        waiting, self.waiting = self.waiting, []
        for cell, command in waiting:
            if cell.name in self.failing:
                yield cell, {"kind": "failed", "error": "it broke"}
            else:
                result = {"metrics": {"accuracy": 0.5}, "command": command, "classes": ["a"]}
                yield cell, {"kind": "result", "result": result}
            yield cell, {"kind": "ended"}

    def stop(self):
        pass


def test_methods_times_seeds_and_only_what_is_missing(tmp_path):
    events = []

    def report(cell, event):
        events.append((cell.config.method, cell.config.seed, event["kind"]))

    study = Study(TINY, ["erm", "mixup"], [0])
    records = run_study(study, tmp_path, workers=2, report=report, command="study it")
    assert {(r.label, r.seed, r.status) for r in records} == {
        ("erm", 0, "done"), ("mixup", 0, "done"),
    }  # fmt: skip
    assert all(record.command == "study it" for record in records)
    assert ("erm", 0, "done") in events
    assert records[0].predictions()["test_logits"].shape[1] == 10
    assert "process" in (tmp_path / "erm-seed0" / "log.txt").read_text()

    events.clear()
    more = run_study(replace(study, seeds=[0, 1]), tmp_path, report=report)
    assert len(more) == 4
    assert {event[:2] for event in events if event[2] == "kept"} == {("erm", 0), ("mixup", 0)}
    assert {event[:2] for event in events if event[2] == "done"} == {("erm", 1), ("mixup", 1)}
    assert [r.label for r in load_records(tmp_path)] == ["erm", "mixup"] * 2
    assert load_records(tmp_path / "erm-seed0")[0].metrics == records[0].metrics


def test_a_failing_run_is_recorded_and_does_not_stop_the_others(tmp_path):
    study = Study(TINY, ["erm", "mixup"], [0])
    engine = Pretended(failing=["erm-seed0"])
    records = run_study(study, tmp_path, engine=engine)
    assert [(r.status, r.error) for r in records] == [("failed", "it broke"), ("done", None)]
    engine = Pretended()
    records = run_study(study, tmp_path, engine=engine)
    assert engine.started == ["erm-seed0"]
    assert [record.status for record in records] == ["done", "done"]


def test_a_real_process_that_fails_or_is_killed_says_so(tmp_path):
    study = Study(TINY, ["erm", "mixup"], [0])
    cells = study.plan(tmp_path)
    cells[0].folder.mkdir()
    write_json(cells[0].folder / "config.json", RunConfig(method="am_mixup").to_dict())
    with LocalEngine(1) as engine:
        engine.start(cells[0], "")
        seen = []
        while not seen or seen[-1]["kind"] != "ended":
            seen += [event for _, event in engine.events(1.0)]
        assert "holds another run" in seen[-2]["error"]
        engine.start(Cell(replace(cells[1].config, epochs=10_000), cells[1].folder, {}, ""), "")
        seen = []
        while not any(event["kind"] == "epoch" for event in seen):
            seen += [event for _, event in engine.events(1.0)]
        process, _ = engine._running[cells[1].name]
        os.kill(process.pid, signal.SIGKILL)
        while seen[-1]["kind"] != "ended":
            seen += [event for _, event in engine.events(1.0)]
        assert "ended by signal SIGKILL" in seen[-2]["error"]


def test_a_study_of_other_settings_is_refused(tmp_path):
    study = Study(TINY, ["erm"], [0])
    run_study(study, tmp_path, engine=Pretended())
    with pytest.raises(InputError, match=r"epochs=1, not 2.*choose another folder"):
        run_study(replace(study, base=replace(TINY, epochs=2)), tmp_path, engine=Pretended())
    # Where files lie and how many threads there are makes no other study.
    run_study(replace(study, base=replace(TINY, threads=2)), tmp_path, engine=Pretended())


def test_what_ended_but_was_not_entered_is_not_repeated(tmp_path):
    study = Study(TINY, ["erm"], [0])
    run_study(study, tmp_path)
    with sqlite3.connect(tmp_path / Store.FILE) as database:
        database.execute("update cells set status = 'running', result = null")
        database.execute("update cells set owner = 'elsewhere:1:0', heard = 0")
    database.close()
    engine = Pretended()
    records = run_study(study, tmp_path, engine=engine)
    assert engine.started == []
    assert records[0].metrics["accuracy"] > 0


def test_a_claim_holds_while_its_owner_lives(tmp_path):
    cells = Study(TINY, ["erm", "mixup"], [0]).plan(tmp_path)
    first, second = Store(tmp_path, create=True), Store(tmp_path, create=True)
    first.add(cells)
    second.add(cells)
    names = [cell.name for cell in cells]
    assert first.claim(names) == names[0]
    assert second.claim(names) == names[1]
    assert second.claim(names) is None
    first.give_back(names[:1])
    assert second.claim(names) == names[0]
    second.finish(names[0], {"metrics": {"accuracy": 0.5}})
    second.finish(names[0], {"metrics": {"accuracy": 0.1}})
    second.fail(names[0], "too late")
    assert [r.metrics["accuracy"] for r in first.records()] == [0.5]


def test_a_dead_owners_claim_is_taken(tmp_path):
    cells = Study(TINY, ["erm"], [0]).plan(tmp_path)
    store = Store(tmp_path, create=True)
    store.add(cells)
    read, write = os.pipe()
    other = os.fork()
    if not other:  # it claims the cell, says so, and does nothing more
        Store(tmp_path).claim([cells[0].name])
        os.write(write, b".")
        signal.pause()
    assert os.read(read, 1) == b"."
    assert store.claim([cells[0].name]) is None
    assert Store(tmp_path).claim([cells[0].name]) is None
    os.kill(other, signal.SIGKILL)
    os.waitpid(other, 0)
    assert store.claim([cells[0].name]) == cells[0].name


def test_an_owner_that_no_lock_tells_of_must_have_been_heard(tmp_path):
    now = time.time()
    for owner in ("elsewhere:17", "elsewhere:17:0.5", "nonsense", ""):
        assert lives(tmp_path, owner, now - 100)
        assert not lives(tmp_path, owner, now - 130)
        assert not lives(tmp_path, owner, None)
        assert not lives(tmp_path, owner, "lately")
    assert not lives(tmp_path, None, now)
    assert not lives(tmp_path, 7, now)
    assert lives(tmp_path, myself(tmp_path), None)
    here = myself(tmp_path).rpartition(":")[0]
    assert not lives(tmp_path, f"{here}:17", now)  # on this machine the lock tells
    assert lives(tmp_path, f"{here}:{1 << 80}", now)


def test_a_study_is_seen_whole_or_not_at_all(tmp_path):
    seen = []

    def look(connection, cursor, statement, *_):  # as another process does
        if statement.lstrip().startswith("CREATE TABLE"):
            with pytest.raises(InputError, match="holds no study"):
                Store(tmp_path)
            with contextlib.closing(sqlite3.connect(tmp_path / Store.FILE)) as other:
                seen.append(other.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])

    sql.event.listen(sql.Engine, "after_cursor_execute", look)
    try:
        Store(tmp_path, create=True)
    finally:
        sql.event.remove(sql.Engine, "after_cursor_execute", look)
    assert seen == [0, 0]
    assert Store(tmp_path).status() == {}


def test_no_study_and_damaged_ones_are_named(tmp_path):
    with pytest.raises(InputError, match="holds no finished run"):
        load_records(tmp_path)
    with pytest.raises(InputError, match="is no folder"):
        load_records(tmp_path / "none")
    with pytest.raises(InputError, match="holds no study"):
        Store(tmp_path)
    (tmp_path / Store.FILE).write_bytes(b"no database at all" * 100)
    with pytest.raises(InputError, match="is no study's database"):
        Store(tmp_path)


# -------------------------------------------------------------------------------- killed, shared

_STUDY = ["study", "balanced", "--methods", "erm,mixup,decoupled", "--seeds", "2", "--train-size",
          "200", "--threads", "1", "--workers", "2", "--lr", "0.05"]  # fmt: skip


def _start(out, epochs):
    command = [sys.executable, "-m", "mixwell", *_STUDY, "--epochs", epochs, "--out", str(out)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, **pipes, start_new_session=True)


def _measures(out):
    # The time and memory that a run took are its own; all else must not depend on interruptions.
    return {(r.label, r.seed): r.metrics for r in load_records(out)}


def _at_work(out):
    return [
        process for process in psutil.process_iter(["cmdline"])
        if str(out) in " ".join(process.info["cmdline"] or [])
    ]  # fmt: skip


def _running(out):
    file = out / Store.FILE  # empty until its tables are made
    return file.exists() and file.stat().st_size and "running" in Store(out).status().values()


@pytest.mark.cases(slow=1)
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kills", [2, 10])
def test_killed_at_random_moments_nothing_is_lost_or_repeated(kills, tmp_path):
    epochs = str(10 * kills)  # so that it is still at work at the last
    undisturbed = _start(tmp_path / "a", epochs)
    out = tmp_path / "b"
    rng = random.Random(5)
    kept = {}
    for kill in range(kills):
        process = _start(out, epochs)
        while process.poll() is None and not _running(out):
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 1.2))
        assert process.poll() is None, "it ended before it was killed as often"
        if kill % 2:  # now the study alone, now all its runs with it
            process.send_signal(signal.SIGKILL)
        else:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        now = {record.path.name: record.metrics for record in Store(out).records()}
        assert kept.items() <= now.items()
        kept = now
    # A killed study takes its runs with it, as soon as a busy machine lets them see it.
    deadline = time.monotonic() + 20
    while _at_work(out) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _at_work(out)
    last = _start(out, epochs)
    assert last.wait(300) == 0, last.stdout.read()
    assert undisturbed.wait(300) == 0, undisturbed.stdout.read()
    assert _measures(out) == _measures(tmp_path / "a")
    assert len(load_records(out)) == 6


@pytest.mark.slow
def test_two_processes_share_a_study(tmp_path):
    both = [_start(tmp_path, "6") for _ in range(2)]
    outputs = [process.communicate(timeout=280)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    lines = "\n".join(outputs).splitlines()
    own = [line.split()[1] for line in lines if line.startswith("[") and line.endswith(" done")]
    assert len(own) == len(set(own)) == 6
    assert all(len(_measures(tmp_path)) == 6 for _ in both)
