"""``mixwell report``: the report of runs that are there, again."""

from __future__ import annotations

import argparse
from pathlib import Path

from mixwell.cli.command import Command, command_line
from mixwell.cli.studying import check_baseline, present

__all__ = ["COMMAND"]


def _add(parser: argparse.ArgumentParser, asked: bool) -> None:
    parser.add_argument("folder", help="what 'mixwell study' or 'mixwell compare' wrote")
    parser.add_argument("--baseline", metavar="M", help="what the others are tested against")


def _report(options: argparse.Namespace) -> int:
    from mixwell.studies import Store, load_records

    folder = Path(options.folder)
    records = load_records(folder)
    command, protocol = "", "balanced"
    if (folder / Store.FILE).is_file():
        store = Store(folder)
        command, protocol = store.described("command"), store.described("protocol", protocol)
    labels = sorted({record.label for record in records})
    check_baseline(options.baseline, labels)
    return present(records, folder, options.baseline, command or command_line(), protocol)


COMMAND = Command(
    "report", "write a study's report again", "Write the report of finished runs again.", _add,
    _report,
)  # fmt: skip
