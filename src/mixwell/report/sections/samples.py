"""Samples as each method mixes them."""

from __future__ import annotations

import base64
import io
from html import escape

import numpy as np

from mixwell.report.sections.base import Block, Part, Section, arrays_of
from mixwell.studies import RunRecord

__all__ = ["SECTION"]

# In units of the picture: a sample's side, from one to the next, room at the left, a text's line.
_TILE, _STEP, _LEFT, _LINE = 64, 72, 46, 13
_ROWS = (("own", "samples_own"), ("partner", "samples_partner"), ("mixed", "samples_mixed"))


def _draw(part: Part) -> Block:
    return Block(
        "Samples as they are mixed",
        "Training images, their partners and what a method makes of the two; below, the classes "
        "and the weight of the own one in the label, λ. Methods that mix features, more than two "
        f"samples or nothing have no such picture. {part.seed}",
        pictures=part.each(lambda run, _: samples(run)),
    )


SECTION = Section("samples", _draw)


def samples(run: RunRecord) -> str | None:
    """Return a run's mixed images beside what they are mixed of, as SVG."""
    arrays = arrays_of(run)
    if "samples_mixed" not in arrays:
        return None
    count = len(arrays["samples_mixed"])
    width = _LEFT + count * _STEP
    height = len(_ROWS) * _STEP + 3 * _LINE
    drawn = []
    for row, (name, key) in enumerate(_ROWS):
        middle = row * _STEP + _TILE / 2 + 3
        drawn.append(f'<text x="0" y="{middle:g}" font-size="10">{name}</text>')
        for column in range(count):
            place = f'x="{_LEFT + column * _STEP}" y="{row * _STEP}"'
            link = _embedded(arrays[key][column])
            drawn.append(f'<image {place} width="{_TILE}" height="{_TILE}" href="{link}"/>')
    style = 'font-size="9" text-anchor="middle"'
    for column in range(count):
        x = _LEFT + column * _STEP + _TILE / 2
        for line, text in enumerate(_lines(run, arrays, column)):
            y = len(_ROWS) * _STEP + 6 + line * _LINE
            drawn.append(f'<text x="{x:g}" y="{y:g}" {style}>{escape(text)}</text>')
    label = escape(f"{run.label}: samples, their partners and their mixes")
    body = "".join(drawn)
    return (
        f'<svg role="img" aria-label="{label}" xmlns="http://www.w3.org/2000/svg" width="100%" '
        f'viewBox="0 0 {width} {height}"><g fill="currentColor">{body}</g></svg>'
    )


def _lines(run: RunRecord, arrays: dict[str, np.ndarray], column: int) -> list[str]:
    a, b = arrays["samples_classes"][column]
    names = [str(run.classes[int(c)]) for c in (a, b)]
    short = [name if len(name) <= 13 else name[:12] + "…" for name in names]
    return [*short, f"λ = {float(arrays['samples_lam'][column]):.2f}"]


def _embedded(image: np.ndarray) -> str:
    """Return an image (H, W, C) of bytes as the text of a link."""
    from PIL import Image

    picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    if min(picture.size) < _TILE:  # pixels of small images are seen as such
        factor = -(-_TILE // min(picture.size))
        size = (picture.width * factor, picture.height * factor)
        picture = picture.resize(size, Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    if len(image) < _TILE // 2:
        picture.save(buffer, "PNG", optimize=True)
        kind = "png"
    else:
        picture.save(buffer, "JPEG", quality=80)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
