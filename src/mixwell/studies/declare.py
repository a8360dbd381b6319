"""A study from Python's own words: a protocol's name and what differs from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from mixwell.checks import check_whole, plain, shown
from mixwell.errors import InputError, suggest
from mixwell.studies.protocols import PROTOCOLS
from mixwell.studies.study import MOST_SEEDS, Study, build, parse_methods
from mixwell.training.config import RunConfig

__all__ = ["as_study"]

_OTHERS = ("method", "method_options", "seed")  # of a run: a study has its own words for these


def as_study(
    study: Study | str,
    *,
    methods: str | Sequence[str] | None = None,
    seeds: int | Sequence[int] | None = None,
    settings: Mapping[str, Any] | None = None,
    preset: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Study:
    """Return a study as it is, or that of a protocol with what is given in place of its defaults.

    Args:
        study: a study, or a protocol's name.
        methods: as of ``mixwell compare``: a list, or "erm,mixup(alpha=0.2)".
        seeds: how many, or which.
        settings: of methods: ``{"alpha": 0.4, "sk_mixup:tau_std": 0.5}``.
        preset: of the protocol.
        options: of the runs (``data``, ``epochs`` ...); one that is given a list varies.

    Raises:
        InputError: something of it is unknown, or is given beside a whole study.
    """
    given = {"methods": methods, "seeds": seeds, "settings": settings, "preset": preset}
    chosen = {name: value for name, value in given.items() if value is not None}
    options = dict(options or {})
    if isinstance(study, Study):
        if chosen or options:
            first = next(iter({**chosen, **options}))
            raise InputError(f"{first}: a Study says this itself; give a protocol's name with it")
        return study
    if not isinstance(study, str) or study not in PROTOCOLS:
        near = suggest(study, PROTOCOLS) if isinstance(study, str) else ""
        raise InputError(
            f"study={study!r} must be a Study or a protocol{near}; known: {', '.join(PROTOCOLS)}"
        )
    known = [spec.name for spec in fields(RunConfig) if spec.name not in _OTHERS]
    for name in options:
        if name not in known:
            raise InputError(
                f"{name!r} is no option of a study{suggest(name, [*given, *known])}; there are "
                "methods, seeds, settings, preset and the options of its runs"
            )
    return build(
        PROTOCOLS[study],
        {name: list(value) if isinstance(value, tuple) and name != "imports" else value
         for name, value in options.items()},
        methods=parse_methods(methods) if isinstance(methods, str) else methods,
        seeds=_listed(seeds),
        settings=settings,
        preset=preset,
    )  # fmt: skip


def _listed(seeds: int | Sequence[int] | None) -> Sequence[int] | None:
    seeds = plain(seeds)
    if isinstance(seeds, (int, float)) and not isinstance(seeds, bool):
        return range(check_whole("seeds", seeds, 1, MOST_SEEDS))
    if seeds is not None and not isinstance(seeds, (list, tuple, range)):
        raise InputError(f"seeds must be a count (3) or a list ([0, 5, 7]), got {shown(seeds)}")
    return seeds
