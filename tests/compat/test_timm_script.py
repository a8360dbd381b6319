"""The arguments of timm's training script: what it makes of them, by its own classes and by ours.

Each run does as the script does: mixing in the collation with a prefetcher and in the loop without,
the loss that goes with it, and mixing turned off at an epoch.
"""

import argparse
import itertools

import numpy as np
import pytest
import torch

pytest.importorskip("timm")
from timm.data import create_loader
from timm.data import mixup as theirs
from timm.loss import BinaryCrossEntropy, SoftTargetCrossEntropy
from torch import nn

from mixwell.compat import timm as ours

OFF = 1
"""--mixup-off-epoch: the first epoch without."""


class Pictures(torch.utils.data.Dataset):
    transform = None

    def __len__(self):
        return 12

    def __getitem__(self, index):
        from PIL import Image

        pixels = np.random.default_rng(index).integers(256, size=(16, 16, 3), dtype=np.uint8)
        return self.transform(Image.fromarray(pixels)), index % 4


def arguments(**given):
    """The script's own, with its defaults."""
    defaults = {
        "mixup": 0.0, "cutmix": 0.0, "cutmix_minmax": None, "mixup_prob": 1.0,
        "mixup_switch_prob": 0.5, "mixup_mode": "batch", "mixup_off_epoch": OFF, "smoothing": 0.1,
        "num_classes": 4, "bce_loss": False, "prefetcher": True, "batch_size": 4, "epochs": 2,
    }  # fmt: skip
    return argparse.Namespace(**{**defaults, **given})


def train(package, args):
    """The script's loop; returns the images, targets and losses of each epoch."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - timm draws by it
    mixup_args = {
        "mixup_alpha": args.mixup, "cutmix_alpha": args.cutmix,
        "cutmix_minmax": args.cutmix_minmax, "prob": args.mixup_prob,
        "switch_prob": args.mixup_switch_prob, "mode": args.mixup_mode,
        "label_smoothing": args.smoothing, "num_classes": args.num_classes,
    }  # fmt: skip
    collate_fn = mixup_fn = None
    if args.prefetcher:
        collate_fn = package.FastCollateMixup(**mixup_args)
    else:
        mixup_fn = package.Mixup(**mixup_args)
    loader = create_loader(
        Pictures(), input_size=(3, 16, 16), batch_size=args.batch_size, is_training=True,
        no_aug=True, num_workers=0, collate_fn=collate_fn, use_prefetcher=args.prefetcher,
        device=torch.device("cpu"), mean=(0.0,) * 3, std=(1.0,) * 3,
    )  # fmt: skip
    loss_fn = BinaryCrossEntropy() if args.bce_loss else SoftTargetCrossEntropy()
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, args.num_classes))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    epochs = []
    for epoch in range(args.epochs):
        if args.mixup_off_epoch and epoch >= args.mixup_off_epoch:
            if args.prefetcher and loader.mixup_enabled:
                loader.mixup_enabled = False
            elif mixup_fn is not None:
                mixup_fn.mixup_enabled = False
        batches = []
        for images, target in loader:
            if mixup_fn is not None:
                images, target = mixup_fn(images, target)
            loss = loss_fn(model(images), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            batches.append((images, target, loss.item()))
        epochs.append(batches)
    return epochs


RECIPES = {
    "mixup": {"mixup": 0.8},
    "cutmix": {"cutmix": 1.0},
    "both": {"mixup": 0.8, "cutmix": 1.0, "mixup_switch_prob": 0.3},
    "minmax": {"cutmix_minmax": [0.2, 0.8]},
    "both, minmax": {"mixup": 0.2, "cutmix_minmax": [0.2, 0.8]},
    "by chance": {"mixup": 0.8, "cutmix": 1.0, "mixup_prob": 0.5},
    "never": {"mixup": 0.8, "mixup_prob": 0.0},
    "bce": {"mixup": 0.1, "cutmix": 1.0, "smoothing": 0.0, "bce_loss": True},
}
MODES = [*itertools.product(["batch", "elem", "pair"], [True, False]), ("half", True)]


@pytest.mark.cases(quick=16)
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(("mode", "prefetcher"), MODES)
def test_the_scripts_arguments_do_what_timms_classes_do(recipe, mode, prefetcher):
    args = arguments(**RECIPES[recipe], mixup_mode=mode, prefetcher=prefetcher)
    runs = [train(package, args) for package in (theirs, ours)]
    low = args.smoothing / args.num_classes
    high = 1 - args.smoothing + low
    for of_timm, of_ours in zip(*runs, strict=True):
        assert len(of_timm) == len(of_ours) == 3
        for (images, target, _), (mine, my_target, loss) in zip(of_timm, of_ours, strict=True):
            assert (mine.shape, mine.dtype) == (images.shape, images.dtype)
            assert (my_target.shape, my_target.dtype) == (target.shape, target.dtype)
            torch.testing.assert_close(my_target.sum(1), torch.ones(len(my_target)))
            assert my_target.min() >= low - 1e-6
            assert np.isfinite(loss)
    of_timm, of_ours = (torch.cat([target for _, target, _ in run[-1]]) for run in runs)
    torch.testing.assert_close(of_ours.max(1).values, torch.full_like(of_ours[:, 0], high))
    if mode != "half":  # the order is random, and half of the batch is left
        torch.testing.assert_close(of_ours.sum(0), of_timm.sum(0))
    if recipe != "by chance":
        mixed = torch.cat([target for _, target, _ in runs[1][0]])
        assert bool((mixed.max(1).values < high - 1e-4).any()) == (recipe != "never")


@pytest.mark.parametrize("mode", ["batch", "elem", "pair"])
@pytest.mark.parametrize("prefetcher", [True, False])
def test_an_epoch_without_mixing_is_timms_to_the_bit(mode, prefetcher):
    args = arguments(
        mixup=0.8, mixup_mode=mode, prefetcher=prefetcher, mixup_off_epoch=1, epochs=2,
    )  # fmt: skip
    everything = []
    for package in (theirs, ours):
        batches = train(package, args)[1]
        images = torch.cat([images for images, _, _ in batches])
        order = images.flatten(1).double().sum(1).argsort()
        everything.append((images[order], torch.cat([t for _, t, _ in batches])[order]))
    assert torch.equal(everything[0][0], everything[1][0])
    torch.testing.assert_close(everything[0][1], everything[1][1], rtol=0, atol=1e-7)


def test_the_last_smaller_batch_of_an_epoch_may_be_odd():
    """timm asserts that it is even."""
    args = arguments(mixup=0.8, batch_size=5, prefetcher=False)
    with pytest.raises(AssertionError):
        train(theirs, args)
    assert [len(images) for images, _, _ in train(ours, args)[0]] == [5, 5]
