"""What models return: tuples, dicts, auxiliary logits, probabilities, means over crops."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from foreign.truths import CLASSES, NO_CAM, Backbone, convolutions, foreign, lively, make_images
from torch import nn


class AgeAndGender(Backbone):
    def forward(self, x):
        features = self.features(x)
        return self.age(features), self.gender(features)


# Of the tuple the first is the logits: the other head may be passed over, or be a reason to ask.
OF_TWO = dict.fromkeys(("head", "head_rows", "features", "auto", "look", "cam"), "either")


@foreign(
    "age",
    rivals=("age", "gender"),
    inner="body.0",
    maps="body.1",
    expect=OF_TWO,
)
def age_and_gender():
    return lively(AgeAndGender(age=nn.Linear(12, CLASSES), gender=nn.Linear(12, 2)))


@foreign(
    "age",
    rivals=("age", "gender"),
    inner="body.0",
    maps="body.1",
    expect=OF_TWO,
)
def two_heads_as_wide():
    return lively(AgeAndGender(gender=nn.Linear(12, CLASSES), age=nn.Linear(12, CLASSES)))


class Heteroscedastic(Backbone):
    def forward(self, x):
        features = self.features(x)
        return self.mean(features), self.logvar(features)


@foreign(
    "mean",
    rivals=("mean", "logvar"),
    y=(0.1, -0.5, 0.3, 1.2, -0.7, 0.0),
    inner="body.0",
    task="regression",
    expect=OF_TWO,
)
def heteroscedastic():
    class Net(Heteroscedastic):
        def forward(self, x):
            mean, logvar = super().forward(x)
            return mean[:, 0], logvar[:, 0]

    return lively(Net(mean=nn.Linear(12, 1), logvar=nn.Linear(12, 1)))


class WithFeatures(Backbone):
    def forward(self, x):
        features = self.features(x)
        return self.fc(features), features


@foreign("fc", inner="body.0", maps="body.1")
def logits_and_features():
    return lively(WithFeatures(fc=nn.Linear(12, CLASSES)))


class AsDict(Backbone):
    def forward(self, x):
        features = self.features(x)
        return {"features": features, "logits": self.fc(features), "loss": None}


@foreign("fc", inner="body.0", maps="body.1")
def dict_of_logits():
    return lively(AsDict(fc=nn.Linear(12, CLASSES)))


class WithAuxiliary(nn.Module):
    """Inception's way: in training, an auxiliary head's logits come along, made last or first."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = convolutions()
        self.fc, self.aux = nn.Linear(12, CLASSES), nn.Linear(8, CLASSES)

    def forward(self, x):
        first = self.stem(x)
        logits = self.fc(self.body(first).mean((2, 3)))
        return SimpleNamespace(logits=logits, aux_logits=self.aux(first.mean((2, 3))))


@foreign("fc", inner="stem", maps="body", stages=False)
def auxiliary_head():
    return lively(WithAuxiliary())


class Probabilities(Backbone):
    def forward(self, x):
        return super().forward(x).softmax(1)


SOFTMAX = dict.fromkeys(("head", "head_rows", "features", "auto", "look", "cam"), "either")


@foreign("fc", inner="body.0", maps="body.1", expect=SOFTMAX, warns=True)
def returns_probabilities():
    return lively(Probabilities(fc=nn.Linear(12, CLASSES)))


@foreign("fc.0", inner="body.0", maps="body.1", expect=SOFTMAX, warns=True)
def returns_probabilities_by_a_module():
    return lively(Backbone(fc=nn.Sequential(nn.Linear(12, CLASSES), nn.Softmax(1))))


class Twice(Backbone):
    def forward(self, x):
        return (self.fc(self.features(x)) + self.fc(self.features(x.flip(3)))) / 2


@foreign(None, rivals=("fc",), stages=False)
def head_runs_twice():
    """The mean over an image and its mirror image."""
    return lively(Twice(fc=nn.Linear(12, CLASSES)))


class Crops(Backbone):
    def forward(self, x):
        return super().forward(x.flatten(0, 1)).unflatten(0, x.shape[:2]).mean(1)


# The head sees more rows than there are samples.
CROPS = {
    **dict.fromkeys(("head", "head_rows", "auto", "look", "cam"), "either"),
    "features": "refuse",
}


@foreign(None, x=lambda: make_images(2, 3, 16, 16), expect=CROPS, stages=False)
def several_crops():
    return lively(Crops(fc=nn.Linear(12, CLASSES)))


@foreign("fc.0", inner="body.0", maps="body.1", expect={"features": "either"})
def batch_norm_after_the_head():
    net = Backbone(fc=nn.Sequential(nn.Linear(12, CLASSES), nn.BatchNorm1d(CLASSES)))
    return lively(net)


@foreign("fc.3", inner="body.0", maps="body.1", expect=NO_CAM)
def head_of_two_layers():
    net = nn.Sequential(nn.Linear(12, 10), nn.ReLU(), nn.Dropout(0.5), nn.Linear(10, CLASSES))
    return lively(Backbone(fc=net))


@foreign("fc", inner="body.0", maps="body.1")
def scaled_logits():
    """Divided by a learnt temperature, and cast."""

    class Scaled(Backbone):
        def __init__(self) -> None:
            super().__init__(fc=nn.Linear(12, CLASSES))
            self.temperature = nn.Parameter(torch.ones(1))

        def forward(self, x):
            return (super().forward(x) / self.temperature).double()

    return lively(Scaled())


class ConvolutionHead(nn.Module):
    """NIN's way: a convolution to classes, then the mean over positions."""

    def __init__(self) -> None:
        super().__init__()
        self.body = convolutions()
        self.conv = nn.Conv2d(12, CLASSES, 1)

    def forward(self, x):
        return self.conv(self.body(x)).mean((2, 3))


@foreign("conv", inner="body.0", maps="body.1", expect={"look": "either", "cam": "either"})
def convolution_head():
    return lively(ConvolutionHead())
