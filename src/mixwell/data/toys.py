"""Toys: points in the plane, by scikit-learn."""

from __future__ import annotations

import torch
from torch import Tensor

from mixwell.errors import InputError

__all__ = ["toy"]


def toy(name: str, size: int, seed: int, noise: float = 0.15) -> tuple[Tensor, Tensor]:
    """Return points (N, 2) and classes (N,) of "moons" or "circles", by scikit-learn."""
    from sklearn import datasets

    if name not in ("moons", "circles"):
        raise InputError(f"name={name!r} must be moons or circles")
    if name == "moons":
        x, y = datasets.make_moons(size, noise=noise, random_state=seed)
    else:
        x, y = datasets.make_circles(size, noise=noise / 2, factor=0.5, random_state=seed)
    return torch.from_numpy(x), torch.from_numpy(y).long()
