"""``mixwell methods``: the list of methods."""

from __future__ import annotations

import argparse

from mixwell.cli.command import Command

__all__ = ["COMMAND"]


def _methods(options: argparse.Namespace) -> int:
    import mixwell

    names = mixwell.list_methods()
    width = max(map(len, names))
    for name in names:
        print(f"{name:<{width}}  {mixwell.describe(name).doc.strip().splitlines()[0]}")
    print("\nThey compose with '+': sk_mixup+decoupled. 'mixwell describe NAME' explains one.")
    return 0


COMMAND = Command(
    "methods", "list the methods", "List the methods, each with a line on what it does.",
    lambda parser, asked: None, _methods,
)  # fmt: skip
