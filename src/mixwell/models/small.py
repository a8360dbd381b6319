"""Networks that train in a minute on a processor."""

from __future__ import annotations

from math import prod

from torch import Tensor, nn

__all__ = ["MLP", "SmallCNN"]


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
                for before, after in zip(sizes, sizes[1:], strict=False)
            ),
        )
        self.head = nn.Linear(sizes[-1], num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, num_outputs)."""
        return self.head(self.layers(x))


class SmallCNN(nn.Module):
    """Three stages of a convolution, batch normalisation and ReLU, with pooling between them.

    Args:
        input_shape: (C, H, W), H and W from 8 to 32 or so.
        num_outputs: classes.
        width: channels of the first stage; the last, and the feature, have four times as many.
        dropout: before the head.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_outputs: int,
        width: int = 16,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        channels = [input_shape[0], width, 2 * width, 4 * width]
        self.stages = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(before, after, 3, padding=1, bias=False),
                    nn.BatchNorm2d(after),
                    nn.ReLU(inplace=True),
                    nn.MaxPool2d(2) if after < channels[-1] else nn.Identity(),
                )
                for before, after in zip(channels, channels[1:], strict=False)
            )
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(channels[-1], num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, num_outputs)."""
        return self.head(self.dropout(self.pool(self.stages(x)).flatten(1)))
