"""Where a run starts: weights from elsewhere, what stays as it is, and each part's rate."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mixwell import models, plugins
from mixwell.data import Dataset, Inputs, TensorSplit
from mixwell.data.transform import Column, Transform
from mixwell.errors import InputError, suggest
from mixwell.training.config import RunConfig
from mixwell.training.files import read_json
from mixwell.training.naming import weights_file
from mixwell.training.remade import REASON, kept_of, strays
from mixwell.training.result import is_finished, read_result

__all__ = ["aligned", "begin", "inputs_of", "parameter_groups", "started_from", "train_mode"]

_USUAL_PRETRAINED = "timm:resnet18"

# -------------------------------------------------------------------------------- starting weights


def started_from(config: RunConfig) -> dict[str, Any]:
    """Return the network that a run starts from, as fields of a run, where none is asked for.

    That of the run whose folder ``init`` names, with its settings, before which those that are
    asked for go; a small one where pretrained weights are asked for, and what comes with these;
    nothing otherwise.
    """
    if config.pretrained:
        name, options = config.model or _USUAL_PRETRAINED, config.model_options
        return {"model": name, "model_options": {**models.architecture(name, {}, True), **options}}
    before = _run_of(config.init)
    if before is None or config.model not in (None, before["model"]):
        return {}
    if config.model is None and models.is_plugged(str(before["model"])):
        # Who wrote the folder is not who begins this run: what it names is not called unasked.
        plugins.recognise(
            [], [str(before["model"]).partition(":")[0]], f"init={config.init!r}",
            f"name its network yourself: --model {before['model']}",
        )  # fmt: skip
    name, options = str(before["model"]), before["model_options"]
    kept = models.architecture(name, options, bool(before.get("pretrained")))
    return {"model": name, "model_options": {**kept, **config.model_options}}


def _run_of(init: str | None) -> dict[str, Any] | None:
    """Return the configuration of the finished run in the folder of ``init``, if it is one."""
    folder = None if init is None else Path(init).expanduser()
    if folder is None or not (folder / "config.json").is_file():
        return None
    found = read_json(folder / "config.json")
    known = isinstance(found, dict) and {"model", "model_options"} <= found.keys()
    return found if known else None


def inputs_of(config: RunConfig) -> Inputs | None:
    """Return what the network that a run starts from expects of images; None where none is known.

    Of pretrained weights it is what timm or torchvision says; of a run, what it was trained on.

    Raises:
        InputError: there are no pretrained weights of the model, or no such file.
    """
    if config.pretrained:
        name = config.model or _USUAL_PRETRAINED
        return models.inputs_of(name, config.model_options)
    if config.init is None:
        return None
    return Inputs.from_record(_result_of(config.init).get("input"))


def _result_of(init: str) -> dict[str, Any]:
    """Return the result of the finished run whose weights these are; nothing of other weights."""
    folder = weights_file(init).parent
    return read_result(folder) if is_finished(folder) else {}


def begin(config: RunConfig, dataset: Dataset, model: nn.Module) -> list[str]:
    """Put a run's starting weights into its network, and freeze what is to stay.

    Returns:
        What a user should know of it.

    Raises:
        InputError: the weights don't fit, or nothing is called so.
    """
    notes: list[str] = []
    head = config.method_options.get("head")
    if config.pretrained:
        assert config.model is not None
        classes = models.classes_of(config.model, config.model_options)
        if classes != dataset.num_outputs:
            notes.append(
                f"the head begins anew: the weights of {config.model} are of {classes} classes, "
                f"these data of {dataset.num_outputs}"
            )
    if config.init is not None:
        told = f"init={config.init!r}"
        state = models.read_weights(weights_file(config.init), told)
        before, now = tuple(_result_of(config.init).get("classes", ())), dataset.classes
        changed = None
        if len(before) == len(now) and set(before) != set(now):
            changed = f"{told} tells {_few(before)}, these data are of {_few(now)}"
        anew = models.load_weights(model, state, dataset.input_shape, told, head, changed)
        if not anew and before != now and sorted(before) == sorted(now):
            order = [before.index(name) for name in now]
            anew = [f"{told}: {_reordered(model, dataset, head, order)}"]
        notes += anew
        if not anew and _strays_from(config, dataset, model):
            notes.append(
                f"{told}: with its weights the network {config.model!r} answers otherwise than "
                f"that run's did: it has other settings, or {REASON}"
            )
    images = dataset.train if len(dataset.input_shape) == 3 else None
    foreign = isinstance(images, TensorSplit) and not images.in_unit
    if foreign and inputs_of(config) is not None:
        notes.append(
            "these images are not in [0, 1]: size, mean and standard deviation of what the weights "
            "were trained on are not applied to them"
        )
    if config.freeze:
        notes.append(_freeze(config, dataset, model))
    return notes


def _reordered(model: nn.Module, dataset: Dataset, head: str | None, order: list[int]) -> str:
    """Put a head's outputs in the order of these data's classes, and say so.

    Raises:
        InputError: its weights aren't a row for each class.
    """
    name = models.head_of(model, dataset.input_shape, head)
    module = model.get_submodule(name)
    rows = dict(module.named_parameters())
    if not set(rows) <= {"weight", "bias"} or any(len(p) != len(order) for p in rows.values()):
        raise InputError(
            f"that run's classes have another order, and those of the head {name!r} can't be put "
            f"in that of these data, {_few(dataset.classes)}: give them in that run's"
        )
    with torch.no_grad():
        for parameter in rows.values():
            parameter.copy_(parameter[order])
    return f"the head's classes are put in the order of these data, {_few(dataset.classes)}"


def _strays_from(config: RunConfig, dataset: Dataset, model: nn.Module) -> bool:
    """Whether a network with a run's weights is not that run's network, where that can be told."""
    folder = weights_file(str(config.init)).parent
    result = _result_of(str(config.init))
    kept = kept_of(folder) if "transform" in result else None
    if kept is None:
        return False
    transform = Transform.from_dict(result["transform"])
    if transform.shape != tuple(dataset.input_shape):
        return False
    return strays(model, transform, kept, next(model.parameters()).device)


def aligned(config: RunConfig, dataset: Dataset) -> Dataset:
    """Return a data set with its columns in the order of those of the run that it starts from.

    Raises:
        InputError: they are not the same ones, or those of a series are in another order.
    """
    folder = None if config.init is None else Path(config.init).expanduser()
    if folder is None or not is_finished(folder) or not dataset.columns:
        return dataset
    values = read_result(folder).get("transform")
    before = Transform.from_dict(values).columns if values else ()
    if not before or before == dataset.columns:
        return dataset
    order = _order_of(before, dataset, f"init={config.init!r}")
    parts: dict[str, Any] = {
        name: _with_columns(split, order)
        for name in ("train", "val", "test", "unlabelled")
        if (split := getattr(dataset, name)) is not None
    }
    fine = dataset.fine and aligned(config, dataset.fine)
    return replace(dataset, **parts, columns=before, fine=fine)


def _order_of(before: Sequence[Column], dataset: Dataset, asked: str) -> list[int]:
    """Return where each input of a run's columns stands among a table's.

    Raises:
        InputError: they are not the same ones, or the data are no table, which alone can be put
            in another order.
    """
    wanted, there = (_expanded(columns) for columns in (before, dataset.columns))
    told = f"{asked}: that run was trained on the columns {_few(wanted)}; these data "
    missing = [name for name in wanted if name not in there]
    beside = [name for name in there if name not in wanted]
    if missing or beside:
        words = [f"lack {_few(missing)}"] if missing else []
        words += [f"have {_few(beside)} beside them"] if beside else []
        near = suggest(missing[0], beside) if missing else ""
        raise InputError(f"{told}{' and '.join(words)}{near}")
    splits = (dataset.train, dataset.val, dataset.test)
    if len(dataset.input_shape) != 1 or not all(isinstance(s, TensorSplit) for s in splits):
        raise InputError(f"{told}have them in another order, {_few(there)}: give them in that one")
    return [there.index(name) for name in wanted]


def _with_columns(split: TensorSplit, order: Sequence[int]) -> TensorSplit:
    """Return rows with their columns in another order, and what these are normalised by."""
    mean, std = (
        None if values is None else [values[i] for i in order] for values in (split.mean, split.std)
    )
    return replace(split, x=split.x[:, order], mean=mean, std=std)


def _expanded(columns: Sequence[Column]) -> list[str]:
    """Return the names of a table's inputs: of a column of text one for each value."""
    return [
        name
        for column in columns
        for name in ([f"{column.name}={value}" for value in column.values] or [column.name])
    ]


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (", …" if len(names) > 10 else "")


# ----------------------------------------------------------------------------------- what is frozen


def _freeze(config: RunConfig, dataset: Dataset, model: nn.Module) -> str:
    """Let parameters stay as they are; return in words how many."""
    named = dict(model.named_parameters())
    frozen: set[str] = set()
    for pattern in config.freeze:
        found = [name for name in named if _matches(name, pattern)]
        if not found and pattern == "backbone":
            head = models.head_of(model, dataset.input_shape, config.method_options.get("head"))
            found = [name for name in named if not f"{name}.".startswith(f"{head}.")]
        if not found:
            modules = {name for name, _ in model.named_modules() if name}
            near = suggest(pattern, [*modules, *named])
            top = ", ".join(name for name, _ in model.named_children())
            raise InputError(
                f"freeze={pattern!r} matches no parameter{near}; the network's parts are {top}; "
                "or write 'backbone' for all but the head"
            )
        frozen.update(found)
    if frozen == set(named):
        raise InputError(f"freeze={', '.join(config.freeze)}: nothing is left to train")
    for name in frozen:
        named[name].requires_grad_(False)
    count = sum(named[name].numel() for name in frozen)
    whole = sum(parameter.numel() for parameter in named.values())
    return f"frozen: {count:,} of {whole:,} parameters"


def _matches(name: str, pattern: str) -> bool:
    """Whether a parameter is called so, or within a module that is; with *, ? or as a regex."""
    if name == pattern or name.startswith(f"{pattern}.") or fnmatchcase(name, pattern):
        return True
    try:
        return re.fullmatch(pattern, name) is not None
    except re.error:
        return False


def train_mode(model: nn.Module) -> None:
    """Put a model in training mode, but for what is frozen and would move without gradient.

    That is what keeps floating buffers: a norm's running statistics, a spectral norm's vectors. It
    is frozen where all parameters are of the module, or where it has none, of the nearest one
    around it that has some.
    """
    model.train()
    kept: dict[str, bool] = {}  # by module: whether all its parameters are frozen
    for name, module in model.named_modules():  # from the outside inwards
        own = [parameter.requires_grad for parameter in module.parameters()]
        kept[name] = not any(own) if own else kept.get(name.rpartition(".")[0], False)
        moves = any(value.is_floating_point() for value in module.buffers(recurse=False))
        if moves and kept[name]:
            module.training = False  # and not what is within


# ----------------------------------------------------------------------------------- rates of parts


def parameter_groups(
    config: RunConfig, model: nn.Module, input_shape: tuple[int, ...] | None
) -> list[dict[str, Any]] | list[nn.Parameter]:
    """Return what is trained, with each part's own rate where there are some.

    Args:
        config: resolved.
        model: whose parameters are trained.
        input_shape: of a sample, to find the head.

    Raises:
        InputError: the head can't be found, or the model has no layers that timm can tell.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if config.layer_decay is not None:
        return _by_layer(config, model)
    if config.backbone_lr is None or config.backbone_lr == 1:
        return trained
    assert config.lr is not None
    assert input_shape is not None
    try:
        head = models.head_of(model, input_shape, config.method_options.get("head"))
    except InputError as error:
        raise InputError(f"{error}; or train all at one rate: backbone_lr=1") from error
    own = [
        parameter
        for name, parameter in model.named_parameters()
        if f"{name}.".startswith(f"{head}.") and parameter.requires_grad
    ]
    ids = set(map(id, own))
    others = [parameter for parameter in trained if id(parameter) not in ids]
    rates: Sequence[tuple[list[nn.Parameter], float]] = (
        (own, config.lr), (others, config.lr * config.backbone_lr),
    )  # fmt: skip
    return [{"params": part, "lr": rate} for part, rate in rates if part]


def _by_layer(config: RunConfig, model: nn.Module) -> list[dict[str, Any]]:
    """Return timm's groups: each layer's rate is a factor of that of the next."""
    if not hasattr(model, "group_matcher"):
        raise InputError(
            f"layer_decay={config.layer_decay}: model={config.model!r} has no layers that timm can "
            "tell; use a model of timm's (timm:NAME), or backbone_lr"
        )
    from timm.optim._param_groups import param_groups_layer_decay

    assert config.lr is not None
    assert config.layer_decay is not None
    names: Any = getattr(model, "no_weight_decay", tuple)
    groups = param_groups_layer_decay(
        model, config.weight_decay or 0.0, no_weight_decay_list=names(),
        layer_decay=config.layer_decay,
    )  # fmt: skip
    return [
        {
            "params": group["params"], "weight_decay": group["weight_decay"],
            "lr": config.lr * group["lr_scale"],
        }
        for group in groups
    ]  # fmt: skip
