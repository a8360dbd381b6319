import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from mixwell import InputError, Mix, functional


def make_mix(size, lam=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    partner = torch.randperm(size, generator=generator)
    return Mix(partner, torch.rand(size, generator=generator) if lam is None else lam)


# ---------------------------------------------------------------------------------------- mixing

shapes = st.tuples(st.integers(1, 7), st.lists(st.integers(1, 4), max_size=3)).map(
    lambda pair: (pair[0], *pair[1])
)
floats = st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16])


@given(shapes, floats, st.sampled_from([0.0, 0.5, 1.0, None]))
def test_mix_is_the_formula_for_any_shape_and_dtype(shape, dtype, lam):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    weight = None if lam is None else torch.full(shape[:1], lam)
    mix = make_mix(shape[0], weight)
    mixed = functional.mix(x, mix)
    lam = mix.lam.double().view(-1, *[1] * (len(shape) - 1))
    expected = lam * x.double() + (1 - lam) * x.double()[mix.partner]
    assert mixed.dtype == dtype
    eps = max(torch.finfo(dtype).eps, 1e-7)
    torch.testing.assert_close(mixed.double(), expected, rtol=2 * eps, atol=4 * eps)


@given(shapes, floats)
def test_lam_one_is_the_identity_and_lam_zero_the_partner_to_the_bit(shape, dtype):
    x = torch.randn(shape).to(dtype)
    mix = make_mix(shape[0], torch.ones(shape[0]))
    assert torch.equal(functional.mix(x, mix), x)
    assert torch.equal(functional.mix(x, Mix(mix.partner, 1 - mix.lam)), x[mix.partner])


def test_mix_leaves_its_input_and_maps_over_pytrees():
    x = {"image": torch.rand(4, 3, 2, 2), "sound": [torch.rand(4, 5)], "name": "kept"}
    before = x["image"].clone()
    mix = make_mix(4)
    mixed = functional.mix(x, mix)
    assert torch.equal(x["image"], before)
    assert mixed["name"] == "kept"
    torch.testing.assert_close(mixed["sound"][0], functional.mix(x["sound"][0], mix))


def test_uint8_is_rounded_to_nearest():
    x = torch.tensor([[0, 10, 255], [1, 20, 0]], dtype=torch.uint8)
    mixed = functional.mix(x, Mix(torch.tensor([1, 0]), torch.tensor([0.25, 1.0])))
    assert mixed.dtype == torch.uint8
    assert mixed.tolist() == [[1, 18, 64], [1, 20, 0]]  # 0.75, 17.5 (to even), 63.75


def test_gradient_reaches_both_samples():
    x = torch.randn(2, 3, requires_grad=True)
    functional.mix(x, Mix(torch.tensor([1, 1]), torch.tensor([0.25, 0.5])))[0].sum().backward()
    assert x.grad.tolist() == [[0.25] * 3, [0.75] * 3]


def test_masked_mix_takes_each_position_from_one_sample():
    x = torch.arange(2.0).view(2, 1, 1, 1).expand(2, 3, 2, 2)
    mask = torch.tensor([[[[True, False], [True, True]]], [[[False, False], [True, True]]]])
    mixed = functional.mix(x, Mix(torch.tensor([1, 0]), mask.float().mean((1, 2, 3)), mask))
    assert mixed[0, 2].tolist() == [[0, 1], [0, 0]]
    assert mixed[1, 0].tolist() == [[0, 0], [1, 1]]
    soft = functional.mix(x, Mix(torch.tensor([1, 0]), torch.ones(2), mask.float() / 2))
    torch.testing.assert_close(soft[0, 0], torch.tensor([[0.5, 1.0], [0.5, 0.5]]))


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (torch.rand(3, 2), "batch of 2"),
        (torch.tensor(1.0), "batch of 2"),
        (torch.tensor([1, 2]), "can't be interpolated"),
        (torch.tensor([True, False]), "can't be interpolated"),
    ],
)
def test_what_cannot_be_mixed_is_named(x, words):
    with pytest.raises(InputError, match=words):
        functional.mix(x, make_mix(2))


# -------------------------------------------------------------------------------------------- SK


def test_golden_tau_and_lambda(golden):
    data = golden("similarity_kernel")
    features, partner = data["features"], data["partner"]
    tau = functional.similarity_tau(features, partner, data["tau_max"], data["tau_std"])
    torch.testing.assert_close(tau, data["tau"], rtol=1e-10, atol=0)
    distance = functional.pair_distance(features, partner)
    torch.testing.assert_close(
        distance / distance.mean(), data["normalised_distance"], rtol=1e-10, atol=0
    )
    lam = functional.beta_icdf(data["u"], tau)
    torch.testing.assert_close(lam, data["lam"], rtol=1e-10, atol=0)


def test_tau_is_scale_free_and_falls_with_distance():
    features = torch.randn(40, 6, dtype=torch.float64)
    partner = torch.randperm(40)
    tau = functional.similarity_tau(features, partner)
    torch.testing.assert_close(functional.similarity_tau(features * 1e3, partner), tau)
    order = functional.pair_distance(features, partner).argsort()
    assert (tau[order].diff() <= 0).all()


@pytest.mark.parametrize(
    "features", [torch.ones(4, 3), torch.zeros(1, 3), torch.randn(1, 3), torch.ones(4, 3).half()]
)
def test_identical_samples_are_at_the_mean_distance(features):
    partner = torch.arange(len(features)).flip(0)
    assert functional.similarity_tau(features, partner, tau_max=2.0).tolist() == pytest.approx(
        [2.0] * len(features)
    )


def test_a_narrow_kernel_does_not_overflow():
    features = torch.randn(64, 8)
    tau = functional.similarity_tau(features, torch.randperm(64), tau_max=1e4, tau_std=0.01)
    assert tau.isfinite().all()
    assert tau.max() <= 1e6 * (1 + 1e-6)
    assert tau.min() >= 1e-30 * (1 - 1e-6)


def censored_ks(lam, tau):
    """The KS p-value of the λ in [1e-300, 1/2], where a float tells small values apart.

    Near 1 a float rounds to 1, so the upper half is folded down only by symmetry of the counts.
    """
    low = lam[(lam < 0.5) & (lam > 1e-300)]
    first, last = special.betainc(tau, tau, 1e-300), 0.5

    def cdf(x):
        return (special.betainc(tau, tau, x) - first) / (last - first)

    return stats.kstest(low, cdf).pvalue, len(low)


@pytest.mark.parametrize("tau", [1e-3, 1e-2, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0, 1e3])
def test_sample_beta_follows_the_distribution(tau):
    """Nine tests at fixed seeds; each would fail by chance one time in a thousand."""
    generator = torch.Generator().manual_seed(3)
    lam = functional.sample_beta(torch.full((40_000,), tau, dtype=torch.float64), generator)
    p_value, count = censored_ks(lam.numpy(), tau)
    assert count > 400
    assert p_value > 1e-3
    above = int((lam > 0.5).sum())
    assert stats.binomtest(above, int((lam != 0.5).sum())).pvalue > 1e-3


@pytest.mark.parametrize("tau", [1e-6, 1e-8, 1e-12, 1e-30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_tiny_tau_is_a_coin_toss_never_one_half(tau, dtype):
    """A λ strays further than 1e-6 with probability 13.8 τ: one of these, 1.4 % in the worst case.

    The count of heads is within 4.7 standard deviations.
    """
    generator = torch.Generator().manual_seed(7)
    lam = functional.sample_beta(torch.full((1_000,), tau, dtype=dtype), generator).double()
    assert torch.minimum(lam, 1 - lam).max() <= 1e-6
    assert 425 < int((lam > 0.5).sum()) < 575


def test_no_nan_over_the_whole_range_of_tau():
    for dtype in (torch.float32, torch.float64):
        tau = torch.logspace(-30, 6, 2000, dtype=dtype)
        lam = functional.sample_beta(tau)
        assert lam.dtype == dtype
        assert ((lam >= 0) & (lam <= 1)).all()
    outside = functional.sample_beta(torch.tensor([0.0, 1e-40, 1e30, torch.inf]))
    assert ((outside >= 0) & (outside <= 1)).all()


def test_samples_repeat_with_a_generator():
    tau = torch.rand(50) * 3
    draws = [functional.sample_beta(tau, torch.Generator().manual_seed(7)) for _ in range(2)]
    assert torch.equal(*draws)


@pytest.mark.parametrize("tau", [1e-12, 1e-3, 0.2, 0.999, 1.0, 1.7, 30.0, 1e4, 1e6])
def test_beta_cdf_and_inverse_match_scipy(tau):
    u = torch.linspace(1e-6, 1 - 1e-6, 300, dtype=torch.float64)  # 1/2 is ill-conditioned
    shape = torch.tensor(tau, dtype=torch.float64)
    lam = functional.beta_icdf(u, shape)
    expected = torch.from_numpy(special.betaincinv(tau, tau, u.numpy()))
    torch.testing.assert_close(lam, expected, rtol=1e-9, atol=1e-300)
    inside = expected[(expected > 1e-290) & (expected < 1)]
    if len(inside):
        reference = torch.from_numpy(special.betainc(tau, tau, inside.numpy()))
        torch.testing.assert_close(
            functional.beta_cdf(inside, shape), reference, rtol=1e-7, atol=1e-12
        )


ACROSS_TAU = [1e-30, 1e-10, 1e-3, 0.1, 0.5, 1 - 1e-12, 1.0, 1 + 1e-12, 2.0, 10.0, 1e3, 1e6]


def across_u():
    """Return ascending u in (0, 1): everywhere, in both tails, and about 1/2."""
    tail = torch.logspace(-300, -1, 1500, dtype=torch.float64)
    near = torch.logspace(-12, -1, 200, dtype=torch.float64)
    even = torch.linspace(1e-6, 1 - 1e-6, 3000, dtype=torch.float64)
    return torch.cat([tail, even, 0.5 - near, 0.5 + near, 1 - tail[tail > 1e-16]]).sort()[0]


@pytest.mark.parametrize("tau", ACROSS_TAU)
def test_beta_inverse_is_right_in_the_tails_and_about_one_half(tau):
    u = across_u()
    lam = functional.beta_icdf(u, torch.tensor(tau, dtype=torch.float64))
    if tau < 1e-9:  # SciPy is off by 1e-6 about 1/2; the limit's logit errs by τ
        p = torch.minimum(u, 1 - u)
        lesser = torch.sigmoid((2 * p).log() / tau)
        expected = torch.where(u < 0.5, lesser, 1 - lesser)
    else:
        expected = torch.from_numpy(special.betaincinv(tau, tau, u.numpy()))
    torch.testing.assert_close(lam, expected, rtol=0, atol=1e-9)
    assert (lam.diff() >= 0).all()


def test_beta_inverse_in_closed_form():
    u = across_u()
    one, half = (functional.beta_icdf(u, torch.tensor(tau)) for tau in (1.0, 0.5))
    torch.testing.assert_close(one, u, rtol=1e-11, atol=0)
    torch.testing.assert_close(half, (torch.pi * u / 2).sin().square(), rtol=1e-11, atol=0)


@pytest.mark.parametrize(
    ("tau", "u", "lam"),
    [
        (0.02, 1e-06, 1.0904781340527819e-285),
        (1.125, 5e-156, 8.045644675746915e-139),
        (1e-12, 0.499999999999, 0.1192075673774472),  # SciPy 1.17 is off by 2e-5 here,
        (3.0, 1e-300, 4.641588833612779e-101),  # has NaN,
        (30.0, 6e-297, 3.688735807606571e-11),  # and is off by 1 %.
        (1000.0, 8e-268, 0.16198333126915737),
    ],
)
def test_beta_inverse_is_right_where_it_is_hard(tau, u, lam):
    """Golden numbers: mpmath's hypergeometric function to 60 digits, inverted by Newton."""
    values = (torch.tensor(value, dtype=torch.float64) for value in (u, tau))
    assert functional.beta_icdf(*values).item() == pytest.approx(lam, rel=1e-11, abs=0)


def test_beta_inverse_grows_with_u_however_close():
    u = torch.rand(20_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    tau = torch.logspace(-4, 4, len(u), dtype=torch.float64)
    lam, after = functional.beta_icdf(u, tau), functional.beta_icdf(u + 1e-9 * (1 - u), tau)
    assert (after >= lam).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_beta_inverse_keeps_dtype_and_shape(dtype):
    u = torch.tensor([[0.0, 0.3, 1.0], [torch.nan, -0.5, 1.5]], dtype=dtype)
    lam = functional.beta_icdf(u, torch.tensor(0.7, dtype=dtype))
    assert (lam.dtype, lam.shape) == (dtype, u.shape)
    assert lam[1, 0].isnan()
    assert lam[0, ::2].tolist() == lam[1, 1:].tolist() == [0, 1]
    assert functional.beta_icdf(u[:0], torch.ones(3, dtype=dtype)).shape == (0, 3)
    assert functional.beta_icdf(u[0, 1], torch.tensor([1.0, torch.nan])).isnan().tolist() == [
        False,
        True,
    ]


def test_beta_inverse_compiles_with_its_table_as_a_constant():
    u, tau = torch.rand(50), torch.rand(50) * 2
    operations = []

    def count(graph, _):
        operations.extend(node for node in graph.graph.nodes if node.op == "call_function")
        return graph.forward

    compiled = torch.compile(functional.beta_icdf, fullgraph=True, backend=count)
    torch.testing.assert_close(compiled(u, tau), functional.beta_icdf(u, tau))
    assert len(operations) < 200
    torch.compiler.reset()


def test_beta_inverse_at_the_ends():
    u = torch.tensor([0.0, 0.5, 1.0])
    for tau in (1e-30, 1.0, 1e6):
        ends = functional.beta_icdf(u, torch.tensor(tau))
        assert ends.isfinite().all()
        assert ends[1] == 0.5
        assert ends[0] <= 0.5 <= ends[2]


# ----------------------------------------------------------------------------------------- remix


def test_golden_remix(golden):
    data = golden("remix")
    lam = functional.remix_lambda(
        data["lam"], data["count_own"], data["count_partner"], data["kappa"], data["t"]
    )
    torch.testing.assert_close(lam, data["label_lam"])


def test_remix_is_symmetric_in_the_two_sides():
    lam = torch.rand(200)
    own, partner = torch.randint(1, 300, (2, 200)).float()
    mirrored = functional.remix_lambda(1 - lam, partner, own)
    torch.testing.assert_close(functional.remix_lambda(lam, own, partner), 1 - mirrored)
