"""Whole networks of other hands: recurrent, with connections around, checkpointed, of signals."""

from __future__ import annotations

import torch
from foreign.truths import CLASSES, Backbone, foreign, lively, make_images
from torch import nn
from torch.utils.checkpoint import checkpoint


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 8)
        self.lstm = nn.LSTM(8, 10, 2, batch_first=True)
        self.fc = nn.Linear(10, CLASSES)

    def forward(self, x):
        return self.fc(self.lstm(self.embed(x))[0][:, -1])


@foreign("fc", x=lambda: make_images(6, 4), inner="embed", images=False, stages=False)
def lstm():
    return lively(Recurrent())


class EveryStep(Recurrent):
    def forward(self, x):
        return self.fc(self.lstm(self.embed(x))[0])[:, -1]


@foreign(
    "fc",
    x=lambda: make_images(6, 4),
    inner="embed",
    images=False,
    expect={"head": "either", "named": "either"},
    stages=False,
)
def lstm_that_scores_every_step():
    """The head's output is (B, T, C), of which the last step is picked."""
    return lively(EveryStep())


class InPlace(Backbone):
    def forward(self, x):
        return super().forward(x.sub_(0.5).div_(0.25))


@foreign("fc", inner="body.0", maps="body.1", changes_x=True)
def input_changed_in_place():
    return lively(InPlace(fc=nn.Linear(12, CLASSES)))


class UNet(nn.Module):
    """Two levels, with a connection around the lower one; pooled to classes."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.GELU())
        self.down = nn.Sequential(nn.Conv2d(6, 8, 3, 2, 1), nn.GELU())
        self.deep = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.GELU())
        self.up = nn.Sequential(nn.ConvTranspose2d(8, 6, 2, 2), nn.GELU())
        self.join = nn.Sequential(nn.Conv2d(12, 8, 3, padding=1), nn.GELU())
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, x):
        first = self.enter(x)
        up = self.up(self.deep(self.down(first)))
        return self.fc(self.join(torch.cat([first, up], 1)).mean((2, 3)))


@foreign("fc", x=lambda: make_images(3, 12, 12), inner="join", maps="join", stages=False)
def u_net():
    return lively(UNet())


class Patches(nn.Module):
    """Returns an image's patches as a sequence, and of how many by how many it is made."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 4, 4)

    def forward(self, x):
        x = self.conv(x)
        return x.flatten(2).transpose(1, 2), x.shape[2:]


class OfPatches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = Patches()
        self.mix = nn.Linear(8, 8)
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, x):
        x, size = self.patches(x)
        x = torch.tanh(self.mix(x)).transpose(1, 2).unflatten(2, size)
        return self.fc(x.sum((2, 3)) / size.numel())  # which a tuple has not


@foreign("fc", x=lambda: make_images(3, 12, 12), inner="patches", stages=False)
def a_size_beside_the_patches():
    """As timm's multi-scale vision transformer hands it from stage to stage."""
    return lively(OfPatches())


class Checkpointed(nn.Module):
    """A segment of the body is computed again in backward."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.reentrant = reentrant
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.GELU())
        self.segment = nn.Sequential(
            nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.GELU()),
            nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.GELU()),
        )
        self.last = nn.Sequential(nn.Conv2d(8, 12, 3, 2, 1), nn.GELU())
        self.fc = nn.Linear(12, CLASSES)

    def forward(self, x):
        x = self.stem(x)
        if self.reentrant is None:
            x = self.segment(x)
        else:
            x = checkpoint(self.segment, x, use_reentrant=self.reentrant)
        return self.fc(self.last(x).mean((2, 3)))


# A layer inside the segment may be drawn; torch knows no autograd.grad through the reentrant form.
CHECKPOINTED = {"auto": "either"}
REENTRANT = {"auto": "either", "gradient": "either"}


@foreign("fc", inner="stem", maps="last", expect=CHECKPOINTED)
def checkpointed():
    return lively(Checkpointed(False))


@foreign("fc", inner="stem", maps="last", expect=REENTRANT)
def checkpointed_reentrant():
    return lively(Checkpointed(True))


@foreign("6", x=lambda: make_images(2, 40), inner="1", images=False, stages=False)
def signals():
    net = nn.Sequential(
        nn.Conv1d(2, 6, 5, 2), nn.GELU(), nn.Conv1d(6, 8, 5, 2), nn.GELU(),
        nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, CLASSES),
    )  # fmt: skip
    return lively(net)


@foreign("5", x=lambda: make_images(1, 6, 12, 12), inner="1", images=False, stages=False)
def volumes():
    net = nn.Sequential(
        nn.Conv3d(1, 6, 3), nn.GELU(), nn.Conv3d(6, 8, 3), nn.AdaptiveAvgPool3d(1), nn.Flatten(),
        nn.Linear(8, CLASSES),
    )  # fmt: skip
    return lively(net)


@foreign("4", x=lambda: make_images(8), inner="1", images=False, stages=False)
def tabular():
    net = nn.Sequential(
        nn.Linear(8, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 12), nn.Linear(12, CLASSES)
    )
    return lively(net)


@foreign("1", x=lambda: make_images(8), images=False, expect={"auto": "either"}, stages=False)
def one_linear_layer():
    """Softmax regression: the head's input is the input."""
    return lively(nn.Sequential(nn.Flatten(), nn.Linear(8, CLASSES)))
