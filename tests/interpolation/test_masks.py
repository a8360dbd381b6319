import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from mixwell import InputError, Mix
from mixwell.batch import Batch
from mixwell.coefficient import Beta
from mixwell.interpolation import (
    CutMix,
    FMix,
    GridMix,
    MaskMix,
    ResizeMix,
    SaliencyMix,
    SmoothMix,
    masks,
)
from mixwell.interpolation.masks import draw_box, lam_of_spread, spread_of_lam
from mixwell.kernels import native

sizes = st.integers(1, 12)

# Statistical tests have fixed seeds and allow 4.5 standard deviations: by chance one in 150,000
# would fail.
SIGMAS = 4.5

HARD = [CutMix, ResizeMix, SaliencyMix, GridMix, MaskMix, FMix]
ALL = [*HARD, SmoothMix]


def make_batch(size, height, width):
    return Batch(torch.rand(size, 3, height, width), torch.zeros(size).long())


def draw(policy, lam, height, width):
    """Return the masks of as many samples as there are λ, (B, H, W), and their mix."""
    batch = make_batch(len(lam), height, width)
    mix = policy.shape(batch, Mix(torch.arange(len(lam)).roll(1), lam))
    return mix.dense_mask()[:, 0], mix


# ---------------------------------------------------------------------------------- every policy


@pytest.mark.parametrize("policy", ALL)
@pytest.mark.parametrize("per", ["sample", "batch"])
@pytest.mark.parametrize("size", [(9, 7), (8, 8), (1, 5), (33, 20)])
def test_lam_is_the_mean_of_the_mask(policy, per, size):
    for count in (1, 6):
        mask, mix = draw(policy(per=per), torch.rand(count), *size)
        mean = mask.double().mean((1, 2))
        if mask.dtype == torch.bool:
            assert torch.equal(mix.lam, mean.float())
        else:
            torch.testing.assert_close(mix.lam.double(), mean, rtol=0, atol=2e-7)
        assert mix.lam.dtype == torch.float32
        assert mask.shape == (count, *size)


@pytest.mark.parametrize("policy", ALL)
def test_the_ends_are_the_own_sample_and_the_partner(policy):
    for seed in range(5):
        torch.manual_seed(seed)
        batch, partner = make_batch(4, 10, 7), torch.tensor([1, 2, 3, 0])
        mix = policy().shape(batch, Mix(partner, torch.tensor([1.0, 0, 1, 0])))
        mixed = policy()(batch.x, mix)
        assert torch.equal(mixed[::2], batch.x[::2])
        if policy in (CutMix, SaliencyMix):
            assert (mix.lam[1::2] < 1).all()  # half a box may be outside of the image
        else:
            torch.testing.assert_close(mixed[1::2], batch.x[[2, 0]], rtol=0, atol=1e-6)
            assert mix.lam.tolist() == [1, 0, 1, 0]
        assert (mix.lam[::2] == 1).all()


@pytest.mark.parametrize("policy", [CutMix, ResizeMix, GridMix, MaskMix, FMix, SmoothMix])
def test_places_differ_per_sample_and_agree_per_batch(policy):
    lam = torch.full((16,), 0.7)
    assert len(draw(policy(), lam, 16, 16)[0].unique(dim=0)) > 8
    assert len(draw(policy(per="batch"), lam, 16, 16)[0].unique(dim=0)) == 1


@pytest.mark.parametrize("policy", ALL)
def test_a_generator_decides_all(policy):
    def drawn(seed):
        torch.seed()  # the default generator has no say
        x = torch.linspace(0, 1, 4 * 3 * 12 * 12).view(4, 3, 12, 12).sin()
        batch = Batch(x, torch.zeros(4).long(), generator=torch.Generator().manual_seed(seed))
        mix = policy().shape(batch, Mix(torch.arange(4).roll(1), torch.full((4,), 0.6)))
        return mix.dense_mask()

    assert torch.equal(drawn(3), drawn(3))
    assert policy is SaliencyMix or not torch.equal(drawn(3), drawn(4))


@pytest.mark.parametrize("policy", HARD)
def test_images_and_class_maps_get_the_same_mask(policy):
    labels = torch.arange(5)[:, None, None].expand(5, 12, 9).contiguous()
    x = {
        "image": labels[:, None].float().expand(5, 3, 12, 9),
        "classes": labels,
        "age": labels[:, 0, 0].float(),
    }
    batch, partner = Batch(x, torch.arange(5)), torch.tensor([3, 0, 4, 1, 2])
    mix = policy().shape(batch, Mix(partner, torch.rand(5)))
    mixed = policy()(x, mix)
    own = mix.dense_mask()[:, 0]
    expected = torch.where(own, labels, partner[:, None, None])
    assert torch.equal(mixed["classes"], expected)
    image = expected[:, None].float().expand(5, 3, 12, 9)
    torch.testing.assert_close(mixed["image"], image, rtol=0, atol=1e-6)
    torch.testing.assert_close(mixed["age"], mix.lam * x["age"] + (1 - mix.lam) * partner)


@pytest.mark.parametrize("policy", ALL)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.uint8])
def test_the_inputs_may_be_of_any_precision(policy, dtype):
    x = (torch.rand(5, 3, 9, 8) * 200).to(dtype)
    batch = Batch(x, torch.zeros(5).long())
    mix = policy().shape(batch, Mix(torch.arange(5).roll(2), torch.rand(5)))
    mixed = policy()(x, mix)
    assert mixed.dtype == dtype
    weight = mix.dense_mask().double()
    if mix.warped() is None:
        expected = weight * x.double() + (1 - weight) * x[mix.partner].double()
        tolerance = 2.0**-8 * 200 if dtype != torch.float64 else 1e-6
        torch.testing.assert_close(mixed.double(), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("policy", ALL)
@pytest.mark.parametrize(
    "x", [torch.zeros(2, 5), {"a": torch.zeros(2, 3, 4, 4), "b": torch.zeros(2, 1, 3, 3)}]
)
def test_what_is_no_image_is_named(policy, x):
    batch = Batch(x, torch.zeros(2).long())
    with pytest.raises(InputError, match=f"{policy.__name__} mixes by place"):
        policy().shape(batch, Mix(torch.tensor([1, 0]), torch.rand(2)))


@pytest.mark.parametrize(
    ("policy", "drift"), [(ResizeMix, 0.004), (GridMix, 0), (MaskMix, 0), (FMix, 0)]
)
@pytest.mark.parametrize("alpha", [1.0, 0.4])
def test_the_mean_of_lam_is_its_distributions(policy, drift, alpha):
    # Whole pixels are rounded to: of ResizeMix's sides, whose squares then have another mean.
    torch.manual_seed(1)
    count = 20_000
    batch = make_batch(count, 12, 12)
    partner = torch.arange(count)
    lam = policy().shape(batch, Mix(partner, Beta(alpha)(batch, partner))).lam
    deviation = float(lam.std()) / count**0.5
    assert abs(float(lam.mean()) - 0.5) < SIGMAS * deviation + drift


# ------------------------------------------------------------------------------------------- boxes


@given(sizes, sizes, st.floats(0, 1), st.floats(0, 0.999), st.floats(0, 0.999))
def test_the_box_is_one_rectangle_of_at_most_the_area_asked_for(height, width, lam, down, across):
    box, left = draw_box(torch.tensor([lam]), torch.tensor([[down, across]]), height, width)
    mask = box.mask()[0, 0]
    torch.testing.assert_close(left, mask.float().mean()[None])
    box = ~mask
    rows, columns = box.any(1), box.any(0)
    assert torch.equal(box, rows[:, None] & columns[None, :])
    for line in (rows, columns):
        assert (line.int().diff().abs().sum() + line[0].int() + line[-1].int()) in (0, 2)
    side = (1 - lam) ** 0.5
    assert rows.sum() <= height * side + 0.5 + 1e-4
    assert columns.sum() <= width * side + 0.5 + 1e-4


@pytest.mark.parametrize(("height", "width"), [(32, 32), (7, 224), (1, 1), (3, 5000)])
def test_the_compiled_boxes_are_those_of_torch_to_the_bit(height, width, monkeypatch):
    if native.library() is None:
        pytest.skip("there are no compiled kernels here")
    torch.manual_seed(0)
    lam = torch.cat([torch.rand(4000), torch.tensor([0.0, 1.0, 1 + 1e-6, -1e-6, 1 - 2.0**-24])])
    centre = torch.rand(len(lam), 2)
    for where in (centre, centre[:1].expand(len(lam), 2)):  # one for all has no memory of its own
        box, left = draw_box(lam, where, height, width)
        with monkeypatch.context() as patch:
            patch.setattr(native, "library", lambda: None)
            by_torch, share = draw_box(lam, where, height, width)
        assert torch.equal(box.edges, by_torch.edges)
        assert torch.equal(left, share)


def test_an_unclipped_box_has_the_area_asked_for():
    mask = draw_box(torch.tensor([0.75]), torch.tensor([[0.5, 0.5]]), 8, 8)[0].mask()
    assert (~mask).sum() == 16


def test_the_pixels_follow_lam():
    x = torch.stack([torch.zeros(3, 9, 7), torch.ones(3, 9, 7), torch.full((3, 9, 7), 2.0)])
    batch = Batch(x, torch.arange(3))
    partner = torch.tensor([1, 2, 0])
    for seed in range(20):
        torch.manual_seed(seed)
        mix = CutMix().shape(batch, Mix(partner, torch.rand(3)))
        mixed = CutMix()(x, mix)
        expected = mix.lam * torch.tensor([0.0, 1, 2]) + (1 - mix.lam) * torch.tensor([1.0, 2, 0])
        torch.testing.assert_close(mixed.mean((1, 2, 3)), expected)
        assert set(mixed[0].unique().tolist()) <= {0.0, 1.0}


def test_the_mean_of_cutmix_is_that_of_clipped_boxes():
    # A side s keeps s - s²/4 of itself in the mean over its centres; with λ uniform, s = √(1 - λ).
    torch.manual_seed(2)
    count = 40_000
    _, left = draw_box(torch.rand(count), torch.rand(count, 2), 64, 64)
    expected = 1 - 2 * (1 / 4 - 1 / 10 + 1 / 96)
    assert abs(float(left.mean()) - expected) < SIGMAS * 0.26 / count**0.5 + 1 / 64**2


def test_resizemix_pastes_the_whole_partner_as_interpolate_makes_it():
    torch.manual_seed(3)
    batch, partner = make_batch(6, 17, 24), torch.tensor([2, 0, 5, 4, 1, 3])
    lam = torch.tensor([0.9, 0.5, 0.2, 0.64, 0.997, 0.0])
    mix = ResizeMix().shape(batch, Mix(partner, lam))
    mixed = ResizeMix()(batch.x, mix)
    maps = torch.arange(6 * 17 * 24).view(6, 17, 24)
    mixed_maps = ResizeMix()(maps, mix)
    for i in range(6):
        top, bottom, left, right = mix.box.edges[i].tolist()
        scale = math.sqrt(1 - float(lam[i]))
        height, width = bottom - top, right - left
        assert (height, width) == (round(17 * scale), round(24 * scale))
        assert 0 <= top <= bottom <= 17
        assert 0 <= left <= right <= 24
        small, small_map = batch.x[i].clone(), maps[i].clone()
        if height and width:
            source = batch.x[partner[i]][None]
            small[:, top:bottom, left:right] = F.interpolate(
                source, (height, width), mode="bilinear", align_corners=False
            )[0]
            source = maps[partner[i]][None, None].double()
            small_map[top:bottom, left:right] = F.interpolate(
                source, (height, width), mode="nearest-exact"
            )[0, 0].long()
        torch.testing.assert_close(mixed[i], small, rtol=0, atol=1e-5)
        assert torch.equal(mixed_maps[i], small_map)


def test_resizemix_pastes_at_every_place_alike():
    # 8 x 6 places of a box of half the sides: χ² with 7 and 5 degrees, above 35 once in 10⁵.
    torch.manual_seed(4)
    count = 6_000
    batch = make_batch(count, 14, 10)
    mix = ResizeMix().shape(batch, Mix(torch.arange(count), torch.full((count,), 0.75)))
    for side, places in ((0, 8), (2, 6)):
        found = mix.box.edges[:, side].bincount(minlength=places)
        assert len(found) == places
        expected = count / places
        assert float((found - expected).square().sum() / expected) < 35


@pytest.mark.parametrize("per", ["sample", "batch"])
@pytest.mark.parametrize("kind", ["spectral", "gradient"])
def test_saliencymix_centres_its_box_on_the_partners_peak(per, kind, monkeypatch):
    torch.manual_seed(5)
    saliency = torch.rand(7, 13, 10)
    if kind == "spectral":
        monkeypatch.setattr(masks, "spectral_residual", lambda x: saliency)
    x = {"age": torch.rand(7, 2), "image": torch.rand(7, 3, 13, 10)}
    batch = Batch(x, torch.zeros(7).long(), look=lambda kind: saliency)
    partner, lam = torch.randperm(7), torch.rand(7)
    mix = SaliencyMix(kind, per=per).shape(batch, Mix(partner, lam))
    for i in range(7):
        of = partner[0 if per == "batch" else i]
        row, column = divmod(int(saliency[of].argmax()), 10)
        expected = torch.ones(13, 10, dtype=torch.bool)
        high, wide = (round(side * math.sqrt(1 - float(lam[i]))) for side in (13, 10))
        for r in range(13):
            for c in range(10):
                inside = row - high // 2 <= r < row - high // 2 + high
                inside = inside and column - wide // 2 <= c < column - wide // 2 + wide
                expected[r, c] = not inside
        assert torch.equal(mix.dense_mask()[i, 0], expected)
    assert SaliencyMix(kind).needs_model == (kind == "gradient")


def test_saliencymix_finds_the_spot_by_the_spectrum():
    x = torch.zeros(3, 1, 32, 32)
    places = [(5, 20), (25, 8), (16, 16)]
    for image, (row, column) in zip(x, places, strict=True):
        image[0, row - 1 : row + 2, column - 1 : column + 2] = 1
    batch, partner = Batch(x, torch.arange(3)), torch.tensor([1, 2, 0])
    mix = SaliencyMix().shape(batch, Mix(partner, torch.full((3,), 0.9)))
    for i in range(3):
        row, column = places[partner[i]]
        assert not mix.dense_mask()[i, 0, row, column]


def test_an_unknown_saliency_is_named():
    with pytest.raises(InputError, match=r"'spectrum' is unknown.*did you mean 'spectral'"):
        SaliencyMix("spectrum")


# ---------------------------------------------------------------------------------- cells of a grid


@pytest.mark.parametrize(("height", "width", "cells"), [(12, 12, 4), (13, 7, 5), (3, 2, 6)])
def test_gridmix_gives_cells_of_equal_size_to_one_sample_each(height, width, cells):
    mask, _ = draw(GridMix(cells), torch.rand(40), height, width)
    seen = set()
    for own in mask:
        for i in range(cells):
            for j in range(cells):
                rows = [r for r in range(height) if r * cells // height == i]
                columns = [c for c in range(width) if c * cells // width == j]
                assert len(rows) in (height // cells, -(-height // cells))
                values = {bool(own[r, c]) for r in rows for c in columns}
                assert len(values) <= 1
                seen |= values
    assert seen == {True, False}


def test_gridmix_draws_its_cells_by_lam_and_their_number_uniformly():
    torch.manual_seed(6)
    count = 6_000
    mask, mix = draw(GridMix((2, 4)), torch.full((count,), 0.3), 12, 12)
    assert abs(float(mask.float().mean()) - 0.3) < SIGMAS * float(mix.lam.std()) / count**0.5
    # Between two cells of a grid of n there is an edge at 12 k / n, where pixels may differ.
    edges = (mask[:, 1:] != mask[:, :-1]).any(2)
    found = [int((edges[:, 12 * 1 // n - 1]).sum()) for n in (2, 3, 4)]
    # An edge shows unless two rows of n cells are equal, each with 0.3² + 0.7².
    for n, number in zip((2, 3, 4), found, strict=True):
        share = (1 - 0.58**n) / 3
        if n == 2:  # of 4 x 4 it is an edge too
            share += (1 - 0.58**4) / 3
        assert abs(number / count - share) < SIGMAS * math.sqrt(share * (1 - share) / count)


@pytest.mark.parametrize(("size", "patch", "grid"), [((8, 8), 2, (4, 4)), ((9, 7), 4, (3, 2))])
def test_maskmix_gives_exactly_the_nearest_number_of_patches(size, patch, grid):
    torch.manual_seed(7)
    count = grid[0] * grid[1]
    lam = torch.rand(200)
    mask, _ = draw(MaskMix(patch), lam, *size)
    corners = mask[:, ::patch, ::patch]
    assert corners.shape[1:] == grid
    wide = corners.repeat_interleave(patch, 1).repeat_interleave(patch, 2)
    assert torch.equal(wide[:, : size[0], : size[1]], mask)
    assert torch.equal(corners.sum((1, 2)), (lam * count).round().long())


def test_maskmix_takes_every_patch_alike():
    torch.manual_seed(8)
    count = 8_000
    mask, _ = draw(MaskMix(2), torch.full((count,), 0.25), 8, 8)
    found = mask[:, ::2, ::2].float().mean(0)
    assert float((found - 0.25).abs().max()) < SIGMAS * math.sqrt(0.25 * 0.75 / count)


@pytest.mark.parametrize(
    ("side", "patch"),
    [(224, 64), (256, 64), (384, 96), (64, 16), (63, 16), (32, 8), (28, 7), (2, 1)],
)
def test_maskmix_takes_quarters_and_whole_patches_of_transformers(side, patch):
    mask, _ = draw(MaskMix(), torch.full((8,), 0.5), side, 1)
    assert torch.equal(mask, mask[:, ::patch].repeat_interleave(patch, 1)[:, :side])
    assert patch == 1 or (mask[:, ::patch].diff(dim=1) != 0).any()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: GridMix(0), "cells must be a whole number from 1 to 1024, got 0"),
        (lambda: GridMix((4, 2)), r"cells must be \(least, greatest\), got \(4, 2\)"),
        (lambda: GridMix((1, 2.5)), "cells must be a whole number from 1 to 1024, got 2.5"),
        (lambda: GridMix((1, 2, 3)), r"one number or \(least, greatest\), got \(1, 2, 3\)"),
        (lambda: draw(MaskMix(64), torch.rand(2), 32, 24), "one patch of 32 x 24 positions"),
        (lambda: MaskMix(True), "patch must be a whole number from 1 on, got True"),
        (lambda: CutMix(per="image"), "per='image' is unknown"),
    ],
)
def test_bad_arguments_are_named(make, words):
    with pytest.raises(InputError, match=words):
        make()


# ------------------------------------------------------------------------------------- soft masks


def test_spread_and_lam_are_each_others_inverse():
    spread = torch.tensor([0.02, 0.1, 0.25, 0.37, 0.5, 1.0, 3.0])
    torch.testing.assert_close(spread_of_lam(lam_of_spread(spread)), spread, rtol=1e-4, atol=0)
    lam = torch.linspace(0.001, 0.999, 500)
    torch.testing.assert_close(lam_of_spread(spread_of_lam(lam)), lam, rtol=0, atol=2e-6)
    ends = spread_of_lam(torch.tensor([0.0, 1e-7, 1.0]))
    assert ends[0] == torch.inf
    assert ends[1] > 100
    assert 0 < ends[2] < 1e-3


def test_lam_of_a_spread_is_the_mean_of_the_mask_in_the_middle():
    place = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000 - 0.5
    for spread in (0.1, 0.25, 0.5, 2.0):
        mean = torch.exp(-place.square() / (2 * spread**2)).mean().square()
        found = lam_of_spread(torch.tensor(spread, dtype=torch.float64))
        torch.testing.assert_close(found, 1 - mean, rtol=1e-6, atol=0)


def test_smoothmix_is_a_gaussian_around_its_centre(monkeypatch):
    centre = torch.tensor([[0.3, 0.8], [0.5, 0.5], [0.0, 0.999]])
    monkeypatch.setattr(SmoothMix, "_rand", lambda self, batch, *shape: centre)
    spread = torch.tensor([0.25, 0.5, 0.3])
    mask, mix = draw(SmoothMix(), lam_of_spread(spread), 9, 14)
    for i in range(3):
        for r in range(9):
            for c in range(14):
                down = (r + 0.5) / 9 - float(centre[i, 0])
                across = (c + 0.5) / 14 - float(centre[i, 1])
                apart = (down**2 + across**2) / (2 * float(spread[i]) ** 2)
                assert float(mask[i, r, c]) == pytest.approx(1 - math.exp(-apart), abs=1e-4)
    assert mix.lam[1] == pytest.approx(float(lam_of_spread(spread)[1]), abs=2e-3)
