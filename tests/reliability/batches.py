"""Batches for the fuzzer: inputs of many kinds, and labels that are right or wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

if __package__:
    from . import networks
else:
    import networks

Case = dict[str, Any]
CLASSES = networks.CLASSES
RIGHT = {
    "classification": [
        "hard",
        "hard",
        "hard",
        "soft",
        "one-hot",
        "int32",
        "uint8",
        "one class",
        "half",
    ],
    "multilabel": ["hard", "soft", "bool", "none", "all", "int"],
    "segmentation": ["hard", "hard", "uint8", "ignored", "all ignored"],
    "regression": ["hard", "hard", "column", "several", "constant", "half", "double", "huge"],
}
WRONG = {
    "classification": ["out of range", "negative", "NaN", "too wide", "float", "bool", "column",
                       "below zero", "no sum", "list"],
    "multilabel": ["NaN", "too wide", "above one", "list"],
    "segmentation": ["out of range", "soft", "list"],
    "regression": ["whole", "NaN", "list"],
}  # fmt: skip
VALUES = ["normal", "normal", "normal", "zeros", "equal", "large", "tiny"]
LAYOUTS = ["plain", "plain", "plain", "channels last", "expanded", "strided", "with gradient"]


def make_inputs(case: Case) -> Any:
    """Return x, of the case's values, dtype and layout."""
    generator = torch.Generator().manual_seed(case["seed"])
    if case["inputs"] in ("words", "padded words"):
        words = torch.randint(
            0, networks.WORDS, (case["size"], *case["shape"]), generator=generator
        )
        if case["inputs"] == "words":
            return words
        mask = torch.ones_like(words)
        mask[:, case["shape"][0] // 2 + 1 :] = 0
        return {"input_ids": words, "attention_mask": mask}
    if case["inputs"] == "two inputs":
        first, second = case["shape"]
        return {
            "image": _values(case, first, generator), "table": _values(case, second, generator)
        }  # fmt: skip
    return _values(case, case["shape"], generator)


def _values(case: Case, shape: Sequence[int], generator: torch.Generator) -> Tensor:
    x = torch.randn(case["size"], *shape, generator=generator, dtype=torch.float64)
    values = case["values"]
    if values == "zeros":
        x = torch.zeros_like(x)
    elif values == "equal":
        x = x[:1].expand_as(x).clone()
    elif values in ("large", "tiny"):
        x = x * (1e2 if values == "large" else 1e-6)
    elif values in ("NaN", "infinite"):
        x.view(-1)[-1] = float("nan" if values == "NaN" else "inf")
    dtype = getattr(torch, case["input dtype"] or case["dtype"])
    x = x.to(dtype) if dtype.is_floating_point else (x.nan_to_num(0, 9, 0).abs() * 50).to(dtype)
    return _laid_out(x, case["layout"])


def _laid_out(x: Tensor, layout: str) -> Tensor:
    if layout == "channels last" and x.ndim == 4:
        return x.to(memory_format=torch.channels_last)
    if layout == "expanded":
        return x[:1].expand_as(x)
    if layout == "strided":
        return torch.stack([x, x], -1)[..., 0]
    if layout == "with gradient" and x.is_floating_point():
        return x.requires_grad_()
    return x


def make_labels(case: Case) -> Any:
    """Return y, right or wrong as the case says."""
    generator = torch.Generator().manual_seed(case["seed"] + 7)
    made = {
        "classification": _classes, "multilabel": _several_classes, "segmentation": _maps,
        "regression": _targets,
    }  # fmt: skip
    return made[case["task"]](case, generator)


def _classes(case: Case, generator: torch.Generator) -> Any:
    size, labels = case["size"], case["labels"]
    y = torch.randint(CLASSES, (size,), generator=generator)
    soft = torch.rand(size, CLASSES, generator=generator).softmax(1)
    wrong = y.clone()
    wrong[-1] = CLASSES if labels == "out of range" else -1
    nan = soft.clone()
    nan[-1, 0] = float("nan")
    made = {
        "hard": y, "soft": soft, "one-hot": torch.eye(CLASSES)[y], "int32": y.int(),
        "uint8": y.byte(), "one class": torch.zeros_like(y), "out of range": wrong,
        "negative": wrong, "NaN": nan, "too wide": torch.cat([soft, soft], 1), "float": y.float(),
        "bool": y > 1, "column": y[:, None], "below zero": soft - 0.5, "no sum": soft * 3,
        "half": soft.half(), "list": y.tolist(),
    }  # fmt: skip
    return made[labels]


def _several_classes(case: Case, generator: torch.Generator) -> Any:
    labels = case["labels"]
    soft = torch.rand(case["size"], CLASSES, generator=generator)
    hard = soft.round()
    nan = soft.clone()
    nan[0, 0] = float("nan")
    made = {
        "hard": hard, "soft": soft, "bool": hard > 0, "none": hard * 0, "all": hard * 0 + 1,
        "NaN": nan, "too wide": torch.cat([hard, hard], 1), "int": hard.long(),
        "above one": soft + 1, "list": hard.tolist(),
    }  # fmt: skip
    return made[labels]


def _maps(case: Case, generator: torch.Generator) -> Any:
    size, labels = case["size"], case["labels"]
    y = torch.randint(CLASSES, (size, *case["shape"][1:]), generator=generator)
    if labels == "ignored":
        y[:, 0] = -100
    elif labels == "all ignored":
        y[:] = -100
    elif labels == "out of range":
        y[:] = CLASSES
    elif labels == "list":
        return y.tolist()
    elif labels == "soft":
        return torch.rand(size, CLASSES, *case["shape"][1:], generator=generator).softmax(1)
    return y.byte() if labels == "uint8" else y


def _targets(case: Case, generator: torch.Generator) -> Any:
    labels = case["labels"]
    shape = {"column": (1,), "several": (CLASSES,)}.get(labels, ())
    y = torch.randn(case["size"], *shape, generator=generator)
    if labels == "constant":
        y = torch.ones_like(y)
    elif labels == "NaN":
        y[0] = float("nan")
    elif labels == "huge":
        y = y * 1e30
    elif labels == "list":
        return y.tolist()
    kinds = {"half": torch.float16, "double": torch.float64, "whole": torch.int64}
    return y.to(kinds.get(labels, torch.float32))
