import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from mixwell import InputError, Mix, MixedTarget, functional
from mixwell.mix import Box, MultiMix, MultiTarget, Warp


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


def test_they_are_saved_and_loaded(tmp_path):
    edges = torch.tensor([[0, 1, 0, 2]] * 2)
    mix = Mix(torch.tensor([1, 0]), torch.rand(2), box=Box(edges, 3, 4, edges))
    target = MixedTarget(torch.tensor([1, 2]), torch.tensor([2, 1]), mix.lam)
    torch.save({"mix": mix, "target": target}, tmp_path / "batch.pt")
    loaded = torch.load(tmp_path / "batch.pt", weights_only=True)
    assert (loaded["mix"].box.height, loaded["mix"].box.width) == (3, 4)
    assert torch.equal(loaded["mix"].box.source, edges)
    assert torch.equal(loaded["target"].b, target.b)


def test_the_places_in_a_mix_have_names():
    edges = torch.tensor([[0, 1, 0, 2]])
    mix = Mix(torch.tensor([0]), torch.ones(1), box=Box(edges, 3, 4))
    named = pytree.tree_flatten_with_path(mix)[0]
    assert [pytree.keystr(path) for path, _ in named] == [".partner", ".lam", ".box.edges"]
    assert named[2][1] is edges


@pytest.mark.parametrize(
    ("shape", "positions"),
    [
        ((4, 1, 9), (9,)),
        ((4, 1, 7, 9), (7, 9)),
        ((1, 1, 7, 9), (7, 9)),
        ((4, 1, 1, 9), (1, 9)),
        ((4, 1, 5, 7, 9), (5, 7, 9)),
        ((4, 1, 1, 7, 9), (7, 9)),
        ((4, 1, 1, 1, 9), (1, 9)),
    ],
)
def test_a_mask_says_what_positions_it_is_for(shape, positions):
    assert Mix(torch.arange(4), torch.ones(4), torch.ones(shape)).positions == positions


def test_a_box_is_for_its_image_and_lam_for_anything():
    box = Box(torch.zeros(4, 4, dtype=torch.int64), 7, 9)
    assert Mix(torch.arange(4), torch.ones(4), box=box).positions == (7, 9)
    assert Mix(torch.arange(4), torch.ones(4)).positions is None


ONE, LAM = torch.tensor([0]), torch.ones(1)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Mix([1, 0], LAM), "Mix: partner must be a tensor, got list; torch.as_tensor"),
        (lambda: Mix(ONE.numpy(), LAM), "Mix: partner must be a tensor, got numpy.ndarray"),
        (lambda: Mix(ONE, 0.5), "Mix: lam must be a tensor, got float"),
        (lambda: Mix(ONE, LAM, [[1.0]]), "Mix: mask must be a tensor, got list"),
        (lambda: Mix(ONE, LAM, torch.ones(1, 4)), r"mask must have shape .*, got shape \(1, 4\)"),
        (lambda: Mix(ONE, LAM, torch.ones(1, 3, 4, 4)), "mask must have shape"),
        (lambda: Mix(ONE, LAM, torch.ones(2, 1, 4, 4)), "mask must have shape"),
        (lambda: Mix(ONE, LAM, torch.ones(1, 1, 4).long()), "mask must be bool or floating"),
        (lambda: Mix(ONE, LAM, box=ONE), r"box must be a mixwell.mix.Box, got Tensor"),
        (lambda: Mix(ONE, LAM, warp=ONE), r"warp must be a mixwell.mix.Warp, got Tensor"),
        (
            lambda: Mix(ONE, LAM, box=Box(torch.zeros(2, 4).long(), 4, 4)),
            r"edges must have shape \(1, 4\)",
        ),
        (
            lambda: Mix(
                ONE, LAM, torch.ones(1, 1, 4), Box(torch.zeros(1, 4).long(), 4, 4)
            ),
            "not both",
        ),
        (lambda: Box([[0, 1, 0, 1]], 4, 4), "Box: edges must be a tensor, got list"),
        (lambda: Box(ONE, 4, 4), r"Box: edges must have shape \(B, 4\)"),
        (lambda: Warp([0.0]), "Warp: own must be a tensor, got list"),
        (lambda: MixedTarget([1], ONE, LAM), "MixedTarget: a must be a tensor, got list"),
        (lambda: MixedTarget(ONE, ONE, 0.5), "MixedTarget: lam must be a tensor, got float"),
        (lambda: MultiMix([[0, 1]], LAM), "MultiMix: partners must be a tensor, got list"),
        (lambda: MultiTarget(ONE.numpy(), LAM), "MultiTarget: classes must be a tensor, got numpy"),
    ],
)  # fmt: skip
def test_what_is_no_tensor_or_of_another_shape_is_named(make, words):
    with pytest.raises(InputError, match=words):
        make()


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
        (lambda: Mix(torch.tensor([0]), torch.tensor([1])), "lam must hold floating"),
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


# ------------------------------------------------------------------------- boxes, warps, k samples


def resized(image, rows, columns):
    """Torch's own bilinear resize of a crop, (C, h, w)."""
    return F.interpolate(
        image[None], size=(rows, columns), mode="bilinear", align_corners=False
    )[0]  # fmt: skip


@given(st.integers(0, 10_000))
def test_a_source_is_resized_into_its_box_as_torch_resizes_a_crop(seed):
    generator = torch.Generator().manual_seed(seed)
    height, width = (int(side) for side in torch.randint(2, 12, (2,), generator=generator))

    def side(size):
        start = int(torch.randint(size, (), generator=generator))
        return [start, int(torch.randint(start + 1, size + 1, (), generator=generator))]

    def rectangle():
        return torch.tensor(side(height) + side(width))

    x = torch.rand(2, 3, height, width, generator=generator, dtype=torch.float64)
    edges, source = (torch.stack([rectangle(), rectangle()]) for _ in range(2))
    box = Box(edges, height, width, source)
    partner = torch.tensor([1, 0])
    mixed = functional.mix(x, Mix(partner, box.share(), box=box))
    for i, j in ((0, 1), (1, 0)):
        (top, bottom, left, right), (first, last, west, east) = edges[i], source[i]
        expected = x[i].clone()
        expected[:, top:bottom, left:right] = resized(
            x[j, :, first:last, west:east], int(bottom - top), int(right - left)
        )
        torch.testing.assert_close(mixed[i], expected, rtol=0, atol=1e-5)


def test_a_source_of_the_same_place_is_the_plain_box():
    x = torch.rand(2, 3, 7, 9)
    edges = torch.tensor([[1, 5, 2, 9], [0, 7, 0, 3]])
    partner = torch.tensor([1, 0])
    plain = Mix(partner, torch.ones(2), box=Box(edges, 7, 9))
    same = Mix(partner, torch.ones(2), box=Box(edges, 7, 9, edges))
    torch.testing.assert_close(functional.mix(x, same), functional.mix(x, plain))


def blocks_swapped(size=4):
    """A grid that reads the left half from the right, and the other way round."""
    place = (torch.arange(size) + 0.5) * (2 / size) - 1
    across = place.roll(size // 2)
    return torch.stack(
        [across.expand(size, size), place[:, None].expand(size, size)], 2
    )[None]  # fmt: skip


def test_a_warp_moves_content_before_the_mix_and_class_maps_with_it():
    x = torch.rand(2, 1, 4, 4)
    classes = torch.arange(32).view(2, 4, 4)
    warp = Warp(own=blocks_swapped().expand(2, -1, -1, -1))
    mask = torch.zeros(2, 1, 4, 4, dtype=torch.bool)
    mask[..., :2] = True
    partner = torch.tensor([1, 0])
    mix = Mix(partner, torch.full((2,), 0.5), mask, warp=warp)
    expected = torch.cat([x[..., 2:], x[partner][..., 2:]], 3)
    torch.testing.assert_close(functional.mix(x, mix), expected)
    expected = torch.cat([classes[..., 2:], classes[partner][..., 2:]], 2)
    assert torch.equal(functional.mix(classes, mix), expected)
    brightness = (x * 255).round().to(torch.uint8)
    moved = torch.cat([brightness[..., 2:], brightness[partner][..., 2:]], 3)
    assert torch.equal(functional.mix(brightness, mix), moved)


def test_the_gradient_of_a_warp_goes_where_the_content_came_from():
    x = torch.rand(2, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    warp = Warp(partner=blocks_swapped().expand(2, -1, -1, -1))
    mix = Mix(torch.tensor([1, 0]), torch.tensor([0.25, 1.0]), warp=warp)
    functional.mix(x, mix)[0, 0, 0, 0].backward()
    assert float(x.grad[0, 0, 0, 0]) == pytest.approx(0.25)
    assert float(x.grad[1, 0, 0, 2]) == pytest.approx(0.75)
    assert float(x.grad.sum()) == pytest.approx(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.uint8])
def test_many_samples_are_summed_by_their_weights(dtype):
    x = (torch.rand(5, 3, 4) * 200).to(dtype)
    weights = torch.rand(5, 4, dtype=torch.float64)
    weights /= weights.sum(1, keepdim=True)
    mix = MultiMix(torch.randint(5, (5, 4)), weights)
    mixed = functional.mix({"x": x}, mix)["x"]
    assert mixed.dtype == dtype
    for i in range(5):
        expected = sum(w * x[p].double() for p, w in zip(mix.partners[i], weights[i], strict=True))
        error = (mixed[i].double() - expected).abs().max()
        assert error <= {torch.uint8: 0.51, torch.bfloat16: 0.6}.get(dtype, 1e-4)


def test_two_of_many_are_a_pair():
    x = torch.rand(4, 3)
    lam = torch.rand(4)
    partner = torch.tensor([2, 3, 0, 1])
    many = MultiMix(
        torch.stack([torch.arange(4), partner], 1), torch.stack([lam, 1 - lam], 1)
    )  # fmt: skip
    torch.testing.assert_close(functional.mix(x, many), functional.mix(x, Mix(partner, lam)))
    target = MultiTarget(torch.tensor([[0, 2], [1, 1]]), torch.tensor([[0.25, 0.75], [0.5, 0.5]]))
    assert target.dense(3).tolist() == [[0.25, 0, 0.75], [0, 1, 0]]
    assert pytree.tree_map(lambda leaf: leaf, many).lam.tolist() == lam.tolist()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: MultiMix(torch.zeros(2).long(), torch.ones(2)), r"partners must be a \(B, k\)"),
        (lambda: MultiMix(torch.zeros(2, 3).long(), torch.ones(2, 2)), "weights must be floating"),
        (lambda: MultiTarget(torch.zeros(2, 3), torch.ones(2, 3)), "classes must"),
        (
            lambda: functional.mix(
                torch.zeros(1, 2), MultiMix(torch.zeros(1, 2).long(), torch.ones(1, 2) / 2),
                out=torch.zeros(1, 2),
            ),
            "leave it out for a MultiMix",
        ),
    ],
)  # fmt: skip
def test_bad_mixes_of_many_are_named(make, words):
    with pytest.raises(InputError, match=words):
        make()


def test_of_several_tensors_those_without_positions_go_by_lam():
    x = {"image": torch.rand(2, 3, 6, 6), "age": torch.tensor([[10.0], [30.0]])}
    box = Box(torch.tensor([[0, 3, 0, 6], [0, 6, 0, 6]]), 6, 6)
    mixed = functional.mix(x, Mix(torch.tensor([1, 0]), box.share(), box=box))
    assert torch.equal(mixed["image"][0, :, :3], x["image"][1, :, :3])
    assert mixed["age"].tolist() == [[20.0], [10.0]]


def test_classes_by_position_are_dense_with_the_classes_second():
    classes = torch.tensor([[[0, 1]], [[2, 2]]])
    lam = torch.tensor([[[1.0, 0.25]], [[0.5, 0.0]]])
    target = MixedTarget(classes, classes.flip(0), lam)
    dense = target.dense(3)
    assert dense.shape == (2, 3, 1, 2)
    assert dense[0, :, 0, 1].tolist() == [0, 0.25, 0.75]
    whole = MixedTarget(classes, classes.flip(0), torch.tensor([0.25, 1.0]))
    assert whole.dense(3)[0, :, 0, 0].tolist() == [0.25, 0, 0.75]
