"""Which runs are the same but for what they are called: "mixup" and "mixup(alpha=1.0)"."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from mixwell.data import Dataset
from mixwell.errors import InputError
from mixwell.methods import Recipe, Term
from mixwell.parts import Part
from mixwell.studies.records import key_of
from mixwell.training.build import make_method
from mixwell.training.config import RunConfig

__all__ = ["what_it_is"]


def what_it_is(config: RunConfig, dataset: Dataset) -> Hashable:
    """Return what is equal of two runs that train the same method alike, however it is written.

    It is read off what :func:`mixwell.create` builds: the terms, their parts and all settings.
    What can't be looked into is equal to nothing.

    Args:
        config: resolved.
        dataset: that it names.
    """
    method = make_method(config, dataset)
    terms = tuple(_of(term) for term in method.terms)
    same: dict[str, Any] = {"method": "erm", "method_options": {}}
    if all(term.recipe is None for term in method.terms):
        same |= {"semi": RunConfig.semi, "mix_cutoff": None}  # how what is not labelled is mixed
    trained = replace(config, **same).changes()
    return terms, method.head, method.feature_mode, key_of(trained)


def _of(value: Any) -> Hashable:
    if isinstance(value, Term):
        return "term", _of(value.loss), _of(value.recipe), value.weight
    if isinstance(value, Recipe):
        parts = (value.pairing, value.coefficient, value.interpolation, value.labels)
        return "recipe", tuple(map(_of, parts)), value.p, value.per
    if isinstance(value, Part):
        try:
            return type(value), _of(value.settings())
        except InputError:  # of somebody's own, which does not keep its arguments
            return object()
    if isinstance(value, Tensor):
        return "tensor", tuple(value.shape), str(value.tolist())
    if isinstance(value, nn.Module):
        return object()
    if isinstance(value, Mapping):
        return "mapping", frozenset((name, _of(inner)) for name, inner in value.items())
    if isinstance(value, (list, tuple)):
        return "list", tuple(map(_of, value))
    return key_of(value) if isinstance(value, Hashable) else object()
