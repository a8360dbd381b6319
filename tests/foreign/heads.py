"""Heads of other hands: low-rank, cosine, gated, tied, bare, by keyword, of two arguments."""

from __future__ import annotations

import torch
from foreign.truths import (
    CLASSES,
    NO_CAM,
    Backbone,
    convolutions,
    foreign,
    lively,
    make_images,
    plain,
)
from torch import nn
from torch.nn import functional as F


class LowRank(nn.Module):
    """A linear layer and a low-rank one beside it, as many write them."""

    def __init__(self, base: nn.Linear, rank: int = 2) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, rank, bias=False)
        self.up = nn.Linear(rank, base.out_features, bias=False)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


@foreign("fc", inner="body.0", maps="body.1", expect=NO_CAM)
def low_rank_by_hand():
    return lively(Backbone(fc=LowRank(nn.Linear(12, CLASSES))))


class Cosine(nn.Module):
    """Scaled cosines of features and classes; no linear layer."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(CLASSES, width))

    def forward(self, x):
        return 10 * F.linear(F.normalize(x), F.normalize(self.weight))


@foreign("fc", inner="body.0", maps="body.1", expect=NO_CAM)
def cosine_head():
    return lively(Backbone(fc=Cosine()))


class Gate(nn.Module):
    """Squeeze and excitation of linear layers, the last of which looks like a head."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Linear(width, 4), nn.Linear(4, width)

    def forward(self, x):
        gate = self.excite(self.squeeze(x.mean((2, 3))).relu()).sigmoid()
        return x * gate[:, :, None, None]


class Gated(nn.Module):
    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.body, self.gate, self.fc = convolutions(width), Gate(width), Cosine(width)

    def forward(self, x):
        return self.fc(self.gate(self.body(x)).mean((2, 3)))


@foreign("fc", inner="gate", maps="gate", expect=NO_CAM)
def cosine_head_behind_a_gate():
    return lively(Gated())


@foreign("fc", inner="gate", maps="gate", expect=NO_CAM)
def cosine_head_behind_a_gate_as_wide_as_classes():
    """Nothing in shapes tells the gate from the head."""
    return lively(Gated(CLASSES))


@foreign("fc", inner="body.0", maps="body.1", expect=NO_CAM)
def weight_norm_head():
    return lively(Backbone(fc=nn.utils.parametrizations.weight_norm(nn.Linear(12, CLASSES))))


@foreign("fc", inner="body.0", maps="body.1", expect=NO_CAM)
def spectral_norm_head():
    return lively(Backbone(fc=nn.utils.parametrizations.spectral_norm(nn.Linear(12, CLASSES))))


class Tied(nn.Module):
    """Logits against an embedding's own rows."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(CLASSES, 12)
        self.body = nn.Sequential(nn.Linear(12, 12), nn.LayerNorm(12))
        self.stem = nn.Linear(8, 12)

    def forward(self, x):
        return self.body(self.stem(x)) @ self.embed.weight.T


@foreign(None, x=lambda: make_images(8), inner="stem", images=False, stages=False)
def tied_weights():
    return lively(Tied())


class Bare(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = convolutions()
        self.weight = nn.Parameter(torch.randn(CLASSES, 12))

    def forward(self, x):
        return F.linear(self.body(x).mean((2, 3)), self.weight)


@foreign(None, inner="body.0")
def bare_linear():
    return lively(Bare())


class Wrapper(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x)


@foreign(None, inner="net.body.0")
def bare_linear_in_a_wrapper():
    """The innermost module that returns the logits takes images: no head."""
    return Wrapper(lively(Bare()))


@foreign("net.fc", inner="net.body.0", maps="net.body.1")
def two_wrappers():
    net = Wrapper(plain())
    outer = nn.Module()
    outer.net, outer.forward = net.net, lambda x: net.net(x)
    return outer.eval()


class ByKeyword(Backbone):
    def forward(self, x):
        return self.fc(input=self.features(x))


KEYWORD = dict.fromkeys(("head", "head_rows", "features", "named"), "either")


@foreign("fc", inner="body.0", maps="body.1", expect={**KEYWORD, "cam": "either"}, keyword="input")
def head_called_by_keyword():
    return lively(ByKeyword(fc=nn.Linear(12, CLASSES)))


class ByForward(Backbone):
    def forward(self, x):
        return self.fc.forward(self.features(x))


@foreign(None, inner="body.0")
def head_whose_forward_is_called():
    """No hook on it runs."""
    return lively(ByForward(fc=Cosine()))


@foreign("fc.0", inner="body.0", maps="body.1", expect=NO_CAM)
def identity_after_the_head():
    """Of a head that is not linear: at the logits it is another mix."""
    return lively(Backbone(fc=nn.Sequential(Cosine(), nn.Identity())))


@foreign("fc.1", inner="body.0", maps="body.1", expect=NO_CAM)
def flatten_and_dropout_around_the_head():
    return lively(Backbone(fc=nn.Sequential(nn.Dropout(), Cosine(), nn.Flatten(), nn.Dropout(0.1))))


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return x * self.scale


EITHER = dict.fromkeys(("head", "head_rows", "features", "auto", "look", "cam"), "either")


@foreign("fc.0", inner="body.0", maps="body.1", expect=EITHER)
def scale_module_after_the_head():
    return lively(Backbone(fc=nn.Sequential(Cosine(), Scale())))


class Adjusted(Backbone):
    """Logit adjustment: the classes' logarithmic frequencies are added."""

    def __init__(self) -> None:
        super().__init__(fc=nn.Linear(12, CLASSES))
        self.register_buffer("prior", torch.linspace(-2, 0, CLASSES))

    def forward(self, x):
        return super().forward(x) + self.prior


@foreign("fc", inner="body.0", maps="body.1", expect=EITHER)
def adjusted_logits():
    return lively(Adjusted())


class Tempered(Backbone):
    """Each sample's logits are scaled by what another layer says of it."""

    def forward(self, x):
        features = self.features(x)
        return self.fc(features) * F.softplus(self.temperature(features))


@foreign(None, inner="body.0", maps="body.1", expect={"look": "either", "cam": "either"})
def scaled_by_another_layer():
    return lively(Tempered(fc=nn.Linear(12, CLASSES), temperature=nn.Linear(12, 1)))


class Shortcut(Backbone):
    """A linear model of the image's means beside the network."""

    def forward(self, x):
        return self.fc(self.features(x)) + self.shortcut(x.mean((2, 3)))


@foreign(None, rivals=("fc", "shortcut"), expect={"look": "either", "cam": "either"}, stages=False)
def sum_of_two_heads():
    return lively(Shortcut(fc=nn.Linear(12, CLASSES), shortcut=nn.Linear(3, CLASSES)))


class Pairwise(Backbone):
    def forward(self, x):
        features = self.features(x)
        return self.fc(features, features.tanh().flip(1))


TWO = dict.fromkeys(("head", "head_rows", "features", "named", "look", "cam"), "either")


@foreign("fc", inner="body.0", maps="body.1", expect=TWO)
def head_of_two_arguments():
    """Both are the sample's, and to mix one of them is to mix half."""
    return lively(Pairwise(fc=nn.Bilinear(12, 12, CLASSES)))


@foreign("fc", inner="body.0", maps="body.1")
def head_with_two_names():
    net = Backbone(fc=nn.Linear(12, CLASSES))
    net.also = net.fc
    return lively(net)


class Contrastive(Backbone):
    """CLIP's way: classes are embeddings, and logits products of normalised ones."""

    def __init__(self) -> None:
        super().__init__(project=nn.Linear(12, 10, bias=False), classes=nn.Embedding(CLASSES, 10))

    def forward(self, x):
        seen = F.normalize(self.project(self.features(x)))
        return 8 * seen @ F.normalize(self.classes.weight).T


@foreign(None, inner="body.0")
def products_with_embeddings():
    return lively(Contrastive())
