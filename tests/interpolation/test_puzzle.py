import itertools
import math

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_flow
from torch.nn import functional as F

import mixwell
from mixwell import InputError, Mix, functional
from mixwell.batch import Batch
from mixwell.interpolation import PuzzleMix
from mixwell.interpolation.puzzle import energy, minimal_cut, moved, transport
from mixwell.labels import Soft
from mixwell.mix import Warp


def looking(x, gradient, y=None):
    y = torch.zeros(len(x)).long() if y is None else y
    return Batch(x, y, look={"gradient": gradient}.__getitem__)


def salient_images(size, side, seed=0, power=6.0):
    """Return images, and saliency that is high in some places, as gradients are."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(size, 3, side, side, generator=generator)
    seen = torch.rand(size, side, side, generator=generator) ** power
    return x, seen / seen.sum((1, 2), keepdim=True)


def energies(size, side, levels, seed=0, coupling=1.0):
    """Return energies as PuzzleMix makes them."""
    x, seen = salient_images(size, side, seed)
    batch = looking(x, seen)
    generator = torch.Generator().manual_seed(seed)
    partner = torch.randperm(size, generator=generator)
    mix = Mix(partner, torch.rand(size, generator=generator))
    unary, down, across = PuzzleMix(levels=levels).terms(batch, mix, seen, seen[partner])
    return unary, coupling * down, coupling * across


# ---------------------------------------------------------------------------------------- the mask


def energy_by_loops(labels, unary, down, across):
    rows, columns = labels.shape
    most = unary.shape[0] - 1
    total = 0.0
    for r in range(rows):
        for c in range(columns):
            total += float(unary[labels[r, c], r, c])
            if r + 1 < rows:
                step = int(labels[r, c] - labels[r + 1, c]) / most
                total += float(down[r, c]) * step**2
            if c + 1 < columns:
                step = int(labels[r, c] - labels[r, c + 1]) / most
                total += float(across[r, c]) * step**2
    return total


def test_energy_is_the_sum_that_it_says():
    terms = energies(4, 5, 3)
    labels = torch.randint(0, 3, (4, 5, 5))
    found = energy(labels, *terms)
    expected = [energy_by_loops(labels[i], *(term[i] for term in terms)) for i in range(4)]
    torch.testing.assert_close(found, torch.tensor(expected))


@pytest.mark.parametrize("coupling", [1, 5])
@pytest.mark.parametrize(("levels", "side"), [(2, 2), (2, 3), (3, 2), (3, 3), (4, 2), (6, 2)])
def test_the_cut_is_the_best_of_all_labelings(levels, side, coupling):
    terms = energies(24, side, levels, seed=levels, coupling=coupling)
    all_labels = torch.tensor(list(itertools.product(range(levels), repeat=side * side)))
    all_labels = all_labels.view(-1, side, side)
    found = energy(minimal_cut(*terms), *terms)
    for i in range(24):
        each = [term[i : i + 1].expand(len(all_labels), *term.shape[1:]) for term in terms]
        best = energy(all_labels, *each).min()
        torch.testing.assert_close(found[i], best, rtol=1e-5, atol=1e-6)


def least_by_maximum_flow(unary, down, across):
    """Return the least energy of two labels, of one sample, by the cut of a graph."""
    rows, columns = unary.shape[1:]
    count, scale = rows * columns, 1e7
    source, sink = count, count + 1
    edges = {}
    gain = (unary[1] - unary[0]).double().flatten()
    for site, cost in enumerate(gain.tolist()):
        edges[(site, sink) if cost > 0 else (source, site)] = abs(cost)
    for r in range(rows):
        for c in range(columns):
            here = r * columns + c
            if r + 1 < rows:
                edges[here, here + columns] = edges[here + columns, here] = float(down[r, c])
            if c + 1 < columns:
                edges[here, here + 1] = edges[here + 1, here] = float(across[r, c])
    places = torch.tensor(list(edges)).T.numpy()
    capacity = [round(value * scale) for value in edges.values()]
    graph = csr_matrix((capacity, places), shape=(count + 2, count + 2), dtype="int32")
    flow = maximum_flow(graph, source, sink).flow_value / scale
    return float(unary[0].double().sum() + gain.clamp_max(0).sum()) + flow


@pytest.mark.parametrize("coupling", [1, 5])
@pytest.mark.parametrize("side", [8, 16])
def test_the_cut_is_that_of_the_maximum_flow(side, coupling):
    """On the grids of the paper, at its own weights and at five times its smoothness."""
    terms = energies(12, side, 2, seed=side, coupling=coupling)
    found = energy(minimal_cut(*terms), *terms).double()
    best = torch.tensor([least_by_maximum_flow(*(term[i] for term in terms)) for i in range(12)])
    assert (found > best - 1e-5).all()
    above = (found - best) / best.abs()
    assert (above < 1e-5).double().mean() >= 0.9
    assert above.mean() < (1e-4 if coupling == 1 else 1e-3)
    # Sites by themselves are far from it, so there is something to find.
    alone = energy(terms[0].argmin(1), *terms).double()
    assert ((alone - best) / best.abs()).mean() > 20 * above.mean()


def test_the_cut_does_not_depend_on_scale_or_on_other_samples():
    terms = energies(6, 8, 3)
    labels = minimal_cut(*terms)
    assert torch.equal(minimal_cut(*(1000 * term for term in terms)), labels)
    assert torch.equal(minimal_cut(*(term[2:3] for term in terms)), labels[2:3])
    assert len(labels.unique()) == 3


def test_without_neighbours_each_site_decides_alone():
    unary, down, across = energies(5, 6, 3)
    labels = minimal_cut(unary, 0 * down, 0 * across)
    assert torch.equal(labels, unary.argmin(1))


def colour_across(images, r, c, other, side):
    """Return the mean difference of colours across the border of two blocks, of two images."""
    a, b = images
    size = a.shape[1] // side
    part = min(4, size)
    total = []
    for k in range(size // part):
        if other[0] > r:
            mine = (slice((r + 1) * size - part, (r + 1) * size), c * size + k * part)
            theirs = (slice((r + 1) * size, (r + 1) * size + part), c * size + k * part)
            cut = [image[:, rows, left : left + part] for image, (rows, left) in
                   zip((a, b), (mine, theirs), strict=True)]  # fmt: skip
        else:
            mine = (r * size + k * part, slice((c + 1) * size - part, (c + 1) * size))
            theirs = (r * size + k * part, slice((c + 1) * size, (c + 1) * size + part))
            cut = [image[:, top : top + part, columns] for image, (top, columns) in
                   zip((a, b), (mine, theirs), strict=True)]  # fmt: skip
        total.append((cut[0].mean((1, 2)) - cut[1].mean((1, 2))).abs().mean())
    return float(torch.stack(total).mean())


@pytest.mark.parametrize(("side", "pixels"), [(2, 16), (4, 8), (2, 6)])
def test_the_energy_is_the_papers(side, pixels):
    """Of masks of two levels, up to a constant: saliency, both kinds of smoothness, the prior."""
    beta, gamma, prior = 1.2, 0.5, 0.2
    x, _ = salient_images(3, pixels)
    x = (x - x.min()) / (x.max() - x.min())
    seen = salient_images(3, side, seed=1)[1]
    mix = Mix(torch.tensor([1, 2, 0]), torch.tensor([0.3, 0.6, 0.9]))
    batch = looking(3 * x - 1, seen)  # whatever the range of colours
    terms = PuzzleMix(levels=2).terms(batch, mix, seen, seen[mix.partner])
    smooth = beta / side / 16

    def by_hand(i, z):
        j, lam = int(mix.partner[i]), float(mix.lam[i])
        total = 0.0
        for r in range(side):
            for c in range(side):
                own = int(z[r, c])
                total += float(seen[j, r, c]) if own else float(seen[i, r, c])
                total -= prior / side**2 * math.log(lam if own else 1 - lam)
                for other in ((r + 1, c), (r, c + 1)):
                    if max(other) < side:
                        total += smooth * (own - int(z[other])) ** 2
                        pair = [x[i] if value else x[j] for value in (own, int(z[other]))]
                        total += smooth * gamma * colour_across(pair, r, c, other, side)
        return total

    for i in range(3):
        masks = torch.randint(0, 2, (6, side, side))
        found = energy(masks, *(term[i : i + 1].expand(6, *term.shape[1:]) for term in terms))
        expected = torch.tensor([by_hand(i, z) for z in masks])
        torch.testing.assert_close(found - found[0], expected - expected[0], rtol=1e-4, atol=1e-6)


def test_the_prior_of_more_levels_is_a_binomial():
    seen = torch.full((1, 2, 2), 0.25)
    mix = Mix(torch.tensor([0]), torch.tensor([0.3]))
    batch = looking(torch.zeros(1, 1, 8, 8), seen)
    unary, down, across = PuzzleMix(levels=4, prior=4.0).terms(batch, mix, seen, seen)
    chances = [math.comb(3, k) * 0.3**k * 0.7 ** (3 - k) for k in range(4)]
    expected = 0.25 - torch.tensor(chances).log()
    torch.testing.assert_close(unary[0, :, 0, 0], expected)
    assert (down > 0).all()
    assert (across > 0).all()


# ------------------------------------------------------------------------------------- the blocks


def assignment_costs(seen, mask, cost):
    """Return (B, N, N): of the block i at the place p."""
    side = seen.shape[1]
    places = torch.tensor([(r, c) for r in range(side) for c in range(side)]).float()
    far = (places[:, None] - places[None]).square().sum(2) / (side - 1) ** 2
    return cost * far - seen.flatten(1)[:, :, None] * mask.flatten(1)[:, None, :]


@pytest.mark.parametrize(("side", "most"), [(2, 0.01), (4, 0.05), (8, 0.08), (16, 0.08)])
@pytest.mark.parametrize("power", [3.0, 12.0])
def test_transport_is_nearly_the_best_assignment(side, most, power):
    """It loses a few percent of what the best assignment gains over leaving blocks in place."""
    size = 24 if side < 16 else 8
    seen = salient_images(size, side, seed=side, power=power)[1]
    generator = torch.Generator().manual_seed(1)
    mask = (torch.rand(size, side, side, generator=generator) < 0.5).float()
    content = transport(seen, mask, 0.8)
    assert torch.equal(content.sort(1).values, torch.arange(side**2).expand(size, -1))
    costs = assignment_costs(seen, mask, 0.8).double()
    found = costs.gather(1, content[:, None])[:, 0].sum(1)
    home = costs.diagonal(dim1=1, dim2=2).sum(1)
    best = torch.tensor(
        [c[linear_sum_assignment(c.numpy())].sum() for c in costs], dtype=torch.float64
    )
    assert (best <= found + 1e-6).all()
    assert (found <= home + 1e-9).all()
    assert (found - best).sum() <= most * (home - best).sum() + 1e-6
    if side > 2:
        assert (home - best).sum() > 0.01


def test_transport_moves_what_is_salient_to_where_it_is_shown():
    seen = torch.zeros(1, 4, 4)
    seen[0, 1, 1] = 1.0
    mask = torch.zeros(1, 4, 4)
    mask[0, 1, 2] = 1.0
    content = transport(seen, mask, 0.8).view(4, 4)
    assert content[1, 2] == 5
    assert content[1, 1] == 6
    # Not where it costs more than it gains: 2 (3 / 3)² of it.
    assert torch.equal(transport(seen, mask, 20.0), torch.arange(16)[None])


@pytest.mark.parametrize("mask", [0.0, 1.0])
@pytest.mark.parametrize("cost", [0.0, 0.8])
def test_transport_leaves_all_where_the_mask_is_the_same_everywhere(mask, cost):
    seen = salient_images(5, 8, power=20.0)[1]
    found = transport(seen, torch.full((5, 8, 8), mask), cost)
    assert torch.equal(found, torch.arange(64).expand(5, -1))


@pytest.mark.parametrize(("side", "size"), [(4, (8, 8)), (4, (16, 32)), (3, (7, 8)), (2, (5, 9))])
def test_moved_blocks_are_read_whole(side, size):
    height, width = size
    x = torch.rand(3, 2, height, width)
    content = torch.stack([torch.randperm(side**2) for _ in range(3)])
    starts = [[-(-i * length // side) for i in range(side + 1)] for length in size]
    expected = torch.empty_like(x)
    for i in range(3):
        for row in range(height):
            for column in range(width):
                block = (row * side // height, column * side // width)
                source = divmod(int(content[i, block[0] * side + block[1]]), side)
                place = []
                for axis, pixel in enumerate((row, column)):
                    there = starts[axis][source[axis]] + pixel - starts[axis][block[axis]]
                    place.append(min(there, starts[axis][source[axis] + 1] - 1))
                expected[i, :, row, column] = x[i, :, place[0], place[1]]
    mask = torch.ones(3, 1, height, width)
    mix = Mix(torch.arange(3), torch.ones(3), mask, warp=Warp(own=moved(content, height, width)))
    torch.testing.assert_close(functional.mix(x, mix), expected, rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------------------------------- PuzzleMix


@pytest.mark.parametrize("size", [(16, 16), (9, 13), (4, 20)])
@pytest.mark.parametrize("levels", [2, 3])
def test_lam_is_the_mean_of_the_mask_whose_values_are_the_levels(size, levels):
    x, seen = torch.rand(7, 3, *size), torch.rand(7, *size) ** 4
    batch = looking(x, seen / seen.sum((1, 2), keepdim=True))
    for seed in range(5):
        torch.manual_seed(seed)
        mix = PuzzleMix(levels=levels).shape(batch, Mix(torch.randperm(7), torch.rand(7)))
        mean = mix.dense_mask().double().mean((1, 2, 3))
        torch.testing.assert_close(mix.lam.double(), mean, rtol=0, atol=1e-7)
        assert set((mix.mask * (levels - 1)).unique().tolist()) <= set(range(levels))
        mixed = PuzzleMix()(x, mix)
        own = functional.mix(x, Mix(torch.arange(7), mix.lam, torch.ones_like(mix.mask),
                                    warp=Warp(own=mix.warp.own)))  # fmt: skip
        theirs = functional.mix(x, Mix(mix.partner, mix.lam, torch.zeros_like(mix.mask),
                                       warp=Warp(partner=mix.warp.partner)))  # fmt: skip
        expected = mix.mask * own + (1 - mix.mask) * theirs
        torch.testing.assert_close(mixed, expected, rtol=1e-5, atol=1e-5)


def test_ends_are_identity_and_partner():
    x, seen = salient_images(6, 16, power=30.0)
    partner = torch.tensor([1, 2, 3, 4, 5, 0])
    for blocks in (2, 8):
        policy = PuzzleMix(blocks)
        for lam, expected in ((1.0, x), (0.0, x[partner])):
            mix = policy.shape(looking(x, seen), Mix(partner, torch.full((6,), lam)))
            assert (mix.lam == lam).all()
            torch.testing.assert_close(policy(x, mix), expected)


def test_a_pair_is_divided_between_its_two_mixes():
    """The mask of (i, j, λ) is what the mask of (j, i, 1 - λ) leaves; so λ is fair."""
    x, seen = salient_images(20, 16)
    partner = torch.arange(20) ^ 1
    lam = torch.rand(10)
    mix = Mix(partner, torch.stack([lam, 1 - lam], 1).flatten())
    shaped = PuzzleMix(8).shape(looking(x, seen), mix)
    same = (shaped.mask[::2] + shaped.mask[1::2] == 1).flatten(1).all(1)
    assert same.float().mean() >= 0.9  # but for ties
    assert (shaped.lam[::2] + shaped.lam[1::2] - 1).abs().mean() < 0.01


@pytest.mark.parametrize("seed", range(4))
def test_it_keeps_more_saliency_than_chance_and_transport_more_still(seed):
    x, _ = salient_images(64, 32, seed)
    seen = salient_images(64, 8, seed)[1].repeat_interleave(4, 1).repeat_interleave(4, 2) / 16
    generator = torch.Generator().manual_seed(5)
    mix = Mix(torch.randperm(64, generator=generator), torch.rand(64, generator=generator))
    kept = {}
    for name, move in (("still", None), ("moved", 0.2)):
        policy = PuzzleMix(8, transport=move)
        shaped = policy.shape(looking(x, seen), mix)
        own = functional.mix(seen, Mix(torch.arange(64), mix.lam, torch.ones_like(shaped.mask),
                                       warp=shaped.warp))  # fmt: skip
        theirs = functional.mix(seen, Mix(mix.partner, mix.lam, torch.zeros_like(shaped.mask),
                                          warp=shaped.warp))  # fmt: skip
        mask = shaped.mask[:, 0]
        kept[name] = float((mask * own + (1 - mask) * theirs).sum((1, 2)).mean())
    # A mask that knows nothing keeps λ of one and 1 - λ of the other: 1 in sum.
    assert kept["still"] > 1.2
    assert kept["moved"] > kept["still"] + 0.02


def test_blocks_are_drawn_for_each_batch_from_those_that_fit():
    x, seen = salient_images(3, 9)
    policy = PuzzleMix(transport=None)
    sides = set()
    for seed in range(30):
        torch.manual_seed(seed)
        mix = policy.shape(looking(x, seen), Mix(torch.tensor([1, 2, 0]), torch.full((3,), 0.5)))
        # Where values change tells the grid apart: in thirds and halves of 9 pixels.
        changes = mix.mask[:, 0].diff(dim=2).abs().sum((0, 1)).nonzero().flatten() + 1
        sides.add(2 if set(changes.tolist()) <= {5} else 4)
    assert sides == {2, 4}
    with pytest.raises(InputError, match=r"less than 2 x 2 pixels in images of 9 x 9"):
        PuzzleMix(8).shape(looking(x, seen), Mix(torch.arange(3), torch.rand(3)))


@pytest.mark.parametrize(("blocks", "pieces", "width"), [(2, 8, 4), (4, 8, 4), (8, 2, 4)])
def test_content_moves_in_pieces(blocks, pieces, width):
    """By whole pieces, all pixels of a piece together, whatever the size of the mask's blocks."""
    x, seen = salient_images(32, 32, power=60.0)
    policy = PuzzleMix(blocks, transport=0.01, pieces=pieces)
    mix = policy.shape(looking(x, seen), Mix(torch.arange(32).flip(0), torch.rand(32)))
    still = torch.arange(32)
    for grid in (mix.warp.own, mix.warp.partner):
        across, down = ((grid + 1) * 16 - 0.5).unbind(3)
        for moved_by in (across - still, down - still[:, None]):
            pieces_moved = moved_by.unfold(1, width, width).unfold(2, width, width)
            assert (pieces_moved == pieces_moved[..., :1, :1]).all()
            assert (moved_by % width == 0).all()
            assert (moved_by != 0).any()
    changes = mix.mask.diff(dim=2).abs().sum((0, 1, 3)).nonzero().flatten() + 1
    assert (changes % (32 // blocks) == 0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pieces": 1}, "pieces must be a whole number from 2 on, got 1"),
        ({"blocks": 1}, "blocks must be a whole number from 2 on, got 1"),
        ({"blocks": []}, "blocks must be whole numbers"),
        ({"levels": 1}, "levels must be a whole number from 2 on"),
        ({"gamma": 1.5}, r"gamma must be a number in \[0, 1\]"),
        ({"transport": -1.0}, r"transport must be a number in \[0, inf\)"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(InputError, match=message):
        PuzzleMix(**arguments)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("per", ["sample", "batch"])
def test_it_trains_the_model(make_net, images, dtype, per):
    net, (x, y) = make_net().to(dtype), images
    step = mixwell.create("puzzlemix", num_classes=5, per=per).step(net, x.to(dtype), y)
    step.loss.backward()
    for parameter in net.parameters():
        assert parameter.grad.isfinite().all()
    assert net[0].weight.grad.abs().sum() > 0
    assert step.logits.dtype == dtype


def test_it_works_under_autocast_in_full_precision(make_net, images):
    """The mask and the moves are the same; under lower precision both would differ."""
    net, (x, y) = make_net(), images
    many, seen = salient_images(64, 16, power=20.0)
    mix = Mix(torch.arange(64).flip(0), torch.rand(64))
    policy = PuzzleMix(8, transport=0.2)
    expected = policy.shape(looking(many, seen), mix)
    with torch.autocast("cpu", torch.bfloat16):
        found = policy.shape(looking(many, seen), mix)
        mixwell.create("puzzlemix", num_classes=5)(net, x, y).backward()
    assert torch.equal(found.mask, expected.mask)
    assert torch.equal(found.warp.own, expected.warp.own)
    assert net[0].weight.grad.isfinite().all()


def test_classes_of_a_segmentation_move_with_the_pixels():
    """Each image is of one colour for each class, so that mixed pixels show their classes."""
    y = torch.randint(0, 4, (6, 16, 16))
    x = F.one_hot(y, 4).movedim(3, 1).float()
    seen = salient_images(6, 4, power=6.0)[1].repeat_interleave(4, 1).repeat_interleave(4, 2) / 16
    batch = Batch(x, y, look={"gradient": seen}.__getitem__, task="segmentation")
    mix = PuzzleMix(4, transport=0.01).shape(batch, Mix(torch.arange(6).flip(0), torch.rand(6)))
    target = Soft()(batch, mix, mix.lam)
    assert not torch.equal(target.a, y)
    own, theirs = (F.one_hot(classes, 4).movedim(3, 1) for classes in (target.a, target.b))
    lam = target.lam[:, None]
    expected = lam * own + (1 - lam) * theirs
    torch.testing.assert_close(functional.mix(x, mix), expected, rtol=1e-4, atol=1e-4)
