from collections import Counter

import numpy as np
import pytest
import torch

from mixwell import InputError
from mixwell.checks import check_counts, check_range, check_whole, plain


@pytest.mark.parametrize(
    "value", [2, 2.0, np.int64(2), np.uint8(2), np.float32(2), np.array(2), torch.tensor(2)]
)
def test_whoevers_numbers_are_numbers(value):
    found = check_range("alpha", value, 0, 3)
    assert found == 2.0
    assert type(found) is float


@pytest.mark.parametrize("value", [2, np.int64(2), np.uint8(2), np.array(2), torch.tensor(2)])
def test_whoevers_whole_numbers_are_whole(value):
    found = check_whole("k", value, 1)
    assert found == 2
    assert type(found) is int


@pytest.mark.parametrize(
    "value", [True, np.bool_(True), "2", None, np.array([2]), torch.tensor([2.0]), 2j, float("nan")]
)
def test_what_is_no_number_is_named(value):
    with pytest.raises(InputError, match=r"alpha must be a number in \[0, 3\], got"):
        check_range("alpha", value, 0, 3)


@pytest.mark.parametrize("value", [True, 2.0, np.float64(2), torch.tensor(2.0), "2", None, 0])
def test_what_is_not_whole_is_named(value):
    with pytest.raises(InputError, match="k must be a whole number from 1 on, got"):
        check_whole("k", value, 1)


def test_other_things_than_numbers_stay_as_they_are():
    array = np.zeros(3)
    assert plain(array) is array
    assert plain("text") == "text"
    assert type(plain(np.float64(1.5))) is float


@pytest.mark.parametrize(
    "counts",
    [
        [30, 20, 10],
        np.array([30, 20, 10]),
        torch.tensor([30, 20, 10]),
        Counter([1] * 20 + [0] * 30 + [2] * 10),
        {2: 10, 0: 30, 1: 20},
        {np.int64(1): np.int64(20), np.int64(0): 30, np.int64(2): 10},
    ],
)
def test_counts_are_taken_class_by_class_whatever_holds_them(counts):
    assert check_counts(counts).tolist() == [30, 20, 10]


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        (Counter("aabc"), "keys of a mapping must be the classes 0 to C - 1.*'a', 'b', 'c'"),
        ({0: 5, 2: 5}, "keys of a mapping must be the classes"),
        ({True: 5, False: 5}, "keys of a mapping must be the classes"),
        ({}, "for each of two classes or more"),
        ([5], "for each of two classes or more"),
        ([5, 0], "a positive count"),
        ([5, float("inf")], "must hold a number for each class, got .5.0, inf"),
        (["many", "few"], "must hold a number for each class"),
        (7, "for each of two classes or more"),
    ],
)
def test_what_are_no_counts_is_named(counts, words):
    with pytest.raises(InputError, match=f"class_counts.*{words}"):
        check_counts(counts)
