"""Choosing a method's settings by validation, as the papers do: Optuna's search, resumable."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mixwell.checks import Range, check_whole, shown
from mixwell.errors import InputError, MachineError, last_line, suggest
from mixwell.methods import ranges
from mixwell.metrics.measures import VALIDATION, Measure, of
from mixwell.studies.engines import MACHINE
from mixwell.studies.run import run_cells
from mixwell.studies.store import Cell, Store
from mixwell.studies.study import slug
from mixwell.training.config import RunConfig
from mixwell.training.files import clear_leftovers, make_folder, write_atomically
from mixwell.training.machine import locked
from mixwell.training.prepare import Prepared, prepare

__all__ = ["Tuned", "tunable", "tune"]

_SEED = 0  # of the search itself


@dataclass(frozen=True)
class Tuned:
    """What a search found.

    Attributes:
        method: whose settings they are.
        settings: the best.
        value: of the measure with them, on validation data.
        measure: what was optimised.
        default: the measure's value with the usual settings: always the first trial; None where
            that failed.
        trials: how many were made, failures among them.
        failed: how many of them failed.
    """

    method: str
    settings: dict[str, Any]
    value: float
    measure: str
    default: float | None
    trials: int
    failed: int

    def __str__(self) -> str:
        found = ", ".join(f"{name}={value:.4g}" for name, value in self.settings.items())
        failed = f", {self.failed} failed" if self.failed else ""
        usual = "they failed" if self.default is None else f"{self.default:.5g}"
        return (
            f"{self.method}: {found}\n"
            f"validation {self.measure} {self.value:.5g}; with the usual settings "
            f"{usual} ({self.trials} trials{failed})"
        )


def tune(
    config: RunConfig | Prepared,
    out: str | Path,
    *,
    trials: int = 20,
    measure: str | None = None,
    search: str | Sequence[str] | None = None,
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
        config: the run that is tuned, prepared or not; settings that it gives the method stay
            fixed.
        out: the folder.
        trials: how many in all, finished ones included.
        measure: of the validation split: one of :func:`tunable`; the first of them without.
        search: the settings to search; all that have a declared range, without.
        seeds: runs of each trial, whose measures are averaged.
        workers: runs at a time.
        report: told of each run's events, with its name.
        command: kept in the results.

    Raises:
        InputError: the method has nothing to search, an argument can't work, the folder holds
            another search, or every trial failed.
    """
    _optuna()
    trials, workers = check_whole("trials", trials, 1), check_whole("workers", workers, 1)
    if not isinstance(seeds, (list, tuple, range)) or not seeds:
        raise InputError(f"seeds must be a list of whole numbers, one at least, got {shown(seeds)}")
    seeds = [check_whole("seeds", seed) for seed in seeds]
    if not isinstance(config, Prepared):
        config = prepare(replace(config, seed=seeds[0]))
    task, config = config.dataset.task, config.config
    space = _space(config, search, task)
    chosen = _measure(measure, task)
    folder = Path(out)
    make_folder("out", folder)
    identity = f"{config.fingerprint}-{chosen.name}-{'-'.join(space)}-{list(seeds)}"
    at_a_time = max(1, workers // len(seeds))

    def tried(settings: Sequence[dict[str, Any]]) -> list[float | None]:
        return _measured(config, settings, folder, chosen, seeds, workers, report, command)

    told = {
        "measure": chosen.name, "search": list(space), "seeds": seeds,
        **{name: value for name, value in config.changes().items() if name != "seed"},
    }  # fmt: skip
    with locked(folder, 0.0):
        _check_folder(folder, identity, told)
        clear_leftovers(folder)
        if (folder / Store.FILE).is_file():
            Store(folder).check_data([config])
        found = _search(folder, identity, chosen, space)
        sampler = _samplers(trials, at_a_time > 1)
        while _ended(found) < trials:
            _try_some(found, at_a_time, trials, space, tried, sampler)
            if _ended(found, failed=False):
                _write(found, config, space, chosen, folder)
        return _write(found, config, space, chosen, folder)


def tunable(task: str) -> tuple[Measure, ...]:
    """Return the measures that settings can be tuned by, that of choice first."""
    known = [measure for measure in of(task) if task in measure.validated]
    return tuple(sorted(known, key=lambda measure: not measure.tuned_by))


def _measure(name: str | None, task: str) -> Measure:
    """Return the measure that is asked for, or the one of choice."""
    known = {measure.name: measure for measure in tunable(task)}
    if name is not None and name not in known:
        raise InputError(
            f"measure={name!r} is unknown{suggest(name, known)}; of validation data there "
            f"are {', '.join(known)}"
        )
    return known[name] if name is not None else next(iter(known.values()))


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise InputError("tune needs Optuna: pip install 'mixwell[tune]'") from error
    return optuna


def _search(folder: Path, identity: str, measure: Measure, space: Mapping[str, Range]) -> Any:
    """Return Optuna's study of a search, begun or to be gone on with."""
    optuna = _optuna()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    search = optuna.create_study(
        storage=f"sqlite:///{folder / 'tune.db'}",
        study_name=identity,
        direction="maximize" if measure.higher_is_better else "minimize",
        load_if_exists=True,
    )
    usual = {name: bounds.default for name, bounds in space.items()}
    if not search.get_trials(deepcopy=False):
        search.enqueue_trial({k: v for k, v in usual.items() if v is not None})
    return search


def _check_folder(folder: Path, identity: str, told: Mapping[str, Any]) -> None:
    """Raise an InputError if a folder holds another search, or a study; keep what this one is."""
    store = Store(folder, create=True)
    before = json.loads(store.described("search", "null"))
    now = json.loads(json.dumps(told))
    changed = []
    if before is not None:
        names = dict.fromkeys([*before, *now])
        changed = [name for name in names if before.get(name) != now.get(name)]
    elif store.shared() is not None:
        raise InputError(f"out={str(folder)!r} holds a study; choose another folder for a search")
    elif (folder / "tune.db").is_file():  # of a version that did not say what it searched
        known = _optuna().get_all_study_names(f"sqlite:///{folder / 'tune.db'}")
        changed = [] if identity in known or not known else [""]
    if changed:
        said = "; ".join(
            f"{name}={(before or {}).get(name)!r}, not {now.get(name)!r}"
            for name in changed[:3]
            if name
        )
        raise InputError(
            f"out={str(folder)!r} holds another search{f' ({said})' if said else ''}, whose "
            "tuned.yaml would be lost; choose another folder or delete it"
        )
    store.describe(search=now)


def _samplers(trials: int, parallel: bool) -> Callable[[int, int], Any]:
    """Return what makes the sampler of a trial's setting, of the trial's and its own number.

    All that it draws follows from these and from the trials before: a search that is killed goes
    on as it would have.
    """
    samplers = _optuna().samplers

    def sampler(trial: int, setting: int) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # constant_liar is experimental, they say since 2021
            return samplers.TPESampler(
                seed=_SEED + 1009 * trial + setting,
                constant_liar=parallel,
                n_startup_trials=max(5, min(10, trials // 2)),
            )

    return sampler


def _ended(search: Any, failed: bool | None = None) -> int:
    """Return how many trials have ended, well or not: as ``failed`` says, or either."""
    states = [trial.state.name for trial in search.get_trials(deepcopy=False)]
    wanted = {None: ("COMPLETE", "PRUNED"), False: ("COMPLETE",), True: ("PRUNED",)}[failed]
    return sum(state in wanted for state in states)


def _try_some(
    search: Any, at_a_time: int, trials: int, space: Mapping[str, Range],
    tried: Callable[[Sequence[dict[str, Any]]], list[float | None]],
    sampler: Callable[[int, int], Any],
) -> None:  # fmt: skip
    """Ask for the settings of a group of trials, try them and tell how good they are.

    A group that a killed process had begun is gone on with: what it had asked for is tried, and
    what it hadn't is asked for now.
    """
    states = _optuna().trial.TrialState
    known = [t for t in search.get_trials(deepcopy=False) if t.state is not states.FAIL]
    begun = [trial for trial in known if trial.state is states.RUNNING]
    asked = [_optuna().trial.Trial(search, trial._trial_id) for trial in begun]
    count = sum(trial.state is not states.WAITING for trial in known)
    settings = [_asked(trial, space, sampler) for trial in asked]
    while count < trials and (not asked or count % at_a_time):
        asked.append(search.ask())
        settings.append(_asked(asked[-1], space, sampler))
        count += 1
    for trial, value in zip(asked, tried(settings), strict=True):
        if value is None:
            search.tell(trial, state=states.PRUNED)  # it failed: not to be tried again
        else:
            search.tell(trial, value)


def _asked(
    trial: Any, space: Mapping[str, Range], sampler: Callable[[int, int], Any]
) -> dict[str, float]:
    """Return a trial's settings, each drawn by a sampler of its own; those it has stay."""
    found = {}
    for place, (name, bounds) in enumerate(space.items()):
        trial.study.sampler = sampler(trial.number, place)
        found[name] = trial.suggest_float(name, bounds.low, bounds.high, log=bounds.log)
    return found


def _space(config: RunConfig, search: str | Sequence[str] | None, task: str) -> Mapping[str, Range]:
    """Return the ranges to search: those asked for, without the settings that are given."""
    known = ranges(config.method, task)
    if isinstance(search, str):
        search = [search]
    for name in search or ():
        if name not in known:
            raise InputError(
                f"search: {config.method} declares no range of {name!r}{suggest(name, known)}; "
                f"it has {', '.join(known) or 'none'}"
            )
        if name in config.method_options:
            value = shown(config.method_options[name])
            raise InputError(
                f"search: {name} is set to {value}, so that there is nothing to search of it; "
                "leave out one of the two"
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
    measure: Measure,
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
    for record in found.values():
        if (record.error or "").startswith(MACHINE):  # the settings are not to blame: not told
            raise MachineError(f"{record.path.name}: {record.error}")
    values: list[float | None] = []
    for cells in by_choice:
        records = [found.get(cell.name) for cell in cells]
        # NaN is no result to search by: as of a run that failed.
        taken = [r.metrics.get(VALIDATION + measure.name) for r in records if r]
        done = [value for value in taken if value is not None and math.isfinite(value)]
        values.append(sum(done) / len(done) if len(done) == len(cells) else None)
    return values


def _write(
    search: Any, config: RunConfig, space: Mapping[str, Range], measure: Measure, folder: Path
) -> Tuned:
    """Write and return the best of what has been tried so far."""
    import yaml

    done = [t for t in search.get_trials(deepcopy=False) if t.state.name == "COMPLETE"]
    failed = _ended(search, failed=True)
    if not done:
        raise InputError(_why_all_failed(folder, failed, measure))
    sign = -1 if measure.higher_is_better else 1
    best = min(done, key=lambda trial: sign * trial.value)
    usual = next((trial.value for trial in done if trial.number == 0), None)
    settings = {**config.method_options, **best.params}
    found = Tuned(
        config.method, settings, best.value, measure.name, usual, len(done) + failed, failed
    )
    header = "".join(f"# {line}\n" for line in str(found).splitlines())
    body = yaml.safe_dump(
        {
            "settings": {config.method: settings},
            "tuned": {
                "data": config.data, "measure": f"validation {measure.name}", "value": best.value,
                "usual settings": usual, "trials": len(done) + failed,
                "ranges": {name: str(bounds) for name, bounds in space.items()},
            },
        },
        sort_keys=False, allow_unicode=True,
    )  # fmt: skip
    write_atomically(folder / "tuned.yaml", (header + body).encode())
    return found


def _why_all_failed(folder: Path, trials: int, measure: Measure) -> str:
    """Return in words why a search found nothing."""
    records = Store(folder).records()
    reasons = [last_line(record.error) for record in records if record.status != "done"]
    if len(reasons) < len(records):
        reasons.append(f"validation {measure.name} is missing, NaN or infinite")
    count = f"all {trials} trials failed" if trials > 1 else "the one trial failed"
    return f"{count}: {'; '.join(list(dict.fromkeys(reasons))[:3])}; the logs are in {folder}"
