"""What all tests share: one thread, fixed seeds, golden numbers and small models."""

from __future__ import annotations

import json
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


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


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
