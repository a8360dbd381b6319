"""The kernels with a compiler and without, and several threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from mixwell.kernels import native


@pytest.fixture(params=["compiled", "torch"])
def kernels_by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Run a test twice: with the compiled kernels (skipped where there are none), and without."""
    monkeypatch.setenv("MIXWELL_NATIVE", "1" if request.param == "compiled" else "0")
    native.library.cache_clear()
    loaded = native.library()
    if request.param == "compiled" and loaded is None:
        pytest.skip("there are no compiled kernels here")
    assert request.param == "compiled" or loaded is None
    yield request.param
    native.library.cache_clear()


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Return a setter of torch's number of threads, which is put back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
