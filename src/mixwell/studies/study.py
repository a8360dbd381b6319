"""A study as it is declared: a grid of data, settings, methods and seeds."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from mixwell import plugins
from mixwell.checks import LARGEST, check_whole
from mixwell.checks import shown as brief
from mixwell.errors import InputError, suggest
from mixwell.methods import accepts
from mixwell.methods.spec import specs_of
from mixwell.studies.likeness import what_it_is
from mixwell.studies.protocols import PROTOCOLS, Protocol
from mixwell.studies.records import in_words, key_of
from mixwell.studies.store import Cell
from mixwell.studies.yaml_file import read_yaml
from mixwell.training.build import load_data, make_model, resolved
from mixwell.training.config import GREATEST_SEED, NOT_SAID, RunConfig
from mixwell.training.naming import called, digest, folder_name
from mixwell.training.prepare import check, check_asked, with_measured

__all__ = ["Study", "parse_methods", "read_study"]

_TRAINED = (
    "epochs", "batch_size", "lr", "weight_decay", "warmup_epochs",
    "semi", "unlabelled_ratio", "unlabelled_weight", "threshold", "mix_cutoff",
)  # fmt: skip
"""Options of a run that a method may have of its own; no method has settings of these names."""
_OWN = {
    "protocol": "a text", "preset": "a text", "methods": "a text or a list of texts",
    "seeds": "a whole number or a text or a list of whole numbers",
    "settings": "a mapping or a text", "out": "a text", "baseline": "a text", "results": "a text",
    "import": "a text or a list of texts",
}  # fmt: skip
"""What a study's file says beside options of its runs, and as what."""
MOST_SEEDS = 10_000
"""What a count of seeds may be."""
_NOT_SAID = ("method", "method_options", "seed", *NOT_SAID)
"""Options of a run that a study has its own words for."""


@dataclass(frozen=True)
class Study:
    """Methods x seeds, for every combination of what varies.

    Attributes:
        base: what all runs share.
        methods: names, compositions, or either with settings: "sk_mixup(tau_std=0.5)". How long and
            how fast one is trained may be its own, too: "puzzlemix(epochs=25, lr=0.05)", and with
            few labels how it learns from the others: "decoupled(semi=authors)".
        seeds: one run of each method for each.
        vary: fields of :class:`RunConfig <mixwell.training.RunConfig>` and the values they take.
        settings: of the methods; each goes to the methods that know it, ``METHOD:setting`` to one.
        usual: settings by method that the protocol has anyway; those above go before them.
        protocol: the name of the protocol that it follows.
    """

    base: RunConfig
    methods: Sequence[str]
    seeds: Sequence[int]
    vary: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    usual: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    protocol: str = "balanced"

    def plan(self, out: str | Path | None = None, kind: str = "") -> list[Cell]:
        """Return the study's cells, seed by seed, after checking all that can be checked.

        Nothing is written.

        Args:
            out: the folder that gets a sub-folder for each run; without one it is in ``runs``,
                called after the kind, the data, the network and what else differs from the usual.
            kind: in front of such a name.

        Raises:
            InputError: a method, a setting or the data can't work.
        """
        chosen = self.options()
        for name, values in (("seeds", self.seeds), *self.vary.items()):
            if not values:
                raise InputError(f"{name} must name one at least")
            if len(set(map(key_of, values))) < len(values):
                raise InputError(f"{name} names one twice: {', '.join(map(str, values))}")
        for seed in self.seeds:
            replace(self.base, seed=seed)  # a seed that can't be is said before anything is made
        parts = []
        alike: set[tuple[int, int]] | None = None
        for values in itertools.product(*self.vary.values()):
            vary = dict(zip(self.vary, values, strict=True))
            config = replace(self.base, **vary)
            # Everything is tried once in every part, before anything is trained.
            dataset = load_data(replace(config, seed=self.seeds[0]))
            check_asked(config, dataset)
            # All methods are trained alike: of a published set-up a study takes the settings.
            usual = resolved(replace(config, published=None), dataset)
            config = with_measured(replace(usual, published=config.published), dataset)
            model = make_model(config, dataset)
            owns = [
                replace(config, method=method, method_options=options, **trained)
                for _, method, options, trained in chosen
            ]
            for own in owns:
                check(own, dataset, model)
            kinds = [what_it_is(own, dataset) for own in owns]
            here = {
                (i, j)
                for i, j in itertools.combinations(range(len(kinds)), 2)
                if kinds[i] == kinds[j]
            }
            alike = here if alike is None else alike & here
            parts.append((vary, config))
        for i, j in sorted(alike or ()):
            raise InputError(
                f"methods names one twice: {chosen[i][0]} and {chosen[j][0]} are the same method, "
                "trained alike; leave one out"
            )
        networks = dict.fromkeys(str(config.model) for _, config in parts)
        root = Path("runs") / self._called(kind, list(networks)) if out is None else Path(out)
        cells = []
        taken: set[str] = set()
        for seed, (vary, config), (label, method, options, trained) in itertools.product(
            self.seeds, parts, chosen
        ):
            own = replace(config, method=method, seed=seed, method_options=options, **trained)
            name = cell_name(label, vary, seed)
            if name in taken:  # of two names that differ in what no folder can be called by
                words = [label, *(f"{name}={shown(value)}" for name, value in vary.items())]
                name += f"-{digest({'words': words})}"
            taken.add(name)
            cells.append(Cell(own, root / name, vary, label))
        return cells

    @property
    def shared(self) -> dict[str, Any]:
        """What all its runs have in common: a study's folder holds one such study."""
        own = ("method", "method_options", "seed", "data_dir", *self.vary)
        changes = self.base.changes()
        kept = {name: value for name, value in changes.items() if name not in own}
        if "imports" in kept:  # in words, as they stand in messages
            kept["import"] = plugins.summary(kept.pop("imports"))
        return kept

    @property
    def _identity(self) -> dict[str, Any]:
        """What makes it another study, as a whole: methods, seeds and values may be added."""
        varied = sorted(name for name in self.vary if name != "data")
        given: dict[str, Any] = {"vary": varied} if varied else {}
        if self.usual:
            given["usual"] = {name: dict(options) for name, options in self.usual.items()}
        return {**self.shared, **given}

    def _called(self, kind: str, networks: Sequence[str]) -> str:
        """Return what its folder is called where none is named."""
        data = [str(name) for name in self.vary.get("data", [self.base.data])]
        usual: dict[str, Any] = {}
        if self.protocol in PROTOCOLS:
            usual = build(PROTOCOLS[self.protocol], {"data": data})._identity
        own = self._identity
        other = {
            name: own.get(name) for name in {**usual, **own} if own.get(name) != usual.get(name)
        }
        if list(map(called, data)) != data:
            other["data"] = data
        if self.base.imports:
            other["import"] = self.shared["import"]
        return folder_name(kind, list(map(called, data)), networks, digest(other))

    def labels(self) -> list[str]:
        """Return the methods with their settings, as tables call them."""
        return [label for label, _, _, _ in self.options()]

    def options(self) -> list[tuple[str, str, dict[str, Any], dict[str, Any]]]:
        """Return each method's label, name, settings, and options of its runs alone.

        The label tells the settings that were asked for, not those that the protocol has anyway.
        A set-up that is named settles what methods do: plain training, of which it says nothing,
        runs without.
        """
        if isinstance(self.methods, str):
            raise InputError(f"methods must be a list of methods, got {brief(self.methods)}")
        if not self.methods:
            raise InputError("methods must name one at least")
        chosen = [_parse(text) for text in self.methods]
        names = [name for name, _ in chosen]
        for name in names:
            try:
                specs_of(name)
            except InputError as error:
                raise InputError(f"methods: {error}") from error
        for key, value in self.settings.items():
            owner, _, setting = key.rpartition(":")
            if owner and owner not in names:
                raise InputError(
                    f"set {key}: {owner!r} is not among the methods {', '.join(names)}"
                )
            bare = setting.rpartition("__")[2]
            takers = [owner] if owner else [name for name in names if accepts(name, bare)]
            if not takers:
                raise InputError(f"set {key}: none of {', '.join(names)} has this setting")
            for name, options in chosen:
                if name in takers:
                    options.setdefault(setting, value)  # its own settings go first
        labels = [RunConfig(method=name, method_options=options).label for name, options in chosen]
        if len(set(labels)) < len(labels):
            raise InputError(f"methods names one twice: {', '.join(labels)}")
        found = []
        plain = [
            name
            for name in names
            if not any(spec.mixes or spec.answers or spec.beside for spec in specs_of(name))
        ]
        is_named = len(plain) < len(names) and self.base.published not in (None, "data")
        for label, (name, options) in zip(labels, chosen, strict=True):
            trained = {k: _typed(k, v) for k, v in options.items() if k in _TRAINED}
            for key in trained:
                if key in self.vary:
                    raise InputError(f"methods: {label} has its own {key}, which varies")
            own = {key: value for key, value in options.items() if key not in trained}
            if is_named and name in plain:
                trained["published"] = None
            found.append((label, name, {**self.usual.get(name, {}), **own}, trained))
        return found


def cell_name(label: str, vary: Mapping[str, Any], seed: int) -> str:
    """Return what the folder of a study's run is called."""
    words = [label, *(f"{name}={shown(value)}" for name, value in vary.items())]
    return "-".join([slug(word) for word in words] + [f"seed{seed}"])


def shown(value: Any) -> str:
    """Return a value as names of parts have it: 100, not 100.0."""
    return in_words(value) if isinstance(value, float) else str(value)


def _typed(name: str, value: Any) -> Any:
    """Return whole numbers as floats where a run's option is one, in lists too."""
    if isinstance(value, list):
        return [_typed(name, single) for single in value]
    spec = RunConfig.__dataclass_fields__.get(name)
    wants_float = spec is not None and str(spec.type).startswith("float")
    whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LARGEST
    return float(value) if wants_float and whole else value


def slug(text: str) -> str:
    """Return a text as names of files can hold it."""
    return re.sub(r"[^\w+.=]+", "-", text).strip("-")


# --------------------------------------------------------------------------------------- parsing


_NUMBER = re.compile(r"[-+]?(\.\d+|\d+(\.\d*)?)([eE][-+]?\d+)?", re.ASCII)
_SPLIT = re.compile(r",(?![^\[]*\])")  # not those within a list


def value_of(text: str) -> Any:
    """Return a setting's value: a number, true, false, none, a JSON list, or the text itself."""
    words = {"true": True, "false": False, "none": None, "null": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return json.loads(text)
    except ValueError:
        return float(text) if _NUMBER.fullmatch(text) else text  # .5, 1., +1: no JSON


def parse_methods(text: str) -> list[str]:
    """Return the methods that "erm,sk_mixup(tau_std=0.5,tau_max=1)" names.

    >>> parse_methods("erm, sk_mixup(tau_std=0.5, tau_max=1)")
    ['erm', 'sk_mixup(tau_std=0.5, tau_max=1)']
    """
    return [part.strip() for part in re.split(r",(?![^(]*\))", text) if part.strip()]


def _parse(text: str) -> tuple[str, dict[str, Any]]:
    """Return name and settings of "sk_mixup(tau_std=0.5)"."""
    found = re.fullmatch(r"\s*([\w+ ]+?)\s*(?:\((.*)\))?\s*", text)
    if found is None:
        raise InputError(f"methods: {text!r} is no method; write NAME or NAME(setting=value, ...)")
    options = {}
    for pair in filter(None, (part.strip() for part in _SPLIT.split(found[2] or ""))):
        key, separator, value = pair.partition("=")
        if not separator:
            raise InputError(f"methods: {text!r} must be NAME(setting=value, ...), got {pair!r}")
        if key.strip() in options:
            raise InputError(f"methods: {text!r} gives {key.strip()} twice; keep one of them")
        options[key.strip()] = value_of(value.strip())
    return found[1], options


def read_study(path: str | Path) -> dict[str, Any]:
    """Return what a YAML file declares of a study.

    It may name ``protocol``, ``preset``, ``methods``, ``seeds``, ``settings`` (of methods),
    ``out``, ``baseline``, ``results``, ``import`` (files or modules) and any option of a
    run (``epochs: 20``); an option that is given a list varies (``imbalance: [10, 100]``).

    Raises:
        InputError: it can't be read, or names something that is no part of a study.
    """
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold a mapping (protocol: long-tailed, ...)")
    known = [*_OWN, *(spec.name for spec in fields(RunConfig))]
    names = [str(name).replace("-", "_") for name in content]
    for name, given in zip(names, content, strict=True):
        if names.count(name) > 1:
            raise InputError(f"{path} gives {given!r} twice, with - and with _; keep one of them")
    content = dict(zip(names, content.values(), strict=True))
    for name, value in content.items():
        if name not in known or name in _NOT_SAID:
            raise InputError(f"{path}: {name!r} is no part of a study{suggest(name, known)}")
        if name in _OWN and value is not None:
            _check_own(name, value)
    return content


def _check_own(name: str, value: Any) -> None:
    """Raise an InputError for what is nothing that a study's own key can hold."""
    kinds = _OWN[name].split(" or ")
    number = isinstance(value, int) and not isinstance(value, bool)
    texts = isinstance(value, list) and all(isinstance(one, str) and one for one in value)
    right = {
        "a text": isinstance(value, str) and bool(value.strip()) and "\0" not in value,
        "a list of texts": texts and bool(value),
        "a whole number": number,
        "a list of whole numbers": isinstance(value, list) and bool(value),  # each is looked at
        "a mapping": isinstance(value, Mapping),
    }
    if not any(right[kind] for kind in kinds):
        raise InputError(f"{name} must be {_OWN[name]}, got {brief(value)}")


def build(
    protocol: Protocol,
    given: Mapping[str, Any],
    *,
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    settings: Mapping[str, Any] | None = None,
    preset: str | None = None,
) -> Study:
    """Return a protocol's study, with what is given in place of its defaults.

    Args:
        protocol: one of ``PROTOCOLS``.
        given: options of the runs; where one is a list, it varies.
        methods: the protocol's own without.
        seeds: likewise.
        settings: of the methods.
        preset: of the protocol: the papers' settings, say.

    Raises:
        InputError: the preset or an option is unknown.
    """
    start = protocol.preset(preset)
    for name, value in given.items():
        if isinstance(value, list) and not value and name != "freeze":
            raise InputError(f"{name} must name one at least, got an empty list; or leave it out")
    options = {name: _typed(name, value) for name, value in {**start.defaults, **given}.items()}
    if isinstance(options.get("log"), list):
        options["log"] = ",".join(map(str, options["log"]))  # these don't vary
    # What says how much data there is goes together: one that is given replaces the others.
    scarce = ("train_size", "imbalance", "shots")
    if any(name in given for name in scarce):
        for name in scarce:
            if name not in given:
                options.pop(name, None)
    freeze = options.get("freeze")
    if isinstance(freeze, (list, tuple)) and not any(isinstance(name, list) for name in freeze):
        options["freeze"] = [freeze]  # one value, which is several names
    vary = {name: list(value) for name, value in options.items() if isinstance(value, list)}
    single = {name: values[0] for name, values in vary.items() if len(values) == 1}
    vary = {name: values for name, values in vary.items() if len(values) > 1}
    fixed = {name: value for name, value in options.items() if not isinstance(value, list)}
    try:
        base = RunConfig(**{**fixed, **single})
    except TypeError as error:
        raise InputError(str(error)) from error
    if methods is not None and not (
        isinstance(methods, (list, tuple)) and all(isinstance(one, str) for one in methods)
    ):
        raise InputError(f"methods must be a list of methods, got {brief(methods)}")
    chosen = range(start.seeds) if seeds is None else seeds
    if not isinstance(chosen, (list, tuple, range)):
        raise InputError(f"seeds must be a list of whole numbers, got {brief(seeds)}")
    return Study(
        base,
        list(methods if methods is not None else start.methods),
        [check_whole("seeds", seed, 0, GREATEST_SEED) for seed in chosen],
        vary,
        dict(settings or {}),
        start.settings,
        protocol.name,
    )
