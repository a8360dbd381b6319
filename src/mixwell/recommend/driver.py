"""What is asked for, checked; :class:`Course <mixwell.recommend.course.Course>` does it."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mixwell import plugins
from mixwell.data import Dataset
from mixwell.errors import InputError, suggest
from mixwell.metrics.measures import Measure
from mixwell.recommend.answer import Recommendation
from mixwell.recommend.candidates import candidates
from mixwell.recommend.course import Asked, Course, Report
from mixwell.recommend.ledger import CONTENT, Ledger
from mixwell.recommend.planning import seconds_of
from mixwell.studies.engines import Engine, LocalEngine
from mixwell.studies.likeness import what_it_is
from mixwell.studies.run import default_workers
from mixwell.studies.study import Study, parse_methods
from mixwell.studies.tune import tunable
from mixwell.training.build import load_data, make_model, resolved
from mixwell.training.config import RunConfig
from mixwell.training.files import make_folder
from mixwell.training.machine import locked
from mixwell.training.prepare import check, check_asked, with_measured

__all__ = ["measures_of", "recommend"]


def recommend(
    config: RunConfig,
    out: str | Path,
    *,
    budget: str | float,
    measure: str | None = None,
    methods: str | Sequence[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    baseline: str = "erm",
    workers: int | None = None,
    engine: Callable[[], Engine] | None = None,
    report: Report = lambda event: None,
    command: str = "",
    elapsed: float = 0.0,
) -> Recommendation:
    """Find out which method to use on these data with this network, and whether it is worth it.

    Candidates race on validation data by successive halving, with paired seeds; their runs go on
    from their checkpoints. The finalists and the baseline are then trained anew with other seeds,
    as many as the budget has room for, and only these runs are measured on the test split, once,
    at the end. What is claimed holds with 95 % for all finalists together (:mod:`decision
    <mixwell.recommend.decision>`).

    Killed at any moment, the same call goes on with the same decisions; the time between doesn't
    count. The folder gets ``recommendation.json`` and ``report.html``, and the runs in ``race``
    and ``final``, the latter a study's folder.

    Args:
        config: the data, the network and how they are trained; its method and seed don't matter.
            Where it leaves the epochs open, a small budget has shorter runs.
        out: the folder.
        budget: of wall-clock time: "30m", or seconds.
        measure: what counts: "accuracy", "nll" or "ece"; in regression "rmse". The first that the
            task has, without.
        methods: the candidates, as of a study: a list, or "mixup,cutmix"; without, what suits the
            data set.
        settings: of the methods; each goes to those that know it.
        baseline: the method that the others must be better than.
        workers: runs at a time.
        engine: makes what runs them; processes of this machine without.
        report: told what happens: "measuring", "plan", "stage", "run", "rung", "answer".
        command: the command line, kept in the results.
        elapsed: seconds of the budget that are gone before the call.

    Raises:
        InputError: something can't work, the budget is too small for any conclusion, or the
            folder holds a recommendation of other settings.
    """
    seconds = seconds_of(budget)
    methods = parse_methods(methods) if isinstance(methods, str) else methods
    if workers is not None and (isinstance(workers, bool) or workers < 1):
        raise InputError(f"workers must be 1 at least, got {workers!r}")
    dataset, loading = _loaded(config, 0.1 * seconds)
    check_asked(config, dataset)
    chosen = _measure(measure, dataset)
    base = replace(resolved(replace(config, published=None), dataset), published=config.published)
    base = with_measured(base, dataset)
    make_model(base, dataset)
    configs = _configs(base, dataset, methods, settings or {}, baseline)
    folder = Path(out)
    make_folder("out", folder)
    identity = _identity(
        config, base, budget=seconds, measure=chosen.name, baseline=baseline,
        methods=None if methods is None else list(methods), settings=dict(settings or {}),
    )  # fmt: skip
    many = workers or default_workers()
    make_engine = engine or (lambda: LocalEngine(many))
    with locked(folder, 10.0):
        asked = Asked(
            config, base, dataset, configs, folder, seconds, chosen, methods is not None, many,
            loading, command,
        )  # fmt: skip
        return Course(asked, Ledger(folder, identity, elapsed), make_engine, report).run()


def _identity(config: RunConfig, base: RunConfig, **asked: Any) -> dict[str, Any]:
    """Return what makes a recommendation another than others."""
    shared = {k: v for k, v in config.changes().items() if k not in ("method", "seed", "imports")}
    held = {} if base.data_digest is None else {CONTENT: base.data_digest}
    return {**asked, "import": plugins.summary(base.imports), **held, **shared}


def _loaded(config: RunConfig, little: float) -> tuple[Dataset, float]:
    """Return the data set, and the seconds that a run's process will take to read it.

    The first time there may be much to import; where that took but little, it is done again.
    """
    for _ in range(2):
        began = time.perf_counter()
        dataset = load_data(config)
        took = time.perf_counter() - began
        if took > little:
            break
    return dataset, took


def measures_of(task: str) -> dict[str, Measure]:
    """Return the measures that can count in a task, by name, that of choice first."""
    known = [m for m in tunable(task) if m.higher_is_better is not None]
    return {m.name: m for m in sorted(known, key=lambda m: m.name != "accuracy")}


def _measure(name: str | None, dataset: Dataset) -> Measure:
    """Return the measure that is asked for, or the one of choice."""
    known = measures_of(dataset.task)
    if name is not None and name not in known:
        raise InputError(
            f"for={name!r}: candidates can't be told apart by that{suggest(name, known)}; in "
            f"{dataset.task} they can by {', '.join(known)}"
        )
    return known[name] if name is not None else next(iter(known.values()))


def _configs(
    base: RunConfig, dataset: Dataset, methods: Sequence[str] | None, settings: Mapping[str, Any],
    baseline: str,
) -> dict[str, RunConfig]:  # fmt: skip
    """Return the runs' configurations by label, the baseline's first.

    A method that can't work with the data is an error where it was named, else left out.
    """
    named = candidates(dataset, baseline) if methods is None else list(methods)
    others = [name for name in named if name != baseline]
    if not others:
        raise InputError(f"methods must name one at least beside the baseline {baseline!r}")
    found: dict[str, RunConfig] = {}
    kinds: dict[Hashable, str] = {}
    study = Study(base, [baseline, *others], [0], settings=settings)
    for place, (label, method, options, trained) in enumerate(study.options()):
        config = replace(base, method=method, method_options=options, **trained)
        try:
            check(config, dataset)
        except InputError:
            if methods is not None or place == 0:
                raise
            continue
        same = kinds.setdefault(what_it_is(config, dataset), label)
        if same == label:
            found[label] = config
        elif methods is not None:
            raise InputError(
                f"methods names one twice: {same} and {label} are the same method, trained alike; "
                "leave one out"
            )
    return found
