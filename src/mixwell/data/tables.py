"""Tables and series: files of columns, read and made into a network's inputs and targets."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mixwell.data.texts import is_dates, refuse_names_of_rows, refuse_values
from mixwell.errors import InputError, say, suggest

__all__ = [
    "Column",
    "Table",
    "check_classes",
    "column_called",
    "read_csv",
    "read_parquet",
    "read_rows",
    "read_series",
    "table_of",
    "target_of",
]

_NO_VALUE = (
    "", "#N/A", "#N/A N/A", "#NA", "-NaN", "-nan", "<NA>", "N/A", "NA", "NULL", "NaN", "n/a", "nan",
    "null",
)  # fmt: skip
"""Cells that stand for no value: pandas' own but for None, which is a word."""
PARQUET = (".parquet", ".parq", ".pq")
_TASK_HINT = "task='classification' (--task classification) takes its values for classes"


@dataclass(frozen=True)
class Column:
    """A column of a table that a network sees.

    Attributes:
        name: of it.
        values: what a column of text may hold, each an input of its own; empty for numbers.
    """

    name: str
    values: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Table:
    """A table as a network takes it.

    Attributes:
        x: (N, F) float64: the columns of numbers, then one of 0 and 1 for each value of a text.
        y: (N,) classes int64, or numbers float64.
        columns: what ``x`` is made of, in its order.
        target: the column that ``y`` is.
        classes: their names; empty in regression.
    """

    x: Tensor
    y: Tensor
    columns: tuple[Column, ...]
    target: str
    classes: tuple[str, ...] = ()


# ----------------------------------------------------------------------------------------- files


def read_csv(path: Path, target: str | None = None, task: str | None = None) -> Table:
    """Return a text table. What a column holds is told by its cells.

    Args:
        path: with a header line; the delimiter is found out.
        target: the column that is predicted; the last without one.
        task: see :func:`table_of`.

    Raises:
        InputError: it can't be read, or its columns can't be used.
    """
    return table_of(_read_text(path, header=True), str(path), target, task, is_text=True)


def read_parquet(path: Path, target: str | None = None, task: str | None = None) -> Table:
    """Return a Parquet table, whose columns are what their types say.

    Args:
        path: a file, or a folder of them.
        target: the column that is predicted; the last without one.
        task: see :func:`table_of`.

    Raises:
        InputError: it can't be read, or its columns can't be used; pyarrow is missing.
    """
    return table_of(_read_parquet(path), str(path), target, task)


def read_rows(path: Path, columns: Sequence[str] | None, header: bool | None) -> Any:
    """Return a table's columns, to predict from: those named, or all that hold numbers.

    Args:
        path: a text table, or a Parquet file by its ending.
        columns: their names.
        header: whether a text's first line names the columns; None finds that out.

    Raises:
        InputError: it can't be read, lacks a column, or a value is missing.
    """
    if path.suffix.lower() in PARQUET:
        table = _read_parquet(path, columns)
    else:
        table = _read_text(path, header, columns)
    if columns is not None:
        return table
    return _numeric(str(path), table)


def read_series(path: Path, target: str | None) -> tuple[Tensor, list[int], list[str]]:
    """Return a multivariate time series (T, V) float64, which columns are predicted, and all names.

    Args:
        path: a row for each time, with or without a header; dates are left out, and so are other
            texts, which is said.
        target: one column, by its name or number from 0; all without one.
    """
    table = _numeric(str(path), _read_text(path, header=None))
    if not table.shape[1]:
        raise InputError(f"{path} has no column of numbers")
    values, names = _finite(str(path), table), list(map(str, table.columns))
    if target is None:
        return values, list(range(len(names))), names
    return values, [names.index(str(column_called(str(path), names, target)))], names


def _numeric(where: str, table: Any) -> Any:
    """Return the columns of numbers: dates are left out, other texts, too, but not in silence."""
    import pandas as pd

    found, left = {}, []
    for name in table.columns:
        values = _numbers(where, table[name])
        if values is not None:
            found[name] = values
        elif not is_dates(table[name]):
            refuse_values(where, table[name])
            left.append(repr(str(name)))
    if left and found:
        say(f"{where}: text is left out, in the column {', '.join(left[:5])}")
    return pd.DataFrame(found)


def _read_text(path: Path, header: bool | None, only: Sequence[str] | None = None) -> Any:
    """Return a text table, all its cells as text, or an InputError that says what is wrong.

    Args:
        path: the file; the delimiter is found out.
        header: whether its first line names the columns; None finds that out, too.
        only: the columns that are read; the others may lack values.
    """
    import pandas as pd

    try:
        with path.open(encoding="utf-8-sig") as file:
            start = [line for line in itertools.islice(file, 20) if line.strip()]
        found = _delimiter(start)
        table = pd.read_csv(
            path, sep=found or ",", header=None, dtype=str, skipinitialspace=True,
            index_col=False, encoding="utf-8-sig", engine="python", keep_default_na=False,
            na_values=_NO_VALUE,
        )  # fmt: skip
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file") from None
    except (OSError, ValueError, csv.Error) as error:  # pandas' parser errors are ValueErrors
        raise InputError(f"{path} is no table that can be read: {error}") from error
    if header is None:
        # Names stand above numbers; where there are none, the first line is data.
        first, later = (pd.to_numeric(table.iloc[row], errors="coerce") for row in (0, -1))
        header = len(table) > 1 and bool((first.isna() & later.notna()).any())
    if header:
        _refuse_data_as_names(path, table)
        names = [str(name) if isinstance(name, str) else "" for name in table.iloc[0]]
        table = table.iloc[1:].reset_index(drop=True)
        table.columns = pd.Index(names)
        if names[0] == "" and list(table.iloc[:, 0]) == [str(row) for row in range(len(table))]:
            table = table.iloc[:, 1:]  # a running number that some programs write
    return _whole(str(path), table, only)


def _delimiter(lines: Sequence[str]) -> str | None:
    """Return what separates the cells of a table's first lines; None where there is one column."""
    # A sniffer would find delimiters in the numbers of a single column.
    if not any(mark in line for line in lines for mark in ",;\t| "):
        return None
    for mark in ";\t|":  # in each line as often: a comma beside it is a decimal one
        if lines[0].count(mark) and len({line.count(mark) for line in lines}) == 1:
            return mark
    return csv.Sniffer().sniff("".join(lines), ",;\t| ").delimiter


def _refuse_data_as_names(path: Path, table: Any) -> None:
    """Raise an InputError where the first line of a table looks as the others do: like data.

    Each number in it then stands above numbers, and each text above texts that it is one of.
    Whole numbers that follow each other (0, 1, 2; 2020, 2021) are names.
    """
    import pandas as pd

    if len(table) < 2:
        return
    first, others = table.iloc[0], table.iloc[1:]
    numbers = pd.to_numeric(first, errors="coerce")
    there = numbers.dropna()
    if len(there) > 1 and (there == there.round()).all() and (there.diff().dropna() == 1).all():
        return
    for place, name in enumerate(first):
        below = others.iloc[:, place]
        of_numbers = pd.to_numeric(below, errors="coerce").notna().mean() > 0.5
        if of_numbers != bool(numbers.notna().iloc[place]):
            return
        if not of_numbers and not below.eq(name).any():
            return
    raise InputError(
        f"{path} has no header: its first line ({', '.join(map(str, first.iloc[:4]))}"
        f"{', …' if len(first) > 4 else ''}) looks as the others do; write the columns' names above"
    )


def _read_parquet(path: Path, only: Sequence[str] | None = None) -> Any:
    """Return a Parquet table, or an InputError that says what is wrong; ``only`` as of texts."""
    import pandas as pd

    if not path.exists():
        raise InputError(f"{path}: there is no such file")
    try:
        table = pd.read_parquet(path)
    except ImportError as error:
        raise InputError(
            f"{path}: Parquet is read by pyarrow, which is not installed: pip install "
            "'mixwell[parquet]'"
        ) from error
    except Exception as error:  # pyarrow's own kinds, by what the file holds
        raise InputError(f"{path} is no Parquet table that can be read: {error}") from error
    table.columns = pd.Index(list(map(str, table.columns)))
    return _whole(str(path), table.reset_index(drop=True), only)


def _whole(where: str, table: Any, only: Sequence[str] | None) -> Any:
    """Return the columns that are asked for, if they are there and without gaps."""
    names = list(map(str, table.columns))
    if only is not None:
        lacking = [name for name in only if name not in names]
        if lacking:
            raise InputError(
                f"{where} lacks the column {lacking[0]!r}{suggest(lacking[0], names)}; it must "
                f"have {', '.join(only)}"
            )
        table = table[list(only)]
    names = list(map(str, table.columns))
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{where} has {names.count(twice)} columns called {twice!r}: rename one")
    if not len(table):
        raise InputError(f"{where} holds no rows")
    check_gaps(where, table)
    return table


def check_gaps(where: str, table: Any) -> None:
    """Raise an InputError that names the first cell without a value."""
    missing = table.isna().to_numpy()
    if missing.any():
        row, column = (int(place[0]) for place in missing.nonzero())
        raise InputError(
            f"{where}: column {str(table.columns[column])!r} has no value in row {row + 1} of "
            f"{len(table)}: fill it in or leave the row out"
        )


# --------------------------------------------------------------------------------- inputs, target


def table_of(
    frame: Any, where: str, target: str | None, task: str | None, is_text: bool = False
) -> Table:
    """Return a pandas frame as a network takes it.

    Columns of text, truth values and categories become one input for each of their values.

    Args:
        frame: without gaps.
        where: it lies, for errors.
        target: the column that is predicted; the last without one.
        task: "classification" takes numbers for classes, too; "regression" takes nothing else;
            without one, text is classes and numbers are a regression.
        is_text: all cells are text: which are numbers is told by what they hold.

    Raises:
        InputError: there is no such column, or one holds what no network takes.
    """
    column = frame.columns[-1] if target is None else column_called(where, frame.columns, target)
    y, classes = target_of(where, frame[column], task, is_text)
    inputs = frame.drop(columns=column)
    if not inputs.shape[1]:
        raise InputError(f"{where} has no column beside the target {str(column)!r}")
    x, columns = _inputs(where, inputs, is_text)
    return Table(x, y, columns, str(column), classes)


def target_of(
    where: str, column: Any, task: str | None, is_text: bool = False
) -> tuple[Tensor, tuple[str, ...]]:
    """Return a target (N,): numbers float64, or classes int64 and their names, sorted.

    The arguments and errors are those of :func:`table_of`.
    """
    import pandas as pd

    name = str(column.name)
    if is_text:
        numbers = pd.to_numeric(column, errors="coerce")
        if numbers.notna().all():
            column = numbers
        elif task != "classification" and numbers.notna().mean() > 0.5:
            _numbers(where, column, f"; {_TASK_HINT}")  # says which is none
    values = _typed(where, column)
    is_number = pd.api.types.is_numeric_dtype(values)
    if task != "classification" and not is_number:
        refuse_values(where, values, f"; {_TASK_HINT}")
    if task != "classification" and is_number:
        y = _finite(where, values)
        kinds = y.unique()
        if len(y) > 1 and len(kinds) == 1:
            raise InputError(
                f"{where}: the target {name!r} is {y[0]:g} in every row: there is nothing to "
                "predict; name another with target (--target COLUMN)"
            )
        few = len(kinds) <= min(20, len(y) // 3)
        if task is None and few and torch.equal(kinds, kinds.round()):
            say(
                f"{where}: the target {name!r}, {len(kinds)} different whole numbers, is taken for "
                f"a regression; {_TASK_HINT}"
            )
        return y, ()
    if task == "regression":
        raise InputError(
            f"{where}: the target {name!r} must hold numbers, it holds {values.iloc[0]!r}; name "
            "another with target (--target COLUMN), or leave out task: text is taken for classes"
        )
    if is_number:
        _finite(where, values)
    known = sorted(values.unique())
    y = torch.from_numpy(pd.Index(known).get_indexer(values)).long()
    return y, tuple(_class_name(value) for value in known)


def _class_name(value: Any) -> str:
    """Return a class as text; of 2.0, which is a whole number, as "2"."""
    return value if isinstance(value, str) else str(int(value) if value == int(value) else value)


def check_classes(
    where: str, target: str, y: Tensor, classes: Sequence[str], least: int = 3
) -> None:
    """Raise an InputError where samples of classes can't be split, before they are.

    Args:
        where: they lie.
        target: the column that they are told by.
        y: (N,) of what is trained on, and of what is taken out of it to validate and to test.
        classes: their names.
        least: samples that each class needs.
    """
    other = "name another column with target (--target COLUMN)"
    if len(classes) < 2:
        raise InputError(
            f"{where}: the target {target!r} is {classes[0]!r} in every row: there is nothing to "
            f"tell apart; {other}"
        )
    counts = torch.bincount(y, minlength=len(classes))
    few = (counts < least).nonzero()[:, 0].tolist()
    if not few:
        return
    there = int((counts > 0).sum())
    if there > len(y) / 2:
        raise InputError(
            f"{where}: the target {target!r} holds {there} different values in {len(y)} "
            f"rows, which are no classes; {other}"
        )
    shown = ", ".join(f"{classes[i]!r} ({int(counts[i])})" for i in few[:5])
    raise InputError(
        f"{where}: the target {target!r} has too few rows of {shown}{', …' if few[5:] else ''}: "
        f"a class needs {least} here, for training and for what is held out; leave them out or "
        f"join them to others, or {other}"
    )


def column_called(where: str, columns: Iterable[Any], target: str) -> Any:
    """Return which of the columns is called ``target``, or numbered so where they have no names."""
    names = {str(column): column for column in columns}
    if target not in names:
        raise InputError(
            f"target={target!r}: {where} has no such column{suggest(target, names)}; "
            f"it has {', '.join(names)}"
        )
    return names[target]


def _inputs(where: str, table: Any, is_text: bool) -> tuple[Tensor, tuple[Column, ...]]:
    """Return inputs (N, F) and what they are made of: numbers first, then values of texts."""
    import numpy as np
    import pandas as pd

    numbers: dict[str, Any] = {}
    texts: dict[str, Any] = {}
    for name in table.columns:
        column = table[name]
        # Of text cells, most of which are numbers, the others are mistakes.
        if is_text and pd.to_numeric(column, errors="coerce").notna().mean() > 0.5:
            column = _numbers(where, column)
        values = _typed(where, column)
        is_number = pd.api.types.is_numeric_dtype(values)
        if not is_number:
            refuse_values(where, values)
            refuse_names_of_rows(where, values)
        (numbers if is_number else texts)[str(name)] = values
    known = {name: tuple(sorted(values.unique())) for name, values in texts.items()}
    width = len(numbers) + sum(map(len, known.values()))
    if width > 10 * table.shape[1] + 1000:
        raise InputError(
            f"{where}: columns of text have {width} different values; leave out those that "
            "name each row"
        )
    x = np.zeros((len(table), width))
    for place, values in enumerate(numbers.values()):
        x[:, place] = values.to_numpy(dtype=np.float64)
    start = len(numbers)
    for name, values in texts.items():
        x[np.arange(len(x)), start + pd.Index(known[name]).get_indexer(values)] = 1
        start += len(known[name])
    columns = [*(Column(name) for name in numbers), *(Column(n, v) for n, v in known.items())]
    return _finite(where, x), tuple(columns)


def _typed(where: str, column: Any) -> Any:
    """Return a column as numbers, or as text without blanks around it.

    Raises:
        InputError: it holds what is neither: dates, lists, bytes.
    """
    import pandas as pd

    kinds, name = pd.api.types, str(column.name)
    if kinds.is_bool_dtype(column):
        return column.astype(str)
    if kinds.is_numeric_dtype(column) and not kinds.is_complex_dtype(column):
        return column
    if isinstance(column.dtype, pd.CategoricalDtype):
        return _typed(where, column.astype(column.cat.categories.dtype)).astype(str)
    if kinds.is_object_dtype(column) or kinds.is_string_dtype(column):
        held = pd.api.types.infer_dtype(column, skipna=False)
        if held == "boolean":
            return column.astype(str)
        if held in ("decimal", "integer", "floating", "mixed-integer-float"):
            return column.astype(float)
        if held == "string":
            text = column.astype(str).str.strip()
            empty = (text == "").to_numpy()
            if empty.any():
                raise InputError(
                    f"{where}: column {name!r} has no value in row {int(empty.argmax()) + 1} of "
                    f"{len(text)}: fill it in or leave the row out"
                )
            return text
        kind = type(column.iloc[0]).__name__
        mixed = held.startswith("mixed") and column.map(type).nunique() > 1
        what = "dates" if "date" in held else "values of several types" if mixed else kind
    else:
        what = "dates" if "date" in str(column.dtype) else str(column.dtype)
    raise InputError(
        f"{where}: column {name!r} holds neither numbers nor text but {what}: make it one of them, "
        "or leave it out"
    )


def _numbers(where: str, column: Any, hint: str = "") -> Any:
    """Return a column as numbers; None where it holds text throughout, as dates do."""
    import pandas as pd

    values = pd.to_numeric(column, errors="coerce")
    if not values.notna().any():
        return None
    if values.isna().any():
        row = int(values.isna().to_numpy().argmax())
        raise InputError(
            f"{where}: column {str(column.name)!r} holds numbers, but {column.iloc[row]!r} in row "
            f"{row + 1} of {len(column)}{hint}"
        )
    return values


def _finite(where: str, values: Any) -> Tensor:
    import numpy as np

    array = np.array(values, dtype=np.float64, copy=True)
    if not np.isfinite(array).all():
        raise InputError(f"{where} holds infinite numbers")
    return torch.from_numpy(array)
