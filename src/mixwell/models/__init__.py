"""The few small networks that the papers use; the rest comes from timm and torchvision."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from mixwell import plugins, tasks
from mixwell.errors import InputError, suggest
from mixwell.models.small import MLP, Forecaster, SmallCNN
from mixwell.models.weights import head_of, load_weights, read_weights
from mixwell.models.wide import FastResNet, ResNet, WideResNet
from mixwell.models.zoo import (
    ZOOS,
    architecture,
    classes_of,
    from_timm,
    from_torchvision,
    inputs_of,
)
from mixwell.view import logits_of

__all__ = [
    "MLP",
    "FastResNet",
    "Forecaster",
    "ResNet",
    "SmallCNN",
    "WideResNet",
    "architecture",
    "available",
    "build",
    "classes_of",
    "default_for",
    "head_of",
    "inputs_of",
    "is_plugged",
    "load_weights",
    "read_weights",
]

_NAMES: dict[str, tuple[str, Callable[..., nn.Module]]] = {
    "mlp": ("multilayer perceptron on the flattened input", MLP),
    "cnn": ("three convolutions and a hidden layer, for 8 to 32 pixels", SmallCNN),
    "gru": ("recurrent network on a series, with an autoregressive part", Forecaster),
    "resnet-fast": ("pre-activation ResNet on patches, for a processor and 32 pixels", FastResNet),
    "resnet18": ("ResNet-18 with a 3x3 stem and no max-pooling (CIFAR)", partial(ResNet, depth=18)),
    "resnet34": ("ResNet-34, likewise", partial(ResNet, depth=34)),
    "resnet50": ("ResNet-50, likewise", partial(ResNet, depth=50)),
}


def available() -> dict[str, str]:
    """Return the models' names, each with a line on what it is."""
    return {
        **{name: text for name, (text, _) in _NAMES.items()},
        "wideresnet-28-K": "WideResNet-28 of width K (wideresnet-28-10), optionally with dropout",
        "timm:NAME": "any model of timm (timm:vit_tiny_patch16_224)",
        "torchvision:NAME": "any classifier of torchvision (torchvision:efficientnet_b0)",
        "MODULE:NAME": "your own class or function that returns a network (nets:Net)",
        **{name: f"of an installed package: {e.value}" for name, e in _others().items()},
    }


def is_plugged(name: str) -> bool:
    """Whether a model is named as MODULE:NAME."""
    return ":" in name and name.partition(":")[0] not in ZOOS


def _others() -> dict[str, Any]:
    """Return the models of installed packages whose names are not mixwell's own."""
    return {k: entry for k, entry in plugins.entries("models").items() if k not in _NAMES}


def default_for(task: str, input_shape: tuple[int, ...]) -> str:
    """Return the name of the model that is trained where none is asked for."""
    if len(input_shape) == 2:
        return "gru"
    if not tasks.get(task).has_classes or len(input_shape) != 3:
        return "mlp"
    return "cnn" if max(input_shape[1:]) <= 32 else "timm:resnet18"


def build(
    name: str,
    *,
    input_shape: tuple[int, ...],
    num_outputs: int,
    pretrained: bool = False,
    **options: Any,
) -> nn.Module:
    """Return a model, untrained unless it is asked for otherwise.

    Mixwell's own have a linear layer on pooled features as their head.

    Args:
        name: one of :func:`available`; MODULE:NAME for a class or function of a module, which is
            given num_classes, num_outputs and input_shape where it takes them.
        input_shape: of one sample: (C, H, W) of images, (F,) of tables, (V, W) of series.
        num_outputs: classes, or targets in regression.
        pretrained: fetch the weights that timm or torchvision has for it, once; a head of another
            number of classes begins anew.
        options: of the model (``dropout=0.3``, ``width=64``).

    Raises:
        InputError: the name or an option is unknown, or the model doesn't take such inputs; its
            weights can't be fetched.
    """
    zoo, _, rest = name.partition(":")
    if pretrained and zoo not in ZOOS:
        inputs_of(name, options)  # says what would work
    try:
        if zoo in ZOOS:
            made = from_timm if zoo == "timm" else from_torchvision
            model = made(rest, input_shape, num_outputs, options, pretrained)
        elif is_plugged(name):
            maker = plugins.find("model", name)[0]
            model = _foreign(name, maker, input_shape, num_outputs, options)
        elif name in _others():
            maker = plugins.load_entry("models", name)
            model = _foreign(name, maker, input_shape, num_outputs, options)
        else:
            maker = _maker(name, input_shape, options)
            model = maker(input_shape=input_shape, num_outputs=num_outputs, **options)
        # A model that is too deep for such small inputs says so here, not hours later.
        with torch.no_grad():
            found = logits_of(model.eval()(torch.zeros(1, *input_shape))).shape
    except InputError:
        raise
    except Exception as error:  # of any kind: it is the model's code
        given = "".join(f", {key}={value!r}" for key, value in options.items())
        raise InputError(
            f"model={name!r} can't be built or run for samples of shape {input_shape}{given}: "
            f"{error}"
        ) from error
    if found != (1, num_outputs):
        raise InputError(f"model={name!r} must return {(1, num_outputs)} for a sample, got {found}")
    return model.train()


def _maker(
    name: str, input_shape: tuple[int, ...], options: dict[str, Any]
) -> Callable[..., nn.Module]:
    """Return what builds the model ``name``, if it knows ``options`` and takes such inputs."""
    wide = re.fullmatch(r"wideresnet-(\d+)-(\d+)", name)
    if wide:
        depth, width = int(wide[1]), int(wide[2])
        if depth < 10 or (depth - 4) % 6 or width < 1:
            raise InputError(f"model={name!r}: the depth must be 6n + 4 (28, say), the width ≥ 1")
        maker: Callable[..., nn.Module] = partial(WideResNet, depth=depth, width=width)
    elif name in _NAMES:
        maker = _NAMES[name][1]
    else:
        raise InputError(
            f"model={name!r} is unknown{suggest(name, [*_NAMES, *_others()])}; known: "
            f"{', '.join(available())}"
        )
    wanted = {"mlp": len(input_shape), "gru": 2}.get(name, 3)
    if len(input_shape) != wanted:
        takes = "series (variables, steps)" if name == "gru" else "images (C, H, W)"
        raise InputError(
            f"model={name!r} takes {takes}, but a sample has shape {input_shape}; use model='mlp'"
        )
    fixed = {"input_shape", "num_outputs", *(getattr(maker, "keywords", None) or {})}
    known = set(inspect.signature(maker).parameters) - fixed
    unknown = sorted(set(options) - known)
    if unknown:
        raise InputError(
            f"model={name!r} has no option {unknown[0]!r}{suggest(unknown[0], known)}; "
            f"it knows {', '.join(sorted(known)) or 'none'}"
        )
    return maker


def _foreign(
    name: str, maker: Callable[..., Any], input_shape: tuple[int, ...], num_outputs: int,
    options: dict[str, Any],
) -> nn.Module:  # fmt: skip
    """Return the network of a class or function from outside, told what it asks for."""
    known = {"num_classes": num_outputs, "num_outputs": num_outputs, "input_shape": input_shape}
    given, takes_more = plugins.taken(maker, {**known, **options})
    for option in options:
        if option not in given and not takes_more:
            raise InputError(f"model={name!r} has no option {option!r}: it doesn't take it")
    model = maker(**{**options, **given})
    if not isinstance(model, nn.Module):
        raise InputError(f"model={name!r} must return an nn.Module, got {type(model).__name__}")
    return model
