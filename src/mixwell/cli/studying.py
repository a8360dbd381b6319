"""What commands that run studies share: options, running, showing what came out."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixwell.cli.command import command_line
from mixwell.cli.progress import Progress
from mixwell.cli.terminal import tell
from mixwell.errors import InputError, last_line

if TYPE_CHECKING:
    from mixwell.studies import Cell, Engine, Study

__all__ = [
    "add_engine_options",
    "check_results",
    "present",
    "run_and_present",
    "workers_of",
]


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of how a study's runs are made and compared."""
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
        "--gpus-per-run", type=float, default=0.0, metavar="X",
        help="with ray: GPUs, or the share of one, that each run takes (default: 0)",
    )  # fmt: skip
    parser.add_argument(
        "--results", metavar="FILE.csv",
        help="enter each run into this file as it ends, and don't train what stands there: a "
        "study goes on from it where its folder is gone",
    )  # fmt: skip


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
    study: Study, options: argparse.Namespace, out: str | Path | None, kind: str = ""
) -> int:
    """Run what a study lacks, show what came out, and return the exit status."""
    import mixwell.report  # noqa: F401  (what it needs must be there before the runs, not after)
    from mixwell.studies import RayEngine, run_cells
    from mixwell.studies.statistics import check_baseline

    workers = workers_of(options)
    check_baseline(options.baseline, study.labels())
    cells = study.plan(out, kind)
    out = cells[0].folder.parent
    check_results(options.results, out)
    engine: Engine | None = None
    if options.engine == "ray":
        engine = RayEngine(options.ray_address, study.base.threads or 1, options.gpus_per_run)
    else:
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
    from mixwell.training.machine import make_fabric

    asked = {(c.config.accelerator, c.config.devices, c.config.precision): c for c in cells}
    for cell in asked.values():
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
