"""Corruptions of images, of five severities, computed on the fly: shifted test sets.

After "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations",
arXiv:1903.12261, with severities of our own, for images from 8 pixels on.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from mixwell.errors import InputError, suggest

__all__ = ["CORRUPTIONS", "SEVERITIES", "corrupt"]

SEVERITIES = (1, 2, 3, 4, 5)


def _noise(x: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    scale = (0.08, 0.12, 0.16, 0.18, 0.2)[severity - 1]
    return x + scale * torch.randn(x.shape, generator=generator).to(x)


def _shot_noise(x: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    photons = (100, 50, 20, 15, 10)[severity - 1]
    return torch.poisson(x.clamp(0, 1).cpu() * photons, generator=generator).to(x) / photons


def _impulse_noise(x: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    amount = (0.02, 0.04, 0.06, 0.1, 0.14)[severity - 1]
    size = (len(x), 1, *x.shape[2:])
    draw = torch.rand(size, generator=generator).to(x.device)
    return torch.where(draw < amount / 2, 0.0, torch.where(draw > 1 - amount / 2, 1.0, x))


def _blur(x: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    from torchvision.transforms.v2 import functional as tv

    sigma = (0.6, 0.9, 1.05, 1.2, 1.5)[severity - 1] * max(min(x.shape[-2:]), 16) / 32
    reach = max(1, min(math.ceil(3 * sigma), min(x.shape[-2:]) // 2 - 1))
    return tv.gaussian_blur(x, [2 * reach + 1] * 2, [sigma, sigma])


def _contrast(x: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    factor = (0.75, 0.5, 0.4, 0.3, 0.15)[severity - 1]
    centre = x.mean((1, 2, 3), keepdim=True)
    return (x - centre) * factor + centre


def _brightness(x: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    return x + (0.05, 0.1, 0.15, 0.2, 0.3)[severity - 1]


def _pixelate(x: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    share = (0.875, 0.75, 0.625, 0.5, 0.375)[severity - 1]
    for dim in (2, 3):  # the mean of the rows, then of the columns, of each block
        side = x.shape[dim]
        count = max(1, round(side * share))
        block = torch.arange(side, device=x.device) * count // side
        shape = list(x.shape)
        shape[dim] = count
        total = x.new_zeros(shape).index_add(dim, block, x)
        sizes = torch.bincount(block, minlength=count).to(x)
        x = (total / sizes.view([-1 if d == dim else 1 for d in range(4)])).index_select(dim, block)
    return x


def _rotate(x: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    angle = math.radians((5, 10, 15, 22.5, 30)[severity - 1])
    sign = torch.randint(2, (len(x),), generator=generator).to(x) * 2 - 1
    cosine, sine = torch.full_like(sign, math.cos(angle)), sign * math.sin(angle)
    zero = torch.zeros_like(sign)
    # The grid's coordinates go from -1 to 1 on both sides, however long these are.
    ratio = x.shape[2] / x.shape[3]
    matrix = torch.stack([cosine, -sine * ratio, zero, sine / ratio, cosine, zero], 1)
    matrix = matrix.view(-1, 2, 3)
    grid = F.affine_grid(matrix, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


def _translate(x: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    reach = max(1, round((0.04, 0.07, 0.1, 0.14, 0.18)[severity - 1] * min(x.shape[-2:])))
    padded = F.pad(x, (reach,) * 4)
    corners = (torch.randint(2, (len(x), 2), generator=generator) * 2 * reach).to(x.device)
    rows = corners[:, :1] + torch.arange(x.shape[2], device=x.device)
    columns = corners[:, 1:] + torch.arange(x.shape[3], device=x.device)
    place = torch.arange(len(x), device=x.device)[:, None, None]
    return padded.movedim(1, -1)[place, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)


CORRUPTIONS: dict[str, Callable[[Tensor, int, torch.Generator], Tensor]] = {
    "gaussian noise": _noise,
    "shot noise": _shot_noise,
    "impulse noise": _impulse_noise,
    "blur": _blur,
    "contrast": _contrast,
    "brightness": _brightness,
    "pixelation": _pixelate,
    "rotation": _rotate,
    "translation": _translate,
}


def corrupt(x: Tensor, name: str, severity: int, generator: torch.Generator) -> Tensor:
    """Return corrupted images.

    Args:
        x: (B, C, H, W) in [0, 1].
        name: one of ``CORRUPTIONS``.
        severity: from 1 to 5.
        generator: on the CPU; the same state gives the same images on every device.

    Returns:
        Images of the same shape, in [0, 1].

    Raises:
        InputError: the name or severity is unknown, or ``x`` is no batch of images.
    """
    if name not in CORRUPTIONS:
        raise InputError(
            f"name={name!r} is no corruption{suggest(name, CORRUPTIONS)}; known: "
            f"{', '.join(CORRUPTIONS)}"
        )
    if isinstance(severity, bool) or not isinstance(severity, int) or severity not in SEVERITIES:
        raise InputError(f"severity must be a whole number from 1 to 5, got {severity!r}")
    if x.ndim != 4 or not x.is_floating_point():
        raise InputError(
            f"x must be floating images (B, C, H, W), got {x.dtype} of shape {tuple(x.shape)}"
        )
    return CORRUPTIONS[name](x, severity, generator).clamp(0, 1)
