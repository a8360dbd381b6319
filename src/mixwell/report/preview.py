"""A picture of mixed samples with their labels, and of how λ is spread."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import rc_context
from torch import Tensor

from mixwell.errors import InputError
from mixwell.mix import Mix, MixedTarget, MultiMix, MultiTarget
from mixwell.report import drawing
from mixwell.training import RunConfig
from mixwell.training.build import load_data, make_method, make_model, resolved
from mixwell.training.files import check_output, make_folder, write_atomically

__all__ = ["draw_preview"]

_MOST = 240  # samples of a picture


def draw_preview(
    config: RunConfig, path: str | Path, *, count: int = 12, weights: str | Path | None = None
) -> None:
    """Draw mixed images as a run would make them, and the histogram of their λ, as a PNG.

    Args:
        config: names the data, the method and its settings.
        path: the PNG file.
        count: how many samples to draw.
        weights: a run's model.pt, for methods that look at features; untrained without.

    Raises:
        InputError: the data holds no images, or not so many, or the method doesn't mix at the
            input.
    """
    target_path = Path(path)
    dataset = load_data(config)
    config = resolved(config, dataset)
    if not dataset.classes or len(dataset.input_shape) != 3:
        raise InputError(f"data={config.data!r} holds no images to show")
    most = min(_MOST, len(dataset.train))
    if count > most:
        raise InputError(
            f"count must be 1 to {most}, got {count}: "
            + (f"a picture has room for {_MOST}" if most == _MOST else
               f"data={config.data!r} has {most} training samples")
        )  # fmt: skip
    files = [
        file
        for split in (dataset.train, dataset.val, dataset.test)
        for file in getattr(split, "paths", ())
        if isinstance(file, (str, Path))
    ]
    check_output("out", target_path, files if weights is None else [*files, weights])
    make_folder("out", target_path.absolute().parent)
    torch.manual_seed(config.seed)
    model = make_model(config, dataset).eval()
    if weights is not None:
        try:
            model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        except (OSError, RuntimeError, ValueError) as error:
            raise InputError(
                f"weights={str(weights)!r} don't fit the model {config.model!r}: {error}"
            ) from error
    method = make_method(config, dataset)
    batch_size = max(config.batch_size or 64, count)
    lam: list[Tensor] = []
    shown: tuple[Tensor, Tensor, MixedTarget | MultiTarget, Mix | MultiMix] | None = None
    # Enough batches for the histogram to show its shape; files are not read a hundred times for it.
    for epoch in range(min(10, max(1, math.ceil(4000 / len(dataset.train))))):
        for x, y, index in dataset.train.batches(
            batch_size, shuffle=True, seed=config.seed, epoch=epoch
        ):
            mixed, target, mix = method.preview(x, y, model=model, index=index)
            lam.append(mix.lam)
            shown = shown or (x, mixed, target, mix)
            if sum(map(len, lam)) >= 4000:
                break
    assert shown is not None
    with rc_context({"text.parse_math": False}), drawing.unwarned():
        _draw(*shown, torch.cat(lam), dataset.classes, config.label, count, target_path)


def _image(x: Tensor) -> np.ndarray[Any, Any]:
    """Return a sample as an image with all its values between black and white."""
    low, high = float(x.min()), float(x.max())
    return ((x - low) / max(high - low, 1e-6)).permute(1, 2, 0).squeeze(-1).numpy()


def _sources(
    target: MixedTarget | MultiTarget, mix: Mix | MultiMix
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the samples that each is mixed of, the labels' weights and the classes: (B, k)."""
    if isinstance(mix, MultiMix):
        assert isinstance(target, MultiTarget)
        return mix.partners, target.weights, target.classes
    assert isinstance(target, MixedTarget)
    own = torch.arange(len(mix))
    return (
        torch.stack([own, mix.partner], 1),
        torch.stack([target.lam, 1 - target.lam], 1),
        torch.stack([target.a, target.b], 1),
    )


def _draw(
    x: Tensor,
    mixed: Tensor,
    target: MixedTarget | MultiTarget,
    mix: Mix | MultiMix,
    lam: Tensor,
    classes: tuple[str, ...],
    label: str,
    count: int,
    path: Path,
) -> None:
    count = min(count, len(x))
    partners, weights, labels = _sources(target, mix)
    sources = partners.shape[1]
    columns = min(count, max(1, 12 // (sources + 1)))
    rows = math.ceil(count / columns)
    width = 1.1 * (sources + 1) * columns + 0.1
    figure = drawing.sheet(width, 1.75 * rows + 3.0)
    parts: Any = figure.subfigures(2, 1, height_ratios=[1.75 * rows, 2.6])
    grid, bottom = parts
    whose = "partner" if sources == 2 else "partners"
    grid.suptitle(f"{label}: own sample, {whose}, and their mix", fontsize=12, fontweight="bold")
    # Own sample, partners, mix, and a gap to the next ones.
    group = sources + 2
    widths = [*[1] * (sources + 1), 0.35] * columns
    places = grid.subplots(rows, group * columns, squeeze=False, width_ratios=widths)
    for axes in places.flat:
        axes.axis("off")
    for sample in range(count):
        row, column = divmod(sample, columns)
        axes_of = places[row, group * column : group * (column + 1) - 1]
        images = [x[int(source)] for source in partners[sample]] + [mixed[sample]]
        titles = [classes[int(label)] for label in labels[sample]]
        titles.append(" / ".join(f"{float(weight):.2f}" for weight in weights[sample]))
        for axes, image, title in zip(axes_of, images, titles, strict=True):
            axes.imshow(_image(image), cmap="gray" if image.shape[0] == 1 else None)
            blend = axes is axes_of[-1]
            axes.set_title(title, fontsize=8, fontweight="bold" if blend else "normal")
    axes = bottom.subplots()
    axes.hist(lam.numpy(), bins=50, range=(0, 1), color=drawing.PALETTE[0])
    axes.set_xlim(0, 1)
    axes.set_xlabel(f"λ, weight of the own sample (mean {float(lam.mean()):.3f})")
    axes.set_ylabel(f"samples of {len(lam):,}")
    axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, facecolor="white")
    write_atomically(path, buffer.getvalue())
