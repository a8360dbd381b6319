"""Compositions, networks, batches and labels, drawn at random: each step is sound or refused.

A case is a dict of plain values, so that it can be drawn, shrunk, printed and kept in a file. By
itself, ``fuzzing.py --seconds 1200 --seed 1`` tries cases until the time is over and prints each
kind of finding once, as small as it could make it.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import random
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import mixwell
from mixwell import InputError
from mixwell.errors import Note

if __package__:
    from . import batches, networks
else:
    import batches
    import networks

Case = dict[str, Any]
Choose = Callable[[Sequence[Any]], Any]

CLASSES = networks.CLASSES
METHODS = mixwell.list_methods()
ARGUMENTS: dict[str, list[Any]] = {
    "per": ["batch", "sample"], "p": [0.0, 0.5, 1.0], "alpha": [0.1, 1.0, 8.0, 1e-4, 1e4],
    "layer": ["input", "head", "auto"], "distance": ["features", "input", "label"],
    "reduction": ["mean", "sum"], "weight": [0.0, 0.5], "eta": [0.0, 1.0], "side": ["lighter"],
    "mask_duplicates": [True], "axis": ["class", "pair"], "label_smoothing": [0.1],
    "saliency": ["gradient", "spectral"], "partners": ["batch", "data"], "tau_max": [1e-6, 1e3],
    "tau_std": [1e-6, 10.0], "class_weight": [[0.0] * CLASSES, [1.0, 2.0, 0.5, 1.0]],
    "over_classes": ["mean"], "units": ["raw"], "bandwidth": [1e-6, 1e6], "margin": [0.5],
}  # fmt: skip
SELDOM = [False] * 11 + [True]


BY_PLACE = {
    "alignmix", "attentivemix", "automix", "cutmix", "decoupled", "deit_mix", "fmix", "gridmix",
    "guidedmix", "maskmix", "puzzlemix", "randomix", "resizemix", "saliencymix", "samix",
    "smoothmix", "snapmix", "tokenmix", "transmix",
}  # fmt: skip
BESIDE = [
    "decoupled", "decoupled_bce", "infinite_class", "regmixup", "rankmixup", "sk_mixup",
    "am_mixup", "remix", "unimix", "mixup_io", "balanced_mixup", "manifold_mixup", "c_mixup",
]  # fmt: skip


@cache
def methods(task: str, by_place: bool) -> list[str]:
    """Return the methods for a task."""
    known = [name for name in METHODS if task in mixwell.describe(name).tasks]
    return [name for name in known if by_place or name not in BY_PLACE]


def draw(choose: Choose) -> Case:
    """Return a case, from choices."""
    task = choose(["classification", "classification", "classification", *batches.RIGHT])
    kinds = ["images", "images", "images", "images", "signals", *networks.SHAPES]
    kind = "images" if task == "segmentation" else choose(kinds)
    known = methods(task, kind in ("images", "signals") or choose(SELDOM))
    case: Case = {
        "methods": sorted({choose(known), *choose([[], [], [choose(BESIDE)]])}),
        "task": task,
        "inputs": kind,
        "shape": choose(networks.SHAPES[kind]),
        "size": choose([1, 2, 3, 5, 8]),
        "network": choose(networks.names(task, kind, choose(SELDOM))),
        "dtype": choose(["float32", "float32", "float16", "bfloat16", "float64"]),
        "input dtype": choose([None, None, None, "uint8", "int64", "float32"]),
        "values": choose(["NaN", "infinite"] if choose(SELDOM) else batches.VALUES),
        "layout": choose(batches.LAYOUTS),
        "labels": choose((batches.WRONG if choose(SELDOM) else batches.RIGHT)[task]),
        "classes known": choose([True, True, False]),
        "training": choose([True, True, True, False]),
        "model trains": choose([True, True, False]),
        "index": choose([True, False]),
        "data": choose([False, False, True]),
        "generator": choose([True, False]),
        "autocast": choose([False, False, False, True]),
        "no grad": choose(SELDOM),
        "progress": choose([0.0, 0.5, 1.0]),
        "seed": choose([0, 1, 2]),
        "again": choose([False, False, True]),
        "arguments": {},
    }
    if kind in ("words", "padded words"):  # which mix inside the network alone
        case["arguments"]["layer"] = choose(["head", "body.second", "auto"])
    if choose(SELDOM):
        case["methods"] = sorted({choose(METHODS) for _ in range(3)})
    for _ in range(choose([0, 0, 1, 2])):
        name = choose(list(ARGUMENTS))
        case["arguments"][name] = choose(ARGUMENTS[name])
    return case


# --------------------------------------------------------------------------------------- the judge


def _tensors(*values: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(values) if isinstance(leaf, Tensor)]


def _snapshot(values: Any) -> list[Any]:
    return [
        (leaf.detach().clone(), leaf._version, leaf.stride(), leaf.requires_grad)
        for leaf in _tensors(values)
    ]


def _same(before: list[Any], values: Any) -> bool:
    after = _snapshot(values)
    return all(
        old[1:] == new[1:] and torch.equal(_bytes(old[0]), _bytes(new[0]))
        for old, new in zip(before, after, strict=True)
    )


def _bytes(tensor: Tensor) -> Tensor:
    whole = tensor.detach().clone(memory_format=torch.contiguous_format)
    return whole.view(-1).view(torch.uint8)


def _state(model: nn.Module) -> list[Any]:
    """Return what a step may not change of a model: hooks, modes, attributes, flags."""
    found: list[Any] = []
    for name, module in model.named_modules():
        hooks = [
            len(module._forward_hooks), len(module._forward_pre_hooks),
            len(module._backward_hooks), len(module._backward_pre_hooks),
        ]  # fmt: skip
        found.append((name, hooks, module.training, sorted(vars(module)), type(module).__name__))
    found.append([(n, p.requires_grad, p.grad is None) for n, p in model.named_parameters()])
    return found


def _surroundings() -> list[Any]:
    return [
        torch.get_default_dtype(), torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"),
        torch.is_inference_mode_enabled(), torch.get_num_threads(), random.getstate(),
    ]  # fmt: skip


class Unsound(Exception):
    """A step was neither sound nor refused."""


def judged(case: Case) -> str:
    """Return "sound", "refused" or "no case"; raise what is wrong.

    It is no case where the network itself fails on the batch, without any method.
    """
    torch.manual_seed(case["seed"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            method = make_method(case)
        except InputError as error:
            return _refused(error)
    if case["network"] == "scripted" and case["autocast"]:
        return "no case"  # backward, its compiler takes the dtypes of outside of autocast
    model = networks.make(case).to(getattr(torch, case["dtype"]))
    model.train(case["model trains"])
    x, y = batches.make_inputs(case), batches.make_labels(case)
    verdict = _stepped(case, method, model, x, y)
    if case["again"] and case["size"] > 1:  # with fewer rows, as at the end of an epoch
        fewer = pytree.tree_map_only(Tensor, lambda leaf: leaf[:-1], x)
        _stepped({**case, "size": case["size"] - 1}, method, model, fewer, y[:-1])
    return verdict


def _context(case: Case) -> contextlib.ExitStack:
    stack = contextlib.ExitStack()
    if case["autocast"]:
        stack.enter_context(torch.autocast("cpu", torch.bfloat16))
    if case["no grad"]:
        stack.enter_context(torch.no_grad())
    return stack


def _bare(case: Case, model: nn.Module, x: Any) -> dict[str, bool] | None:
    """Return what a pass of the network alone is like; None where it fails."""
    try:
        twin = model if isinstance(model, torch.jit.ScriptModule) else copy.deepcopy(model)
        before = torch.get_rng_state()
        with warnings.catch_warnings(), _context(case):
            warnings.simplefilter("ignore")
            output = twin(copy.deepcopy(x) if not _tensors(x)[0].requires_grad else x)
    except Exception:
        return None
    finite = all(bool(leaf.isfinite().all()) for leaf in _tensors(output))
    graded = any(leaf.requires_grad for leaf in _tensors(output))
    return {
        "finite": finite,
        "graded": graded,
        "draws": not torch.equal(before, torch.get_rng_state()),
    }


def _create(methods: list[str], task: str, arguments: dict[str, Any]) -> Any:
    given = {"class_counts": [8.0, 4, 2, 1], **arguments}
    taken = {
        key: value for key, value in given.items()
        if key in ("num_classes", "generator")
        or any(mixwell.methods.accepts(name, key) for name in methods)
    }  # fmt: skip
    return mixwell.create("+".join(methods), task=task, **taken)


def make_method(case: Case) -> Any:
    arguments = dict(case["arguments"])
    if case["task"] != "regression" and case["classes known"]:
        arguments["num_classes"] = CLASSES
    if case["generator"]:
        arguments["generator"] = torch.Generator().manual_seed(3)
    method = _create(case["methods"], case["task"], arguments)
    method.train(case["training"])
    method.set_progress(case["progress"])
    return method


def _stepped(case: Case, method: Any, model: Any, x: Any, y: Any) -> str:
    plain = _bare(case, model, x)
    if plain is None:
        return "no case"
    index = torch.arange(case["size"]) if case["index"] else None
    data = (x, y) if case["data"] and isinstance(y, Tensor) else None
    given = (x, y, index)
    tensors, state, around = _snapshot(given), _state(model), _surroundings()
    weights = [p.detach().clone() for p in model.parameters()]
    rng = torch.get_rng_state()
    result = "sound"
    step = None
    try:
        with _context(case), warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", Note)
            step = method.step(model, x, y, index=index, data=data)
    except InputError as error:
        result = _refused(error)
    _expect(_same(tensors, given), "a tensor of the caller's was changed")
    _expect(_state(model) == state, "the model was left changed", _state(model), state)
    _expect(_surroundings() == around, "settings of torch or Python were left changed")
    pairs = zip(weights, model.parameters(), strict=True)
    _expect(all(torch.equal(_bytes(a), _bytes(b)) for a, b in pairs), "weights were changed")
    if case["generator"] and not plain["draws"]:
        _expect(torch.equal(rng, torch.get_rng_state()), "the global generator was drawn from")
    if step is not None:
        _sound(case, step, model, plain)
    return result


def _sound(case: Case, step: Any, model: Any, plain: dict[str, bool]) -> None:
    loss = step.loss
    _expect(loss.ndim == 0, f"the loss has shape {tuple(loss.shape)}")
    if not plain["finite"] or case["labels"] == "huge":
        return
    _expect(bool(loss.isfinite()), f"the loss is {loss.item()}")
    _expect(all(bool(v.isfinite()) for v in step.terms.values()), f"terms are {step.terms}")
    if not plain["graded"] or case["no grad"]:
        return
    _expect(loss.requires_grad, "the loss has no gradient")
    loss.backward()
    if case["dtype"] == "float16" and case["values"] == "large":
        return  # gradients of weights are products of what is large
    for name, parameter in model.named_parameters():
        grad = parameter.grad
        if grad is not None:
            _expect(bool(grad.isfinite().all()), f"the gradient of {name} is not finite")


def _expect(right: bool, words: str, *shown: Any) -> None:
    if not right:
        more = "".join(f"\n  {s}" for a in [shown] if len(a) == 2 for s in _differences(*a))
        raise Unsound(words + more)


def _differences(found: list[Any], wanted: list[Any]) -> list[str]:
    pairs = zip(found, wanted, strict=True)
    return [f"{a} instead of {b}"[:300] for a, b in pairs if a != b][:3]


def _refused(error: InputError) -> str:
    _expect(len(str(error)) > 15, f"an InputError says nothing: {error!r}")
    return "refused"


# ---------------------------------------------------------------------------------------- the hunt


VERDICTS = ("sound", "refused", "no case")


def finding(case: Case) -> str:
    """Return a verdict, or what is wrong in a line that is the same for all of its kind."""
    try:
        return judged(case)
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        inside = [f for f in frames if "/mixwell/" in f.filename]
        where = ""
        if inside:
            where = f"{inside[-1].filename.split('/mixwell/')[-1]}:{inside[-1].lineno}"
        first = str(error).splitlines()[0][:60] if str(error) else ""
        first = "".join("0" if c.isdigit() else c for c in first)
        return f"{type(error).__name__} {where} {first}"


SIMPLE: Case = {
    "values": "normal", "layout": "plain", "labels": "hard", "size": 5, "dtype": "float32",
    "input dtype": None, "classes known": True, "training": True, "model trains": True,
    "index": False, "data": False, "generator": False, "autocast": False, "no grad": False,
    "progress": 0.0, "seed": 0, "again": False, "arguments": {},
}  # fmt: skip


def smaller(case: Case, kind: str) -> Case:
    """Return a case of the same kind of finding with as little in it as can be."""
    trials: list[Case] = [{"methods": [name]} for name in case["methods"]]
    trials += [{key: value} for key, value in SIMPLE.items() if case[key] != value]
    trials += [
        {"arguments": {k: v for k, v in case["arguments"].items() if k != name}}
        for name in case["arguments"]
    ]
    for change in trials:
        tried = {**case, **change}
        if tried != case and finding(tried) == kind:
            case = tried
    return case


def hunt(seconds: float, seed: int) -> list[dict[str, Any]]:
    """Try cases for so long; return the findings, each kind once."""
    chooser = random.Random(seed)
    found: dict[str, dict[str, Any]] = {}
    counts: Counter[str] = Counter()
    started = time.monotonic()
    while time.monotonic() - started < seconds:
        case = draw(chooser.choice)
        kind = finding(case)
        if kind in VERDICTS:
            counts[kind] += 1
            continue
        counts["found"] += 1
        if kind not in found:
            case = smaller(case, kind)
            found[kind] = {"finding": kind, "case": case}
            print(json.dumps(found[kind]), flush=True)
    print(json.dumps(counts), file=sys.stderr)
    return list(found.values())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    hunt(options.seconds, options.seed)
