"""``mixwell study``: a protocol of the papers, or a study that a file declares."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mixwell.cli.command import Command, listed_seeds, settings
from mixwell.cli.importing import imported_of_file
from mixwell.cli.options import add_run_options, run_options
from mixwell.cli.studying import add_engine_options, run_and_present
from mixwell.errors import InputError, suggest

__all__ = ["COMMAND"]

_ABOUT = """\
Run one of the papers' protocols, or a study that a YAML file declares: methods x seeds x whatever
varies, with statistics and a report. An option that is given a list varies (--imbalance 10,100).

Results go into DIR/study.db as each run ends. Killed at any moment, the same command goes on
where it was; with more methods, seeds or values it adds what is missing. Several processes, on
machines that share the folder, may work on one study at a time.

protocols:
"""
_EXAMPLES = """\
examples:
  mixwell study long-tailed
  mixwell study coarse-to-fine --data fashion-mnist --data-dir DIR --train-size 6000 --seeds 3
  mixwell study long-tailed --data fashion-mnist --data-dir DIR --imbalance 10,100 \\
      --largest-class 3000 --methods "erm,mixup,infinite_class,am_mixup(k=3)"
  mixwell study regression --preset paper --data-dir DIR
  mixwell study balanced --data digits --ood fashion-mnist --data-dir DIR --shift
  mixwell study my_study.yaml --engine ray
"""


def _add(parser: argparse.ArgumentParser, asked: bool) -> None:
    parser.add_argument("protocol", metavar="PROTOCOL", help="a protocol, or a study's YAML file")
    parser.add_argument("--preset", metavar="NAME", help="paper: the published settings")
    parser.add_argument(
        "--methods", metavar="A,B,C", help="as of compare (default: the protocol's)"
    )
    parser.add_argument("--seeds", metavar="N", help="how many, or which: 0,5,7")
    parser.add_argument(
        "--settings", metavar="FILE", help="settings of methods: what 'mixwell tune' wrote"
    )
    add_engine_options(parser)
    parser.add_argument(
        "--out", metavar="DIR",
        help="the study's folder (default: runs/PROTOCOL-DATA-MODEL, and a digest of settings "
        "that are not as usual)",
    )  # fmt: skip
    if asked:
        add_run_options(parser, without=("method", "seed"), lists=True)


def _protocols() -> str:
    import textwrap

    from mixwell.studies import PROTOCOLS

    shown = []
    for protocol in PROTOCOLS.values():
        lines = textwrap.wrap(protocol.about, 78)
        presets = f"  [{', '.join(protocol.presets)}]" if protocol.presets else ""
        shown += [f"  {protocol.name}{presets}", *("      " + line for line in lines)]
    return "\n".join(shown)


def _study(options: argparse.Namespace) -> int:
    from mixwell.studies.protocols import PROTOCOLS
    from mixwell.studies.study import build, parse_methods, read_study

    declared: dict[str, Any] = {}
    name = options.protocol
    if Path(name).suffix.lower() in (".yaml", ".yml"):
        declared = read_study(name)
        brought = imported_of_file(Path(name), declared.get("import") or [])
        options.imports += tuple(record for record in brought if record not in options.imports)
        name = declared.get("protocol", "balanced")
    if not isinstance(name, str) or name not in PROTOCOLS:
        raise InputError(
            f"protocol {name!r} is unknown{suggest(str(name), PROTOCOLS)}; known: "
            f"{', '.join(PROTOCOLS)}; or give a YAML file"
        )
    methods, seeds = options.methods or declared.get("methods"), declared.get("seeds")
    if isinstance(methods, str):
        methods = parse_methods(methods)
    if options.seeds is not None or not isinstance(seeds, (list, type(None))):
        seeds = listed_seeds(str(options.seeds or seeds))
    chosen = _read_settings(declared.get("settings"))
    chosen.update(_read_settings(options.settings))
    chosen.update(settings("--set", options.set))
    given = {k: v for k, v in declared.items() if k in _run_fields()} | run_options(options)
    study = build(
        PROTOCOLS[name],
        given,
        methods=methods,
        seeds=seeds,
        settings=chosen,
        preset=options.preset or declared.get("preset"),
    )
    options.baseline = options.baseline or declared.get("baseline")
    options.results = options.results or declared.get("results")
    return run_and_present(study, options, options.out or declared.get("out"), given, name)


def _run_fields() -> list[str]:
    from mixwell.training import RunConfig

    return list(RunConfig.__dataclass_fields__)


def _read_settings(source: Any) -> dict[str, Any]:
    """Return methods' settings from a mapping, or from the YAML file that it names."""
    if source is None:
        return {}
    if isinstance(source, str):
        from mixwell.studies.yaml_file import read_yaml

        try:
            content = read_yaml(source)
        except InputError as error:
            raise InputError(f"settings={source!r}: {error}") from error
        source = content.get("settings", content) if isinstance(content, dict) else content
    if not isinstance(source, dict):
        raise InputError("settings must map methods to settings: {sk_mixup: {tau_std: 0.5}}")
    found: dict[str, Any] = {}
    for name, value in source.items():
        if isinstance(value, dict):
            found.update({f"{name}:{key}": inner for key, inner in value.items()})
        else:
            found[str(name)] = value
    return found


COMMAND = Command(
    "study", "run a protocol of the papers", _ABOUT, _add, _study, _EXAMPLES, _protocols
)
