"""``mixwell train``: one run."""

from __future__ import annotations

import argparse
from pathlib import Path

from mixwell.cli.command import Command, command_line, settings
from mixwell.cli.options import add_run_options, check_matter, config_of, run_options
from mixwell.cli.progress import Progress

__all__ = ["COMMAND"]

_ABOUT = """\
Train one model and measure it. The run's folder holds its measures (result.json), its predictions
(predictions.npz) and its weights (model.pt). Killed at any moment, the same command goes on where
it was; finished, it shows its result again.

What an option leaves open is filled in by what the data set is usually trained with."""
_EXAMPLES = """\
examples:
  mixwell train --data digits --method mixup
  mixwell train --data fashion-mnist --data-dir DIR --method sk_mixup --set tau_std=0.5
  mixwell train --data cifar10 --data-dir DIR --download --method cutmix+decoupled --ema 0.999
  mixwell train --data folder:DIR --model timm:vit_small_patch16_224 --precision bf16-mixed
"""


def _add(parser: argparse.ArgumentParser, asked: bool) -> None:
    parser.add_argument(
        "--out", metavar="DIR",
        help="the run's folder (default: runs/DATA-MODEL-METHOD-seedS, with a digest of settings "
        "that are not as usual)",
    )  # fmt: skip
    if asked:
        add_run_options(parser)


def _train(options: argparse.Namespace) -> int:
    from mixwell.training import is_finished, prepare, train

    run = prepare(config_of(options, method_options=settings("--set", options.set)))
    check_matter(run_options(options), [run.config])  # with what the data are usually trained by
    out = Path(options.out or Path("runs") / run.name)
    finished = is_finished(out)
    with Progress() as show:
        result = train(
            run, out, report=lambda event: show(run.config.label, event), command=command_line()
        )
    if finished:
        print(f"{out} was finished before:")
    width = max(map(len, result["metrics"]))
    for name, value in result["metrics"].items():
        print(f"  {name:<{width}}  {value:.4f}")
    print(f"Written to {out}")
    return 0


COMMAND = Command("train", "train one model", _ABOUT, _add, _train, _EXAMPLES)
