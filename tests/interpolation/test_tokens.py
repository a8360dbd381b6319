import math

import pytest
import torch
from torch import nn

import mixwell
from mixwell import InputError, Mix
from mixwell.batch import Batch
from mixwell.interpolation import TokenMix
from mixwell.interpolation.tokens import draw_blocks


def blocks_of_one(count, blocks, order):
    """The rule of draw_blocks for one sample, block by block and token by token."""
    height, width = order.shape
    chosen = torch.zeros(height, width, dtype=torch.bool)
    for area, aspect, down, across in blocks.tolist():
        left = count - int(chosen.sum())
        area = 1 + area * max(left - 1, 0)
        ratio = math.exp(math.log(0.3) + aspect * (math.log(1 / 0.3) - math.log(0.3)))
        tall, wide = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if tall >= height or wide >= width:
            continue
        top, start = int(down * (height - tall + 1)), int(across * (width - wide + 1))
        block = torch.zeros_like(chosen)
        block[top : top + tall, start : start + wide] = True
        if int((block & ~chosen).sum()) <= left:
            chosen |= block
    for token in order.flatten().argsort().tolist():
        if int(chosen.sum()) < count and not chosen.view(-1)[token]:
            chosen.view(-1)[token] = True
    return chosen


@pytest.mark.parametrize("grid", [(14, 14), (4, 4), (5, 9), (1, 6), (2, 1)])
def test_blocks_follow_the_rule(grid):
    size, tokens = 40, grid[0] * grid[1]
    count = torch.arange(size) * tokens // (size - 1)
    blocks, order = torch.rand(size, 12, 4), torch.rand(size, *grid)
    chosen = draw_blocks(count, blocks, order)
    assert torch.equal(chosen.sum((1, 2)), count)
    for i in range(size):
        assert torch.equal(chosen[i], blocks_of_one(int(count[i]), blocks[i], order[i])), i


def test_few_tokens_are_left_after_the_blocks():
    size, count = 500, torch.full((500,), 98)
    without = draw_blocks(count, torch.rand(size, 12, 4), torch.full((size, 14, 14), 0.5))
    # Tokens without a neighbour of their own kind are the last ones, chosen one by one.
    padded = nn.functional.pad(without.float(), (1, 1, 1, 1))
    near = padded[:, :-2, 1:-1] + padded[:, 2:, 1:-1] + padded[:, 1:-1, :-2] + padded[:, 1:-1, 2:]
    alone = (without & (near == 0)).sum((1, 2)).float()
    assert alone.mean() < 2


def made(lam, per="sample", size=32, grid=8, channels=3):
    x = torch.randn(len(lam), channels, size, size)
    batch = Batch(x, torch.arange(len(lam)))
    return x, TokenMix(grid, per).shape(batch, Mix(torch.arange(len(lam)).flip(0), lam))


def test_whole_tokens_are_the_partners_and_lam_is_the_mean_of_the_mask_exactly():
    lam = torch.rand(33)
    x, mix = made(lam)
    assert torch.equal(mix.lam, mix.mask.double().mean((1, 2, 3)).float())
    assert torch.equal(mix.lam, ((lam * 64).round() / 64))
    blocks = mix.mask.unflatten(3, (8, 4)).unflatten(2, (8, 4)).float().mean((3, 5))
    assert set(blocks.unique().tolist()) == {0, 1}
    mixed = TokenMix(8)(x, mix)
    assert torch.equal(mixed, torch.where(mix.mask, x, x.flip(0)))


def test_the_regions_are_several():
    _, mix = made(torch.full((200,), 0.5), grid=14, size=28)
    theirs = ~mix.mask[:, 0, ::2, ::2]
    rows, columns = theirs.any(2), theirs.any(1)
    box = (rows[:, :, None] & columns[:, None, :]).sum((1, 2))
    assert ((box > theirs.sum((1, 2))).float().mean()) > 0.95  # hardly ever one rectangle


def test_the_masks_have_the_symmetries_of_the_image():
    torch.manual_seed(0)
    _, mix = made(torch.full((4000,), 0.5), grid=8, size=8, channels=1)
    often = (~mix.mask).float().mean((0, 1))
    # 4 standard errors of the difference of two shares: 0.4 % of seeds would fail for 64 tokens.
    error = 4 * (0.25 / 4000) ** 0.5 * 2**0.5
    assert (often - often.T).abs().max() < error
    assert (often - often.flip(0)).abs().max() < error
    assert often[3:5, 3:5].min() > often[[0, 0, -1, -1], [0, -1, 0, -1]].max()  # blocks lie inside


def test_the_ends():
    x, mix = made(torch.tensor([1.0, 0.0, 1.0]))
    assert mix.lam.tolist() == [1, 0, 1]
    mixed = TokenMix(8)(x, mix)
    assert torch.equal(mixed, torch.stack([x[0], x[1], x[2]]))  # the middle one is its own partner
    x, mix = made(torch.tensor([0.0]))
    assert mix.lam.tolist() == [0]


def test_the_mean_of_lam_is_the_distributions():
    torch.manual_seed(1)
    _, mix = made(torch.rand(4000), grid=4, size=8, channels=1)
    assert abs(mix.lam.mean() - 0.5) < 4 * (1 / 12 / 4000) ** 0.5


def test_masks_differ_per_sample_and_agree_per_batch():
    lam = torch.full((16,), 0.6)
    assert len(made(lam)[1].mask.unique(dim=0)) == 16
    assert len(made(lam, per="batch")[1].mask.unique(dim=0)) == 1


@pytest.mark.parametrize(("size", "grid"), [(30, 7), (5, 8), (33, (3, 11))])
def test_grids_that_do_not_divide_the_image(size, grid):
    _, mix = made(torch.rand(9), size=size, grid=grid)
    torch.testing.assert_close(mix.lam, mix.mask.float().mean((1, 2, 3)))


def test_the_same_generator_gives_the_same_masks():
    masks = []
    for _ in range(2):
        generator = torch.Generator().manual_seed(3)
        batch = Batch(torch.zeros(5, 1, 16, 16), torch.arange(5), generator=generator)
        masks.append(TokenMix(4).shape(batch, Mix(torch.arange(5), torch.full((5,), 0.4))).mask)
        torch.rand(7)
    assert torch.equal(*masks)


def test_the_model_is_asked_for_its_tokens(images):
    timm = pytest.importorskip("timm")
    net = timm.models.VisionTransformer(
        img_size=(16, 24), patch_size=4, embed_dim=16, depth=1, num_heads=2, num_classes=5
    )
    x, y = torch.randn(5, 3, 16, 24), torch.arange(5)
    step = mixwell.create("tokenmix", num_classes=5).step(net, x, y)
    tokens = step.mix.mask.unflatten(3, (6, 4)).unflatten(2, (4, 4)).float().mean((3, 5))
    assert set(tokens.unique().tolist()) <= {0, 1}
    step.loss.backward()
    method = mixwell.create("cutmix", interpolation=TokenMix(), num_classes=5)
    with pytest.raises(InputError, match="TokenMix asks the model for its grid"):
        method.preview(x, y)
    assert TokenMix().needs_model
    assert not TokenMix(4).needs_model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.uint8])
def test_any_images_and_models_where_the_grid_is_given(dtype, make_net, images):
    x, y = (images[0].abs() * 50).to(dtype), images[1]
    method = mixwell.create("mixup", interpolation=TokenMix(4), num_classes=5)
    mixed, target, mix = method.preview(x, y)
    assert mixed.dtype == dtype
    assert torch.equal(target.lam, mix.lam)


@pytest.mark.parametrize("grid", [0, -3, 2.5, "14", (3,), (2, 0), True])
def test_bad_grids_are_named(grid):
    with pytest.raises(InputError, match="grid must be a number of tokens from 1 to 4096"):
        TokenMix(grid)
