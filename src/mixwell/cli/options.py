"""The options of a run: one for each field of its configuration."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mixwell.cli.command import settings

if TYPE_CHECKING:
    from mixwell.training import RunConfig

__all__ = ["add_run_options", "config_of", "run_options"]


def _listed(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return a parser of one value, or of several that are separated by commas."""

    def parse(text: str) -> Any:
        values = [kind(part.strip()) for part in text.split(",")]
        return values if len(values) > 1 else values[0]

    parse.__name__ = kind.__name__  # what argparse calls it in its messages
    return parse


def add_run_options(
    parser: argparse.ArgumentParser, without: tuple[str, ...] = (), lists: bool = False
) -> None:
    """Add an option for each field of a run's configuration, in its groups.

    Args:
        parser: that gets them.
        without: the fields that get none.
        lists: whether several values may be given, and how the options are then parsed.
    """
    from dataclasses import fields

    from mixwell.data import available
    from mixwell.data.catalogue import called_with
    from mixwell.training import RunConfig
    from mixwell.training.config import NOT_SAID

    groups: dict[str, Any] = {}
    for spec in fields(RunConfig):
        name = spec.metadata["group"]
        group = groups.setdefault(name, None) or parser.add_argument_group(name)
        groups[name] = group
        kind = {"int": int, "float": float, "str": str, "bool": bool}.get(str(spec.type).split()[0])
        if spec.name == "freeze":
            group.add_argument(
                "--freeze", nargs="+", action="extend", default=None, metavar="PATTERN",
                help=spec.metadata["help"],
            )  # fmt: skip
        if spec.name in (*without, *NOT_SAID) or kind is None:
            continue
        text = spec.metadata["help"].replace("%", "%%")
        if spec.name == "data":
            text = f"{', '.join(map(called_with, available()))}, MODULE:NAME"
            text += "" if lists else f"; default: {spec.default}"
        elif spec.default is not None and kind is not bool:
            text += f" (default: {spec.default})"
        flag = "--" + spec.name.replace("_", "-")
        if kind is bool:
            group.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=text)
        else:
            choices = spec.metadata["choices"] or None
            shown = None if choices else {int: "N", float: "X", str: "NAME"}[kind]
            # Several loggers are no several studies.
            parse = _listed(kind) if lists and not choices and spec.name != "log" else kind
            group.add_argument(
                flag, type=parse, choices=choices, metavar=shown, default=None, help=text
            )
    groups["method"].add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
        help="settings of the method, as 'mixwell describe' lists them: alpha=0.2",
    )  # fmt: skip
    groups["network"].add_argument(
        "--model-set", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
        help="settings of the network: width=64 dropout=0.3",
    )  # fmt: skip


def run_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of a run's configuration that were given."""
    from mixwell.training import RunConfig

    values = {
        name: value
        for name, value in vars(options).items()
        if name in RunConfig.__dataclass_fields__ and value is not None
    }
    if options.model_set:
        values["model_options"] = settings("--model-set", options.model_set)
    return values


def config_of(options: argparse.Namespace, **fixed: Any) -> RunConfig:
    """Return the configuration that the options make, with what is fixed."""
    from mixwell.training import RunConfig

    return RunConfig(**{**run_options(options), **fixed})
