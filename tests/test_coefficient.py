import math

import pytest
import torch
from scipy import special, stats

import mixwell
from mixwell import InputError, functional
from mixwell.batch import Batch
from mixwell.coefficient import (
    Beta,
    ClassAware,
    Constant,
    Dirichlet,
    FeatureMemory,
    Midpoint,
    PSeries,
    SimilarityKernel,
    SkewedBeta,
    TruncatedBeta,
)
from mixwell.heads import capture_features


def make_batch(size=6, seed=0, **keywords):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, 5, generator=generator)
    y = torch.randint(3, (size,), generator=generator)
    return Batch(x, y, generator=generator, **keywords)


def draw(part, batch):
    return part(batch, batch.randperm())


@pytest.mark.parametrize("alpha", [0.2, 1.0, 10.0])
def test_beta_follows_its_distribution(alpha):
    """Three KS tests at fixed seeds; each fails by chance one time in a thousand."""
    lam = draw(Beta(alpha), make_batch(20_000)).double()
    low = lam[lam < 0.5].numpy()
    assert stats.kstest(low, lambda x: 2 * special.betainc(alpha, alpha, x)).pvalue > 1e-3


def test_per_sample_and_per_batch():
    assert len(draw(Beta(), make_batch()).unique()) == 6
    assert len(draw(Beta(per="batch"), make_batch()).unique()) == 1
    assert len(draw(TruncatedBeta(per="batch"), make_batch()).unique()) == 1


def test_truncated_beta_is_the_conditional_distribution():
    """A KS test at a fixed seed; fails by chance one time in a thousand."""
    lam = draw(TruncatedBeta(0.4, low=0.6, high=0.9), make_batch(20_000)).double().numpy()
    assert lam.min() >= 0.6 - 1e-6
    assert lam.max() <= 0.9 + 1e-6
    first, last = special.betainc(0.4, 0.4, [0.6, 0.9])

    def cdf(x):
        return (special.betainc(0.4, 0.4, x) - first) / (last - first)

    assert stats.kstest(lam, cdf).pvalue > 1e-3


def test_constant():
    assert draw(Constant(0.25), make_batch()).tolist() == [0.25] * 6


@pytest.mark.parametrize("distance", ["features", "input", "label"])
def test_similarity_kernel_mixes_near_pairs_more(distance):
    """Mean |λ - 1/2| of near pairs below that of far ones, over 400 batches."""
    part = SimilarityKernel(tau_max=1.0, tau_std=0.5, distance=distance)
    near, far = [], []
    for seed in range(400):
        batch = make_batch(16, seed)
        batch.features = batch.x
        partner = batch.randperm()
        value = (part(batch, partner) - 0.5).abs()
        order = batch.measure(distance, partner).argsort(stable=True)
        near.append(value[order[:4]])
        far.append(value[order[-4:]])
    assert torch.cat(near).mean() < torch.cat(far).mean() - 0.15


def test_similarity_kernel_with_alpha_one_is_beta_of_tau():
    """The two ways to draw, direct and by inverse: one two-sample KS test, error rate 0.001."""
    batch = make_batch(4000)
    partner = batch.randperm()
    kernel = SimilarityKernel(tau_std=1.0, distance="input")
    direct = kernel(batch, partner).double()
    tau = functional.similarity_tau(batch.x, partner, 1.0, 1.0)
    u = torch.rand(4000, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    by_inverse = functional.beta_icdf(u, tau.double())
    direct, by_inverse = (value.clamp(1e-6, 1 - 1e-6) for value in (direct, by_inverse))
    assert stats.ks_2samp(direct.numpy(), by_inverse.numpy()).pvalue > 1e-3


def test_similarity_kernel_with_other_alpha_warps_a_beta():
    batch = make_batch(3000)
    partner = batch.randperm()
    # At one τ for all pairs and τ = 1 the warp is the identity: λ is u ~ Beta(α, α).
    batch.features = torch.zeros(3000, 2)
    lam = SimilarityKernel(alpha=3.0)(batch, partner).double().numpy()
    assert stats.kstest(lam, lambda x: special.betainc(3.0, 3.0, x)).pvalue > 1e-3


def test_target_kernel_shares_u_with_the_inputs():
    part = SimilarityKernel(tau_max=0.5, target_tau_max=5.0, distance="input")
    batch = make_batch(200)
    partner = batch.randperm()
    lam, target_lam = part.pair(batch, partner)
    assert ((lam - 0.5).sign() == (target_lam - 0.5).sign()).all()
    assert ((target_lam - 0.5).abs() <= (lam - 0.5).abs() + 1e-6).all()
    assert not torch.allclose(lam, target_lam)
    same = SimilarityKernel(tau_max=0.5, distance="input").pair(batch, partner)
    assert same[0] is same[1]


@pytest.mark.parametrize("size", [1, 2, 7])
def test_similarity_kernel_defines_lambda_for_identical_samples(size):
    batch = Batch(torch.ones(size, 3), torch.zeros(size).long())
    lam = draw(SimilarityKernel(distance="input"), batch)
    assert ((lam >= 0) & (lam <= 1)).all()


@pytest.mark.parametrize(
    ("schedule", "middle", "end"),
    [
        ("asymptotic", 0.5 + 0.4 * math.exp(-1), 0.5 + 0.4 * math.exp(-2)),
        ("linear", 0.7, 0.5),
        ("cosine", 0.7, 0.5),
        ("constant", 0.9, 0.9),
    ],
)
def test_midpoint_schedules(schedule, middle, end):
    part = Midpoint(schedule, lam0=0.9, k=2.0)
    values = [float(draw(part, make_batch(progress=torch.tensor(t)))[0]) for t in (0.0, 0.5, 1.0)]
    assert values == pytest.approx([0.9, middle, end], abs=1e-6)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Beta(alpha=0), r"alpha must be a number in \(0, inf\), got 0"),
        (lambda: Beta(alpha="1"), "alpha must be"),
        (lambda: Beta(per="pixel"), "per='pixel' is unknown"),
        (lambda: TruncatedBeta(low=0.9, high=0.2), "low must be below high"),
        (lambda: Constant(1.5), "lam must be"),
        (lambda: SimilarityKernel(tau_std=-1), "tau_std must be"),
        (lambda: SimilarityKernel(tau_max=float("nan")), "tau_max must be"),
        (lambda: SimilarityKernel(distance="l2"), "distance='l2'"),
        (lambda: Midpoint(lam0=0.4), "lam0 must be"),
        (lambda: Midpoint(schedule="exp"), "schedule='exp'"),
    ],
)
def test_bad_input_is_named(make, words):
    with pytest.raises(InputError, match=words):
        make()


# ------------------------------------------------------------------------- remembered features


def _remembering(**options):
    return mixwell.create("sk_mixup", num_classes=5, distance="remembered", capacity=40, **options)


def test_memory_gives_distances_of_what_was_written_and_the_mean_elsewhere():
    memory = FeatureMemory(10)
    partner = torch.tensor([1, 2, 3, 0])
    index = torch.tensor([3, 5, 7, 9])
    assert memory.distance(index, partner).tolist() == [0, 0, 0, 0]
    features = torch.tensor([[0.0, 0], [3, 4], [3, 4], [0, 1]])
    memory.write(index, features)
    assert memory.distance(index, partner).tolist() == [25, 0, 18, 1]
    assert memory.distance(index, partner, squared=False)[0] == 5
    known, new = memory.distance(torch.tensor([3, 5]), torch.tensor([1, 0])), torch.tensor([3, 8])
    assert known.tolist() == [25, 25]
    both = memory.distance(torch.cat([new, torch.tensor([5])]), torch.tensor([1, 2, 0]))
    assert both.tolist() == [25, 25, 25]  # the one known pair's; sample 8 was never seen


def test_memory_is_bounded_and_forgets_what_it_overwrites():
    memory = FeatureMemory(4)
    memory.write(torch.tensor([1, 2]), torch.tensor([[0.0], [1.0]]))
    memory.write(torch.tensor([5]), torch.tensor([[9.0]]))  # the place of sample 1
    assert memory.features.shape == (5, 1)
    assert memory.features.dtype == torch.float16
    pair = torch.tensor([1, 0])
    assert memory.distance(torch.tensor([5, 2]), pair).tolist() == [64, 64]
    assert memory.distance(torch.tensor([1, 2]), pair).tolist() == [0, 0]


def test_memory_leaves_out_what_is_not_kept_and_what_is_too_large_for_half_precision():
    memory = FeatureMemory(4)
    keep = torch.tensor([True, False])
    memory.write(torch.tensor([0, 1]), torch.tensor([[1e9], [1.0]]), keep)
    assert memory.owner[:4].tolist() == [0, -1, -1, -1]
    assert memory.features[0].isfinite()


def test_of_clean_rows_the_own_features_are_remembered(make_net, images):
    x, y = images
    model, index = make_net().eval(), torch.arange(9) + 20
    method = mixwell.create("sk_mixup+regmixup", num_classes=5, distance="remembered", capacity=40)
    method(model, x, y, index=index)
    _, features = capture_features(model, x)
    memory = method.recipe.coefficient.memory
    torch.testing.assert_close(memory.features[20:29].float(), features, atol=2e-3, rtol=2e-3)
    partner = torch.arange(9).flip(0)
    torch.testing.assert_close(
        memory.distance(index, partner),
        functional.pair_distance(features, partner),
        atol=2e-2,
        rtol=2e-2,
    )


@pytest.mark.parametrize("options", [{}, {"layer": "head"}, {"layer": "2"}])
def test_of_mixed_rows_the_heavier_sides_are_remembered(options, make_net, images):
    x, y = images
    method, model = _remembering(**options), make_net()
    step = method.step(model, x, y, index=torch.arange(9))
    owner = method.recipe.coefficient.memory.owner
    known = {int(i) for i in owner[:-1] if i >= 0}
    heavier = {i for i in range(9) if step.mix.lam[i] >= 0.5}
    assert known == (set(range(9)) if options.get("layer") == "head" else heavier)
    method.eval()
    before = owner.clone()
    method(model, x, y, index=torch.arange(9))
    assert torch.equal(owner, before)


def test_memory_works_beside_a_term_at_the_head(make_net, images):
    x, y = images
    method = mixwell.create("sk_mixup+am_mixup", num_classes=5, distance="remembered", capacity=40)
    loss = method(make_net(), x, y, index=torch.arange(9))
    assert loss.isfinite()
    assert (method.recipe.coefficient.memory.owner[:9] == torch.arange(9)).all()


def test_memory_is_part_of_a_checkpoint(make_net, images):
    x, y = images
    method, model = _remembering(), make_net()
    method(model, x, y, index=torch.arange(9))
    again = _remembering()
    again.load_state_dict(method.state_dict())
    first, second = (m.recipe.coefficient.memory for m in (method, again))
    assert torch.equal(first.features, second.features)
    assert torch.equal(first.owner, second.owner)
    smaller = mixwell.create("sk_mixup", num_classes=5, distance="remembered", capacity=8)
    with pytest.raises(InputError, match="capacity=40"):
        smaller.load_state_dict(method.state_dict())


def test_memory_needs_to_know_which_samples_these_are(make_net, images):
    x, y = images
    with pytest.raises(InputError, match="index=i"):
        _remembering()(make_net(), x, y)


# ---------------------------------------------------------------------- unequal and several weights


def test_skewed_beta_follows_its_distribution():
    """Two KS tests at fixed seeds; each fails by chance one time in a thousand."""
    for alpha in (0.1, 2.0):
        rest = 1 - draw(SkewedBeta(alpha), make_batch(20_000)).double()
        # 1 - λ is 0 below float32's precision at 1.
        assert stats.kstest(rest[rest > 1e-5].numpy(), lambda x, a=alpha: (
            (x**a - 1e-5**a) / (1 - 1e-5**a)
        )).pvalue > 1e-3  # fmt: skip
        assert float(rest.mean()) == pytest.approx(alpha / (alpha + 1), abs=0.01)
    assert len(draw(SkewedBeta(per="batch"), make_batch()).unique()) == 1


def class_batch(own, other, size=20_000, seed=0):
    """Return a batch of pairs of one class with another, and the partners."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.tensor([own, other]).repeat(size // 2)
    batch = Batch(torch.zeros(size, 1), y, generator=generator)
    return batch, torch.arange(size) ^ 1


@pytest.mark.parametrize(("own", "other"), [(0, 1), (1, 0), (2, 0), (1, 1)])
@pytest.mark.parametrize("alpha", [0.4, 1.0])
def test_class_aware_lam_is_a_beta_moved_around_by_the_counts(own, other, alpha):
    """Eight KS tests at fixed seeds; each fails by chance one time in a thousand."""
    counts = torch.tensor([100.0, 25.0, 3.0])
    batch, partner = class_batch(own, other)
    lam = ClassAware(counts, alpha)(batch, partner)
    assert ((lam >= 0) & (lam <= 1)).all()
    shift = float(counts[other] / (counts[own] + counts[other]))

    def cdf(x):
        # u + ξ wraps at 1: λ ≤ x has u in (1 - ξ, 1 - ξ + x], or in [0, x - ξ] as well.
        low = special.betainc(alpha, alpha, (x + 1 - shift).clip(max=1))
        return low - special.betainc(alpha, alpha, 1 - shift) + special.betainc(
            alpha, alpha, (x - shift).clip(min=0)
        )  # fmt: skip

    assert stats.kstest(lam[::2].double().numpy(), cdf).pvalue > 1e-3


def test_class_aware_gives_the_rarer_class_more():
    batch, partner = class_batch(0, 1, 2000)
    lam = ClassAware([1000, 10], alpha=0.1)(batch, partner)
    assert lam[::2].median() < 0.05
    assert lam[1::2].median() > 0.95


def test_dirichlet_has_its_means_and_variances():
    """Means and variances of 40,000 rows at fixed seeds, within 4 standard errors."""
    for alpha, k in ((0.3, 3), (1.0, 5), (6.0, 4)):
        weights = Dirichlet(alpha, k).weights(make_batch(40_000)).double()
        assert weights.shape == (40_000, k)
        torch.testing.assert_close(weights.sum(1), torch.ones(40_000, dtype=torch.float64))
        assert (weights >= 0).all()
        variance = (1 / k) * (1 - 1 / k) / (k * alpha + 1)
        error = 4 * (variance / 40_000) ** 0.5
        assert (weights.mean(0) - 1 / k).abs().max() < error
        assert float(weights.var()) == pytest.approx(variance, rel=0.05)


@pytest.mark.parametrize("alpha", [0.2, 3.0])
def test_one_weight_of_a_dirichlet_is_a_beta(alpha):
    """Two KS tests at fixed seeds; each fails by chance one time in a thousand."""
    weight = Dirichlet(alpha, 4).weights(make_batch(20_000))[:, 2].double().numpy()
    assert stats.kstest(weight, lambda x: special.betainc(alpha, 3 * alpha, x)).pvalue > 1e-3


def test_two_of_a_dirichlet_are_betas_lam():
    """One KS test at a fixed seed; fails by chance one time in a thousand."""
    part = Dirichlet(0.5, 2)
    assert part.samples == 2
    lam = draw(part, make_batch(20_000)).double().numpy()
    assert stats.kstest(lam, lambda x: special.betainc(0.5, 0.5, x)).pvalue > 1e-3


@pytest.mark.parametrize("alpha", [1e-25, 1e-6])
def test_tiny_alpha_picks_one_sample(alpha):
    weights = Dirichlet(alpha, 3).weights(make_batch(3000))
    assert weights.isfinite().all()
    assert ((weights == 0) | (weights == 1)).float().mean() > 0.99
    counts = weights.argmax(1).bincount(minlength=3)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_one_draw_of_weights_for_all():
    assert len(Dirichlet(per="batch").weights(make_batch()).unique(dim=0)) == 1
    assert len(Dirichlet().weights(make_batch()).unique(dim=0)) == 6


def test_p_series():
    weights = PSeries(2.8, 4).weights(make_batch(3))
    expected = torch.tensor([1, 2**-2.8, 3**-2.8, 4**-2.8])
    torch.testing.assert_close(weights, (expected / expected.sum()).expand(3, 4))
    # Over any number of samples the own one has most of the weight from γ = 1.72865 on.
    assert PSeries(1.72865, 100_000).weights(make_batch(1))[0, 0] >= 0.5


def test_a_seeded_generator_repeats_the_weights():
    for part in (Dirichlet(), SkewedBeta(), ClassAware([3, 2, 1])):
        first, second = (
            part.weights(make_batch(9, 4))
            if part.samples > 2
            else part(make_batch(9, 4), torch.arange(9).flip(0))
            for _ in range(2)
        )
        assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Dirichlet(k=1), "k must be a whole number from 2 to"),
        (lambda: Dirichlet(alpha=0), "alpha must be"),
        (lambda: PSeries(gamma=-1), "gamma must be"),
        (lambda: draw(Dirichlet(k=3), make_batch()), "no one λ for a pair"),
        (lambda: ClassAware([1]), "class_counts must hold"),
        (lambda: draw(ClassAware([5, 2]), make_batch()), "class_counts holds 2 classes, but y"),
    ],
)
def test_bad_weights_are_named(call, words):
    with pytest.raises(InputError, match=words):
        call()


def test_different_classes_are_equally_far_apart_whatever_their_number():
    y = torch.tensor([0, 0, 0, 7, 7, 9])
    batch = Batch(torch.zeros(6, 1), y)
    expected = 2.0 * (y[:, None] != y[None, :])
    torch.testing.assert_close(batch.measure_all("label"), expected)
