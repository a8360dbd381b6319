"""Choosing a method's settings by validation, as the papers do: Optuna's search, resumable."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mixwell.errors import InputError, suggest
from mixwell.methods import ranges
from mixwell.studies.run import run_cells
from mixwell.studies.store import Cell, Store
from mixwell.studies.study import slug
from mixwell.training.config import RunConfig
from mixwell.training.files import make_folder, write_atomically

__all__ = ["Tuned", "tune"]

_MEASURES = {
    "classification": ("nll", "accuracy", "ece"),
    "regression": ("rmse",),
}
_SEED = 0  # of the search itself


@dataclass(frozen=True)
class Tuned:
    """What a search found.

    Attributes:
        method: whose settings they are.
        settings: the best.
        value: of the measure with them, on validation data.
        measure: what was optimised.
        default: the measure's value with the usual settings: always the first trial.
        trials: how many were made, failures among them.
        failed: how many of them failed.
    """

    method: str
    settings: dict[str, Any]
    value: float
    measure: str
    default: float
    trials: int
    failed: int

    def __str__(self) -> str:
        found = ", ".join(f"{name}={value:.4g}" for name, value in self.settings.items())
        failed = f", {self.failed} failed" if self.failed else ""
        return (
            f"{self.method}: {found}\n"
            f"validation {self.measure} {self.value:.5g}; with the usual settings "
            f"{self.default:.5g} ({self.trials} trials{failed})"
        )


def tune(
    config: RunConfig,
    out: str | Path,
    *,
    trials: int = 20,
    measure: str | None = None,
    search: Sequence[str] | None = None,
    seeds: Sequence[int] = (0,),
    workers: int = 1,
    report: Callable[[str, dict[str, Any]], None] = lambda name, event: None,
    command: str = "",
) -> Tuned:
    """Search a method's settings on validation data.

    The first trial has the usual settings; the others are drawn by Optuna's TPE from the ranges
    that the method's parts declare. Every trial is a cell of a study in ``out``, and the search
    itself lies there too (``tune.db``): the same call goes on where it stopped. Ends by writing
    ``tuned.yaml``: the settings, in the form that a study takes.

    Args:
        config: the run that is tuned; settings that it gives the method stay fixed.
        out: the folder.
        trials: how many in all, finished ones included.
        measure: of the validation split: "nll", "accuracy" or "ece"; "rmse" in regression.
        search: the settings to search; all that have a declared range, without.
        seeds: runs of each trial, whose measures are averaged.
        workers: runs at a time.
        report: told of each run's events, with its name.
        command: kept in the results.

    Raises:
        InputError: the method has nothing to search, or an argument can't work.
    """
    try:
        import optuna
    except ImportError as error:
        raise InputError("tune needs Optuna: pip install 'mixwell[tune]'") from error
    if isinstance(trials, bool) or not isinstance(trials, int) or trials < 1:
        raise InputError(f"trials must be a whole number from 1 on, got {trials!r}")
    dataset = replace(config, seed=seeds[0]).load_data()
    config = config.resolved(dataset)
    space = _space(config, search, dataset.task)
    config.check(dataset)
    known = _MEASURES[dataset.task]
    measure = measure or known[0]
    if measure not in known:
        raise InputError(
            f"measure={measure!r} is unknown{suggest(measure, known)}; of validation data there "
            f"are {', '.join(known)}"
        )
    folder = Path(out)
    make_folder("out", folder)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    identity = f"{config.fingerprint}-{measure}-{'-'.join(space)}-{list(seeds)}"
    search_ = optuna.create_study(
        storage=f"sqlite:///{folder / 'tune.db'}",
        study_name=identity,
        direction="maximize" if measure == "accuracy" else "minimize",
        load_if_exists=True,
    )
    state = optuna.trial.TrialState
    search_.sampler = optuna.samplers.TPESampler(
        # Where it goes on it must not draw again what it drew at first.
        seed=_SEED + len(search_.get_trials(deepcopy=False)),
        constant_liar=workers > 1,
        n_startup_trials=max(5, min(10, trials // 2)),
    )
    usual = {name: bounds.default for name, bounds in space.items()}
    if not search_.get_trials(deepcopy=False):
        search_.enqueue_trial({k: v for k, v in usual.items() if v is not None})
    for left in search_.get_trials(deepcopy=False, states=[state.RUNNING]):
        # A process that is gone had asked for it: its settings are tried again.
        search_.enqueue_trial(left.params)
        search_.tell(left.number, state=state.FAIL)

    at_a_time = max(1, workers // len(seeds))
    while True:
        ended = search_.get_trials(deepcopy=False, states=[state.COMPLETE, state.PRUNED])
        missing = trials - len(ended)
        if missing <= 0:
            break
        asked = [search_.ask() for _ in range(min(at_a_time, missing))]
        chosen = [
            {
                name: trial.suggest_float(name, bounds.low, bounds.high, log=bounds.log)
                for name, bounds in space.items()
            }
            for trial in asked
        ]
        values = _measured(config, chosen, folder, measure, seeds, workers, report, command)
        for trial, value in zip(asked, values, strict=True):
            if value is None:
                search_.tell(trial, state=state.PRUNED)  # it failed: not to be tried again
            else:
                search_.tell(trial, value)
        _write(search_, config, space, measure, folder, state)
    return _write(search_, config, space, measure, folder, state)


def _space(config: RunConfig, search: Sequence[str] | None, task: str) -> Mapping[str, Any]:
    """Return the ranges to search: those asked for, without the settings that are given."""
    known = ranges(config.method, task)
    for name in search or ():
        if name not in known:
            raise InputError(
                f"search: {config.method} declares no range of {name!r}{suggest(name, known)}; "
                f"it has {', '.join(known) or 'none'}"
            )
    space = {
        name: bounds
        for name, bounds in known.items()
        if name not in config.method_options and (not search or name in search)
    }
    if not space:
        raise InputError(
            f"{config.method} has nothing to search: its parts declare "
            f"{', '.join(known) or 'no ranges'}"
        )
    return space


def _measured(
    config: RunConfig,
    chosen: Sequence[dict[str, Any]],
    folder: Path,
    measure: str,
    seeds: Sequence[int],
    workers: int,
    report: Callable[[str, dict[str, Any]], None],
    command: str,
) -> list[float | None]:
    """Train each choice with each seed; return the means, None where a run failed."""
    by_choice = []
    for options in chosen:
        cells = []
        for seed in seeds:
            own = replace(config, seed=seed, method_options={**config.method_options, **options})
            name = f"{slug(own.label)[:80]}-{own.fingerprint}-seed{seed}"
            cells.append(Cell(own, folder / name, {}, own.label))
        by_choice.append(cells)
    once = {cell.name: cell for cells in by_choice for cell in cells}
    run_cells(
        list(once.values()), folder, workers=workers, command=command,
        report=lambda cell, event: report(cell.name, event),
    )  # fmt: skip
    found = {record.path.name: record for record in Store(folder).records(list(once))}
    values: list[float | None] = []
    for cells in by_choice:
        records = [found.get(cell.name) for cell in cells]
        done = [r.metrics[f"val_{measure}"] for r in records if r and r.status == "done"]
        values.append(sum(done) / len(done) if len(done) == len(cells) else None)
    return values


def _write(
    search: Any, config: RunConfig, space: Mapping[str, Any], measure: str, folder: Path, state: Any
) -> Tuned:
    """Write and return the best of what has been tried so far."""
    import yaml

    done = search.get_trials(deepcopy=False, states=[state.COMPLETE])
    failed = len(search.get_trials(deepcopy=False, states=[state.PRUNED]))
    if not done:
        raise InputError(f"every trial failed; see the logs in {folder}")
    sign = -1 if measure == "accuracy" else 1
    best = min(done, key=lambda trial: sign * trial.value)
    first = min(done, key=lambda trial: trial.number)
    settings = {**config.method_options, **best.params}
    found = Tuned(
        config.method, settings, best.value, measure, first.value, len(done) + failed, failed
    )
    header = "".join(f"# {line}\n" for line in str(found).splitlines())
    body = yaml.safe_dump(
        {
            "settings": {config.method: settings},
            "tuned": {
                "data": config.data, "measure": f"validation {measure}", "value": best.value,
                "usual settings": first.value, "trials": len(done) + failed,
                "ranges": {name: str(bounds) for name, bounds in space.items()},
            },
        },
        sort_keys=False, allow_unicode=True,
    )  # fmt: skip
    write_atomically(folder / "tuned.yaml", (header + body).encode())
    return found
