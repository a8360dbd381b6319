from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mixwell import InputError, data

STEPS, SERIES = 60, np.random.default_rng(0).normal(5, 1, (60, 3)).round(3)
SERIES[:, 0] = np.arange(STEPS) + 0.25


def read(folder: Path, kind: str, text: str, **options) -> data.Dataset:
    (folder / "table.txt").write_text(text)
    return data.load(f"{kind}:{folder / 'table.txt'}", **{"window": 5, "horizon": 3, **options})


def parts(dataset: data.Dataset) -> tuple[Tensor, Tensor]:
    """Return the raw inputs of all splits and their targets in their own units."""
    splits = (dataset.train, dataset.val, dataset.test)
    return torch.cat([s.x for s in splits]), torch.cat([dataset.in_units(s.y) for s in splits])


def lines(rows, delimiter: str = ",") -> str:
    return "\n".join(delimiter.join(map(str, row)) for row in rows) + "\n"


def near(found: Tensor, wanted: Tensor) -> bool:
    return found.shape == wanted.shape and bool(((found - wanted).abs() < 1e-4).all())


@pytest.mark.parametrize("delimiter", [",", ";", "\t", " "])
def test_tables_of_any_usual_delimiter(tmp_path, delimiter):
    rows = [("mass", "size", "price"), *((i, -0.5 * i, 100 + 2 * i) for i in range(50))]
    table = read(tmp_path, "csv", lines(rows, delimiter))
    assert (table.task, table.input_shape, table.num_outputs) == ("regression", (2,), 1)
    assert [len(s) for s in (table.train, table.val, table.test)] == [36, 4, 10]
    x, y = parts(table)
    i = torch.arange(50)
    assert near(x[x[:, 0].argsort()], torch.stack([i, -0.5 * i], 1))
    assert near(y[:, 0], 100 + 2 * x[:, 0])
    assert near(next(table.train.batches(50))[0].mean(0), torch.zeros(2))


def test_text_becomes_a_column_for_each_value(tmp_path):
    kinds = ["red", "blue", "green"]
    rows = [("i", "kind", "y"), *((i, kinds[i % 3], i) for i in range(60))]
    x, y = parts(read(tmp_path, "csv", lines(rows)))
    at = y[:, 0].round().long()
    assert torch.equal(x[:, 0].long(), at)
    column = torch.tensor([2, 0, 1])  # of red, blue and green among blue, green and red
    assert torch.equal(x[:, 1:], torch.eye(3, dtype=x.dtype)[column[at % 3]])


@pytest.mark.parametrize(
    ("target", "base", "others"),
    [("a", 0, (100, 200)), ("b", 100, (0, 200)), (None, 200, (0, 100))],
)
def test_the_target_is_found_by_its_name(tmp_path, target, base, others):
    rows = [("a", "b", "c"), *((i, 100 + i, 200 + i) for i in range(40))]
    x, y = parts(read(tmp_path, "csv", lines(rows), target=target))
    assert near(x, y - base + torch.tensor(others))


DATED = [(f"2020-{1 + i // 28:02d}-{1 + i % 28:02d}", *row) for i, row in enumerate(SERIES)]
FORMS = {
    "plain": lines(SERIES),
    "semicolons": lines(SERIES, ";"),
    "header": lines([("a", "b", "c"), *SERIES]),
    "dates": lines(DATED),
    "header and dates": lines([("date", "a", "b", "c"), *DATED]),
    "header of numbers": lines([("date", "0", "1", "OT"), *DATED]),
}


@pytest.mark.parametrize("form", list(FORMS))
@pytest.mark.parametrize(("window", "horizon"), [(5, 3), (1, 1), (24, 12)])
def test_targets_follow_their_windows(tmp_path, form, window, horizon):
    dataset = read(tmp_path, "series", FORMS[form], window=window, horizon=horizon)
    assert (dataset.input_shape, dataset.num_outputs) == ((3, window), 3)
    values = torch.from_numpy(SERIES)
    x, y = parts(dataset)
    assert len(x) == len(y) == STEPS - window - horizon + 1
    for i in range(len(x)):
        assert near(x[i], values[i : i + window].T)
        assert near(y[i], values[i + window + horizon - 1])


def test_series_are_split_by_time_whatever_the_seed(tmp_path):
    one, other = (read(tmp_path, "series", FORMS["plain"], seed=seed) for seed in (0, 1))
    assert [len(s) for s in (one.train, one.val, one.test)] == [32, 10, 11]
    times = [one.in_units(s.y)[:, 0] for s in (one.train, one.val, one.test)]
    assert times[0].max() < times[1].min() <= times[1].max() < times[2].min()
    assert torch.equal(one.train.x, other.train.x)
    assert near(one.train.y.mean(0), torch.zeros(3))
    assert near(one.train.y.std(0, correction=0), torch.ones(3))


@pytest.mark.parametrize(("form", "target"), [("header and dates", "b"), ("plain", "1")])
def test_one_column_is_predicted_from_all(tmp_path, form, target):
    dataset = read(tmp_path, "series", FORMS[form], target=target)
    assert (dataset.input_shape, dataset.num_outputs, dataset.train.y.ndim) == ((3, 5), 1, 1)
    assert near(parts(dataset)[1][:, 0], torch.from_numpy(SERIES[7:, 1]))


@pytest.mark.parametrize("header", ["", "value\n"])
def test_a_series_of_one_variable(tmp_path, header):
    x, y = parts(read(tmp_path, "series", header + lines(SERIES[:, 1:2])))
    assert x.shape == (53, 1, 5)
    assert near(y, torch.from_numpy(SERIES[7:, 1:2]))


PLAIN, HEADED, MANY = FORMS["plain"], FORMS["header"], lines((f"n{i}", i) for i in range(1100))


@pytest.mark.parametrize(
    ("kind", "text", "options", "message"),
    [
        ("csv", "a,b,y\n1,2,3\n4,,6\n", {}, "'b' has no value in row 2 of 2"),
        ("csv", "a,b,y\n1,2,3\n4,5,\n7,8,9\n", {}, "'y' has no value in row 2 of 3"),
        ("csv", "ant,y\n1,2\n", {"target": "at"}, r"target='at'.*no such column.*'ant'\?.*, y"),
        ("csv", "a,y\n1,low\n2,high\n", {"task": "regression"}, "'y' must hold numbers, .*'low'"),
        ("csv", "a,y\n1,2\ninf,3\n", {}, "infinite"),
        ("csv", "a,y\n", {}, "no rows"),
        ("csv", "", {}, "no table that can be read"),
        ("csv", "a,y\n1,2\n3,4,5\n", {}, "no table that can be read"),
        ("csv", "id,y\n" + MANY, {}, "1100 different values"),
        ("series", PLAIN, {"window": 50}, "60 rows: window=50 and horizon=3 leave 8 samples"),
        ("series", PLAIN, {"horizon": 90}, "window=5 and horizon=90 leave 0 samples"),
        ("series", HEADED, {"target": "d"}, "target='d'.*no such column.*a, b, c"),
        ("series", "a,b\nx,y\nz,w\n", {}, "no column of numbers"),
        ("series", PLAIN + "1,,2\n", {}, "column '1' has no value in row 61 of 61"),
        ("series", HEADED + "1,2,inf\n", {}, "infinite"),
        pytest.param("series", HEADED + "1,,2\n", {}, "'b' has no value in row 61"),
        *(
            pytest.param("series", PLAIN, {key: value}, f"{key}={value}")
            for key, value in product(("window", "horizon"), (0, -3))
        ),
    ],
)
def test_tables_that_can_not_be_used_are_refused(tmp_path, kind, text, options, message):
    with pytest.raises(InputError, match=message):
        read(tmp_path, kind, text, **options)
