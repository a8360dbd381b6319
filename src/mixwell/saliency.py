"""Where an image is salient: by itself, or as the model looks at it."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from mixwell.errors import InputError
from mixwell.mix import tensors

__all__ = [
    "as_images",
    "check_blur",
    "is_image",
    "normalised",
    "saliency",
    "smooth",
    "smoothed",
    "spectral_residual",
]


class Seen(Protocol):
    """The batch as saliency sees it: its inputs, looks at its model, and what is known already."""

    x: Any

    def look(self, kind: str) -> Tensor:
        """Return where the model looks."""
        ...

    def once(self, key: Hashable, compute: Callable[[], Tensor]) -> Tensor:
        """Return what ``compute()`` gives, computed at most once a step."""
        ...


def normalised(saliency: Tensor) -> Tensor:
    """Return ``saliency`` (B, h, w), ≥ 0, divided by its sum; uniform where nothing is salient."""
    total = saliency.sum((-2, -1), keepdim=True)
    uniform = 1 / (saliency.shape[-2] * saliency.shape[-1])
    return torch.where(total > 0, saliency / torch.where(total > 0, total, 1.0), uniform)


def is_image(leaf: Any) -> bool:
    """Whether ``leaf`` is a tensor (B, ..., H, W) of brightness: floating, or bytes."""
    if not isinstance(leaf, Tensor) or leaf.ndim < 3:
        return False
    return leaf.is_floating_point() or leaf.dtype == torch.uint8


def as_images(owner: str, x: Any) -> Tensor:
    """Return the images in ``x`` as one tensor (B, c, H, W), float32 at least, without gradient.

    Args:
        owner: who asks, for the message.
        x: a tensor (B, ..., H, W) or a pytree; the channels of several images follow each other.

    Raises:
        InputError: there is no image, or several are not of one size.
    """
    images = [leaf.detach() for leaf in tensors(x) if is_image(leaf)]
    signals = all(image.ndim < 4 for image in images)  # beside images (B, H, W) is one of them
    if signals or len({image.shape[-2:] for image in images}) != 1:
        raise InputError(
            f"{owner} looks at pixels: x must hold images (B, c, H, W) of one size, floating or "
            f"uint8, got {' and '.join(str(tuple(leaf.shape)) for leaf in tensors(x))}"
            f"{'; three dimensions are a signal (B, C, L)' if images and signals else ''}"
        )
    flat = [image.reshape(len(image), -1, *image.shape[-2:]) for image in images]
    flat = [image if image.dtype == torch.float64 else image.float() for image in flat]
    return flat[0] if len(flat) == 1 else torch.cat(flat, 1)


def saliency(owner: str, batch: Seen, kind: str) -> Tensor:
    """Return where the unmixed images of a batch are salient: (B, H, W), each summing to 1.

    Args:
        owner: who asks, for the message.
        batch: the batch, which remembers it for the step.
        kind: "spectral", :func:`spectral_residual` of the images alone, its modulus at full size,
            unsmoothed, as GuidedMixup's code has it; or "gradient", a look at the model (see
            :meth:`Batch.look <mixwell.batch.Batch.look>`).
    """
    if kind == "gradient":
        return batch.look(kind)
    return batch.once(
        "spectral",
        lambda: spectral_residual(as_images(owner, batch.x), size=None, sigma=0, power=1),
    )


def smoothed(owner: str, batch: Seen, kind: str, blur: int, sigma: float) -> Tensor:
    """Return :func:`saliency` under a Gaussian: (B, H, W), each summing to 1.

    As in GuidedMixup's code the spectral one is smoothed twice: it is as it makes it, and again.

    Args:
        owner: who asks, for the message.
        batch: the batch, which remembers it for the step.
        kind: as of :func:`saliency`.
        blur: the Gaussian's side in pixels, odd; 1 for none.
        sigma: its standard deviation in pixels; > 0.
    """

    def compute() -> Tensor:
        seen = saliency(owner, batch, kind)
        with torch.no_grad(), torch.autocast(seen.device.type, enabled=False):
            for _ in range(2 if kind == "spectral" else 1):
                seen = smooth(seen[:, None], sigma, blur // 2)[:, 0]
            return normalised(seen)

    return batch.once(("smoothed", kind, blur, sigma), compute)


def check_blur(blur: Any) -> int:
    """Return ``blur`` if it is a positive odd number; raise an InputError if not."""
    if not isinstance(blur, int) or isinstance(blur, bool) or blur < 1 or blur % 2 == 0:
        raise InputError(
            f"blur must be an odd number of pixels from 1 on (1 for none), got {blur!r}"
        )
    return blur


# -------------------------------------------------------------------------- of an image by itself


def spectral_residual(
    x: Tensor, size: int | None = 64, sigma: float = 2.5, power: float = 2.0
) -> Tensor:
    """Return the spectral residual saliency: what of an image's spectrum is out of the ordinary.

    .. code-block:: text

        L = log |F(x)|,   R = L - h * L,   S = g * |F⁻¹[exp(R + i arg F(x))]|ᵖ,   p = 2

    with h the mean of 3 x 3 frequencies and g a Gaussian. It needs no model and no gradient.

    Args:
        x: (B, ..., H, W) of any dtype; what lies between is averaged (the channels).
        size: the longer side that a larger image is reduced to before its spectrum is taken, in
            pixels; the paper's 64 looks at objects of the usual size. A smaller one is not
            enlarged, as the frequencies that it then lacks would seem out of the ordinary. None
            takes images as they are.
        sigma: g's standard deviation in pixels of 64 to that side, as in the authors' code; 0 for
            no g.
        power: p, the modulus's: 1 in GuidedMixup's code.

    Returns:
        (B, H, W) float32, ≥ 0, each summing to 1.

    Raises:
        InputError: ``x`` has less than three dimensions.

    Source: Hou and Zhang, "Saliency Detection: A Spectral Residual Approach", CVPR 2007. Its
    spectrum is periodic, and so is h here.
    """
    if x.ndim < 3:
        raise InputError(
            f"spectral_residual: x must be images (B, ..., H, W), got shape {tuple(x.shape)}"
        )
    height, width = x.shape[-2:]
    size = max(height, width) if size is None else min(size, max(height, width))
    scale = size / max(height, width)
    small = max(1, round(height * scale)), max(1, round(width * scale))
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        grey = x.float().reshape(len(x), -1, height, width).mean(1, keepdim=True)
        grey = _resized(grey, small)
        spectrum = torch.fft.fft2(grey)
        amplitude = spectrum.abs()
        # What is less than float32 can tell from the largest is noise: it is cut off.
        floor = amplitude.amax((-2, -1), keepdim=True) * 1e-6
        log_amplitude = torch.maximum(amplitude, torch.where(floor > 0, floor, 1.0)).log()
        local = F.avg_pool2d(F.pad(log_amplitude, (1, 1, 1, 1), mode="circular"), 3, stride=1)
        # exp(R + i arg F) without the angle: e^R F / |F|.
        phase = spectrum / torch.where(amplitude > 0, amplitude, 1.0)
        residual = torch.fft.ifft2((log_amplitude - local).exp() * phase).abs().pow(power)
        if sigma > 0:
            sigma = sigma * size / 64
            residual = smooth(residual, sigma, math.ceil(3 * sigma))
        return normalised(_resized(residual, (height, width))[:, 0])


def _resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps, size, mode="bilinear", align_corners=False, antialias=True)


def smooth(maps: Tensor, sigma: float, reach: int) -> Tensor:
    """Return ``maps`` (B, 1, H, W) under a Gaussian.

    Args:
        maps: the border's pixels go on outside of it.
        sigma: standard deviation in pixels; > 0.
        reach: where the Gaussian is cut off, in pixels from its centre.
    """
    place = torch.arange(-reach, reach + 1, device=maps.device, dtype=maps.dtype)
    gauss = torch.exp(-place.square() / (2 * sigma**2))
    gauss = gauss / gauss.sum()
    maps = F.pad(maps, (reach, reach, reach, reach), mode="replicate")
    return F.conv2d(F.conv2d(maps, gauss.view(1, 1, -1, 1)), gauss.view(1, 1, 1, -1))
