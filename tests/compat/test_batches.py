"""Taking batches apart: what is understood, what is refused, what is left out."""

import warnings
from collections import UserDict, namedtuple

import pytest
import torch

from mixwell import InputError
from mixwell.compat import batches
from mixwell.compat.batches import check_index, split_batch, take_apart

X, Y, AT = torch.zeros(3, 2), torch.tensor([0, 1, 2]), torch.tensor([7, 8, 9])


@pytest.fixture(autouse=True)
def _nothing_said(monkeypatch):
    monkeypatch.setattr(batches, "_said", set())


@pytest.mark.parametrize(
    ("batch", "index", "expected"),
    [
        ((X, Y), None, (X, Y, None)),
        ([X, Y, AT], 2, (X, Y, AT)),
        ([X, Y, AT], -1, (X, Y, AT)),
        ((AT, X, Y), 0, (X, Y, AT)),
        (namedtuple("Pair", "a b")(X, Y), None, (X, Y, None)),
        (({"image": X, "audio": X}, Y), None, ({"image": X, "audio": X}, Y, None)),
        ({"image": X, "label": Y}, None, (X, Y, None)),
        ({"label": Y, "idx": AT, "image": X, "path": ["a"]}, "idx", (X, Y, AT)),
        ({"label": Y, "number": AT, "image": X}, "number", (X, Y, AT)),
        ({"pixel_values": X, "labels": Y}, None, (X, Y, None)),
        (UserDict(spectrogram=X, target=Y), None, (X, Y, None)),
        (UserDict(spectrogram=X, target=Y, index=AT), "index", (X, Y, AT)),
    ],
)
def test_batches_that_are_understood(batch, index, expected):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x, y, positions = split_batch(batch, index)
    assert x is expected[0] or x == expected[0]
    assert y is expected[1]
    assert positions is expected[2]


@pytest.mark.parametrize(
    ("batch", "index", "message"),
    [
        (X, None, r"in a batch of \(3, 2\); known are \(x, y\)"),
        ((X,), None, r"in a batch of \[\(3, 2\)\]"),
        ((X, Y, X), None, r"third element.*index=2.*split=lambda batch: \(batch\[0\], batch\[1\]"),
        ((X, Y, AT), None, r"third element.*index=2.*split=lambda batch: \(batch\[0\], batch\[1\]"),
        ((X, Y, X), 2, r"index=2 must be a \(B,\) tensor.* got \(3, 2\) of torch.float32"),
        ((X, Y, [1, 2, 3]), 2, r"index=2 must be a \(B,\) tensor of positions.*got \[int"),
        ((X, Y), 2, "index=2: the batch has no such place"),
        ((X, Y, AT, X), 2, "can't tell inputs and targets apart"),
        ((X, Y, AT), "index", r"index='index' is a key.*give the place, index=2"),
        ((X, ["a", "b", "c"]), None, r"in a batch of \[\(3, 2\), list\]"),
        ({"image": X}, None, r"the target in a batch of \{image: \(3, 2\)\}; known names are y,"),
        ({"left": X, "right": X, "y": Y}, None, "which is the input in a batch of {left: "),
        ({"image": X, "label": Y, "idx": AT}, "idy", "index='idy' is not in a batch.*mean 'idx'"),
        ({"image": X, "label": Y, "idx": AT}, 2, "index=2 is not in a batch of {image"),
        ({"image": X, "y": Y, "label": Y}, None, "which is the target.*y or label"),
        ({"image": X, "inputs": X, "label": Y}, None, "which is the input.*image or inputs"),
        ([(X, Y), (X, Y)], None, r"in a batch of \[tuple, tuple\]"),
        ({"a": (X, Y), "b": (X, Y)}, None, "which is the target in a batch of {a: tuple"),
    ],
)
def test_batches_that_are_not(batch, index, message):
    with pytest.raises(InputError, match=message):
        split_batch(batch, index)


@pytest.mark.parametrize("index", [True, 2.0, (2,), torch.tensor(2)])
def test_an_index_of_another_kind_is_named(index):
    with pytest.raises(InputError, match="index must say where a batch has"):
        check_index(index)


def test_a_key_of_positions_is_no_input():
    x, y, index = split_batch({"sound": X, "target": Y, "index": AT}, "index")
    assert (x is X, y is Y, index is AT) == (True, True, True)


def test_tensors_that_are_left_out_are_said_once():
    batch = {"image": X, "label": Y, "sample_weight": Y, "idx": AT, "path": ["a"], "scale": 2.0}
    with pytest.warns(UserWarning, match=r"'sample_weight', 'idx' are left out") as seen:
        assert split_batch(batch)[2] is None
    assert "index='idx'" in str(seen[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        split_batch(batch)
    with pytest.warns(UserWarning, match=r"'mask' is left out: .* x=batch\['image'\]"):
        split_batch({"image": X, "label": Y, "mask": X})


def test_what_a_split_of_ones_own_may_return():
    assert take_apart(lambda batch: (X, Y, AT), None)[2] is AT
    assert take_apart(lambda batch: (X, Y), None)[2] is None
    for parts in (X, (X,), (X, Y, AT, X), [X, Y]):
        with pytest.raises(InputError, match=r"split must return \(x, y\) or \(x, y, index\)"):
            take_apart(lambda batch, parts=parts: parts, None)
