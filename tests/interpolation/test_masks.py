import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mixwell import InputError, Mix
from mixwell.batch import Batch
from mixwell.interpolation import CutMix
from mixwell.interpolation.masks import draw_box

sizes = st.integers(1, 12)


@given(sizes, sizes, st.floats(0, 1), st.floats(0, 0.999), st.floats(0, 0.999))
def test_the_box_is_one_rectangle_of_at_most_the_area_asked_for(height, width, lam, down, across):
    mask = draw_box(torch.tensor([lam]), torch.tensor([[down, across]]), height, width).mask()[0, 0]
    box = ~mask
    rows, columns = box.any(1), box.any(0)
    assert torch.equal(box, rows[:, None] & columns[None, :])
    for line in (rows, columns):
        assert (line.int().diff().abs().sum() + line[0].int() + line[-1].int()) in (0, 2)
    side = (1 - lam) ** 0.5
    assert rows.sum() <= height * side + 0.5 + 1e-4
    assert columns.sum() <= width * side + 0.5 + 1e-4


def test_an_unclipped_box_has_the_area_asked_for():
    mask = draw_box(torch.tensor([0.75]), torch.tensor([[0.5, 0.5]]), 8, 8).mask()
    assert (~mask).sum() == 16


def test_lam_is_the_mean_of_the_mask_exactly_and_the_pixels_follow_it():
    x = torch.stack([torch.zeros(3, 9, 7), torch.ones(3, 9, 7), torch.full((3, 9, 7), 2.0)])
    batch = Batch(x, torch.arange(3))
    partner = torch.tensor([1, 2, 0])
    for seed in range(20):
        torch.manual_seed(seed)
        mix = CutMix().shape(batch, Mix(partner, torch.rand(3)))
        assert torch.equal(mix.lam, mix.dense_mask().double().mean((1, 2, 3)).float())
        mixed = CutMix()(x, mix)
        expected = mix.lam * torch.tensor([0.0, 1, 2]) + (1 - mix.lam) * torch.tensor([1.0, 2, 0])
        torch.testing.assert_close(mixed.mean((1, 2, 3)), expected)
        assert set(mixed[0].unique().tolist()) <= {0.0, 1.0}


def test_ends_are_identity_and_partner():
    x = torch.randn(2, 3, 6, 6)
    batch = Batch(x, torch.arange(2))
    partner = torch.tensor([1, 0])
    whole = CutMix().shape(batch, Mix(partner, torch.ones(2)))
    assert torch.equal(CutMix()(x, whole), x)
    assert whole.lam.tolist() == [1, 1]


def test_boxes_differ_per_sample_and_agree_per_batch():
    batch = Batch(torch.zeros(16, 1, 16, 16), torch.zeros(16).long())
    mix = Mix(torch.arange(16).flip(0), torch.full((16,), 0.7))
    assert len(CutMix().shape(batch, mix).dense_mask().unique(dim=0)) > 8
    assert len(CutMix(per="batch").shape(batch, mix).dense_mask().unique(dim=0)) == 1


@pytest.mark.parametrize(
    "x", [torch.zeros(2, 5), {"a": torch.zeros(2, 3, 4, 4), "b": torch.zeros(2, 1, 3, 3)}]
)
def test_what_is_no_image_is_named(x):
    batch = Batch(x, torch.zeros(2).long())
    with pytest.raises(InputError, match="CutMix pastes boxes"):
        CutMix().shape(batch, Mix(torch.tensor([1, 0]), torch.rand(2)))
