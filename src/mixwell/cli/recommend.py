"""``mixwell recommend``: which method to use, and whether it is worth it."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mixwell.cli.command import Command, command_line, settings
from mixwell.cli.options import add_run_options, config_of
from mixwell.cli.studying import add_engine_options, engine_of
from mixwell.cli.terminal import tell
from mixwell.errors import last_line

__all__ = ["COMMAND"]

_ABOUT = """\
Find out which method to use on these data with this network, and whether it is worth it.

Candidates are raced on validation data by successive halving, with the same seeds for all. The
finalists and the baseline are then trained anew with other seeds, as many as the budget has room
for, and measured on the test split once, at the end. The answer says what that shows, with an
interval that holds for other seeds and other test samples, and what it doesn't.

Killed at any moment, the same command goes on with the same decisions; only time spent counts.

The folder gets recommendation.json, report.html, the race's runs in race, the final's in final."""
_EXAMPLES = """\
examples:
  mixwell recommend --data digits --budget 2m
  mixwell recommend --data folder:photos --model timm:resnet18 --budget 30m
  mixwell recommend --data fashion-mnist --data-dir DIR --shots 30 --budget 10m --for nll
  mixwell recommend --data csv:table.csv --budget 5m --methods "mixup,c_mixup(bandwidth=0.5)"
"""


def _add(parser: argparse.ArgumentParser, asked: bool) -> None:
    parser.add_argument(
        "--budget", required=True, metavar="TIME", help="of wall-clock time: 90s, 30m, 1h30m"
    )
    parser.add_argument(
        "--for", dest="goal", metavar="MEASURE", help=_goals() if asked else "what counts"
    )
    parser.add_argument(
        "--methods", metavar="A,B,C",
        help="the candidates, as of compare (default: what suits the data)",
    )  # fmt: skip
    add_engine_options(parser, results=False)
    parser.add_argument("--out", metavar="DIR", help="folder (default: runs/recommend-DATA)")
    if asked:
        add_run_options(parser, without=("method", "seed"))


def _goals() -> str:
    """Return in words what may count."""
    from mixwell.recommend.driver import measures_of

    tasks = ("classification", "regression")
    known = "; ".join(f"{', '.join(measures_of(task))} in {task}" for task in tasks)
    return f"what counts: {known} (default: the first)"


def _recommend(options: argparse.Namespace) -> int:
    import psutil

    import mixwell.report  # noqa: F401  (what it needs must be there before the runs, not after)
    from mixwell.recommend import recommend
    from mixwell.studies.study import parse_methods
    from mixwell.training.naming import called, folder_name

    config = config_of(options)
    usual = Path("runs") / folder_name("recommend", called(config.data), config.model or "")
    out = Path(options.out or usual)
    engine = engine_of(options, config.threads)
    with _Screen() as told:
        found = recommend(
            config, out, budget=options.budget, measure=options.goal,
            methods=None if options.methods is None else parse_methods(options.methods),
            settings=settings("--set", options.set), baseline=options.baseline or "erm",
            workers=options.workers, engine=engine, report=told, command=command_line(),
            elapsed=time.time() - psutil.Process().create_time(),
        )  # fmt: skip
    print(f"\n{found}")
    print(f"Report: {out / 'report.html'}" if found.contrasts else f"Written to {out}")
    return 0


class _Screen:
    """Tells of the stages in lines, with a bar of the budget below them on a terminal."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._task: Any = None
        self._budget = 0.0

    def __enter__(self) -> Callable[[dict[str, Any]], None]:
        if sys.stdout.isatty():
            from rich.progress import BarColumn, Progress, TextColumn

            self._bar = Progress(
                TextColumn("budget"), BarColumn(), TextColumn("{task.description}")
            )
            self._bar.start()
        return self._told

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _told(self, event: dict[str, Any]) -> None:
        if event["kind"] == "run":
            self._move(event)
        elif event["kind"] in _LINES:
            self._budget = event.get("budget", self._budget)
            for line in _LINES[event["kind"]](event):
                print(line, flush=True)  # rich moves its bar below what is printed

    def _move(self, event: dict[str, Any]) -> None:
        """Show how much of the budget is gone, and how far the stage is."""
        if event["event"]["kind"] == "failed":
            tell(f"{event['name']} failed: {last_line(event['event']['error'])}")
        if self._bar is not None:
            words = f"{event['spent']:.0f} of {self._budget:.0f} s, runs {event['ended']}"
            words += f" of {event['runs']}, {event['label']}"
            if self._task is None:
                self._task = self._bar.add_task(words, total=self._budget)
            self._bar.update(self._task, completed=event["spent"], description=words)


def _measuring(event: dict[str, Any]) -> list[str]:
    return [f"Measuring a few steps of {len(event['candidates'])} methods"]


def _plan(event: dict[str, Any]) -> list[str]:
    from mixwell.recommend.planning import in_words

    plan = event["plan"]
    lines = [f"{label} is left out: {error}" for label, error in event["unfit"].items()]
    usual = f" (usually {plan.usual})" if plan.epochs < plan.usual else ""
    rungs = ", ".join(str(rung.epoch) for rung in plan.rungs)
    race = f"race to epochs {rungs}" if rungs else "no race"
    lines.append(
        f"Plan: {len(plan.candidates)} candidates, {plan.epochs} epochs a run{usual}; {race}; "
        f"final of {plan.finalists} with about {plan.seeds} seeds; "
        f"{in_words(plan.seconds + event['spent'])} of {in_words(event['budget'])}"
    )
    return lines


def _stage(event: dict[str, Any]) -> list[str]:
    return [f"{event['stage'].capitalize()}: {event['runs']} runs"]


def _rung(event: dict[str, Any]) -> list[str]:
    from mixwell.recommend.page import standing_text

    seeds = "1 seed" if event["seeds"] == 1 else f"{event['seeds']} seeds"
    lines = [f"After epoch {event['epoch']} of {event['epochs']}, {seeds}:"]
    lines[0] += f" validation {event['measure'].title} (against {event['baseline']})"
    width = max(len(standing.label) for standing in event["standings"])
    for standing in event["standings"]:
        text = standing_text(standing, event["measure"])
        ends = "" if standing.goes_on else f"  out: {standing.why}"
        lines.append(f"  {standing.label:<{width}}  {text}{ends}")
    return lines


_LINES: dict[str, Callable[[dict[str, Any]], list[str]]] = {
    "measuring": _measuring, "plan": _plan, "stage": _stage, "rung": _rung,
}  # fmt: skip

COMMAND = Command(
    "recommend", "which method, and is it worth it?", _ABOUT, _add, _recommend, _EXAMPLES
)
