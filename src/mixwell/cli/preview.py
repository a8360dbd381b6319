"""``mixwell preview``: a picture of mixed samples."""

from __future__ import annotations

import argparse
from pathlib import Path

from mixwell.cli.command import Command, settings
from mixwell.cli.options import add_run_options, config_of
from mixwell.errors import InputError

__all__ = ["COMMAND"]

_ABOUT = """\
Draw mixed samples with their labels, and the histogram of λ, as a PNG.

Methods that look at features (sk_mixup) do so with an untrained network unless --weights names
a trained one."""
_EXAMPLES = """\
examples:
  mixwell preview --data digits --method cutmix --out cutmix.png
  mixwell preview --data fashion-mnist --data-dir DIR --method sk_mixup --out sk.png
"""


def _add(parser: argparse.ArgumentParser, asked: bool) -> None:
    parser.add_argument("--out", required=True, metavar="FILE.png", help="the picture")
    parser.add_argument(
        "--count", type=int, default=12, metavar="N", help="samples to draw (default: 12)"
    )
    parser.add_argument(
        "--weights", metavar="FILE", help="model.pt of a run, where the method looks at features"
    )
    if asked:
        add_run_options(parser, without=_unseen())


def _unseen() -> tuple[str, ...]:
    """Return the options of a run that no picture of its batches shows."""
    from dataclasses import fields

    from mixwell.training import RunConfig

    shown = ("data", "method", "network")
    others = [spec.name for spec in fields(RunConfig) if spec.metadata["group"] not in shown]
    return (*(name for name in others if name != "batch_size"), "freeze")


def _preview(options: argparse.Namespace) -> int:
    from mixwell.report import draw_preview

    config = config_of(options, method_options=settings("--set", options.set))
    path = Path(options.out)
    if path.suffix.lower() != ".png":
        raise InputError(f"out={options.out!r} must end in .png")
    if options.count < 1:
        raise InputError(f"count must be 1 at least, got {options.count}")
    draw_preview(config, path, count=options.count, weights=options.weights)
    print(f"Written to {path}")
    return 0


COMMAND = Command(
    "preview", "draw mixed samples and the histogram of λ", _ABOUT, _add, _preview, _EXAMPLES
)
