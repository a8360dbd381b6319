"""What a command is: its words, its options, and what it does."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from mixwell.errors import InputError

__all__ = ["Command", "Parser", "command_line", "listed_seeds", "settings", "slug"]


@dataclass(frozen=True)
class Command:
    """A command.

    Attributes:
        name: of it.
        help: a few words for the list of commands.
        about: what it does.
        add: adds its arguments to its parser; ``asked`` says whether it is the one that runs:
            what takes long to look up is added then alone.
        run: does it, and returns the exit status.
        examples: at the end of its help.
        more: returns what stands after ``about`` where its help is asked for.
    """

    name: str
    help: str
    about: str
    add: Callable[[argparse.ArgumentParser, bool], None]
    run: Callable[[argparse.Namespace], int]
    examples: str = ""
    more: Callable[[], str] = lambda: ""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one message, and don't repeat the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def settings(argument: str, pairs: Sequence[str]) -> dict[str, Any]:
    """Return what key=value pairs say; ``argument`` is named in errors."""
    from mixwell.studies.study import value_of

    found = {}
    for pair in pairs:
        key, separator, text = pair.partition("=")
        if not separator or not key:
            raise InputError(f"{argument} takes key=value (alpha=0.2), got {pair!r}")
        found[key] = value_of(text)
    return found


def listed_seeds(text: str) -> list[int]:
    """Return the seeds that "3" (0, 1 and 2), "0,5,7" or "5," stand for."""
    parts = text.removesuffix(",").split(",")
    if not all(part.strip().isdigit() for part in parts):
        raise InputError(f"seeds must be a count (3) or a list (0,5,7 or 5,), got {text!r}")
    numbers = [int(part) for part in parts]
    if len(numbers) == 1 and "," not in text:
        if numbers[0] < 1:
            raise InputError(f"seeds must be 1 at least, got {text!r}")
        return list(range(numbers[0]))
    return numbers


def command_line() -> str:
    """Return the command line, to be kept in results."""
    return shlex.join(["mixwell", *sys.argv[1:]])


def slug(text: str) -> str:
    """Return a text as a folder can be called."""
    return "".join(c if c.isalnum() or c in "-_+.=" else "-" for c in text).strip("-")
