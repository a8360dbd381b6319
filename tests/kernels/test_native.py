"""The compiled kernels are had where they can be, and missed by nobody where they can't."""

import logging
import multiprocessing
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
import torch
from helpers import in_fork

from mixwell import Mix, functional
from mixwell.kernels import build, native, plain
from mixwell.losses import DecoupledCrossEntropy
from mixwell.mix import MixedTarget

SOURCE = build.SOURCE
LIBRARY = native.library()
COMPILER = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
needs_compiler = pytest.mark.skipif(LIBRARY is None, reason="no C compiler")


@pytest.fixture(autouse=True)
def _fresh(monkeypatch, tmp_path):
    """Each test's first use is the first, with a cache of its own."""
    monkeypatch.setenv("MIXWELL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MIXWELL_NATIVE", raising=False)
    native.library.cache_clear()
    yield
    native.library.cache_clear()


@pytest.fixture
def quick(tmp_path, monkeypatch):
    """A compiler that takes a moment: what it makes was made before."""
    text = f'sleep 0.1; for last; do :; done; exec cp "{LIBRARY._name}" "$last"'
    monkeypatch.setenv("CC", script(tmp_path / "quick", text))


@pytest.fixture
def kept(quick):
    """The library's file in the test's own cache."""
    return build.built()


def assert_mixes():
    x, mix = torch.randn(5, 700), Mix(torch.tensor([1, 0, 4, 2, 2]), torch.rand(5))
    torch.testing.assert_close(functional.mix(x, mix), plain(x, mix))
    z = torch.randn(5, 9, requires_grad=True)
    target = MixedTarget(torch.arange(5), torch.arange(5).roll(1), torch.rand(5))
    single = torch.autograd.grad(DecoupledCrossEntropy()(z, target), z)[0]
    double = torch.autograd.grad(DecoupledCrossEntropy()(z.double(), target), z)[0]
    torch.testing.assert_close(single, double)


def script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def no_compiler(*_, **__):
    raise AssertionError("it is compiled again")


# -------------------------------------------------------------------------------- without a library


@pytest.mark.parametrize(
    "compiler",
    ["false", "true", "there-is-no-such-compiler", "/", "sh -c false", "sh -c 'exit 3' x", " "],
)
def test_a_compiler_that_does_not_work_is_no_harm(compiler, monkeypatch, caplog):
    monkeypatch.setenv("CC", compiler)
    with caplog.at_level(logging.INFO, "mixwell"):
        loaded = native.library()
    if compiler.strip():
        assert loaded is None
        assert "mixing without compiled kernels" in caplog.text
        assert not [record for record in caplog.records if record.levelno > logging.INFO]
    assert_mixes()


def test_no_compiler_is_no_harm(monkeypatch, tmp_path):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert native.library() is None
    assert_mixes()


def test_it_can_be_turned_off(monkeypatch, tmp_path):
    monkeypatch.setenv("MIXWELL_NATIVE", "0")
    monkeypatch.setattr(subprocess, "run", no_compiler)
    assert native.library() is None
    assert not native.takes(torch.float32)
    assert_mixes()
    assert not (tmp_path / "cache").exists()


def test_a_compiler_that_hangs_is_given_up(monkeypatch):
    def hangs(*_, timeout, **__):
        raise subprocess.TimeoutExpired("cc", timeout)

    monkeypatch.setattr(subprocess, "run", hangs)
    assert native.library() is None
    assert_mixes()


@pytest.mark.skipif(os.name != "posix", reason="by a shell script")
def test_what_a_compiler_says_need_not_be_unicode(monkeypatch, tmp_path):
    monkeypatch.setenv("CC", script(tmp_path / "cc", r"printf 'erreur: \351t\351' >&2; exit 1"))
    assert native.library() is None
    assert_mixes()


@pytest.mark.skipif(os.name != "posix", reason="by permissions")
def test_a_cache_that_can_not_be_written_is_no_harm(monkeypatch, tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    places = [file, file / "below", Path("/dev/null/cache")]
    if os.getuid():  # the superuser writes anywhere
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o500)
        places += [closed, closed / "below"]
    for place in places:
        monkeypatch.setenv("MIXWELL_CACHE", str(place))
        native.library.cache_clear()
        assert native.library() is None, place
    assert_mixes()


@needs_compiler
@pytest.mark.skipif(not hasattr(os, "getuid"), reason="there are no owners")
def test_another_users_cache_is_not_trusted(kept, monkeypatch):
    mine = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: mine + 1)
    assert native.library() is None
    assert_mixes()


def test_no_home_is_no_harm(monkeypatch):
    def nowhere():
        raise RuntimeError("Could not determine home directory.")

    for name in ("MIXWELL_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", nowhere)
    assert native.library() is None
    assert_mixes()


# ---------------------------------------------------------------------------------------- the cache


@pytest.mark.slow
@needs_compiler
def test_it_is_compiled_where_it_is_not_kept(tmp_path):
    loaded = native.library()
    assert Path(loaded._name).parent == tmp_path / "cache"
    assert_mixes()


@needs_compiler
def test_it_is_compiled_once_and_then_kept(kept, monkeypatch):
    before = kept.stat().st_mtime_ns
    monkeypatch.setattr(subprocess, "run", no_compiler)
    loaded = native.library()
    assert loaded is not None
    assert Path(loaded._name) == kept
    assert native.library() is loaded
    assert_mixes()
    assert kept.stat().st_mtime_ns == before
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]


@needs_compiler
def test_a_second_process_does_not_compile(kept, monkeypatch):
    before = kept.stat().st_mtime_ns
    monkeypatch.setattr(subprocess, "run", no_compiler)

    def work():
        assert native.library() is not None
        assert_mixes()

    assert in_fork(work) == 0
    assert kept.stat().st_mtime_ns == before


@needs_compiler
def test_another_source_or_compiler_makes_another_file(kept, monkeypatch, tmp_path):
    shutil.copy(SOURCE, tmp_path / "mix.c")
    monkeypatch.setattr(build, "SOURCE", tmp_path / "mix.c")
    assert build.built() == kept
    files = set()

    def compiler(command, **_):
        Path(command[command.index("-o") + 1]).write_text("made")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", compiler)
    with (tmp_path / "mix.c").open("a") as file:
        file.write("\n/* another */\n")
    files.add(build.built())
    monkeypatch.setenv("CC", "another-compiler")
    files.add(build.built())
    monkeypatch.setattr(build, "_processor", lambda: "another processor")
    files.add(build.built())
    assert len(files | {kept}) == 4


@needs_compiler
@pytest.mark.parametrize("content", [b"", b"not a library", b"\x7fELF" + bytes(60)])
def test_a_broken_file_in_the_cache_is_no_harm(content, kept):
    kept.write_bytes(content)
    assert_mixes()


@needs_compiler
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_half_a_library_in_the_cache_is_no_harm(share, kept):
    whole = kept.read_bytes()
    kept.write_bytes(whole[: int(share * len(whole))])
    # Whether it is loaded depends on what is missing: but nothing ends.
    assert in_fork(assert_mixes) == 0


@needs_compiler
def test_a_broken_file_is_made_anew(kept):
    kept.write_bytes(b"not a library")
    assert native.library() is not None


@needs_compiler
def test_several_processes_may_be_the_first(quick, tmp_path):
    context = multiprocessing.get_context("fork")
    start = context.Barrier(4)

    def work():
        start.wait(30)
        assert native.library() is not None
        assert_mixes()

    processes = [context.Process(target=work, daemon=True) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    names = [path.name for path in (tmp_path / "cache").iterdir()]
    assert len(names) == 1, names
    assert native.library() is not None


# ------------------------------------------------------------------- a compiler's mistakes are seen

MISTAKES = {
    "lerp": ("b + lam * (a - b)", "b - lam * (a - b)"),
    "bytes": ("0x4B400000", "0x4B400001"),
    "the loss": (
        "loss += alpha[k] * (log_z - chosen[k])",
        "loss += alpha[k] * (log_z + chosen[k])",
    ),
    "the box": (") * pixel - left;", ") * pixel;"),
    "Beta": ("1 / t : t) * correction", "t : 1 / t) * correction"),
}


@pytest.mark.cases(quick=2)
@needs_compiler
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_library_that_is_wrong_is_not_used(mistake, monkeypatch, tmp_path, caplog):
    right, wrong = MISTAKES[mistake]
    source = SOURCE.read_text()
    assert right in source
    (tmp_path / "mix.c").write_text(source.replace(right, wrong))
    monkeypatch.setattr(build, "SOURCE", tmp_path / "mix.c")
    # Optimizing takes three times as long.
    plainly = f"""exec {COMPILER} $(printf '%s ' "$@" | sed 's/-O3/-O0/')"""
    monkeypatch.setenv("CC", script(tmp_path / "cc", plainly))
    with caplog.at_level(logging.WARNING, "mixwell"):
        assert native.library() is None
    assert "compiled wrongly" in caplog.text


@needs_compiler
def test_a_library_without_some_of_its_functions_is_not_used(monkeypatch, tmp_path, caplog):
    empty = tmp_path / "empty.c"
    empty.write_text("int mix_float32(void) { return 0; }\n")
    text = f'for last; do :; done; exec {COMPILER} -shared -fPIC {empty} -o "$last"'
    monkeypatch.setenv("CC", script(tmp_path / "cc", text))
    with caplog.at_level(logging.WARNING, "mixwell"):
        assert native.library() is None
    assert "paste" in caplog.text
    assert_mixes()


@pytest.mark.slow
@needs_compiler
def test_boxes_are_drawn_in_memory_of_their_own_kind(other_defaults):
    lam, centre = torch.rand(5), torch.rand(5, 2)
    expected = native.draw_boxes(lam, centre, 9, 7)
    with other_defaults():
        got = native.draw_boxes(lam, centre, 9, 7)
        distance = functional.pair_distance(centre, lam.argsort())
    assert torch.equal(distance, functional.pair_distance(centre, lam.argsort()))
    for one, right in zip(got, expected, strict=True):
        assert (one.dtype, one.device) == (right.dtype, right.device)
        assert torch.equal(one, right)
