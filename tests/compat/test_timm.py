"""timm's Mixup, against timm's own: on the same draws, and in distribution."""

import copy
import importlib
import pickle
import re
import sys

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.utils.data._utils.pin_memory import pin_memory

timm = pytest.importorskip("timm")
from timm.data import create_loader  # noqa: E402
from timm.data import mixup as theirs  # noqa: E402
from timm.loss import BinaryCrossEntropy, SoftTargetCrossEntropy  # noqa: E402

import mixwell  # noqa: E402
from mixwell import InputError, MixedTarget, functional  # noqa: E402
from mixwell.batch import Batch  # noqa: E402
from mixwell.compat import timm as ours  # noqa: E402
from mixwell.losses import DecoupledCrossEntropy, MixedBCE  # noqa: E402

MODES = ("batch", "pair", "elem")
KINDS = {
    "mixup": {"mixup_alpha": 0.8},
    "cutmix": {"mixup_alpha": 0.0, "cutmix_alpha": 1.0},
    "both": {"mixup_alpha": 0.3, "cutmix_alpha": 4.0, "switch_prob": 0.4},
    "minmax": {"mixup_alpha": 0.0, "cutmix_minmax": (0.2, 0.8)},
    "both minmax": {"mixup_alpha": 0.8, "cutmix_minmax": (0.2, 0.8)},
}
FALSE_ALARM = 1e-4
"""How often each statistical test would fail by chance, were its seed not fixed."""


class Draws:
    """The same draws for timm, in place of NumPy's, and for mixwell, in place of torch's."""

    def __init__(self, size, seed, mode, kind, prob):
        random = np.random.default_rng(seed)
        count = 1 if mode == "batch" else size
        self.lam, self.switch, self.mixes = (
            random.random(count).astype(np.float32) for _ in range(3)
        )
        # In multiples of 1/16 all arithmetic on places is exact, whatever the precision.
        self.places = random.integers(16, size=(4, count)).astype(np.float32) / 16
        self.both, self.minmax, self.prob = "both" in kind, "minmax" in kind, prob
        self.whole = mode == "batch"

    def give_timm(self, patch, settings, timm_count):
        cuts = self.switch < settings.get("switch_prob", 0.5)
        if not self.both:
            cuts[:] = settings["mixup_alpha"] == 0
        mixed = self.mixes < self.prob
        whose = [i for i in range(timm_count) if cuts[i] and mixed[i]]
        axes = (0, 2, 1, 3) if self.minmax else (0, 1)
        places = iter([self.places[axis][i] for i in whose for axis in axes])
        scalars = iter([self.mixes[0], self.switch[0]])
        vectors = iter([self.switch, self.mixes] if self.both else [self.mixes])

        def rand(size=None):
            return next(scalars) if size is None else next(vectors)[:size]

        def randint(low, high=None, size=None):
            assert size is None
            return low + int(next(places) * (high - low))

        patch.setattr(np.random, "rand", rand)
        patch.setattr(np.random, "randint", randint)
        patch.setattr(
            np.random,
            "beta",
            lambda a, b, size=None: self.lam[0] if size is None else self.lam[:size],
        )

    def give_mixwell(self, patch):
        scalars = iter([self.mixes[0], self.switch[0]])
        vectors = [] if self.whole or not self.both else [self.switch]
        vectors += [] if self.whole or self.prob == 1 else [self.mixes]
        vectors += [*self.places] if self.minmax else [*self.places[:2]]
        vectors = iter(vectors)
        patch.setattr(Batch, "choose", lambda batch, count: int(next(scalars) * count))
        patch.setattr(Batch, "rand", lambda batch, count: torch.tensor(next(vectors))[:count])
        patch.setattr(functional, "sample_beta", lambda tau, generator=None: torch.tensor(self.lam))


def both_ways(monkeypatch, seed, mode, kind, prob, make, call):
    """Return what timm and mixwell make of the same draws."""
    size, settings = 8, KINDS[kind]
    draws = Draws(size, seed, mode, kind, prob)
    arguments = {"mode": mode, "prob": prob, "num_classes": 10, **settings}
    count = {"batch": 1, "pair": size // 2, "elem": size, "half": size // 2}[mode]
    with monkeypatch.context() as patch:
        draws.give_timm(patch, settings, count)
        expected = call(make(theirs)(**arguments))
    with monkeypatch.context() as patch:
        draws.give_mixwell(patch)
        return expected, call(make(ours)(**arguments))


@pytest.mark.parametrize("prob", [1.0, 0.6])
@pytest.mark.parametrize("correct_lam", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", MODES)
def test_the_same_draws_give_the_same_images_and_targets(
    monkeypatch, mode, kind, correct_lam, prob
):
    x, y = torch.rand(8, 3, 16, 12), torch.arange(8)

    def make(module):
        return lambda **settings: module.Mixup(correct_lam=correct_lam, **settings)

    for seed in range(4):
        (image, target), (our_image, our_target) = both_ways(
            monkeypatch, seed, mode, kind, prob, make, lambda mix: mix(x.clone(), y)
        )
        torch.testing.assert_close(our_image, image)
        torch.testing.assert_close(our_target, target)


@pytest.mark.parametrize("as_numpy", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", [*MODES, "half"])
def test_the_same_draws_collate_to_the_same_batch(monkeypatch, mode, kind, as_numpy):
    images = torch.randint(256, (8, 3, 16, 12), dtype=torch.uint8)
    kept = images.clone()

    def collate(mix):
        copies = images.clone()  # timm pastes into what it is given
        return mix([(copy.numpy() if as_numpy else copy, i) for i, copy in enumerate(copies)])

    for seed in range(4):
        (image, target), (our_image, our_target) = both_ways(
            monkeypatch, seed, mode, kind, 0.7, lambda module: module.FastCollateMixup, collate
        )
        assert our_image.dtype == torch.uint8
        # Half-way values are rounded after slightly different sums.
        assert (our_image.int() - image.int()).abs().max() <= 1
        assert (our_image != image).float().mean() < 0.01
        torch.testing.assert_close(our_target, target)
    assert torch.equal(images, kept)


# ------------------------------------------------------------------------------- in distribution


def observe(mixup, size, calls, height=12, width=12):
    """Return each sample's λ of target and image, and whether it is a mix by place."""
    x = torch.zeros(size, 1, height, width)
    x[: size // 2] = 1.0  # so that partners differ
    y = torch.arange(size)
    labels, shares, places = [], [], []
    for _ in range(calls):
        image, target = mixup(x.clone(), y)
        own = (image - x.flip(0)).abs().mean((1, 2, 3))
        labels.append(target[y, y])
        shares.append(own)
        places.append(image.flatten(1).std(1) > 1e-4)
    return torch.cat(labels).double(), torch.cat(shares).double(), torch.cat(places)


@pytest.mark.cases(quick=3)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", MODES)
def test_lam_and_kinds_are_distributed_as_timms(mode, kind):
    size = 2 if mode == "batch" else 40
    calls = 300 if mode == "batch" else 50
    arguments = {"mode": mode, "label_smoothing": 0.0, "num_classes": size, "prob": 0.8}
    np.random.seed(1)  # noqa: NPY002 - what timm draws from
    torch.manual_seed(2)
    label, _, place = observe(theirs.Mixup(**arguments, **KINDS[kind]), size, calls)
    our_label, our_share, our_place = observe(ours.Mixup(**arguments, **KINDS[kind]), size, calls)
    torch.testing.assert_close(our_label, our_share, atol=1e-6, rtol=0)
    # One of each independent draw.
    alone = slice(0, None, 2) if mode == "batch" else slice(None)
    if mode == "pair":
        alone = (torch.arange(len(label)) % size) < size // 2
    label, our_label, place, our_place = (v[alone] for v in (label, our_label, place, our_place))
    assert stats.ks_2samp(label, our_label).pvalue > FALSE_ALARM
    table = [[int(kinds.sum()), int((~kinds).sum())] for kinds in (place, our_place)]
    assert stats.fisher_exact(table).pvalue > FALSE_ALARM
    untouched = int((our_label == 1).sum())
    assert untouched > 0
    if kind == "mixup":
        assert stats.binomtest(untouched, len(our_label), 0.2).pvalue > FALSE_ALARM


def test_lam_has_the_mean_and_spread_of_its_beta():
    mixup = ours.Mixup(0.4, mode="elem", num_classes=100, target="mixed")
    lam = torch.cat([mixup(torch.zeros(100, 1), torch.arange(100))[1].lam for _ in range(50)])
    assert stats.kstest(lam.numpy(), stats.beta(0.4, 0.4).cdf).pvalue > FALSE_ALARM
    assert abs(lam.mean() - 0.5) < 4 * 0.373 / len(lam) ** 0.5


@pytest.mark.parametrize(("mode", "size", "calls"), [("elem", 50, 40), ("batch", 2, 500)])
def test_switching_by_chance_is_as_often_as_asked_for(mode, size, calls):
    # λ near 1/2 leaves no doubt of the kind.
    mixup = ours.Mixup(100.0, 100.0, switch_prob=0.3, mode=mode, num_classes=size)
    _, _, place = observe(mixup, size, calls)
    place = place[::2] if mode == "batch" else place
    assert stats.binomtest(int(place.sum()), len(place), 0.3).pvalue > FALSE_ALARM


def test_what_a_draw_is_for():
    lam = {
        mode: ours.Mixup(mode=mode, num_classes=6, target="mixed")(
            torch.rand(6, 3, 4, 4), torch.arange(6)
        )[1].lam
        for mode in MODES
    }
    assert len(lam["batch"].unique()) == 1
    assert torch.equal(lam["pair"], lam["pair"].flip(0))
    assert len(lam["pair"].unique()) == 3
    assert len(lam["elem"].unique()) == 6


def test_boxes_by_minmax_have_all_sides_and_places_alike():
    height, width, least, most = 10, 20, 0.3, 0.7
    mixup = ours.Mixup(0, 0, (least, most), mode="elem", label_smoothing=0, num_classes=40)
    x = torch.zeros(40, 1, height, width)
    x[:20] = 1.0
    sides, tops, ends = [], [], []
    for _ in range(60):
        box = (mixup(x, torch.arange(40))[0] != x)[:, 0]
        rows, columns = box.any(2), box.any(1)
        assert torch.equal(box, rows[:, :, None] & columns[:, None, :])
        sides.append(torch.stack([rows.sum(1), columns.sum(1)], 1))
        tops.append(rows.int().argmax(1))
        ends.append(tops[-1] + sides[-1][:, 0])
    sides, tops, ends = torch.cat(sides), torch.cat(tops), torch.cat(ends)
    for axis, size in ((0, height), (1, width)):
        counts = torch.bincount(sides[:, axis])[int(least * size) :]
        assert len(counts) == int(most * size) - int(least * size)  # the greatest is excluded
        assert stats.chisquare(counts.numpy()).pvalue > FALSE_ALARM
    assert int(tops.min()) == 0
    assert int(ends.max()) == height
    three = tops[sides[:, 0] == 3]
    assert stats.chisquare(torch.bincount(three).numpy()).pvalue > FALSE_ALARM


# ------------------------------------------------------------------------- what timm does not do


def reference(x, lam, boxes):
    """Mix one sample after the other."""
    mixed = x.clone()
    for i in range(len(x)):
        other = x[len(x) - 1 - i]
        if boxes[i] is None:
            mixed[i] = lam[i] * x[i] + (1 - lam[i]) * other
        else:
            top, bottom, left, right = boxes[i]
            mixed[i, :, top:bottom, left:right] = other[:, top:bottom, left:right]
    return mixed


@pytest.mark.cases(quick=20)
@pytest.mark.parametrize("size", [1, 2, 7, 8])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", MODES)
def test_batches_of_any_size_equal_a_loop_over_samples(mode, kind, size):
    x, y = torch.rand(size, 3, 9, 11, requires_grad=True), torch.randint(5, (size,))
    kept, weight = x.detach().clone(), torch.rand(size, 3, 9, 11)
    mixup = ours.Mixup(mode=mode, num_classes=5, label_smoothing=0.2, **KINDS[kind])
    for seed in range(3):
        torch.manual_seed(seed)
        mixes, cuts, lam = mixup._draw(Batch(x, y))
        pastes = mixes[0].box is not None
        cut = [pastes] * size if cuts is None else cuts.tolist()
        edges = mixes[0].box.edges.tolist() if pastes else None
        boxes = [edges[i] if cut[i] else None for i in range(size)]
        torch.manual_seed(seed)
        image, target = mixup(x, y)
        expected = reference(x, lam, boxes)
        torch.testing.assert_close(image, expected)
        gradients = (torch.autograd.grad((v * weight).sum(), x)[0] for v in (image, expected))
        torch.testing.assert_close(*gradients)
        one_hot = 0.8 * torch.eye(5)[y] + 0.2 / 5
        expected = lam[:, None] * one_hot + (1 - lam[:, None]) * one_hot.flip(0)
        torch.testing.assert_close(target, expected)
        if size % 2:
            torch.testing.assert_close(image[size // 2], x[size // 2])
    assert torch.equal(x, kept)


@pytest.mark.parametrize("mode", [*MODES, "half"])
@pytest.mark.parametrize("size", [5, 6])
def test_collated_batches_of_any_size(mode, size):
    samples = [(np.full((3, 8, 8), 40 * i, np.uint8), i) for i in range(size)]
    mixup = ours.FastCollateMixup(0.8, 1.0, mode=mode, num_classes=size, label_smoothing=0)
    for _ in range(10):
        image, target = mixup(samples)
        kept = (size + 1) // 2 if mode == "half" else size
        assert image.shape == (kept, 3, 8, 8)
        assert target.shape == (kept, size)
        # Mixed by λ or by place, an image's mean is its labels' mean.
        expected = target @ (40.0 * torch.arange(size))
        assert (image.float().mean((1, 2, 3)) - expected).abs().max() <= 0.5 + 1e-4


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("mode", [*MODES, "half"])
def test_collating_flipped_arrays(mode, dtype):
    """An array that was flipped has negative strides, which torch does not take."""
    pixels = np.random.default_rng(0).integers(250, size=(8, 3, 6, 6)).astype(dtype)
    pixels *= 200 if dtype == "uint16" else 1
    flipped = [(image[:, :, ::-1], place % 4) for place, image in enumerate(pixels)]
    copied = [(image.copy(), label) for image, label in flipped]
    assert flipped[0][0].strides[2] < 0
    results = []
    for samples in (flipped, copied):
        torch.manual_seed(1)
        mixup = ours.FastCollateMixup(0.8, 1.0, mode=mode, num_classes=4, label_smoothing=0)
        results.append(mixup(samples))
    assert results[0][0].dtype == getattr(torch, dtype)
    assert torch.equal(*(images.double() for images, _ in results))
    assert torch.equal(*(targets for _, targets in results))


def test_collating_unsigned_shorts_rounds_to_the_nearest():
    pixels = np.random.default_rng(0).integers(65536, size=(6, 1, 4, 4)).astype(np.uint16)
    mixup = ours.FastCollateMixup(mode="elem", num_classes=6, label_smoothing=0)
    mixed, target = mixup([(image, place) for place, image in enumerate(pixels)])
    exact = torch.einsum("ij,jchw->ichw", target.double(), torch.from_numpy(pixels).double())
    assert mixed.dtype == torch.uint16
    assert (mixed.double() - exact).abs().max() <= 0.5 + 0.02  # λ is in single precision


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        (None, "list of samples"),
        ([], "list of samples"),
        ([1, 2], "list of samples"),
        ([(np.zeros((3, 4, 4)),)], "list of samples"),
        ([(np.zeros((3, 4, 4)), 0), (np.zeros((3, 4, 5)), 1)], "of one size"),
        ([(np.zeros((3, 4, 4)), 0), (np.zeros((3, 4, 4)), "cat")], "list of samples"),
        ([(np.zeros((3, 4, 4), object), 0)], "tensors or NumPy arrays"),
        ([(np.zeros((3, 4, 4)), 0.5)], "target must be class indices"),
    ],
)
def test_samples_that_do_not_collate_are_named(batch, words):
    with pytest.raises(InputError, match=words):
        ours.FastCollateMixup(num_classes=2)(batch)


def test_collating_keeps_another_dtype_than_uint8():
    samples = [(torch.rand(3, 4, 4) * 255, i) for i in range(3)]
    assert ours.FastCollateMixup(num_classes=3)(samples)[0].dtype == torch.float32


def test_half_precision_images_have_targets_in_single():
    mixup = ours.Mixup(mode="elem", num_classes=64, label_smoothing=0)
    y = torch.arange(64)
    for dtype in (torch.bfloat16, torch.float16):
        torch.manual_seed(3)
        image, target = mixup(torch.rand(64, 1, 2, 2).to(dtype), y)
        assert image.dtype == dtype
        assert target.dtype == torch.float32
        torch.testing.assert_close(target.sum(1), torch.ones(64))
        assert not torch.equal(target, target.to(dtype).float())


def test_the_layout_of_the_images_is_kept():
    x = torch.rand(6, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    image, _ = ours.Mixup(0.8, 1.0, mode="elem", num_classes=3)(x, torch.randint(3, (6,)))
    assert image.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("mode", MODES)
def test_switched_off_only_labels_are_smoothed(mode):
    x, y = torch.rand(5, 3, 4, 4), torch.arange(5)
    mixup = ours.Mixup(0.8, 1.0, mode=mode, num_classes=5, label_smoothing=0.1)
    mixup.mixup_enabled = False
    image, target = mixup(x, y)
    assert image is x
    torch.testing.assert_close(target, 0.9 * torch.eye(5) + 0.02)


@pytest.mark.parametrize("mode", MODES)
def test_without_probability_nothing_is_mixed(mode):
    x, y = torch.rand(5, 3, 4, 4), torch.arange(5)
    mixup = ours.Mixup(0.8, cutmix_minmax=(0.5, 1.0), prob=0, mode=mode, num_classes=5)
    for _ in range(5):
        image, target = mixup(x, y)
        assert torch.equal(image, x)
        assert torch.equal(target, target.T)


def test_settings_may_change_between_batches():
    x, y = torch.rand(4, 3, 4, 4), torch.arange(4)
    mixup = ours.Mixup(1.0, num_classes=4)
    mixup.mix_prob = 0.0
    assert torch.equal(mixup(x, y)[0], x)
    mixup.mix_prob, mixup.mixup_alpha = 1.0, 0.0
    with pytest.raises(InputError, match="one of mixup_alpha and cutmix_alpha"):
        mixup(x, y)


@pytest.mark.parametrize("mode", MODES)
def test_mixed_targets_are_the_dense_ones(mode):
    x, y = torch.rand(7, 3, 8, 8), torch.randint(4, (7,))
    for kind in KINDS.values():
        results = []
        for target in ("dense", "mixed"):
            torch.manual_seed(0)
            mixup = ours.Mixup(mode=mode, num_classes=4, label_smoothing=0, target=target, **kind)
            results.append(mixup(x, y))
        (image, dense), (same, mixed) = results
        assert torch.equal(image, same)
        assert isinstance(mixed, MixedTarget)
        torch.testing.assert_close(mixed.dense(4), dense)


def test_multi_label_targets_mix_label_by_label():
    x, y = torch.rand(5, 3, 4, 4), torch.randint(2, (5, 6))
    mixup = ours.Mixup(mode="elem", num_classes=6, multi_label=True, label_smoothing=0.1)
    torch.manual_seed(1)
    _, target = mixup(x, y)
    torch.manual_seed(1)
    _, _, lam = mixup._draw(Batch(x, y))
    smooth = 0.9 * y + 0.05
    torch.testing.assert_close(target, lam[:, None] * smooth + (1 - lam[:, None]) * smooth.flip(0))
    mixed = ours.Mixup(num_classes=6, multi_label=True, target="mixed")(x, y)[1]
    assert torch.isfinite(MixedBCE()(torch.randn(5, 6), mixed))


# ------------------------------------------------------------------------------- mixup_target


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("lam", [1, 0.3, torch.rand(6, 1), torch.rand(6, 1).double()])
def test_mixup_target_is_timms(lam, smoothing):
    y = torch.randint(4, (6,))
    expected = theirs.mixup_target(y, 4, lam, smoothing)
    actual = ours.mixup_target(y, 4, lam, smoothing)
    torch.testing.assert_close(actual, expected)
    if isinstance(lam, torch.Tensor):
        torch.testing.assert_close(ours.mixup_target(y, 4, lam[:, 0], smoothing), expected)


def test_mixup_target_is_in_single_precision_at_least():
    y, lam = torch.randint(4, (6,)), torch.rand(6, 1).bfloat16()
    target = ours.mixup_target(y, 4, lam)
    torch.testing.assert_close(target, ours.mixup_target(y, 4, lam.float()), rtol=0, atol=0)
    assert target.dtype == torch.float32


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([0, 1], 4), "target must be a tensor"),
        ((torch.tensor([0, 1]), 4.0), "num_classes must be a whole number from 1 on, got 4.0"),
        ((torch.tensor([0, 1]), 4, "a"), "lam must be a number"),
        ((torch.tensor([0, 1]), 4, 1.5), r"lam must be in \[0, 1\]"),
        ((torch.tensor([0, 1]), 4, [0.1, 0.2, 0.3]), r"lam must be .* got shape \(3,\)"),
        ((torch.tensor([0, 1]), 4, 1.0, 2), "smoothing must be a number"),
        ((torch.tensor([0, 1]), 4, 1.0, 0, "no"), "multi_label must be True or False"),
    ],
)
def test_an_argument_of_mixup_target_is_named(arguments, words):
    with pytest.raises(InputError, match=words):
        ours.mixup_target(*arguments)


def test_mixup_target_of_many_labels():
    y, lam = torch.randint(2, (6, 4)), torch.rand(6, 1)
    smooth = 0.8 * y + 0.1
    expected = lam * smooth + (1 - lam) * smooth.flip(0)
    torch.testing.assert_close(ours.mixup_target(y, 4, lam, 0.2, multi_label=True), expected)


# -------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"mixup_alpha": 0.0}, "one of mixup_alpha and cutmix_alpha"),
        ({"mixup_alpha": -1.0}, "mixup_alpha must be a number"),
        ({"cutmix_alpha": float("nan")}, "cutmix_alpha must be a number"),
        ({"prob": 1.5}, "prob must be a number"),
        ({"switch_prob": -0.1}, "switch_prob must be a number"),
        ({"cutmix_minmax": (0.5,)}, "cutmix_minmax must be two shares"),
        ({"cutmix_minmax": (0.8, 0.2)}, "cutmix_minmax must be two shares"),
        ({"mode": "element"}, "mode='element' is unknown.*'elem'"),
        ({"mode": "half"}, "mode='half' is unknown"),
        ({"target": "soft"}, "target='soft' is unknown"),
        ({"target": "mixed", "label_smoothing": 0.1}, "give it to the loss"),
        ({"num_classes": 10.0}, r"num_classes must be a whole number from 1 on, got 10.0"),
        ({"num_classes": "10"}, r"num_classes must be a whole number from 1 on"),
        ({"num_classes": True}, r"num_classes must be a whole number"),
        ({"mixup_alpha": float("inf")}, "mixup_alpha must be a number"),
        ({"mixup_alpha": "0.8"}, "mixup_alpha must be a number"),
        ({"cutmix_minmax": 0.5}, "cutmix_minmax must be two shares.*got 0.5"),
        ({"cutmix_minmax": (0.2, None)}, "cutmix_minmax must be two shares"),
        ({"correct_lam": "no"}, "correct_lam must be True or False, got 'no'"),
        ({"multi_label": 1}, "multi_label must be True or False, got 1"),
        ({"mode": np.array(["elem"])}, "mode=.* is unknown"),
        ({"mode": ["elem"]}, "mode=.* is unknown"),
    ],
)
def test_a_bad_setting_is_named(arguments, words):
    with pytest.raises(InputError, match=words):
        ours.Mixup(**arguments)
    if arguments != {"mode": "half"}:
        with pytest.raises(InputError, match=words):
            ours.FastCollateMixup(**arguments)


@pytest.mark.parametrize("kind", [ours.Mixup, ours.FastCollateMixup])
def test_numpys_numbers_are_numbers(kind):
    mixup = kind(
        np.float32(0.5), np.int64(1), np.array([0.25, 0.5]), np.float64(1), num_classes=np.int64(4)
    )
    plain = vars(kind(0.5, 1, (0.25, 0.5), num_classes=4))
    assert all(type(value) is type(plain[name]) for name, value in vars(mixup).items())


def advice(**settings):
    """Return the code that the message about label smoothing gives."""
    with pytest.raises(InputError) as error:
        ours.Mixup(num_classes=4, target="mixed", label_smoothing=0.1, **settings)
    return re.search(r"(?:loss|before), (.*), and give 0 here", str(error.value)).group(1)


def test_the_advice_on_label_smoothing_works():
    x, y, logits = torch.rand(4, 1, 4, 4), torch.arange(4), torch.randn(4, 4)
    loss = eval(advice(), {"mixwell": mixwell})
    off = {"num_classes": 4, "prob": 0.0}
    target = ours.Mixup(**off, target="mixed", label_smoothing=0)(x, y)[1]
    dense = ours.Mixup(**off, label_smoothing=0.1)(x, y)[1]
    torch.testing.assert_close(loss(logits, target), nn.functional.cross_entropy(logits, dense))


def test_the_advice_on_label_smoothing_of_many_labels_works():
    x, y = torch.rand(4, 1, 4, 4), torch.eye(4)
    smooth = eval(advice(multi_label=True), {"y": y})
    off = {"num_classes": 4, "prob": 0.0, "multi_label": True}
    target = ours.Mixup(**off, target="mixed", label_smoothing=0)(x, smooth)[1]
    torch.testing.assert_close(target.dense(4), ours.Mixup(**off, label_smoothing=0.1)(x, y)[1])


@pytest.mark.parametrize(
    ("x", "y", "arguments", "words"),
    [
        (torch.rand(3, 1, 4, 4), torch.arange(4), {}, "3 images, but 4 targets"),
        (torch.rand(4, 1, 4, 4), torch.arange(4) + 7, {}, r"indices in \[0, 9\]"),
        (torch.rand(4, 1, 4, 4), torch.zeros(4, 10), {}, "multi_label=True"),
        (torch.rand(4, 1, 4, 4), torch.arange(4), {"multi_label": True}, r"shape \(B, num_classes"),
        (torch.rand(4, 5), torch.arange(4), {"cutmix_alpha": 1.0, "mixup_alpha": 0}, "by place"),
        ([torch.rand(1, 4, 4)] * 4, torch.arange(4), {}, "x must be a tensor, got list"),
        (np.zeros((4, 1, 4, 4)), torch.arange(4), {}, "x must be a tensor, got ndarray"),
        (torch.rand(4, 4).to_sparse(), torch.arange(4), {}, r"x must be a dense.*x\.to_dense\(\)"),
        (torch.rand(4, 1, 4, 4), [0, 1, 2, 3], {}, "target must be a tensor, got list"),
        (torch.rand(4, 1, 4, 4), torch.rand(4), {}, r"class indices.*float32.*target\.long\(\)"),
        (torch.tensor(1.0), torch.arange(4), {}, "no images, but 4 targets"),
    ],
)
def test_a_bad_batch_is_named(x, y, arguments, words):
    with pytest.raises(InputError, match=words):
        ours.Mixup(num_classes=10, **arguments)(x, y)


def test_without_timm_it_says_what_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, "mixwell.compat.timm")
    monkeypatch.setitem(sys.modules, "timm.data", None)
    with pytest.raises(InputError, match="pip install timm"):
        importlib.import_module("mixwell.compat.timm")


def test_augmentation_splits_are_refused():
    image = np.zeros((3, 4, 4), np.uint8)
    with pytest.raises(InputError, match="augmentation splits"):
        ours.FastCollateMixup(num_classes=2)([((image, image), 0), ((image, image), 1)])


# ---------------------------------------------------------------------- where timm's script has it


class Pictures(torch.utils.data.Dataset):
    """Twelve PIL images of four classes."""

    transform = None

    def __len__(self):
        return 12

    def __getitem__(self, index):
        from PIL import Image

        image = Image.fromarray(np.full((32, 32, 3), 20 * index, np.uint8))
        return self.transform(image), index % 4


def loader_of(collate_fn=None, num_workers=0, **settings):
    return create_loader(
        Pictures(),
        input_size=(3, 32, 32),
        batch_size=5,
        is_training=True,
        no_aug=True,
        num_workers=num_workers,
        collate_fn=collate_fn,
        device=torch.device("cpu"),
        **settings,
    )


LOSSES = {
    "soft": ("dense", SoftTargetCrossEntropy()),
    "bce": ("dense", BinaryCrossEntropy()),
    "decoupled": ("mixed", DecoupledCrossEntropy()),
}


@pytest.mark.cases(quick=2)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("prefetcher", [True, False])
def test_a_run_as_in_timms_training_script(prefetcher, loss):
    target, criterion = LOSSES[loss]
    settings = {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "mode": "elem", "num_classes": 4}
    mixup_fn = collate_fn = None
    if prefetcher:
        collate_fn = ours.FastCollateMixup(**settings, target=target)
    else:
        mixup_fn = ours.Mixup(**settings, target=target)
    loader = loader_of(collate_fn, use_prefetcher=prefetcher)
    model = timm.create_model("resnet10t", pretrained=False, num_classes=4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    before = model.get_classifier().weight.detach().clone()
    steps = 0
    for image, label in loader:
        if mixup_fn is not None:
            image, label = mixup_fn(image, label)
        assert image.shape == (5, 3, 32, 32)
        assert image.dtype == torch.float32
        value = criterion(model(image), label)
        value.backward()
        optimizer.step()
        assert torch.isfinite(value)
        steps += 1
    assert steps == 2
    assert not torch.equal(before, model.get_classifier().weight)


def test_the_prefetcher_normalises_what_was_mixed_in_uint8():
    mixup = ours.FastCollateMixup(num_classes=4, label_smoothing=0)
    plain = loader_of(mixup, mean=(0.0,) * 3, std=(1 / 255,) * 3)
    for image, target in plain:
        assert torch.equal(image, image.round())
        assert 0 <= image.min() <= image.max() <= 255
        torch.testing.assert_close(target.sum(1), torch.ones(5))


@pytest.mark.parametrize("twin", [copy.copy, copy.deepcopy])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_switching_off_at_an_epoch_reaches_the_loader_and_its_workers(num_workers, twin):
    mixup = twin(ours.FastCollateMixup(mode="elem", num_classes=4, label_smoothing=0))
    loader = loader_of(mixup, num_workers)
    assert loader.mixup_enabled is True
    # Partners may be of one class, but not all of them.
    assert any(bool((target.max(1).values < 1).any()) for _, target in loader)
    loader.mixup_enabled = False
    assert mixup.mixup_enabled is False
    for _ in range(2):
        assert all(bool((target.max(1).values == 1).all()) for _, target in loader)
    loader.mixup_enabled = True
    assert any(bool((target.max(1).values < 1).any()) for _, target in loader)


def test_mixed_targets_travel_from_a_worker():
    mixup = ours.FastCollateMixup(num_classes=4, target="mixed")
    for image, target in loader_of(mixup, num_workers=1):
        assert isinstance(target, MixedTarget)
        assert len(target) == len(image)
        assert torch.equal(target.b, target.a.flip(0))


def test_copies_and_pickles_are_switched_on_their_own():
    mixup = ours.FastCollateMixup(0.8, 1.0, num_classes=4)
    mixup.mixup_enabled = False
    for twin in (copy.deepcopy(mixup), pickle.loads(pickle.dumps(mixup))):
        assert twin.mixup_enabled is False
        twin.mixup_enabled = True
        assert mixup.mixup_enabled is False
        assert twin.cutmix_alpha == 1.0


def test_they_are_timms():
    assert isinstance(ours.Mixup(), theirs.Mixup)
    assert isinstance(ours.FastCollateMixup(), theirs.FastCollateMixup)
    theirs_has = vars(theirs.Mixup(0.3, 0.7, (0.1, 0.9), 0.5, 0.6, "pair", False, 0.2, 7))
    mine = vars(ours.Mixup(0.3, 0.7, (0.1, 0.9), 0.5, 0.6, "pair", False, 0.2, 7))
    assert {name: mine[name] for name in theirs_has} == theirs_has


def test_mixed_targets_move_like_tensors(monkeypatch):
    target = MixedTarget(torch.tensor([0, 1]), torch.tensor([1, 0]), torch.tensor([0.2, 0.7]))
    moved = target.to("meta")
    assert {part.device.type for part in (moved.a, moved.b, moved.lam)} == {"meta"}
    assert moved.a.dtype == torch.int64
    assert target.to(device=torch.device("cpu"), non_blocking=True).lam.tolist() == (
        target.lam.tolist()
    )
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda part: part + 1)  # it needs a GPU
    assert pin_memory(target).a.tolist() == [1, 2]
