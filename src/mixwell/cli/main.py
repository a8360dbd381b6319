"""The command line: thin over the library, with one clear message where something can't work."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from mixwell.cli import (
    bench,
    compare,
    describe,
    export,
    methods,
    predict,
    preview,
    recommend,
    report,
    study,
    train,
    tune,
)
from mixwell.cli.command import Parser
from mixwell.cli.importing import add_import, imported, taken_out
from mixwell.errors import InputError

__all__ = ["COMMANDS", "main"]

_ABOUT = "Mixup for PyTorch: every method, one interface, any composition."

_MODULES = (
    train, compare, recommend, study, tune, predict, export, preview, methods, describe, report,
    bench,
)  # fmt: skip
COMMANDS = {module.COMMAND.name: module.COMMAND for module in _MODULES}


def _parser(arguments: Sequence[str]) -> Parser:
    """Return the parser; of the command that is asked for, with all its options.

    They are read off the configuration, which needs torch: ``mixwell --help`` doesn't wait for it.
    """
    parser = Parser(prog="mixwell", description=_ABOUT)
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    name = next((word for word in arguments if not word.startswith("-")), None)
    for command in COMMANDS.values():
        asked = command.name == name
        own = commands.add_parser(
            command.name,
            help=command.help,
            description=command.about + (command.more() if asked else ""),
            epilog=command.examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        add_import(own)
        command.add(own, asked)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status.

    0: all went well. 1: a run failed. 2: the command line, the data or a folder can't work.
    130: interrupted.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    try:
        # Before anything else is parsed: options and their help tell of what is registered.
        names, arguments = taken_out(arguments)
        records = imported(names) if any(word in COMMANDS for word in arguments) else ()
        parser = _parser(arguments)
    except InputError as error:
        print(f"mixwell: error: {error}", file=sys.stderr)
        return 2
    except ImportError as error:
        return _missing("", error)
    return _run(parser, parser.parse_args(arguments), records)


def _run(parser: Parser, options: argparse.Namespace, records: tuple[dict[str, Any], ...]) -> int:
    """Run the command that was asked for; return the exit status."""
    if options.version:
        import mixwell

        print(f"mixwell {mixwell.__version__}")
        return 0
    if options.command is None:
        parser.print_help()
        return 2
    options.imports = records
    try:
        return COMMANDS[options.command].run(options)
    except InputError as error:
        print(f"mixwell {options.command}: error: {error}", file=sys.stderr)
        return 2
    except ImportError as error:
        return _missing(options.command, error)
    except KeyboardInterrupt:
        kept = "The same command goes on from the last checkpoint."
        if options.command == "bench":
            kept = "Of the sections that had ended the results are kept."
        print(f"\nInterrupted. {kept}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # What reads our output has gone (| head); nothing more can be said.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _missing(command: str, error: ImportError) -> int:
    """Say which package is missing."""
    if (error.name or "mixwell").startswith("mixwell"):
        raise error
    print(
        f"mixwell {command}: error: {error.name} is not installed; pip install 'mixwell[all]'",
        file=sys.stderr,
    )
    return 2
