"""The static policies as published methods."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import mixwell
from mixwell import InputError
from mixwell.batch import Batch
from mixwell.coefficient import Beta, SimilarityKernel
from mixwell.methods.deit_mix import Redrawn
from mixwell.methods.resizemix import ResizeScale
from mixwell.methods.smoothmix import SmoothSpread

STATIC = [
    "resizemix", "fmix", "gridmix", "maskmix", "saliencymix", "smoothmix", "deit_mix", "randomix",
]  # fmt: skip

# Statistical tests have fixed seeds and allow 4.5 standard deviations: by chance one in 150,000
# would fail.
SIGMAS = 4.5


def lams(name, size=32, batches=40, **arguments):
    """Return λ of many samples as a method draws them."""
    recipe = mixwell.create(name, **arguments).recipe
    batch = Batch(torch.rand(250, 1, size, size), torch.arange(250) % 3)
    return torch.cat([recipe.draw(batch)[0].lam for _ in range(batches)])


def near(lam, expected, rounding=0.0):
    deviation = float(lam.std()) / len(lam) ** 0.5
    return abs(float(lam.mean()) - expected) < SIGMAS * deviation + rounding


def test_published_defaults():
    def recipe(name):
        return mixwell.create(name).recipe

    resize = recipe("resizemix").coefficient
    assert (type(resize), resize.low, resize.high) == (ResizeScale, 0.1, 0.8)
    smooth = recipe("smoothmix").coefficient
    assert (type(smooth), smooth.low, smooth.high) == (SmoothSpread, 0.25, 0.5)
    assert recipe("fmix").interpolation.decay_power == 3.0
    assert recipe("saliencymix").interpolation.saliency == "spectral"
    assert recipe("fmix").coefficient.alpha == 1.0
    deit = recipe("deit_mix").interpolation
    assert [type(policy).__name__ for policy in deit.policies] == ["Linear", "CutMix"]
    assert (deit.probabilities, deit.alphas, deit.per) == ([0.5, 0.5], [0.8, 1.0], "batch")
    randomix = recipe("randomix").interpolation
    names = [type(policy).__name__ for policy in randomix.policies]
    assert names == ["Linear", "CutMix", "ResizeMix", "FMix"]
    assert randomix.probabilities == [1 / 2, 1 / 6, 1 / 6, 1 / 6]


def test_lam_of_resizemix_is_of_its_published_scale():
    torch.manual_seed(0)
    # E[s²] of s ~ U(0.1, 0.8); of 100 pixels a side is rounded by 1/35 pixel in the mean square.
    lam = lams("resizemix", size=100)
    assert near(lam, 1 - (0.8**3 - 0.1**3) / (3 * 0.7), 1e-4)
    scale = (1 - lam).sqrt()
    assert float(scale.min()) >= 0.0999
    assert float(scale.max()) <= 0.8001


@pytest.mark.slow
@pytest.mark.parametrize("per", ["sample", "batch"])
def test_a_scale_by_beta_is_drawn_uniformly_where_it_is_out_of_range(per):
    """As openmixup draws it: Beta(α, α) first, and U(low, high) for what is beyond these."""
    torch.manual_seed(3)
    random = np.random.default_rng(0)
    slow = random.beta(2.0, 2.0, 40_000)
    beyond = (slow < 0.1) | (slow > 0.8)
    slow = np.where(beyond, random.uniform(0.1, 0.8, 40_000), slow)
    part = ResizeScale(scale_alpha=2.0, per=per)
    size, count = (200, 100) if per == "sample" else (2, 5_000)
    batch = Batch(torch.zeros(size, 1), torch.zeros(size).long())
    draws = [part(batch, torch.arange(size)) for _ in range(count)]
    if per == "batch":
        assert all(bool(lam[0] == lam[1]) for lam in draws)
        draws = [lam[:1] for lam in draws]
    scale = (1 - torch.cat(draws)).sqrt().numpy()
    assert stats.ks_2samp(scale, slow).pvalue > 1e-5
    assert stats.kstest(scale, stats.uniform(0.1, 0.7).cdf).pvalue < 1e-5


def test_the_scale_is_by_beta_beside_decoupled_mixup_alone():
    def scale(name):
        return mixwell.create(name, published="cifar100").recipe.coefficient

    assert scale("resizemix").scale_alpha is None
    assert scale("resizemix+decoupled").scale_alpha == 0.2
    with pytest.raises(InputError, match="scale_alpha must be"):
        mixwell.create("resizemix", scale_alpha=0.0)


def test_lam_of_smoothmix_is_of_its_published_spread():
    torch.manual_seed(1)
    # E[1 - λ] is, for each spread, the squared mean of exp(-(t - c)²/2σ²) over all t and c.
    place = (torch.arange(400, dtype=torch.float64) + 0.5) / 400
    apart = (place[:, None] - place).square()
    spreads = 0.25 + 0.25 * place[::8]
    shares = [torch.exp(-apart / (2 * spread**2)).mean().square() for spread in spreads]
    assert near(lams("smoothmix"), 1 - float(torch.stack(shares).mean()), 1e-3)


@pytest.mark.parametrize("name", ["fmix", "gridmix", "maskmix"])
def test_lam_of_the_others_is_uniform_in_the_mean(name):
    torch.manual_seed(2)
    assert near(lams(name), 0.5)
    lam = lams(name, alpha=0.2)
    assert near(lam, 0.5)
    # Chance spreads λ further than Beta's variance 1 / (4 (2α + 1)); whole cells do too.
    variance = float(lam.var())
    assert abs(variance - 1 / 5.6) < 0.01 if name == "fmix" else variance > 1 / 5.6


@pytest.mark.parametrize("per", ["batch", "sample"])
def test_deits_recipe_is_half_of_each(per):
    torch.manual_seed(3)
    method = mixwell.create("deit_mix", per=per)
    x, y = torch.rand(100, 1, 16, 16), torch.arange(100) % 3
    draws = 600 if per == "batch" else 60
    linear, lam = [], []
    for _ in range(draws):
        mix = method.preview(x, y)[2]
        assert (len(mix.lam.unique()) == 1) == (per == "batch")
        if per == "batch":
            linear.append(torch.tensor([mix.is_uniform]))
            lam.append(mix.lam[:1])
        else:
            low, high = mix.mask.flatten(1).aminmax(dim=1)
            linear.append((low == high) & (low < 1))
            lam.append(mix.lam)
    linear, lam = torch.cat(linear), torch.cat(lam)
    assert near(linear.float(), 0.5, 0.01)
    # λ of Beta(0.8, 0.8) has the variance 1 / 10.4, and its square's mean a deviation below 0.09.
    square = float((lam[linear] - 0.5).square().mean())
    assert abs(square - 1 / 10.4) < SIGMAS * 0.09 / math.sqrt(int(linear.sum()))


def test_randomix_draws_mixup_half_of_the_time():
    torch.manual_seed(4)
    method = mixwell.create("randomix")
    x, y = torch.rand(4, 1, 8, 8), torch.zeros(4).long()
    mixes = [method.preview(x, y)[2] for _ in range(1200)]
    kinds = [
        0 if mix.is_uniform else 1 if mix.mask is not None else 2 if mix.box.source is None else 3
        for mix in mixes
    ]
    for kind, probability in enumerate((1 / 2, 1 / 6, 1 / 6, 1 / 6)):
        deviation = math.sqrt(1200 * probability * (1 - probability))
        assert abs(kinds.count(kind) - 1200 * probability) < SIGMAS * deviation


@pytest.mark.parametrize("name", [name for name in STATIC if name != "deit_mix"])
def test_they_take_another_methods_lam(name):
    recipe = mixwell.create(f"sk_mixup+{name}+decoupled", num_classes=5).recipe
    assert type(recipe.coefficient) is SimilarityKernel
    assert mixwell.create(name, coefficient="Constant", lam=0.25).recipe.coefficient.lam == 0.25


def test_another_methods_lam_is_honoured():
    x, y = torch.rand(40, 1, 64, 64), torch.arange(40) % 3
    for name in ("resizemix", "fmix", "maskmix", "gridmix", "smoothmix"):
        method = mixwell.create(name, coefficient="Constant", lam=0.36)
        lam = method.preview(x, y)[2].lam
        within = {"resizemix": 0.02, "fmix": 1e-3, "maskmix": 0.04}.get(name, 0.3)
        assert (lam - 0.36).abs().mean() < within


def test_deits_recipe_leaves_no_other_lam():
    assert type(mixwell.create("deit_mix").recipe.coefficient) is Redrawn
    with pytest.raises(InputError, match="both decide how much of each"):
        mixwell.create("sk_mixup+deit_mix")
    with pytest.raises(InputError, match=r"no argument 'alpha' \(did you mean 'alphas'"):
        mixwell.create("deit_mix", alpha=0.5)
    switched = mixwell.create("sk_mixup", interpolation="Switch", per="batch").recipe
    assert type(switched.coefficient) is SimilarityKernel
    assert switched.interpolation.per == "batch"
    other = mixwell.create("randomix", policies=["CutMix", "FMix"], probabilities=[0.3, 0.7])
    assert other.recipe.interpolation.probabilities == [0.3, 0.7]
    assert type(other.recipe.coefficient) is Beta


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("resizemix", {"low": 0.9}, "low must not be above high, got low=0.9 and high=0.8"),
        ("resizemix", {"high": 1.2}, "high must be a number in"),
        ("smoothmix", {"low": 0}, "low must be a number in"),
        ("smoothmix", {"low": 0.6}, "low must not be above high"),
        ("deit_mix", {"probabilities": [0.5, 0.6]}, "that sum to 1"),
        ("randomix", {"policies": ["AlignMixx"]}, "'AlignMixx' is unknown"),
    ],
)
def test_bad_arguments_are_named(name, arguments, words):
    with pytest.raises(InputError, match=words):
        mixwell.create(name, **arguments)


def test_spreads_and_scales_may_be_drawn_once():
    for name in ("resizemix", "smoothmix", "gridmix", "maskmix", "fmix"):
        x, y = torch.rand(6, 1, 12, 12), torch.zeros(6).long()
        mix = mixwell.create(name, per="batch").preview(x, y)[2]
        assert len(mix.lam.unique()) == 1
        assert len(mix.dense_mask().unique(dim=0)) == 1


@pytest.mark.parametrize("name", STATIC)
def test_odd_sizes_single_samples_and_other_tasks(name):
    net = nn.Conv2d(2, 4, 3, padding=1)
    for size in (1, 3):
        x, y = torch.rand(size, 2, 7, 11), torch.randint(0, 4, (size, 7, 11))
        step = mixwell.create(name, num_classes=4, task="segmentation").step(net, x, y)
        step.loss.backward()
        mask = step.mix.dense_mask()
        if mask is not None:
            lam = mask[:, 0].to(step.target.lam.dtype)
            torch.testing.assert_close(step.target.lam, lam.expand(size, 7, 11))
    flat = nn.Sequential(nn.Flatten(), nn.Linear(2 * 77, 4))
    x, y = torch.rand(5, 2, 7, 11), torch.rand(5, 4).round()
    assert mixwell.create(name, task="multilabel")(flat, x, y).isfinite()
    assert mixwell.create(name, task="regression")(flat, x, y).isfinite()


def test_saliency_by_gradient_looks_at_the_model():
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    with torch.no_grad():
        net[1].weight.zero_()
        net[1].weight[0, 27] = 5  # row 3, column 3
    method = mixwell.create("saliencymix", saliency="gradient", coefficient="Constant", lam=0.9)
    step = method.step(net, torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 0]))
    assert not step.mix.dense_mask()[:, 0, 3, 3].any()
    with pytest.raises(InputError, match="where it looks"):
        method.preview(torch.rand(4, 1, 8, 8), torch.zeros(4).long())


def test_a_probability_of_mixing_is_kept():
    torch.manual_seed(5)
    x, y = torch.rand(400, 1, 12, 12), torch.zeros(400).long()
    for name in ("resizemix", "smoothmix", "maskmix", "deit_mix"):
        method = mixwell.create(name, p=0.25, per="sample")
        mixed, _, mix = method.preview(x, y)
        alone = (mixed == x).flatten(1).all(1)
        # A λ near 1 leaves some of the mixed ones as they are, too.
        share = float(alone.float().mean())
        assert 0.75 - SIGMAS * math.sqrt(0.25 * 0.75 / 400) < share < 0.93
        assert (mix.lam[alone] == 1).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in STATIC if name not in ("deit_mix", "randomix")])
def test_a_whole_step_compiles_into_one_graph_and_never_again(name):
    torch.compiler.reset()
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    method = mixwell.create(name, num_classes=5)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 5))
    step = torch.compile(lambda x, y: method(model, x, y), backend=backend, fullgraph=True)
    for turn in range(3):
        method.set_progress(turn / 3)
        loss = step(torch.randn(8, 3, 4, 4), torch.randint(0, 5, (8,)))
        loss.backward()
        assert loss.isfinite()
    assert len(graphs) == 1
