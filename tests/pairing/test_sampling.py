"""Draws from large batches and pools: the exact distribution, without a matrix of all pairs."""

import resource

import numpy as np
import pytest
import torch
from scipy import stats

from mixwell import InputError, pairing
from mixwell.batch import Batch
from mixwell.pairing import sampling
from mixwell.pairing.sampling import DENSE, draw_by_weight, draw_near


def targets(kind, size):
    generator = np.random.default_rng(3)
    return {
        "normal": lambda: generator.normal(size=size),
        "ties": lambda: generator.integers(20, size=size) / 5,
        "heavy tails": lambda: generator.standard_cauchy(size),
        "skewed": lambda: np.exp(3 * generator.normal(size=size)),
        "one value": lambda: np.full(size, 7.5),
    }[kind]()


def dense_inverse(y, pool, bandwidth, u, own=None):
    """The inverse of the distribution function over the sorted pool, by NumPy, pair by pair."""
    order = np.argsort(pool, kind="stable")
    log_weight = -((y[:, None] - pool[order]) ** 2) / (2 * bandwidth**2)
    if own is not None:
        log_weight[np.argsort(order)[own][:, None] == np.arange(len(pool))] = -np.inf
    weight = np.exp(log_weight - log_weight.max(1, keepdims=True))
    total = weight.cumsum(1)
    place = (total <= u[:, None] * total[:, -1:]).sum(1)
    return order[place]


@pytest.mark.parametrize("bandwidth", [1e-3, 0.05, 0.25, 1.75, 30.0])
@pytest.mark.parametrize("kind", ["normal", "ties", "heavy tails", "skewed", "one value"])
def test_a_draw_is_the_inverse_of_the_distribution_function(kind, bandwidth):
    size = 700
    y = targets(kind, size)
    u = np.random.default_rng(4).random(size)
    own = np.arange(size)
    expected = dense_inverse(y, y, bandwidth, u, own)
    found = draw_near(*(torch.from_numpy(v) for v in (y, y)), bandwidth, torch.from_numpy(u),
                      torch.from_numpy(own)).numpy()  # fmt: skip
    assert (found != own).all()
    # Of equal targets any may be meant by one draw.
    np.testing.assert_array_equal(y[found], y[expected])
    if kind in ("normal", "heavy tails", "skewed"):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("bandwidth", [1e-4, 0.3, 4.0])
def test_a_pool_is_drawn_from_as_a_batch_is(bandwidth):
    generator = np.random.default_rng(1)
    y, pool, u = generator.normal(0, 2, 300), generator.normal(size=500), generator.random(300)
    found = draw_near(*(torch.from_numpy(v) for v in (y, pool)), bandwidth, torch.from_numpy(u))
    np.testing.assert_array_equal(found.numpy(), dense_inverse(y, pool, bandwidth, u))


def test_who_is_far_from_all_others_takes_one_of_the_nearest():
    pool = torch.cat([torch.randn(900).double(), torch.tensor([40.0, 40.5, -300.0])])
    u = torch.rand(903, dtype=torch.float64)
    own = torch.arange(903)
    found = draw_near(pool, pool, 0.1, u, own)
    assert found[900:902].tolist() == [901, 900]
    lowest = pool[:900].argmin()
    assert found[902] == lowest
    assert draw_near(pool[:1], pool[:1], 0.1, u[:1], own[:1]).tolist() == [0]


def test_the_edges_of_the_uniform_numbers_draw_the_ends():
    pool = torch.tensor([3.0, 1.0, 2.0, 5.0, 4.0])
    u = torch.tensor([0.0, 1 - 2**-24])
    assert draw_near(torch.tensor([3.0, 3.0]), pool, 100.0, u).tolist() == [1, 3]
    own = torch.tensor([1, 3])
    assert draw_near(pool[own], pool, 100.0, u, own).tolist() == [2, 4]


@pytest.mark.parametrize("columns", [1, 2])
def test_large_batches_are_drawn_by_the_dense_forms_distribution(columns):
    """Chi-squared over 4,000 samples of eight targets; fails by chance one time in a thousand."""
    generator = torch.Generator().manual_seed(2)
    kinds, size = torch.randn(8, columns, generator=generator), 32_000 if columns == 1 else 8_000
    kind = torch.randint(8, (size,), generator=generator)
    batch = Batch(torch.zeros(size, 1), kinds[kind], generator=generator)
    partner = pairing.LabelKernel(0.6)(batch)
    assert (partner != torch.arange(size)).all()
    for own in range(8):
        density = torch.bincount(kind, minlength=8).double()
        density[own] -= 1
        density *= torch.exp(-(kinds - kinds[own]).square().sum(1).double() / (2 * 0.6**2))
        seen = torch.bincount(kind[partner[kind == own]], minlength=8)
        expected = density / density.sum() * seen.sum()
        keep = expected > 5  # as chi-squared asks
        seen = [*seen[keep].tolist(), int(seen[~keep].sum()) + 1e-9]
        expected = [*expected[keep].tolist(), float(expected[~keep].sum()) + 1e-9]
        assert stats.chisquare(seen, expected).pvalue > 1e-3 / 8


@pytest.mark.parametrize(
    "part",
    [
        pairing.LabelKernel(0.25),
        pairing.DistanceKernel(0.3, "input"),
        pairing.NearestNeighbour(2, "input"),
        pairing.Quantile(0.3, "below", "input"),
        pairing.Quantile(0.3, "above", "input"),
        pairing.PerfectMatching(),
        pairing.InterClass(),
    ],
    ids=str,
)
def test_no_pairing_holds_all_pairs_of_a_large_batch(part):
    size = 4000
    y = torch.randint(3, (size,)) if isinstance(part, pairing.InterClass) else torch.randn(size)
    batch = Batch(torch.randn(size, 2), y)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    partner = part(batch)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert partner.shape == (size,)
    assert grown < 60_000  # kB; a float32 matrix of all pairs has 64,000


def test_blocks_draw_what_the_whole_matrix_draws(monkeypatch):
    """In large batches NearestNeighbour and the kernels agree with one block."""
    x, y = torch.randn(DENSE + 8, 3), torch.randn(DENSE + 8)

    def draws():
        found = []
        for part in (
            pairing.NearestNeighbour(3, "input"),
            pairing.DistanceKernel(0.3, "input"),
            pairing.Quantile(0.2, "below", "input"),
            pairing.Quantile(0.2, "above", "input", self_pairs=False),
        ):
            generator = torch.Generator().manual_seed(0)
            found.append(part(Batch(x, y, generator=generator)))
        return torch.stack(found)

    whole = draws()
    monkeypatch.setattr(sampling, "BLOCK", 3 * len(y))
    assert torch.equal(draws(), whole)
    own = torch.arange(len(y))
    distance = torch.cdist(x, x)
    assert (whole[[0, 1, 3]] != own).all()
    nearest = distance.fill_diagonal_(torch.inf).topk(3, largest=False).indices
    assert (nearest == whole[0][:, None]).any(1).all()
    # Four in five pairs are farther apart than the quantile of random pairs.
    assert distance[own, whole[3]].min() > 0.9 * torch.pdist(x).quantile(0.2)
    assert (x - x[whole[2]]).norm(dim=1).max() < 1.1 * torch.pdist(x).quantile(0.2) + distance.min(
        1
    ).values.max()


def test_weights_are_followed_and_what_has_none_is_never_drawn():
    weight = torch.tensor([[0.0, 1.0, 0.0, 3.0, 0.0]]).log().expand(4, -1)
    u = torch.tensor([0.0, 0.24, 0.26, 1 - 2**-24])
    assert draw_by_weight(lambda rows: weight[rows], u, 5).tolist() == [1, 1, 3, 3]


# ----------------------------------------------------------------------------------------- a pool


def test_partners_from_a_pool_follow_the_kernel():
    """Chi-squared over 20,000 draws at a fixed seed; fails by chance one time in a thousand."""
    pool = torch.tensor([0.0, 0.2, 0.9, -1.0, 5.0])
    y = torch.full((20_000,), 0.1)
    generator = torch.Generator().manual_seed(0)
    drawn = pairing.LabelKernel(0.5).draw_from(y, pool, generator=generator)
    density = torch.exp(-((pool - 0.1) ** 2) / 0.5).double()[:4]
    counts = torch.bincount(drawn, minlength=5)
    assert counts[4] == 0
    expected = 20_000 * density / density.sum()
    assert stats.chisquare(counts[:4].numpy(), expected.numpy()).pvalue > 1e-3


def test_a_shuffle_draws_from_a_pool_with_replacement():
    """Chi-squared over 20,000 draws at a fixed seed; fails by chance one time in a thousand."""
    generator = torch.Generator().manual_seed(0)
    pool, y = torch.randn(7), torch.randn(20_000)
    part = pairing.Shuffle()
    drawn = part.draw_from(y, pool, generator=generator)
    assert stats.chisquare(torch.bincount(drawn, minlength=7).numpy()).pvalue > 1e-3
    own = torch.full((20_000,), 2)
    drawn = part.draw_from(y, pool, own=own, generator=generator)
    counts = torch.bincount(drawn, minlength=7)
    assert counts[2] == 0
    assert stats.chisquare(counts[[0, 1, 3, 4, 5, 6]].numpy()).pvalue > 1e-3
    with pytest.raises(InputError, match="NearestNeighbour pairs the samples of a batch"):
        pairing.NearestNeighbour().draw_from(y, pool)


def test_a_pool_that_was_written_to_is_sorted_anew():
    part, pool = pairing.LabelKernel(1e-6), torch.tensor([1.0, 2.0, 3.0, 4.0])
    y = torch.tensor([1.0, 4.0])
    assert part.draw_from(y, pool).tolist() == [0, 3]
    assert part.draw_from(y, pool).tolist() == [0, 3]
    pool.copy_(pool.flip(0))
    assert part.draw_from(y, pool).tolist() == [3, 0]
    del pool
    assert not sampling._LAST
    other = torch.tensor([4.0, 1.0, 2.0, 3.0])
    assert part.draw_from(y, other).tolist() == [1, 0]
    assert pairing.LabelKernel(100.0).draw_from(y.repeat(200), other).unique().tolist() == [
        0,
        1,
        2,
        3,
    ]


@pytest.mark.parametrize("shape", [(300,), (300, 1), (300, 3)])
def test_the_own_place_in_a_pool_is_left_out(shape):
    pool = torch.randn(shape)
    own = torch.arange(0, 300, 7)
    generator = torch.Generator().manual_seed(1)
    drawn = pairing.LabelKernel(1e-9).draw_from(pool[own], pool, own=own, generator=generator)
    assert (drawn != own).all()
    again = torch.Generator().manual_seed(1)
    assert torch.equal(
        drawn, pairing.LabelKernel(1e-9).draw_from(pool[own], pool, own=own, generator=again)
    )
    alone = pairing.LabelKernel(1e-9).draw_from(pool[own], pool, generator=generator)
    assert torch.equal(pool[alone], pool[own])


# ------------------------------------------------------------------------------------------ units


def test_a_bandwidth_in_the_targets_units_is_the_standardised_one_times_the_deviation():
    """Airfoil's 1.75 decibels are 0.248 of its standard deviation of 7.05."""
    y = torch.randn(40)
    raw = pairing.LabelKernel(1.75, units="raw", target_std=7.05)
    standardised = pairing.LabelKernel(1.75 / 7.05)

    def drawn(part, y):
        batch = Batch(torch.zeros(40, 1), y, generator=torch.Generator().manual_seed(0))
        return torch.stack([part(batch) for _ in range(20)])

    assert torch.equal(drawn(raw, y), drawn(standardised, y))
    assert torch.equal(drawn(raw, y[:, None]), drawn(raw, y))
    unscaled = pairing.LabelKernel(1.75, units="raw", target_std=1)
    assert torch.equal(drawn(unscaled, y * 7.05), drawn(raw, y))
    listed = pairing.LabelKernel(1.75, units="raw", target_std=[7.05])
    assert torch.equal(drawn(listed, y), drawn(raw, y))
    # Told the deviation of the data, a standardised bandwidth stays what it is.
    told = pairing.LabelKernel(1.75 / 7.05, target_std=7.05)
    assert torch.equal(drawn(told, y), drawn(standardised, y))


def test_each_target_has_its_own_deviation():
    y = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    part = pairing.LabelKernel(0.05, units="raw", target_std=[10.0, 0.1])
    assert part(Batch(torch.zeros(3, 1), y)).tolist()[0] == 2
    with pytest.raises(InputError, match="target_std has 2 entries, but y has shape"):
        part(Batch(torch.zeros(3, 1), torch.randn(3, 3)))


def test_a_bandwidth_in_shares_of_the_largest_values_is_the_authors():
    """They divide each column by its largest absolute value, and take the density of that."""
    raw = torch.rand(30, 3, dtype=torch.float64) * torch.tensor([1.0, 2.0, 0.01]) - 0.2
    mean, std, largest = raw.mean(0), raw.std(0), raw.abs().amax(0)
    y = ((raw - mean) / std).float()
    apart = torch.cdist(raw / largest, raw / largest).square()
    log_density = (-apart / (2 * 0.3**2)).fill_diagonal_(-torch.inf)
    expected = log_density.softmax(1)
    part = pairing.LabelKernel(
        0.3, units="largest", target_std=std.tolist(), target_largest=largest.tolist()
    )
    counts = torch.zeros(30, 30, dtype=torch.float64)
    batch = Batch(torch.zeros(30, 1), y, generator=torch.Generator().manual_seed(0))
    draws = 3000
    for _ in range(draws):
        counts[torch.arange(30), part(batch)] += 1
    error = (expected * (1 - expected) / draws).sqrt()
    assert bool(((counts / draws - expected).abs() <= 5 * error + 1e-3).all())
    pool = part.draw_from(y.repeat(2000, 1), y, own=torch.arange(30).repeat(2000))
    shares = torch.zeros(30, 30).index_put_(
        (torch.arange(30).repeat(2000), pool), torch.ones(()), accumulate=True
    )
    error = (expected * (1 - expected) / 2000).sqrt()
    assert bool(((shares / 2000 - expected).abs() <= 5 * error + 1e-3).all())


def test_one_target_in_shares_of_its_largest_value():
    y = torch.randn(40)

    def drawn(part):
        batch = Batch(torch.zeros(40, 1), y, generator=torch.Generator().manual_seed(0))
        return torch.stack([part(batch) for _ in range(20)])

    shares = pairing.LabelKernel(0.05, units="largest", target_std=0.5, target_largest=4.0)
    assert torch.equal(drawn(shares), drawn(pairing.LabelKernel(0.4)))
    one = {"target_std": 0.5, "target_largest": [4.0]}
    assert torch.equal(drawn(pairing.LabelKernel(0.05, units="largest", **one)), drawn(shares))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"units": "decibel"}, "units='decibel'"),
        ({"units": "largest"}, "give target_std"),
        ({"units": "largest", "target_std": 1.0}, "give target_largest"),
        ({"target_largest": 0.0}, "target_largest must be"),
        (
            {"units": "largest", "target_std": [1.0, 2.0], "target_largest": [1.0, 2.0, 3.0]},
            "target_std has 2 entries and target_largest 3",
        ),
        ({"units": "raw"}, "give target_std"),
        ({"units": "raw", "target_std": 0.0}, "target_std must be"),
        ({"target_std": [[1.0]]}, "target_std must be"),
    ],
)
def test_bad_units_are_named(arguments, words):
    with pytest.raises(InputError, match=words):
        pairing.LabelKernel(**arguments)
