"""The small networks that make masks from pairs of feature maps: AutoMix's and SAMix's."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Mixer", "SmoothMixer"]


class Mixer(nn.Module):
    """AutoMix's Mix Block: the mask of a pair, by cross-attention between its feature maps.

    .. code-block:: text

        z_λ = [z_i, λ],   z_{1-λ} = [z_σ(i), 1 - λ]           λ is one more channel
        P   = softmax(q(z_λ) q(z_{1-λ})ᵀ / √d')               each position of i to those of σ(i)
        M   = sigmoid(logit λ - up(P v(z_{1-λ})))

    with q and v 1 x 1 convolutions, v = 0 at first: it starts as mixup. (The paper's has no logit λ
    and starts at M = 1/2 for any λ.)

    Args:
        channels: d of the maps.
        hidden: d' of queries and keys.
    """

    upsampling = "nearest"

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self._make(channels, hidden)
        # Drawn the same on each process, and without the random state of anyone else.
        generator = torch.Generator("cpu").manual_seed(0)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                fan_in = parameter.shape[1]
                nn.init.normal_(parameter, std=fan_in**-0.5, generator=generator)
        *_, last = self.value.modules()
        assert isinstance(last, nn.Conv2d)
        nn.init.zeros_(last.weight)

    def _make(self, channels: int, hidden: int) -> None:
        self.query = _convolution(channels + 1, hidden)
        self.value = _convolution(channels + 1, 1)

    def _project(self, own: Tensor, other: Tensor, lam: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries and keys (B, d', h, w) and values (B, 1, h, w) of the two maps."""
        share = lam.expand(-1, 1, *own.shape[2:])
        other = torch.cat([other, 1 - share], 1)
        return self.query(torch.cat([own, share], 1)), self.query(other), self.value(other)

    def forward(self, maps: Tensor, partner: Tensor, lam: Tensor, size: Sequence[int]) -> Tensor:
        """Return the own samples' weights at each position: (B, 1, H, W), in (0, 1).

        Args:
            maps: (B, d, h, w) of the unmixed samples, float32.
            partner: (B,).
            lam: (B,), λ as it is asked for.
            size: (H, W).
        """
        lam = lam.to(maps.dtype).view(-1, 1, 1, 1)
        parts = self._project(maps, maps.index_select(0, partner), lam)
        query, key, value = (part.flatten(2).transpose(1, 2) for part in parts)
        attention = torch.softmax(query @ key.transpose(1, 2) / math.sqrt(query.shape[2]), 2)
        theirs = (attention @ value).transpose(1, 2).unflatten(2, maps.shape[2:])
        if self.upsampling == "nearest":
            theirs = F.interpolate(theirs, size)
        else:
            theirs = F.interpolate(theirs, size, mode=self.upsampling, align_corners=False)
        return torch.sigmoid(lam.logit(1e-3) - theirs)


class SmoothMixer(Mixer):
    """SAMix's Mixer: both maps in queries and keys, λ as their gain, two layers of values.

    .. code-block:: text

        λ̂   = (4/3 λ³ - 2 λ² + (k + 1) λ) / (k + 1/3),   k = 1/4
        z_λ = (1 + λ̂) z_i,   z_{1-λ} = (2 - λ̂) z_σ(i)
        P   = softmax(q([z_λ, z_{1-λ}]) k([z_λ, z_{1-λ}])ᵀ / √d')

    The masks are upsampled bilinearly.
    """

    upsampling = "bilinear"

    def _make(self, channels: int, hidden: int) -> None:
        self.query = _convolution(2 * channels, hidden)
        self.key = _convolution(2 * channels, hidden)
        self.value = nn.Sequential(
            _convolution(channels, hidden), nn.ReLU(), _convolution(hidden, 1)
        )

    def _project(self, own: Tensor, other: Tensor, lam: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        k = 0.25
        gain = (4 / 3 * lam**3 - 2 * lam**2 + (k + 1) * lam) / (k + 1 / 3)
        own, other = (1 + gain) * own, (2 - gain) * other
        both = torch.cat([own, other], 1)
        return self.query(both), self.key(both), self.value(other)


def _convolution(before: int, after: int) -> nn.Module:
    made: nn.Module = nn.utils.skip_init(
        nn.Conv2d, before, after, 1, dtype=torch.float32, device="cpu"
    )
    return made
