"""What all tests share: one thread, fixed seeds, golden numbers and small models."""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
from torch import Tensor, nn

torch.set_num_threads(1)
hypothesis.settings.register_profile("mixwell", derandomize=True, deadline=None, max_examples=60)
hypothesis.settings.load_profile("mixwell")


@pytest.hookimpl(tryfirst=True)  # before what is asked for by its marks is chosen
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the cases of tests that say how many of them are quick, and how many slow."""
    tests: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("cases"):
            tests.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for cases in tests.values():
        _divide(cases, **cases[0].get_closest_marker("cases").kwargs)


def _divide(cases: list[pytest.Item], quick: int = 0, slow: int | None = None) -> None:
    """Mark all but ``quick`` of the cases slow, or ``slow`` of these and the others for releases.

    Each choice is spread evenly over what it is of: cases in a row are alike.
    """
    rest = _without_spread(cases, quick)
    of_a_release = [] if slow is None else _without_spread(rest, slow)
    for case in rest:
        case.add_marker("release" if case in of_a_release else "slow")


def _without_spread(cases: list[pytest.Item], count: int) -> list[pytest.Item]:
    chosen = {index * len(cases) // count for index in range(min(count, len(cases)))}
    return [case for index, case in enumerate(cases) if index not in chosen]


def pytest_collection_finish() -> None:
    """Let ten thousand tests that wait be none of what is searched for garbage."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    # torch.manual_seed keeps a text of the whole stack each time, three times over, where no GPU
    # has been started.
    torch.default_generator.manual_seed(0)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(0)


@pytest.fixture
def other_defaults() -> Callable[[], AbstractContextManager[None]]:
    """Return a context in which torch makes float64 tensors without memory unless told."""

    @contextmanager
    def change() -> Iterator[None]:
        dtype = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            with torch.device("meta"):
                yield
        finally:
            torch.set_default_dtype(dtype)

    return change


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, Any]]:
    """Return a reader of tests/golden: lists become float64 or int64 tensors."""

    def read(name: str) -> dict[str, Any]:
        content = json.loads((Path(__file__).parent / "golden" / f"{name}.json").read_text())

        def convert(value: Any) -> Any:
            if not isinstance(value, list):
                return value
            tensor = torch.tensor(value, dtype=torch.float64)
            flat = value[0] if isinstance(value[0], list) else value
            return tensor.long() if all(isinstance(item, int) for item in flat) else tensor

        return {key: convert(value) for key, value in content.items()}

    return read


@pytest.fixture
def make_net() -> Callable[..., nn.Sequential]:
    """Return a maker of small convolutional classifiers of (B, 3, 8, 8)."""

    def make(num_classes: int = 5) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Sequential(nn.Conv2d(6, 6, 3), nn.ReLU()),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(0.1),
            nn.Linear(6, num_classes),
        )

    return make


@pytest.fixture
def images() -> tuple[Tensor, Tensor]:
    """Return a batch of nine images of five classes."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(9, 3, 8, 8, generator=generator)
    return x, torch.tensor([0, 1, 2, 3, 4, 0, 1, 2, 0])


@pytest.fixture
def from_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Work in an empty folder, and forget afterwards what was imported and registered there.

    Return what forgets it at once, as a process that begins knows nothing.
    """
    from mixwell import plugins
    from mixwell.methods import spec
    from mixwell.metrics import measure, measures  # noqa: F401  (its own come first)

    monkeypatch.chdir(tmp_path)
    known: list[Any] = [
        spec._SPECS, measure._MEASURES, plugins._LOADED, plugins._PATHS, plugins._MEASURES,
        plugins._VERSIONS,
    ]  # fmt: skip
    before = [register.copy() for register in known]
    modules, path = set(sys.modules), list(sys.path)

    def forget() -> None:
        for register, content in zip(known, before, strict=True):
            register.clear()
            register.update(content)
        for name in set(sys.modules) - modules:
            file = getattr(sys.modules[name], "__file__", None) or ""
            if name.startswith("mixwell_import_") or file.startswith((str(tmp_path), "own")):
                del sys.modules[name]
        sys.path[:] = path
        sys.path_importer_cache.clear()
        plugins.entries.cache_clear()

    yield forget
    forget()
