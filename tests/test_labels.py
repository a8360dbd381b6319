import pytest
import torch

from mixwell import InputError, Mix
from mixwell.batch import Batch
from mixwell.labels import HeavierSide, OneSided, Remix, Soft

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
