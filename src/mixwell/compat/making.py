"""Making the method for a transformers model, from its config and the training arguments."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mixwell.errors import InputError, say
from mixwell.methods import Method, Recipe, create
from mixwell.methods.registry import accepts
from mixwell.mix import MixedTarget
from mixwell.view import inference, logits_of, unwrap

__all__ = ["check_smoothing", "compare_losses", "layers_of", "make_method", "recipes_of"]


def recipes_of(method: Method) -> list[Recipe]:
    """Return how the terms of a method mix."""
    return [part for part in method.modules() if isinstance(part, Recipe)]


def layers_of(method: Method) -> set[str]:
    """Return where a method mixes."""
    return {layer for recipe in recipes_of(method) for layer in recipe.interpolation.layers}


def make_method(
    model: nn.Module | None, name: str, arguments: dict[str, Any], label_smoothing: float
) -> Method:
    """Return the method called ``name`` for this model.

    Args:
        model: its config tells of classes and the task, its main input of text.
        name: as of :func:`mixwell.create`.
        arguments: likewise; those that the config tells are added.
        label_smoothing: of the training arguments.
    """
    config = getattr(model, "config", None)
    classes = getattr(config, "num_labels", None)
    kind = getattr(config, "problem_type", None)
    if kind == "multi_label_classification":
        arguments.setdefault("task", "multilabel")
    elif kind == "regression" or (kind is None and classes == 1):
        arguments.setdefault("task", "regression")
    if arguments.get("task") != "regression":
        arguments.setdefault("num_classes", classes)
    if label_smoothing and accepts(name, "label_smoothing"):
        arguments.setdefault("label_smoothing", label_smoothing)
    method = create(name, **arguments)
    is_text = getattr(model, "main_input_name", None) == "input_ids"
    placed = any(key.rpartition("__")[2] in ("layer", "interpolation") for key in arguments)
    if not is_text or placed:
        return method
    if "auto" in layers_of(method):
        raise InputError(
            f"mixup={name!r} draws its layer, the input among others, where tokens can't be mixed; "
            "name the layers: mixup_arguments={'layer': ['bert.embeddings', 'head']} (for BERT)"
        )
    if "input" in layers_of(method) and accepts(name, "layer"):
        method = create(name, layer="head", **arguments)
    if "input" in layers_of(method):
        raise InputError(
            f"mixup={name!r} mixes at the input, where tokens can't be mixed; take a method that "
            "mixes linearly"
        )
    return method


def check_smoothing(method: Method, label_smoothing: float, by_name: bool) -> None:
    """Refuse a label smoothing of the training arguments that the method does not have.

    Args:
        method: the method.
        label_smoothing: of the training arguments.
        by_name: whether the Trainer was given its name, and not the method.
    """
    for term in method.terms if label_smoothing else ():
        own = getattr(term.loss, "label_smoothing", None)
        if own == label_smoothing:
            continue
        if own is None:
            how = "there is none in this loss: leave label_smoothing_factor at 0"
        elif by_name:
            how = (
                "leave one of the two out: label_smoothing_factor, or 'label_smoothing' of "
                "mixup_arguments"
            )
        else:
            how = (
                "leave label_smoothing_factor at 0, or make the method with "
                f"label_smoothing={label_smoothing!r}"
            )
        raise InputError(
            f"label_smoothing_factor={label_smoothing}: {method.name}'s loss "
            f"{type(term.loss).__name__} has {'no label smoothing' if own is None else own}; {how}"
        )


def compare_losses(method: Method, model: nn.Module, x: dict[str, Any], labels: Tensor) -> None:
    """Say so where a model's own loss is not that of its logits: the method replaces it.

    The unmixed batch goes through the model once more, in evaluation mode, with its labels; in all
    processes, since some models meet in theirs.

    Args:
        method: which trains the model.
        model: called with keyword arguments.
        x: its inputs.
        labels: its labels.
    """
    try:
        with inference(model), torch.compiler.set_stance("force_eager"):
            outputs = model(**x, labels=labels)
        own = outputs["loss"] if isinstance(outputs, dict) else outputs[0]
        if not isinstance(own, Tensor) or own.ndim:
            return
        losses = [term.loss for term in method.terms]
        logits = (outputs["logits"] if isinstance(outputs, dict) else logits_of(outputs[1])).float()
        target = MixedTarget.clean(method.task.prepare(labels))
        plain = float(method.task.clean_loss(losses)(logits, target))
    except (AttributeError, LookupError, TypeError, ValueError, RuntimeError):
        return  # its own loss takes no such batch: there is nothing to be replaced
    # Before training the logits are all alike, and so are losses with and without class weights.
    precision = 2e-2 if own.dtype in (torch.float16, torch.bfloat16) else 1e-4
    if abs(float(own) - plain) > precision * max(abs(plain), 0.1):
        say(
            f"{type(unwrap(model)).__name__} has a loss of its own, {float(own):.5g} on the first "
            f"batch, where that of its logits is {plain:.5g}: {method.name} computes the loss from "
            "the logits and replaces it in training. Class weights are given as "
            "mixup_arguments={'class_weight': ...}, another loss as mixup_arguments={'loss': ...}; "
            "what a model adds to its loss is left out (said once)"
        )
