"""Mixing a batch: mixwell beside the floor, the plain formulas and other libraries."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import mixwell
from mixwell import Mix, functional
from mixwell.bench.timing import Contender, reason

__all__ = ["Batch", "mixing"]

_COMPACT, _DENSE = "a, b, λ", "dense"


@dataclass(frozen=True)
class Batch:
    """A batch of images to mix.

    Attributes:
        size: B.
        side: H and W, in pixels.
        dtype: of the images.
        group: the table that it belongs to.
        peers: whether the other libraries are timed on it.
        compiled: whether the compiled mix is, which takes seconds to build.
    """

    size: int
    side: int
    dtype: torch.dtype = torch.float32
    group: str = "main"
    peers: bool = True
    compiled: bool = True

    def __str__(self) -> str:
        return f"{self.size}×3×{self.side}² {str(self.dtype).removeprefix('torch.')}"

    def make(self, device: torch.device) -> Tensor:
        """Return the images: uniform in [0, 1), or in [0, 255]."""
        generator = torch.Generator().manual_seed(0)
        shape = (self.size, 3, self.side, self.side)
        if self.dtype == torch.uint8:
            x = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
        else:
            x = torch.rand(shape, generator=generator).to(self.dtype)
        return x.to(device)


def _traits(sample: bool = True, place: str = "no", labels: str = "–") -> dict[str, str]:
    return {"per sample": "yes" if sample else "no", "in place": place, "labels": labels}


def mixing(case: Batch, device: torch.device) -> list[Contender]:
    """Return the contenders: random partners, and a λ for each sample where they can.

    The floor adds two batches into a third: any mix must read two and write one. "labels" says
    what a contender makes of them in the same call; "–" mixes images alone, by a given draw.
    """
    x = case.make(device)
    buffer, other = torch.empty_like(x), x.flip(0).contiguous()
    scratch = x.clone()  # of those that mix in place: what the others read stays as it is
    num_classes = 1000 if case.side >= 100 else 100
    y = torch.arange(case.size, device=device) % num_classes
    mix = Mix(torch.randperm(case.size, device=device), torch.rand(case.size, device=device))
    weight = mix.lam.view(-1, 1, 1, 1)
    cutmix = mixwell.create("cutmix", num_classes=num_classes)
    boxes = cutmix.preview(x, y)[2]
    contenders = [
        Contender("torch.add(a, b, out=)", lambda: torch.add(x, other, out=buffer), "floor"),
        Contender("mix", lambda: functional.mix(x, mix), "mixwell", traits=_traits()),
    ]
    contenders += _into(x, mix, buffer, scratch)
    if case.compiled:
        compiled = torch.compile(functional.mix, dynamic=False)
        contenders.append(
            Contender("mix, compiled", lambda: compiled(x, mix), "mixwell", traits=_traits())
        )
    contenders.append(
        Contender(
            "mix by CutMix's boxes", lambda: functional.mix(x, boxes), "mixwell", traits=_traits()
        )
    )
    drawn: dict[str, dict[str, Any]] = {
        "mixup": {}, "cutmix": {}, "sk_mixup": {"distance": "input"},
    }  # fmt: skip
    for name, settings in drawn.items():
        method = mixwell.create(name, num_classes=num_classes, **settings)
        contenders.append(
            Contender(
                f"{name}.preview" + (" (input)" if settings else ""),
                lambda method=method: method.preview(x, y),  # type: ignore[misc]
                "mixwell", traits=_traits(labels=_COMPACT),
            )
        )  # fmt: skip
    contenders += _formulas(x, mix.partner, weight)
    if case.peers:
        contenders += _peers(x, scratch, y, num_classes)
    return contenders


def _into(x: Tensor, mix: Mix, buffer: Tensor, scratch: Tensor) -> list[Contender]:
    """Return mixing into a tensor that is there, where this version has it."""
    if "out" in inspect.signature(functional.mix).parameters:
        into: Callable[..., Any] = functional.mix
        return [
            Contender(
                "mix(out=buffer)", lambda: into(x, mix, out=buffer), "mixwell", traits=_traits()
            ),
            Contender(
                "mix(out=x)", lambda: into(scratch, mix, out=scratch), "mixwell",
                traits=_traits(place="yes"),
            ),
        ]  # fmt: skip
    return [
        Contender(name, kind="mixwell", absent="not in this version", traits=traits)
        for name, traits in (("mix(out=buffer)", _traits()), ("mix(out=x)", _traits(place="yes")))
    ]


def _formulas(x: Tensor, partner: Tensor, weight: Tensor) -> list[Contender]:
    """Return the two lines that one would write by hand."""
    if x.dtype == torch.uint8:

        def lerp() -> Tensor:
            return torch.lerp(x[partner].float(), x.float(), weight).round().to(torch.uint8)

        def formula() -> Tensor:
            return (weight * x + (1 - weight) * x[partner]).round().to(torch.uint8)
    else:
        weight = weight.to(x.dtype)

        def lerp() -> Tensor:
            return torch.lerp(x[partner], x, weight)

        def formula() -> Tensor:
            return weight * x + (1 - weight) * x[partner]

    return [
        Contender("by hand: gather, lerp", lerp, traits=_traits()),
        Contender("by hand: λx + (1-λ)x[σ]", formula, traits=_traits()),
    ]


# ------------------------------------------------------------------------------------------ peers


def _ready(
    module: str, make: Callable[[Any], Callable[..., Any]], x: Tensor, images: Tensor,
    labels: Tensor, lacks: Sequence[torch.dtype],
) -> tuple[Callable[..., Any] | None, str]:  # fmt: skip
    """Return what mixes a batch, or None and why there is nothing.

    Args:
        module: to import.
        make: gives the transform of (images, labels), from the module.
        x: images to try it with.
        images: that it mixes.
        labels: what it takes.
        lacks: dtypes that it mixes wrongly without a word.
    """
    dtype = str(x.dtype).removeprefix("torch.")
    try:
        transform = make(importlib.import_module(module))
        mixed = transform(x[:2].clone(), labels[:2])[0]
    except ImportError as error:
        own, missing = module.split(".")[0], (error.name or module).split(".")[0]
        return None, "not installed" + (f" ({missing}, which it needs)" if missing != own else "")
    except Exception as error:  # of any kind: it is another package's code
        return None, f"refuses {dtype}: {reason(error)}"
    if x.dtype in lacks:
        return None, f"mixes {dtype} wrongly"
    if mixed.dtype != x.dtype:
        return None, f"returns {str(mixed.dtype).removeprefix('torch.')} for {dtype}"
    return partial(transform, images, labels), ""


def _peers(x: Tensor, scratch: Tensor, y: Tensor, num_classes: int) -> list[Contender]:
    """Return what other libraries offer, each called as its documentation says."""
    contenders: list[Contender] = []
    dense = F.one_hot(y, num_classes).float()

    def add(
        name: str, module: str, make: Callable[[Any], Callable[..., Any]],
        traits: dict[str, str], labels: Tensor = y, lacks: Sequence[torch.dtype] = (),
    ) -> None:  # fmt: skip
        images = scratch if traits["in place"] == "always" else x
        run, absent = _ready(module, make, x, images, labels, lacks)
        contenders.append(Contender(name, run, "peer", absent, traits=traits))

    batch, sample = _traits(False, labels=_DENSE), _traits(labels=_DENSE)
    tv = "torchvision.transforms.v2"
    add("torchvision MixUp", tv, lambda m: m.MixUp(num_classes=num_classes), batch)
    add("torchvision CutMix", tv, lambda m: m.CutMix(num_classes=num_classes), batch)

    def timm(**settings: Any) -> Callable[[Any], Callable[..., Any]]:
        return lambda m: m.Mixup(label_smoothing=0.0, num_classes=num_classes, **settings)

    there = _traits(place="always", labels=_DENSE)
    batch_there = _traits(False, place="always", labels=_DENSE)
    add("timm Mixup, batch", "timm.data", timm(mode="batch"), batch_there)
    add("timm Mixup, elem", "timm.data", timm(mode="elem"), there)
    boxes = timm(mode="elem", mixup_alpha=0.0, cutmix_alpha=1.0)
    add("timm CutMix, elem", "timm.data", boxes, there)

    kornia, compact = "kornia.augmentation", _traits(labels=_COMPACT)
    both = {"p": 1.0, "data_keys": ["input", "class"]}
    add("kornia RandomMixUpV2", kornia, lambda m: m.RandomMixUpV2(**both), compact)
    add(
        "kornia RandomCutMixV2", kornia,
        lambda m: m.RandomCutMixV2(**both, use_correct_lambda=True), compact,
    )  # fmt: skip

    def warping(module: Any) -> Callable[..., Any]:
        transform = module.WarpingMixup(isobatch=False, num_classes=num_classes)
        return lambda images, labels: transform(images, labels, images)

    uncertainty = "torch_uncertainty.transforms.mixup"
    add("torch-uncertainty Mixup", uncertainty, lambda m: m.Mixup(1.0, num_classes), sample)
    add("torch-uncertainty WarpingMixup", uncertainty, warping, sample)
    # These two turn λ into the images' dtype: a uint8 λ is 0.
    for name in ("VanillaMixUp", "CutMix"):
        make = attrgetter(name)
        add(
            f"mixup {name}", "mixup", lambda m, make=make: make(m)(),  # type: ignore[misc]
            batch, dense, (torch.uint8,),
        )  # fmt: skip
    return contenders
