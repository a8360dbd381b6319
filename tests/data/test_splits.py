from __future__ import annotations

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from mixwell import InputError
from mixwell.data import FolderSplit, Split, TensorSplit
from mixwell.data.splits import IMAGENET_MEAN, IMAGENET_STD


def make_images(size: int = 23, side: int = 6, **options) -> TensorSplit:
    x = torch.randint(256, (size, 3, side, side), dtype=torch.uint8)
    return TensorSplit(x, torch.arange(size) % 4, **options)


def read(split: Split, batch_size: int = 5, **options) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(map(torch.cat, zip(*split.batches(batch_size, **options), strict=True)))


@pytest.mark.slow
@given(
    st.integers(1, 40),
    st.integers(1, 12),
    st.booleans(),
    st.booleans(),
    st.integers(1, 5),
)
@example(size=1, batch_size=1, shuffle=False, drop_last=True, world_size=2)
@example(size=5, batch_size=2, shuffle=False, drop_last=True, world_size=3)
@example(size=1, batch_size=4, shuffle=False, drop_last=False, world_size=2)
def test_batches_cover_the_split(size, batch_size, shuffle, drop_last, world_size):
    split = TensorSplit(torch.arange(size)[:, None], torch.arange(size))
    options = {"shuffle": shuffle, "drop_last": drop_last, "world_size": world_size}
    if drop_last and batch_size > -(-size // world_size):
        with pytest.raises(InputError, match="leaves no full batch"):
            split.batches(batch_size, **options)
        return
    count = split.num_batches(batch_size, drop_last, world_size)
    lengths, seen = [], []
    for rank in range(world_size):
        batches = list(split.batches(batch_size, rank=rank, **options))
        for x, y, index in batches:
            assert torch.equal(x[:, 0], y.float())
            assert torch.equal(y, index)
        lengths.append([len(y) for _, y, _ in batches])
        seen += [int(i) for _, _, index in batches for i in index]
    if shuffle:
        # Ranks that disagree on the number or size of batches would wait for each other forever.
        assert all(length == lengths[0] for length in lengths)
        assert len(lengths[0]) == count
    assert max(map(len, lengths)) == count
    assert not any(0 in length for length in lengths)
    if not drop_last:
        assert set(seen) == set(range(size))
        if not shuffle:
            assert sorted(seen) == list(range(size))
        else:
            assert len(seen) < size + world_size
    else:
        assert all(n == batch_size for length in lengths for n in length)


def test_order_and_augmentation_depend_on_seed_epoch_and_rank_alone():
    split = make_images(crop=2, flip=True)
    key = {"shuffle": True, "augment": True, "seed": 3, "epoch": 7}
    first = read(split, **key)
    torch.manual_seed(99)
    state = torch.get_rng_state()
    again = read(split, **key)
    assert torch.equal(torch.get_rng_state(), state)
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one, other)
    for change in ({"seed": 4}, {"epoch": 8}):
        x, _, index = read(split, **{**key, **change})
        assert not torch.equal(index, first[2])
        assert not torch.equal(x[index.argsort()], first[0][first[2].argsort()])


def test_unshuffled_and_unaugmented_is_the_split_itself():
    split = make_images(crop=2, flip=True)
    x, y, index = read(split)
    assert torch.equal(x, split.x.float() / 255)
    assert torch.equal(y, split.y)
    assert torch.equal(index, torch.arange(23))


def test_normalised_by_channel():
    split = make_images(mean=[0.1, 0.2, 0.3], std=[0.5, 1.0, 2.0])
    x, _, _ = read(split)
    assert x.dtype == torch.float32
    torch.testing.assert_close(x[:, 2], (split.x[:, 2] / 255 - 0.3) / 2)


def test_augmented_images_are_crops_of_the_padded_image_or_its_mirror():
    split = make_images(200, side=5, crop=2, flip=True)
    x, _, index = read(split, batch_size=64, shuffle=True, augment=True)
    padded = torch.nn.functional.pad(split.x.float() / 255, (2, 2, 2, 2))
    found = set()
    for image, i in zip(x, index.tolist(), strict=True):
        matches = {
            (top, left, flip)
            for top in range(5)
            for left in range(5)
            for flip in (False, True)
            if torch.equal(
                padded[i, :, top : top + 5, left : left + 5].flip(2) if flip
                else padded[i, :, top : top + 5, left : left + 5], image
            )
        }  # fmt: skip
        assert len(matches) == 1
        found |= matches
    # 50 kinds, 200 draws: nearly all of them occur, and each corner among them.
    assert len(found) > 40
    assert {top for top, _, _ in found} == {left for _, left, _ in found} == set(range(5))


def test_flips_alone_and_neither():
    split = make_images(60, flip=True)
    x = split.x.float() / 255
    flipped = read(split, augment=True)[0]
    mirrored = [torch.equal(a, b.flip(2)) for a, b in zip(flipped, x, strict=True)]
    kept = [torch.equal(a, b) for a, b in zip(flipped, x, strict=True)]
    assert all(a or b for a, b in zip(mirrored, kept, strict=True))
    assert 15 < sum(mirrored) < 45
    split = make_images(9)
    assert torch.equal(read(split, augment=True)[0], read(split)[0])


def test_augmentation_works_in_batches_of_any_size():
    split = make_images(crop=1, flip=True)
    key = {"shuffle": True, "augment": True}
    whole = read(split, batch_size=23, **key)
    for size in (1, 4, 100):
        for one, other in zip(read(split, batch_size=size, **key), whole, strict=True):
            assert torch.equal(one, other)


def test_subset_keeps_its_order_and_settings():
    split = make_images(crop=1, flip=True, mean=[0.1] * 3, std=[0.2] * 3)
    next(split.batches(4))
    part = split.subset(torch.tensor([5, 2]))
    assert torch.equal(read(part)[0], read(split)[0][[5, 2]])
    assert (part.crop, part.flip) == (1, True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 2.5}, "batch_size=2.5"),
        ({"batch_size": 24, "drop_last": True}, "use at most 23"),
        ({"batch_size": 4, "rank": 2, "world_size": 2}, "rank=2"),
        ({"batch_size": 4, "world_size": 0}, "world_size=0"),
    ],
)
def test_bad_arguments_are_refused_before_the_first_batch(options, message):
    with pytest.raises(InputError, match=message):
        make_images().batches(**options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TensorSplit(torch.ones(3, 2), torch.ones(2)), "one entry per sample"),
        (lambda: TensorSplit(torch.ones(3, 2), torch.ones(3), crop=1), "need images"),
        (lambda: TensorSplit(torch.ones(3, 2), torch.ones(3), mean=[0.0]), "both mean and std"),
        (lambda: FolderSplit([], torch.ones(0), image_size=0), "image_size=0"),
        (lambda: FolderSplit([], torch.ones(0), workers=-1), "workers=-1"),
    ],
)
def test_bad_splits_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


# ---------------------------------------------------------------------------- folders of images


@pytest.fixture
def folder_split(tmp_path):
    generator = torch.Generator().manual_seed(0)
    paths = []
    for i in range(7):
        pixels = torch.randint(256, (20, 12 + i, 3), generator=generator).to(torch.uint8)
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(pixels.numpy()).convert("RGB" if i else "L").save(paths[-1])
    return FolderSplit(paths, torch.arange(7) % 2, image_size=8, workers=0)


def test_folder_images_have_one_shape(folder_split):
    x, y, index = read(folder_split, batch_size=3)
    assert x.shape == (7, 3, 8, 8)
    assert x.dtype == torch.float32
    assert torch.equal(y, torch.arange(7) % 2)
    assert torch.equal(index, torch.arange(7))
    low = (0 - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)
    assert (x.amin((0, 2, 3)) >= low - 1e-5).all()
    # A grey image is three times the same channel.
    grey = x[0] * torch.tensor(IMAGENET_STD).view(3, 1, 1) + torch.tensor(IMAGENET_MEAN).view(
        3, 1, 1
    )
    torch.testing.assert_close(grey[0], grey[2])


def test_reading_a_folder_seeds_no_gpu(folder_split, monkeypatch):
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    read(folder_split, augment=True)
    assert not seeded  # a run's mixing is drawn from it


def test_folder_batches_are_the_same_with_any_number_of_workers(folder_split):
    key = {"batch_size": 2, "shuffle": True, "augment": True, "epoch": 1}
    torch.manual_seed(5)
    state = torch.get_rng_state()
    alone = read(folder_split, **key)
    assert torch.equal(torch.get_rng_state(), state)
    shared = read(FolderSplit(folder_split.paths, folder_split.y, 8, workers=2), **key)
    assert torch.equal(torch.get_rng_state(), state)
    for one, other in zip(alone, shared, strict=True):
        assert torch.equal(one, other)
    changed, _, index = read(folder_split, **{**key, "epoch": 2})
    assert not torch.equal(changed[index.argsort()], alone[0][alone[2].argsort()])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_named(folder_split, workers):
    folder_split.paths[3].write_bytes(b"no image")
    split = FolderSplit(folder_split.paths, folder_split.y, 8, workers)
    with pytest.raises(InputError, match=r"3\.png is no image") as caught:
        read(split)
    assert "Traceback" not in str(caught.value)
