import math

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import nn
from torch.utils import _pytree as pytree

import mixwell
from mixwell import InputError, Mix, functional
from mixwell.batch import Batch
from mixwell.interpolation import AlignMix
from mixwell.interpolation.aligned import AlignedMix, sinkhorn


def aligned(mix, own_stays):
    return AlignedMix(mix.partner, mix.lam, own_stays=own_stays)


def random_mix(size):
    return Mix(torch.randperm(size), torch.rand(size))


# --------------------------------------------------------------------------------------- transport


def plan_by_scaling(cost, epsilon, iterations):
    """Return Sinkhorn's plan of one pair as he wrote it, by scaling rows and columns in turns."""
    kernel = torch.exp(-cost.double() / epsilon)
    u, v = torch.ones(len(cost)).double(), torch.ones(len(cost)).double()
    for _ in range(iterations):
        u = 1 / (kernel @ v)
        v = 1 / (kernel.T @ u)
    return u[:, None] * kernel * v[None]


@pytest.mark.parametrize("iterations", [1, 3, 50])
def test_the_plan_is_sinkhorns(iterations):
    cost = torch.rand(4, 9, 9)
    rows, columns = sinkhorn(cost, 0.1, iterations)
    for i in range(4):
        expected = plan_by_scaling(cost[i], 0.1, iterations)
        torch.testing.assert_close(columns[i].double(), expected, rtol=1e-4, atol=1e-6)
        expected = expected / expected.sum(1, keepdim=True)
        torch.testing.assert_close(rows[i].double(), expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(rows.sum(2), torch.ones(4, 9))
    torch.testing.assert_close(columns.sum(1), torch.ones(4, 9))
    if iterations == 50:
        torch.testing.assert_close(rows, columns, rtol=1e-2, atol=1e-3)


def test_the_plan_of_little_entropy_is_the_best_assignment():
    cost = torch.rand(5, 8, 8)
    rows, _ = sinkhorn(cost, 0.002, 2000)
    for i in range(5):
        _, best = linear_sum_assignment(cost[i].numpy())
        assert rows[i].argmax(1).tolist() == best.tolist()
    # Of costs far beyond what an exponential can hold, too.
    large, _ = sinkhorn(1e6 * cost, 2e3, 2000)
    torch.testing.assert_close(large, rows, rtol=1e-2, atol=1e-3)


# --------------------------------------------------------------------------------- aligned features


@pytest.mark.parametrize("relative", [True, False])
def test_features_are_aligned_and_then_interpolated(relative):
    x, mix = torch.randn(6, 5, 2, 3), random_mix(6)
    stays = torch.tensor([True, False, True, False, True, True])
    epsilon = 0.05 if relative else 0.7
    policy = AlignMix(epsilon=epsilon, iterations=20, relative=relative)
    found = policy(x, aligned(mix, stays))
    for i, j in enumerate(mix.partner.tolist()):
        own, theirs = x[i].flatten(1).T, x[j].flatten(1).T
        cost = torch.stack([(a - theirs).square().sum(1) for a in own])
        scale = float(cost.mean()) if relative and i != j else 1.0
        plan = plan_by_scaling(cost, epsilon * scale, 20).float()
        if stays[i]:
            theirs = (plan / plan.sum(1, keepdim=True)) @ theirs
        else:
            own = plan.T @ own
        expected = (mix.lam[i] * own + (1 - mix.lam[i]) * theirs).T.view(5, 2, 3)
        torch.testing.assert_close(found[i], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("own_stays", [True, False])
def test_a_sample_whose_positions_are_exchanged_is_found_again(own_stays):
    """Aligned with its own features in another order, a sample is mixed with itself."""
    x = torch.randn(1, 8, 4, 4).repeat(2, 1, 1, 1)
    x[1] = x[1].flatten(1)[:, torch.randperm(16)].view(8, 4, 4)
    mix = Mix(torch.tensor([1, 0]), torch.tensor([0.3, 0.6]))
    found = AlignMix()(x, aligned(mix, torch.full((2,), own_stays)))
    torch.testing.assert_close(found, x if own_stays else x.flip(0), rtol=1e-3, atol=1e-3)


def test_ends_are_identity_and_partner():
    x = torch.randn(64, 3, 4, 4)
    lam = torch.tensor([0.0, 1.0]).repeat(32)
    batch = Batch(x, torch.zeros(64).long())
    policy = AlignMix(aligned=1.0, layer="features")
    policy.layer(batch, nn.Identity())
    mix = policy.shape(batch, Mix(torch.arange(64).flip(0), lam))
    found = policy(x, mix)
    assert torch.equal(found[1::2], x[1::2])
    assert torch.equal(found[::2], x.flip(0)[::2])


def test_identical_features_stay_what_they_are():
    x = torch.ones(3, 4, 2, 2)
    found = AlignMix()(x, aligned(random_mix(3), torch.ones(3, dtype=torch.bool)))
    torch.testing.assert_close(found, x)


def test_gradient_goes_through_the_features_and_not_through_the_plan():
    x = torch.randn(4, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    mix = Mix(torch.tensor([1, 2, 3, 0]), torch.rand(4))
    stays = torch.tensor([True, False, True, False])
    policy = AlignMix()
    weight = torch.randn(4, 3, 2, 2, dtype=torch.float64)
    (found,) = torch.autograd.grad((policy(x, aligned(mix, stays)) * weight).sum(), x)

    features = x.detach().flatten(2).mT
    cost = torch.cdist(features, features[mix.partner]).square()
    rows, columns = sinkhorn(cost, 0.02 * cost.mean((1, 2), keepdim=True), 30)
    y = features.clone().requires_grad_()
    own = torch.stack([y[i] if stays[i] else columns[i].T @ y[i] for i in range(4)])
    theirs = [y[int(j)] for j in mix.partner]
    theirs = torch.stack([rows[i] @ theirs[i] if stays[i] else theirs[i] for i in range(4)])
    lam = mix.lam[:, None, None].double()
    mixed = (lam * own + (1 - lam) * theirs).mT.reshape(x.shape)
    (expected,) = torch.autograd.grad((mixed * weight).sum(), y)
    torch.testing.assert_close(found, expected.mT.reshape(x.shape))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_precisions_are_aligned_in_float32(dtype):
    x, mix = torch.randn(5, 6, 3, 3).to(dtype), random_mix(5)
    stays = torch.tensor([True, False, True, False, True])
    found = AlignMix()(x, aligned(mix, stays))
    assert found.dtype == dtype
    expected = AlignMix()(x.float(), aligned(mix, stays))
    torch.testing.assert_close(found.float(), expected, rtol=2e-2, atol=2e-2)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(AlignMix()(x.float(), aligned(mix, stays)), expected)


# ---------------------------------------------------------------------------------- when and where


def test_half_of_the_batches_are_mixed_at_the_input(make_net, images):
    """And of the others each sample keeps its geometry by an equal chance; 5 standard errors."""
    net, (x, y) = make_net(), images
    policy = AlignMix()
    inside, stays, count = 0, 0, 400
    for _ in range(count):
        batch = Batch(x, y)
        layer = policy.layer(batch, net)
        mix = policy.shape(batch, Mix(torch.arange(9), torch.full((9,), 0.5)))
        assert (layer == "3") == isinstance(mix, AlignedMix)
        assert layer in (None, "3")
        assert policy.layer(batch, net) == layer  # a choice for the batch
        if layer:
            inside += 1
            stays += int(mix.own_stays.sum())
    assert abs(inside / count - 0.5) < 2.5 / math.sqrt(count)
    assert abs(stays / (9 * inside) - 0.5) < 2.5 / math.sqrt(9 * inside)


def test_the_chance_is_an_argument_and_per_batch_all_stay_alike(make_net, images):
    net, (x, y) = make_net(), images
    mix = Mix(torch.arange(9), torch.full((9,), 0.5))
    drawn = set()
    for _ in range(30):
        batch = Batch(x, y)
        assert AlignMix(aligned=0.0).layer(batch, net) is None
        policy = AlignMix(aligned=1.0, per="batch")
        assert policy.layer(batch, net) == "3"
        drawn.add(tuple(policy.shape(batch, mix).own_stays.tolist()))
    assert drawn == {(True,) * 9, (False,) * 9}
    assert AlignMix(aligned=1.0, layer="0").layer(Batch(x, y), net) == "0"


def test_the_mix_travels_as_a_pytree():
    mix = aligned(random_mix(3), torch.tensor([True, False, True]))
    leaves, structure = pytree.tree_flatten(mix)
    again = pytree.tree_unflatten(leaves, structure)
    assert isinstance(again, AlignedMix)
    assert torch.equal(again.own_stays, mix.own_stays)
    # What is no feature (an image at the input) is mixed linearly by it.
    x = torch.rand(3, 5)
    assert torch.equal(functional.mix(x, mix), functional.mix(x, Mix(mix.partner, mix.lam)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("share", [0.0, 1.0])
@pytest.mark.parametrize("name", ["alignmix", "alignmix+decoupled", "regmixup+alignmix"])
def test_it_trains_the_model(make_net, images, dtype, share, name):
    net, (x, y) = make_net().to(dtype), images
    method = mixwell.create(name, num_classes=5, aligned=share)
    step = method.step(net, x.to(dtype), y)
    step.loss.backward()
    for parameter in net.parameters():
        assert parameter.grad.isfinite().all()
    assert net[0].weight.grad.abs().sum() > 0
    assert isinstance(step.mix, AlignedMix) == (share == 1)
    assert step.mix.is_uniform


def test_aligned_features_are_what_the_head_reads(make_net, images):
    net, (x, y) = make_net().eval(), images
    method = mixwell.create("alignmix", num_classes=5, aligned=1.0)
    step = method.step(net, x, y)
    with torch.no_grad():
        expected = net[4:](method.recipe.interpolation(net[:4](x), step.mix))
        plain = net[4:](functional.mix(net[:4](x), Mix(step.mix.partner, step.mix.lam)))
    torch.testing.assert_close(step.logits.detach(), expected)
    assert not torch.allclose(expected, plain)


def test_a_preview_shows_the_half_at_the_input(make_net, images):
    x, y = images
    method = mixwell.create("alignmix", num_classes=5)
    for model in (None, make_net()):
        mixed, _, mix = method.preview(x, y, model=model)
        torch.testing.assert_close(mixed, functional.mix(x, mix))
    with pytest.raises(InputError, match=r"mixes inside the model \(at the last feature maps\)"):
        mixwell.create("alignmix", num_classes=5, aligned=1.0).preview(x, y)


def test_errors(make_net, images):
    x, y = images
    flat = nn.Sequential(nn.Flatten(), nn.Linear(192, 5))
    with pytest.raises(InputError, match="Sequential has no feature maps"):
        mixwell.create("alignmix", num_classes=5)(flat, x, y)
    method = mixwell.create("alignmix", num_classes=5, layer="5", aligned=1.0)
    with pytest.raises(InputError, match=r"layer '5' must return feature maps.*\(9, 6\)"):
        method(make_net(), x, y)
    with pytest.raises(InputError, match="layer='nowhere' is no layer of Sequential"):
        mixwell.create("alignmix", layer="nowhere", aligned=1.0)(make_net(), x, y)
    for layer in ("input", "head", "", None):
        with pytest.raises(InputError, match="layer must be 'auto' or the name of a layer"):
            AlignMix(layer)
    with pytest.raises(InputError, match="not defined for segmentation"):
        AlignMix().layer(Batch(x, torch.zeros(9, 8, 8).long(), task="segmentation"), make_net())
    with pytest.raises(InputError, match="makes no sense for task='segmentation'"):
        mixwell.create("alignmix", task="segmentation")
