"""The symmetric Beta(τ, τ) against SciPy, closed forms and numbers of many digits."""

import pytest
import torch
from helpers import DEVICES
from scipy import special, stats

from mixwell import beta, functional


def test_functional_offers_them():
    for name in ("beta_cdf", "beta_icdf", "sample_beta", "sample_dirichlet"):
        assert getattr(functional, name) is getattr(beta, name)


def censored_ks(lam, tau):
    """The KS p-value of the λ in [1e-300, 1/2], where a float tells small values apart.

    Near 1 a float rounds to 1, so the upper half is folded down only by symmetry of the counts.
    """
    low = lam[(lam < 0.5) & (lam > 1e-300)]
    first, last = special.betainc(tau, tau, 1e-300), 0.5

    def cdf(x):
        return (special.betainc(tau, tau, x) - first) / (last - first)

    return stats.kstest(low, cdf).pvalue, len(low)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("tau", [1e-3, 1e-2, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0, 1e3])
def test_sample_beta_follows_the_distribution(tau, device):
    """Nine tests on each device at fixed seeds; each fails by chance one time in a thousand."""
    generator = torch.Generator(device).manual_seed(3)
    tau_of_each = torch.full((40_000,), tau, dtype=torch.float64, device=device)
    lam = beta.sample_beta(tau_of_each, generator).cpu()
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
    lam = beta.sample_beta(torch.full((1_000,), tau, dtype=dtype), generator).double()
    assert torch.minimum(lam, 1 - lam).max() <= 1e-6
    assert 425 < int((lam > 0.5).sum()) < 575


def test_no_nan_over_the_whole_range_of_tau():
    for dtype in (torch.float32, torch.float64):
        tau = torch.logspace(-30, 6, 2000, dtype=dtype)
        lam = beta.sample_beta(tau)
        assert lam.dtype == dtype
        assert ((lam >= 0) & (lam <= 1)).all()
    outside = beta.sample_beta(torch.tensor([0.0, 1e-40, 1e30, torch.inf]))
    assert ((outside >= 0) & (outside <= 1)).all()


def test_samples_repeat_with_a_generator():
    tau = torch.rand(50) * 3
    draws = [beta.sample_beta(tau, torch.Generator().manual_seed(7)) for _ in range(2)]
    assert torch.equal(*draws)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("tau", [1e-12, 1e-3, 0.2, 0.999, 1.0, 1.7, 30.0, 1e4, 1e6])
def test_beta_cdf_and_inverse_match_scipy(tau, device):
    u = torch.linspace(1e-6, 1 - 1e-6, 300, dtype=torch.float64)  # 1/2 is ill-conditioned
    shape = torch.tensor(tau, dtype=torch.float64, device=device)
    lam = beta.beta_icdf(u.to(device), shape).cpu()
    expected = torch.from_numpy(special.betaincinv(tau, tau, u.numpy()))
    torch.testing.assert_close(lam, expected, rtol=1e-9, atol=1e-300)
    inside = expected[(expected > 1e-290) & (expected < 1)]
    if len(inside):
        reference = torch.from_numpy(special.betainc(tau, tau, inside.numpy()))
        found = beta.beta_cdf(inside.to(device), shape).cpu()
        torch.testing.assert_close(found, reference, rtol=1e-7, atol=1e-12)


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
    lam = beta.beta_icdf(u, torch.tensor(tau, dtype=torch.float64))
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
    one, half = (beta.beta_icdf(u, torch.tensor(tau)) for tau in (1.0, 0.5))
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
    assert beta.beta_icdf(*values).item() == pytest.approx(lam, rel=1e-11, abs=0)


def test_beta_inverse_grows_with_u_however_close():
    u = torch.rand(20_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    tau = torch.logspace(-4, 4, len(u), dtype=torch.float64)
    lam, after = beta.beta_icdf(u, tau), beta.beta_icdf(u + 1e-9 * (1 - u), tau)
    assert (after >= lam).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_beta_inverse_keeps_dtype_and_shape(dtype):
    u = torch.tensor([[0.0, 0.3, 1.0], [torch.nan, -0.5, 1.5]], dtype=dtype)
    lam = beta.beta_icdf(u, torch.tensor(0.7, dtype=dtype))
    assert (lam.dtype, lam.shape) == (dtype, u.shape)
    assert lam[1, 0].isnan()
    assert lam[0, ::2].tolist() == lam[1, 1:].tolist() == [0, 1]
    assert beta.beta_icdf(u[:0], torch.ones(3, dtype=dtype)).shape == (0, 3)
    assert beta.beta_icdf(u[0, 1], torch.tensor([1.0, torch.nan])).isnan().tolist() == [
        False,
        True,
    ]


def test_beta_inverse_compiles_with_its_table_as_a_constant():
    u, tau = torch.rand(50), torch.rand(50) * 2
    operations = []

    def count(graph, _):
        operations.extend(node for node in graph.graph.nodes if node.op == "call_function")
        return graph.forward

    compiled = torch.compile(beta.beta_icdf, fullgraph=True, backend=count)
    torch.testing.assert_close(compiled(u, tau), beta.beta_icdf(u, tau))
    assert len(operations) < 200
    torch.compiler.reset()


def test_beta_inverse_at_the_ends():
    u = torch.tensor([0.0, 0.5, 1.0])
    for tau in (1e-30, 1.0, 1e6):
        ends = beta.beta_icdf(u, torch.tensor(tau))
        assert ends.isfinite().all()
        assert ends[1] == 0.5
        assert ends[0] <= 0.5 <= ends[2]


def test_the_default_dtype_and_device_change_nothing(other_defaults):
    def numbers():
        generator = torch.Generator().manual_seed(0)
        tau = torch.tensor([1e-30, 0.3, 7.0], dtype=torch.float32, device="cpu")
        u = torch.tensor([0.1, 0.4, 0.99], dtype=torch.float32, device="cpu")
        lam = beta.sample_beta(tau, generator)
        weights = beta.sample_dirichlet(tau.expand(2, 3), generator)
        return lam, weights, beta.beta_icdf(u, tau), beta.beta_cdf(u, tau)

    expected = numbers()
    with other_defaults():
        beta._build_terms.cache_clear()
        beta._build_legendre.cache_clear()
        beta._quantile_table.cache_clear()
        for got, right in zip(numbers(), expected, strict=True):
            assert got.dtype == torch.float32
            assert torch.equal(got, right)
