"""Mixing by place along signals (B, C, L), and what is refused there."""

import pytest
import torch
from torch import nn

import mixwell
from mixwell import InputError, Mix
from mixwell.batch import Batch
from mixwell.interpolation import (
    CutMix,
    FMix,
    GridMix,
    GuidedMix,
    Linear,
    MaskMix,
    PuzzleMix,
    ResizeMix,
    SaliencyMix,
    SmoothMix,
    SnapMix,
    Switch,
    TokenMix,
)
from mixwell.interpolation.base import image_size, positions
from mixwell.interpolation.masks import draw_interval
from mixwell.pairing import SalientCycle

ALONG = [CutMix, FMix, GridMix, MaskMix, SmoothMix]


def shaped(part, lam, shape=(3, 40), seed=0):
    generator = torch.Generator().manual_seed(seed)
    size = len(lam)
    x = torch.randn(size, *shape, generator=generator)
    batch = Batch(x, torch.zeros(size).long(), generator=generator)
    return x, part.shape(batch, Mix(torch.arange(size).roll(1), lam))


@pytest.mark.parametrize("part", ALONG)
@pytest.mark.parametrize("per", ["sample", "batch"])
def test_the_mask_runs_along_the_signal_through_all_channels(part, per):
    lam = torch.rand(64) if per == "sample" else torch.rand(1).expand(64)
    part = part(per=per)
    x, mix = shaped(part, lam)
    mask = mix.dense_mask()
    assert mask.shape == (64, 1, 40)
    torch.testing.assert_close(mix.lam, mask.float().mean((1, 2)))
    weight = mask.float()
    expected = weight * x + (1 - weight) * x[mix.partner]
    torch.testing.assert_close(part(x, mix), expected, rtol=1e-5, atol=1e-6)
    assert (mask == mask[:1]).all() == (per == "batch")


@pytest.mark.parametrize("part", ALONG)
def test_both_ends_and_the_mean(part):
    _, mix = shaped(part(), torch.tensor([1.0, 1.0, 1.0]))
    assert mix.lam.tolist() == [1, 1, 1]
    lam = torch.full((4000,), 0.7)
    _, mix = shaped(part(), lam)
    if part in (CutMix, SmoothMix):  # what the border cuts off stays the own sample's
        assert (mix.lam >= 0.69).all()
    else:
        assert abs(float(mix.lam.mean()) - 0.7) < 0.02


def test_an_interval_is_one_piece_of_the_length_that_was_asked_for():
    lam = torch.tensor([0.5, 0.9, 0.25, 1.0, 0.0, 0.75])
    centre = torch.tensor([[0.5], [0.5], [0.0], [0.3], [0.5], [0.99]])
    own, left = draw_interval(lam, centre, 20)
    theirs = [row.nonzero()[:, 0].tolist() for row in ~own[:, 0]]
    assert theirs[0] == list(range(5, 15))
    assert theirs[1] == [9, 10]
    assert theirs[2] == list(range(8))  # 15 about the first sample, less what is outside
    assert theirs[3] == []
    assert theirs[4] == list(range(20))
    assert theirs[5] == [17, 18, 19]
    torch.testing.assert_close(left, torch.tensor([0.5, 0.9, 0.6, 1.0, 0.0, 0.85]))


def test_the_centres_are_uniform_along_the_signal():
    _, mix = shaped(CutMix(), torch.full((8000,), 0.95), shape=(1, 40))  # two samples of forty
    pasted = (~mix.mask[:, 0]).float().mean(0)
    # All but the border's are reached from two centres.
    torch.testing.assert_close(pasted[1:-1], torch.full((38,), 0.05), rtol=0.35, atol=0)


def test_a_gaussian_in_the_middle_leaves_the_lam_that_was_asked_for():
    lam = torch.linspace(0.3, 0.95, 12)
    batch = Batch(torch.zeros(12, 1, 512), torch.zeros(12).long())
    part = SmoothMix()
    part._rand = lambda batch, *shape: torch.full((12, *shape), 0.5)
    torch.testing.assert_close(part.shape(batch, Mix(torch.arange(12), lam)).lam, lam, rtol=1e-3,
                               atol=1e-4)  # fmt: skip


@pytest.mark.parametrize(
    "part",
    [
        ResizeMix(), SnapMix(), SaliencyMix(), GuidedMix(), PuzzleMix(), TokenMix(4),
        mixwell.interpolation.AttentiveMix(), mixwell.interpolation.AutoMix(),
    ],
    ids=lambda part: type(part).__name__,
)  # fmt: skip
def test_what_is_for_images_names_the_shape(part):
    with pytest.raises(InputError, match=r"images.*\(4, 3, 40\).*signal"):
        shaped(part, torch.full((4,), 0.5))


def test_pairs_by_saliency_are_for_images():
    with pytest.raises(InputError, match=r"\(4, 3, 40\).*signal"):
        SalientCycle()(Batch(torch.randn(4, 3, 40), torch.zeros(4).long()))


def test_what_the_positions_are():
    def of(x):
        return positions("test", Batch(x, torch.zeros(2).long()))

    assert of(torch.zeros(2, 3, 40)) == (40,)
    assert of(torch.zeros(2, 3, 8, 9)) == (8, 9)
    assert of(torch.zeros(2, 3, 5, 8, 9)) == (8, 9)
    # Beside images, three dimensions are an image without channels.
    assert of({"image": torch.zeros(2, 3, 8, 9), "depth": torch.zeros(2, 8, 9)}) == (8, 9)
    assert of([torch.zeros(2, 3, 40), torch.zeros(2, 1, 40), torch.zeros(2, 7)]) == (40,)
    for x in (
        torch.zeros(2, 5),
        [torch.zeros(2, 3, 40), torch.zeros(2, 3, 20)],
        [torch.zeros(2, 3, 8, 9), torch.zeros(2, 3, 40)],
    ):
        with pytest.raises(InputError, match="signals"):
            of(x)
    with pytest.raises(InputError, match=r"x\[:, None\]"):
        image_size("test", Batch(torch.zeros(2, 8, 9), torch.zeros(2).long()))


@pytest.mark.parametrize("per", ["sample", "batch"])
def test_switched_policies_take_signals(per):
    part = Switch([Linear(), CutMix(), SmoothMix()], per=per)
    for seed in range(4):
        x, mix = shaped(part, torch.rand(9), seed=seed)
        mixed = part(x, mix)
        mask = mix.dense_mask()
        weight = mix.lam[:, None, None] if mask is None else mask.float()
        torch.testing.assert_close(
            mixed, weight * x + (1 - weight) * x[mix.partner], rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("name", ["cutmix", "fmix", "gridmix", "maskmix", "smoothmix", "randomix"])
def test_methods_by_place_train_a_network_of_signals(name):
    net = nn.Sequential(
        nn.Conv1d(3, 4, 5), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    method = mixwell.create(name, num_classes=3)
    step = method.step(net, torch.randn(6, 3, 40), torch.randint(3, (6,)))
    step.loss.backward()
    assert step.loss.isfinite()
