from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mixwell import InputError, data
from mixwell.data.corruptions import CORRUPTIONS, SEVERITIES, corrupt

SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32)]
every = pytest.mark.parametrize("name", list(CORRUPTIONS))
# No change at severity 1 of 8 pixels; a pixelation that shrinks from severity 2 to 4.
each_shape = pytest.mark.parametrize("shape", SHAPES)


@pytest.fixture(scope="module")
def digits() -> Tensor:
    return data.load("digits").test.x[:50].float() / 255


def images(digits: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the digits in this size, dimmed so that no channel is another's copy."""
    x = F.interpolate(digits, shape[1:], mode="bilinear")
    return torch.cat([x * (1 - 0.2 * channel) for channel in range(shape[0])], 1)


def run(x: Tensor, name: str, severity: int, seed: int = 0) -> Tensor:
    return corrupt(x, name, severity, torch.Generator().manual_seed(seed))


@every
@each_shape
def test_images_stay_images(digits, name, shape):
    x = images(digits, shape)
    kept = x.clone()
    for severity in SEVERITIES:
        found = run(x, name, severity)
        assert (found.shape, found.dtype) == (x.shape, x.dtype)
        assert 0 <= float(found.min()) <= float(found.max()) <= 1
    assert torch.equal(x, kept)


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_precisions(digits, name, dtype):
    x = images(digits[:9], (1, 8, 8))
    found = run(x.to(dtype), name, 5)
    assert found.dtype == dtype
    if name != "shot noise":  # its draws depend on the last bit of their rate
        torch.testing.assert_close(found.float(), run(x, name, 5), atol=5e-3, rtol=0)


@every
@each_shape
def test_the_generator_decides_alone(digits, name, shape):
    x = images(digits, shape)
    first = run(x, name, 3)
    torch.manual_seed(7)
    state = torch.get_rng_state()
    assert torch.equal(run(x, name, 3), first)
    assert torch.equal(torch.get_rng_state(), state)
    drawn = name.endswith("noise") or name in ("rotation", "translation")
    assert torch.equal(run(x, name, 3, seed=1), first) != drawn


@pytest.mark.parametrize(
    ("name", "shape"),
    [pytest.param(name, shape) for name in CORRUPTIONS for shape in SHAPES],
)
def test_mean_squared_change_grows_with_severity(digits, name, shape):
    x = images(digits, shape)
    change = [float((run(x, name, severity) - x).square().mean()) for severity in SEVERITIES]
    assert all(before <= after for before, after in pairwise(change))
    assert change[0] > 1e-6
    assert change[-1] > 1e-4


def test_brightness_and_contrast_golden():
    x = torch.tensor([0.0, 0.4, 0.8, 0.8]).view(1, 1, 2, 2)
    bright = torch.tensor([0.3, 0.7, 1.0, 1.0]).view(1, 1, 2, 2)
    torch.testing.assert_close(run(x, "brightness", 5), bright)
    dull = torch.tensor([0.25, 0.45, 0.65, 0.65]).view(1, 1, 2, 2)
    torch.testing.assert_close(run(x, "contrast", 2), dull)


def test_impulses_are_black_or_white_in_all_channels():
    x = torch.full((50, 3, 32, 32), 0.5)
    found = run(x, "impulse noise", 5)
    hit = found != 0.5
    assert set(found[hit].tolist()) == {0.0, 1.0}
    assert torch.equal(hit[:, :1].expand_as(hit), hit)
    assert float(hit.float().mean()) == pytest.approx(0.14, abs=0.01)


def test_translation_moves_by_the_same_reach_along_both_axes():
    x = torch.zeros(40, 1, 28, 28)
    x[:, :, 14, 14] = 1
    places = run(x, "translation", 5).nonzero()[:, 2:]
    assert {tuple(place) for place in places.tolist()} == {(a, b) for a in (9, 19) for b in (9, 19)}


def test_rotation_turns_either_way_about_the_centre():
    x = torch.zeros(30, 1, 29, 29)
    x[:, :, 14, 4:25] = 1
    found = run(x, "rotation", 5)
    torch.testing.assert_close(found[:, 0, 14, 14], torch.ones(30))
    turned = found[:, 0, 10, 21] > 0.5  # 8 pixels right of the centre, 4 above: 27 degrees
    assert 5 < int(turned.sum()) < 25
    assert torch.equal(found[:, 0, 18, 21] > 0.5, ~turned)


@pytest.mark.parametrize(
    ("x", "name", "severity", "message"),
    [
        (torch.rand(2, 1, 8, 8), "blurr", 1, r"name='blurr' .*\(did you mean 'blur'\?\).*rotation"),
        *((torch.rand(2, 1, 8, 8), "blur", s, "severity .*from 1 to 5") for s in (0, 6, -1, 2.5)),
        pytest.param(torch.rand(2, 1, 8, 8), "blur", 1.0, "severity"),
        (torch.rand(1, 8, 8), "blur", 1, r"x must be .*shape \(1, 8, 8\)"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), "blur", 1, "x must be .*uint8"),
    ],
)
def test_bad_arguments_are_refused(x, name, severity, message):
    with pytest.raises(InputError, match=message):
        run(x, name, severity)
