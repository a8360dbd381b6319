"""What images are made to before a network sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from mixwell.errors import InputError

__all__ = ["Inputs", "as_record"]


@dataclass(frozen=True)
class Inputs:
    """Size and normalisation of images, as a trained network knows them.

    Attributes:
        size: pixels of each side.
        mean: of each channel, of images in [0, 1]; it is subtracted.
        std: of each channel; it is divided by.
        resize: pixels of the shorter side, before the middle is cut out; not less than ``size``.
        interpolation: how images are resized: "bilinear" or "bicubic".
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int
    interpolation: str = "bilinear"

    def sized(self, size: int | None) -> Inputs:
        """Return the same at another size, the middle's share as it was; None changes nothing."""
        if size is None or size == self.size:
            return self
        return replace(self, size=size, resize=max(size, round(self.resize * size / self.size)))

    def of_channels(self, channels: int) -> Inputs:
        """Return the same for images of so many channels; grey ones have the mean of all.

        Raises:
            InputError: the network's own are neither as many nor three for a grey image.
        """
        if channels == len(self.mean):
            return self
        if channels != 1:
            raise InputError(
                f"the network was trained on images of {len(self.mean)} channels, these have "
                f"{channels}"
            )
        mean, std = (sum(values) / len(values) for values in (self.mean, self.std))
        return replace(self, mean=(mean,), std=(std,))

    @classmethod
    def from_record(cls, record: Any) -> Inputs | None:
        """Return what a result kept of a run's inputs; None where they were no square images."""
        try:
            _, height, width = record["size"]
            mean, std = (tuple(map(float, record[name])) for name in ("mean", "std"))
            resize = int(record["resize"] or height)
            interpolation = record["interpolation"] or "bilinear"
        except (KeyError, TypeError, ValueError):
            return None
        return cls(height, mean, std, resize, interpolation) if height == width else None


def as_record(
    shape: Sequence[int], mean: Sequence[float] | None, std: Sequence[float] | None,
    resize: int | None = None, interpolation: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Return as JSON holds it what samples are made to; see :attr:`mixwell.data.Dataset.input`."""
    return {
        "size": list(shape),
        "mean": None if mean is None else list(mean),
        "std": None if std is None else list(std),
        "resize": resize,
        "interpolation": interpolation,
    }
