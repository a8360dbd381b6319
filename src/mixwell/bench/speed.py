"""The speed benchmark: what is measured, in which sizes, and the files that come of it."""

from __future__ import annotations

import datetime
import os
import platform
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import mixwell
from mixwell.bench import output
from mixwell.bench.losses import kernel_lambda, losses, peak_memory
from mixwell.bench.mixing import Batch, mixing
from mixwell.bench.steps import COMPILED, METHODS, Training, compiled_step, epochs, steps
from mixwell.bench.timing import Contender, Timing, measure, ratios, spread, stopwatch
from mixwell.errors import InputError, suggest
from mixwell.training.build import load_data
from mixwell.training.config import RunConfig
from mixwell.training.files import make_folder, write_atomically, write_json

__all__ = ["SECTIONS", "Plan", "pick_device", "speed"]

SECTIONS = ("mixing", "losses", "lambda", "step", "epoch", "compile")
_OF_SECTIONS = {
    "batch_size": ("step", "compile"), "methods": ("step", "epoch"), "data": ("epoch",),
    "data_dir": ("epoch",),
}  # fmt: skip
"""Options to the sections that they are of."""
_PACKAGES = (
    "mixwell", "torch", "torchvision", "timm", "kornia", "torch-uncertainty", "mixup", "scipy",
    "numpy",
)  # fmt: skip
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Plan:
    """What is measured, and how often.

    Attributes:
        mixing: the batches that are mixed.
        losses: (B, C) of the logits.
        pairs: for which λ is drawn.
        steps: the models that are trained.
        compiled: the model that is compiled.
        methods: compiled with it.
        trained: the methods whose training steps and epochs are measured.
        data: the data sets whose epochs are.
        data_dir: their folder.
        train_size: samples of an epoch at most.
        repeats: samples of each contender.
        step_repeats: samples of each training step and epoch.
        sections: of :data:`SECTIONS`.
    """

    mixing: tuple[Batch, ...]
    losses: tuple[tuple[int, int], ...]
    pairs: int
    steps: tuple[Training, ...]
    compiled: Training
    methods: tuple[str, ...] = COMPILED
    trained: tuple[str, ...] = tuple(METHODS)
    data: tuple[str, ...] = ("digits",)
    data_dir: str | None = None
    train_size: int = 6_000
    repeats: int = 15
    step_repeats: int = 9
    sections: tuple[str, ...] = SECTIONS

    @classmethod
    def full(cls, device: torch.device) -> Plan:
        """Return the whole benchmark; training in small batches where there is no GPU."""
        gpu = device.type == "cuda"
        halves = (torch.float16, torch.bfloat16, torch.uint8)

        def others(group: str, *shapes: tuple[int, int]) -> list[Batch]:
            return [Batch(b, s, group=group, peers=False, compiled=False) for b, s in shapes]

        return cls(
            mixing=(
                Batch(128, 224),
                Batch(128, 32),
                *(Batch(128, 224, dtype, group="dtype") for dtype in halves),
                Batch(128, 32, torch.uint8, group="dtype"),
                *others("batch size", (8, 32), (32, 32), (512, 32), (2048, 32)),
                *others("image size", (32, 32), (32, 64), (32, 128), (32, 224)),
            ),
            losses=((128, 100), (256, 1000), (256, 21843)),
            pairs=8192,
            steps=(
                Training("resnet18", 128 if gpu else 32, 32),
                Training("timm:resnet18", 128 if gpu else 8, 224),
            ),
            compiled=Training("cnn", 128, 32),
        )

    @classmethod
    def quick(cls) -> Plan:
        """Return one that ends within a minute or so on two cores: for a look, not for a claim."""
        halves = (torch.float16, torch.bfloat16, torch.uint8)
        return cls(
            mixing=(
                Batch(16, 224, compiled=False),
                Batch(128, 32),
                *(Batch(128, 32, t, group="dtype", peers=False, compiled=False) for t in halves),
            ),
            losses=((128, 100), (128, 1000), (32, 21843)),
            pairs=2048,
            steps=(Training("resnet18", 8, 32),),
            compiled=Training("cnn", 32, 32),
            methods=("erm", "mixup", "decoupled"),
            repeats=5,
            step_repeats=3,
            sections=tuple(name for name in SECTIONS if name != "compile"),
        )

    def changed(
        self,
        repeats: int | None = None,
        only: Sequence[str] | None = None,
        batch_size: int | None = None,
        methods: Sequence[str] | None = None,
        data: Sequence[str] | None = None,
        data_dir: str | None = None,
    ) -> Plan:
        """Return the plan with what a user asked for otherwise.

        Args:
            repeats: samples of each contender, steps too.
            only: the sections to run.
            batch_size: of the training steps.
            methods: whose training steps and epochs are measured: any method or composition.
            data: whose epochs are: data sets of classes.
            data_dir: their folder.

        Raises:
            InputError: a value makes no sense.
        """
        plan = self
        if repeats is not None:
            _at_least_one("repeats", repeats)
            plan = replace(plan, repeats=repeats, step_repeats=repeats)
        if only is not None:
            for name in only:
                if name not in SECTIONS:
                    raise InputError(
                        f"only: the section {name!r} is unknown{suggest(name, SECTIONS)}; known: "
                        f"{', '.join(SECTIONS)}"
                    )
            plan = replace(plan, sections=tuple(name for name in SECTIONS if name in only))
        given = {
            "batch_size": batch_size, "methods": methods, "data": data, "data_dir": data_dir,
        }  # fmt: skip
        for name, sections in _OF_SECTIONS.items():
            if given[name] is not None and not set(sections) & set(plan.sections):
                raise InputError(
                    f"{name} is of the sections {', '.join(sections)}, of which none is measured "
                    f"({', '.join(plan.sections)}); leave it out"
                )
        if batch_size is not None:
            if batch_size < 2:
                raise InputError(f"batch_size must be 2 at least, to mix, got {batch_size}")
            plan = replace(
                plan,
                steps=tuple(replace(step, size=batch_size) for step in plan.steps),
                compiled=replace(plan.compiled, size=batch_size),
            )
        if methods is not None:
            for name in methods:
                if name not in METHODS:
                    mixwell.describe(name)  # an InputError where there is no such method
            plan = replace(plan, trained=tuple(methods))
        if data is not None or data_dir is not None:
            chosen = plan.data if data is None else tuple(data)
            for name in chosen:
                if not load_data(RunConfig(data=name, data_dir=data_dir)).classes:
                    raise InputError(f"data={name!r} has no classes, which the floor's loss needs")
            plan = replace(plan, data=chosen, data_dir=data_dir)
        return plan


def _at_least_one(argument: str, value: int) -> None:
    if value < 1:
        raise InputError(f"{argument} must be 1 at least, got {value}")


def pick_device(name: str) -> torch.device:
    """Return the device of this name, if it is there.

    Raises:
        InputError: there is no GPU that torch can use.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("device='cuda': torch finds no GPU here; use device='cpu'")
    return torch.device(name)


def speed(
    plan: Plan,
    out: str | Path,
    *,
    device: torch.device | str = "cpu",
    threads: int | None = None,
    show: Callable[[Rows], None] | None = None,
    note: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Measure, and write speed.json, speed.md, speed.svg and speed.png as each section ends.

    Args:
        plan: what to measure.
        out: the folder that they are written to.
        device: to measure on.
        threads: of torch; as many as it uses by itself without.
        show: called with the rows of each case once it is measured.
        note: called with what is measured next.

    Returns:
        What speed.json holds.

    Raises:
        InputError: the folder can't be written to, or a number makes no sense.
    """
    folder, device = Path(out), torch.device(device)
    if threads is not None:
        _at_least_one("threads", threads)
    make_folder("out", folder)
    usual = torch.get_num_threads()
    torch.set_num_threads(threads or usual)
    torch.manual_seed(0)
    document: dict[str, Any] = {
        "machine": _machine(device),
        "packages": {name: _version(name) for name in _PACKAGES},
        "options": {
            "sections": list(plan.sections),
            "repeats": plan.repeats,
            "step_repeats": plan.step_repeats,
        },
        "seconds": {},
        "rows": [],
    }
    try:
        for section in plan.sections:
            begin = time.monotonic()
            for rows in _section(section, plan, device, note or (lambda text: None)):
                document["rows"] += rows
                if show is not None:
                    show(rows)
            document["seconds"][section] = round(time.monotonic() - begin, 1)
            write_json(folder / "speed.json", document)
            write_atomically(folder / "speed.md", output.markdown(document).encode())
            for kind, picture in output.draw(document).items():
                write_atomically(folder / f"speed.{kind}", picture)
    finally:
        torch.set_num_threads(usual)
    return document


# --------------------------------------------------------------------------------------- sections


def _section(
    section: str, plan: Plan, device: torch.device, note: Callable[[str], None]
) -> Iterator[Rows]:
    """Yield the rows of each of a section's cases."""
    watch = stopwatch(device)

    def timed(
        contenders: list[Contender], repeats: int = plan.repeats, warmup: int = 2
    ) -> dict[str, Timing]:
        return measure(contenders, repeats, watch=watch, warmup=warmup)

    if section == "mixing":
        for batch in plan.mixing:
            note(f"mixing {batch}")
            torch.compiler.reset()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the peers' are not ours to mend
                contenders = mixing(batch, device)
                timings = timed(contenders)
            yield _rows(section, batch.group, str(batch), contenders, timings)
    elif section == "losses":
        for size, classes in plan.losses:
            note(f"losses {size}×{classes}")
            contenders = losses(size, classes, device)
            timings = timed(contenders)
            for contender in contenders:
                assert contender.run is not None
                peak = peak_memory(contender.run, 4 * size * classes, device)
                contender.traits = {
                    "peak memory, × (B, C)": "–" if peak is None else f"{peak.buffers:.2f}",
                    "buffers": "–" if peak is None or peak.count is None else str(peak.count),
                }
            yield _rows(section, "main", f"{size}×{classes:,}", contenders, timings)
    elif section == "lambda":
        note("λ of the similarity kernel")
        contenders = kernel_lambda(plan.pairs, device)
        yield _rows(section, "main", f"{plan.pairs:,} pairs", contenders, timed(contenders))
    elif section == "step":
        for case in plan.steps:
            note(f"training {case}")
            contenders = steps(case, device, plan.trained)
            timings = timed(contenders, plan.step_repeats, warmup=1)
            yield _rows(section, "main", str(case), contenders, timings)
    elif section == "epoch":
        for name in plan.data:
            note(f"epochs of {name}")
            contenders = epochs(name, plan.data_dir, plan.train_size, device, plan.trained)
            yield _rows(section, "main", name, contenders, timed(contenders, plan.step_repeats))
    else:
        rows: Rows = []
        for name in ("plain loop", *plan.methods):
            note(f"compiling {name}")
            contenders = compiled_step(plan.compiled, device, name)
            timings = timed(contenders, plan.step_repeats)
            found = _rows(section, "main", str(plan.compiled), contenders, timings)
            rows += [row for row in found if row["kind"] != "floor"]
        yield rows


def _rows(
    section: str, group: str, case: str, contenders: list[Contender], timings: dict[str, Timing]
) -> Rows:
    """Return what is kept of each contender."""
    floor = next((timings[c.name] for c in contenders if c.kind == "floor"), Timing())
    rows = []
    for contender in contenders:
        timing = timings[contender.name]
        row: dict[str, Any] = {
            "section": section,
            "group": group,
            "case": case,
            "name": contender.name,
            "kind": contender.kind,
            "absent": timing.failure,
            "traits": contender.traits,
            "seconds": None,
            "ratio": None,
            "repeats": len(timing.seconds),
            "calls": timing.calls,
        }
        if timing.seconds:
            row["seconds"] = _three(timing.seconds)
            if floor.seconds:
                row["ratio"] = _three(ratios(timing, floor))
        rows.append(row)
    return rows


def _three(values: Sequence[float]) -> dict[str, float]:
    low, median, high = spread(values)
    return {"median": median, "lower_quartile": low, "upper_quartile": high}


# ---------------------------------------------------------------------------------------- machine


def _machine(device: torch.device) -> dict[str, Any]:
    affinity = getattr(os, "sched_getaffinity", None)  # only Linux has it
    load = getattr(os, "getloadavg", None)
    return {
        "cpu": _cpu_name(),
        "cores": len(affinity(0)) if affinity else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_at_start": round(load()[0], 2) if load else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "device": device.type,
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    if package == "mixwell":
        return mixwell.__version__
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
