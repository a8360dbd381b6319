"""Columns of text that are meant for something else are refused, not made an input a value."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch

from mixwell import InputError, data
from mixwell.data.tables import read_rows, read_series
from mixwell.data.texts import is_dates, refuse_values
from mixwell.errors import Note

ROWS = 60


def table(folder: Path, cells, target=("elm", "oak"), **options) -> data.Dataset:
    """Read a table with a number, a column of these cells, over and over, and the target."""
    lines = [f"{i / 4:.2f};{cells[i % len(cells)]};{target[i % len(target)]}" for i in range(ROWS)]
    (folder / "t.csv").write_text("\n".join(["size;own;kind", *lines]), encoding="utf-8")
    return data.load(f"csv:{folder / 't.csv'}", **options)


WRONG = {
    "dates or times": [
        ("2024-01-02", "2024-02-03"), ("2024/1/2", "2023/12/31"), ("31.12.2024", "1.2.2024"),
        ("12/31/24", "1/2/24"), ("2 Jan 2024", "31 December 2023"), ("Jan 2, 2024", "May 3, 2024"),
        ("2024-01-02 10:30", "2024-01-03T11:30:15Z"), ("10:30", "23:59:59"), ("2024-01", "2024-02"),
    ],
    "numbers with a percent sign": [("51.3%", "4 %"), ("51,3 %", "7%")],
    "numbers with a currency's sign": [("$5.00", "$1,200"), ("5 €", "7,50 €"), ("£3", "£4")],
    "numbers with commas or marks between thousands": [
        ("51,3", "0,95"), ("1,234", "12,345,678"), ("1.234,5", "12.000,25"), ("1'234", "12'345"),
        ("-3,5", "+4,5"), ("1 234", "56 789"), ("51", "50", "1,5", "2,5", "3,5"),
    ],
}  # fmt: skip
RIGHT = [
    ("red", "green"), ("A1", "B2"), ("1.2.3", "1.2.4"), ("10-20", "20-30"), ("<5", ">5"),
    ("a,b", "c"), ("192.168.0.1", "10.0.0.1"), ("May", "June"), ("12/24", "1/2"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "cells"), [(w, c) for w, many in WRONG.items() for c in many])
def test_numbers_and_dates_that_are_not_read_as_such_are_refused(tmp_path, what, cells):
    with pytest.raises(InputError, match=f"'own' holds {what} .*: (leave|write)"):
        table(tmp_path, cells)
    with pytest.raises(InputError, match=f"'kind' holds {what} .*--task classification"):
        table(tmp_path, (1, 2, 3), target=cells)
    found = table(tmp_path, (1, 2, 3), target=cells, task="classification")
    assert set(found.classes) == set(cells)
    frame = pd.DataFrame({"own": list(cells) * 5})
    assert is_dates(frame["own"]) == (what == "dates or times")


@pytest.mark.parametrize("cells", RIGHT)
def test_categories_stay_categories(tmp_path, cells):
    assert table(tmp_path, cells).input_shape == (1 + len(cells),)


def test_codes_that_are_kept_as_text_stay_text():
    refuse_values("here", pd.Series(["01", "02", "10"], name="code"))


@pytest.mark.parametrize("task", [None, "classification"])
def test_what_names_each_row_is_refused(tmp_path, task):
    with pytest.raises(InputError, match=r"'own' holds 60 different texts in 60 rows \('P0'\)"):
        table(tmp_path, [f"P{i}" for i in range(ROWS)], task=task)
    assert table(tmp_path, [f"P{i}" for i in range(20)], task=task).input_shape == (21,)


@pytest.mark.parametrize("lines", [
    [f"{i / 3:.2f},{-i},{'elm' if i % 2 else 'oak'}" for i in range(ROWS)],
    [f"{i / 3:.2f},{7 * i % 11}.5" for i in range(ROWS)],
    [f"{'ab'[i % 2]},{'cd'[i // 2 % 2]}" for i in range(ROWS)],
])  # fmt: skip
def test_a_table_without_a_header_loses_no_row_in_silence(tmp_path, lines):
    (tmp_path / "t.csv").write_text("\n".join(lines))
    with pytest.raises(InputError, match=r"has no header: its first line .* the columns' names"):
        data.load(f"csv:{tmp_path / 't.csv'}")


@pytest.mark.parametrize("names", ["0,1,2", "2020,2021,2022", "a,b,elm", "5.1,b,kind", "1,2,kind"])
def test_names_may_be_numbers(tmp_path, names):
    lines = [f"{i / 3:.2f},{7 * i % 11},{'elm' if i % 2 else 'oak'}" for i in range(ROWS)]
    (tmp_path / "t.csv").write_text("\n".join([names, *lines]))
    assert data.load(f"csv:{tmp_path / 't.csv'}").task == "classification"


def test_none_is_a_word(tmp_path):
    assert table(tmp_path, (1, 2), target=("None", "crack")).classes == ("None", "crack")
    with pytest.raises(InputError, match="'own' has no value in row 2"):
        table(tmp_path, (1, "NA"))


def test_a_series_loses_no_column_in_silence(tmp_path):
    def written(*cells):
        lines = [";".join([f"2024-01-{1 + i % 28:02d}", str(i / 4), *cells]) for i in range(40)]
        (tmp_path / "t.csv").write_text("\n".join(lines))
        return tmp_path / "t.csv"

    values, target, _ = read_series(written(), None)
    assert (values.shape, target) == ((40, 1), [0])
    with pytest.raises(InputError, match="numbers with commas"):
        read_series(written("51,3"), None)
    with pytest.warns(Note, match="text is left out, in the column '2'"):
        assert read_series(written("sunny"), None)[0].shape == (40, 1)
    with pytest.warns(Note, match="text is left out"):
        assert read_rows(written("sunny"), None, None).shape == (40, 1)


@pytest.mark.parametrize("start", [1.7e9, 2.0**40])
@pytest.mark.parametrize("kind", ["csv", "series"])
def test_large_numbers_keep_their_digits(tmp_path, start, kind):
    lines = [f"{start + i},{i % 7 / 4}" for i in range(ROWS)]
    (tmp_path / "t.csv").write_text("\n".join(["t,y", *lines]))
    found = data.load(f"{kind}:{tmp_path / 't.csv'}", window=2, horizon=1)
    for split in (found.train, found.val, found.test):
        x, _, _ = next(split.batches(len(split)))
        times = x[:, 0] if kind == "csv" else x[:, 0, 0]
        assert x.dtype == torch.float32
        assert len(times.unique()) == len(split)
    if kind == "csv":
        assert abs(float(next(found.train.batches(99))[0].mean())) < 1e-4
