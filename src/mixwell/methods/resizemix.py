"""ResizeMix: paste the whole partner, made smaller.

CutMix's box may cut out nothing but background and still carry the object's label; a partner that
is pasted whole keeps its object, at another scale. The scale is the paper's, s ~ U(0.1, 0.8), and λ
follows from it. With another method's λ (``sk_mixup+resizemix``), or a ``coefficient``, the scale
follows from that: s = √(1 - λ). The smaller image is read bilinearly, without smoothing it first.

Helps: images with an object in a varied scene, where a box of CutMix may miss it.

Hurts: small images and fine texture, of which a small copy keeps little.
"""

import torch
from torch import Tensor

from mixwell.batch import Batch
from mixwell.checks import Per, check_range
from mixwell.coefficient import Coefficient
from mixwell.errors import InputError
from mixwell.interpolation import ResizeMix
from mixwell.methods.spec import Answer, Fidelity, Setup, Spec, register

__all__ = ["ResizeScale"]


class ResizeScale(Coefficient):
    """λ = 1 - s², s ~ U(low, high): the share that a partner pasted at the scale s leaves.

    Args:
        low: the least scale, in [0, 1].
        high: the greatest.
        scale_alpha: α > 0 of s ~ Beta(α, α), as Decoupled Mixup's authors draw it: where that is
            below ``low`` or above ``high``, s ~ U(low, high) stands in its place. Without one it
            is uniform, as the paper has it.
        per: "sample" or "batch".
    """

    def __init__(
        self,
        low: float = 0.1,
        high: float = 0.8,
        scale_alpha: float | None = None,
        per: Per = "sample",
    ) -> None:
        super().__init__(per)
        self.low, self.high = check_range("low", low, 0, 1), check_range("high", high, 0, 1)
        if self.low > self.high:
            raise InputError(f"low must not be above high, got low={low!r} and high={high!r}")
        self.scale_alpha = (
            None if scale_alpha is None else check_range("scale_alpha", scale_alpha, open=True)
        )

    def forward(self, batch: Batch, partner: Tensor) -> Tensor:
        scale = self.low + (self.high - self.low) * self._uniform(batch)
        if self.scale_alpha is not None:
            drawn = self._symmetric(batch, self.scale_alpha)
            scale = torch.where((drawn < self.low) | (drawn > self.high), scale, drawn)
        return 1 - scale.square()


_AS_THERE = {"low": 0.1, "high": 0.8, "per": "batch"}
_SOURCE = (
    "the paper, section 4.1: the scale is uniform in [0.1, 0.8]; one scale and place for a batch "
    "by openmixup's resizemix.py, as the authors' code was not found"
)
_PUBLISHED: dict[str, Setup] = {
    "cifar": Setup(settings=_AS_THERE, source=_SOURCE),
    "imagenet": Setup(settings=_AS_THERE, source=_SOURCE),
}  # fmt: skip

RESIZEMIX = register(
    Spec(
        name="resizemix",
        title="ResizeMix: Mixing Data with Preserved Object Information and True Labels",
        paper="Qin, Fang, Zhang, Liu, Wang and Wang, 2020, arXiv:2012.11101",
        equation="""
s_i ~ U(0.1, 0.8),   λ_i = 1 - s_i²
x̃_i = x_i, with x_σ(i) resized to s_i H x s_i W pasted at a uniform place,   λ_i ← 1 - its area
L_i = -λ_i log p_i[y_i] - (1 - λ_i) log p_i[y_σ(i)]
""",
        doc=__doc__,
        answers={"interpolation": Answer(ResizeMix)},
        suggests={"coefficient": Answer(ResizeScale, low=0.1, high=0.8)},
        published=_PUBLISHED,
        fidelity=Fidelity(
            same="The whole partner, at a scale of U(0.1, 0.8), and λ by the area it covers.",
            differs=(
                "It is pasted inside the image; openmixup clips it at the border and squeezes it "
                "into what is left.",
                "Scale and place are each sample's own; openmixup has one of each for a batch "
                "(per='batch', in the set-ups).",
                "Beside Decoupled Mixup its authors draw the scale from Beta(α, α) "
                "(scale_alpha=0.2 on CIFAR-100), and anew from U(0.1, 0.8) where it is out of "
                "that: the set-ups of resizemix+decoupled do.",
            ),
            why="So nothing of the object is lost, which is the paper's point.",
            checked="read",
            against="openmixup's resizemix.py, which is not the authors'.",
        ),
    )
)
