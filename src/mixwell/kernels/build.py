"""The library of the CPU's kernels in C: built once a machine, then kept.

It is kept in ``MIXWELL_CACHE``, else in the user's cache folder, under a name that says what it was
made of and what is in it.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

__all__ = ["SOURCE", "built"]

SOURCE = Path(__file__).with_name("mix.c")


def built() -> Path:
    """Return the library's file, compiling it if it isn't kept yet."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    compiler = compiler or shutil.which("clang")
    if compiler is None or platform.system() == "Windows":
        raise RuntimeError("there is no C compiler")
    # Made for this processor: a home folder may be seen by others.
    made_for = f"{platform.machine()} {compiler} {_processor()}".encode()
    sources = SOURCE.read_bytes() + Path(__file__).read_bytes()
    key = hashlib.sha256(sources + made_for).hexdigest()[:16]
    folder = Path(os.environ.get("MIXWELL_CACHE") or _cache_folder())
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():
        raise RuntimeError(f"{folder} belongs to another user")
    for kept in folder.glob(f"mix-{key}-*.so"):
        # The name tells what is in it: to load a file that was cut off ends the process.
        if kept.stem.endswith(_digest(kept)):
            return kept
    with tempfile.TemporaryDirectory(dir=folder) as work:
        made = Path(work) / "mix.so"
        _compile(compiler, SOURCE, made)
        with made.open("rb") as file:
            os.fsync(file.fileno())
        kept = folder / f"mix-{key}-{_digest(made)}.so"
        os.replace(made, kept)
    return kept


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]


def _compile(compiler: str, source: Path, made: Path) -> None:
    flags = ["-O3", "-shared", "-fPIC", "-std=gnu11", "-fno-math-errno", "-fno-trapping-math"]
    # A loop that copies stays one: what replaces it may be made for megabytes.
    flags += ["-fno-tree-loop-distribute-patterns"]
    tuned = "-march=native" if platform.machine() in ("x86_64", "AMD64") else "-mcpu=native"
    message = ""
    for extra in ([*flags, tuned, "-DHALF"], [*flags, tuned], flags, flags[:-1]):
        command = [*compiler.split(), *extra, str(source), "-lm", "-o", str(made)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=60)
        if done.returncode == 0 and made.is_file():
            return
        message = done.stderr.strip()[-300:]
    raise RuntimeError(f"{compiler} failed: {message}")


def _processor() -> str:
    """Return what tells processors of different abilities apart."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = ("model name", "flags", "Features", "CPU part")
    return " ".join(sorted({line for line in lines if line.startswith(names)}))


def _cache_folder() -> Path:
    if platform.system() == "Darwin":
        return Path.home() / "Library" / "Caches" / "mixwell"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mixwell"
