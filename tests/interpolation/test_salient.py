import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import mixwell
from mixwell import InputError, Mix, functional
from mixwell.batch import Batch
from mixwell.interpolation import AttentiveMix, CutMix, GuidedMix, SnapMix
from mixwell.labels import Semantic
from mixwell.losses import MixedCrossEntropy
from mixwell.mix import Box, Warp
from mixwell.pairing import SalientCycle
from mixwell.saliency import smoothed


def looking(x, y=None, task="classification", **looks):
    """Return a batch in which the model sees what is given by kind."""
    y = torch.zeros(len(x)).long() if y is None else y
    return Batch(x, y, look=looks.__getitem__, task=task)


def random_mix(size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Mix(torch.randperm(size, generator=generator), torch.rand(size, generator=generator))


def assert_lam_is_the_masks_mean(mix):
    mean = mix.dense_mask().double().mean((1, 2, 3))
    torch.testing.assert_close(mix.lam.double(), mean, rtol=0, atol=2e-7)  # a rounding


# ----------------------------------------------------------------------------------- AttentiveMix


def attentive_one_by_one(seen, mix, height, width):
    """Return the masks, cell by cell."""
    rows, columns = seen.shape[1:]
    masks = torch.ones(len(mix), 1, height, width, dtype=torch.bool)
    for i, j in enumerate(mix.partner.tolist()):
        cells = [(float(seen[j, r, c]), r, c) for r in range(rows) for c in range(columns)]
        cells.sort(key=lambda cell: -cell[0])
        for _, r, c in cells[: round((1 - float(mix.lam[i])) * rows * columns)]:
            for down in range(height):
                for across in range(width):
                    if down * rows // height == r and across * columns // width == c:
                        masks[i, 0, down, across] = False
    return masks


@pytest.mark.parametrize("size", [(8, 8), (9, 7), (4, 6)])
def test_attentivemix_pastes_the_partners_most_attended_cells(size):
    maps = torch.randn(5, 6, 4, 3)
    x, mix = torch.randn(5, 2, *size), random_mix(5)
    batch = looking(x, maps=maps, attention=maps[:, 0])
    for look, seen in (("maps", maps.mean(1)), ("attention", maps[:, 0])):
        shaped = AttentiveMix(look).shape(batch, mix)
        assert torch.equal(shaped.mask, attentive_one_by_one(seen, mix, *size))
        assert_lam_is_the_masks_mean(shaped)
        expected = torch.where(shaped.mask, x, x[mix.partner])
        assert torch.equal(AttentiveMix(look)(x, shaped), expected)


def test_attentivemix_ends_are_identity_and_partner_even_of_equal_cells():
    x = torch.randn(4, 3, 8, 8)
    batch = looking(x, maps=torch.ones(4, 2, 4, 4))
    for lam, cells in ((1.0, 16), (0.0, 0), (0.75, 12)):
        mix = AttentiveMix().shape(batch, Mix(torch.tensor([1, 2, 3, 0]), torch.full((4,), lam)))
        assert (mix.lam == cells / 16).all()
    assert AttentiveMix().shape(batch, Mix(torch.tensor([1, 0, 3, 2]), torch.ones(4))).mask.all()


def test_attentivemix_as_published_pastes_6_of_49_cells():
    x = torch.randn(3, 1, 28, 28)
    lam = mixwell.create("attentivemix").recipe.coefficient(looking(x), torch.arange(3))
    shaped = AttentiveMix().shape(
        looking(x, maps=torch.rand(3, 2, 7, 7)), Mix(torch.tensor([1, 2, 0]), lam)
    )
    torch.testing.assert_close(shaped.lam, torch.full((3,), 43 / 49))


# -------------------------------------------------------------------------------------- GuidedMix


@pytest.mark.parametrize("kind", ["spectral", "gradient"])
def test_guidedmix_weighs_pixels_by_saliency(kind):
    x, mix = torch.rand(5, 3, 9, 8), random_mix(5)
    batch = looking(x, gradient=torch.rand(5, 9, 8))
    policy = GuidedMix(kind, blur=5, sigma=2.0)
    assert policy.needs_model == (kind == "gradient")
    shaped = policy.shape(batch, mix)
    seen = smoothed("test", batch, kind, 5, 2.0)
    expected = torch.empty(5, 1, 9, 8)
    for i, (j, lam) in enumerate(zip(mix.partner.tolist(), mix.lam.tolist(), strict=True)):
        for row in range(9):
            for column in range(8):
                own, theirs = float(seen[i, row, column]), float(seen[j, row, column])
                expected[i, 0, row, column] = lam * own / (lam * own + (1 - lam) * theirs)
    torch.testing.assert_close(shaped.mask, expected)
    assert_lam_is_the_masks_mean(shaped)
    mixed = expected * x + (1 - expected) * x[mix.partner]
    torch.testing.assert_close(policy(x, shaped), mixed)


def test_guidedmix_ends_are_identity_and_partner():
    x = torch.rand(3, 1, 6, 6)
    seen = torch.rand(3, 6, 6)
    seen[:, :3] = 0  # where nothing is salient
    batch = looking(x, gradient=seen)
    mix = Mix(torch.tensor([1, 2, 0]), torch.tensor([1.0, 0.0, 0.25]))
    shaped = GuidedMix("gradient", blur=1).shape(batch, mix)
    assert shaped.lam[:2].tolist() == [1, 0]
    assert (shaped.mask[2, 0, :3] == 0.25).all()
    mixed = GuidedMix()(x, shaped)
    assert torch.equal(mixed[0], x[0])
    assert torch.equal(mixed[1], x[2])


def test_guidedmix_of_a_pair_is_the_same_from_both_sides():
    """At λ = 1/2 the masks of a pair sum to 1, and so do their λ."""
    batch = looking(torch.rand(6, 3, 8, 8))
    shaped = GuidedMix().shape(batch, Mix(torch.tensor([1, 0, 3, 2, 5, 4]), torch.full((6,), 0.5)))
    torch.testing.assert_close(shaped.mask[::2] + shaped.mask[1::2], torch.ones(3, 1, 8, 8))


@pytest.mark.parametrize("blur", [0, 2, 4, -1, 3.0, True])
@pytest.mark.parametrize("part", [GuidedMix, SalientCycle])
def test_guidedmix_arguments_are_checked(part, blur):
    with pytest.raises(InputError, match="blur must be an odd number of pixels"):
        part(blur=blur)
    with pytest.raises(InputError, match=r"sigma must be a number in \(0, inf\)"):
        part(sigma=0)
    with pytest.raises(
        InputError, match=r"saliency='spectrum' is unknown.*did you mean 'spectral'"
    ):
        part(saliency="spectrum")


@pytest.mark.parametrize("policy", [GuidedMix(), SnapMix(), AttentiveMix()])
def test_what_is_no_image_is_named(policy):
    batch = Batch(torch.rand(2, 5), torch.zeros(2).long())
    with pytest.raises(InputError, match=r"\(2, 5\)"):
        policy.shape(batch, Mix(torch.tensor([1, 0]), torch.rand(2)))


# ----------------------------------------------------------------------------------- SalientCycle


def cycle_one_by_one(seen):
    """Return the partners, by the algorithm as the paper gives it."""
    size = len(seen)
    distance = [[float((a - b).norm()) for b in seen] for a in seen]
    pairs = [(distance[i][j], i, j) for i in range(size) for j in range(size) if i != j]
    _, first, _ = max(pairs, key=lambda pair: (pair[0], -pair[1], -pair[2]))
    partner, free, row = [0] * size, set(range(size)) - {first}, first
    while free:
        column = max(free, key=lambda j: distance[row][j])
        partner[row] = column
        free.remove(column)
        row = column
    partner[row] = first
    return partner


@pytest.mark.parametrize("size", [2, 3, 8, 33])
def test_the_cycle_is_greedy_and_goes_through_everyone(size):
    batch = looking(torch.rand(size, 3, 8, 8))
    partner = SalientCycle().forward(batch)
    assert partner.tolist() == cycle_one_by_one(smoothed("test", batch, "spectral", 7, 3.0))
    place, seen = 0, []
    for _ in range(size):
        seen.append(place)
        place = int(partner[place])
    assert place == 0
    assert sorted(seen) == list(range(size))


def test_the_cycle_of_identical_samples_and_of_one():
    assert SalientCycle()(looking(torch.ones(5, 1, 4, 4))).sort().values.tolist() == [*range(5)]
    assert SalientCycle()(looking(torch.rand(1, 1, 4, 4))).tolist() == [0]


# ---------------------------------------------------------------------------------------- SnapMix


def snap_one_by_one(x, mix):
    mixed = x.clone()
    for i, j in enumerate(mix.partner.tolist()):
        top, bottom, left, right = mix.box.edges[i].tolist()
        up, down, first, last = mix.box.source[i].tolist()
        if bottom > top and right > left:
            part = x[j : j + 1, :, up:down, first:last]
            size = (bottom - top, right - left)
            part = F.interpolate(part, size, mode="bilinear", align_corners=False)
            mixed[i, :, top:bottom, left:right] = part[0]
    return mixed


def test_snapmix_resizes_one_box_into_another():
    x = torch.randn(9, 3, 12, 10)
    for seed in range(10):
        torch.manual_seed(seed)
        mix = SnapMix().shape(looking(x), random_mix(9, seed))
        torch.testing.assert_close(SnapMix()(x, mix), snap_one_by_one(x, mix))
        assert_lam_is_the_masks_mean(mix)


def test_snapmix_pastes_nothing_where_the_source_is_empty():
    x = torch.randn(400, 1, 6, 6)
    mix = SnapMix(alpha=0.05).shape(looking(x), Mix(torch.arange(400).flip(0), torch.zeros(400)))
    top, bottom, left, right = mix.box.source.T
    empty = (bottom <= top) | (right <= left)
    assert 100 < empty.sum() < 300
    assert torch.equal(mix.lam == 1, empty)
    assert torch.equal(SnapMix()(x, mix)[empty], x[empty])


def test_snapmix_cuts_the_partner_by_a_beta_of_its_own():
    """The second box is as of CutMix with λ' ~ Beta(α, α), whatever λ; 5 standard errors."""
    size = 4000
    x = torch.zeros(size, 1, 32, 32)
    mix = SnapMix(alpha=2.0).shape(looking(x), Mix(torch.arange(size), torch.full((size,), 0.9)))
    source = Box(mix.box.source, 32, 32).share()
    lam = functional.sample_beta(torch.full((size,), 2.0))
    same = CutMix().shape(looking(x), Mix(torch.arange(size), lam)).lam
    error = math.sqrt(float(source.var() + same.var()) / size)
    assert abs(float(source.mean() - same.mean())) < 5 * error
    assert abs(float(torch.corrcoef(torch.stack([source, mix.lam]))[0, 1])) < 5 / math.sqrt(size)


def test_snapmix_boxes_differ_per_sample_and_agree_per_batch():
    batch = looking(torch.zeros(16, 1, 16, 16))
    mix = Mix(torch.arange(16).flip(0), torch.full((16,), 0.5))
    for per, least, most in (("sample", 8, 16), ("batch", 1, 1)):
        box = SnapMix(per=per).shape(batch, mix).box
        for edges in (box.edges, box.source):
            assert least <= len(edges.unique(dim=0)) <= most


def test_snapmix_at_lam_1_is_the_identity():
    x = torch.randn(5, 2, 8, 8)
    mix = SnapMix().shape(looking(x), Mix(torch.arange(5).flip(0), torch.ones(5)))
    assert torch.equal(SnapMix()(x, mix), x)


# --------------------------------------------------------------------------------- Semantic labels


def cam_of(size, height=4, width=4):
    return torch.rand(size, height, width).flatten(1).softmax(1).view(size, height, width)


def test_semantic_labels_sum_the_maps_in_the_boxes():
    x, y, cam = torch.randn(7, 3, 12, 16), torch.arange(7), cam_of(7)
    batch = looking(x, y, cam=cam)
    mix = random_mix(7)
    mix.lam[0] = 1.0  # of which nothing is taken, wherever the partner would have been cut
    mix = SnapMix(alpha=1.0).shape(batch, mix)
    target = Semantic()(batch, mix, mix.lam)
    large = F.interpolate(cam[:, None], (12, 16), mode="bilinear")[:, 0]
    for i, j in enumerate(mix.partner.tolist()):
        top, bottom, left, right = mix.box.edges[i].tolist()
        up, down, first, last = mix.box.source[i].tolist()
        rho_a = 1 - large[i, top:bottom, left:right].sum() / large[i].sum()
        rho_b = large[j, up:down, first:last].sum() / large[j].sum()
        if mix.lam[i] == 1:
            rho_a, rho_b = torch.tensor(1.0), torch.tensor(0.0)
        torch.testing.assert_close(target.weight[i], rho_a + rho_b)
        torch.testing.assert_close(target.lam[i], rho_a / (rho_a + rho_b))
    assert torch.equal(target.a, y)
    assert torch.equal(target.b, y[mix.partner])
    assert (target.weight - 1).abs().max() > 0.05
    # The loss is that of both labels by their shares, in units of the mean share.
    logits = torch.randn(7, 7)
    losses = [F.cross_entropy(logits, y, reduction="none") for y in (target.a, target.b)]
    shares = target.weight * target.lam, target.weight * (1 - target.lam)
    expected = (shares[0] * losses[0] + shares[1] * losses[1]).sum() / (shares[0] + shares[1]).sum()
    torch.testing.assert_close(MixedCrossEntropy()(logits, target), expected)


def test_semantic_labels_of_masks_that_leave_things_in_place():
    """Of CutMix and of any soft mask: what is left of one, and what is shown of the other."""
    x, cam = torch.randn(5, 1, 4, 4), cam_of(5)
    batch = looking(x, torch.arange(5), cam=cam)
    partner = torch.tensor([1, 2, 3, 4, 0])
    for mask in (torch.rand(5, 1, 4, 4), torch.rand(5, 1, 4, 4) < 0.5):
        mix = Mix(partner, mask.float().mean((1, 2, 3)), mask)
        target = Semantic()(batch, mix, mix.lam)
        weight = mask[:, 0].float()
        rho_a, rho_b = (weight * cam).sum((1, 2)), ((1 - weight) * cam[partner]).sum((1, 2))
        torch.testing.assert_close(target.weight, rho_a + rho_b)
        torch.testing.assert_close(target.lam * target.weight, rho_a)


def test_semantic_labels_follow_what_has_moved():
    cam = cam_of(2)
    batch = looking(torch.randn(2, 1, 4, 4), torch.arange(2), cam=cam)
    middle = (torch.arange(4) * 2 + 1) / 4 - 1
    grid = torch.stack([middle.expand(4, 4), middle[:, None].expand(4, 4)], 2).expand(2, -1, -1, -1)
    # The partner is turned upside down, and its upper half shown.
    warp = Warp(partner=grid * torch.tensor([1.0, -1.0]))
    mask = torch.ones(2, 1, 4, 4, dtype=torch.bool)
    mask[:, :, :2] = False
    mix = Mix(torch.tensor([1, 0]), torch.full((2,), 0.5), mask, warp=warp)
    target = Semantic()(batch, mix, mix.lam)
    rho_a, rho_b = cam[:, 2:].sum((1, 2)), cam.flip(0)[:, 2:].sum((1, 2))
    torch.testing.assert_close(target.weight, rho_a + rho_b)
    torch.testing.assert_close(target.lam, rho_a / (rho_a + rho_b))


def test_semantic_labels_of_a_linear_mix_are_the_usual_ones():
    batch = looking(torch.randn(3, 1, 4, 4), torch.arange(3))
    mix = random_mix(3)
    target = Semantic()(batch, mix, mix.lam)
    assert target.weight is None
    assert torch.equal(target.lam, mix.lam)


def test_semantic_labels_where_nothing_is_seen_have_no_weight():
    cam = torch.zeros(2, 4, 4)
    cam[:, 0, 0] = 1
    batch = looking(torch.randn(2, 1, 4, 4), torch.arange(2), cam=cam)
    edges, source = torch.tensor([[0, 2, 0, 4]]).expand(2, 4), torch.tensor([[2, 4, 2, 4]])
    box = Box(edges, 4, 4, source.expand(2, 4))
    mix = Mix(torch.tensor([1, 0]), box.share(), box=box)
    target = Semantic()(batch, mix, mix.lam)
    assert target.weight.tolist() == [0, 0]
    assert target.lam.isfinite().all()
    assert MixedCrossEntropy()(torch.randn(2, 2), target) == 0


# ----------------------------------------------------------------------------------------- methods


@pytest.mark.parametrize("name", ["attentivemix", "guidedmix", "snapmix"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_methods_train_the_model(make_net, images, name, dtype):
    net, (x, y) = make_net().to(dtype), images
    generator = torch.Generator().manual_seed(3)
    method = mixwell.create(name, num_classes=5, generator=generator)
    step = method.step(net, x.to(dtype), y)
    step.loss.backward()
    for parameter in net.parameters():
        assert parameter.grad.isfinite().all()
    assert net[0].weight.grad.abs().sum() > 0
    assert net[-1].weight.grad.abs().sum() > 0
    assert_lam_is_the_masks_mean(step.mix)
    again = mixwell.create(name, num_classes=5, generator=generator.manual_seed(3))
    assert torch.equal(again.step(net.eval(), x.to(dtype), y).mix.lam, step.mix.lam) or (
        name != "guidedmix"  # the model has changed its running statistics in between
    )


def test_snapmix_names_a_model_that_it_can_not_look_at(images):
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 5))
    for name in ("snapmix", "attentivemix"):
        with pytest.raises(InputError, match="Sequential has no feature maps"):
            mixwell.create(name, num_classes=5)(net, *images)


def test_looking_policies_need_a_model_in_a_preview(make_net, images):
    for name in ("snapmix", "attentivemix", "puzzlemix"):
        method = mixwell.create(name, num_classes=5)
        with pytest.raises(InputError, match=r"asks the model where it looks.*model=model"):
            method.preview(*images)
        assert method.preview(*images, model=make_net())[0].shape == (9, 3, 8, 8)
    assert mixwell.create("guidedmix", num_classes=5).preview(*images)[0].shape == (9, 3, 8, 8)


@pytest.mark.parametrize("name", ["attentivemix", "guidedmix", "puzzlemix"])
@pytest.mark.parametrize("task", ["multilabel", "regression", "segmentation"])
def test_other_tasks(make_net, images, name, task):
    x = images[0]
    if task == "segmentation":
        net = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 5, 1))
        y = torch.randint(0, 5, (9, 8, 8))
    else:
        net = make_net()
        y = torch.randint(0, 2, (9, 5)) if task == "multilabel" else torch.randn(9, 5)
    step = mixwell.create(name, task=task).step(net, x, y)
    step.loss.backward()
    assert step.loss.isfinite()
    assert net[0].weight.grad.abs().sum() > 0


@pytest.mark.slow
def test_guidedmix_by_the_spectrum_compiles_as_one_graph(make_net, images):
    """Of the images alone; ``aot_eager`` traces as inductor would, without its compile time."""
    net, (x, y) = make_net(), images
    method = mixwell.create("guidedmix", num_classes=5, p=1)
    expected = method(net.eval(), x, y)
    method = mixwell.create("guidedmix", num_classes=5, p=1)
    method.to(x.device)
    compiled = torch.compile(method, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(net, x, y), expected)
