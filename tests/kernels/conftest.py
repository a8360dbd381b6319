"""The kernels with a compiler and without, and several threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from mixwell.kernels import native


@pytest.fixture(params=["compiled", "torch"])
def kernels_by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test twice: with the compiled kernels (skipped where there are none), and without."""
    # Whether MIXWELL_NATIVE=0 does the same is test_native.py's.
    loaded = native.library() if request.param == "compiled" else None
    if request.param == "compiled" and loaded is None:
        pytest.skip("there are no compiled kernels here")
    monkeypatch.setattr(native, "library", lambda: loaded)
    return request.param


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Return a setter of torch's number of threads, which is put back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
