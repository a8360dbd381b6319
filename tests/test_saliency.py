import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from mixwell import InputError
from mixwell.batch import Batch
from mixwell.saliency import as_images, normalised, saliency, smoothed, spectral_residual

# ------------------------------------------------------------------------------ spectral residual


def spectral_residual_by_scipy(image, power=2, smooth=True):
    """One image in the paper's steps, which it takes at 64 x 64 pixels."""
    spectrum = np.fft.fft2(image.double().mean(0).numpy())
    log_amplitude, phase = np.log(np.abs(spectrum)), np.angle(spectrum)
    residual = log_amplitude - ndimage.uniform_filter(log_amplitude, 3, mode="wrap")
    found = np.abs(np.fft.ifft2(np.exp(residual + 1j * phase))) ** power
    if not smooth:
        return torch.from_numpy(found)
    sigma = 2.5 * len(found) / 64
    found = ndimage.gaussian_filter(found, sigma, mode="nearest", radius=math.ceil(3 * sigma))
    return torch.from_numpy(found / found.sum())


@pytest.mark.parametrize("size", [64, 20])
def test_spectral_residual_is_the_papers_formula(size):
    x = torch.rand(3, 3, size, size)
    expected = torch.stack([spectral_residual_by_scipy(image) for image in x])
    torch.testing.assert_close(spectral_residual(x).double(), expected, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("shape", [(40, 60), (64, 64), (150, 100), (28, 28)])
def test_spectral_residual_finds_what_is_odd_in_an_image(shape):
    height, width = shape
    x = 0.05 * torch.rand(2, 1, height, width)
    down, across = height // 4, width * 2 // 3
    x[0, :, down : down + height // 8, across : across + width // 8] += 1
    x[1, :, -height // 8 :, : width // 8] += 1
    found = spectral_residual(x)
    assert found.shape == (2, height, width)
    for sample, (row, column) in enumerate([(down, across), (height * 7 // 8, 0)]):
        peak = divmod(int(found[sample].argmax()), width)
        assert abs(peak[0] - row - height // 16) <= height // 8
        assert abs(peak[1] - column - width // 16) <= width // 8


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.uint8])
@pytest.mark.parametrize("shape", [(5, 3, 9, 7), (2, 8, 8), (3, 1, 4, 11, 6), (1, 1, 1, 1)])
def test_spectral_residual_of_any_dtype_and_shape_sums_to_1(dtype, shape):
    found = spectral_residual((255 * torch.rand(shape)).to(dtype))
    assert found.shape == (shape[0], *shape[-2:])
    assert found.dtype == torch.float32
    assert (found >= 0).all()
    torch.testing.assert_close(found.sum((1, 2)), torch.ones(shape[0]))


def test_spectral_residual_of_a_flat_image_is_flat_and_of_no_other_sample():
    x = torch.rand(3, 3, 16, 16)
    x[1] = 0.7
    found = spectral_residual(x)
    torch.testing.assert_close(found[1], torch.full((16, 16), 1 / 256))
    torch.testing.assert_close(found[2:], spectral_residual(x[2:]))
    torch.testing.assert_close(spectral_residual(100 * x), found, rtol=1e-3, atol=1e-6)


def test_spectral_residual_of_a_vector_is_an_error():
    with pytest.raises(InputError, match=r"images \(B, ..., H, W\), got shape \(4, 5\)"):
        spectral_residual(torch.rand(4, 5))


@pytest.mark.parametrize("shape", [(12, 20), (90, 70)])
def test_guided_saliency_is_the_modulus_at_full_size_smoothed_twice(shape):
    """As GuidedMixup's authors have it, by SciPy; a gradient is smoothed once."""
    x = torch.rand(2, 3, *shape)
    look = torch.rand(2, *shape)
    batch = Batch(x, torch.arange(2), look=lambda kind: look)
    found = smoothed("test", batch, "spectral", 7, 3.0)
    assert smoothed("test", batch, "spectral", 7, 3.0) is found
    plain = saliency("test", batch, "spectral")
    once = smoothed("test", batch, "gradient", 7, 3.0)
    for i, image in enumerate(x):
        expected = spectral_residual_by_scipy(image, power=1, smooth=False).numpy()
        torch.testing.assert_close(
            plain[i].double(), torch.from_numpy(expected / expected.sum()), rtol=1e-3, atol=1e-7
        )
        for _ in range(2):
            expected = ndimage.gaussian_filter(expected, 3.0, mode="nearest", radius=3)
        expected = torch.from_numpy(expected / expected.sum())
        torch.testing.assert_close(found[i].double(), expected, rtol=1e-3, atol=1e-8)
        expected = ndimage.gaussian_filter(look[i].double().numpy(), 3.0, mode="nearest", radius=3)
        expected = torch.from_numpy(expected / expected.sum())
        torch.testing.assert_close(once[i].double(), expected, rtol=1e-4, atol=1e-8)


def test_the_images_of_a_pytree_are_put_together():
    image = torch.randint(0, 255, (2, 3, 4, 6), dtype=torch.uint8)
    video = torch.rand(2, 3, 2, 4, 6).bfloat16()
    found = as_images("test", {"a": image, "b": video, "ids": torch.zeros(2, 3).long()})
    assert torch.equal(found, torch.cat([image.float(), video.float().flatten(1, 2)], 1))
    with pytest.raises(InputError, match=r"test looks at pixels.*\(2, 5\)"):
        as_images("test", torch.rand(2, 5))
    with pytest.raises(InputError, match="of one size"):
        as_images("test", [image, video[..., :3]])


def test_where_nothing_is_salient_all_is_alike():
    found = normalised(torch.tensor([[[0.0, 0.0], [0.0, 0.0]], [[0.0, 3.0], [1.0, 0.0]]]))
    assert found.tolist() == [[[0.25, 0.25], [0.25, 0.25]], [[0, 0.75], [0.25, 0]]]
