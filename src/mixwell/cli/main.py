"""The command line: thin over the library, with one clear message where something can't work."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence

from mixwell import _start
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
from mixwell.cli.terminal import Interrupts, output, plain_warnings, tell
from mixwell.errors import InputError, explained

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
        own.add_argument(
            "--debug", action="store_true", help="show the traceback of what goes wrong"
        )
        command.add(own, asked)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status.

    0: all went well. 1: a run failed, or the machine did: a full disk, no memory. 2: the command
    line, the data or a folder can't work. 130: interrupted.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    name = next((word for word in arguments if word in COMMANDS), "")
    farewell = f"Interrupted. {_kept(name)}"
    interrupts = Interrupts(farewell)
    try:  # around all of it: the first Ctrl-C may come as the streams are prepared or flushed
        with interrupts, output() as out, plain_warnings(name):
            status = _run(arguments)
    except (Exception, KeyboardInterrupt) as error:
        if "--debug" in arguments:
            traceback.print_exc()
        if interrupts.came:  # imports that are cut off raise whatever they come to
            print(farewell, file=sys.stderr)
            return 130
        return _failed(name, error)
    if out.lost is not None:
        tell(f"mixwell {name}: error: output: {explained(out.lost)}", error=True)
        status = status or 1
    if interrupts.came:  # and a library caught it
        _start.status = status
    return status


def _run(arguments: list[str]) -> int:
    """Run the command that was asked for; return the exit status."""
    # Before anything else is parsed: options and their help tell of what is registered.
    names, arguments = taken_out(arguments)
    records = imported(names) if any(word in COMMANDS for word in arguments) else ()
    parser = _parser(arguments)
    options = parser.parse_args(arguments)
    if options.version:
        import mixwell

        print(f"mixwell {mixwell.__version__}")
        return 0
    if options.command is None:
        parser.print_help()
        return 2
    options.imports = records
    return COMMANDS[options.command].run(options)


def _failed(command: str, error: BaseException) -> int:
    """Say in a sentence what went wrong and what is kept; return the exit status."""
    start = f"mixwell {command}: error:" if command else "mixwell: error:"
    if isinstance(error, KeyboardInterrupt):
        print(f"Interrupted. {_kept(command)}", file=sys.stderr)
        return 130
    if isinstance(error, InputError):
        tell(start, error, error=True)
        return 2
    if isinstance(error, ImportError) and not (error.name or "mixwell").startswith("mixwell"):
        tell(start, f"{error.name} is not installed; pip install 'mixwell[all]'", error=True)
        return 2
    cause = explained(error)
    if cause is not None:
        tell(start, f"{cause}. {_kept(command)}", error=True)
        return 1
    first = str(error).strip().partition("\n")[0]
    tell(
        start,
        f"unforeseen {type(error).__name__}: {first} (--debug shows where). {_kept(command)}",
        error=True,
    )
    return 1


def _kept(command: str) -> str:
    """Return in a sentence what is there of a command that did not end."""
    if command in ("train", "compare", "study", "tune"):
        return "What was done is kept: the same command goes on from there."
    if command == "bench":
        return "Of the sections that had ended the results are kept."
    return "Nothing was half-written."
