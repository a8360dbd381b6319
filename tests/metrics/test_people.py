import numpy as np
import pytest
import scipy.stats
import torch

from mixwell import InputError, metrics
from mixwell.metrics import measures
from mixwell.metrics.measures import Evidence


def draw(size=200, num_classes=5, seed=0):
    """Return logits and people's counts, by NumPy."""
    generator = np.random.default_rng(seed)
    shares = generator.dirichlet(np.full(num_classes, 0.3), size)
    counts = np.stack([generator.multinomial(20, row) for row in shares])
    return torch.from_numpy(generator.normal(size=(size, num_classes)) * 3), torch.tensor(counts)


def distributions(logits, counts):
    return scipy.special.softmax(logits.numpy(), 1), counts.numpy() / counts.numpy().sum(1)[:, None]


def test_cross_entropy_and_divergence_are_scipy_s():
    logits, counts = draw()
    own, people = distributions(logits, counts)
    ce = float(metrics.people_cross_entropy(logits, counts))
    kl = float(metrics.people_divergence(logits, counts))
    assert ce == pytest.approx(-(people * np.log(own)).sum(1).mean(), rel=1e-12)
    assert kl == pytest.approx(scipy.stats.entropy(people, own, axis=1).mean(), rel=1e-12)
    assert ce - kl == pytest.approx(scipy.stats.entropy(people, axis=1).mean(), rel=1e-12)


def test_with_one_answer_it_is_the_likelihood_of_the_label():
    logits, _ = draw()
    labels = torch.arange(len(logits)) % 5
    counts = 51 * torch.nn.functional.one_hot(labels, 5)
    wanted = float(metrics.negative_log_likelihood(logits, labels))
    assert float(metrics.people_cross_entropy(logits, counts)) == pytest.approx(wanted)
    assert float(metrics.people_divergence(logits, counts)) == pytest.approx(wanted)


def test_people_s_own_distribution_is_at_no_distance():
    _, counts = draw()
    counts = counts + 1
    logits = counts.double().log()
    assert float(metrics.people_divergence(logits, counts)) == pytest.approx(0, abs=1e-12)
    assert float(metrics.people_entropy_correlation(logits, counts)) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("seed", range(4))
def test_the_rank_correlation_is_scipy_s(seed):
    logits, counts = draw(seed=seed)
    own, people = distributions(logits, counts)
    # Entropies of one and the same answers are ties, in whichever order the classes are.
    of_people = scipy.stats.entropy(people, axis=1).round(10)
    assert len(np.unique(of_people)) < 180
    wanted = scipy.stats.spearmanr(scipy.stats.entropy(own, axis=1), of_people).statistic
    assert float(metrics.people_entropy_correlation(logits, counts)) == pytest.approx(
        wanted, abs=1e-12
    )
    generator = np.random.default_rng(seed)
    first, second = generator.integers(0, 6, 50), generator.normal(size=50)
    assert float(
        metrics.rank_correlation(torch.tensor(first), torch.tensor(second))
    ) == pytest.approx(scipy.stats.spearmanr(first, second).statistic, abs=1e-12)
    assert metrics.rank_correlation(torch.ones(5), torch.arange(5.0)).isnan()


def test_doubt_where_people_doubt_is_told_from_doubt_elsewhere():
    certain, torn = torch.tensor([[20, 0, 0]]), torch.tensor([[8, 7, 5]])
    counts = torch.cat([certain.repeat(10, 1), torn.repeat(10, 1)])
    sharp = torch.tensor([[9.0, 0, 0]]) * torch.linspace(1, 2, 10)[:, None]
    flat = torch.tensor([[1.0, 0, 0]]) * torch.linspace(0.1, 1, 10)[:, None]
    rho = metrics.people_entropy_correlation(torch.cat([sharp, flat]), counts)
    assert rho > 0.8
    other = metrics.people_entropy_correlation(torch.cat([flat, sharp]), counts)
    assert float(other) == pytest.approx(-float(rho))


def test_gradients_reach_the_logits_past_answers_that_nobody_gave():
    logits, counts = draw()
    logits.requires_grad_()
    metrics.people_divergence(logits, counts).backward()
    own, people = distributions(logits.detach(), counts)
    torch.testing.assert_close(logits.grad, torch.from_numpy((own - people) / len(own)))


def test_the_measures_are_taken_before_and_after_the_temperature():
    logits, counts = draw()
    known = [m for m in measures.registered() if m.name.startswith("people")]
    assert not measures.take(Evidence(logits, counts.argmax(1)), known)
    found = measures.take(Evidence(logits, counts.argmax(1), people=counts, temperature=2.5), known)
    assert set(found) == {
        name + scaled for name in ("people_ce", "people_kl", "people_entropy_rho")
        for scaled in ("", "_scaled")
    }  # fmt: skip
    for scaled, values in (("", logits), ("_scaled", logits / 2.5)):
        own, people = distributions(values, counts)
        assert found[f"people_kl{scaled}"] == pytest.approx(
            scipy.stats.entropy(people, own, axis=1).mean()
        )
        assert found[f"people_entropy_rho{scaled}"] == pytest.approx(
            float(metrics.people_entropy_correlation(values, counts))
        )


@pytest.mark.parametrize(
    ("logits", "counts", "message"),
    [
        (torch.ones(3), torch.ones(3), "logits must be"),
        (torch.ones(3, 2), torch.ones(3, 3), r"counts must have the shape of logits, \(3, 2\)"),
        (torch.ones(3, 2), torch.tensor([[1, 0], [0, 0], [1, 1]]), "counts must be 0 or more"),
        (torch.ones(2, 2), torch.tensor([[2, -1], [1, 1]]), "counts must be 0 or more"),
        (torch.tensor([[torch.inf, 0]]), torch.ones(1, 2), "logits holds NaN"),
    ],
)
def test_bad_input_is_refused(logits, counts, message):
    for measure in (
        metrics.people_cross_entropy,
        metrics.people_divergence,
        metrics.people_entropy_correlation,
    ):
        with pytest.raises(InputError, match=message):
            measure(logits, counts)


def test_ranks_of_different_lengths_are_refused():
    with pytest.raises(InputError, match="first and second"):
        metrics.rank_correlation(torch.ones(3), torch.ones(4))
