"""``mixwell tune``: a method's settings by validation."""

from __future__ import annotations

import argparse
from pathlib import Path

from mixwell.cli.command import Command, command_line, listed_seeds, settings
from mixwell.cli.options import add_run_options, check_matter, config_of, run_options
from mixwell.cli.progress import Progress
from mixwell.cli.studying import workers_of

__all__ = ["COMMAND"]

_ABOUT = """\
Search a method's settings on validation data, with Optuna, in the ranges that its parts declare
('mixwell describe' lists them). The test split is not looked at. The best settings are written to
DIR/tuned.yaml, which a study takes: mixwell study ... --settings DIR/tuned.yaml

Trials that were finished are kept: the same command goes on, and with more --trials adds some."""
_EXAMPLES = """\
examples:
  mixwell tune --data digits --method sk_mixup --trials 20
  mixwell tune --data fashion-mnist --data-dir DIR --train-size 2000 --method mixup+decoupled \\
      --measure accuracy --seeds 2 --search alpha eta
"""


def _add(parser: argparse.ArgumentParser, asked: bool) -> None:
    parser.add_argument(
        "--trials", type=int, default=20, metavar="N", help="how many in all (default: 20)"
    )
    parser.add_argument(
        "--measure", metavar="NAME", help=_measures() if asked else "of validation data"
    )
    parser.add_argument(
        "--search", nargs="+", metavar="SETTING", help="search these alone (default: all it has)"
    )
    parser.add_argument(
        "--seeds", default="1", metavar="N", help="runs of each trial, averaged (default: 1)"
    )
    parser.add_argument("--workers", type=int, metavar="N", help="runs at a time, as of compare")
    parser.add_argument(
        "--out", metavar="DIR",
        help="folder (default: runs/tune-DATA-MODEL-METHOD, and a digest of settings that are not "
        "as usual)",
    )  # fmt: skip
    if asked:
        add_run_options(parser, without=("seed",))


def _measures() -> str:
    """Return in words what settings can be tuned by."""
    from mixwell.metrics.measures import registered
    from mixwell.studies.tune import tunable

    tasks = dict.fromkeys(task for measure in registered() for task in measure.validated)
    known = [f"{', '.join(measure.name for measure in tunable(t))} in {t}" for t in tasks]
    return f"of validation data: {'; '.join(known)} (default: the first)"


def _tune(options: argparse.Namespace) -> int:
    from mixwell.studies.tune import tune
    from mixwell.training import prepare
    from mixwell.training.naming import folder_name

    workers, seeds = workers_of(options), listed_seeds(options.seeds)
    given = settings("--set", options.set)
    run = prepare(config_of(options, method_options=given, seed=seeds[0]))
    check_matter(run_options(options), [run.config])
    asked = {"measure": options.measure, "search": options.search, "seeds": seeds}
    usual = {"measure": None, "search": None, "seeds": [0]}
    more = {name: value for name, value in asked.items() if value != usual[name]}
    out = Path(options.out or Path("runs") / folder_name("tune", *run.folder(**more)))
    with Progress() as show:
        found = tune(
            run, out, trials=options.trials, measure=options.measure, search=options.search,
            seeds=seeds, workers=workers, report=lambda name, event: show(name, event),
            command=command_line(),
        )  # fmt: skip
    print(found)
    print(f"Written to {out / 'tuned.yaml'}")
    return 0


COMMAND = Command(
    "tune", "search a method's settings on validation data", _ABOUT, _add, _tune, _EXAMPLES
)
