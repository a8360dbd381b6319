"""``mixwell bench``: how long things take."""

from __future__ import annotations

import argparse
from pathlib import Path

from mixwell.cli.command import Command
from mixwell.errors import InputError

__all__ = ["COMMAND"]

_ABOUT = """\
Measure how long mixwell takes, beside the plainest thing that could be done, what one would write
by hand, and the other libraries that are installed: 'speed', in the sections mixing, losses,
lambda (of the similarity kernel), step (of training), epoch (of mixwell train) and compile.

All contenders are timed in turn, in a new order each time, so that a busy machine slows all alike.
speed.json, speed.md, speed.svg and speed.png are written as each section ends."""
_EXAMPLES = """\
examples:
  mixwell bench speed --quick
  mixwell bench speed --threads 2 --out DIR
  mixwell bench speed --only mixing,losses --device cuda --repeats 30
  mixwell bench speed --only epoch --data fashion-mnist,digits --data-dir DIR --methods erm,mixup
"""


def _add(parser: argparse.ArgumentParser, asked: bool) -> None:
    parser.add_argument("name", metavar="NAME", help="what to measure: speed")
    parser.add_argument(
        "--quick", action="store_true", help="smaller and fewer: a look in about a minute"
    )
    parser.add_argument(
        "--only", metavar="A,B", help="sections: mixing, losses, lambda, step, epoch, compile"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="of torch (default: its own)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(default: cpu)")
    parser.add_argument(
        "--repeats", type=int, metavar="R",
        help="samples of each contender (default: 15, 9 of training steps; quick: 5 and 3)",
    )  # fmt: skip
    parser.add_argument(
        "--batch-size", type=int, metavar="N", help="of the training steps, compiled ones too"
    )
    parser.add_argument(
        "--methods", metavar="A,B",
        help="whose training steps and epochs are measured (default: nine)",
    )  # fmt: skip
    parser.add_argument(
        "--data", metavar="A,B", help="data sets whose epochs are measured (default: digits)"
    )
    parser.add_argument("--data-dir", metavar="DIR", help="where they are")
    parser.add_argument("--out", metavar="DIR", help="folder (default: runs/bench-speed)")


def _bench(options: argparse.Namespace) -> int:
    if options.name != "speed":
        raise InputError(f"benchmark {options.name!r} is unknown; known: speed")
    from rich.console import Console

    from mixwell.bench import Plan, output, pick_device, speed

    console = Console()
    console = Console(width=min(console.width, 120) if console.is_terminal else 100)
    device = pick_device(options.device)
    plan = Plan.quick() if options.quick else Plan.full(device)
    only, methods, data = (
        None if names is None else [name.strip() for name in names.split(",")]
        for names in (options.only, options.methods, options.data)
    )
    plan = plan.changed(options.repeats, only, options.batch_size, methods, data, options.data_dir)
    out = Path(options.out or Path("runs") / "bench-speed")
    with console.status("") as status:
        speed(
            plan, out, device=device, threads=options.threads,
            show=lambda rows: console.print(output.table(rows)),
            note=lambda text: status.update(text),
        )  # fmt: skip
    print(f"Written to {out}: speed.json, speed.md, speed.svg, speed.png")
    return 0


COMMAND = Command("bench", "measure mixwell's speed", _ABOUT, _add, _bench, _EXAMPLES)
