"""Images of other than eight bits a value: scaled, or refused where their range is not known."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from mixwell import InputError
from mixwell.data.splits import decoded

EIGHT = np.arange(256, dtype=np.uint8).reshape(16, 16)
SIXTEEN = EIGHT.astype(np.uint16) * 257


def as_file(image: Image.Image, form: str) -> io.BytesIO:
    file = io.BytesIO()
    image.save(file, form)
    file.seek(0)
    return file


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
@pytest.mark.parametrize("form", [None, "PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled_to_eight(mode, form):
    image = Image.fromarray(SIXTEEN)
    found = decoded(image if form is None else as_file(image, form), mode)
    for channel in found[: 3 if mode == "RGBA" else None]:
        assert np.array_equal(channel.numpy(), EIGHT)


def test_whole_numbers_of_a_png_are_sixteen_bits_as_some_versions_open_it():
    image = Image.fromarray(SIXTEEN.astype(np.int32))
    image.format = "PNG"
    assert np.array_equal(decoded(image, "L")[0].numpy(), EIGHT)


@pytest.mark.parametrize("form", [None, "TIFF"])
@pytest.mark.parametrize(("dtype", "words"), [("int32", "32 bits"), ("float32", "floating-point")])
def test_numbers_of_an_unknown_range_are_refused(dtype, words, form):
    image = Image.fromarray(SIXTEEN.astype(dtype))
    with pytest.raises(InputError, match=f"holds .*{words}.* whose range is not known: make it"):
        decoded(image if form is None else as_file(image, form))


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_usual_images_are_converted_as_pillow_does(mode):
    image = Image.fromarray(EIGHT).convert(mode)
    wanted = np.asarray(image.convert("RGB"))
    assert torch.equal(decoded(image), torch.from_numpy(wanted.copy()).permute(2, 0, 1))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_files_that_are_cut_or_altered_are_named_or_decoded(form, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3)).astype(np.uint8)
    whole = as_file(Image.fromarray(pixels), form).getvalue()
    draw = np.random.default_rng(1)
    for trial in range(40):
        content = bytearray(whole)
        for place in draw.integers(0, len(content), trial % 5):
            content[place] ^= int(draw.integers(1, 256))
        path = tmp_path / f"{trial}.png"
        path.write_bytes(content[: int(draw.integers(1, len(content) + 1))])
        said = str(path)
        try:
            assert decoded(path).dtype == torch.uint8
        except InputError as error:
            said = str(error)
        assert str(path) in said


def test_an_image_of_too_many_pixels_is_named(monkeypatch, tmp_path):
    Image.fromarray(EIGHT).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(InputError, match=r"large\.png is no image that can be decoded"):
        decoded(tmp_path / "large.png")
