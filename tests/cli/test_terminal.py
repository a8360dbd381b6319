import errno
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import sqlalchemy as sql
import torch

from mixwell import InputError
from mixwell.cli import main
from mixwell.cli.terminal import Interrupts, Output
from mixwell.errors import explained
from mixwell.training import is_finished, run, state

TINY = ["--data", "diabetes", "--train-size", "60", "--epochs", "3", "--threads", "1"]


def forked(arguments, stdout, before=lambda: None):
    """Run the command line in a fork with this standard output; return its process."""
    child = os.fork()
    if not child:
        status = 99
        try:
            os.dup2(stdout, 1)
            sys.stdout = os.fdopen(1, "w")
            before()
            status = main(arguments)
            sys.stdout.flush()
        finally:
            os._exit(status)
    return child


def ended(child):
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


@pytest.mark.parametrize("read", [0, 1])
def test_a_run_goes_on_when_who_reads_its_output_has_gone(read, tmp_path):
    reader, writer = os.pipe()
    child = forked(["train", *TINY, "--method", "mixup", "--out", str(tmp_path / "r")], writer)
    os.close(writer)
    if read:
        assert os.read(reader, 10)
    os.close(reader)
    assert ended(child) == 0
    assert is_finished(tmp_path / "r")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is full")
def test_output_that_cannot_be_written_is_said_and_the_run_is_kept(tmp_path, capfd):
    with open("/dev/full", "w") as full:
        out = ["--out", str(tmp_path / "r")]
        child = forked(["train", *TINY, "--method", "mixup", *out], full.fileno())
        assert ended(child) == 1
    assert capfd.readouterr().err == "mixwell train: error: output: the disk is full\n"
    assert is_finished(tmp_path / "r")


def test_without_standard_streams_files_are_not_written_into_by_prints(tmp_path):
    def close():
        for number in range(3):
            os.close(number)
        sys.stdout = sys.stderr = None

    with open(os.devnull, "w") as nowhere:
        out = ["--out", str(tmp_path / "r")]
        child = forked(["train", *TINY, "--method", "mixup", *out], nowhere.fileno(), close)
    assert ended(child) == 0
    assert main(["train", *TINY, "--method", "mixup", "--out", str(tmp_path / "r")]) == 0


def test_an_output_that_knows_no_greek_gets_a_question_mark(tmp_path):
    with open(tmp_path / "text", "w", encoding="ascii") as file:
        child = forked(["describe", "sk_mixup"], file.fileno(), lambda: sys.stdout.reconfigure(
            encoding="ascii", errors="strict"))  # fmt: skip
    assert ended(child) == 0
    assert "?_max" in (tmp_path / "text").read_text()


def test_a_closed_stream_is_no_error():
    class Closed:
        def write(self, text):
            raise ValueError("I/O operation on closed file")

        def isatty(self):
            return True

    output = Output(Closed())
    assert output.isatty()
    assert output.write("word") == 4
    assert not output.isatty()
    assert output.lost is None


# --------------------------------------------------------------------------------- the machine


@pytest.mark.parametrize(
    ("raised", "words"),
    [
        (OSError(errno.ENOSPC, "x", "/a/b"), "/a/b: the disk is full"),
        (OSError(errno.ENAMETOOLONG, "x"), "its name or path is too long"),
        (OSError(errno.EMFILE, "x"), "too many files are open"),
        (OSError(errno.ENETDOWN, "x"), os.strerror(errno.ENETDOWN)),
        (MemoryError(), "memory is exhausted"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to ..."), "memory is exhausted"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "memory is exhausted"),
        (sqlite3.OperationalError("database is locked"), "locked by another process"),
        (sql.exc.OperationalError("x", {}, sqlite3.OperationalError("disk I/O error")), "the disk"),
    ],
)
def test_what_the_machine_says_in_words(raised, words):
    assert words in explained(raised)
    outer = RuntimeError("a library's own words")
    outer.__cause__ = raised
    assert words in explained(outer)


def test_what_is_not_the_machines_is_not_explained():
    for error in (KeyError("x"), RuntimeError("shapes"), InputError("alpha"), ImportError("x")):
        assert explained(error) is None


TRAIN = ["train", *TINY, "--method", "mixup", "--checkpoint-minutes", "0", "--out"]


@pytest.fixture
def broken(monkeypatch, capsys):
    """Return what runs a training whose third checkpoint meets trouble, and what it said."""

    def meet(trouble, *more, folder):
        real, count = state.State.save, []

        def save(self, place):
            count.append(1)
            if len(count) == 3:
                trouble()
            return real(self, place)

        with monkeypatch.context() as patch:
            patch.setattr(state.State, "save", save)
            status = main([*TRAIN, str(folder), *more])
        return status, capsys.readouterr().err

    return meet


def fail(error):
    def trouble():
        raise error

    return trouble


def test_a_folder_that_is_deleted_while_a_run_goes_on(broken, tmp_path):
    status, said = broken(lambda: shutil.rmtree(tmp_path / "r"), folder=tmp_path / "r")
    assert status == 1
    assert "it is not there (any more). What was done is kept" in said
    assert said.count("\n") == 1
    assert main([*TRAIN, str(tmp_path / "r")]) == 0


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "x"), MemoryError(), KeyError("odd")])
def test_what_goes_wrong_on_the_way_is_one_line_and_the_run_goes_on(error, broken, tmp_path):
    status, said = broken(fail(error), folder=tmp_path / "r")
    assert status == 1
    assert said.startswith("mixwell train: error: ")
    assert said.count("\n") == 1
    if isinstance(error, KeyError):
        assert "unforeseen KeyError: 'odd' (--debug shows where)" in said
    status, said = broken(fail(error), "--debug", folder=tmp_path / "r")
    assert "Traceback" in said
    assert main([*TRAIN, str(tmp_path / "r")]) == 0


@pytest.mark.slow
def test_few_files_may_be_open(tmp_path, capsys):
    def few():
        resource.setrlimit(resource.RLIMIT_NOFILE, (6, 6))

    with open(os.devnull, "w") as nowhere:
        child = forked([*TRAIN, str(tmp_path / "r")], nowhere.fileno(), few)
        assert ended(child) in (0, 1, 2)


def test_a_path_that_is_too_long_and_a_seed_out_of_range(tmp_path, capsys):
    assert main([*TRAIN, str(tmp_path / ("x" * 300))]) == 2
    assert "File name too long" in capsys.readouterr().err
    for seed in ("4294967296", "-1", "99999999999999999999"):
        assert main(["train", *TINY, "--seed", seed, "--out", str(tmp_path / "s")]) == 2
        assert "seed must be a whole number from 0 to 4294967295" in capsys.readouterr().err
    compare = ["compare", "--methods", "erm", *TINY, "--seeds", "0,4294967296"]
    assert main([*compare, "--out", str(tmp_path / "s")]) == 2
    assert "must be a whole number from 0 to 4294967295" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


def test_a_database_that_stays_locked(tmp_path, capsys, monkeypatch):
    from mixwell.studies import store

    monkeypatch.setattr(store, "_WAIT", 0.1)
    store.Store(tmp_path, create=True)
    with sqlite3.connect(tmp_path / store.Store.FILE) as database:
        database.execute("begin exclusive")
        compare = ["compare", "--methods", "erm", "--seeds", "1", *TINY, "--out", str(tmp_path)]
        assert main(compare) == 1
    said = capsys.readouterr().err
    assert "locked by another process" in said
    assert said.count("\n") == 1


# ------------------------------------------------------------------------------------- Ctrl-C


def test_ctrl_c_at_any_event_is_one_line_and_the_run_goes_on(tmp_path, capsys, monkeypatch):
    # A process that was started in the background may ignore it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    wanted = tmp_path / "whole"
    assert main([*TRAIN, str(wanted)]) == 0
    capsys.readouterr()
    real, due = state.State.save, [1]

    def save(self, folder):
        real(self, folder)
        if self.step >= due[0]:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(state.State, "save", save)
    for place in (1, 2, 4):
        due[0] = place
        assert main([*TRAIN, str(tmp_path / "r")]) == 130
        said = capsys.readouterr().err
        assert said.startswith("Interrupted. What was done is kept")
        assert said.count("\n") == 1
    monkeypatch.setattr(state.State, "save", real)
    assert main([*TRAIN, str(tmp_path / "r")]) == 0
    ours, theirs = (run.read_result(folder)["metrics"] for folder in (tmp_path / "r", wanted))
    assert ours == theirs
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_twice_ends_at_once(capfd):
    def work():
        with Interrupts("Farewell."):
            try:
                os.kill(os.getpid(), signal.SIGINT)
            finally:
                os.kill(os.getpid(), signal.SIGINT)

    child = os.fork()
    if not child:
        work()
        os._exit(7)
    assert ended(child) == 130
    assert capfd.readouterr().err == "Farewell.\n"


def test_what_an_interrupted_import_raises_is_no_error_of_its_own(capsys, monkeypatch):
    import mixwell

    def describe(name):
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
        except KeyboardInterrupt:
            raise ImportError("numpy.core.multiarray failed to import", name="numpy") from None

    monkeypatch.setattr(mixwell, "describe", describe)
    assert main(["describe", "erm"]) == 130
    assert capsys.readouterr().err == "Interrupted. Nothing was half-written.\n"


def test_other_threads_may_call_the_command_line(capsys):
    status = []
    thread = threading.Thread(target=lambda: status.append(main(["describe", "erm"])))
    thread.start()
    thread.join()
    assert status == [0]


def test_ctrl_c_while_the_output_goes_out(capsys, monkeypatch):
    def flush(self):  # of a pipe whose reader reads no more
        monkeypatch.undo()
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)

    monkeypatch.setattr(Output, "flush", flush)
    assert main(["describe", "erm"]) == 130
    assert capsys.readouterr().err == "Interrupted. Nothing was half-written.\n"


KILL = "import os, signal; os.kill(os.getpid(), signal.SIGINT)"
INTERRUPTED = (130, "Interrupted. Nothing was half-written.\n")
MOMENTS = {
    "atexit": (
        "import atexit, os, signal; atexit.register(os.kill, os.getpid(), signal.SIGINT)",
        INTERRUPTED,
    ),
    "taken down": (
        """import os, signal
class Last:
    def __del__(self, kill=os.kill, me=os.getpid(), number=signal.SIGINT):
        kill(me, number)
os.last = Last()""",
        (0, ""),
    ),
    "in an exec of text": (f"exec({KILL!r})", INTERRUPTED),
    "in one whose caller catches it": (
        f"""try:
    exec({KILL!r})
except KeyboardInterrupt:
    pass""",
        (0, ""),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_ctrl_c_at_odd_moments(moment, tmp_path):
    """While libraries end their work it ends all; once nothing is left to end, nothing.

    In an ``exec`` of text, as every dataclass is made by, CPython keeps in mind that it came.
    """
    own = tmp_path / "own.py"
    code, said = MOMENTS[moment]
    own.write_text(code)
    ended = subprocess.run(
        [sys.executable, "-m", "mixwell", "describe", "erm", "--import", str(own)],
        capture_output=True, text=True, timeout=120,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == said
    assert ("erm" in ended.stdout) == (said[0] == 0 or moment == "atexit")


@pytest.mark.slow
@pytest.mark.parametrize("after", [0.1, 0.5, 1.0, 2.0, 4.0])
def test_ctrl_c_while_it_starts(after, tmp_path):
    command = [sys.executable, "-m", "mixwell", *TRAIN, str(tmp_path / "r")]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    deadline = time.monotonic() + 60
    # Python itself takes its first moments: from then on mixwell says how it ends.
    maps = Path(f"/proc/{process.pid}/maps")
    while time.monotonic() < deadline and "torch" not in maps.read_text():
        time.sleep(0.01)
    time.sleep(after)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=120)[1]
    assert process.returncode in (130, 0)
    assert "Traceback" not in said
    if process.returncode:
        assert said.startswith("Interrupted")
        assert said.count("\n") == 1
