"""Before a run: all that can be checked is checked, and nothing is written."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from mixwell import data
from mixwell.data import Dataset, FolderSplit, SampledSplit, Split, content
from mixwell.errors import InputError
from mixwell.methods import Method
from mixwell.methods.spec import specs_of
from mixwell.training.build import (
    as_planned,
    bring,
    given_to,
    load_data,
    make_model,
    make_step,
    resolved,
)
from mixwell.training.config import RunConfig
from mixwell.training.loggers import check_available
from mixwell.training.machine import make_fabric, random_state, set_random_state
from mixwell.training.naming import called, digest, folder_name
from mixwell.training.probes import load_other, load_outliers, load_people

__all__ = ["Prepared", "check", "check_asked", "check_readable", "prepare", "with_measured"]

_FEW = 8  # samples of the step that is tried


@dataclass(frozen=True, eq=False)
class Prepared:
    """A run that can begin.

    Attributes:
        config: all that it is made of, nothing left open.
        dataset: what it trains on.
    """

    config: RunConfig
    dataset: Dataset

    def folder(self, **more: Any) -> tuple[str, ...]:
        """Return the words that its folder is called by: data, model, method, and a digest.

        The digest stands for the settings that differ from the usual; there is none where all are.

        Args:
            more: settings beside the configuration's.
        """
        config = self.config
        named = {"data", "model", "method", "seed"}
        plain = RunConfig(
            data=config.data, model=config.model, method=config.method, seed=config.seed
        )
        usual = resolved(plain, self.dataset).to_dict()
        other = {
            name: value
            for name, value in config.changes().items()
            if name not in named and (name == "imports" or value != usual.get(name))
        }
        if called(config.data) != config.data:
            other["data"] = config.data
        assert config.model is not None
        return called(config.data), config.model, config.method, digest({**other, **more})

    @property
    def name(self) -> str:
        """What its folder is called where none is named."""
        return folder_name(*self.folder(), f"seed{self.config.seed}")


def prepare(config: RunConfig) -> Prepared:
    """Return a run with its data loaded, after all has been checked that can be.

    Raises:
        InputError: something can't work. Nothing has been written.
    """
    bring(config)
    specs_of(config.method)  # before the data are read, which may take long
    dataset = load_data(config)
    check_asked(config, dataset)
    config = with_measured(resolved(config, dataset), dataset)
    make_fabric(config)
    check(config, dataset)
    return Prepared(config, dataset)


def check_asked(config: RunConfig, dataset: Dataset) -> None:
    """Raise an InputError if an option of the data would have no effect on them.

    Args:
        config: as it was asked for.
        dataset: that it names.
    """
    size, shape = config.image_size, dataset.input_shape
    if size in (None, 224) or config.ood is not None or shape[1:] == (size, size):
        return  # 224 is what a run of other data is kept with
    if data.takes(config.data, "image_size") or (
        config.fine_tunes and isinstance(dataset.train, SampledSplit)
    ):
        return
    raise InputError(
        f"image_size={size} has no effect on data={config.data!r}, whose samples have shape "
        f"{shape}: leave it out; folder:PATH, images of hf:PATH, functions with an argument "
        "image_size, and images that a pretrained network is trained on are resized"
    )


def check_readable(dataset: Dataset) -> None:
    """Raise an InputError if samples that are read when needed can't be, to validate or to test.

    All of these are read once: what is found at the end of a run is found too late.
    """
    for name, split in (("validation", dataset.val), ("test", dataset.test)):
        if isinstance(split, FolderSplit):
            broken = split.unreadable()
            if broken:
                more = f"; so are {len(broken) - 1} more" if broken[1:] else ""
                raise InputError(
                    f"data={dataset.name!r}, {name}: {broken[0]}{more}; replace or remove what is "
                    "broken"
                )
        elif isinstance(split, SampledSplit):
            for _ in split.batches(64):
                pass


def with_measured(config: RunConfig, dataset: Dataset) -> RunConfig:
    """Return a run with lines on what it is measured on beside its data: outliers, people.

    Args:
        config: resolved.
        dataset: that it names.

    Raises:
        InputError: they can't be had, or held something else when the run was planned.
    """
    ood = people = None
    if config.people is not None:
        counts = load_people(dataset, config)
        people = content.line_of(len(counts), [counts])
    if config.ood is not None:
        other = load_other(dataset, config)
        load_outliers(dataset, config, other)  # all of them are read
        ood = other.content
    return as_planned(config, ood_digest=ood, people_digest=people)


def check(config: RunConfig, dataset: Dataset, model: nn.Module | None = None) -> None:
    """Raise an InputError if something could not work later on; nothing is trained.

    A step of a few samples is tried, and what is measured at the end is looked at, where
    :func:`with_measured` has not.

    Args:
        config: resolved.
        dataset: that it names.
        model: the network that it names, where it has been made; it isn't kept as it is.
    """
    before = random_state()
    step = make_step(config, dataset)
    check_available(config.log)
    asked = [name for name in ("people", "ood") if getattr(config, name) is not None]
    if not config.held.keys() >= set(asked):
        with_measured(config, dataset)
    if config.shift and len(dataset.input_shape) != 3:
        raise InputError(f"shift needs images, but data={config.data!r} has none")
    if model is None:
        model = make_model(config, dataset)
    if isinstance(step, Method):
        _try_step(config, step, model, dataset.train)
    set_random_state(before)


def _try_step(config: RunConfig, method: Method, model: nn.Module, split: Split) -> None:
    """Raise an InputError if the method can't make a step of the model on these data."""
    assert config.batch_size is not None
    if isinstance(split, (FolderSplit, SampledSplit)):
        split = replace(split, workers=0)  # for so few samples processes take longer
    whole = min(config.batch_size, len(split))
    for size in (min(_FEW, whole), whole):
        try:
            _step(method, model, split, size)
            return
        except Exception as error:  # of any kind: it is the model's code, or the method's
            if size < whole:
                continue  # more samples may be what it lacks
            if isinstance(error, InputError):
                raise
            if config.accelerator == "cpu" or not torch.accelerator.is_available():
                raise InputError(
                    f"method={config.label!r} can't make a step of model={config.model!r}: "
                    f"{type(error).__name__}: {error}"
                ) from error
            # Another device than this one, where it was tried, may know better.


def _step(method: Method, model: nn.Module, split: Split, size: int) -> None:
    x, y, index = next(iter(split.subset(torch.randperm(len(split))[:size]).batches(size)))
    method.train().set_progress(0.0)
    model.train()
    method.step(model, x, y, index=index, **given_to(method, split, x.device))
