"""Outliers: another data set's images, told by the highest probability."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from mixwell import data
from mixwell.data import Dataset, TensorSplit
from mixwell.data.splits import seeded
from mixwell.errors import InputError
from mixwell.training.config import RunConfig
from mixwell.training.predict import predict
from mixwell.training.probes.subject import Findings, Subject, moments

__all__ = ["load_other", "load_outliers", "outliers"]

_OUTLIERS = 5000


def load_other(dataset: Dataset, config: RunConfig) -> Dataset:
    """Return the data set whose images are the outliers.

    Raises:
        InputError: either has no images, or they are the same.
    """
    assert config.ood is not None
    if len(dataset.input_shape) != 3:
        raise InputError(f"ood={config.ood!r} needs images, but data={dataset.name!r} has none")
    if config.ood == config.data:
        raise InputError(f"ood={config.ood!r} must be another data set than data")
    options: dict[str, Any] = {"data_dir": config.data_dir, "download": config.download}
    if config.ood.startswith(("folder:", "hf:")):
        options.update(image_size=config.image_size, workers=config.loader_workers)
    other = data.load(config.ood, **options)
    if len(other.input_shape) != 3:
        raise InputError(f"ood={config.ood!r} has no images")
    return other


def load_outliers(dataset: Dataset, config: RunConfig, other: Dataset | None = None) -> TensorSplit:
    """Return another data set's test images as this one's: size, channels and normalisation.

    Args:
        dataset: what the network is trained on.
        config: names the other.
        other: that it names, where it has been loaded.

    Raises:
        InputError: as :func:`load_other`.
    """
    if other is None:
        other = load_other(dataset, config)
    chosen = torch.randperm(len(other.test), generator=seeded("ood"))[:_OUTLIERS].sort().values
    mean, std = moments(other.test)
    channels, *size = dataset.input_shape
    parts = []
    for x, _, _ in other.test.subset(chosen).batches(512):
        images = (x * std + mean).clamp(0, 1)
        if images.shape[1] != channels:
            images = images.mean(1, keepdim=True).expand(-1, channels, -1, -1)
        if list(images.shape[2:]) != size:
            images = F.interpolate(images, size, mode="bilinear", antialias=True)
        parts.append((images * 255).round().to(torch.uint8))
    images = torch.cat(parts)
    mean, std = moments(dataset.test)
    return TensorSplit(
        images, torch.zeros(len(images), dtype=torch.int64), mean.flatten().tolist(),
        std.flatten().tolist(),
    )  # fmt: skip


def outliers(subject: Subject, found: Findings) -> dict[str, Any]:
    """Return the highest probabilities of another data set's images, where one is named."""
    if subject.config.ood is None:
        return {}
    split = load_outliers(subject.dataset, subject.config)
    unknown, _, _ = predict(subject.model, split, subject.device)
    strange = unknown.double().softmax(1).amax(1)
    found.arrays["ood_confidence"] = strange.float().numpy()
    return {"outliers": strange}
