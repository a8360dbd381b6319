import pytest
import torch
from torch.utils import _pytree as pytree

from mixwell import InputError, Mix, MixedTarget


def test_both_are_frozen_pytrees():
    mix = Mix(torch.tensor([1, 0]), torch.tensor([0.25, 0.75]))
    doubled = pytree.tree_map(lambda leaf: leaf * 2, mix)
    assert isinstance(doubled, Mix)
    assert doubled.lam.tolist() == [0.5, 1.5]
    assert doubled.mask is None
    with pytest.raises(AttributeError):
        mix.lam = torch.zeros(2)
    target = MixedTarget(torch.tensor([1]), torch.tensor([2]), torch.tensor([0.5]))
    leaves, spec = pytree.tree_flatten(target)
    assert len(pytree.tree_leaves(target)) == 3
    assert pytree.tree_unflatten(leaves, spec).b.item() == 2


def test_dense_rows_are_probabilities_with_the_weights_in_place():
    target = MixedTarget(
        torch.tensor([0, 2, 1]), torch.tensor([1, 2, 0]), torch.tensor([0.2, 0.4, 1])
    )
    expected = torch.tensor([[0.2, 0.8, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    torch.testing.assert_close(target.dense(3), expected)


def test_dense_of_real_targets_is_their_weighted_mean():
    target = MixedTarget(
        torch.tensor([1.0, 4.0]), torch.tensor([3.0, 0.0]), torch.tensor([0.5, 0.75])
    )
    assert target.dense().tolist() == [2.0, 3.0]


def test_clean_target_is_the_label_itself():
    y = torch.tensor([2, 0, 1])
    torch.testing.assert_close(MixedTarget.clean(y).dense(3), torch.eye(3)[y])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Mix(torch.tensor([0, 1]), torch.tensor([0.5])), "lam must have one entry"),
        (lambda: Mix(torch.tensor([0.0]), torch.tensor([0.5])), "partner must be"),
        (lambda: Mix(torch.tensor([0]), torch.tensor([1])), "lam must be floating"),
        (
            lambda: MixedTarget(torch.tensor([0]), torch.tensor([0, 1]), torch.ones(1)),
            "a and b must have the same",
        ),
        (
            lambda: MixedTarget(torch.tensor([0]), torch.tensor([0.5]), torch.ones(1)),
            "of one kind",
        ),
        (
            lambda: MixedTarget(torch.zeros(2, 3).long(), torch.zeros(2, 3).long(), torch.ones(2)),
            "soft labels as a floating",
        ),
        (lambda: MixedTarget.clean(torch.tensor([0])).dense(), "num_classes is needed"),
    ],
)
def test_bad_input_is_named(make, words):
    with pytest.raises(InputError, match=words):
        make()
