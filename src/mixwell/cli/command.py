"""What a command is: its words, its options, and what it does."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from mixwell.errors import InputError, suggest

__all__ = ["Command", "Parser", "command_line", "listed_seeds", "settings"]


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
    """A parser whose errors are one message, which don't repeat the usage and name what is near.

    Options are written in full: an abbreviation would be another option one day.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **options})

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse; an unknown option goes before a missing one, which it may be meant for."""
        words = sys.argv[1:] if args is None else list(args)
        self._check_options(words)
        return super().parse_known_args(words, namespace)

    def _check_options(self, words: Sequence[str]) -> None:
        known = self._option_string_actions
        has_commands = self._subparsers is not None
        for word in words:
            if word == "--" or (has_commands and not word.startswith("-")):
                return  # values alone, or the options of a command
            option = word.partition("=")[0]
            if word.startswith("--") and " " not in option and option not in known:
                self.error(f"unrecognized arguments: {option}{suggest(option, known)}")

    def error(self, message: str) -> NoReturn:
        found = re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message)
        if found:
            message += suggest(found[1], [word.strip(" '") for word in found[2].split(",")])
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def settings(argument: str, pairs: Sequence[str]) -> dict[str, Any]:
    """Return what key=value pairs say; ``argument`` is named in errors."""
    from mixwell.studies.study import value_of

    found = {}
    for pair in pairs:
        key, separator, text = pair.partition("=")
        if not separator or not key:
            raise InputError(f"{argument} takes key=value (alpha=0.2), got {pair!r}")
        if key in found:
            raise InputError(f"{argument} gives {key} twice ({key}={text}); keep one of them")
        found[key] = value_of(text)
    return found


def listed_seeds(text: str) -> list[int]:
    """Return the seeds that "3" (0, 1 and 2), "0,5,7" or "5," stand for."""
    from mixwell.checks import check_whole, shown
    from mixwell.studies.study import MOST_SEEDS

    parts = text.removesuffix(",").split(",")
    # Digits as Python reads them, and no number that it would not.
    if not all(part.strip().isdecimal() and len(part.strip()) <= 10 for part in parts):
        raise InputError(f"seeds must be a count (3) or a list (0,5,7 or 5,), got {shown(text)}")
    numbers = [int(part) for part in parts]
    if len(numbers) == 1 and "," not in text:
        return list(range(check_whole("seeds", numbers[0], 1, MOST_SEEDS)))
    return numbers


def command_line() -> str:
    """Return the command line, to be kept in results."""
    return shlex.join(["mixwell", *sys.argv[1:]])
