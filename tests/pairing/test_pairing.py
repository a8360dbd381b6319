import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mixwell import InputError, pairing
from mixwell.batch import Batch

ALL = [
    pairing.Shuffle(),
    pairing.Flip(),
    pairing.PerfectMatching(),
    pairing.InterClass(),
    pairing.NearestNeighbour(distance="input"),
    pairing.NearestNeighbour(k=3, distance="label"),
    pairing.Quantile(0.3, "below", distance="input"),
    pairing.Quantile(0.3, "above", distance="input"),
    pairing.LabelKernel(),
    pairing.DistanceKernel(),
    pairing.DistanceKernel(0.1, "label"),
    pairing.ClassBalanced(),
    pairing.InverseFrequency([50, 10, 2]),
]


def make_batch(size, classes=3, seed=0, y=None):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, 4, generator=generator)
    y = torch.randint(classes, (size,), generator=generator) if y is None else y
    return Batch(x, y, generator=generator)


@pytest.mark.parametrize("part", ALL, ids=repr)
@given(size=st.integers(1, 13), seed=st.integers(0, 50))
def test_partners_are_indices_of_the_batch_whatever_its_size(part, size, seed):
    partner = part(make_batch(size, seed=seed))
    assert partner.shape == (size,)
    assert partner.dtype == torch.int64
    assert ((partner >= 0) & (partner < size)).all()


@pytest.mark.parametrize("part", ALL, ids=repr)
def test_a_seeded_generator_repeats_the_draw(part):
    assert torch.equal(part(make_batch(11, seed=4)), part(make_batch(11, seed=4)))


@given(size=st.integers(1, 30), seed=st.integers(0, 20))
def test_permutations_and_involutions(size, seed):
    own = torch.arange(size)
    for part in (pairing.Shuffle(), pairing.Flip(), pairing.PerfectMatching()):
        assert torch.equal(part(make_batch(size, seed=seed)).sort().values, own)
    for part in (pairing.Flip(), pairing.PerfectMatching()):
        partner = part(make_batch(size, seed=seed))
        assert torch.equal(partner[partner], own)
    alone = (pairing.PerfectMatching()(make_batch(size, seed=seed)) == own).sum()
    assert alone == size % 2


@given(size=st.integers(1, 20), classes=st.integers(1, 5), seed=st.integers(0, 30))
def test_inter_class_partners_differ_in_class_or_are_absent(size, classes, seed):
    batch = make_batch(size, classes, seed)
    partner = pairing.InterClass()(batch)
    alone = partner == torch.arange(size)
    assert ((batch.y[partner] != batch.y) | alone).all()
    lonely_class = torch.tensor([(batch.y == label).all() for label in batch.y])
    assert torch.equal(alone, lonely_class)


def test_inter_class_is_uniform_over_the_other_classes():
    """Chi-squared over 8,000 draws at a fixed seed; fails by chance one time in a thousand."""
    y = torch.tensor([2, 0, 1, 0, 2, 2, 1])
    batch = make_batch(7, y=y)
    part = pairing.InterClass()
    drawn = torch.stack([part(batch)[0] for _ in range(8000)])
    counts = torch.bincount(drawn, minlength=7)[[1, 2, 3, 6]]
    assert counts.sum() == 8000
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_inter_class_takes_soft_labels():
    y = torch.eye(3)[[0, 0, 1]] * 0.8 + 0.05
    assert pairing.InterClass()(make_batch(3, y=y)).tolist()[:2] == [2, 2]


def test_nearest_neighbour_is_the_nearest_other():
    x = torch.tensor([[0.0], [1.0], [1.1], [5.0]])
    batch = Batch(x, torch.zeros(4).long())
    assert pairing.NearestNeighbour(distance="input")(batch).tolist() == [1, 2, 1, 2]
    seen = {int(pairing.NearestNeighbour(2, distance="input")(batch)[3]) for _ in range(50)}
    assert seen == {1, 2}


def test_quantile_sides():
    x = torch.tensor([[0.0], [1.0], [10.0], [11.0]])
    batch = Batch(x, torch.zeros(4).long())
    for _ in range(20):
        near = pairing.Quantile(0.3, "below", "input", self_pairs=False)
        assert near(batch).tolist() == [1, 0, 3, 2]
        far = pairing.Quantile(0.5, "above", "input", self_pairs=False)(batch)
        assert set(far[:2].tolist()) <= {2, 3}
        assert set(far[2:].tolist()) <= {0, 1}


def test_quantiles_count_a_sample_as_its_own_pair():
    """As the authors' code has it: of 16 distances 4 are of a sample to itself."""
    x = torch.tensor([[0.0], [1.0], [10.0], [11.0]])
    batch = Batch(x, torch.zeros(4).long(), generator=torch.Generator().manual_seed(0))
    # Up to the quarter of all pairs there are none but these.
    assert pairing.Quantile(0.2, "below", "input")(batch).tolist() == [0, 1, 2, 3]
    drawn = torch.stack([pairing.Quantile(0.4, "below", "input")(batch) for _ in range(100)])
    alone = (drawn == torch.arange(4)).double().mean()
    assert 0.4 < alone < 0.6
    assert set(drawn[:, 0].tolist()) == {0, 1}
    other = pairing.Quantile(0.4, "below", "input", self_pairs=False)(batch)
    assert (other != torch.arange(4)).all()


def test_label_kernel_prefers_close_targets_by_the_density():
    """Chi-squared over 8,000 draws at a fixed seed; fails by chance one time in a thousand."""
    y = torch.tensor([0.0, 0.5, 1.0, 3.0])
    batch = make_batch(4, y=y)
    part = pairing.LabelKernel(bandwidth=0.7)
    drawn = torch.stack([part(batch)[0] for _ in range(8000)])
    density = torch.exp(-(y[1:] ** 2) / (2 * 0.7**2)).double()
    expected = 8000 * density / density.sum()
    counts = torch.bincount(drawn, minlength=4)
    assert counts[0] == 0
    assert stats.chisquare(counts[1:].numpy(), expected.numpy()).pvalue > 1e-3


def test_a_narrow_label_kernel_takes_the_nearest():
    batch = make_batch(3, y=torch.tensor([0.0, 1.0, 5.0]))
    assert pairing.LabelKernel(bandwidth=1e-4)(batch).tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: pairing.NearestNeighbour(k=0), "k must be"),
        (lambda: pairing.NearestNeighbour(distance="cosine"), "distance='cosine'"),
        (lambda: pairing.Quantile(1.5), "q must be"),
        (lambda: pairing.Quantile(side="left"), "side='left'"),
        (lambda: pairing.LabelKernel(bandwidth=0), "bandwidth must be"),
        (lambda: pairing.DistanceKernel(bandwidth=0), "bandwidth must be"),
        (lambda: pairing.DistanceKernel(distance="text"), "distance='text'"),
        (lambda: pairing.InverseFrequency([3, 0]), "class_counts must hold"),
        (lambda: pairing.InverseFrequency([3, 1], tau="low"), "tau must be"),
        (lambda: pairing.InverseFrequency([3, 1])(make_batch(9)), "class_counts holds 2 classes"),
        (lambda: pairing.NearestNeighbour()(make_batch(3)), "distance='features' needs"),
    ],
)
def test_bad_input_is_named(make, words):
    with pytest.raises(InputError, match=words):
        make()


LONG_TAILED = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 2, 0])


def drawn(part, y, times=2000, x=None):
    """Return so many draws of the whole batch's partners, (times, B)."""
    batch = make_batch(len(y), y=y)
    if x is not None:
        batch = Batch(x, y, generator=batch.generator)
    return torch.stack([part(batch) for _ in range(times)])


def test_class_balanced_partners_are_uniform_over_classes_and_within_them():
    """Chi-squared over 20,000 draws at a fixed seed; fails by chance one time in a thousand."""
    partner = drawn(pairing.ClassBalanced(), LONG_TAILED)
    per_class = torch.tensor([7, 2, 1])[LONG_TAILED]
    expected = len(partner) * 10 / (3 * per_class.double())
    counts = torch.bincount(partner.flatten(), minlength=10)
    assert stats.chisquare(counts.numpy(), expected.numpy()).pvalue > 1e-3


def test_partners_of_different_samples_are_drawn_independently():
    """Chi-squared of two samples' partner classes at a fixed seed; error rate 0.001."""
    classes = LONG_TAILED[drawn(pairing.ClassBalanced(), LONG_TAILED, 4000)[:, :2]]
    counts = torch.bincount(classes[:, 0] * 3 + classes[:, 1], minlength=9)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


@pytest.mark.parametrize("tau", [-2.0, -1.0, 0.0, 0.7])
def test_inverse_frequency_follows_its_power(tau):
    """Four chi-squared tests at fixed seeds; each fails by chance one time in a thousand."""
    counts = torch.tensor([500.0, 20.0, 3.0])
    partner = drawn(pairing.InverseFrequency(counts, tau), LONG_TAILED)
    expected = counts[LONG_TAILED].double() ** tau
    expected = partner.numel() * expected / expected.sum()
    seen = torch.bincount(partner.flatten(), minlength=10).numpy()
    common = expected.numpy() > 5  # as chi-squared asks
    assert (
        stats.chisquare(
            [*seen[common], seen[~common].sum() + 1e-9],
            [*expected.numpy()[common], expected.numpy()[~common].sum() + 1e-9],
        ).pvalue
        > 1e-3
    )


def test_counts_of_any_size_are_no_trouble():
    counts = [1e30, 1.0]
    partner = pairing.InverseFrequency(counts, -8)(
        make_batch(6, y=torch.tensor([0, 0, 1, 0, 0, 0]))
    )
    assert partner.tolist() == [2] * 6


def test_distance_kernel_follows_its_density():
    """Chi-squared over 3,000 draws at a fixed seed; fails by chance one time in a thousand."""
    x = torch.tensor([[0.0], [0.5], [1.0], [3.0]])
    partner = drawn(pairing.DistanceKernel(0.6), torch.zeros(4).long(), 3000, x)[:, 0]
    squared = (x - x.T).double().square()
    unit = squared.sum() / 12
    density = torch.exp(-squared[0] / (2 * 0.6**2 * unit))
    density[0] = 0
    expected = 3000 * density / density.sum()
    counts = torch.bincount(partner, minlength=4)
    assert counts[0] == 0
    assert stats.chisquare(counts[1:].numpy(), expected[1:].numpy()).pvalue > 1e-3


def test_distance_kernel_does_not_depend_on_the_scale_of_the_data():
    y, x = torch.zeros(8).long(), torch.randn(8, 3)
    part = pairing.DistanceKernel(0.3)
    assert torch.equal(drawn(part, y, 20, x), drawn(part, y, 20, 64 * x))
    alike = drawn(part, y, 50, torch.ones(8, 3))
    assert (alike != torch.arange(8)).all()
    assert len(alike.unique()) == 8


@pytest.mark.parametrize("part", [pairing.ClassBalanced(), pairing.InverseFrequency([9, 3, 1])])
def test_class_wise_pairings_take_soft_labels(part):
    y = torch.eye(3)[[0, 0, 1, 2]] * 0.8 + 0.05
    hard = part(make_batch(4, y=torch.tensor([0, 0, 1, 2])))
    assert torch.equal(part(make_batch(4, y=y)), hard)
