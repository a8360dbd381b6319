"""``mixwell report``: the report of runs that are there, again."""

from __future__ import annotations

import argparse
from pathlib import Path

from mixwell.cli.command import Command, command_line
from mixwell.cli.studying import present
from mixwell.cli.terminal import tell

__all__ = ["COMMAND"]


def _add(parser: argparse.ArgumentParser, asked: bool) -> None:
    parser.add_argument("folder", help="what 'mixwell study' or 'mixwell compare' wrote")
    parser.add_argument(
        "--baseline", metavar="M",
        help="what the others are tested against (default: the study's own)",
    )  # fmt: skip


def _report(options: argparse.Namespace) -> int:
    from mixwell.studies import Store, load_records
    from mixwell.studies.statistics import check_baseline, choose_baseline

    folder = Path(options.folder)
    records = load_records(folder)
    labels = list(dict.fromkeys(record.label for record in records))
    check_baseline(options.baseline, labels)
    baseline, command, protocol = options.baseline, "", "balanced"
    if (folder / Store.FILE).is_file():
        store = Store(folder)
        command, protocol = store.described("command"), store.described("protocol", protocol)
        baseline = baseline or store.described("baseline") or None
    if baseline is not None and baseline not in labels:
        other = choose_baseline(labels)
        tell(f"{baseline}, the study's baseline, has no run that ended: {other} is taken for it")
        baseline = other
    return present(records, folder, baseline, command or command_line(), protocol)


COMMAND = Command(
    "report", "write a study's report again", "Write the report of finished runs again.", _add,
    _report,
)  # fmt: skip
