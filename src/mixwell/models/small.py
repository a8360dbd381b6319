"""Networks that train in a minute on a processor."""

from __future__ import annotations

from itertools import pairwise
from math import prod

import torch
from torch import Tensor, nn

from mixwell.errors import InputError

__all__ = ["MLP", "Forecaster", "SmallCNN"]


class MLP(nn.Module):
    """A multilayer perceptron on the flattened input.

    Args:
        input_shape: of one sample.
        num_outputs: classes, or targets in regression.
        width: units of each hidden layer.
        depth: hidden layers.
        dropout: before the head and between hidden layers.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_outputs: int,
        width: int = 128,
        depth: int = 2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        sizes = [prod(input_shape), *[width] * depth]
        self.layers = nn.Sequential(
            nn.Flatten(),
            *(
                nn.Sequential(nn.Linear(before, after), nn.ReLU(), nn.Dropout(dropout))
                for before, after in pairwise(sizes)
            ),
        )
        self.head = nn.Linear(sizes[-1], num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, num_outputs)."""
        return self.head(self.layers(x))


class SmallCNN(nn.Module):
    """Three convolutions of growing width, and a hidden layer or global pooling.

    Each convolution halves the image; pooling before the normalisation makes the first stages
    cheap. With ``pool`` the last keeps its size, and the feature is its mean over the image, as in
    a ResNet, instead of the hidden layer's output. Either is non-negative.

    Args:
        input_shape: (C, H, W), H and W from 8 to 32 or so.
        num_outputs: classes.
        width: channels of the first convolution; each next has twice as many.
        features: units of the hidden layer, or channels of the last convolution.
        dropout: before the head.
        norm: batch normalisation of the convolutions.
        pool: global average pooling in place of the hidden layer.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_outputs: int,
        width: int = 16,
        features: int = 128,
        dropout: float = 0.0,
        norm: bool = True,
        pool: bool = False,
    ) -> None:
        super().__init__()
        channels = [input_shape[0], width, 2 * width, features if pool else 4 * width]

        def stage(before: int, after: int, halve: bool = True) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(before, after, 3, padding=1, bias=not norm),
                nn.MaxPool2d(2) if halve else nn.Identity(),
                nn.BatchNorm2d(after) if norm else nn.Identity(),
                nn.ReLU(inplace=True),
            )

        self.stage1 = stage(channels[0], channels[1])
        self.stage2 = stage(channels[1], channels[2])
        self.stage3 = stage(channels[2], channels[3], halve=not pool)
        left = prod(side // 8 for side in input_shape[1:])
        self.hidden = (
            nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
            if pool
            else nn.Sequential(nn.Flatten(), nn.Linear(channels[3] * left, features), nn.ReLU())
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(features, num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, num_outputs)."""
        features = self.hidden(self.stage3(self.stage2(self.stage1(x))))
        return self.head(self.dropout(features))


class Forecaster(nn.Module):
    """A GRU over a multivariate series, beside the last steps themselves.

    The head sees the GRU's last state and the last ``linear`` steps of every variable: with these
    it can go on from the present level, as LSTNet's autoregressive part does (arXiv:1703.07015).

    Args:
        input_shape: (V, W), variables and steps.
        num_outputs: what is predicted.
        width: units of the GRU.
        linear: steps that the head sees as they are.
        dropout: on the GRU's state.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_outputs: int,
        width: int = 50,
        linear: int = 24,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        variables, steps = input_shape
        if linear < 1:
            raise InputError(f"linear must be a whole number from 1 on, got {linear!r}")
        linear = min(linear, steps)
        self.recurrent = _Recurrent(variables, width, linear, dropout)
        self.head = nn.Linear(width + variables * linear, num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, num_outputs)."""
        return self.head(self.recurrent(x))


class _Recurrent(nn.Module):
    def __init__(self, variables: int, width: int, linear: int, dropout: float) -> None:
        super().__init__()
        self.gru = nn.GRU(variables, width, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        _, state = self.gru(x.transpose(1, 2))
        return torch.cat([self.dropout(state[-1]), x[..., -self.linear :].flatten(1)], 1)
