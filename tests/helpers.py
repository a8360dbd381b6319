"""What several test modules call."""

from __future__ import annotations

import faulthandler
import multiprocessing
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mixwell import MixedTarget

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
"""What tests run on: the processor, and a GPU where there is one."""
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def run_processes(script: str, folder: Path, count: int = 2, seconds: float = 270) -> None:
    """Run a script in processes; each is given its rank, a store to meet at, and their count.

    One that hangs is a failure, and leaves none behind.
    """
    path = folder / "worker.py"
    path.write_text(textwrap.dedent(script))
    given = [f"file://{folder / 'store'}", str(count)]
    workers = [subprocess.Popen([sys.executable, path, str(rank), *given]) for rank in range(count)]
    until = time.monotonic() + seconds
    try:
        statuses = [worker.wait(max(until - time.monotonic(), 0)) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    assert statuses == [0] * count


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
