"""What each policy draws at published settings, against the papers' laws written out slowly.

Each expected number is computed here, by enumeration, by integration or in closed form, from the
equations and not by the library. Draws are compared by their moments: with a fixed seed, and five
standard errors, so that a right policy fails for one seed in 1.7 million a comparison.
"""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

import mixwell
from mixwell.methods import accepts

SIGMAS = 5.0


def agree(values, mean, variance):
    """Check that values of a law with this mean and variance have that mean, to five errors."""
    values = values.double()
    error = math.sqrt(variance / values.numel())
    assert abs(float(values.mean()) - mean) <= SIGMAS * error + 1e-6


def agree_moments(values, mean, variance, fourth):
    """Likewise, and that they have this variance; ``fourth`` is the fourth central moment."""
    agree(values, mean, variance)
    squared = (values.double() - mean).square()
    agree(squared, variance, fourth - variance**2)


def beta_moments(alpha):
    """Mean, variance and fourth central moment of Beta(α, α)."""
    return 0.5, 1 / (4 * (2 * alpha + 1)), 3 / (16 * (2 * alpha + 1) * (2 * alpha + 3))


def beta_cdf(x, alpha, steps=4000):
    """P(u < x), u ~ Beta(α, α), by the midpoint rule in v = t^α, in which nothing is infinite."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > 0.5:
        return 1 - beta_cdf(1 - x, alpha, steps)
    v = (np.arange(steps) + 0.5) / steps * x**alpha
    density = (1 - v ** (1 / alpha)) ** (alpha - 1) / alpha
    whole = math.gamma(alpha) ** 2 / math.gamma(2 * alpha)
    return float(density.mean()) * x**alpha / whole


def uniform_cdf(x):
    return min(max(x, 0.0), 1.0)


def draw(name, x, y, seed=0, model=None, **arguments):
    """Return the mixed inputs, targets and mix of one batch."""
    generator = torch.Generator().manual_seed(seed)
    method = mixwell.create(name, generator=generator, **arguments)
    return method.preview(x, y, model=model)


def vectors(rows, columns=2):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(1))


def images(rows, side=32):
    return torch.rand(rows, 3, side, side, generator=torch.Generator().manual_seed(1))


def classes(rows, count=10):
    return torch.arange(rows) % count


# ----------------------------------------------------------------------------------- λ of the pair

BETAS = [
    ("mixup", "cifar10", 1.0), ("mixup", "imagenet", 0.2), ("manifold_mixup", "cifar10", 2.0),
    ("regmixup", "cifar10", 20.0), ("regmixup", "cifar100", 10.0), ("infinite_class", "cifar", 0.2),
    ("regmixup+infinite_class", "cifar100", 20.0), ("mixup_io", "cifar10", 0.2),
    ("mit", "cifar", 0.5), ("rankmixup", "cifar10", 2.0), ("rankmixup_ndcg", "tiny-imagenet", 1.0),
]  # fmt: skip


@pytest.mark.parametrize(("name", "published", "alpha"), BETAS)
def test_beta(name, published, alpha):
    rows = 40_000
    per = {"per": "sample"} if accepts(name, "per") else {}
    mix = draw(name, vectors(rows), classes(rows), published=published, **per)[2]
    agree_moments(mix.lam, *beta_moments(alpha))


BY_BATCH = [
    *((name, "cifar10") for name in ("mixup", "cutmix", "regmixup", "infinite_class", "saliencymix",
                                     "fmix", "resizemix", "rankmixup", "rankmixup_ndcg")),
    *((f"{name}+decoupled", published) for published in ("cifar100", "cifar100-resnext50")
      for name in ("mixup", "cutmix", "resizemix", "saliencymix", "fmix", "manifold_mixup")),
]  # fmt: skip


@pytest.mark.cases(quick=7)
@pytest.mark.parametrize(("name", "published"), BY_BATCH)
def test_setups_draw_one_for_a_batch_as_the_authors_do(name, published):
    inside = {"layer": "input"} if "manifold_mixup" in name else {}
    drawn = [
        draw(name, images(6), classes(6), seed=seed, published=published, **inside)[2].lam
        for seed in range(40)
    ]
    assert all(len(lam.unique()) == 1 for lam in drawn)
    assert len(torch.stack(drawn)[:, 0].unique()) > 10


SK = {"cifar": (1.0, 0.25), "tiny-imagenet": (1.0, 1.25), "imagenet": (0.1, 0.25),
      "moons": (5.0, 0.2)}  # fmt: skip


@pytest.mark.parametrize("published", SK)
def test_similarity_kernel(published):
    own, theirs = vectors(8, 2), vectors(16, 2)[8:]
    times = 3000
    # In reverse order the k-th pair of 8 is the same in each of the copies.
    x = torch.cat([own.repeat(times, 1), theirs.repeat(times, 1).flip(0)])
    settings = {"published": published, "distance": "input", "pairing": "Flip"}
    mix = draw("sk_mixup", x, classes(len(x)), **settings)[2]
    tau_max, tau_std = SK[published]
    distances = [
        sum((float(a) - float(b)) ** 2 for a, b in zip(*pair, strict=True))
        for pair in zip(own, theirs, strict=True)
    ]
    if published == "moons":
        distances = [math.sqrt(distance) for distance in distances]
    mean = sum(distances) / len(distances)
    lam = torch.cat([mix.lam[: 8 * times].view(times, 8), mix.lam.flip(0)[: 8 * times].view(-1, 8)])
    for k, distance in enumerate(distances):
        tau = tau_max * math.exp(-(distance / mean - 1) / (2 * tau_std**2))
        agree_moments(lam[:, k], *beta_moments(tau))


@pytest.mark.parametrize(("published", "tau_max", "tau_std"),
                         [("airfoil", 1e-4, 0.5), ("exchange-rate", 5.0, 1.0)])  # fmt: skip
def test_similarity_kernel_in_regression(published, tau_max, tau_std):
    y = torch.tensor([0.0, 0.3, 1.0, 2.5, 0.1, 0.2, 3.0, 0.5])
    times = 4000
    targets = torch.cat([y[:4].repeat(times), y[4:].repeat(times).flip(0)])
    mixed = draw("sk_mixup", vectors(len(targets)), targets, published=published, pairing="Flip")
    mix = mixed[2]
    distances = [(float(a) - float(b)) ** 2 for a, b in zip(y[:4], y[4:], strict=True)]
    mean = sum(distances) / 4
    for k, distance in enumerate(distances):
        tau = tau_max * math.exp(-(distance / mean - 1) / (2 * tau_std**2))
        agree_moments(mix.lam[: 4 * times].view(times, 4)[:, k], *beta_moments(tau))
    torch.testing.assert_close(mixed[1].lam, mix.lam)


def test_mixes_of_many():
    mix = draw("multi_mixup", vectors(40_000), classes(40_000))[2]
    for k in range(3):  # Dirichlet(1, 1, 1): each weight is Beta(1, 2)
        agree(mix.weights[:, k], 1 / 3, 1 / 18)
        agree(mix.weights[:, k].square(), 1 / 6, 1 / 15 - 1 / 36)
    torch.testing.assert_close(mix.weights.sum(1), torch.ones(40_000))


def test_zeta_mixup():
    mix = draw("zeta_mixup", vectors(8), classes(8))[2]
    series = [place**-2.8 for place in range(1, 9)]
    expected = torch.tensor([weight / sum(series) for weight in series])
    torch.testing.assert_close(mix.weights, expected.expand(8, 8))
    assert float(mix.weights[0, 0]) == pytest.approx(0.8095, abs=5e-5)
    assert mix.partners[:, 0].tolist() == list(range(8))


def test_balanced_mixup():
    y = torch.tensor([0] * 3000 + [1] * 900 + [2] * 100)
    mix = draw("balanced_mixup", vectors(4000), y, seed=2)[2]
    agree(mix.lam, 1 / 1.1, 0.1 / (1.1**2 * 2.1))
    assert float(mix.lam.mean()) == pytest.approx(0.909, abs=0.02)
    for label in range(3):
        agree((y[mix.partner] == label).float(), 1 / 3, 2 / 9)


@pytest.mark.parametrize(("published", "tau"), [("cifar10-lt", -0.5), ("cifar100-lt", -0.1)])
def test_unimix(published, tau):
    counts, alpha = [1600, 400, 100], 0.8
    y = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)]).repeat(8)
    mix = draw("unimix", vectors(len(y)), y, published=published, class_counts=counts)[2]
    shares = [count * count**tau for count in counts]
    shares = [share / sum(shares) for share in shares]
    for label, share in enumerate(shares):
        agree((y[mix.partner] == label).float(), share, share * (1 - share))
    for own, other in itertools.product(range(3), repeat=2):
        lam = mix.lam[(y == own) & (y[mix.partner] == other)]
        xi = counts[other] / (counts[own] + counts[other])
        # λ = u + ξ, less 1 where u > 1 - ξ: its mean loses P(u > 1 - ξ) = P(u < ξ).
        expected = 0.5 + xi - beta_cdf(xi, alpha)
        agree(lam, expected, 0.25)  # no law on [0, 1] has a larger variance
        for point in (0.1, 0.5, 0.9):  # P(λ < q), in two pieces of u
            below = max(beta_cdf(point - xi, alpha), 0.0)
            wrapped = beta_cdf(min(1 - xi + point, 1.0), alpha) - beta_cdf(1 - xi, alpha)
            share = below + wrapped
            agree((lam < point).float(), share, share * (1 - share) + 1e-4)


def test_midpoint_schedule():
    net = nn.Sequential(nn.Flatten(), nn.Linear(2, 10))
    method = mixwell.create("am_mixup", num_classes=10)
    for progress in (0.0, 0.2, 0.5, 1.0):
        method.set_progress(progress)
        lam = method.step(net, vectors(20), classes(20)).mix.lam
        expected = 0.5 + 0.5 * math.exp(-5 * progress)
        torch.testing.assert_close(lam, torch.full((20,), expected))


# --------------------------------------------------------------------------------- whom, and labels


def test_remix():
    counts = [1000, 334, 333, 100, 10]
    y = classes(4000, 5)
    _, target, mix = draw("remix", vectors(4000), y, published="cifar", class_counts=counts)
    for i in range(4000):
        own, other, lam = counts[y[i]], counts[y[mix.partner[i]]], float(mix.lam[i])
        if own / other >= 3 and lam < 0.5:
            lam = 0.0
        elif own / other <= 1 / 3 and 1 - lam < 0.5:
            lam = 1.0
        assert float(target.lam[i]) == pytest.approx(lam, abs=1e-7)


def test_heavier_side():
    _, target, mix = draw("mixup_io", vectors(200), classes(200), published="cifar10", per="sample")
    assert target.lam.tolist() == [1.0 if lam >= 0.5 else 0.0 for lam in mix.lam.tolist()]


def test_partners_of_c_mixup_are_as_near_as_its_kernel_draws_them():
    # Standardised targets: the published 1.75 dB of Airfoil's 7.05 are 0.248 of them.
    y = torch.randn(60, generator=torch.Generator().manual_seed(3))
    y = (y - y.mean()) / y.std(correction=0)
    gaps = []
    for seed in range(200):
        mix = draw("c_mixup", vectors(60), y, seed=seed, published="airfoil", layer="input")[2]
        gaps.append((y - y[mix.partner]).abs())
    mean = square = 0.0
    for i in range(60):
        weights = [math.exp(-((float(y[i] - y[j]) / 0.248) ** 2) / 2) for j in range(60) if j != i]
        others = [abs(float(y[i] - y[j])) for j in range(60) if j != i]
        for weight, gap in zip(weights, others, strict=True):
            mean += weight / sum(weights) * gap / 60
            square += weight / sum(weights) * gap**2 / 60
    agree(torch.cat(gaps), mean, square - mean**2)
    assert mean < 0.25 < float(torch.cdist(y[:, None], y[:, None]).mean())


@pytest.mark.slow
@pytest.mark.parametrize("side", ["below", "above"])
def test_partners_by_a_quantile(side):
    rows, q = 24, 0.3
    x = vectors(rows, 3)
    distance = [[sum(((x[i] - x[j]) ** 2).tolist()) for j in range(rows)] for i in range(rows)]
    # A sample is at distance 0 from itself, and may be its own partner.
    ordered = sorted(value for line in distance for value in line)
    limit = ordered[round(q * (rows * rows - 1))]
    near = [[value <= limit * (1 + 1e-6) for value in line] for line in distance]
    far = [[value >= limit * (1 - 1e-6) for value in line] for line in distance]
    allowed = torch.tensor(near if side == "below" else far)
    drawn = torch.zeros(rows, rows)
    times = 1000
    generator = torch.Generator().manual_seed(0)
    method = mixwell.create("quantile_mixup", q=q, side=side, distance="input", generator=generator)
    for _ in range(times):
        drawn[torch.arange(rows), method.preview(x, classes(rows))[2].partner] += 1
    assert not bool(drawn[~allowed].any())
    share = allowed / allowed.sum(1, keepdim=True)
    error = (share * (1 - share) / times).sqrt()
    assert bool(((drawn / times - share).abs() <= SIGMAS * error + 1e-9).all())


def test_inter_class_pairs():
    y = torch.tensor([0] * 2000 + [1] * 1000 + [2] * 1000)
    net = nn.Sequential(nn.Flatten(), nn.Linear(2, 3))
    partner = mixwell.create("am_mixup").step(net, vectors(4000), y).mix.partner
    assert bool((y[partner] != y).all())
    agree((y[partner][y == 0] == 1).float(), 1 / 2, 1 / 4)
    agree((y[partner][y == 1] == 0).float(), 2 / 3, 2 / 9)


def test_two_mixes_of_mit_lie_on_either_side_of_the_midpoint():
    rows = 500
    seen = []

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(rows, 10)

        def forward(self, x):
            seen.append(x.detach())
            return self.head(x)

    gaps = []
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        # Row i is the i-th unit vector, so that a mix shows its own sample's λ there.
        method = mixwell.create("mit", pairing="Flip", generator=generator)
        method.step(Net(), torch.eye(rows), classes(rows))
        first, second = (mixed.diagonal() for mixed in seen[-1].view(2, rows, rows))
        assert bool(((first >= 0.5) == (second <= 0.5)).all())
        gaps.append((first - second).abs())
    gap = torch.cat(gaps)
    assert float(gap.min()) >= 0.5 - 1e-6
    # The heavier λ is a ~ U(1/2, 1), the other U(0, a - 1/2): the gap is U(1/2, a).
    mean, square = (0.75 + 0.5) / 2, (7 / 12 + 0.375 + 0.25) / 3
    assert mean == 0.625
    agree(gap, mean, square - mean**2)


# --------------------------------------------------------------------------------- boxes and masks


def sides_of(cdf, size):
    """P(side = s) of a box of area 1 - λ in a square image, sides rounded to pixels."""

    def below(side):  # P(size · √(1 - λ) < side), λ's law being symmetric
        return cdf((max(side, 0) / size) ** 2)

    return [below(side + 0.5) - below(side - 0.5) for side in range(size + 1)]


def share_moments(cdf, size):
    """Mean and mean square of the share that a clipped box with a uniform centre leaves."""
    first = second = 0.0
    for side, chance in enumerate(sides_of(cdf, size)):
        covered = [
            min(centre - side // 2 + side, size) - max(centre - side // 2, 0)
            for centre in range(size)
        ]
        area = sum(covered) / size
        square = sum(length**2 for length in covered) / size
        first += chance * (1 - area**2 / size**2)
        second += chance * (1 - 2 * area**2 / size**2 + square**2 / size**4)
    return first, second


def test_cutmix():
    mix = draw("cutmix", images(20_000, 16), classes(20_000), published="imagenet", per="sample")[2]
    mean, square = share_moments(uniform_cdf, 16)
    agree(mix.lam, mean, square - mean**2)
    agree(mix.lam.square(), square, 0.25)
    mask = mix.dense_mask().flatten(1).float()
    torch.testing.assert_close(mask.mean(1), mix.lam)


@pytest.mark.parametrize("name", ["cutmix", "saliencymix"])
def test_half_of_the_samples_of_cifar_are_mixed(name):
    rows = 2000
    mix = draw(name, images(rows, 16), classes(rows), published="cifar100", per="sample")[2]
    none = sides_of(uniform_cdf, 16)[0]  # a box of no pixel
    share = 0.5 * (1 - none)
    agree((mix.lam < 1).float(), share, share * (1 - share))


def test_snapmix_cuts_as_cutmix_does_with_its_own_alpha():
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 10),
    )  # fmt: skip
    rows = 4000
    settings = {"published": "cub", "per": "sample"}
    mix = draw("snapmix", images(rows, 16), classes(rows), model=net, **settings)[2]
    mean, square = share_moments(lambda x: beta_cdf(x, 5.0), 16)
    agree(mix.lam, mean, square - mean**2)


@pytest.mark.slow
def test_resizemix():
    rows, size = 20_000, 32
    settings = {"published": "cifar10", "per": "sample"}
    mix = draw("resizemix", images(rows, size), classes(rows), **settings)[2]
    # The side is round(32 s), s ~ U(0.1, 0.8): 3 from 3.2 to 3.5, then each number's interval.
    low, high = 0.1 * size, 0.8 * size
    chances = {
        side: max(min(side + 0.5, high) - max(side - 0.5, low), 0) / (high - low)
        for side in range(size + 1)
    }
    mean = sum(chance * (1 - (side / size) ** 2) for side, chance in chances.items())
    square = sum(chance * (1 - (side / size) ** 2) ** 2 for side, chance in chances.items())
    agree(mix.lam, mean, square - mean**2)
    assert float(mix.lam.max()) <= 1 - (3 / size) ** 2 + 1e-6
    assert float(mix.lam.min()) >= 1 - (26 / size) ** 2 - 1e-6
    top, bottom, left, right = mix.box.edges.unbind(1)
    assert bool(((bottom - top) == (right - left)).all())
    assert int(top.min()) >= 0
    assert int(right.max()) <= size


def test_smoothmix():
    rows, size = 4000, 16
    mix = draw("smoothmix", images(rows, size), classes(rows))[2]
    place = (np.arange(size) + 0.5) / size
    centre = (np.arange(400) + 0.5) / 400
    spreads = 0.25 + 0.25 * (np.arange(100) + 0.5) / 100
    first = second = 0.0
    for spread in spreads:
        line = np.exp(-((place[None] - centre[:, None]) ** 2) / (2 * spread**2)).mean(1)
        first += line.mean() ** 2 / len(spreads)  # down and across are independent
        second += (line**2).mean() ** 2 / len(spreads)
    agree(1 - mix.lam, first, second - first**2)
    torch.testing.assert_close(mix.mask.mean((1, 2, 3)), mix.lam, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_gridmix():
    rows = 20_000
    mix = draw("gridmix", images(rows, 60)[:, :1], classes(rows))[2]
    # 60 divides by 2 to 6: all cells are alike, and λ' is their mean, Binomial(n², λ) / n².
    variance = 1 / 12 + sum(1 / n**2 for n in range(2, 7)) / 5 / 6
    agree(mix.lam, 0.5, variance)
    squared = (mix.lam.double() - 0.5).square()
    agree(squared, variance, float(squared.var()))


def test_maskmix():
    rows = 20_000
    mix = draw("maskmix", images(rows, 32)[:, :1], classes(rows))[2]
    # A quarter of the side is a patch: 16 patches, of which round(16 (1 - λ)) are the partner's.
    chances = {count: (0.5 if count in (0, 16) else 1) / 16 for count in range(17)}
    variance = sum(chance * (count / 16 - 0.5) ** 2 for count, chance in chances.items())
    fourth = sum(chance * (count / 16 - 0.5) ** 4 for count, chance in chances.items())
    agree_moments(mix.lam, 0.5, variance, fourth)
    assert len(mix.lam.unique()) == 17


def test_fmix():
    rows, size = 400, 32
    settings = {"published": "cifar", "per": "sample", "coefficient": "Constant", "lam": 0.5}
    mask = draw("fmix", images(rows, size)[:, :1], classes(rows), **settings)[2].dense_mask()[:, 0]
    assert mask.dtype == torch.bool
    assert mask.flatten(1).sum(1).tolist() == [size * size // 2] * rows

    def edges(masks):
        across = (masks[:, :, 1:] != masks[:, :, :-1]).mean((1, 2))
        return across + (masks[:, 1:] != masks[:, :-1]).mean((1, 2))

    random = np.random.default_rng(0)
    down, across = np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)[None]
    frequency = np.maximum(np.sqrt(down**2 + across**2), 1 / size)
    slow = []
    for _ in range(rows):
        noise = random.standard_normal((2, size, size))
        grey = np.fft.ifft2((noise[0] + 1j * noise[1]) / frequency**3).real
        slow.append(grey > np.median(grey))
    ours, theirs = edges(mask.numpy()), edges(np.stack(slow))
    error = math.sqrt((ours.var() + theirs.var()) / rows)
    assert abs(ours.mean() - theirs.mean()) <= SIGMAS * error
    assert theirs.mean() == pytest.approx(0.1026, abs=0.005)


def test_attentive_cells():
    net = nn.Sequential(
        nn.Conv2d(3, 4, 4, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 10),
    )  # fmt: skip
    mix = draw("attentivemix", images(20, 28), classes(20), model=net)[2]
    torch.testing.assert_close(mix.lam, torch.full((20,), 43 / 49))
    cells = mix.mask[:, 0, ::4, ::4]
    with torch.no_grad():
        seen = net[1](net[0](images(20, 28))).mean(1)
    for i in range(20):
        best = sorted(range(49), key=lambda cell: -float(seen[mix.partner[i]].flatten()[cell]))[:6]
        assert set((~cells[i].flatten().bool()).nonzero().flatten().tolist()) == set(best)


# -------------------------------------------------------------------------- one of several policies


def kind(mix):
    if mix.is_uniform:
        return "Linear"
    if mix.box is None:
        return "FMix"
    return "CutMix" if mix.box.source is None else "ResizeMix"


@pytest.mark.cases(quick=1)
@pytest.mark.parametrize(
    ("name", "arguments", "shares"),
    [
        ("randomix", {}, {"Linear": 1 / 2, "CutMix": 1 / 6, "ResizeMix": 1 / 6, "FMix": 1 / 6}),
        ("deit_mix", {"published": "imagenet"}, {"Linear": 1 / 2, "CutMix": 1 / 2}),
    ],
)
def test_policies_are_drawn_as_often_as_published(name, arguments, shares):
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    method = mixwell.create(name, generator=generator, **arguments)
    x, y = images(4, 8), classes(4)
    mixes = [method.preview(x, y)[2] for _ in range(800)]
    kinds = [kind(mix) for mix in mixes]
    for policy, share in shares.items():
        agree(torch.tensor([float(found == policy) for found in kinds]), share, share * (1 - share))
    assert set(kinds) == set(shares)
    assert all(len(mix.lam.unique()) == 1 for mix in mixes)
    alpha = 0.8 if name == "deit_mix" else 1.0
    drawn = [mix.lam[0] for mix, found in zip(mixes, kinds, strict=True) if found == "Linear"]
    agree_moments(torch.stack(drawn), *beta_moments(alpha))
