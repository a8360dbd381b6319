import pytest
import torch
from torch import nn

import mixwell
from mixwell import InputError, Method, Mix, Recipe, Term, functional
from mixwell.losses import Clean, Loss, MixedCrossEntropy, Mixes, MixupNDCG, Need, Twin
from mixwell.methods.plan import CleanGroup, MixedGroup, TwinGroup


def kinds(plan):
    return [type(group) for group in plan.groups]


def test_terms_of_one_recipe_share_their_rows_and_needs_add_theirs():
    recipe = Recipe()
    plan = Method(
        Term(MixedCrossEntropy(), recipe, name="a"),
        Term(MixupNDCG(mixes=3), recipe, name="b"),
        Term(MixedCrossEntropy(), name="c"),
    ).plan()
    assert kinds(plan) == [MixedGroup, CleanGroup, MixedGroup, MixedGroup]
    assert [reading.own for reading in plan.readings] == [0, 0, 1]
    assert plan.readings[1].others == {Clean: (1,), Mixes: (2, 3)}
    assert (plan.shown, plan.clean) == (0, 1)
    assert kinds(mixwell.create("mit").plan()) == [MixedGroup, TwinGroup]


def test_a_plan_can_be_read():
    text = str(mixwell.create("regmixup+am_mixup", num_classes=3).plan())
    assert "3 group(s) of B rows" in text
    assert "unmixed; read by clean" in text
    assert "InterClass, Midpoint, Centres, OneSided at head; read by am_mixup" in text


def test_nothing_is_mixed_in_evaluation():
    plan = mixwell.create("rankmixup_ndcg+cutmix").eval().plan()
    assert kinds(plan) == [CleanGroup]
    assert type(plan.readings[0].loss) is MixedCrossEntropy


# ------------------------------------------------------------------------- losses from outside


class Everything(Loss):
    """Reads all that a loss may declare, and keeps it."""

    def __init__(self):
        super().__init__()
        self.needs = (Clean(), Twin(lambda batch, lam: 1 - lam), Mixes(2))

    def of_step(self, outcome):
        self.seen = outcome
        return outcome.mixed.logits.square().mean()


def test_a_loss_gets_what_it_declares(make_net, images):
    net, (x, y) = make_net().eval(), images
    loss = Everything()
    Method(Term(loss, Recipe())).step(net, x, y)
    mixed, twin, (more,) = loss.seen.mixed, loss.seen.twin, loss.seen.more
    torch.testing.assert_close(loss.seen.clean.logits, net(x))
    for rows in (mixed, twin, more):
        torch.testing.assert_close(rows.logits, net(functional.mix(x, rows.mix)))
        assert torch.equal(rows.target.b, y[rows.mix.partner])
    assert torch.equal(twin.mix.partner, mixed.mix.partner)
    torch.testing.assert_close(twin.mix.lam, 1 - mixed.mix.lam)
    assert not torch.equal(more.mix.lam, mixed.mix.lam)


def test_what_is_read_must_be_declared(make_net, images):
    class Undeclared(Loss):
        def of_step(self, outcome):
            return outcome.clean.logits.mean()

    with pytest.raises(InputError, match=r"outcome.clean and does not declare it.*needs = \(Clean"):
        Method(Term(Undeclared(), Recipe())).step(make_net(), *images)


def test_needs_that_no_step_meets_are_refused_when_the_method_is_made():
    class Unknown(Need):
        pass

    class Wishing(Loss):
        needs = (Unknown(),)

    with pytest.raises(InputError, match=r"Wishing needs .*Unknown.*known needs: Clean\(\)"):
        Term(Wishing(), Recipe())
    with pytest.raises(InputError, match="give its Term a recipe"):
        Term(MixupNDCG())
    dirichlet = Recipe(coefficient=mixwell.coefficient.Dirichlet())
    with pytest.raises(InputError, match="reads each pair twice"):
        Term(mixwell.losses.MixupInference(), dirichlet)


def test_interpolation_consistency_from_outside(images):
    """The example's loss against the formula, with a network that is linear: it is 0 there."""
    import runpy
    from pathlib import Path

    path = Path(__file__).parents[2] / "examples" / "interpolation_consistency.py"
    pytest.importorskip("sklearn")
    loss = runpy.run_path(str(path))["InterpolationConsistency"]()
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 5))
    x, y = images
    step = Method(Term(loss, Recipe())).step(net, x, y)
    p, lam = net(x).softmax(1), step.mix.lam[:, None]
    wanted = lam * p + (1 - lam) * p[step.mix.partner]
    mixed = net(functional.mix(x, Mix(step.mix.partner, step.mix.lam))).softmax(1)
    torch.testing.assert_close(step.loss, (mixed - wanted).square().sum(1).mean())
    assert step.loss > 0
