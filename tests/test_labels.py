import pytest
import torch

import mixwell
from mixwell import InputError, Mix, MixedTarget, interpolation, labels, losses
from mixwell.batch import Batch
from mixwell.labels import HeavierSide, Local, OneSided, Remix, Soft

BATCH = Batch(torch.zeros(4, 2), torch.tensor([0, 1, 2, 1]))
MIX = Mix(torch.tensor([1, 0, 2, 0]), torch.tensor([0.2, 0.5, 0.7, 0.9]))


def test_soft_keeps_both_labels_and_the_weight():
    target = Soft()(BATCH, MIX, MIX.lam)
    assert target.a.tolist() == [0, 1, 2, 1]
    assert target.b.tolist() == [1, 0, 2, 0]
    assert torch.equal(target.lam, MIX.lam)


def test_one_sided_takes_the_own_label_and_leaves_out_who_is_alone():
    target = OneSided()(BATCH, MIX, MIX.lam)
    assert target.dense(3).argmax(1).tolist() == [0, 1, 2, 1]
    assert target.weight.tolist() == [1, 1, 0, 1]


def test_heavier_side():
    assert HeavierSide()(BATCH, MIX, MIX.lam).dense(3).argmax(1).tolist() == [1, 1, 2, 1]


def test_remix_gives_way_to_the_rarer_class():
    part = Remix(class_counts=[300, 10, 20])
    target = part(BATCH, MIX, MIX.lam)
    # 0 has 30 times as many samples as 1: at λ = 0.2 of class 0 the rare one takes all.
    assert target.lam.tolist() == pytest.approx([0.0, 0.5, 0.7, 1.0])


@pytest.mark.parametrize("counts", [[5], [3, 0], [[1, 2]], [2, float("nan")]])
def test_bad_counts_are_named(counts):
    with pytest.raises(InputError, match="class_counts"):
        Remix(counts)


def test_remix_names_a_class_without_a_count():
    with pytest.raises(InputError, match="holds 2 classes, but y has values from 0 to 2"):
        Remix([5, 3])(BATCH, MIX, MIX.lam)


FAR = Batch(torch.tensor([[0.0], [1.0], [3.0], [9.0]]), torch.tensor([0, 1, 2, 1]))
CIRCLE = Mix(torch.tensor([1, 2, 3, 0]), torch.tensor([0.2, 0.5, 0.7, 0.9]))  # 1, 2, 6 and 9 apart


def test_local_weights_fall_with_the_distance():
    target = Local(decay=0.5, relative=False)(FAR, CIRCLE, CIRCLE.lam)
    expected = torch.exp(-0.5 * torch.tensor([0.0, 1, 5, 8]))
    torch.testing.assert_close(target.weight, expected)
    assert torch.equal(target.lam, CIRCLE.lam)
    relative = Local(decay=2.25)(FAR, CIRCLE, CIRCLE.lam)  # of a mean of 4.5: the same
    torch.testing.assert_close(relative.weight, expected)


def test_local_limit_and_other_distances():
    target = Local(decay=0.0, limit=2.0, relative=False)(FAR, CIRCLE, CIRCLE.lam)
    assert target.weight.tolist() == [1, 1, 0, 0]
    by_label = Local(decay=1.0, distance="label", relative=False)(FAR, MIX, MIX.lam)
    assert by_label.weight[2] == 1  # its own partner
    assert by_label.weight[0] < 1


def test_local_weights_do_not_underflow_and_identical_samples_have_one():
    far = Batch(1e6 * FAR.x, FAR.y)
    target = Local(decay=1.0, relative=False)(far, CIRCLE, CIRCLE.lam)
    assert target.weight.tolist() == [1, 0, 0, 0]
    same = Batch(torch.ones(4, 3), FAR.y)
    assert Local()(same, CIRCLE, CIRCLE.lam).weight.tolist() == [1] * 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"decay": -1}, "decay must be"),
        ({"limit": 0}, "limit must be"),
        ({"distance": "text"}, "distance='text'"),
    ],
)
def test_bad_local_settings_are_named(arguments, words):
    with pytest.raises(InputError, match=words):
        Local(**arguments)


# ------------------------------------------------------------------ real targets by position


def dense_batch(shape=(2, 8, 8), size=6, y=None):
    x = torch.randn(size, 3, *shape[1:])
    y = torch.randn(size, *shape) if y is None else y
    return Batch(x, y, task="regression")


@pytest.mark.parametrize(
    ("part", "shape"),
    [
        (interpolation.CutMix(), (2, 8, 8)),
        (interpolation.CutMix(), (8, 8)),
        (interpolation.SmoothMix(), (1, 8, 8)),
        (interpolation.ResizeMix(), (2, 8, 8)),
        (interpolation.CutMix(), (2, 40)),
        (interpolation.Linear(), (2, 8, 8)),
    ],
    ids=str,
)
def test_dense_real_targets_are_mixed_as_the_inputs_are(part, shape):
    x = torch.randn(6, 3, *(shape[-1:] if shape[-1] == 40 else shape[-2:]))
    first = 0 if shape == (8, 8) else slice(0, 1)
    batch = Batch(x, x[:, first], task="regression")
    mix = part.shape(batch, Mix(torch.arange(6).roll(1), torch.rand(6)))
    target = labels.Soft()(batch, mix, mix.lam)
    expected = part(x, mix)[:, first]
    torch.testing.assert_close(target.dense(), expected)
    value = losses.MixedMSE()(target.dense(), target)
    assert float(value) < 1e-12
    assert float(losses.MixedL1()(target.dense() + 1, target)) == pytest.approx(1)


def test_local_mixup_weighs_dense_targets_by_the_mask():
    batch = dense_batch()
    mix = interpolation.CutMix().shape(batch, Mix(torch.arange(6).roll(1), torch.rand(6)))
    target = labels.Local()(batch, mix, mix.lam)
    torch.testing.assert_close(target.dense(), labels.Soft()(batch, mix, mix.lam).dense())
    assert target.weight.shape == (6,)


def test_dense_targets_of_another_size_are_refused():
    batch = dense_batch(y=torch.randn(6, 1, 4, 4))
    mix = interpolation.CutMix().shape(batch, Mix(torch.arange(6).roll(1), torch.rand(6)))
    with pytest.raises(InputError, match=r"y has shape \(6, 1, 4, 4\).*positions \(8, 8\)"):
        labels.Soft()(batch, mix, mix.lam)
    flat = Batch(batch.x, batch.y.flatten(1), task="regression")
    assert labels.Soft()(flat, mix, mix.lam).lam is mix.lam


def test_a_target_has_one_weight_for_each_position_or_each_sample():
    y, lam = torch.randn(3, 2, 4, 5), torch.rand(3, 1, 4, 5)
    target = MixedTarget(y, -y, lam)
    torch.testing.assert_close(target.dense(), lam * y - (1 - lam) * y)
    for wrong in (torch.rand(3, 1, 4, 4), torch.rand(3, 4, 5), torch.rand(1, 1, 4, 5)):
        with pytest.raises(InputError, match="lam must have one entry"):
            MixedTarget(y, -y, wrong)
    with pytest.raises(InputError, match="lam must have one entry"):
        MixedTarget(torch.rand(3, 5), torch.rand(3, 5), torch.rand(3, 1))


def test_a_step_of_depth_estimation_learns_from_what_it_sees():
    net = torch.nn.Conv2d(3, 1, 1)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1))
        net.bias.zero_()
    x = torch.randn(6, 3, 8, 8)
    for name in ("cutmix", "fmix", "mixup", "resizemix"):
        step = mixwell.create(name, task="regression").step(net, x, x[:, :1])
        assert float(step.loss.detach()) < 1e-10
