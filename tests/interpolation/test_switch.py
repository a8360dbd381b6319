import math

import pytest
import torch
from torch import nn

from mixwell import InputError, Mix
from mixwell.batch import Batch
from mixwell.coefficient import Beta, Constant, SimilarityKernel
from mixwell.interpolation import (
    CutMix,
    FMix,
    Interpolation,
    Linear,
    MaskMix,
    ResizeMix,
    SaliencyMix,
    SmoothMix,
    Switch,
)
from mixwell.interpolation.switch import _join
from mixwell.losses import MixedCrossEntropy
from mixwell.methods import Method, Recipe, Term
from mixwell.mix import Box, Warp

# Statistical tests have fixed seeds and allow 4.5 standard deviations: by chance one in 150,000
# would fail.
SIGMAS = 4.5


def make_batch(size, side=8):
    return Batch(torch.rand(size, 3, side, side), torch.arange(size) % 3)


def make_mix(size, lam=None):
    return Mix(torch.arange(size).roll(1), torch.rand(size) if lam is None else lam)


class Counted(CutMix):
    """CutMix that notes when it draws."""

    def __init__(self):
        super().__init__()
        self.drawn, self.learnt = 0, 0
        self.learns = True

    def shape(self, batch, mix):
        self.drawn += 1
        return super().shape(batch, mix)

    def learn(self, batch, mix, target):
        self.learnt += 1


# --------------------------------------------------------------------------------------- per batch


def test_per_batch_one_policy_draws_and_learns_and_no_other():
    policies = [Counted(), Counted(), Counted()]
    switch = Switch(policies, probabilities=[0.2, 0.5, 0.3], per="batch")
    batch, mix = make_batch(4), make_mix(4)
    torch.manual_seed(0)
    turns = 1000
    for turn in range(turns):
        shaped = switch.shape(batch, mix)
        switch.learn(batch, shaped, None)
        assert sum(policy.drawn for policy in policies) == turn + 1
    assert [policy.learnt for policy in policies] == [policy.drawn for policy in policies]
    for policy, probability in zip(policies, (0.2, 0.5, 0.3), strict=True):
        deviation = math.sqrt(turns * probability * (1 - probability))
        assert abs(policy.drawn - turns * probability) < SIGMAS * deviation


def test_what_has_no_chance_is_never_drawn():
    policies = [Counted(), Counted(), Counted()]
    switch = Switch(policies, probabilities=[0, 1, 0], per="batch")
    for _ in range(50):
        switch.shape(make_batch(2), make_mix(2))
    assert [policy.drawn for policy in policies] == [0, 50, 0]
    switch = Switch([CutMix(), Linear()], probabilities=[0, 1])
    mix = make_mix(6)
    shaped = switch.shape(make_batch(6), mix)
    assert torch.equal(shaped.dense_mask().flatten(1).amin(1), mix.lam)


def test_per_batch_a_mix_is_the_policys_own():
    batch, mix = make_batch(5), make_mix(5)
    for policy in (Linear(), CutMix(), FMix(), SmoothMix(), ResizeMix()):
        switch = Switch([policy], per="batch")
        torch.manual_seed(3)
        torch.randint(1 << 30, ())  # the draw of the policy
        expected = policy.shape(batch, mix)
        torch.manual_seed(3)
        found = switch.shape(batch, mix)
        assert torch.equal(found.lam, expected.lam)
        assert (found.mask is None) == (expected.mask is None)
        assert (found.box is None) == (expected.box is None)
        assert torch.equal(switch(batch.x, found), policy(batch.x, expected))


def test_a_generator_decides_the_policy():
    def drawn(seed):
        generator = torch.Generator().manual_seed(seed)
        batch = Batch(torch.rand(2, 1, 4, 4), torch.zeros(2).long(), generator=generator)
        switch = Switch(per="batch")
        return [switch.shape(batch, make_mix(2)).is_uniform for _ in range(12)]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


# -------------------------------------------------------------------------------------- per sample

KINDS = {
    "uniform": lambda batch, mix: mix,
    "box": lambda batch, mix: CutMix().shape(batch, mix),
    "resized": lambda batch, mix: ResizeMix().shape(batch, mix),
    "bool": lambda batch, mix: FMix().shape(batch, mix),
    "soft": lambda batch, mix: SmoothMix().shape(batch, mix),
    "warped": lambda batch, mix: Mix(
        mix.partner, mix.lam, warp=Warp(torch.rand(len(batch), 8, 8, 2) * 2 - 1)
    ),
}


@pytest.mark.parametrize(
    "kinds",
    [
        ["uniform", "uniform"],
        ["box", "box"],
        ["box", "resized", "box"],
        ["uniform", "box"],
        ["bool", "box"],
        ["soft", "bool", "box"],
        ["resized", "uniform"],
        ["soft", "resized", "uniform", "bool", "box"],
        ["warped", "resized"],
        ["uniform", "warped"],
    ],
)
def test_joined_every_sample_is_mixed_as_by_its_own_policy(kinds):
    batch = make_batch(12)
    mixes = [KINDS[kind](batch, make_mix(12)) for kind in kinds]
    taken = torch.arange(12) % len(kinds)
    joined = _join(taken, mixes)
    mixed = Interpolation()(batch.x, joined)
    for i in range(12):
        own = mixes[i % len(kinds)]
        assert joined.lam[i] == own.lam[i]
        expected = Interpolation()(batch.x, own)[i]
        torch.testing.assert_close(mixed[i], expected, rtol=0, atol=2e-6)


def test_what_joins_keeps_the_lightest_form():
    batch, taken = make_batch(4), torch.tensor([0, 1, 0, 1])

    def join(*kinds):
        return _join(taken, [KINDS[kind](batch, make_mix(4)) for kind in kinds])

    assert join("uniform", "uniform").is_uniform
    assert join("box", "box").box.source is None
    assert join("box", "resized").box.source is not None
    assert join("bool", "box").mask.dtype == torch.bool
    assert join("uniform", "box").mask.dtype == torch.float32
    assert join("uniform", "box").warp is None


def test_joined_class_maps_follow_the_masks():
    labels = torch.arange(9)[:, None, None].expand(9, 8, 8).contiguous()
    x = {"image": torch.rand(9, 3, 8, 8), "classes": labels}
    switch = Switch(["CutMix", "ResizeMix", "FMix", "MaskMix"])
    batch = Batch(x, torch.zeros(9).long())
    mix = switch.shape(batch, make_mix(9))
    own = mix.dense_mask()[:, 0]
    expected = torch.where(own, labels, mix.partner[:, None, None])
    assert torch.equal(switch(x, mix)["classes"], expected)


def test_per_sample_policies_are_drawn_by_their_probabilities():
    torch.manual_seed(4)
    count = 8000
    switch = Switch([MaskMix(patch=1), Linear(), CutMix()], probabilities=[0.5, 0.2, 0.3])
    mix = switch.shape(make_batch(count), make_mix(count, torch.full((count,), 0.3)))
    low, high = mix.mask.flatten(1).aminmax(dim=1)
    linear = (low == high) & (low == 0.3)
    patches = (mix.mask.sum((1, 2, 3)) == 19) & ~linear
    for found, probability in ((linear, 0.2), (patches, 0.5)):
        deviation = math.sqrt(count * probability * (1 - probability))
        # A box of 45 pixels, clipped or not, is hardly ever taken for 45 single ones.
        assert abs(int(found.sum()) - count * probability) < SIGMAS * deviation + 20


@pytest.mark.parametrize("per", ["sample", "batch"])
def test_lam_is_the_mean_of_the_mask(per):
    switch = Switch(["Linear", "CutMix", "ResizeMix", "FMix", "SmoothMix"], per=per)
    for seed in range(8):
        torch.manual_seed(seed)
        mix = switch.shape(make_batch(7, 9), make_mix(7))
        if not mix.is_uniform:
            mean = mix.dense_mask().double().mean((1, 2, 3))
            torch.testing.assert_close(mix.lam.double(), mean, rtol=0, atol=3e-7)


def test_a_switch_may_be_switched():
    inner = Switch([CutMix(), FMix()])
    mix = Switch([inner, Linear()]).shape(make_batch(6), make_mix(6))
    assert mix.mask.shape == (6, 1, 8, 8)


# ------------------------------------------------------------------------------------------------ λ


def variance(alpha):
    return 1 / (4 * (2 * alpha + 1))


def test_alphas_draw_lam_anew_for_what_takes_the_policy():
    torch.manual_seed(5)
    count = 6000
    switch = Switch([Linear(), MaskMix(patch=1)], alphas=[0.3, None], probabilities=[0.5, 0.5])
    mix = switch.shape(make_batch(count), make_mix(count, torch.full((count,), 0.25)))
    low, high = mix.mask.flatten(1).aminmax(dim=1)
    linear = low == high
    assert (mix.lam[~linear] == 0.25).all()
    drawn = mix.lam[linear]
    # The fourth moment of Beta(0.3, 0.3) about 1/2 is about 0.035.
    spread = math.sqrt(0.035 / len(drawn))
    assert abs(float((drawn - 0.5).square().mean()) - variance(0.3)) < SIGMAS * spread


def test_per_batch_lam_is_drawn_once():
    switch = Switch([Linear()], alphas=[1.0], per="batch")
    drawn = [switch.shape(make_batch(5), make_mix(5)).lam for _ in range(3)]
    assert all(len(lam.unique()) == 1 for lam in drawn)
    assert len({float(lam[0]) for lam in drawn}) == 3


def test_samples_that_are_not_mixed_stay_so():
    lam = torch.tensor([1.0, 0.5, 1.0, 0.5])
    for per in ("sample", "batch"):
        switch = Switch(alphas=[0.8, 1.0], per=per)
        for seed in range(6):
            torch.manual_seed(seed)
            batch = make_batch(4)
            mix = switch.shape(batch, make_mix(4, lam))
            assert mix.lam[::2].tolist() == [1, 1]
            assert torch.equal(switch(batch.x, mix)[::2], batch.x[::2])


@pytest.mark.parametrize("per", ["sample", "batch"])
def test_targets_follow_the_lam_that_was_drawn(per):
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 3))
    recipe = Recipe(coefficient=Constant(0.5), interpolation=Switch(alphas=[0.8, 1.0], per=per))
    method = Method(Term(MixedCrossEntropy(), recipe), num_classes=3)
    for seed in range(6):
        torch.manual_seed(seed)
        batch = make_batch(6)
        step = method.step(net, batch.x, batch.y)
        assert torch.equal(step.target.lam, step.mix.lam)
        assert (step.mix.lam != 0.5).all()


def test_targets_with_a_kernel_of_their_own_keep_it():
    coefficient = SimilarityKernel(distance="label", target_tau_max=0.1)
    batch = Batch(torch.rand(6, 3, 8, 8), torch.rand(6), task="regression")
    for switch in (Switch([Linear()], per="batch"), Linear()):
        mix, target = Recipe(coefficient=coefficient, interpolation=switch).draw(batch)
        assert not torch.equal(target.lam, mix.lam)


# ---------------------------------------------------------------------------------------- arguments


def test_names_become_policies_that_are_drawn_alike():
    switch = Switch(["Linear", "CutMix", "SaliencyMix"], per="batch")
    assert [type(policy) for policy in switch.policies] == [Linear, CutMix, SaliencyMix]
    assert switch.policies[1].per == "batch"
    assert Switch(["CutMix"]).policies[0].per == "sample"
    assert switch.probabilities == [1 / 3] * 3
    assert not switch.needs_model
    assert Switch([Linear(), SaliencyMix("gradient")]).needs_model
    assert not switch.learns
    assert "probabilities=[1.0], per='sample', alphas=[0.8]" in repr(
        Switch(["CutMix"], alphas=[0.8])
    )


class Apart(Interpolation):
    def forward(self, x, mix):
        return x


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"policies": [Linear("head"), CutMix()]}, r"Linear mixes inside the model \(at head\)"),
        ({"policies": [Linear("auto")]}, "give policies at the input"),
        (
            {"policies": ["CutMix", "AlignMix"]},
            r"AlignMix mixes inside the model \(at the last feature maps\)",
        ),
        ({"policies": [Apart()]}, "Apart does not say all of its mixing in a Mix"),
        ({"policies": ["CutMixx"]}, r"'CutMixx' is unknown \(did you mean 'CutMix'\?\); known: "),
        ({"policies": ["Switch"]}, "'Switch' is unknown"),
        ({"policies": [Beta()]}, "must be interpolations or their names, got Beta"),
        ({"policies": []}, r"policies must be a list of interpolations or their names, got \[\]"),
        ({"policies": "CutMix"}, "policies must be a list"),
        ({"probabilities": [0.5, 0.4]}, "2 numbers, one for each policy, that sum to 1, got"),
        ({"probabilities": [1.0]}, "2 numbers"),
        ({"probabilities": [1.5, -0.5]}, "probabilities must be a number in"),
        ({"alphas": [0.8]}, "alphas must be 2 numbers or None"),
        ({"alphas": [0.8, 0]}, "alphas must be a number"),
        ({"per": "image"}, "per='image' is unknown"),
    ],
)
def test_bad_arguments_are_named(arguments, words):
    with pytest.raises(InputError, match=words):
        Switch(**arguments)


@pytest.mark.cases(quick=1)
@pytest.mark.parametrize(
    "policies",
    [["CutMix", "ResizeMix"], ["FMix", "SmoothMix", "Linear", "GridMix"]],
)
def test_per_sample_compiles_into_one_graph_and_never_again(policies):
    torch.compiler.reset()
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    switch = Switch(policies, alphas=[0.8] * len(policies))

    def mixed(x, lam):
        batch = Batch(x, torch.zeros(4).long())
        mix = switch.shape(batch, Mix(batch.randperm(), lam))
        return switch(x, mix), mix.lam

    compiled = torch.compile(mixed, backend=backend, fullgraph=True)
    for _ in range(3):
        x, lam = compiled(torch.rand(4, 3, 6, 6), torch.rand(4))
        assert x.isfinite().all()
        assert lam.shape == (4,)
    assert len(graphs) == 1


def test_a_box_joins_as_it_is():
    edges = torch.tensor([[0, 2, 1, 3], [1, 4, 0, 0]])
    first = Mix(torch.tensor([1, 0]), torch.tensor([0.75, 1.0]), box=Box(edges, 4, 4))
    joined = _join(torch.tensor([0, 0]), [first, first])
    assert torch.equal(joined.box.edges, edges)
    assert (joined.box.height, joined.box.width) == (4, 4)
