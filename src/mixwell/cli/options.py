"""The options of a run: one for each field of its configuration."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from mixwell.cli.command import settings
from mixwell.errors import InputError

if TYPE_CHECKING:
    from mixwell.training import RunConfig

__all__ = ["add_run_options", "check_matter", "config_of", "run_options"]


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
        if spec.name == "freeze" and spec.name not in without:
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


def _of(*kinds: str) -> Callable[[RunConfig], bool]:
    """Return a test of whether a run's data are of these kinds."""
    return lambda config: config.data.partition(":")[0] in kinds


def _has_sizes(config: RunConfig) -> bool:
    """Whether a run's images may have another size: files, one's own, those of fine-tuning."""
    from mixwell.data.catalogue import SOURCES

    kind = config.data.partition(":")[0]
    return config.fine_tunes or kind in ("folder", "hf") or kind not in SOURCES


def _has_labels(config: RunConfig) -> bool:
    return config.labels is not None


_MATTERS: dict[str, tuple[Callable[[RunConfig], bool], str]] = {
    "largest_class": (lambda config: config.imbalance is not None, "imbalance"),
    "semi": (_has_labels, "labels"),
    "unlabelled_ratio": (_has_labels, "labels"),
    "unlabelled_weight": (_has_labels, "labels"),
    "threshold": (_has_labels, "labels"),
    "mix_cutoff": (_has_labels, "labels"),
    "momentum": (lambda config: config.optimizer != "adamw", "optimizer=sgd"),
    "target": (_of("csv", "parquet", "hf", "series", "exchange-rate"), "data=csv:PATH"),
    "task": (_of("csv", "parquet", "hf"), "data=csv:PATH"),
    "window": (_of("series", "exchange-rate"), "data=series:PATH"),
    "horizon": (_of("series", "exchange-rate"), "data=series:PATH"),
    "image_size": (_has_sizes, "data=folder:PATH, or pretrained"),
}  # fmt: skip
"""Options that matter to some runs alone: to which, and what makes one of these."""


def check_matter(given: Iterable[str], configs: Iterable[RunConfig]) -> None:
    """Raise an InputError for an option that does nothing in any of these runs.

    Args:
        given: fields of a run's configuration that were asked for.
        configs: of the runs.
    """
    runs = list(configs)
    for name in given:
        matters, words = _MATTERS.get(name, (lambda config: True, ""))
        if not any(map(matters, runs)):
            raise InputError(
                f"{name} does nothing here: it takes {words}; give that, too, or leave {name} out"
            )


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

    given = run_options(options)
    config = RunConfig(**{**given, **fixed})
    check_matter(given, [config])
    return config
