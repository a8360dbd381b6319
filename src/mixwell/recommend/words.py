"""What to type: the lines of code, and the command."""

from __future__ import annotations

import json
import shlex
from dataclasses import fields, replace
from typing import Any

from mixwell.data import Dataset
from mixwell.methods import Method, Recipe, Term, needs_of_data
from mixwell.training.build import make_method, published_of
from mixwell.training.config import NOT_SAID, RunConfig

__all__ = ["code_of", "command_of"]

_OF_UNITS = {"raw": ("target_std",), "largest": ("target_std", "target_largest")}
"""What a bandwidth in other units than standard deviations needs to know of the targets."""


def code_of(config: RunConfig, dataset: Dataset) -> str:
    """Return the lines of Python that train by a run's method, in a loop of one's own.

    Args:
        config: of the run.
        dataset: it is for.
    """
    options = dict(config.method_options)
    if (published := published_of(config, dataset)) is not None:
        options = {"published": published, **options}
    if "class_counts" in needs_of_data(config.method):
        options.setdefault("class_counts", dataset.class_counts.tolist())
    method = make_method(config, dataset)
    for recipe in _recipes(method):
        for name in _OF_UNITS.get(getattr(recipe.pairing, "units", ""), ()):
            known = getattr(dataset, name)
            if known is not None:
                options.setdefault(name, known.tolist())
    start: dict[str, Any] = {"num_classes": dataset.num_classes}
    if dataset.task != "classification":
        start = {"task": dataset.task}
    told = ", ".join(f"{name}={value!r}" for name, value in {**start, **options}.items())
    call = "loss = method(model, x, y)"
    if _partners_from_data(method):
        call = "loss = method(model, x, y, index=index, data=(X, Y))  # X, Y: all training data"
    batch = "index, (x, y)" if _partners_from_data(method) else "x, y"
    lines = ["import mixwell"]
    if config.imports:
        lines += ["from mixwell import plugins"]
        lines += [f"plugins.load({str(record['name'])!r})" for record in config.imports]
    lines += [f"method = mixwell.create({config.method!r}, {told})"]
    lines += [f"for {batch} in loader:", f"    {call}"]
    lines += ["    optimizer.zero_grad(); loss.backward(); optimizer.step()"]
    if any(getattr(part, "schedule", None) for part in method.modules()):
        lines.insert(-2, "    method.set_progress(step / total_steps)")
    return "\n".join(lines).replace("'", '"')


def _partners_from_data(method: Method) -> bool:
    """Whether partners come from the whole training set, which a step is then given."""
    return any(recipe.pairing.partners == "data" for recipe in _recipes(method))


def _recipes(method: Method) -> list[Recipe]:
    terms = [term for term in method.terms if isinstance(term, Term)]
    return [term.recipe for term in terms if term.recipe is not None]


def command_of(config: RunConfig) -> str:
    """Return the command that trains a run."""
    default = RunConfig()
    words = ["mixwell", "train"]
    for record in config.imports:
        words += ["--import", str(record["name"])]
    for spec in fields(RunConfig):
        value = getattr(config, spec.name)
        if spec.name in (*NOT_SAID, "method_options", "model_options"):
            continue
        if value == getattr(default, spec.name) and spec.name not in ("data", "method"):
            continue
        flag = spec.name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, tuple):
            words += [f"--{flag}", *map(str, value)]
        else:
            words += [f"--{flag}", str(value)]
    for flag, options in (("--set", config.method_options), ("--model-set", config.model_options)):
        if options:
            words += [flag, *(f"{key}={_text(value)}" for key, value in options.items())]
    return shlex.join(words)


def _text(value: Any) -> str:
    """Return a setting as the command line takes it."""
    return value if isinstance(value, str) else json.dumps(value)


def trained(given: RunConfig, chosen: RunConfig, epochs: int) -> RunConfig:
    """Return the run that a recommendation leads to: as it was given, by the chosen method."""
    return replace(
        given, method=chosen.method, method_options=chosen.method_options, epochs=epochs,
        imports=chosen.imports, published=chosen.published,
    )  # fmt: skip
