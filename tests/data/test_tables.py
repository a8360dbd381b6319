from __future__ import annotations

from datetime import date
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from mixwell import InputError, data
from mixwell.data.tables import table_of
from mixwell.errors import Note

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


def test_the_largest_value_of_a_target_is_that_of_all_splits_in_its_unit(tmp_path):
    assert near(
        read(tmp_path, "series", FORMS["plain"]).target_largest,
        torch.from_numpy(SERIES[7:]).abs().amax(0),
    )
    one = read(tmp_path, "series", FORMS["header and dates"], target="b")
    assert near(one.target_largest, torch.from_numpy(SERIES[7:, 1:2]).abs().amax(0))
    rows = [("a", "b"), *((i, i - 30) for i in range(40))]
    assert read(tmp_path, "csv", lines(rows)).target_largest.tolist() == [30]


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
        ("csv", "id,y\n" + MANY, {}, "1100 different texts"),
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


# ------------------------------------------------------------------------------------- classes

KINDS = ("oak", "ash", "elm")


def trees(count: int = 60) -> pd.DataFrame:
    """A table whose ``height`` tells the kind, with a number, a text and a truth value each."""
    kind = np.arange(count) % 3
    return pd.DataFrame(
        {
            "height": 10.0 * kind + np.arange(count) / count,
            "soil": np.where(kind == 0, "clay", "sand"),
            "old": kind == 2,
            "code": 4 * kind + 3,
            "kind": np.array(KINDS, dtype=object)[kind],
        }
    )


def written(folder: Path, kind: str, frame: pd.DataFrame) -> str:
    """Write a table; return the name of the data."""
    if kind == "parquet":
        pytest.importorskip("pyarrow")
        frame.to_parquet(folder / "t.parquet", index=False)
        return f"parquet:{folder / 't.parquet'}"
    frame.to_csv(folder / "t.csv", index=False)
    return f"csv:{folder / 't.csv'}"


both = pytest.mark.parametrize("kind", ["csv", "parquet"])


@both
def test_text_in_the_target_is_classes_in_their_order(tmp_path, kind):
    dataset = data.load(written(tmp_path, kind, trees()))
    assert (dataset.task, dataset.classes) == ("classification", ("ash", "elm", "oak"))
    assert [(c.name, c.values) for c in dataset.columns] == [
        ("height", ()), ("code", ()), ("soil", ("clay", "sand")), ("old", ("False", "True")),
    ]  # fmt: skip
    for split in (dataset.train, dataset.val, dataset.test):
        number = (split.x[:, 0] / 10).long()  # of oak, ash and elm
        assert torch.equal(split.y, torch.tensor([2, 0, 1])[number])
        assert torch.equal(split.x[:, 1].long(), 4 * number + 3)
        assert torch.equal(split.x[:, 2] == 1, number == 0)
        assert torch.equal(split.x[:, 5] == 1, number == 2)
    assert torch.bincount(dataset.test.y).tolist() == [4, 4, 4]
    assert torch.bincount(dataset.val.y, minlength=3).min() >= 1


@both
def test_numbers_are_classes_where_they_are_asked_to_be(tmp_path, kind):
    name = written(tmp_path, kind, trees())
    with pytest.warns(Note, match="'code', 3 different whole numbers.*--task classification"):
        assert data.load(name, target="code").task == "regression"
    asked = data.load(name, target="code", task="classification")
    # By their size, not as words are sorted: 11 comes after 7.
    assert asked.classes == ("3", "7", "11")
    assert torch.equal(asked.train.y, (asked.train.x[:, 0] / 10).long())
    assert data.load(name, target="height", task="regression").task == "regression"


@both
@pytest.mark.parametrize("target", ["soil", "old"])
def test_a_target_of_two_values(tmp_path, kind, target):
    wanted = {"soil": ("clay", "sand"), "old": ("False", "True")}[target]
    assert data.load(written(tmp_path, kind, trees()), target=target).classes == wanted


def test_types_of_columns_say_what_they_are(tmp_path):
    frame = trees().assign(zip=["01", "10", "11"] * 20, size=pd.Categorical(["s", "m", "l"] * 20))
    frame["price"] = pd.array([1, 2, 3] * 20, dtype="Int32")
    dataset = data.load(written(tmp_path, "parquet", frame), target="kind")
    columns = {column.name: column.values for column in dataset.columns}
    assert columns["zip"] == ("01", "10", "11")
    assert columns["size"] == ("l", "m", "s")
    assert columns["price"] == ()
    codes = data.load(f"parquet:{tmp_path / 't.parquet'}", target="zip")
    assert codes.classes == ("01", "10", "11")


def test_both_kinds_of_file_make_the_same_data_set(tmp_path):
    one, other = (data.load(written(tmp_path, kind, trees())) for kind in ("csv", "parquet"))
    for split in ("train", "val", "test"):
        assert torch.equal(getattr(one, split).x, getattr(other, split).x)
        assert torch.equal(getattr(one, split).y, getattr(other, split).y)


@both
def test_tables_of_classes_are_made_scarce(tmp_path, kind):
    name = written(tmp_path, kind, trees(300))
    tail = data.load(name, imbalance=10)
    counts = tail.class_counts.tolist()
    assert counts == data.long_tail_counts(3, 72, 10)
    assert data.load(name, shots=4).class_counts.tolist() == [4, 4, 4]
    few = data.load(name, labels=9)
    assert few.class_counts.tolist() == [3, 3, 3]
    assert len(few.unlabelled) + 9 == 216
    with pytest.raises(InputError, match=r"shots: .* is a regression.*task='classification'"):
        data.load(name, target="code", shots=4)


def test_a_value_that_training_never_saw_stays_of_the_size_of_others(tmp_path):
    frame = trees(100)
    measured = data.load(written(tmp_path, "csv", frame)).test.x[:, 0]
    frame.loc[np.isclose(frame["height"], float(measured[0])), "soil"] = "peat"
    dataset = data.load(written(tmp_path, "csv", frame))
    assert not dataset.train.x[:, 3].any()
    assert dataset.test.x[:, 3].sum() == 1
    for split in (dataset.train, dataset.val, dataset.test):
        assert next(split.batches(len(split)))[0].abs().max() < 20


@pytest.mark.parametrize("constant", [0.1, 1e6 / 3, -7.0])
def test_a_constant_column_says_nothing(tmp_path, constant):
    dataset = data.load(written(tmp_path, "csv", trees().assign(height=constant)), target="kind")
    assert near(next(dataset.train.batches(99))[0][:, 0], torch.zeros(len(dataset.train)))


class Odd:
    """Frames that no network takes, with what is said of them."""

    few = trees().assign(kind=["yew", *["oak", "ash"] * 29, "oak"])
    two = trees().assign(kind=["yew", "yew", *["oak", "ash"] * 29])
    each = trees().assign(kind=[f"tree {i}" for i in range(60)])
    same = trees().assign(kind="oak")
    gap = trees().assign(kind=[None, *["oak", "ash"] * 29, "oak"])
    number = trees().assign(kind=1.5)
    real = trees().assign(kind=np.arange(60) / 7)
    mixed = trees().assign(kind=["1", "2", "other"] * 20)


@both
@pytest.mark.parametrize(
    ("frame", "task", "message"),
    [
        (Odd.few, None, r"'kind' has too few rows of 'yew' \(1\): a class needs 3"),
        (Odd.two, None, r"'kind' has too few rows of 'yew' \(2\)"),
        (Odd.each, None, "'kind' holds 60 different values in 60 rows.*--target"),
        (Odd.same, None, "'kind' is 'oak' in every row: there is nothing to tell apart"),
        (Odd.gap, None, "column 'kind' has no value in row 1 of 60"),
        (Odd.number, None, "'kind' is 1.5 in every row: there is nothing to predict"),
        (Odd.number, "classification", "'kind' is '1.5' in every row"),
        (Odd.real, "classification", "'kind' holds 60 different values in 60 rows"),
        (trees(), "regression", "'kind' must hold numbers, it holds 'oak'"),
        (trees()[["kind"]], None, "no column beside the target 'kind'"),
    ],
)
def test_targets_that_can_not_be_told_apart_are_refused(tmp_path, kind, frame, task, message):
    with pytest.raises(InputError, match=message):
        data.load(written(tmp_path, kind, frame), task=task)


def test_a_stray_word_among_numbers_is_a_mistake_or_a_class(tmp_path):
    name = written(tmp_path, "csv", Odd.mixed)
    with pytest.raises(InputError, match=r"'kind' holds numbers, but 'other' in row 3.*--task"):
        data.load(name)
    assert data.load(name, task="classification").classes == ("1", "2", "other")


@pytest.mark.parametrize(
    ("values", "what"),
    [
        (pd.date_range("2020-01-01", periods=60), "dates"),
        ([date(2020, 1, 1 + i % 9) for i in range(60)], "dates"),
        (pd.to_timedelta(range(60), unit="D"), "timedelta"),
        ([[1, 2]] * 60, "(ndarray|list)"),
        ([{"a": 1}] * 60, "dict"),
        ([b"bytes"] * 60, "bytes"),
        ([1, "two"] * 30, "values of several types"),
    ],
)
@pytest.mark.parametrize("column", ["height", "kind"])
def test_columns_of_other_types_are_refused_by_name(tmp_path, values, what, column):
    frame = trees().assign(**{column: values})
    with pytest.raises(InputError, match=f"column '{column}' holds neither .* but {what}"):
        table_of(frame, "a frame", "kind", None)
    if what != "values of several types":  # which no Parquet file holds
        with pytest.raises(InputError, match=f"column '{column}' holds neither .* but {what}"):
            data.load(written(tmp_path, "parquet", frame))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("parquet:nowhere.parquet", {}, "there is no such file"),
        ("digits", {"task": "regression"}, "task='regression': what data='digits' is for is known"),
        ("csv:t.csv", {"task": "ranking"}, "task='ranking' is unknown; known: 'classification'"),
        ("parquet", {}, "parquet:PATH"),
    ],
)
def test_what_names_no_table_is_refused(name, options, message):
    with pytest.raises(InputError, match=message):
        data.load(name, **options)


def test_files_that_are_no_parquet_are_refused(tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "t.parquet").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="is no Parquet table"):
        data.load(f"parquet:{tmp_path / 't.parquet'}")


def test_without_pyarrow_it_is_named(tmp_path, monkeypatch):
    def missing(*args, **kwargs):
        raise ImportError("Unable to find a usable engine")

    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    monkeypatch.setattr(pd, "read_parquet", missing)
    with pytest.raises(InputError, match=r"pip install 'mixwell\[parquet\]'"):
        data.load(f"parquet:{tmp_path / 't.parquet'}")


def test_columns_of_one_name_are_refused(tmp_path):
    with pytest.raises(InputError, match="2 columns called 'a'"):
        read(tmp_path, "csv", "a,a,y\n1,2,3\n4,5,6\n")
