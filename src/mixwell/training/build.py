"""What is made of a run's configuration: data, network, method, optimiser and its schedule."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

import mixwell
from mixwell import data, models, plugins
from mixwell.data import Dataset, Split
from mixwell.errors import InputError
from mixwell.methods import Method, Term, has_setup, needs_of_data, setup_of
from mixwell.training import starting
from mixwell.training.config import RunConfig
from mixwell.training.naming import content_digest, weights_file
from mixwell.training.semi_supervised import SemiSupervised

__all__ = [
    "as_planned",
    "bring",
    "given_to",
    "load_data",
    "make_method",
    "make_model",
    "make_optimizer",
    "make_schedule",
    "make_scheduler",
    "make_step",
    "published_of",
    "resolved",
    "schedule_notes",
]

# Where a field is None, what the data set is usually trained with. Fashion-MNIST's were chosen
# for the small network on 6,000 images; CIFAR's and Airfoil's are the papers'.
_USUAL: dict[str, dict[str, Any]] = {
    "digits": {
        "epochs": 15, "batch_size": 50, "lr": 0.05, "optimizer": "sgd", "weight_decay": 3e-3,
    },
    "fashion-mnist": {
        "epochs": 15, "batch_size": 100, "lr": 0.1, "optimizer": "sgd", "weight_decay": 3e-3,
    },
    "shapes": {
        "epochs": 20, "batch_size": 100, "lr": 0.1, "optimizer": "sgd", "weight_decay": 3e-3,
    },
    "cifar": {
        "epochs": 200, "batch_size": 128, "lr": 0.1, "optimizer": "sgd", "weight_decay": 5e-4,
        "model": "resnet18", "augment": True,
    },
    "folder": {
        "epochs": 100, "batch_size": 128, "lr": 0.1, "optimizer": "sgd", "weight_decay": 1e-4,
        "augment": True, "warmup_epochs": 5.0,
    },
    "airfoil": {"epochs": 100, "batch_size": 16, "lr": 1e-2, "weight_decay": 0.0},
    "diabetes": {"epochs": 50, "batch_size": 16, "lr": 1e-3},
    "csv": {"epochs": 50, "batch_size": 32, "lr": 1e-3},
    "uci": {"epochs": 50, "batch_size": 32, "lr": 1e-3},
    "exchange-rate": {"epochs": 20, "batch_size": 64, "lr": 1e-3, "weight_decay": 0.0},
    "series": {"epochs": 20, "batch_size": 64, "lr": 1e-3, "weight_decay": 0.0},
    "moons": {"epochs": 100, "batch_size": 64, "lr": 3e-3, "weight_decay": 1e-4},
    "circles": {"epochs": 100, "batch_size": 64, "lr": 3e-3, "weight_decay": 1e-4},
}  # fmt: skip
_FAST: dict[str, dict[str, Any]] = {  # of models that are trained in another time than usual
    "resnet-fast": {"epochs": 40, "lr": 0.2, "warmup_epochs": 4.0},
}
_OTHERWISE = {
    "epochs": 15, "batch_size": 128, "lr": 1e-3, "optimizer": "adamw", "weight_decay": 1e-2,
    "augment": False, "warmup_epochs": 0.0,
}  # fmt: skip

_LEAST_STEPS = 400
"""Steps that a run has at least where data were made scarce, if nobody says how many epochs."""

# Where a run starts from trained weights: the head, which begins anew, at ten times the rate of
# the rest. Whether it is augmented stays the data set's.
_FINE_TUNING: dict[str, Any] = {
    "epochs": 10, "batch_size": 32, "lr": 1e-3, "backbone_lr": 0.1, "optimizer": "adamw",
    "weight_decay": 0.05, "warmup_epochs": 1.0,
}  # fmt: skip

_OPEN = ("model", "epochs", "batch_size", "lr", "optimizer", "weight_decay", "warmup_epochs")
"""What a published set-up settles of training: what a configuration leaves open."""


def published_of(config: RunConfig, dataset: Dataset) -> str | None:
    """Return the name of the published set-up that a run takes, or None.

    "data" is the set-up of the data set's name, its long-tailed one first where the data are, and
    none where the method has neither.
    """
    if config.published != "data":
        return config.published
    kind = _kind(dataset)
    names = [kind] if config.imbalance is None else [f"{kind}-lt", kind]
    return next((name for name in names if has_setup(config.method, name)), None)


def bring(config: RunConfig) -> None:
    """Import what the configuration imports, and what packages bring.

    Raises:
        InputError: something imported can't work.
    """
    plugins.load_installed()
    plugins.adopt(config.imports)


def load_data(config: RunConfig) -> Dataset:
    """Return the data set that a configuration names, split by its seed.

    What the configuration imports, and what packages bring, is there afterwards.

    Raises:
        InputError: the data or something imported can't work.
    """
    bring(config)
    options: dict[str, Any] = {
        "data_dir": config.data_dir, "train_size": config.train_size, "download": config.download,
        "val_fraction": config.val_fraction, "seed": config.seed, "imbalance": config.imbalance,
        "largest_class": config.largest_class, "shots": config.shots, "labels": config.labels,
        "coarse": config.coarse, "target": config.target, "task": config.task,
        "window": config.window, "horizon": config.horizon,
    }  # fmt: skip
    options.update(
        image_size=config.image_size, workers=config.loader_workers,
        inputs=starting.inputs_of(config),
    )  # fmt: skip
    return starting.aligned(config, data.load(config.data, **options))


def resolved(config: RunConfig, dataset: Dataset) -> RunConfig:
    """Return the configuration with every open field filled in.

    A published set-up says how its authors trained, where that is known; the data set what is
    usual. What starts from trained weights is trained as such are, whatever the data. Where the
    data were made scarce, the data's usual epochs are raised to as many as some hundred steps take.
    """
    published = published_of(config, dataset)
    trained = {} if published is None else setup_of(config.method, published).training
    kind = _kind(dataset)
    usual = {
        "model": models.default_for(dataset.task, dataset.input_shape),
        **_OTHERWISE,
        **_USUAL.get("cifar" if kind.startswith("cifar") else kind, {}),
        **(_FAST.get(config.model or "", {}) if kind.startswith("cifar") else {}),
        **{name: value for name, value in trained.items() if name in _OPEN},
        "image_size": 224,
    }
    if config.fine_tunes:
        usual.update(_FINE_TUNING)
        if config.layer_decay is not None:
            usual["backbone_lr"] = None
        inputs = starting.inputs_of(config)
        usual["image_size"] = inputs.size if inputs else 224
        begun = starting.started_from(config)
        usual["model"] = begun.pop("model", usual["model"])
        config = replace(config, **begun)
        if config.init is not None and config.init_digest is None:
            config = replace(config, init_digest=content_digest(weights_file(config.init)))
    if isinstance(dataset.train, data.SampledSplit):
        usual["augment"] = True  # its own transforms draw anew each epoch
    if config.labels is not None:
        usual["ema"] = 0.99  # the teacher
    chosen = {name: value for name, value in usual.items() if getattr(config, name) is None}
    scarce = config.shots is not None or config.train_size is not None
    if scarce and "epochs" in chosen and "epochs" not in trained and not config.fine_tunes:
        size: Any = chosen.get("batch_size", config.batch_size)
        least = math.ceil(_LEAST_STEPS / dataset.train.num_batches(size))
        chosen["epochs"] = max(chosen["epochs"], least)
    if "warmup_epochs" in chosen:
        epochs: Any = chosen.get("epochs", config.epochs)
        chosen["warmup_epochs"] = min(chosen["warmup_epochs"], epochs / 10)
    return _with_sources(as_planned(replace(config, **chosen), data_digest=dataset.content))


def as_planned(config: RunConfig, **held: Any) -> RunConfig:
    """Return a run with lines on what its data hold.

    Args:
        config: that may have such lines since it was planned.
        held: the fields and the lines that were found; None where nothing is known.

    Raises:
        InputError: they held something else when the run was planned.
    """
    if changed := config.other_data(replace(config, **held)):
        name = changed.partition("=")[0]
        is_made = name != "people" and data.is_plugged(getattr(config, name))
        raise InputError(
            f"{changed} now; the run was planned with the former: "
            + (
                "a function must make the same each time, or by an argument seed"
                if is_made
                else "bring it back, or begin in another folder (out)"
            )
        )
    return replace(config, **{name: getattr(config, name) or line for name, line in held.items()})


def _kind(dataset: Dataset) -> str:
    """Return what a data set is, to look up what is usual; of one from outside nothing is."""
    if data.is_plugged(dataset.name):
        return ""
    kind = dataset.name.partition(":")[0]
    if kind == "hf":
        return "folder" if isinstance(dataset.train, data.FolderSplit) else "csv"
    return "csv" if kind == "parquet" else kind


def _with_sources(config: RunConfig) -> RunConfig:
    """Return the configuration with the sources of MODULE:NAME among what it imports."""
    imports = list(config.imports)
    for argument, name, plugged in (
        ("data", config.data, data.is_plugged(config.data)),
        ("model", config.model or "", models.is_plugged(config.model or "")),
    ):
        if plugged:
            record = plugins.find(argument, name)[1]
            imports += [record] if record not in imports else []
    return replace(config, imports=tuple(imports))


def make_model(config: RunConfig, dataset: Dataset, notes: list[str] | None = None) -> nn.Module:
    """Return the network as training begins: untrained, or with the weights that it starts from.

    Args:
        config: resolved.
        dataset: that it names.
        notes: gets what a user should know: that the head begins anew, say.
    """
    assert config.model is not None
    model = models.build(
        config.model,
        input_shape=dataset.input_shape,
        num_outputs=dataset.num_outputs,
        pretrained=config.pretrained,
        **config.model_options,
    )
    found = starting.begin(config, dataset, model)
    if notes is not None:
        notes += found
    return model


def make_method(config: RunConfig, dataset: Dataset) -> Method:
    """Return the method, told what it needs to know of the data set."""
    options = dict(config.method_options)
    known = {
        "class_counts": dataset.class_counts if dataset.classes else None,
        "capacity": len(dataset.train),
        "target_std": dataset.target_std,
        "target_largest": dataset.target_largest,
    }
    for argument in sorted(needs_of_data(config.method)):
        if known.get(argument) is not None:
            options.setdefault(argument, known[argument])
    return mixwell.create(
        config.method,
        num_classes=dataset.num_classes,
        published=published_of(config, dataset),
        task=dataset.task,
        **options,
    )


def make_step(config: RunConfig, dataset: Dataset) -> Method | SemiSupervised:
    """Return what computes a step's loss: the method, or pseudo-labels around it."""
    method = make_method(config, dataset)
    return method if config.labels is None else SemiSupervised(method, dataset, config)


def given_to(method: Method | SemiSupervised, split: Split, device: torch.device) -> dict[str, Any]:
    """Return what a step is given beside its batch: the training data, where partners are of it."""
    if not isinstance(method, Method):
        return {}
    recipes = [term.recipe for term in method.terms if isinstance(term, Term)]
    if not any(recipe and recipe.pairing.partners == "data" for recipe in recipes):
        return {}
    return {"data": split.whole(device)}


def make_optimizer(
    config: RunConfig, model: nn.Module, fused: bool, input_shape: tuple[int, ...] | None = None
) -> torch.optim.Optimizer:
    """Return the optimiser; weight decay is on all parameters, as in the papers' code.

    With ``layer_decay`` it is on those that timm's groups have it on: matrices, not biases.

    Args:
        config: resolved, its rate and decay known.
        model: whose parameters are trained.
        fused: one kernel for all parameters: a loop over small ones takes several times as long.
        input_shape: of a sample, to find the head where the others have another rate.
    """
    assert config.lr is not None
    assert config.weight_decay is not None
    trained = starting.parameter_groups(config, model, input_shape)
    options: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    options["fused"] = fused or None  # False would keep torch from its own choice, too
    if config.optimizer == "sgd":
        nesterov = config.momentum > 0
        return torch.optim.SGD(trained, momentum=config.momentum, nesterov=nesterov, **options)
    return torch.optim.AdamW(trained, **options)


def make_schedule(
    config: RunConfig, steps_per_epoch: int, total_steps: int
) -> Callable[[int], float]:
    """Return the learning rate at each step, as a factor of its peak.

    Warm-up takes a tenth of the run at most.
    """
    asked = round((config.warmup_epochs or 0.0) * steps_per_epoch)
    warmup = min(asked, total_steps // 10)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        done = (step - warmup) / max(total_steps - warmup, 1)
        if config.schedule == "cosine":
            return (1 + math.cos(math.pi * min(done, 1.0))) / 2
        if config.schedule == "step":  # a tenth after a half, a hundredth after three quarters
            return 0.1 ** ((done >= 0.5) + (done >= 0.75))
        if config.schedule == "onecycle":  # up from 1/25 in the first 30 %, down to 1e-4
            rising = done < 0.3
            part = done / 0.3 if rising else min((done - 0.3) / 0.7, 1.0)
            first, second = (1 / 25, 1.0) if rising else (1.0, 1e-4)
            return second + (first - second) * (1 + math.cos(math.pi * part)) / 2
        return 1.0

    return factor


def schedule_notes(config: RunConfig, steps_per_epoch: int, total_steps: int) -> list[str]:
    """Return what a user should know of the schedule: warm-up cut short, a peak never reached."""
    notes = []
    asked = round((config.warmup_epochs or 0.0) * steps_per_epoch)
    if asked > total_steps // 10:
        notes.append(
            f"warm-up takes {total_steps // 10} steps, a tenth of the run, and not the {asked} of "
            f"warmup_epochs={config.warmup_epochs:g}"
        )
    factor = make_schedule(config, steps_per_epoch, total_steps)
    highest = max(map(factor, range(total_steps)), default=1.0)
    if highest < 0.9:
        notes.append(
            f"the learning rate never reached its peak of {config.lr:g}: in {total_steps} steps it "
            f"came to {100 * highest:.0f} % of it; train for more epochs"
        )
    return notes


def make_scheduler(
    config: RunConfig, optimizer: Any, steps_per_epoch: int, total_steps: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """Return the schedule of the learning rates, factors of their peaks, for every step."""
    factor = make_schedule(config, steps_per_epoch, total_steps)
    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
