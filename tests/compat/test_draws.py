"""What subclasses override of timm's classes, against the same subclass of timm's own."""

import numpy as np
import pytest
import torch

pytest.importorskip("timm")
from timm.data import mixup as theirs

from mixwell import InputError, MixedTarget
from mixwell.compat import timm as ours

SETTINGS = {"mixup_alpha": 0.8, "num_classes": 4, "label_smoothing": 0.1}


class BatchParams:
    def _params_per_batch(self):
        return 0.25, False


class ElemParams:
    """λ that falls from sample to sample; every third is not mixed."""

    def _params_per_elem(self, batch_size):
        lam = np.linspace(0.9, 0.1, batch_size).astype(np.float32)
        lam[::3] = 1
        return lam, np.zeros(batch_size, bool)


class SeededParams:
    """Calls timm's own, and changes what it draws."""

    def _params_per_elem(self, batch_size):
        np.random.seed(3)  # noqa: NPY002 - timm draws by it
        lam, cuts = super()._params_per_elem(batch_size)
        return 1 - 0.5 * lam, cuts

    def _params_per_batch(self):
        np.random.seed(3)  # noqa: NPY002 - timm draws by it
        lam, cuts = super()._params_per_batch()
        return 1 - 0.5 * lam, cuts


class OwnBatch:
    def _mix_batch(self, x):
        x.mul_(0.5).add_(0.5 * x.flip(0).clone())
        return 0.5


class OwnElem:
    def _mix_elem(self, x):
        lam = torch.linspace(0, 1, len(x))[:, None]
        x.copy_(x + lam[:, :, None, None])
        return lam


class OwnPair(SeededParams):
    def _mix_pair(self, x):
        lam = super()._mix_pair(x)
        x += 1
        return lam


def sample(size=8):
    generator = torch.Generator().manual_seed(4)
    return torch.rand(size, 3, 6, 6, generator=generator), torch.arange(size) % 4


@pytest.mark.parametrize(
    ("override", "mode"),
    [
        (BatchParams, "batch"),
        (ElemParams, "elem"),
        (ElemParams, "pair"),
        (SeededParams, "batch"),
        (SeededParams, "elem"),
        (SeededParams, "pair"),
        (OwnBatch, "batch"),
        (OwnElem, "elem"),
        (OwnPair, "pair"),
    ],
)
def test_what_a_subclass_overrides_is_called_as_timm_calls_it(override, mode):
    results = []
    for package in (theirs, ours):
        mixup = type("Mine", (override, package.Mixup), {})(mode=mode, **SETTINGS)
        x, y = sample()
        results.append(mixup(x.clone(), y))
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected)
    assert not torch.equal(results[1][0], sample()[0])


@pytest.mark.parametrize("mode", ["batch", "elem"])
def test_overridden_boxes_have_timms_area(mode):
    """λ of a box is the share that is left, whoever drew the first λ."""

    class Boxes(ours.Mixup):
        def _params_per_batch(self):
            return 0.75, True

        def _params_per_elem(self, batch_size):
            return np.full(batch_size, 0.75), np.arange(batch_size) % 2 == 0

    x = torch.arange(8.0)[:, None, None, None].expand(8, 1, 12, 12)
    mixed, target = Boxes(mode=mode, num_classes=8, label_smoothing=0)(x, torch.arange(8))
    share = (mixed == x).float().mean((1, 2, 3))
    cut = torch.arange(8) % 2 == 0 if mode == "elem" else torch.ones(8, dtype=torch.bool)
    own = target[torch.arange(8), torch.arange(8)]
    torch.testing.assert_close(own[cut], share[cut])
    torch.testing.assert_close(own[~cut], torch.full_like(own[~cut], 0.75))


def test_a_method_put_on_the_object_is_called():
    mixup = ours.Mixup(**SETTINGS)
    mixup._params_per_batch = lambda: (0.25, False)
    x, y = sample()
    torch.testing.assert_close(mixup(x, y)[0], 0.25 * x + 0.75 * x.flip(0))
    del mixup._params_per_batch
    mixup.mixup_enabled = False
    assert torch.equal(mixup(x, y)[0], x)


@pytest.mark.parametrize("kind", ["batch", "elem", "pair"])
def test_what_is_given_stays_as_it_is(kind):
    def halve(self, x):
        x.mul_(0.5)
        return 0.5

    mixup = type("Mine", (ours.Mixup,), {f"_mix_{kind}": halve})(mode=kind, **SETTINGS)
    x, y = sample()
    mixed, target = mixup(x, y)
    assert torch.equal(x, sample()[0])
    assert torch.equal(mixed, x / 2)
    torch.testing.assert_close(target, theirs.mixup_target(y, 4, 0.5, 0.1))


def test_overrides_make_mixed_targets_too():
    mixup = type("Mine", (ElemParams, ours.Mixup), {})(mode="elem", num_classes=4, target="mixed")
    target = mixup(*sample())[1]
    assert isinstance(target, MixedTarget)
    torch.testing.assert_close(target.lam, torch.from_numpy(ElemParams()._params_per_elem(8)[0]))


# ------------------------------------------------------------------------------------- collating


class OwnCollate:
    def _mix_batch_collate(self, output, batch):
        for place, (image, _) in enumerate(batch):
            output[place] += torch.as_tensor(255 - image)
        return 0.5

    def _mix_pair_collate(self, output, batch):
        self._mix_batch_collate(output, batch)
        return torch.linspace(0, 1, len(batch))[:, None]

    def _mix_elem_collate(self, output, batch, half=False):
        self._mix_batch_collate(output, batch[: len(output)])
        return torch.linspace(0, 1, len(batch))[:, None]


def samples(size=8):
    generator = np.random.default_rng(4)
    images = generator.integers(256, size=(size, 3, 6, 6), dtype=np.uint8)
    return [(image, place % 4) for place, image in enumerate(images)]


@pytest.mark.parametrize(
    ("override", "mode"),
    [
        (BatchParams, "batch"),
        *((ElemParams, mode) for mode in ("elem", "pair", "half")),
        *((SeededParams, mode) for mode in ("batch", "elem", "pair", "half")),
        *((OwnCollate, mode) for mode in ("batch", "elem", "pair", "half")),
    ],
)
def test_collating_calls_what_a_subclass_overrides(override, mode):
    results = []
    for package in (theirs, ours):
        mixup = type("Mine", (override, package.FastCollateMixup), {})(mode=mode, **SETTINGS)
        results.append(mixup(samples()))
    assert results[1][0].dtype == torch.uint8
    expected, got = (images.float() for images, _ in results)
    torch.testing.assert_close(got, expected, rtol=0, atol=1)  # λ x rounds to the other side
    assert (got != expected).float().mean() < 0.02
    torch.testing.assert_close(*(targets for _, targets in results))


@pytest.mark.parametrize("override", [OwnBatch, OwnElem, OwnPair])
def test_overrides_that_collating_never_calls_are_refused(override):
    """timm's collating has no use for _mix_batch(x) either, and says nothing."""
    mine = type("Mine", (override, ours.FastCollateMixup), {})
    with pytest.raises(InputError, match=r"Mine overrides _mix_(\w+)\(x\).*_mix_\1_collate"):
        mine(**SETTINGS)


@pytest.mark.parametrize(
    "given",
    [0.3, (0.3,), ("a", False), (torch.rand(3), False), (1.5, False), (None, None), (-0.1, True)],
)
def test_draws_of_another_kind_are_named(given):
    mixup = ours.Mixup(**SETTINGS)
    mixup._params_per_batch = lambda: given
    with pytest.raises(InputError, match=r"Mixup\._params_per_batch"):
        mixup(*sample())


@pytest.mark.parametrize("given", [None, "a", 2.0, torch.rand(3), torch.rand(8, 2)])
def test_a_lam_of_another_kind_is_named(given):
    mixup = ours.Mixup(**SETTINGS)
    mixup._mix_batch = lambda x: given
    with pytest.raises(InputError, match=r"what _mix_batch\(x\) returns must be"):
        mixup(*sample())
