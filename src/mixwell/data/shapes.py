"""Coloured shapes on cluttered ground: images of CIFAR's form that need no files."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["CLASSES", "GROUPS", "shapes"]

CLASSES = (
    "disc", "ring", "crescent", "dumbbell", "square", "frame", "triangle", "plus", "bar", "hook",
)  # fmt: skip
GROUPS = {"round": (0, 1, 2, 3), "angular": (4, 5, 6), "crossed": (7, 8, 9)}


def _outline(label: int, u: Tensor, v: Tensor) -> Tensor:
    """Return how far points are outside a shape of about unit size; negative inside."""
    radius, across = torch.hypot(u, v), torch.maximum(u.abs(), v.abs())
    if label == 0:
        return radius - 0.75
    if label == 1:
        return (radius - 0.65).abs() - 0.18
    if label == 2:
        return torch.maximum(radius - 0.85, 0.7 - torch.hypot(u - 0.45, v))
    if label == 3:
        return torch.hypot(u.abs() - 0.5, v) - 0.38
    if label == 4:
        return across - 0.65
    if label == 5:
        return (across - 0.6).abs() - 0.16
    if label == 6:
        sides = [u * math.cos(a) + v * math.sin(a) for a in (0.5, 0.5 + 2 * math.pi / 3)]
        return torch.maximum(torch.maximum(sides[0], sides[1]), -(sides[0] + sides[1])) - 0.42
    bars = torch.maximum(u.abs() - 0.85, v.abs() - 0.22)
    if label == 7:
        return torch.minimum(bars, torch.maximum(v.abs() - 0.85, u.abs() - 0.22))
    if label == 8:
        return bars
    return torch.minimum(
        torch.maximum(u.abs() - 0.7, (v - 0.5).abs() - 0.2),
        torch.maximum((u + 0.5).abs() - 0.2, v.abs() - 0.7),
    )


def shapes(size: int, seed: int, side: int = 32) -> tuple[Tensor, Tensor]:
    """Return images (N, 3, side, side) uint8 and their classes (N,), as many of each class.

    A shape of random colour, texture, size, place and angle, on ground of random colours with
    discs for clutter and noise over all. A pure function of its arguments.

    Args:
        size: N.
        seed: of all draws.
        side: of the images, in pixels.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(size, *shape, generator=generator)

    labels = torch.arange(size) % len(CLASSES)
    line = (torch.arange(side) + 0.5) * (2 / side) - 1
    down, across = line[:, None], line[None, :]

    tint = uniform(0.2, 0.8, 3, 1, 1)
    waves = F.interpolate(uniform(-0.25, 0.25, 3, 3, 3), size=(side, side), mode="bicubic")
    ground = tint + waves
    for _ in range(2):
        x, y = uniform(-1, 1, 2, 1, 1).unbind(1)
        inside = torch.hypot(across - x, down - y) < uniform(0.08, 0.22, 1, 1)
        ground = torch.where(inside[:, None], uniform(0, 1, 3, 1, 1), ground)

    x, y = uniform(-0.25, 0.25, 2, 1, 1).unbind(1)
    angle, scale = uniform(0, 2 * math.pi, 1, 1), uniform(0.5, 0.8, 1, 1)
    dx, dy = (across - x) / scale, (down - y) / scale
    u = dx * angle.cos() + dy * angle.sin()
    v = dy * angle.cos() - dx * angle.sin()
    outside = torch.empty(size, side, side)
    for label in range(len(CLASSES)):
        own = labels == label
        outside[own] = _outline(label, u[own], v[own])
    cover = (-outside * scale * side / 2 + 0.5).clamp(0, 1)[:, None]
    stripes = 0.5 + 0.5 * torch.sin(u * uniform(2, 14, 1, 1) + uniform(0, 6, 1, 1))[:, None]
    # A colour that differs from the ground's, and stripes of a second one.
    away = F.normalize(torch.randn(size, 3, 1, 1, generator=generator), dim=1)
    colour = torch.lerp(tint + 0.6 * away, uniform(0, 1, 3, 1, 1), 0.4 * stripes)

    images = torch.lerp(ground, colour, cover)
    images = images + 0.05 * torch.randn(images.shape, generator=generator)
    order = torch.randperm(size, generator=generator)
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)[order], labels[order]
