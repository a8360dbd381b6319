import copy

import pytest
import torch
from torch import nn

import mixwell
from mixwell import InputError, Mix, MixedTarget
from mixwell.batch import Batch
from mixwell.interpolation import CutMix, ResizeMix
from mixwell.labels import ContentAttention, MixedAttention
from mixwell.mix import Box, Warp
from mixwell.view import attention_of


@pytest.fixture(scope="module")
def net():
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    net = timm.models.VisionTransformer(
        img_size=16, patch_size=4, embed_dim=16, depth=2, num_heads=2, num_classes=5
    )
    for parameter in net.parameters():  # attention far from uniform
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.3)
    return net


@pytest.fixture
def batch():
    return torch.randn(7, 3, 16, 16), torch.tensor([0, 1, 2, 3, 4, 0, 1])


def random_attention(size, height=4, width=4):
    attention = torch.rand(size, height, width) ** 3
    return attention / attention.sum((1, 2), keepdim=True)


def shares(mask, height, width):
    """Each patch's share of the own sample, patch by patch."""
    rows, columns = mask.shape[2] // height, mask.shape[3] // width
    out = torch.zeros(len(mask), height, width)
    for i in range(len(mask)):
        for row in range(height):
            for column in range(width):
                patch = mask[i, 0, row * rows : (row + 1) * rows]
                out[i, row, column] = (
                    patch[:, column * columns : (column + 1) * columns].float().mean()
                )
    return out


# ------------------------------------------------------------------------------------- TransMix


def refined(mix, attention, ratio=1.0, lam=None):
    y = torch.arange(len(mix))
    target = MixedTarget(y, y[mix.partner], mix.lam if lam is None else lam)
    return MixedAttention(ratio).refine(mix, target, attention)


def test_lam_is_the_attention_to_what_is_the_own_samples():
    partner = torch.tensor([1, 2, 0, 3, 4])
    attention = random_attention(5)
    for mask in (torch.rand(5, 1, 16, 16), torch.rand(5, 1, 16, 16) < 0.4):
        mix = Mix(partner, mask.float().mean((1, 2, 3)), mask)
        expected = (attention * shares(mask, 4, 4)).sum((1, 2))
        target = refined(mix, attention)
        torch.testing.assert_close(target.lam, expected)
        half = refined(mix, attention, ratio=0.5)
        torch.testing.assert_close(half.lam, (expected + mix.lam) / 2)
        assert torch.equal(target.b, partner)


def test_of_boxes_as_of_masks():
    x = torch.zeros(6, 1, 16, 20)
    mix = CutMix().shape(Batch(x, torch.arange(6)), Mix(torch.arange(6).flip(0), torch.rand(6)))
    attention = random_attention(6, 4, 5)
    expected = (attention * shares(mix.box.mask(), 4, 5)).sum((1, 2))
    torch.testing.assert_close(refined(mix, attention).lam, expected)


def test_uniform_attention_gives_the_areas_lam_and_the_ends_are_exact():
    attention = torch.full((3, 4, 4), 1 / 16)
    mask = torch.rand(3, 1, 16, 16)
    mask[1], mask[2] = 1, 0
    mix = Mix(torch.tensor([1, 2, 0]), mask.mean((1, 2, 3)), mask)
    torch.testing.assert_close(refined(mix, attention).lam, mix.lam)
    assert refined(mix, random_attention(3)).lam[1:].tolist() == [1, 0]


def test_a_linear_mix_keeps_its_lam():
    mix = Mix(torch.tensor([1, 0]), torch.rand(2))
    lam = torch.rand(2)
    assert refined(mix, random_attention(2), lam=lam).lam is lam


@pytest.mark.parametrize("name", ["transmix", "transmix+fmix", "transmix+regmixup+decoupled"])
def test_the_step_takes_the_attention_of_its_own_mixed_samples(name, net, batch):
    x, y = batch
    net.eval()
    step = mixwell.create(name, num_classes=5).step(net, x, y)
    mixed = mixwell.functional.mix(x, step.mix)
    part = shares(step.mix.dense_mask(), 4, 4)
    expected = (attention_of(net, mixed) * part).sum((1, 2))
    torch.testing.assert_close(step.target.lam, expected, rtol=1e-4, atol=1e-5)
    assert (step.target.lam - step.mix.lam).abs().max() > 0.01
    assert not any(module._forward_hooks for module in net.modules())


def test_no_gradient_goes_through_the_attention(net, batch):
    x, y = batch
    net.eval()
    method = mixwell.create("transmix", num_classes=5)
    step = method.step(net, x, y)
    mixed = mixwell.functional.mix(x, step.mix)
    fixed = MixedTarget(step.target.a, step.target.b, step.target.lam.clone())
    loss = mixwell.losses.MixedCrossEntropy()(net(mixed), fixed)
    weights = list(net.parameters())
    for ours, plain in zip(
        torch.autograd.grad(step.loss, weights), torch.autograd.grad(loss, weights), strict=True
    ):
        torch.testing.assert_close(ours, plain, rtol=1e-3, atol=1e-5)


def test_what_is_not_mixed_keeps_its_label(net, batch):
    method = mixwell.create("transmix", num_classes=5, p=0.5)
    step = method.step(net.train(), *batch)
    alone = step.mix.lam == 1
    assert alone.any()
    assert (step.target.lam[alone] == 1).all()


def test_training_by_several_labels_and_evaluation(net, batch):
    x, y = batch[0], torch.randint(2, (7, 5)).float()
    step = mixwell.create("transmix", num_classes=5, task="multilabel").step(net.train(), x, y)
    step.loss.backward()
    assert step.loss.isfinite()
    plain = mixwell.create("transmix", num_classes=5).eval().step(net, *batch)
    assert plain.mix.lam.tolist() == [1] * 7


def test_transmix_needs_a_vision_transformer(make_net, images):
    with pytest.raises(InputError, match="attention of Sequential can't be read"):
        mixwell.create("transmix", num_classes=5)(make_net(), *images)
    with pytest.raises(InputError, match="transmix is for classification and multilabel"):
        mixwell.create("transmix", task="regression")
    with pytest.raises(InputError, match="ratio must be"):
        mixwell.create("transmix", ratio=2)


# ------------------------------------------------------------------------------------- TokenMix


def content(batch, mix, attention):
    made = Batch(*batch, look=lambda kind: attention)
    return ContentAttention()(made, mix, mix.lam)


def test_labels_by_the_content_that_is_left_and_taken(batch):
    attention = random_attention(7)
    mask = torch.rand(7, 1, 16, 16) < 0.6
    mask[0], mask[1] = True, False
    partner = torch.tensor([1, 2, 3, 4, 5, 6, 0])
    mix = Mix(partner, mask.float().mean((1, 2, 3)), mask)
    target = content(batch, mix, attention)
    part = shares(mask, 4, 4)
    for i in range(7):
        own = (attention[i] * part[i]).sum()
        theirs = (attention[partner[i]] * (1 - part[i])).sum()
        torch.testing.assert_close(target.lam[i], own / (own + theirs))
        torch.testing.assert_close(target.weight[i], own + theirs)
    assert target.lam[:2].tolist() == [1, 0]


def test_the_loss_is_the_papers_up_to_the_mean_weight(net, batch):
    x, y = batch
    net.eval()
    step = mixwell.create("tokenmix", num_classes=5).step(net, x, y)
    attention, part = attention_of(net, x), shares(step.mix.mask, 4, 4)
    partner = step.mix.partner
    own = (attention * part).sum((1, 2))
    theirs = (attention[partner] * (1 - part)).sum((1, 2))
    log_p = net(mixwell.functional.mix(x, step.mix)).log_softmax(1)
    row = torch.arange(7)
    papers = -own * log_p[row, y] - theirs * log_p[row, y[partner]]
    expected = papers.mean() / (own + theirs).mean()
    torch.testing.assert_close(step.loss, expected, rtol=1e-4, atol=1e-5)


def test_content_moves_with_the_pixels(batch):
    attention = random_attention(7)
    partner = torch.arange(7).roll(1)
    x, y = batch
    mix = ResizeMix().shape(Batch(x, y), Mix(partner, torch.full((7,), 0.75)))
    target = content(batch, mix, attention)
    left = (attention * shares(mix.box.mask(), 4, 4)).sum((1, 2))
    # All of the partner is in the box, made smaller.
    torch.testing.assert_close(target.weight, left + 1)
    # A warp that flips the own sample: what was on the right is seen on the left.
    across = torch.linspace(15 / 16, -15 / 16, 16).expand(7, 16, 16)
    down = torch.linspace(-15 / 16, 15 / 16, 16)[:, None].expand(7, 16, 16)
    mask = torch.zeros(7, 1, 16, 16, dtype=torch.bool)
    mask[..., :8] = True
    flipped = Mix(
        partner, torch.full((7,), 0.5), mask, warp=Warp(torch.stack([down * 0 + across, down], 3))
    )
    target = content(batch, flipped, attention)
    right = attention[:, :, 2:].sum((1, 2))
    theirs = attention[partner][:, :, 2:].sum((1, 2))
    torch.testing.assert_close(target.weight, right + theirs)
    torch.testing.assert_close(target.lam, right / (right + theirs))


def test_where_no_content_is_seen_the_areas_lam_stays(batch):
    attention = torch.zeros(7, 4, 4)
    attention[:, 0, 0] = 1
    edges = torch.tensor([[8, 16, 0, 16]]).repeat(7, 1)
    edges[0] = torch.tensor([0, 8, 0, 16])
    box = Box(edges, 16, 16)
    target = content(batch, Mix(torch.arange(7).roll(1), box.share(), box=box), attention)
    assert target.lam.tolist() == [0, *[1] * 6]
    assert target.weight.tolist() == [1] * 7
    nowhere = Mix(torch.arange(7).roll(1), torch.full((7,), 0.25), torch.full((7, 1, 16, 16), 0.25))
    still = content(batch, nowhere, torch.full((7, 4, 4), 1 / 16))
    torch.testing.assert_close(still.lam, torch.full((7,), 0.25))


def test_a_teacher_of_ones_own_is_no_part_of_the_method(net, batch):
    teacher = copy.deepcopy(net)
    nn.init.zeros_(teacher.blocks[-1].attn.qkv.weight)  # looks everywhere
    nn.init.zeros_(teacher.blocks[-1].attn.qkv.bias)
    method = mixwell.create("tokenmix", num_classes=5, teacher=teacher)
    assert not list(method.parameters())
    assert list(method.state_dict()) == ["progress"]
    step = method.step(net, *batch)
    torch.testing.assert_close(step.target.lam, step.mix.lam)
    torch.testing.assert_close(step.target.weight, torch.ones(7))
    assert "VisionTransformer" in repr(method)
    with pytest.raises(InputError, match="teacher must be"):
        ContentAttention("deit")


def test_without_a_model_there_is_nothing_to_look_with(batch):
    method = mixwell.create("tokenmix", num_classes=5, grid=4)
    with pytest.raises(InputError, match="asks the model where it looks"):
        method.preview(*batch)


def test_a_linear_mix_has_the_usual_labels(batch):
    mix = Mix(torch.arange(7).roll(1), torch.rand(7))
    target = content(batch, mix, random_attention(7))
    assert torch.equal(target.lam, mix.lam)
    assert target.weight is None
