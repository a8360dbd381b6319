"""torchvision's MixUp and CutMix: its own test cases restated, and what is new."""

import copy
import importlib
import itertools
import pickle
import sys

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, default_collate

pytest.importorskip("torchvision")
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from mixwell import InputError, Mix, MixedTarget, pairing
from mixwell.batch import Batch
from mixwell.coefficient import Constant
from mixwell.compat.torchvision import CutMix, MixUp, Roll
from mixwell.losses import DecoupledCrossEntropy, InfiniteClassLoss, MixedCrossEntropy

BOTH = pytest.mark.parametrize("transform", [CutMix, MixUp])
FALSE_ALARM = 1e-4
"""How often each statistical test would fail by chance, were its seed not fixed."""


def batch_of(size=6, num_classes=10, height=12, width=10):
    """Return images that have no pixel in common, and labels that are all different."""
    images = torch.arange(size * 3 * height * width).reshape(size, 3, height, width)
    return images / images.numel(), torch.randperm(num_classes)[:size]


def lam_of(soft, labels):
    """Return the weight of the own label: (B,)."""
    return soft[torch.arange(len(labels)), labels]


# ----------------------------------------------------------------- torchvision's cases, restated


@BOTH
@pytest.mark.parametrize("per", ["batch", "sample"])
@pytest.mark.parametrize("one_hot", [False, True])
def test_structures_that_hold_a_batch(transform, per, one_hot):
    size, num_classes = 8, 20
    images, labels = batch_of(size, num_classes, 100, 100)
    if one_hot:
        labels = nn.functional.one_hot(labels, num_classes)
    mix = transform(num_classes=None if one_hot else num_classes, per=per)
    dataset = TensorDataset(images, labels)

    def check(image, soft):
        assert image.shape == images.shape
        assert soft.shape == (size, num_classes)
        assert soft.dtype == torch.float32
        torch.testing.assert_close(soft.sum(-1), torch.ones(size))
        assert ((soft != 0).sum(-1) == 2).all()

    check(*mix(images, labels))
    check(*mix((images, labels)))
    packed = next(iter(DataLoader(dataset, batch_size=size)))
    result = mix(packed)
    assert type(result) is type(packed)
    check(*result)
    for collate in (lambda b: mix(default_collate(b)), lambda b: mix(*default_collate(b))):
        check(*next(iter(DataLoader(dataset, batch_size=size, collate_fn=collate))))


@BOTH
def test_errors_are_torchvisions(transform):
    images, labels = torch.rand(9, 3, 12, 12), torch.randint(10, (9,))
    mix = transform(alpha=0.5, num_classes=10)
    cases = [
        ((F.to_pil_image(images[0]),), "does not support PIL images, "),
        ((tv_tensors.Mask(torch.rand(12, 12)),), "does not support PIL images, "),
        (
            (tv_tensors.BoundingBoxes(torch.rand(2, 4), format="XYXY", canvas_size=(12, 12)),),
            "does not support PIL images, ",
        ),
        (({"img": images, "Nothing_else": 3},), "Could not infer where the labels are"),
        ((images,), "labels should be index based"),
        ((images, "not_a_tensor"), "When using the default labels_getter"),
        ((images, torch.rand(9, 3, 2)), "but got a tensor of shape"),
        ((images, torch.randint(2, (9, 3))), "the number of elements in last dimension must match"),
        ((images[None, None], labels), "Expected a batched input with 4 dims"),
        ((tv_tensors.Video(images), labels), "Expected a batched input with 5 dims"),
        ((images, torch.randint(10, (10,))), "does not match the batch size of the labels"),
    ]
    theirs = getattr(v2, transform.__name__)(alpha=0.5, num_classes=10)
    for sample, words in cases:
        with pytest.raises(ValueError, match=words):
            mix(*sample)
        with pytest.raises(ValueError):  # in words that depend on its version
            theirs(*sample)
    with pytest.raises(ValueError, match="num_classes must be passed if the labels are index"):
        transform(alpha=0.5)(images, labels)
    with pytest.raises(ValueError, match="labels must be a tensor"):
        transform(labels_getter=lambda sample: "x")(images, labels)
    with pytest.raises(ValueError, match="labels_getter should either be"):
        transform(labels_getter="second")
    with pytest.raises(ValueError):
        transform(alpha=0.0)


@pytest.mark.parametrize(
    "key", ["labels", "LABELS", "LaBeL", "SOME_WEIRD_KEY_THAT_HAS_LABeL_IN_IT"]
)
@pytest.mark.parametrize("kind", [dict, tuple, list])
@BOTH
def test_labels_are_found_as_torchvision_finds_them(transform, kind, key):
    images, labels = batch_of()
    if kind is dict:
        sample = {"image": images, key: labels, "else": "kept"}
        result = transform(num_classes=10)(sample)
        image, soft, rest = result["image"], result[key], result["else"]
    else:
        result = transform(num_classes=10)(kind((images, {key: labels}, "kept")))
        assert type(result) is kind
        image, soft, rest = result[0], result[1][key], result[2]
    assert rest == "kept"
    assert soft.shape == (6, 10)
    assert not torch.equal(image, images)


@BOTH
def test_two_of_them_one_after_the_other(transform):
    images, labels = batch_of()
    for num_classes in (10, None):
        twice = v2.Compose([MixUp(num_classes=10), transform(num_classes=num_classes)])
        _, soft = twice(images, labels)
        torch.testing.assert_close(soft.sum(1), torch.ones(6))
        assert (soft != 0).sum(1).max() == 3


def test_inside_torchvisions_containers():
    images, labels = batch_of()
    either = v2.RandomChoice([CutMix(num_classes=10), MixUp(num_classes=10)])
    pasted = set()
    for _ in range(30):
        image, soft = either(images, labels)
        assert soft.shape == (6, 10)
        pasted.add(bool(torch.isin(image, images).all()))
    assert pasted == {True, False}
    never, always = (v2.RandomApply([MixUp(num_classes=10)], p=p) for p in (0.0, 1.0))
    assert never(images, labels)[1] is labels
    assert always(images, labels)[1].shape == (6, 10)
    scaled = v2.Compose([v2.ToDtype(torch.float32, scale=True), MixUp(num_classes=10)])
    whole = (images * 255).byte()
    assert scaled(tv_tensors.Image(whole), labels)[0].max() <= 1


# --------------------------------------------------------------------- torchvision's own results


def torchvisions(monkeypatch, transform, lam, places, sample):
    """Return what torchvision makes of a sample, with this λ and (row, column) of the box."""
    theirs = getattr(v2, transform.__name__)(num_classes=10)
    with monkeypatch.context() as patch:
        patch.setattr(type(theirs._dist), "sample", lambda *_: torch.tensor([lam]))
        order = iter([places[1], places[0]])
        patch.setattr(
            torch, "randint", lambda high, size: torch.full(size, int(next(order) * high))
        )
        return theirs(*sample)


def mixwells(monkeypatch, transform, lam, places, sample, **settings):
    ours = transform(num_classes=10, **settings)
    ours._coefficient = Constant(lam)
    with monkeypatch.context() as patch:
        patch.setattr(Batch, "rand", lambda *_: torch.tensor([places]))
        return ours(*sample)


@pytest.mark.cases(quick=2)
@BOTH
@pytest.mark.parametrize("size", [1, 2, 5])
def test_the_same_draw_gives_the_same_sample(monkeypatch, transform, size):
    images, labels = batch_of(size, 10, 13, 16)
    places = [0.0, 0.25, 0.5, 0.9375]  # exact multiples, so that they fall on the same pixel
    for lam, down, across in itertools.product([0.0, 0.1, 0.36, 0.75, 1.0], places, places):
        given = transform, lam, (down, across), (images, labels)
        (image, soft), (our_image, our_soft) = (
            torchvisions(monkeypatch, *given),
            mixwells(monkeypatch, *given),
        )
        torch.testing.assert_close(our_image, image)
        torch.testing.assert_close(our_soft, soft)


@BOTH
@pytest.mark.parametrize(
    "images",
    [
        torch.rand(4, 3, 8, 9, dtype=torch.float64),
        torch.rand(4, 3, 8, 9).bfloat16(),
        tv_tensors.Image(torch.rand(4, 3, 8, 9)),
        tv_tensors.Video(torch.rand(4, 2, 3, 8, 9)),
    ],
)
@pytest.mark.parametrize(
    "labels",
    [
        torch.tensor([3, 1, 4, 1]),
        torch.rand(4, 10),
        torch.rand(4, 10).double(),
        torch.eye(10)[:4].long(),
    ],
)
def test_classes_and_dtypes_are_torchvisions(monkeypatch, transform, images, labels):
    kept = images.clone(), labels.clone()
    given = transform, 0.7, (0.5, 0.75), (images, labels)
    (image, soft), (our_image, our_soft) = (
        torchvisions(monkeypatch, *given),
        mixwells(monkeypatch, *given),
    )
    assert type(our_image) is type(image)
    assert our_image.dtype == image.dtype
    assert our_soft.dtype == soft.dtype
    # In half precision torchvision rounds λ and each product.
    loose = {"rtol": 2e-2, "atol": 1e-2} if image.dtype == torch.bfloat16 else {}
    torch.testing.assert_close(torch.Tensor(our_image), torch.Tensor(image), **loose)
    torch.testing.assert_close(our_soft, soft)
    assert torch.equal(images, kept[0])
    assert torch.equal(labels, kept[1])


@pytest.mark.cases(quick=2)
@BOTH
@pytest.mark.parametrize("alpha", [0.3, 1.0, 5.0])
def test_lam_is_distributed_as_torchvisions(transform, alpha):
    images, labels = torch.zeros(2, 1, 16, 16), torch.tensor([0, 1])
    theirs = getattr(v2, transform.__name__)(alpha=alpha, num_classes=2)
    ours = transform(alpha=alpha, num_classes=2)
    torch.manual_seed(4)
    lam, our_lam = (
        torch.stack([mix(images, labels)[1][0, 0] for _ in range(400)]) for mix in (theirs, ours)
    )
    assert stats.ks_2samp(lam.numpy(), our_lam.numpy()).pvalue > FALSE_ALARM
    each = transform(alpha=alpha, num_classes=2, per="sample")
    each_lam = torch.cat(
        [
            lam_of(each(torch.zeros(50, 1, 16, 16), torch.arange(50) % 2)[1], torch.arange(50) % 2)
            for _ in range(20)
        ]
    )
    assert stats.ks_2samp(each_lam.numpy(), our_lam.numpy()).pvalue > FALSE_ALARM
    if transform is MixUp:
        cdf = stats.beta(alpha, alpha).cdf
        assert stats.kstest(each_lam.numpy(), cdf).pvalue > FALSE_ALARM


def test_they_are_torchvisions():
    assert issubclass(MixUp, v2.MixUp)
    assert issubclass(CutMix, v2.CutMix)
    assert (MixUp(alpha=0.3, num_classes=4).alpha, CutMix(num_classes=4).num_classes) == (0.3, 4)


def test_copies_pickles_and_prints():
    images, labels = batch_of()
    for mix in (MixUp(num_classes=10, per="sample"), CutMix(labels_getter=None)):
        for twin in (copy.deepcopy(mix), pickle.loads(pickle.dumps(mix))):
            assert repr(twin) == repr(mix)
            sample = images, labels
            if twin.num_classes is None:
                sample = images, tv_tensors.Mask(torch.zeros(6, 12, 10).long())
            assert len(twin(*sample)) == 2
    assert repr(MixUp(alpha=0.2, num_classes=10)) == (
        "MixUp(alpha=0.2, num_classes=10, per=batch, target=dense, pairing=Roll())"
    )
    assert "CutMix(" in repr(v2.Compose([CutMix(num_classes=3)]))


def test_in_a_worker_of_a_loader():
    images, labels = batch_of(8)
    mix = CutMix(num_classes=10, per="sample", target="mixed")
    loader = DataLoader(
        TensorDataset(images, labels),
        batch_size=4,
        num_workers=1,
        collate_fn=lambda batch: mix(*default_collate(batch)),
    )
    for image, target in loader:
        assert image.shape == (4, 3, 12, 10)
        assert isinstance(target, MixedTarget)


# --------------------------------------------------------------------------------- what is new


def by_loop(images, mix):
    """Mix one sample after the other."""
    mixed = images.clone().double()
    for i in range(len(images)):
        own, other = images[i].double(), images[mix.partner[i]].double()
        mixed[i] = mix.lam[i].double() * own + (1 - mix.lam[i].double()) * other
        if mix.box is not None:
            top, bottom, left, right = mix.box.edges[i].tolist()
            mixed[i] = own
            mixed[i][..., top:bottom, left:right] = other[..., top:bottom, left:right]
    return mixed


@BOTH
@pytest.mark.parametrize("per", ["batch", "sample"])
@pytest.mark.parametrize("who", [None, pairing.Shuffle(), pairing.InterClass()])
def test_a_sample_equals_a_loop_over_it(transform, per, who):
    images, labels = torch.rand(7, 3, 9, 8), torch.tensor([0, 0, 1, 1, 2, 2, 2])
    mix = transform(num_classes=3, per=per, pairing=who)
    for seed in range(5):
        torch.manual_seed(seed)
        drawn = mix.make_params([images], labels)["mix"]
        torch.manual_seed(seed)
        image, soft = mix(images, labels)
        torch.testing.assert_close(image, by_loop(images, drawn).float())
        one_hot = torch.eye(3)[labels]
        expected = by_loop(one_hot, Mix(drawn.partner, drawn.lam)).float()
        torch.testing.assert_close(soft, expected)
        assert len(drawn.lam.unique()) == 1 or per == "sample"
        if who is None:
            assert torch.equal(drawn.partner, torch.arange(7).roll(1))
        if isinstance(who, pairing.InterClass):
            assert (labels[drawn.partner] != labels).all()
    if per == "sample":
        assert len(drawn.lam.unique()) > 3


def test_one_hot_labels_of_whole_numbers_are_paired_by_class():
    labels = torch.eye(3).long()[[0, 0, 1, 1, 2, 2]]
    mix = MixUp(pairing=pairing.InterClass(), per="sample")
    drawn = mix.make_params([torch.rand(6, 3, 4, 4)], labels)["mix"]
    assert (labels.argmax(1)[drawn.partner] != labels.argmax(1)).all()


def test_uint8_images_are_rounded():
    images, labels = torch.randint(256, (6, 3, 8, 8), dtype=torch.uint8), torch.arange(6)
    torch.manual_seed(0)
    drawn = MixUp().make_params([images], labels)["mix"]
    torch.manual_seed(0)
    image, _ = MixUp(num_classes=6)(images, labels)
    assert image.dtype == torch.uint8
    assert (image.double() - by_loop(images, drawn)).abs().max() <= 0.5 + 1e-4
    pasted, _ = CutMix(num_classes=6)(images, labels)
    assert pasted.dtype == torch.uint8


def test_whole_numbers_can_be_pasted_but_not_interpolated():
    images, labels = torch.randint(9, (4, 3, 8, 8)), torch.arange(4)
    assert CutMix(num_classes=4)(images, labels)[0].dtype == torch.int64
    with pytest.raises(InputError, match="can't be interpolated"):
        MixUp(num_classes=4)(images, labels)


@BOTH
def test_images_are_mixed_wherever_the_labels_are(transform):
    images, labels = batch_of()
    # torchvision takes the first plain tensor for the images: here it would mix the labels alone.
    ours = transform(num_classes=10)({"labels": labels, "image": images})
    assert list(ours) == ["labels", "image"]
    assert not torch.equal(ours["image"], images)


@BOTH
def test_what_is_no_image_passes(transform):
    images, labels = batch_of()
    index, boxes = torch.arange(6), None
    _, _, same, nothing = transform(num_classes=10)(images, labels, index, boxes)
    assert same is index
    assert nothing is None
    plain = torch.rand(6, 4)
    sample = {"image": tv_tensors.Image(images), "label": labels, "plain": plain, "none": None}
    result = transform(num_classes=10)(sample)
    assert result["plain"] is plain
    assert isinstance(result["image"], tv_tensors.Image)


def test_several_images_of_a_sample_are_mixed_alike():
    images, labels = batch_of()
    sample = {"a": tv_tensors.Image(images), "b": tv_tensors.Image(images * 2), "label": labels}
    for transform in (MixUp, CutMix):
        result = transform(num_classes=10, per="sample")(sample)
        torch.testing.assert_close(result["b"], result["a"] * 2)
    sample["b"] = tv_tensors.Image(images[..., :5])
    assert MixUp(num_classes=10)(sample)["b"].shape[-1] == 5
    with pytest.raises(ValueError, match="of one size"):
        CutMix(num_classes=10)(sample)


def test_lam_of_cutmix_is_the_share_that_is_left():
    images, labels = batch_of(50, 50)
    image, soft = CutMix(num_classes=50, per="sample")(images, labels)
    left = (image == images).double().mean((1, 2, 3))
    torch.testing.assert_close(lam_of(soft, labels).double(), left, rtol=0, atol=1e-6)
    assert left.min() < 0.5


# ------------------------------------------------------------------------------- masks and targets


@BOTH
def test_mixed_targets_are_the_dense_ones(transform):
    images, labels = batch_of()
    for y in (labels, nn.functional.one_hot(labels, 10)):
        results = []
        for target in ("dense", "mixed"):
            torch.manual_seed(1)
            results.append(transform(num_classes=10, target=target)(images, y))
        (image, dense), (same, mixed) = results
        assert torch.equal(image, same)
        torch.testing.assert_close(mixed.dense(10), dense)
    _, target = transform(target="mixed")(images, labels)  # C is the loss's to know
    logits = torch.randn(6, 10, requires_grad=True)
    for loss in (MixedCrossEntropy(), DecoupledCrossEntropy(), InfiniteClassLoss()):
        assert torch.isfinite(loss(logits, target))


def test_real_targets_mix_as_mixed_targets():
    images, y = torch.rand(4, 3, 4, 4), torch.rand(4)
    _, target = MixUp(target="mixed", pairing=pairing.LabelKernel())(images, y)
    assert torch.equal(target.a, y)
    with pytest.raises(InputError, match="target='mixed'"):
        MixUp(num_classes=3)(images, y)


@pytest.mark.parametrize("shape", [(6, 12, 10), (6, 2, 12, 10)])
@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.float32])
def test_masks_are_cut_where_images_are(shape, dtype):
    images, labels = batch_of()
    masks = tv_tensors.Mask(torch.randint(2, shape).to(dtype))
    torch.manual_seed(2)
    mix = CutMix(num_classes=10, per="sample")
    image, soft, mask = mix(images, labels, masks)
    is_own = (image == images).all(1)
    assert not is_own.all()
    is_own = is_own.reshape(6, *[1] * (len(shape) - 3), 12, 10)
    assert type(mask) is tv_tensors.Mask
    assert mask.dtype == dtype
    assert torch.equal(mask, torch.where(is_own, masks, masks.roll(1, 0)))
    assert soft.shape == (6, 10)


def test_images_and_masks_mix_without_labels():
    images = torch.rand(4, 3, 8, 8)
    masks = tv_tensors.Mask(torch.randint(5, (4, 8, 8)))
    torch.manual_seed(3)
    image, mask = CutMix(labels_getter=None)(images, masks)
    assert torch.equal((image != images).any(1) & (masks != masks.roll(1, 0)), mask != masks)

    result = MixUp(labels_getter=None, target="mixed")({"image": images, "mask": masks})
    target = result["mask"]
    assert torch.equal(target.a, masks)
    assert torch.equal(target.b, masks.roll(1, 0))
    lam = target.lam[:, None, None, None]
    torch.testing.assert_close(result["image"], lam * images + (1 - lam) * images.roll(1, 0))
    loss = MixedCrossEntropy()(torch.randn(4, 5, 8, 8), target)
    dense = nn.functional.cross_entropy(torch.zeros(4, 5, 8, 8), target.dense(5))
    assert torch.isfinite(loss)
    assert torch.isfinite(dense)

    soft = tv_tensors.Mask(torch.rand(4, 5, 8, 8))
    image, mask = MixUp(labels_getter=None)(images, soft)
    assert isinstance(mask, tv_tensors.Mask)
    assert not torch.equal(mask, soft)
    partners = MixUp(labels_getter=None, pairing=pairing.Shuffle(), target="mixed")(images, masks)
    assert isinstance(partners[1], MixedTarget)


# -------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x, y, m: MixUp(num_classes=10)(x, y, m), "can't interpolate the classes"),
        (lambda x, y, m: MixUp(num_classes=10)(x, m), "labels_getter=None"),
        (lambda x, y, m: CutMix(labels_getter=None)(x, y), "labels must be a tensor"),
        (
            lambda x, y, m: CutMix(num_classes=10)(x, y, tv_tensors.Mask(m[:3])),
            "masks must be batched",
        ),
        (
            lambda x, y, m: CutMix(num_classes=10)(x, y, tv_tensors.Mask(m[:, 0])),
            "masks must be batched",
        ),
        (
            lambda x, y, m: CutMix(num_classes=10)(x, y, tv_tensors.Mask(m[..., :5])),
            "the mask is for positions",
        ),
        (lambda x, y, m: MixUp(num_classes=3)(x, y), r"indices in \[0, 2\]"),
        (lambda x, y, m: MixUp(num_classes=10)({"labels": y, "x": "no"}), "no batch of images"),
        (
            lambda x, y, m: MixUp(num_classes=10, labels_getter=lambda s: s[1] + 0)(x, y),
            "a tensor of the sample itself",
        ),
        (lambda x, y, m: MixUp(per="pair"), "per='pair' is unknown"),
        (lambda x, y, m: MixUp(target="soft"), "target='soft' is unknown"),
        (lambda x, y, m: MixUp(alpha=-1), "alpha must be a number"),
        (lambda x, y, m: MixUp(alpha="1"), "alpha must be a number"),
        (lambda x, y, m: MixUp(alpha=float("inf")), "alpha must be a number"),
        (
            lambda x, y, m: MixUp(num_classes=10.0),
            "num_classes must be a whole number from 1 on, got 10.0",
        ),
        (lambda x, y, m: CutMix(num_classes="10"), "num_classes must be a whole number from 1 on"),
        (lambda x, y, m: CutMix(labels_getter="label"), "labels_getter should either be"),
        (lambda x, y, m: CutMix(labels_getter=torch.zeros(2)), "labels_getter should either be"),
        (lambda x, y, m: CutMix(num_classes=10)(), "takes a sample: images and labels"),
        (lambda x, y, m: CutMix(num_classes=10)(x), "labels should be index based"),
        (lambda x, y, m: CutMix(num_classes=10)(x.to_sparse(), y), "images must be a dense tensor"),
        (lambda x, y, m: CutMix().make_params([]), "needs a list with a batch of images"),
        (lambda x, y, m: CutMix().make_params(None), "needs a list with a batch of images"),
        (lambda x, y, m: MixUp().make_params([x], y.tolist()), "labels must be a tensor"),
        (
            lambda x, y, m: MixUp(pairing=pairing.InterClass()).make_params([x]),
            r"pairing=InterClass\(\) may look at labels.*make_params\(images, labels\)",
        ),
        (lambda x, y, m: MixUp(pairing="flip"), "pairing must be a part of mixwell.pairing"),
        (lambda x, y, m: MixUp(pairing=pairing.NearestNeighbour()), "has no model"),
    ],
)
def test_bad_input_is_named(call, words):
    images, _ = batch_of()
    masks = tv_tensors.Mask(torch.randint(5, (6, 12, 10)))
    with pytest.raises(InputError, match=words):
        call(images, torch.arange(4, 10), masks)


def test_without_torchvision_it_says_what_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, "mixwell.compat.torchvision")
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(InputError, match="pip install torchvision"):
        importlib.import_module("mixwell.compat.torchvision")


@BOTH
def test_numpys_numbers_are_numbers(transform):
    mix = transform(alpha=np.float32(0.5), num_classes=np.int64(10))
    assert (mix.alpha, mix.num_classes) == (0.5, 10)
    assert type(mix.num_classes) is int
    images, labels = batch_of()
    assert mix(images, labels.to(torch.uint16))[1].shape == (6, 10)


# ------------------------------------------------------------------------ what a subclass overrides


@BOTH
@pytest.mark.parametrize("per", ["batch", "sample"])
def test_params_without_labels_where_the_pairing_looks_at_none(transform, per):
    images, labels = batch_of()
    torch.manual_seed(1)
    alone = transform(per=per, pairing=pairing.Shuffle()).make_params([images])["mix"]
    torch.manual_seed(1)
    beside = transform(per=per, pairing=pairing.Shuffle()).make_params([images], labels)["mix"]
    assert torch.equal(alone.partner, beside.partner)
    assert torch.equal(alone.lam, beside.lam)


class Fixed:
    """Says how a batch mixes as torchvision's own do."""

    def make_params(self, flat_inputs):
        assert all(isinstance(leaf, torch.Tensor) for leaf in flat_inputs)
        return {"lam": 0.25} if isinstance(self, v2.MixUp) else {
            "box": (2, 3, 8, 9), "lam_adjusted": 1 - 36 / 120,
        }  # fmt: skip


class Scaled:
    """Reads torchvision's keys, and halves what comes out."""

    def transform(self, inpt, params):
        out = super().transform(inpt, params)
        if inpt is params["labels"]:
            return out
        assert params["batch_size"] == len(inpt)
        share = params["lam" if isinstance(self, v2.MixUp) else "lam_adjusted"]
        if isinstance(self, v2.CutMix):
            left, top, right, bottom = params["box"]
            assert share == pytest.approx(1 - (right - left) * (bottom - top) / 120)
        return out * share


@BOTH
@pytest.mark.parametrize("overrides", [(Fixed,), (Scaled, Fixed)])
def test_a_subclass_does_what_it_does_with_torchvisions(transform, overrides):
    images, labels = batch_of()
    results = [
        type("Mine", (*overrides, base), {})(num_classes=10)(images, labels)
        for base in (getattr(v2, transform.__name__), transform)
    ]
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected)


def test_an_override_with_a_lam_of_its_own_keeps_the_pairing():
    images, labels = batch_of()
    mine = type("Mine", (Fixed, MixUp), {})(num_classes=10, pairing=pairing.Flip())
    mixed, _ = mine(images, labels)
    torch.testing.assert_close(mixed, 0.25 * images + 0.75 * images.flip(0))


@BOTH
def test_an_override_of_ours_is_given_labels_and_calls_super(transform):
    """With the labels as an argument, or without: they come along to a pairing that needs them."""
    images, labels = batch_of()
    labels = labels % 2

    class Plain(transform):
        def make_params(self, flat_inputs):
            return super().make_params(flat_inputs)

    class Labelled(transform):
        def make_params(self, flat_inputs, labels=None):
            assert labels is not None
            return {**super().make_params(flat_inputs, labels), "own": 1}

        def transform(self, inpt, params):
            assert params["own"] == 1
            return super().transform(inpt, params)

    results = []
    for kind in (transform, Plain, Labelled):
        torch.manual_seed(2)
        results.append(kind(num_classes=2, pairing=pairing.InterClass())(images, labels))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@BOTH
def test_torchvisions_keys_are_the_whole_batchs(transform):
    class Reads(transform):
        def transform(self, inpt, params):
            return params["lam"]

    images, labels = batch_of()
    assert 0 <= Reads(num_classes=10)(images, labels)[0] <= 1
    with pytest.raises(InputError, match=r"params\['lam'\].*per='batch'"):
        Reads(num_classes=10, per="sample")(images, labels)


@BOTH
@pytest.mark.parametrize(
    ("given", "words"),
    [
        (None, "must return a dict, got NoneType"),
        ({}, "must return 'mix', a mixwell.Mix, or as torchvision's does"),
        ({"lam": "x", "lam_adjusted": "x", "box": 3}, "must return 'mix'"),
        ({"mix": 3}, "must return a mixwell.Mix as 'mix', got int"),
        ({"lam": 2, "lam_adjusted": 2, "box": (0, 0, 1, 1)}, r"must return λ in \[0, 1\], got 2"),
    ],
)
def test_params_of_another_kind_are_named(transform, given, words):
    mine = type("Mine", (transform,), {"make_params": lambda self, flat: given})
    with pytest.raises(InputError, match=f"Mine.make_params {words}"):
        mine(num_classes=10)(*batch_of())


def test_a_lam_beside_a_mix_is_not_left_unread():
    class Both(MixUp):
        def make_params(self, flat_inputs):
            return {**super().make_params(flat_inputs), "lam": 0.3}

    with pytest.raises(InputError, match="'mix' and 'lam': one of them would be left unread"):
        Both(num_classes=10)(*batch_of())


@BOTH
@pytest.mark.parametrize(
    "name", ["_mixup_label", "_check_image_or_video", "_get_params", "_transform", "check_inputs"]
)
def test_overrides_that_are_never_called_are_refused(transform, name):
    mine = type("Mine", (transform,), {name: lambda self, *args, **kwargs: None})
    with pytest.raises(InputError, match=f"Mine overrides {name}, which is never called"):
        mine(num_classes=10)


def test_roll_is_the_sample_before():
    assert Roll()(Batch(torch.zeros(4, 1), torch.zeros(4))).tolist() == [3, 0, 1, 2]
    assert Roll()(Batch(torch.zeros(1, 1), torch.zeros(1))).tolist() == [0]
