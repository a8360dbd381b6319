"""Splits: the samples of one part of a dataset, and their batches as a pure function of a seed."""

from __future__ import annotations

import hashlib
import struct
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from numbers import Integral
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from mixwell.checks import plain
from mixwell.errors import InputError

__all__ = [
    "Batch",
    "FolderSplit",
    "Split",
    "TensorSplit",
    "centred",
    "check_at_least",
    "decoded",
    "drawing",
    "scaled",
    "seeded",
    "stretched",
]

Batch = tuple[Tensor, Tensor, Tensor]
"""A batch: normalised inputs (B, ...), targets (B,) or (B, K), positions in the split (B,)."""

READY = 1 << 28
"""Bytes up to which a split that is not augmented is kept as the model takes it."""

_PROCESSOR = torch.device("cpu")

AnySplit = TypeVar("AnySplit", bound="Split")


def seeded(*key: Any) -> torch.Generator:
    """Return a CPU generator seeded by ``key``, a few numbers and strings, and by nothing else."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


@contextmanager
def drawing(seed: int, device: torch.device = _PROCESSOR) -> Iterator[None]:
    """Let what torch draws on the processor and on ``device`` depend on ``seed`` alone.

    It leaves no trace. ``torch.manual_seed`` would: it seeds every GPU as well, from which a run's
    mixing is drawn. And where there is none it writes down the call's stack, too long for a sample.
    """
    gpus = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        torch.default_generator.manual_seed(seed)
        for gpu in gpus:
            with torch.cuda.device(gpu):
                torch.cuda.manual_seed(seed)
        yield


# ---------------------------------------------------------------------------------------- splits


class Split(ABC):
    """The samples of one part of a dataset.

    Attributes:
        y: (N,), class indices int64 or real targets float32; (N, K) of K targets.
    """

    y: Tensor

    def __len__(self) -> int:
        return len(self.y)

    @abstractmethod
    def subset(self: AnySplit, indices: Tensor) -> AnySplit:
        """Return the split of the samples at ``indices`` (M,), in this order."""

    def whole(self, device: torch.device) -> tuple[Tensor, Tensor] | None:
        """Return all of it as batches hold it, (N, ...) and its targets; None where it can't be."""
        return None

    @abstractmethod
    def _read(
        self, parts: Sequence[Tensor], key: tuple[int, ...] | None, device: torch.device
    ) -> Iterator[Batch]:
        """Yield the batches of the samples at ``parts``; ``key`` seeds augmentation, if any."""

    def num_batches(self, batch_size: int, drop_last: bool = False, world_size: int = 1) -> int:
        """Return how many batches each rank sees in an epoch, at most where it is not shuffled.

        Raises:
            InputError: ``drop_last`` would drop everything.
        """
        check_at_least("batch_size", batch_size, 1)
        check_at_least("world_size", world_size, 1)
        share = -(-len(self) // world_size)
        if drop_last and batch_size > share:
            raise InputError(
                f"batch_size={batch_size} leaves no full batch of {share} samples a device; "
                f"use at most {share}"
            )
        return share // batch_size if drop_last else -(-share // batch_size)

    def batches(
        self,
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        epoch: int = 0,
        drop_last: bool = False,
        augment: bool = False,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: int = 1,
    ) -> Iterator[Batch]:
        """Return the batches of one epoch.

        Order and augmentation depend on ``seed``, ``epoch`` and ``rank`` alone, never on the
        global random state, so that a resumed run sees what an uninterrupted one sees.

        Args:
            batch_size: samples in a batch on each rank; the last batch may be smaller.
            shuffle: draw a new order each epoch. Every rank then gets as many batches of the same
                sizes; up to ``world_size - 1`` samples are seen twice where they don't divide.
                Unshuffled, each sample is seen once, by the rank that its position falls to, and
                the last ranks may get a batch less.
            seed: of order and augmentation.
            epoch: from 0.
            drop_last: leave out a last, smaller batch.
            augment: apply the split's random transforms, if it has any.
            device: where the batches are put.
            rank: this process's number, below ``world_size``.
            world_size: the number of processes that share the epoch.

        Returns:
            An iterator of (x, y, index): inputs (B, ...) float32 normalised, targets (B,), and
            positions in this split (B,) int64.
        """
        self.num_batches(batch_size, drop_last, world_size)  # or an error
        if not 0 <= rank < world_size:
            raise InputError(f"rank={rank} must be from 0 to world_size - 1 = {world_size - 1}")
        if shuffle:
            order = torch.randperm(len(self), generator=seeded("order", seed, epoch))
            padding = -len(order) % world_size
            # Repeated, not only appended: there may be fewer samples than ranks.
            order = order.repeat(1 + -(-padding // max(len(order), 1)))[: len(order) + padding]
        else:
            order = torch.arange(len(self))
        least = batch_size if drop_last else 1
        parts = [p for p in order[rank::world_size].split(batch_size) if len(p) >= least]
        return self._read(parts, (seed, epoch, rank) if augment else None, torch.device(device))


@dataclass(eq=False)
class TensorSplit(Split):
    """A split in memory as one tensor: moved to a device once, and transformed there in batches.

    Args:
        x: (N, ...), floating, or uint8 images (N, C, H, W), which are scaled to [0, 1].
        y: (N,), class indices or real targets; (N, K) of K targets.
        mean: of each channel, subtracted; none without ``std``.
        std: of each channel.
        crop: augmentation: crops at random places of the image padded by so many black pixels.
        flip: augmentation: mirror half of the images.
        size: images are enlarged (or shrunk) to so many pixels of each side, as batches are made.
        interpolation: how; "bilinear" or "bicubic".

    Raises:
        InputError: ``x`` and ``y`` have different lengths, or ``x`` is no images to augment.
    """

    x: Tensor
    y: Tensor
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    crop: int = 0
    flip: bool = False
    size: int | None = None
    interpolation: str = "bilinear"
    _placed: dict[torch.device, tuple[Tensor, Tensor]] = field(
        default_factory=dict, init=False, repr=False
    )
    _ready: dict[torch.device, Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.y.ndim not in (1, 2) or len(self.y) != len(self.x):
            raise InputError(
                f"y must have one entry per sample, shape ({len(self.x)},) or ({len(self.x)}, K), "
                f"got shape {tuple(self.y.shape)}"
            )
        if (self.crop or self.flip) and self.x.ndim != 4:
            raise InputError(
                f"crop and flip need images (N, C, H, W), got x of shape {tuple(self.x.shape)}"
            )
        if (self.mean is None) != (self.std is None):
            raise InputError(f"give both mean and std or neither, got {self.mean} and {self.std}")

    def subset(self, indices: Tensor) -> TensorSplit:
        """Return the split of the samples at ``indices`` (M,), in this order."""
        return replace(self, x=self.x[indices], y=self.y[indices])

    def whole(self, device: torch.device) -> tuple[Tensor, Tensor] | None:
        if self.crop or self.flip or not self._fits:
            return None
        x, y = self._on(device)
        return self._kept(x, device), y

    @property
    def in_unit(self) -> bool:
        """Whether raw values are in [0, 1]: all floating ones are, or they are bytes."""
        if self.x.dtype == torch.uint8 or self.x.numel() == 0:
            return True
        low, high = self.x.aminmax()
        return self.x.is_floating_point() and float(low) >= 0 and float(high) <= 1

    @property
    def _fits(self) -> bool:
        """Whether all of it is small enough to be kept as batches hold it."""
        larger = 1.0
        if self.size is not None:
            larger = self.size**2 / (self.x.shape[2] * self.x.shape[3])
        return 4 * self.x.numel() * larger <= READY

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return x and y on a device, where they are kept."""
        if device not in self._placed:
            self._placed[device] = (self.x.to(device), self.y.to(device))
        return self._placed[device]

    def _kept(self, x: Tensor, device: torch.device) -> Tensor:
        """Return x normalised, kept on the device."""
        if device not in self._ready:
            self._ready[device] = self._normalise(x)
        return self._ready[device]

    def _read(
        self, parts: Sequence[Tensor], key: tuple[int, ...] | None, device: torch.device
    ) -> Iterator[Batch]:
        x, y = self._on(device)
        draws = None
        if key is not None and (self.crop or self.flip):
            # Drawn on the CPU: the same on every device, and copied once an epoch.
            draws = self._draw(sum(map(len, parts)), seeded("augment", *key)).to(device)
        ready = draws is None and self._fits
        done = 0
        for part in parts:
            index = part.to(device)
            if ready:
                kept = self._kept(x, device)
                yield kept.index_select(0, index), y.index_select(0, index), index
                continue
            batch = x.index_select(0, index)
            if draws is not None:
                batch = self._augment(batch, draws[:, done : done + len(part)])
                done += len(part)
            yield self._normalise(batch), y.index_select(0, index), index

    def sized(self, x: Tensor) -> Tensor:
        """Return images as large as the split's batches: as they are, or resized, in [0, 1]."""
        if self.size is None or x.shape[2:] == (self.size, self.size):
            return x
        return stretched(x, (self.size, self.size), self.interpolation)

    def _normalise(self, x: Tensor) -> Tensor:
        x = self.sized(x)
        if self.mean is None or self.std is None:
            return scaled(x)
        return _normalise(x, self.mean, self.std)

    def _draw(self, size: int, generator: torch.Generator) -> Tensor:
        """Return top, left and whether to flip, (3, size)."""
        corner = torch.randint(2 * self.crop + 1, (2, size), generator=generator)
        flip = torch.randint(2, (1, size), generator=generator) * int(self.flip)
        return torch.cat([corner, flip])

    def _augment(self, x: Tensor, draws: Tensor) -> Tensor:
        """Crop and flip each image, all in one gather."""
        top, left, flip = draws
        (size, channels, height, width), device = x.shape, x.device
        rows = top[:, None] + torch.arange(height, device=device)
        columns = torch.arange(width, device=device)
        columns = left[:, None] + torch.where(flip[:, None] == 1, columns.flip(0), columns)
        return F.pad(x, (self.crop,) * 4)[
            torch.arange(size, device=device)[:, None, None, None],
            torch.arange(channels, device=device)[:, None, None],
            rows[:, None, :, None],
            columns[:, None, None, :],
        ]


def scaled(x: Tensor) -> Tensor:
    """Return raw values in float32: bytes in [0, 1], others as they are."""
    return x.float() / 255 if x.dtype == torch.uint8 else x.float()


def stretched(x: Tensor, size: tuple[int, int], interpolation: str = "bilinear") -> Tensor:
    """Return images (N, C, H, W) in [0, 1], or bytes, resized to a height and width: float32."""
    x = F.interpolate(scaled(x), list(size), mode=interpolation, antialias=True)
    return x.clamp_(0, 1) if interpolation == "bicubic" else x  # it overshoots


def _normalise(x: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return (x - mean) / std in float32, of bytes scaled to [0, 1].

    All but images is cast last: of large numbers, a time in seconds, say, float32 would keep
    nothing but what is subtracted.
    """
    exact = x.dtype != torch.uint8 and (x.ndim < 4 or x.dtype == torch.float64)
    exact = exact and x.device.type != "mps"  # which has no float64
    dtype = torch.float64 if exact else torch.float32
    found = scaled(x) if x.dtype == torch.uint8 else x.to(dtype)
    centre, spread = _constants(tuple(mean), tuple(std), x.ndim, x.device, dtype)
    return (found - centre).div_(spread).float()


@lru_cache(maxsize=32)
def _constants(
    mean: tuple[float, ...], std: tuple[float, ...], ndim: int, device: torch.device,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return mean and std as tensors of a batch's shape; a copy to a GPU would be waited for."""
    shape = (-1, *[1] * (ndim - 2))
    return tuple(torch.tensor(v, device=device, dtype=dtype).view(shape) for v in (mean, std))  # type: ignore[return-value]


# ---------------------------------------------------------------------------- folders of images

_BROKEN = (OSError, SyntaxError, ValueError, EOFError, LookupError, struct.error, zlib.error)
"""What Pillow raises for files that are broken."""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(eq=False)
class FolderSplit(Split):
    """A split of image files, decoded in worker processes when they are needed.

    Images are resized and cropped in the centre; augmentation crops a random part (a twelfth of
    the area at least, as for ImageNet) and mirrors half of them. Normalised as ImageNet is, unless
    told otherwise.

    Args:
        paths: N image files, or what Pillow opens as one.
        y: (N,) class indices.
        image_size: pixels of each side.
        workers: processes; 0 decodes in this one.
        mean: of each channel of images in [0, 1], subtracted.
        std: of each channel.
        resize: pixels of the shorter side before the centre is cut out; ``image_size`` by default.
        interpolation: "bilinear" or "bicubic".
    """

    paths: Sequence[Path | Any]
    y: Tensor
    image_size: int = 224
    workers: int = 2
    mean: Sequence[float] = IMAGENET_MEAN
    std: Sequence[float] = IMAGENET_STD
    resize: int | None = None
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        check_at_least("image_size", self.image_size, 1)
        check_at_least("workers", self.workers, 0)
        if self.resize is not None and self.resize < self.image_size:
            raise InputError(f"resize={self.resize} must be image_size={self.image_size} at least")

    def subset(self, indices: Tensor) -> FolderSplit:
        """Return the split of the samples at ``indices`` (M,), in this order."""
        return replace(self, paths=[self.paths[i] for i in indices.tolist()], y=self.y[indices])

    def unreadable(self) -> list[str]:
        """Return, of each image that can't be decoded, what is wrong with it; all are decoded."""
        loader: DataLoader[Any] = DataLoader(
            _Decoded(self.paths), batch_size=64, collate_fn=list,
            num_workers=min(self.workers, len(self) // 64), generator=torch.Generator(),
        )  # fmt: skip
        return [text for texts in loader for text in texts if text]

    def _read(
        self, parts: Sequence[Tensor], key: tuple[int, ...] | None, device: torch.device
    ) -> Iterator[Batch]:
        loader: DataLoader[Any] = DataLoader(
            _Images(self.paths, self.image_size, key, self.resize, self.interpolation),
            batch_sampler=[part.tolist() for part in parts],
            collate_fn=_stack,
            num_workers=min(self.workers, len(parts)),
            pin_memory=device.type == "cuda",
            # Without one of its own, a loader draws from the global random state.
            generator=torch.Generator(),
        )
        for part, images in zip(parts, loader, strict=True):
            if isinstance(images, InputError):
                raise images
            x = _normalise(images.to(device, non_blocking=True), self.mean, self.std)
            yield x, self.y[part].to(device), part.to(device)


@dataclass
class _Images(Dataset[Any]):
    """Decoded images (3, size, size) uint8 by position, or the error that says which is broken."""

    paths: Sequence[Path]
    size: int
    key: tuple[int, ...] | None
    resize: int | None = None
    interpolation: str = "bilinear"

    def __getitem__(self, position: int) -> Tensor | InputError:
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms.v2 import RandomResizedCrop
        from torchvision.transforms.v2 import functional as tv

        try:
            image = decoded(self.paths[position])
        except InputError as error:
            return error
        if self.key is None:
            return centred(image, (self.size, self.size), self.resize, self.interpolation)
        how: Any = {"antialias": True, "interpolation": InterpolationMode(self.interpolation)}
        # Seeded by the sample, so that it doesn't matter which worker decodes it.
        with drawing(seeded("augment", *self.key, position).initial_seed()):
            box = RandomResizedCrop(self.size, scale=(1 / 12, 1.0)).make_params([image])
            flip = bool(torch.rand(()) < 0.5)
        cropped = tv.resized_crop(image, **box, size=[self.size, self.size], **how)
        return tv.horizontal_flip(cropped) if flip else cropped

    def __len__(self) -> int:
        return len(self.paths)


@dataclass
class _Decoded(Dataset[Any]):
    """By position, what is wrong with an image; an empty text where nothing is."""

    paths: Sequence[Path]

    def __getitem__(self, position: int) -> str:
        try:
            decoded(self.paths[position])
        except InputError as error:
            return str(error)
        return ""

    def __len__(self) -> int:
        return len(self.paths)


def decoded(source: Path | Any, mode: str = "RGB") -> Tensor:
    """Return an image file, or an image of Pillow's, as bytes (C, H, W).

    Of 16 bits a value the upper eight count.

    Raises:
        InputError: it is no image that can be decoded, or of numbers whose range is not known; it
            names the file.
    """
    from PIL import Image
    from torchvision.transforms.v2 import functional as tv

    try:
        if isinstance(source, Image.Image):
            return tv.pil_to_tensor(_of_bytes(source, source).convert(mode))
        with Image.open(source) as file:
            return tv.pil_to_tensor(_of_bytes(file, source).convert(mode))
    except (*_BROKEN, Image.DecompressionBombError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{source} is no image that can be decoded: {error}") from error


def _of_bytes(image: Any, source: Any) -> Any:
    """Return an image of Pillow's with eight bits a value, which its own conversion would clip."""
    import numpy as np
    from PIL import Image

    # Some versions of Pillow open grey files of 16 bits as whole numbers of 32.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        values = np.asarray(image).astype(np.int64)
        return Image.fromarray((values.clip(0, 65535) // 256).astype(np.uint8))
    if image.mode in ("I", "F"):
        kind = "whole numbers of 32 bits" if image.mode == "I" else "floating-point numbers"
        raise InputError(
            f"{source} holds {kind} (Pillow's mode {image.mode}), whose range is not known: make "
            "it an image of 8 or 16 bits a value"
        )
    return image


def centred(
    image: Tensor, size: tuple[int, int], resize: int | None = None, interpolation: str = "bilinear"
) -> Tensor:
    """Return images (..., C, H, W) resized to cover a height and width, and cropped in the centre.

    Those of this size are returned as they are, unless ``resize`` asks for a larger middle.

    Args:
        image: of any size.
        size: height and width of what is cut out.
        resize: pixels of the shorter side before that; just enough by default.
        interpolation: "bilinear" or "bicubic".
    """
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional as tv

    sides = image.shape[-2:]
    if tuple(sides) == size and resize in (None, min(size)):
        return image
    scale = max(wanted / side for wanted, side in zip(size, sides, strict=True))
    if resize is not None:
        scale = max(scale, resize / min(sides))
    whole = [max(wanted, round(scale * s)) for wanted, s in zip(size, sides, strict=True)]
    how: Any = {"antialias": True, "interpolation": InterpolationMode(interpolation)}
    return tv.center_crop(tv.resize(image, whole, **how), list(size))


def _stack(images: Sequence[Tensor | InputError]) -> Tensor | InputError:
    """Collate; an error travels as a value, which keeps a worker's traceback out of its text."""
    broken = next((image for image in images if isinstance(image, InputError)), None)
    return broken or torch.stack([image for image in images if isinstance(image, Tensor)])


def check_at_least(name: str, value: int, least: int) -> None:
    """Raise an InputError that names the argument unless it is a whole number from ``least``."""
    number = plain(value)
    if isinstance(number, bool) or not isinstance(number, Integral) or number < least:
        raise InputError(f"{name}={value!r} must be a whole number from {least}")
