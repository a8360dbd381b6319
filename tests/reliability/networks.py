"""Small networks of many kinds for the fuzzer, by what they take and what is asked of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

CLASSES = 4
WORDS = 11

SHAPES: dict[str, list[Any]] = {
    "images": [[3, 8, 8], [3, 8, 8], [1, 7, 9], [3, 16, 16], [2, 5, 12], [3, 1, 1], [1, 2, 3]],
    "signals": [[2, 17], [1, 8], [3, 1], [4, 32]],
    "tables": [[6], [1], [13]],
    "volumes": [[1, 4, 5, 6], [2, 1, 3, 3]],
    "words": [[7], [1], [12]],
    "padded words": [[6], [3]],
    "two inputs": [[[3, 8, 8], [5]]],
}


class Read(nn.Module):
    """Make (B, d) features of any input, in stages; ``norm`` is a layer of channels."""

    def __init__(self, inputs: str, shape: Sequence[Any], norm: str = "none") -> None:
        super().__init__()
        self.inputs = inputs
        if inputs in ("words", "padded words"):
            self.first = nn.Embedding(WORDS, 8)
            self.second = nn.Sequential(nn.Linear(8, 8), nn.GELU())
            return
        if inputs == "two inputs":
            self.first = Read("images", shape[0], norm)
            self.second = Read("tables", shape[1], norm)
            return
        space = len(shape) - 1
        layer = [nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d][space]
        more = {} if space == 0 else {"kernel_size": 3, "padding": 1}
        batch_norm = [nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d][space]
        made = {
            "none": nn.Identity, "batch": lambda: batch_norm(8),
            "group": lambda: nn.GroupNorm(2, 8), "dropout": lambda: nn.Dropout(0.2),
        }  # fmt: skip
        self.first = nn.Sequential(layer(shape[0], 8, **more), made[norm](), nn.ReLU())
        self.second = nn.Sequential(layer(8, 8, **more), made[norm](), nn.GELU())

    def maps(self, x: Any) -> Any:
        if self.inputs == "two inputs":
            return self.first(x["image"]) + self.second(x["table"])
        if self.inputs == "padded words":
            hidden = self.second(self.first(x["input_ids"]))
            mask = x["attention_mask"][..., None].to(hidden.dtype)
            return (hidden * mask).sum(1) / mask.sum(1)
        weight = next(self.parameters())
        x = x.to(weight.dtype) if x.is_floating_point() or self.inputs != "words" else x
        hidden = self.second(self.first(x))
        return hidden.mean(1) if self.inputs == "words" else hidden

    def forward(self, x: Any) -> Tensor:
        maps = self.maps(x)
        return maps.flatten(2).mean(2) if maps.ndim > 2 else maps


class Net(nn.Module):
    """Features, and a head."""

    outputs = CLASSES

    def __init__(self, case: dict[str, Any], norm: str = "none") -> None:
        super().__init__()
        self.body = Read(case["inputs"], case["shape"], norm)
        self.fc = nn.Linear(8, outputs_of(case))

    def forward(self, x: Any) -> Any:
        return self.fc(self.body(x))


def outputs_of(case: dict[str, Any]) -> int:
    several = case["task"] != "regression" or case["labels"] == "several"
    return CLASSES if several else 1


class Segments(Net):
    def __init__(self, case: dict[str, Any], norm: str = "none") -> None:
        super().__init__(case, norm)
        self.fc = nn.Conv2d(8, CLASSES, 1)

    def forward(self, x: Any) -> Any:
        return self.fc(self.body.maps(x))


class AsObject(Net):
    def forward(self, x):
        features = self.body(x)
        return SimpleNamespace(loss=None, logits=self.fc(features), hidden_states=(features,))


class AsDict(Net):
    def forward(self, x):
        features = self.body(x)
        return {"logits": self.fc(features), "features": features}


class AsTuple(Net):
    def forward(self, x):
        features = self.body(x)
        return self.fc(features), features


class TwoHeads(Net):
    def __init__(self, case):
        super().__init__(case)
        self.other = nn.Linear(8, outputs_of(case))

    def forward(self, x):
        features = self.body(x)
        return (self.fc(features) + self.other(features)) / 2


class BareHead(Net):
    """The head is a parameter and a function."""

    def __init__(self, case):
        super().__init__(case)
        self.fc = nn.ParameterDict({"w": nn.Parameter(torch.randn(outputs_of(case), 8))})

    def forward(self, x):
        return F.linear(self.body(x), self.fc["w"])


class Twice(Net):
    """The head runs twice."""

    def forward(self, x):
        features = self.body(x)
        return self.fc(features) - self.fc(features.flip(1))


class Checkpointed(Net):
    def forward(self, x):
        return self.fc(checkpoint(self.body, x, use_reentrant=False))


class Squeezed(Net):
    def forward(self, x):
        return self.fc(self.body(x)).squeeze(-1)


class Recurrent(nn.Module):
    def __init__(self, case):
        super().__init__()
        self.lstm = nn.LSTM(case["shape"][0], 8, batch_first=True)
        self.fc = nn.Linear(8, outputs_of(case))

    def forward(self, x):
        return self.fc(self.lstm(x.to(self.fc.weight.dtype).transpose(1, 2))[0][:, -1])


class Wrong(Net):
    def __init__(self, case, how):
        super().__init__(case)
        self.how = how

    def forward(self, x):
        z = self.fc(self.body(x))
        return {
            "nothing": lambda: None, "fewer rows": lambda: z[:-1], "one number": lambda: z.sum(),
            "wider": lambda: torch.cat([z, z], 1), "images": lambda: z[..., None, None],
            "whole": lambda: z.long(), "text": lambda: "logits", "list": lambda: [],
            "detached": lambda: z.detach(),
        }[self.how]()  # fmt: skip


class Script(nn.Sequential):
    """What torch.jit.script takes."""


def _scripted(case: dict[str, Any]) -> nn.Module:
    layers = [nn.Flatten(), nn.Linear(_flat(case["shape"]), 8), nn.ReLU(),
              nn.Linear(8, outputs_of(case))]  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(nn.Sequential(*layers).to(getattr(torch, case["dtype"])))


def _flat(shape: Sequence[int]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


def _sequential(case: dict[str, Any]) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(_flat(case["shape"]), outputs_of(case)))


def _frozen(case: dict[str, Any], all_of_it: bool = False) -> nn.Module:
    net = Net(case, "group" if case["inputs"] == "images" else "none")
    (net if all_of_it else net.body).requires_grad_(False)
    return net


def _weight_normed(case: dict[str, Any]) -> nn.Module:
    net = Net(case)
    nn.utils.parametrizations.weight_norm(net.fc)
    return net


def _transformer(case: dict[str, Any]) -> nn.Module:
    import timm

    channels, height, width = case["shape"]
    return timm.models.VisionTransformer(
        img_size=(height, width), patch_size=4, in_chans=channels, embed_dim=16, depth=2,
        num_heads=2, num_classes=outputs_of(case),
    )  # fmt: skip


Maker = Callable[[dict[str, Any]], nn.Module]
ANY: dict[str, Maker] = {
    "plain": Net,
    "batch norm": lambda case: Net(case, "batch"),
    "dropout": lambda case: Net(case, "dropout"),
    "object": AsObject,
    "dict": AsDict,
    "tuple": AsTuple,
    "two heads": TwoHeads,
    "bare head": BareHead,
    "head twice": Twice,
    "checkpointed": Checkpointed,
    "frozen body": _frozen,
    "frozen": lambda case: _frozen(case, True),
    "weight norm": _weight_normed,
    "data parallel": lambda case: nn.DataParallel(Net(case)),
    **{
        f"returns {how}": lambda case, how=how: Wrong(case, how)
        for how in ("nothing", "fewer rows", "one number", "wider", "images", "whole", "text",
                    "list", "detached")
    },
}  # fmt: skip
OF_IMAGES: dict[str, Maker] = {
    "group norm": lambda case: Net(case, "group"),
    "sequential": _sequential,
    "scripted": _scripted,
    "transformer": _transformer,
}
OF_SIGNALS: dict[str, Maker] = {"recurrent": Recurrent, "sequential": _sequential}
OF_TABLES: dict[str, Maker] = {"sequential": _sequential, "scripted": _scripted}
OF_SEGMENTS: dict[str, Maker] = {
    "plain": Segments,
    "batch norm": lambda case: Segments(case, "batch"),
    "classes of images": Net,
}
OF_REGRESSION: dict[str, Maker] = {"squeezed": Squeezed}


def _makers(task: str, inputs: str) -> dict[str, Maker]:
    if task == "segmentation":
        return OF_SEGMENTS
    more = {"images": OF_IMAGES, "signals": OF_SIGNALS, "tables": OF_TABLES}.get(inputs, {})
    return {**ANY, **more, **(OF_REGRESSION if task == "regression" else {})}


def names(task: str, inputs: str, wrong: bool) -> list[str]:
    """Return the names of the networks for a task and a kind of input: those that can't work?"""
    made = list(_makers(task, inputs))
    bad = [name for name in made if name.startswith("returns")]
    return bad if wrong and bad else [name for name in made if name not in bad]


def make(case: dict[str, Any]) -> nn.Module:
    """Return the network of a case."""
    return _makers(case["task"], case["inputs"])[case["network"]](case)
