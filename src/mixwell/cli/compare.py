"""``mixwell compare``: several methods, several seeds, one data set."""

from __future__ import annotations

import argparse

from mixwell.cli.command import Command, listed_seeds, settings
from mixwell.cli.options import add_run_options, run_options
from mixwell.cli.studying import add_engine_options, run_and_present

__all__ = ["COMMAND"]

_ABOUT = """\
Train several methods with several seeds each, on one data set, and show the comparison: a table
here, and in the output folder report.html (the page to look at), results.csv and results.json.

Finished runs are kept: add methods or seeds and only these are trained. A run that fails is shown
as failed and doesn't stop the others."""
_EXAMPLES = """\
examples:
  mixwell compare --data digits --methods erm,mixup,sk_mixup --seeds 5
  mixwell compare --data fashion-mnist --data-dir DIR --train-size 6000 \\
      --methods erm,mixup,cutmix+infinite_class,am_mixup --seeds 3 --workers 2 --threads 1
  mixwell compare --data airfoil --data-dir DIR --methods erm,mixup,c_mixup --seeds 0,1,7
  mixwell compare --methods mixup,sk_mixup --set alpha=0.5 sk_mixup:tau_std=0.5
"""


def _add(parser: argparse.ArgumentParser, asked: bool) -> None:
    parser.add_argument(
        "--methods", required=True, metavar="A,B,C",
        help="methods, compositions with '+', either with settings: 'erm,mixup(alpha=0.2)'",
    )  # fmt: skip
    parser.add_argument(
        "--seeds", default="3", metavar="N", help="how many, or which: 0,5,7 (default: 3)"
    )
    add_engine_options(parser)
    parser.add_argument(
        "--out", metavar="DIR",
        help="the comparison's folder (default: runs/DATA-MODEL, and a digest of settings that "
        "are not as usual)",
    )  # fmt: skip
    if asked:
        add_run_options(parser, without=("method", "seed"), lists=True)


def _compare(options: argparse.Namespace) -> int:
    from mixwell.studies.protocols import PROTOCOLS
    from mixwell.studies.study import build, parse_methods

    given = run_options(options)
    study = build(
        PROTOCOLS["balanced"],
        given,
        methods=parse_methods(options.methods),
        seeds=listed_seeds(options.seeds),
        settings=settings("--set", options.set),
    )
    return run_and_present(study, options, options.out, given)


COMMAND = Command("compare", "compare methods over seeds", _ABOUT, _add, _compare, _EXAMPLES)
