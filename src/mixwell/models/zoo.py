"""The models of timm and torchvision: untrained, or with the weights that these have for them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from torch import nn

from mixwell.data.inputs import Inputs
from mixwell.errors import InputError, suggest
from mixwell.models.weights import load_weights

__all__ = ["ZOOS", "architecture", "classes_of", "from_timm", "from_torchvision", "inputs_of"]

ZOOS = ("timm", "torchvision")
"""What stands before the colon in their models' names."""

_OF_WEIGHTS: dict[str, dict[str, Any]] = {
    # Trained on inputs in [-1, 1], and the models see to that.
    "torchvision:googlenet": {"transform_input": True},
    "torchvision:inception_v3": {"transform_input": True},
    "timm:fbnetc_100": {"bn_eps": 1e-3},
}
"""Settings of a model that come with its pretrained weights and are no part of them."""


def architecture(name: str, options: Mapping[str, Any], pretrained: bool) -> dict[str, Any]:
    """Return the options by which a network is made again, to be given the weights it came to.

    What comes with pretrained weights stands among them; which weights these were doesn't.

    Args:
        name: of the model.
        options: that the network was made with at first.
        pretrained: whether it began with the weights that timm or torchvision has for it.
    """
    zoo, _, own = name.partition(":")
    kept = {k: v for k, v in options.items() if not (zoo == "torchvision" and k == "weights")}
    implied = _OF_WEIGHTS.get(f"{zoo}:{own.split('.')[0]}", {}) if pretrained else {}
    return {**implied, **kept}


def _known_timm(name: str) -> Any:
    """Return timm, if it has a model of the name (its weights' tag may follow a dot)."""
    try:
        import timm
    except ImportError as error:
        raise InputError(f"model='timm:{name}' needs timm: pip install 'mixwell[timm]'") from error
    if not timm.is_model(name.split(".")[0]):
        raise InputError(
            f"model='timm:{name}' is unknown to timm {timm.__version__}"
            f"{suggest(name, timm.list_models())}"
        )
    return timm


def _known_torchvision(name: str) -> Any:
    """Return torchvision's models, if there is a classifier of the name."""
    try:
        import torchvision
        from torchvision import models
    except ImportError as error:
        raise InputError(
            f"model='torchvision:{name}' needs torchvision: pip install 'mixwell[train]'"
        ) from error
    known = models.list_models(module=models)
    if name not in known:
        raise InputError(
            f"model='torchvision:{name}' is unknown to torchvision {torchvision.__version__}"
            f"{suggest(name, known)}"
        )
    return models


def _check_images(name: str, input_shape: tuple[int, ...]) -> None:
    if len(input_shape) != 3:
        raise InputError(f"model={name!r} takes images, but a sample has shape {input_shape}")


def _unfetched(name: str, error: Exception) -> InputError:
    return InputError(
        f"pretrained: the weights of model={name!r} can't be had: {type(error).__name__}: "
        f"{str(error).strip().splitlines()[0] if str(error).strip() else 'no more is known'}; "
        "fetch their file elsewhere and start from it: --init FILE"
    )


def from_timm(
    name: str, input_shape: tuple[int, ...], num_outputs: int, options: Mapping[str, Any],
    pretrained: bool,
) -> nn.Module:  # fmt: skip
    """Return a model of timm's; see :func:`mixwell.models.build`."""
    timm = _known_timm(name)
    _check_images(f"timm:{name}", input_shape)
    if pretrained and not _timm_config(name, options).has_weights:
        near = suggest(name, timm.list_pretrained())
        raise InputError(f"pretrained: timm has no weights for model='timm:{name}'{near}")
    own = architecture(f"timm:{name}", options, pretrained)
    common = {"num_classes": num_outputs, "in_chans": input_shape[0], **own}
    sized = {"img_size": tuple(input_shape[1:]), **common}
    try:
        model = timm.create_model(name, **sized)
    except TypeError:  # convolutional models take any size, and no such argument
        sized = common
        model = timm.create_model(name, **common)
    return _fetched_timm(name, sized) if pretrained else model


def _fetched_timm(name: str, options: Mapping[str, Any]) -> nn.Module:
    import timm

    told = logging.getLogger("timm")
    level = told.level
    told.setLevel(logging.ERROR)
    try:
        return timm.create_model(name, pretrained=True, **options)
    except Exception as error:  # of the network, of the hub, of a file
        raise _unfetched(f"timm:{name}", error) from error
    finally:
        told.setLevel(level)


def _timm_config(name: str, options: Mapping[str, Any]) -> Any:
    """Return what timm knows of a model's weights, with the changes that the options make."""
    from dataclasses import replace

    from timm.models import PretrainedCfg, get_pretrained_cfg

    found = get_pretrained_cfg(name) or PretrainedCfg()
    overlay = options.get("pretrained_cfg_overlay") or {}
    try:
        return replace(found, **overlay)
    except TypeError as error:
        raise InputError(f"model='timm:{name}': pretrained_cfg_overlay: {error}") from error


def from_torchvision(
    name: str, input_shape: tuple[int, ...], num_outputs: int, options: Mapping[str, Any],
    pretrained: bool,
) -> nn.Module:  # fmt: skip
    """Return a model of torchvision's; see :func:`mixwell.models.build`."""
    models = _known_torchvision(name)
    _check_images(f"torchvision:{name}", input_shape)
    own = architecture(f"torchvision:{name}", options, pretrained)
    chosen = options.get("weights")
    if chosen is not None and not pretrained:
        raise InputError(f"model='torchvision:{name}': weights={chosen!r} are for --pretrained")
    if name.startswith("vit_"):
        own.setdefault("image_size", input_shape[1])
    elif name.startswith("maxvit"):
        own.setdefault("input_size", tuple(input_shape[1:]))
    elif name in ("googlenet", "inception_v3"):
        own.setdefault("aux_logits", False)
        own.setdefault("init_weights", True)
    model = models.get_model(name, weights=None, num_classes=num_outputs, **own)
    if input_shape[0] != 3:
        _take_channels(model, input_shape[0])
    if pretrained:
        weights = _torchvision_weights(name, chosen)
        try:
            state = weights.get_state_dict(progress=False, check_hash=True)
        except Exception as error:  # of the network, of a file
            raise _unfetched(f"torchvision:{name}", error) from error
        beside = ("aux1.", "aux2.", "AuxLogits.")  # heads that help training from scratch
        kept = {key: value for key, value in state.items() if not key.startswith(beside)}
        load_weights(model, kept, input_shape, f"the weights of torchvision:{name}")
    return model


def _torchvision_weights(name: str, chosen: str | None) -> Any:
    from torchvision import models

    known = models.get_model_weights(name)
    if chosen is None:
        return known.DEFAULT
    if chosen not in known.__members__:
        raise InputError(
            f"model='torchvision:{name}': weights={chosen!r} are unknown"
            f"{suggest(str(chosen), known.__members__)}; there are {', '.join(known.__members__)}"
        )
    return known[chosen]


def _take_channels(model: nn.Module, channels: int) -> None:
    """Put a convolution of so many channels in the place of the first, of three."""
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d) and layer.in_channels == 3:
            own: Any = {
                key: getattr(layer, key)
                for key in ("kernel_size", "stride", "padding", "dilation", "padding_mode")
            }
            new = nn.Conv2d(channels, layer.out_channels, bias=layer.bias is not None, **own)
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, new)
            return


def classes_of(name: str, options: Mapping[str, Any]) -> int:
    """Return how many classes a pretrained model's weights tell apart."""
    zoo, _, own = name.partition(":")
    if zoo == "torchvision":
        return len(_torchvision_weights(own, options.get("weights")).meta["categories"])
    return int(_timm_config(own, options).num_classes)


def inputs_of(name: str, options: Mapping[str, Any]) -> Inputs:
    """Return what a pretrained model's images are made to, as timm or torchvision says.

    Raises:
        InputError: the model is unknown, or of neither.
    """
    zoo, _, own = name.partition(":")
    if zoo not in ZOOS:
        raise InputError(
            f"pretrained: model={name!r} has no weights that could be fetched: name one of timm "
            "(timm:NAME) or torchvision (torchvision:NAME), or start from a file: --init FILE"
        )
    if zoo == "torchvision":
        _known_torchvision(own)
        known = _torchvision_weights(own, options.get("weights")).transforms()
        return Inputs(
            known.crop_size[0], tuple(known.mean), tuple(known.std), known.resize_size[0],
            "bicubic" if known.interpolation.value == "bicubic" else "bilinear",
        )  # fmt: skip
    _known_timm(own)
    from timm.data.config import resolve_data_config

    found = resolve_data_config({}, pretrained_cfg=_timm_config(own, options).to_dict())
    size = found["input_size"][1]
    return Inputs(
        size, tuple(found["mean"]), tuple(found["std"]), round(size / found["crop_pct"]),
        "bilinear" if found["interpolation"] == "bilinear" else "bicubic",
    )  # fmt: skip
