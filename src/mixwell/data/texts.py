"""What columns of text hold: categories, or numbers and dates that are not written as such."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from mixwell.errors import InputError

__all__ = ["is_dates", "refuse_names_of_rows", "refuse_values"]

_DATES = "dates or times"
_MANY = 20  # different values, from which on a text may name each row

_NUMBER = r"[+-]?(\d+([.,]\d+)?|\d{1,3}([.,' \u00a0\u202f]\d{3})+([.,]\d+)?)"
_CURRENCY = r"[$\u20ac\u00a3\u00a5]"
_MONTH = r"(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
_TIME = r"\d{1,2}:\d{2}(:\d{2}([.,]\d+)?)?( ?[ap]m)?(z| ?[+-]\d{2}:?\d{2})?"
_DATE = (
    r"(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.](\d{4}|\d{2})|\d{4}-\d{2}|"
    rf"\d{{1,2}}[ -]{_MONTH}[ -]\d{{2,4}}|{_MONTH} \d{{1,2}},? \d{{4}})"
)


def _matches(pattern: str) -> Callable[[str], bool]:
    compiled = re.compile(pattern, re.IGNORECASE)
    return lambda text: compiled.fullmatch(text.strip()) is not None


_is_number = _matches(_NUMBER)
_is_plain = _matches(r"[+-]?\d+([.]\d+)?")
_KINDS: tuple[tuple[Callable[[str], bool], str, str], ...] = (
    (
        _matches(rf"{_DATE}([ t]{_TIME})?|{_TIME}"),
        _DATES,
        "leave it out, or make numbers of it (days since the first, the month, the hour)",
    ),
    (
        _matches(rf"{_NUMBER} ?%"),
        "numbers with a percent sign",
        "write them without it",
    ),
    (
        _matches(rf"{_CURRENCY} ?{_NUMBER}|{_NUMBER} ?{_CURRENCY}"),
        "numbers with a currency's sign",
        "write them without it",
    ),
    (
        _is_number,
        "numbers with commas or marks between thousands",
        "write them with a decimal point and without marks (1234.5)",
    ),
)


def _unparsed(column: Any) -> tuple[str, str, str] | None:
    """Return what most cells of a column of text hold that are not meant for categories.

    Returns:
        One of them, what they are, and what to do; None where they are categories.
    """
    values = column.astype(str)
    sample = values.drop_duplicates()
    for fits, what, remedy in _KINDS:
        found = sample[sample.map(fits)]
        telling = found[~found.map(_is_plain).astype(bool)]  # 01 may be a code
        if len(found) > len(sample) / 2 and len(telling):
            return str(telling.iloc[0]), what, remedy
    return None


def is_dates(column: Any) -> bool:
    """Whether most cells of a column of text are dates or times."""
    found = _unparsed(column)
    return found is not None and found[1] == _DATES


def refuse_values(where: str, column: Any, hint: str = "") -> None:
    """Raise an InputError where a column of text holds dates, or numbers that aren't read as such.

    Args:
        where: it lies.
        column: of pandas.
        hint: what else would do.
    """
    found = _unparsed(column)
    if found is not None:
        example, what, remedy = found
        raise InputError(
            f"{where}: column {str(column.name)!r} holds {what} ({example!r}): {remedy}{hint}"
        )


def refuse_names_of_rows(where: str, column: Any) -> None:
    """Raise an InputError where a column of text has nearly as many values as rows."""
    kinds = int(column.nunique())
    if kinds > max(_MANY, len(column) / 2):
        raise InputError(
            f"{where}: column {str(column.name)!r} holds {kinds} different texts in {len(column)} "
            f"rows ({str(column.iloc[0])!r}), which name the rows and tell nothing of others: "
            "leave it out"
        )
