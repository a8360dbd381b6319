"""The inverse Beta function by the compiled kernel equals that by torch's operations."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mixwell.beta import TAU_MAX, TAU_MIN, beta_icdf
from mixwell.kernels import cpu, native

pytestmark = pytest.mark.skipif(native.library() is None, reason="no C compiler")


def by_torch(u, tau):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "library", lambda: None)
        return beta_icdf(u, tau)


def anywhere(size, seed=0):
    """u in [0, 1]: even, towards both ends and 1/2, and these themselves; τ in [1e-30, 1e6]."""
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape):
        return torch.rand(shape, dtype=torch.float64, generator=generator)

    tail, near = 10 ** (-310 * rand(size)), 10 ** (-16 * rand(size))
    every = torch.stack([rand(size), tail, 1 - near, 0.5 - near / 2, 0.5 + near / 2])
    u = every.gather(0, torch.randint(5, (1, size), generator=generator))[0]
    u[:5] = torch.tensor([0.0, 1.0, 0.5, 5e-324, 1 - 2.0**-53])
    tau = 10 ** (-30 + 36 * rand(size))
    tau[::2] = 10 ** (4 * rand(size)[::2] - 2)
    tau[5:10] = torch.tensor([TAU_MIN, TAU_MAX, 1.0, 1 - 2.0**-53, 1 + 2.0**-52])
    return u, tau


def test_it_equals_torchs_over_the_whole_range():
    u, tau = anywhere(200_000)
    lam, expected = beta_icdf(u, tau), by_torch(u, tau)
    assert ((lam - expected).abs() <= 2.0**-51).all()  # four units in the last place below 1
    # The exponent of a small λ is up to 700, and has its own last place.
    torch.testing.assert_close(lam, expected, rtol=2e-12, atol=1e-306)
    single, tau = u.float(), tau.float()
    torch.testing.assert_close(beta_icdf(single, tau), by_torch(single, tau), rtol=2e-7, atol=1e-44)


@pytest.mark.parametrize("tau", [TAU_MIN, 1e-3, 0.999, 1.0, 7.0, TAU_MAX])
def test_each_tau_at_each_u_and_at_both_ends(tau):
    u = anywhere(2000)[0].sort()[0]
    shape = torch.tensor(tau, dtype=torch.float64)
    lam = beta_icdf(u, shape)
    assert ((lam - by_torch(u, shape)).abs() <= 2.0**-51).all()
    assert (lam.diff() >= 0).all()
    assert lam[[0, -1]].tolist() == [0.0, 1.0]


def test_what_is_outside_and_what_is_no_number():
    wrong = [torch.nan, -torch.inf, -1.0, -0.0, 2.0, torch.inf]
    u = torch.tensor([*wrong, 0.3], dtype=torch.float64)
    tau = torch.tensor([*wrong, 1e-40, 1e40, 0.0], dtype=torch.float64)[:, None]
    lam = beta_icdf(u, tau)
    torch.testing.assert_close(lam, by_torch(u, tau), rtol=1e-12, atol=0, equal_nan=True)
    assert lam.isnan().sum() == len(u) + len(tau) - 1


VIEWS = {
    "apart": lambda x: x[::2],
    "transposed": lambda x: x.view(30, 40).T,
    "one for all": lambda x: x[7],
    "a row for all": lambda x: x.view(30, 40)[:1].expand(30, -1),
    "backwards": lambda x: torch.complex(x, -x).conj().imag,
    "needs a gradient": lambda x: x.clone().requires_grad_() * 1,
    "a parameter": lambda x: torch.nn.Parameter(x),
    "none": lambda x: x[:0],
    "half": lambda x: x.bfloat16(),
}


@pytest.mark.parametrize("view", VIEWS)
def test_any_memory(view):
    u, tau = (VIEWS[view](x) for x in anywhere(1200))
    before = u.detach().clone()
    lam = beta_icdf(u, tau)
    assert (lam.shape, lam.dtype, lam.requires_grad) == (u.shape, u.dtype, False)
    torch.testing.assert_close(lam, by_torch(u, tau), rtol=1e-12, atol=0)
    torch.testing.assert_close(u.detach(), before, rtol=0, atol=0)


def test_threads_share_the_values(threads):
    for size in (1 << 15, (1 << 15) + 13):
        assert 128 * size >= cpu.THREADED
        u, tau = anywhere(size)
        lam = []
        for count in (1, 2, 3):
            threads(count)
            lam.append(beta_icdf(u, tau))
        assert torch.equal(lam[0], lam[1])
        assert torch.equal(lam[0], lam[2])


def test_what_records_operations_gets_torchs():
    u, tau = anywhere(50)
    expected = by_torch(u, tau)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "beta_icdf", None)
        mapped = torch.func.vmap(beta_icdf)(u.view(5, 10), tau.view(5, 10))
    torch.testing.assert_close(mapped.flatten(), expected, rtol=1e-12, atol=0)


class Counted(TorchDispatchMode):
    """Counts the operations that torch dispatches."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.skipif(torch.__version__.startswith("2.6."), reason="it counts other operations")
def test_it_is_a_handful_of_operations():
    u, tau = torch.rand(128), torch.rand(128)
    beta_icdf(u, tau)
    with Counted() as counted:
        beta_icdf(u, tau)
    assert counted.count <= 6
