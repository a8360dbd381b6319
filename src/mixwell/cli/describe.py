"""``mixwell describe``: a method, explained."""

from __future__ import annotations

import argparse

from mixwell.cli.command import Command

__all__ = ["COMMAND"]


def _add(parser: argparse.ArgumentParser, asked: bool) -> None:
    parser.add_argument("name", help="a method, or a composition: sk_mixup+decoupled")


def _describe(options: argparse.Namespace) -> int:
    import mixwell

    print(mixwell.describe(options.name))
    return 0


COMMAND = Command(
    "describe", "explain a method", "Explain a method: paper, equation, parts and settings.", _add,
    _describe,
)  # fmt: skip
