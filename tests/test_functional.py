import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mixwell import InputError, Mix, MixedTarget, functional
from mixwell.kernels import native
from mixwell.mix import Box, MultiMix, Warp


def make_mix(size, lam=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    partner = torch.randperm(size, generator=generator)
    return Mix(partner, torch.rand(size, generator=generator) if lam is None else lam)


# ---------------------------------------------------------------------------------------- mixing

shapes = st.tuples(st.integers(1, 7), st.lists(st.integers(1, 4), max_size=3)).map(
    lambda pair: (pair[0], *pair[1])
)
floats = st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16])


@given(shapes, floats, st.sampled_from([0.0, 0.5, 1.0, None]))
def test_mix_is_the_formula_for_any_shape_and_dtype(shape, dtype, lam):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    weight = None if lam is None else torch.full(shape[:1], lam)
    mix = make_mix(shape[0], weight)
    mixed = functional.mix(x, mix)
    lam = mix.lam.double().view(-1, *[1] * (len(shape) - 1))
    expected = lam * x.double() + (1 - lam) * x.double()[mix.partner]
    assert mixed.dtype == dtype
    eps = max(torch.finfo(dtype).eps, 1e-7)
    torch.testing.assert_close(mixed.double(), expected, rtol=2 * eps, atol=4 * eps)


@given(shapes, floats)
def test_lam_one_is_the_identity_and_lam_zero_the_partner_to_the_bit(shape, dtype):
    x = torch.randn(shape).to(dtype)
    mix = make_mix(shape[0], torch.ones(shape[0]))
    assert torch.equal(functional.mix(x, mix), x)
    assert torch.equal(functional.mix(x, Mix(mix.partner, 1 - mix.lam)), x[mix.partner])


def test_mix_leaves_its_input_and_maps_over_pytrees():
    x = {"image": torch.rand(4, 3, 2, 2), "sound": [torch.rand(4, 5)], "name": "kept"}
    before = x["image"].clone()
    mix = make_mix(4)
    mixed = functional.mix(x, mix)
    assert torch.equal(x["image"], before)
    assert mixed["name"] == "kept"
    torch.testing.assert_close(mixed["sound"][0], functional.mix(x["sound"][0], mix))


@pytest.mark.parametrize("mix", [make_mix(4), MultiMix(torch.arange(4)[:, None], torch.ones(4, 1))])
def test_what_stands_beside_the_tensors_is_handed_on_as_it_is(mix):
    """Torch makes a plain tuple of a torch.Size, which knows no numel()."""
    x, name = torch.randn(4, 3, 2, 2), object()
    mixed = functional.mix({"x": (x, x.shape[2:]), "name": name, "nothing": None}, mix)
    assert mixed["x"][1] == torch.Size([2, 2])
    assert mixed["x"][1].numel() == 4
    assert mixed["name"] is name
    assert mixed["nothing"] is None
    assert torch.equal(mixed["x"][0], functional.mix(x, mix))
    if isinstance(mix, Mix):
        out = torch.empty_like(x)
        again, size = functional.mix((x, x.shape), mix, out=(out, x.shape))
        assert again is out
        assert size.numel() == x.numel()


def test_uint8_is_rounded_to_nearest():
    x = torch.tensor([[0, 10, 255], [1, 20, 0]], dtype=torch.uint8)
    mixed = functional.mix(x, Mix(torch.tensor([1, 0]), torch.tensor([0.25, 1.0])))
    assert mixed.dtype == torch.uint8
    assert mixed.tolist() == [[1, 18, 64], [1, 20, 0]]  # 0.75, 17.5 (to even), 63.75


def test_gradient_reaches_both_samples():
    x = torch.randn(2, 3, requires_grad=True)
    functional.mix(x, Mix(torch.tensor([1, 1]), torch.tensor([0.25, 0.5])))[0].sum().backward()
    assert x.grad.tolist() == [[0.25] * 3, [0.75] * 3]


def test_masked_mix_takes_each_position_from_one_sample():
    x = torch.arange(2.0).view(2, 1, 1, 1).expand(2, 3, 2, 2)
    mask = torch.tensor([[[[True, False], [True, True]]], [[[False, False], [True, True]]]])
    mixed = functional.mix(x, Mix(torch.tensor([1, 0]), mask.float().mean((1, 2, 3)), mask))
    assert mixed[0, 2].tolist() == [[0, 1], [0, 0]]
    assert mixed[1, 0].tolist() == [[0, 0], [1, 1]]
    soft = functional.mix(x, Mix(torch.tensor([1, 0]), torch.ones(2), mask.float() / 2))
    torch.testing.assert_close(soft[0, 0], torch.tensor([[0.5, 1.0], [0.5, 0.5]]))


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (torch.rand(3, 2), "batch of 2"),
        (torch.tensor(1.0), "batch of 2"),
        (torch.tensor([1, 2]), "can't be interpolated"),
        (torch.tensor([True, False]), "can't be interpolated"),
    ],
)
def test_what_cannot_be_mixed_is_named(x, words):
    with pytest.raises(InputError, match=words):
        functional.mix(x, make_mix(2))


# -------------------------------------------------------------------------------------------- SK


def test_golden_tau_and_lambda(golden):
    data = golden("similarity_kernel")
    features, partner = data["features"], data["partner"]
    tau = functional.similarity_tau(features, partner, data["tau_max"], data["tau_std"])
    torch.testing.assert_close(tau, data["tau"], rtol=1e-10, atol=0)
    distance = functional.pair_distance(features, partner)
    torch.testing.assert_close(
        distance / distance.mean(), data["normalised_distance"], rtol=1e-10, atol=0
    )
    lam = functional.beta_icdf(data["u"], tau)
    torch.testing.assert_close(lam, data["lam"], rtol=1e-10, atol=0)


def test_tau_is_scale_free_and_falls_with_distance():
    features = torch.randn(40, 6, dtype=torch.float64)
    partner = torch.randperm(40)
    tau = functional.similarity_tau(features, partner)
    torch.testing.assert_close(functional.similarity_tau(features * 1e3, partner), tau)
    order = functional.pair_distance(features, partner).argsort()
    assert (tau[order].diff() <= 0).all()


@pytest.mark.parametrize(
    "features", [torch.ones(4, 3), torch.zeros(1, 3), torch.randn(1, 3), torch.ones(4, 3).half()]
)
def test_identical_samples_are_at_the_mean_distance(features):
    partner = torch.arange(len(features)).flip(0)
    assert functional.similarity_tau(features, partner, tau_max=2.0).tolist() == pytest.approx(
        [2.0] * len(features)
    )


def test_a_narrow_kernel_does_not_overflow():
    features = torch.randn(64, 8)
    tau = functional.similarity_tau(features, torch.randperm(64), tau_max=1e4, tau_std=0.01)
    assert tau.isfinite().all()
    assert tau.max() <= 1e6 * (1 + 1e-6)
    assert tau.min() >= 1e-30 * (1 - 1e-6)


# ----------------------------------------------------------------------------------------- remix


def test_golden_remix(golden):
    data = golden("remix")
    lam = functional.remix_lambda(
        data["lam"], data["count_own"], data["count_partner"], data["kappa"], data["t"]
    )
    torch.testing.assert_close(lam, data["label_lam"])


def test_remix_is_symmetric_in_the_two_sides():
    lam = torch.rand(200)
    own, partner = torch.randint(1, 300, (2, 200)).float()
    mirrored = functional.remix_lambda(1 - lam, partner, own)
    torch.testing.assert_close(functional.remix_lambda(lam, own, partner), 1 - mirrored)


# --------------------------------------------------------------------------- positions of any kind


def masks_of(*positions, size=4):
    """Masks (size, 1, *positions): bool and floating, each for its own sample or for all."""
    weights = torch.rand(size, 1, *positions)
    return [weights > 0.4, weights, weights[:1] > 0.4, weights[:1].double()]


@pytest.mark.parametrize(
    ("shape", "positions"),
    [
        ((4, 3, 20), (20,)),  # a signal of three channels
        ((4, 20), (20,)),
        ((4, 2, 3, 20), (20,)),
        ((4, 7, 3, 20), (3, 20)),  # an image
        ((4, 3, 20), (3, 20)),  # an image without channels
        ((4, 2, 5, 3, 20), (3, 20)),  # several images
        ((4, 2, 5, 3, 20), (1, 3, 20)),
        ((4, 2, 5, 3, 20), (5, 3, 20)),  # a volume
        ((4, 5, 3, 20), (5, 3, 20)),
        ((4, 2, 1, 3, 20), (1, 3, 20)),
        ((4, 3, 30_000), (30_000,)),  # one after another where there is no compiler
    ],
)
def test_a_mask_is_for_what_ends_in_its_positions(shape, positions):
    x, partner = torch.randn(shape), torch.tensor([1, 2, 3, 0])
    for mask in masks_of(*positions):
        mix = Mix(partner, torch.ones(4), mask)
        wide = mask.double().reshape(len(mask), *positions)
        while wide.ndim < x.ndim:
            wide = wide[:, None]
        expected = wide * x + (1 - wide) * x[partner]
        own = x.clone().requires_grad_()
        for mixed in (functional.mix(x, mix), functional.mix(own, mix)):
            torch.testing.assert_close(mixed.double(), expected, rtol=1e-6, atol=1e-6)
        upstream = torch.randn(shape)
        (grad,) = torch.autograd.grad(functional.mix(own, mix), own, upstream)
        back = (wide * upstream).index_add(0, partner, (1 - wide) * upstream)
        torch.testing.assert_close(grad.double(), back, rtol=1e-6, atol=1e-6)


def test_of_several_signals_what_has_no_length_goes_by_lam():
    x = {"signal": torch.rand(2, 3, 8), "age": torch.tensor([[10.0], [30.0]])}
    mask = torch.zeros(2, 1, 8, dtype=torch.bool)
    mask[..., :2] = True
    mixed = functional.mix(x, Mix(torch.tensor([1, 0]), torch.full((2,), 0.25), mask))
    assert torch.equal(mixed["signal"][0, :, :2], x["signal"][0, :, :2])
    assert torch.equal(mixed["signal"][0, :, 2:], x["signal"][1, :, 2:])
    assert mixed["age"].tolist() == [[25.0], [15.0]]


@pytest.mark.parametrize(
    ("shape", "positions", "words"),
    [
        ((4, 3, 20), (3,), r"positions \(3,\).*\(4, 3, 20\).*this dimension"),
        ((4, 20), (20, 20), r"positions \(20, 20\).*these two dimensions"),
        ((4, 3, 20, 21), (20, 20), "two dimensions"),
        ((4, 3, 20, 20), (3, 20, 21), "3 dimensions"),
        ((4,), (4,), "this dimension"),
    ],
)
def test_a_mask_for_other_positions_is_named(shape, positions, words):
    x = torch.rand(shape)
    mix = Mix(torch.arange(4), torch.ones(4), torch.ones(4, 1, *positions))
    with pytest.raises(InputError, match=words):
        functional.mix(x, mix)


# ----------------------------------------------------------------------- what x can be, and can't


def refused():
    dense = torch.rand(2, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # prototypes, all of them
        return {
            "sparse": (dense.to_sparse(), "torch.sparse_coo.*to_dense"),
            "rows": (dense.to_sparse_csr(), "torch.sparse_csr.*to_dense"),
            "nested": (torch.nested.nested_tensor([dense, dense[:1]]), "nested.*to_padded_tensor"),
            "jagged": (
                torch.nested.nested_tensor([dense, dense[:1]], layout=torch.jagged),
                "nested.*to_padded_tensor",
            ),
            "quantized": (torch.quantize_per_tensor(dense, 0.1, 0, torch.quint8), "dequantize"),
            "uint16": (dense.to(torch.uint16), "uint16 can't be interpolated; floating"),
            "uint32": (dense.to(torch.uint32), "uint32 can't be interpolated; floating"),
            "uint64": (dense.to(torch.uint64), "uint64 can't be interpolated; floating"),
            "int64": (dense.long(), "int64 can't be interpolated; floating"),
            "elsewhere": (dense.to("meta"), "is on meta but the mix on cpu"),
            "numpy": (dense.numpy(), "got a ndarray of float32; torch.as_tensor"),
            "within": ({"a": dense, "b": dense.byte().numpy()}, "got a ndarray of uint8"),
            "a list": (dense.tolist(), "a tensor or a pytree of tensors, got list"),
            "nothing": (None, "got NoneType"),
        }


@pytest.mark.parametrize("kind", refused())
def test_what_is_no_dense_tensor_is_named_with_its_remedy(kind):
    x, words = refused()[kind]
    with pytest.raises(InputError, match=f"(?s)mix: x.*{words}"):
        functional.mix(x, make_mix(2))
    many = MultiMix(torch.zeros(2, 2, dtype=torch.int64), torch.full((2, 2), 0.5))
    with pytest.raises(InputError, match=f"(?s)mix: x.*{words}"):
        functional.mix(x, many)


def test_what_is_not_a_mix_is_named():
    with pytest.raises(InputError, match="mix must be a Mix or a MultiMix, got tuple"):
        functional.mix(torch.rand(2, 3), (torch.tensor([1, 0]), torch.rand(2)))


def test_a_mix_without_values_tells_shapes():
    x = torch.empty(4, 3, 5, device="meta")
    mix = Mix(torch.arange(4, device="meta"), torch.rand(4, device="meta"))
    mixed = functional.mix(x, mix)
    assert (mixed.device.type, mixed.shape, mixed.dtype) == ("meta", x.shape, x.dtype)


@pytest.mark.parametrize(
    "dtype", [torch.uint16, torch.uint32, torch.uint64, torch.int8, torch.int64, torch.bool]
)
def test_whole_numbers_of_any_width_are_picked_by_a_mask(dtype):
    whole = torch.randint(0, 2 if dtype == torch.bool else 100, (3, 2, 4, 4))
    mask, partner = torch.rand(3, 1, 4, 4) > 0.5, torch.tensor([2, 0, 1])
    mixed = functional.mix(whole.to(dtype), Mix(partner, torch.ones(3), mask))
    assert mixed.dtype == dtype
    assert torch.equal(mixed.long(), torch.where(mask, whole, whole[partner]))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_eighths_of_precision_are_interpolated_in_single(dtype):
    x = torch.randn(3, 40).to(dtype)
    mix = make_mix(3)
    wide = x.float()
    expected = torch.lerp(wide[mix.partner], wide, mix.lam[:, None]).to(dtype)
    assert torch.equal(functional.mix(x, mix).float(), expected.float())


@pytest.mark.filterwarnings("ignore:ComplexHalf")
def test_complex_halves_keep_their_imaginary_part():
    x = torch.complex(torch.randn(3, 8), torch.randn(3, 8))
    mix = make_mix(3)
    expected = functional.mix(x, mix)
    for lam in (mix, MultiMix(
        torch.stack([torch.arange(3), mix.partner], 1), torch.stack([mix.lam, 1 - mix.lam], 1)
    )):  # fmt: skip
        mixed = functional.mix(x.to(torch.complex32), lam)
        assert mixed.dtype == torch.complex32
        torch.testing.assert_close(mixed.to(torch.complex64), expected, rtol=0, atol=5e-3)


def test_numpys_views_mix_as_their_values():
    array = np.arange(24, dtype=np.float32).reshape(4, 6)
    mix = make_mix(4)
    one = np.broadcast_to(array[:1], (4, 6))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is not writable, and is not written
        shared = torch.from_numpy(one)
    torch.testing.assert_close(functional.mix(shared, mix), torch.from_numpy(one.copy()))
    for view in (array[::-1].copy(), array.T[:4].T[:, ::2], array[::2].repeat(2, 0)):
        x = torch.from_numpy(view)
        expected = functional.mix(torch.from_numpy(np.ascontiguousarray(view)), mix)
        torch.testing.assert_close(functional.mix(x, mix), expected)


def test_the_default_dtype_and_device_change_nothing(other_defaults):
    x = torch.randn(5, 3, 8, 8, device="cpu")
    partner, lam = torch.tensor([1, 0, 4, 2, 3]), torch.rand(5)
    edges = torch.tensor([[1, 5, 2, 7]] * 5)
    mask, unit = torch.rand(5, 1, 8, 8), torch.rand(5, 8, 8, 2) * 2 - 1

    def numbers():
        found = [Box(edges, 8, 8).share(), Mix.identity(5, "cpu").lam]
        found += [MixedTarget.clean(partner).lam, MixedTarget(partner, partner, lam).dense(5)]
        for mix in (
            Mix(partner, lam),
            Mix(partner, lam, mask),
            Mix(partner, lam, mask > 0.5),
            Mix(partner, lam, box=Box(edges, 8, 8)),
            Mix(partner, lam, box=Box(edges, 8, 8, edges.flip(0))),
            Mix(partner, lam, warp=Warp(unit, unit.flip(0))),
            MultiMix(torch.stack([partner, partner], 1), torch.stack([lam, 1 - lam], 1)),
        ):
            own = x.clone().requires_grad_()
            mixed = functional.mix(own, mix)
            (grad,) = torch.autograd.grad(mixed.square().sum(), own)
            found += [mixed.detach(), grad, functional.mix(x.byte(), mix)]
        found += [functional.similarity_tau(x, partner), functional.pairwise_distance(x)]
        found.append(functional.remix_lambda(lam, lam * 9, lam.flip(0) * 9))
        return found

    expected, without_compiler = numbers(), native.library() is None
    with other_defaults():
        native.library.cache_clear()  # it is looked at anew
        got = numbers()
        assert (native.library() is None) == without_compiler
    for value, right in zip(got, expected, strict=True):
        assert (value.dtype, value.device) == (right.dtype, right.device)
        assert torch.equal(value, right)
