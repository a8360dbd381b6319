"""``mixwell export``: a finished run's network as one file for other programs."""

from __future__ import annotations

import argparse

from mixwell.cli.command import Command
from mixwell.cli.importing import add_trust

__all__ = ["COMMAND"]

_ABOUT = """\
Write a finished run's network as one file: ONNX, or a program of torch.export. Normalisation and
temperature are inside: it takes raw inputs (N, ...), float32, images in [0, 1] of the run's size,
any number N of them, and returns calibrated probabilities (N, C), or values in the target's unit.
Its metadata name the classes, the method and the version of mixwell.

The file is compared with the network on test samples before it is put in its place."""
_EXAMPLES = """\
examples:
  mixwell export runs/photos --to photos.onnx
  mixwell export runs/photos --to photos.pt2
"""


def _add(parser: argparse.ArgumentParser, asked: bool) -> None:
    parser.add_argument("run", metavar="RUN", help="the folder of a finished run")
    parser.add_argument("--to", required=True, metavar="FILE", help="FILE.onnx or FILE.pt2")
    add_trust(parser)


def _export(options: argparse.Namespace) -> int:
    from mixwell.trained import export, load_run

    made = export(load_run(options.run, trust=options.trust), options.to)
    print(f"Written to {made.path}: {made.checked}; largest difference {made.difference:.1e}")
    return 0


COMMAND = Command("export", "write a run's network for others", _ABOUT, _add, _export, _EXAMPLES)
