"""The command line: thin over the library, with one clear message where something can't work."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from mixwell.errors import InputError

if TYPE_CHECKING:
    from mixwell.studies import Cell
    from mixwell.training import RunConfig

__all__ = ["main"]

_ABOUT = "Mixup for PyTorch: every method, one interface, any composition."
_TRAIN = """\
Train one model and measure it. The run's folder holds its measures (result.json), its predictions
(predictions.npz) and its weights (model.pt). Killed at any moment, the same command goes on where
it was; finished, it shows its result again.

What an option leaves open is filled in by what the data set is usually trained with."""
_TRAIN_EXAMPLES = """\
examples:
  mixwell train --data digits --method mixup
  mixwell train --data fashion-mnist --data-dir DIR --method sk_mixup --set tau_std=0.5
  mixwell train --data cifar10 --data-dir DIR --download --method cutmix+decoupled --ema 0.999
  mixwell train --data folder:DIR --model timm:vit_small_patch16_224 --precision bf16-mixed
"""
_COMPARE = """\
Train several methods with several seeds each, on one data set, and show the comparison: a table
here, and in the output folder report.html (the page to look at), results.csv and results.json.

Finished runs are kept: add methods or seeds and only these are trained. A run that fails is shown
as failed and doesn't stop the others."""
_COMPARE_EXAMPLES = """\
examples:
  mixwell compare --data digits --methods erm,mixup,sk_mixup --seeds 5
  mixwell compare --data fashion-mnist --data-dir DIR --train-size 6000 \\
      --methods erm,mixup,cutmix+infinite_class,am_mixup --seeds 3 --workers 2 --threads 1
  mixwell compare --data airfoil --data-dir DIR --methods erm,mixup,c_mixup --seeds 0,1,7
  mixwell compare --methods mixup,sk_mixup --set alpha=0.5 sk_mixup:tau_std=0.5
"""
_PREVIEW = """\
Draw mixed samples with their labels, and the histogram of λ, as a PNG.

Methods that look at features (sk_mixup) do so with an untrained network unless --weights names
a trained one."""
_PREVIEW_EXAMPLES = """\
examples:
  mixwell preview --data digits --method cutmix --out cutmix.png
  mixwell preview --data fashion-mnist --data-dir DIR --method sk_mixup --out sk.png
"""


# ---------------------------------------------------------------------------------------- parsing


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one message, and don't repeat the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def _value(text: str) -> Any:
    """Return a setting's value: a number, true, false, none, a JSON list, or the text itself."""
    words = {"true": True, "false": False, "none": None, "null": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return json.loads(text)
    except ValueError:
        return text


def _settings(argument: str, pairs: Sequence[str]) -> dict[str, Any]:
    settings = {}
    for pair in pairs:
        key, separator, text = pair.partition("=")
        if not separator or not key:
            raise InputError(f"{argument} takes key=value (alpha=0.2), got {pair!r}")
        settings[key] = _value(text)
    return settings


def _seeds(text: str) -> list[int]:
    """Return the seeds that "3" (0, 1 and 2) or "0,5,7" stand for."""
    parts = text.split(",")
    if not all(part.strip().isdigit() for part in parts):
        raise InputError(f"seeds must be a count (3) or a list (0,5,7), got {text!r}")
    numbers = [int(part) for part in parts]
    if len(numbers) == 1 and "," not in text:
        if numbers[0] < 1:
            raise InputError(f"seeds must be 1 at least, got {text!r}")
        return list(range(numbers[0]))
    return numbers


def _add_run_options(parser: argparse.ArgumentParser, without: tuple[str, ...] = ()) -> None:
    """Add an option for each field of a run's configuration, in its groups."""
    from dataclasses import fields

    from mixwell.data import available
    from mixwell.training import RunConfig

    groups: dict[str, Any] = {}
    for spec in fields(RunConfig):
        name = spec.metadata["group"]
        group = groups.setdefault(name, None) or parser.add_argument_group(name)
        groups[name] = group
        kind = {"int": int, "float": float, "str": str, "bool": bool}.get(str(spec.type).split()[0])
        if spec.name in without or kind is None:
            continue
        text = spec.metadata["help"].replace("%", "%%")
        if spec.name == "data":
            text = f"{', '.join(available())} (folder:PATH); default: {spec.default}"
        elif spec.default is not None and kind is not bool:
            text += f" (default: {spec.default})"
        flag = "--" + spec.name.replace("_", "-")
        if kind is bool:
            group.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=text)
        else:
            choices = spec.metadata["choices"] or None
            shown = None if choices else {int: "N", float: "X", str: "NAME"}[kind]
            group.add_argument(
                flag, type=kind, choices=choices, metavar=shown, default=None, help=text
            )
    groups["method"].add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
        help="settings of the method, as 'mixwell describe' lists them: alpha=0.2",
    )  # fmt: skip
    groups["network"].add_argument(
        "--model-set", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
        help="settings of the network: width=64 dropout=0.3",
    )  # fmt: skip


def _parser(arguments: Sequence[str]) -> _Parser:
    """Return the parser; of the command that is asked for, with all its options.

    They are read off the configuration, which needs torch: ``mixwell --help`` doesn't wait for it.
    """
    parser = _Parser(prog="mixwell", description=_ABOUT)
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)
    asked = next((word for word in arguments if not word.startswith("-")), None)

    def command(name: str, text: str, about: str, examples: str = "") -> Any:
        return commands.add_parser(
            name,
            help=text,
            description=about,
            epilog=examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    train = command("train", "train one model", _TRAIN, _TRAIN_EXAMPLES)
    train.add_argument(
        "--out", metavar="DIR", help="the run's folder (default: runs/DATA-METHOD-seedS)"
    )
    compare = command("compare", "compare methods over seeds", _COMPARE, _COMPARE_EXAMPLES)
    compare.add_argument(
        "--methods", required=True, metavar="A,B,C", help="methods, or compositions with '+'"
    )
    compare.add_argument(
        "--seeds", default="3", metavar="N", help="how many, or which: 0,5,7 (default: 3)"
    )
    compare.add_argument(
        "--baseline", metavar="M", help="what the others are tested against (default: erm)"
    )
    compare.add_argument(
        "--workers", type=int, default=1, metavar="N",
        help="runs at a time; give each its --threads (default: 1)",
    )  # fmt: skip
    compare.add_argument(
        "--out", metavar="DIR", help="the comparison's folder (default: runs/DATA)"
    )
    preview = command(
        "preview", "draw mixed samples and the histogram of λ", _PREVIEW, _PREVIEW_EXAMPLES
    )
    preview.add_argument("--out", required=True, metavar="FILE.png", help="the picture")
    preview.add_argument(
        "--count", type=int, default=12, metavar="N", help="samples to draw (default: 12)"
    )
    preview.add_argument(
        "--weights", metavar="FILE", help="model.pt of a run, where the method looks at features"
    )
    if asked in ("train", "preview"):
        _add_run_options(train if asked == "train" else preview)
    elif asked == "compare":
        _add_run_options(compare, without=("method", "seed"))

    command("methods", "list the methods", "List the methods, each with a line on what it does.")
    describe = command(
        "describe", "explain a method", "Explain a method: paper, equation, parts and settings."
    )
    describe.add_argument("name", help="a method, or a composition: sk_mixup+decoupled")
    report = command(
        "report", "write a comparison's report again", "Write the report of finished runs again."
    )
    report.add_argument("folder", help="what 'mixwell compare' wrote")
    report.add_argument("--baseline", metavar="M", help="what the others are tested against")
    return parser


# ---------------------------------------------------------------------------------------- commands


def _config(options: argparse.Namespace, **fixed: Any) -> RunConfig:
    from mixwell.training import RunConfig

    values = {
        name: value
        for name, value in vars(options).items()
        if name in RunConfig.__dataclass_fields__ and value is not None
    }
    values["model_options"] = _settings("--model-set", options.model_set)
    return RunConfig(**{**values, **fixed})


def _command_line() -> str:
    return shlex.join(["mixwell", *sys.argv[1:]])


def _slug(text: str) -> str:
    return "".join(c if c.isalnum() or c in "-_+.=" else "-" for c in text).strip("-")


def _train(options: argparse.Namespace) -> int:
    from mixwell.training import is_finished, train

    config = _config(options, method_options=_settings("--set", options.set))
    default = f"{config.data.split('/')[-1]}-{config.method}-seed{config.seed}"
    out = Path(options.out or Path("runs") / _slug(default))
    finished = is_finished(out)
    with _Progress() as show:
        result = train(
            config, out, report=lambda event: show(config.label, event), command=_command_line()
        )
    if finished:
        print(f"{out} was finished before:")
    width = max(map(len, result["metrics"]))
    for name, value in result["metrics"].items():
        print(f"  {name:<{width}}  {value:.4f}")
    print(f"Written to {out}")
    return 0


def _compare(options: argparse.Namespace) -> int:
    import mixwell.report  # noqa: F401  (what it needs must be there before the runs, not after)
    from mixwell.studies import compare, plan

    if options.workers < 1:
        raise InputError(f"workers must be 1 at least, got {options.workers}")
    methods = [name.strip() for name in options.methods.split(",")]
    base = _config(options)
    out = Path(options.out or Path("runs") / _slug(base.data.split("/")[-1]))
    baseline = options.baseline
    if baseline is not None and baseline not in methods:
        raise InputError(f"baseline={baseline!r} is not among the methods {', '.join(methods)}")
    cells = plan(base, methods, _seeds(options.seeds), out, _settings("--set", options.set))
    with _Progress(len(cells)) as show:

        def report(cell: Cell, event: dict[str, Any]) -> None:
            show(cell.name, event)

        records = compare(cells, workers=options.workers, report=report, command=_command_line())
    return _present(records, out, baseline, _command_line())


def _present(records: list[Any], out: Path, baseline: str | None, command: str) -> int:
    """Show the table, write the report, and name what failed."""
    from rich.console import Console

    from mixwell import report

    console = Console()
    width = console.width if console.is_terminal else 120
    console = Console(width=width)
    for table in report.tables(records, baseline=baseline, width=width):
        console.print(table)
    paths = report.write(records, out, command=command, baseline=baseline)
    failed = [record for record in records if record.status == "failed"]
    for record in failed:
        last = (record.error or "").strip().splitlines()[-1:]
        print(f"failed: {record.path.name}: {''.join(last)}", file=sys.stderr)
    print(f"Report: {paths.html}")
    return 1 if failed else 0


def _report(options: argparse.Namespace) -> int:
    from mixwell.studies import load_records

    folder = Path(options.folder)
    records = load_records(folder)
    base = options.baseline or "erm"
    records.sort(key=lambda record: record.label != base)  # the baseline first
    command = next((record.command for record in records if record.command), "")
    return _present(records, folder, options.baseline, command or _command_line())


def _preview(options: argparse.Namespace) -> int:
    from mixwell.report import draw_preview

    config = _config(options, method_options=_settings("--set", options.set))
    path = Path(options.out)
    if path.suffix.lower() != ".png":
        raise InputError(f"out={options.out!r} must end in .png")
    if options.count < 1:
        raise InputError(f"count must be 1 at least, got {options.count}")
    draw_preview(config, path, count=options.count, weights=options.weights)
    print(f"Written to {path}")
    return 0


def _methods(options: argparse.Namespace) -> int:
    import mixwell

    names = mixwell.list_methods()
    width = max(map(len, names))
    for name in names:
        print(f"{name:<{width}}  {mixwell.describe(name).doc.strip().splitlines()[0]}")
    print("\nThey compose with '+': sk_mixup+decoupled. 'mixwell describe NAME' explains one.")
    return 0


def _describe(options: argparse.Namespace) -> int:
    import mixwell

    print(mixwell.describe(options.name))
    return 0


# ---------------------------------------------------------------------------------------- progress


class _Progress:
    """Bars with the time left on a terminal; a line for each epoch or run elsewhere."""

    def __init__(self, runs: int | None = None) -> None:
        self.runs, self.ended = runs, 0
        self.bars: Any = None
        self.tasks: dict[str, Any] = {}

    def __enter__(self) -> Callable[[str, dict[str, Any]], None]:
        if not sys.stdout.isatty():
            return self._line
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[note]}"),
        )
        self.bars.start()
        if self.runs is not None:
            self.tasks[""] = self.bars.add_task("all runs", total=self.runs, note="")
        return self._bar

    def __exit__(self, *_: object) -> None:
        if self.bars is not None:
            self.bars.stop()

    def _bar(self, name: str, event: dict[str, Any]) -> None:
        kind = event["kind"]
        if kind == "start":
            self.tasks[name] = self.bars.add_task(
                name, total=event["steps"], completed=event["done"], note=""
            )
        elif kind == "step":
            self.bars.update(self.tasks[name], completed=event["done"])
        elif kind == "epoch":
            self.bars.update(self.tasks[name], note=_row(event))
        elif kind in ("done", "kept", "failed"):
            if name in self.tasks and self.runs is not None:
                self.bars.remove_task(self.tasks.pop(name))
            if self.runs is not None:
                self.bars.advance(self.tasks[""])
            if kind == "failed":
                self.bars.console.print(f"{name} failed: {event['error'].splitlines()[-1]}")

    def _line(self, name: str, event: dict[str, Any]) -> None:
        kind = event["kind"]
        if kind == "start" and event["done"]:
            print(f"{name}: goes on at epoch {event['epoch'] + 1}", flush=True)
        elif kind == "epoch" and self.runs is None:
            print(f"{name}: {_row(event)}", flush=True)
        elif kind in ("done", "kept", "failed") and self.runs is not None:
            self.ended += 1
            word = {"done": "done", "kept": "was done before", "failed": "failed"}[kind]
            cause = f": {event['error'].splitlines()[-1]}" if kind == "failed" else ""
            print(f"[{self.ended}/{self.runs}] {name} {word}{cause}", flush=True)


def _row(event: dict[str, Any]) -> str:
    parts = [f"epoch {event['epoch']}", f"loss {event['loss']:.4f}"]
    if "val_accuracy" in event:
        parts.append(f"validation accuracy {event['val_accuracy']:.2%}")
    if "val_rmse" in event:
        parts.append(f"validation RMSE {event['val_rmse']:.4g}")
    return ", ".join(parts)


# -------------------------------------------------------------------------------------------- main

_COMMANDS = {
    "train": _train,
    "compare": _compare,
    "preview": _preview,
    "methods": _methods,
    "describe": _describe,
    "report": _report,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status.

    0: all went well. 1: a run failed. 2: the command line, the data or a folder can't work.
    130: interrupted.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    try:
        parser = _parser(arguments)
    except ImportError as error:
        return _missing("", error)
    options = parser.parse_args(arguments)
    if options.version:
        import mixwell

        print(f"mixwell {mixwell.__version__}")
        return 0
    if options.command is None:
        parser.print_help()
        return 2
    try:
        return _COMMANDS[options.command](options)
    except InputError as error:
        print(f"mixwell {options.command}: error: {error}", file=sys.stderr)
        return 2
    except ImportError as error:
        return _missing(options.command, error)
    except KeyboardInterrupt:
        print("\nInterrupted. The same command goes on from the last checkpoint.", file=sys.stderr)
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
