"""Residual networks: the CIFAR papers' ResNet-18/34/50 and WideResNet-28-K, and a fast one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["FastResNet", "ResNet", "WideResNet"]


def ResNet(input_shape: tuple[int, ...], num_outputs: int, depth: int = 18) -> nn.Module:
    """Return torchvision's ResNet for small images: a 3x3 stem of stride 1 and no max-pooling.

    Args:
        input_shape: (C, H, W).
        num_outputs: classes.
        depth: 18, 34 or 50.
    """
    from torchvision.models import resnet  # as long to import as torch

    block: Any = resnet.Bottleneck if depth == 50 else resnet.BasicBlock
    layers = {18: [2, 2, 2, 2], 34: [3, 4, 6, 3], 50: [3, 4, 6, 3]}[depth]
    model = resnet.ResNet(block, layers, num_classes=num_outputs)
    model.conv1 = nn.Conv2d(input_shape[0], 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()
    return model


class _WideBlock(nn.Module):
    """Pre-activation block of two 3x3 convolutions with dropout between them."""

    def __init__(self, before: int, after: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(before)
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        same = before == after and stride == 1
        self.shortcut = None if same else nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        active = torch.relu(self.norm1(x))
        skipped = x if self.shortcut is None else self.shortcut(active)
        hidden = self.dropout(torch.relu(self.norm2(self.conv1(active))))
        return skipped + self.conv2(hidden)


def _stages(channels: Sequence[int], blocks: int, dropout: float = 0.0) -> nn.Sequential:
    """Return three stages of blocks; the second and the third halve the image."""

    def block(stage: int, number: int) -> _WideBlock:
        before = channels[stage] if number == 0 else channels[stage + 1]
        stride = 2 if stage > 0 and number == 0 else 1
        return _WideBlock(before, channels[stage + 1], stride, dropout)

    return nn.Sequential(
        *(nn.Sequential(*(block(stage, n) for n in range(blocks))) for stage in range(3))
    )


def _initialise(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class WideResNet(nn.Module):
    """WideResNet ("Wide Residual Networks", arXiv:1605.07146).

    Args:
        input_shape: (C, H, W).
        num_outputs: classes.
        depth: 6n + 4.
        width: K, the channels' factor.
        dropout: between the convolutions of each block.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_outputs: int,
        depth: int = 28,
        width: int = 10,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        channels = [16, 16 * width, 32 * width, 64 * width]
        self.conv1 = nn.Conv2d(input_shape[0], channels[0], 3, padding=1, bias=False)
        self.stages = _stages(channels, (depth - 4) // 6, dropout)
        self.norm = nn.BatchNorm2d(channels[-1])
        self.head = nn.Linear(channels[-1], num_outputs)
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, num_outputs)."""
        hidden = torch.relu(self.norm(self.stages(self.conv1(x))))
        return self.head(hidden.mean((2, 3)))


class FastResNet(nn.Module):
    """A small pre-activation ResNet for images of 32 pixels, made for training on a processor.

    The stem takes patches, so that no layer sees the image in full size; three stages of
    ``blocks`` blocks follow, each with twice the channels at half the size. Weights and activations
    are kept in the order (N, H, W, C), which is what a processor's convolutions are fastest in;
    with ``precision=bf16-mixed`` a step takes about half the time where the processor has bf16.

    Args:
        input_shape: (C, H, W), H and W at least 8.
        num_outputs: classes.
        width: channels of the first stage.
        blocks: of each stage; a block is two convolutions.
        patch: side of the stem's patches, in pixels.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_outputs: int,
        width: int = 32,
        blocks: int = 1,
        patch: int = 2,
    ) -> None:
        super().__init__()
        channels = [width, width, 2 * width, 4 * width]
        self.stem = nn.Conv2d(input_shape[0], width, patch, patch, bias=False)
        self.stages = _stages(channels, blocks)
        self.norm = nn.BatchNorm2d(channels[-1])
        self.head = nn.Linear(channels[-1], num_outputs)
        _initialise(self)
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, num_outputs)."""
        x = x.contiguous(memory_format=torch.channels_last)
        hidden = torch.relu(self.norm(self.stages(self.stem(x))))
        return self.head(hidden.mean((2, 3)))
