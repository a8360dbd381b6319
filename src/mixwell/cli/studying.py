"""What commands that run studies share: options, running, showing what came out."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixwell.cli.command import command_line
from mixwell.cli.options import check_matter
from mixwell.cli.progress import Progress
from mixwell.cli.terminal import tell
from mixwell.errors import InputError, last_line

if TYPE_CHECKING:
    from mixwell.studies import Cell, Engine, Study

__all__ = [
    "add_engine_options",
    "check_results",
    "engine_of",
    "present",
    "run_and_present",
    "workers_of",
]


def add_engine_options(parser: argparse.ArgumentParser, results: bool = True) -> None:
    """Add the options of how a study's runs are made and compared.

    Args:
        parser: that gets them.
        results: whether runs may be entered into a file.
    """
    parser.add_argument(
        "--baseline", metavar="M", help="what the others are tested against (default: erm)"
    )
    parser.add_argument(
        "--workers", type=int, metavar="N",
        help="runs at a time, each with its share of the processor (default: one a core, or "
        "one in all where there is a GPU)",
    )  # fmt: skip
    parser.add_argument(
        "--engine", choices=("local", "ray"), default="local",
        help="where they run: this machine, or a Ray cluster (default: local)",
    )  # fmt: skip
    parser.add_argument(
        "--ray-address", metavar="HOST:PORT", help="of a running cluster (default: RAY_ADDRESS)"
    )
    parser.add_argument(
        "--gpus-per-run", type=float, metavar="X",
        help="with ray: GPUs, or the share of one, that each run takes (default: 0)",
    )  # fmt: skip
    if results:
        parser.add_argument(
            "--results", metavar="FILE.csv",
            help="enter each run into this file as it ends, and don't train what stands there: a "
            "study goes on from it where its folder is gone",
        )  # fmt: skip


def engine_of(options: argparse.Namespace, threads: int | None) -> Callable[[], Engine] | None:
    """Return what makes the engine that is asked for; None for processes of this machine.

    Raises:
        InputError: an option is of the other engine.
    """
    ray = options.engine == "ray"
    named = {
        "--ray-address": options.ray_address, "--gpus-per-run": options.gpus_per_run,
    }  # fmt: skip
    given = [name for name, value in named.items() if value is not None]
    if given and not ray:
        raise InputError(f"{given[0]} is of --engine ray; give that, too, or leave it out")
    if not ray:
        return None
    if options.workers is not None:
        raise InputError(
            "--workers is of --engine local: on a Ray cluster as many runs go at a time as it has "
            "room for (--threads, --gpus-per-run say what each takes); leave it out"
        )

    def engine() -> Engine:
        from mixwell.studies import RayEngine

        return RayEngine(options.ray_address, threads or 1, options.gpus_per_run or 0.0)

    return engine


def workers_of(options: argparse.Namespace) -> int:
    """Return how many runs at a time are asked for, or suit the machine."""
    from mixwell.studies.run import default_workers

    if options.workers is not None and options.workers < 1:
        raise InputError(f"workers must be 1 at least, got {options.workers}")
    return options.workers or default_workers()


def check_results(results: str | None, out: Path) -> None:
    """Raise an InputError if the results file is one that the report writes, or none."""
    if results is None:
        return
    from mixwell.studies.results_file import ResultsFile

    if Path(results).resolve() == (out / "results.csv").resolve():
        raise InputError(
            f"results={results!r} is the table that the report writes; name another file"
        )
    ResultsFile(results)


def run_and_present(
    study: Study, options: argparse.Namespace, out: str | Path | None, given: Iterable[str],
    kind: str = "",
) -> int:  # fmt: skip
    """Run what a study lacks, show what came out, and return the exit status.

    Args:
        study: that is run.
        options: of the command.
        out: its folder, if it is named.
        given: the options of its runs that were asked for.
        kind: what its folder is called by, too.
    """
    import mixwell.report  # noqa: F401  (what it needs must be there before the runs, not after)
    from mixwell.studies import run_cells
    from mixwell.studies.statistics import check_baseline

    make_engine = engine_of(options, study.base.threads)
    workers = workers_of(options)
    check_baseline(options.baseline, study.labels())
    cells = study.plan(out, kind)
    check_matter(given, [cell.config for cell in cells])
    for label, _, _, own in study.options():
        check_matter(own, [cell.config for cell in cells if cell.label == label])
    out = cells[0].folder.parent
    check_results(options.results, out)
    engine = None if make_engine is None else make_engine()
    if engine is None:
        _check_machine(cells)
    with Progress(len(cells)) as show:

        def report(cell: Cell, event: dict[str, Any]) -> None:
            show(cell.name, event)

        records = run_cells(
            cells, out, study=study, workers=workers, engine=engine, report=report,
            command=command_line(), results=options.results, baseline=options.baseline,
        )  # fmt: skip
    return present(records, out, options.baseline, command_line(), study.protocol)


def _check_machine(cells: list[Cell]) -> None:
    """Raise an InputError if this machine lacks what a run is to be trained on."""
    from mixwell.training.machine import is_anywhere, make_fabric

    asked = {(c.config.accelerator, c.config.devices, c.config.precision): c for c in cells}
    for cell in asked.values():
        if not is_anywhere(cell.config):  # the check imports what takes longer than torch
            make_fabric(cell.config)


def present(
    records: list[Any], out: Path, baseline: str | None, command: str, protocol: str
) -> int:
    """Show the table, write the report, and name what failed."""
    from rich.console import Console

    from mixwell import report

    console = Console()
    width = console.width if console.is_terminal else 120
    console = Console(width=width)
    for table in report.tables(records, baseline=baseline, width=width, protocol=protocol):
        console.print(table)
    paths = report.write(records, out, command=command, baseline=baseline, protocol=protocol)
    failed = [record for record in records if record.status == "failed"]
    for record in failed:
        tell(f"failed: {record.path.name}: {last_line(record.error)}", error=True)
    print(f"Report: {paths.html}")
    return 1 if failed else 0
