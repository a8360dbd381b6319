"""What several test modules call."""

from __future__ import annotations

import faulthandler
import multiprocessing
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from mixwell import MixedTarget

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
"""What tests run on: the processor, and a GPU where there is one."""
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def _run(script: str, arguments: list[str]) -> None:
    sys.argv = ["script.py", *arguments]
    exec(compile(script, "script.py", "exec"), {"__name__": "__main__"})


def run_scripts(
    script: str, *arguments: Sequence[object], seconds: float = 270
) -> list[int | None]:
    """Run a script in a process for each list of arguments, and return their exit codes.

    They are forked from a server that has torch loaded, which takes longer than most scripts do.
    One that hangs has none, and is left behind by nobody.
    """
    from mixwell.studies.engines import starter  # here, as it brings much that others don't need

    context = starter()
    script = textwrap.dedent(script)
    processes = [
        context.Process(target=_run, args=(script, [str(value) for value in given]))
        for given in arguments
    ]
    until = time.monotonic() + seconds
    try:
        for process in processes:
            process.start()
        for process in processes:
            process.join(max(until - time.monotonic(), 0))
        codes = [process.exitcode for process in processes]
    finally:
        for process in processes:
            if process.pid is not None:
                process.kill()
                process.join()
    return codes


def run_processes(script: str, folder: Path, count: int = 2) -> None:
    """Run a script in processes; each is given its rank, a store to meet at, and their count."""
    store = f"file://{folder / 'store'}"
    assert run_scripts(script, *((rank, store, count) for rank in range(count))) == [0] * count


def make_target(size: int, num_classes: int, seed: int = 0) -> MixedTarget:
    """Return random mixed targets that hold λ = 0, 1/2 and 1 and a same-class row."""
    generator = torch.Generator().manual_seed(seed)
    a = torch.randint(num_classes, (size,), generator=generator)
    b = torch.randint(num_classes, (size,), generator=generator)
    lam = torch.rand(size, generator=generator)
    special = torch.tensor([0.0, 0.5, 1.0])[: min(size, 3)]
    lam[: len(special)] = special
    if size > 3:
        b[3] = a[3]
    return MixedTarget(a, b, lam)


def in_fork(work: Callable[[], None], seconds: float = 60.0) -> int | None:
    """Return the exit code of ``work`` in a forked process, where what it breaks breaks.

    None if it hangs.
    """

    def quietly() -> None:
        faulthandler.disable()
        work()

    process = multiprocessing.get_context("fork").Process(target=quietly, daemon=True)
    process.start()
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
        return None
    return process.exitcode
