"""ResizeMix: paste the whole partner, made smaller.

CutMix's box may cut out nothing but background and still carry the object's label; a partner that
is pasted whole keeps its object, at another scale. The scale is the paper's, s ~ U(0.1, 0.8), and λ
follows from it. With another method's λ (``sk_mixup+resizemix``), or a ``coefficient``, the scale
follows from that: s = √(1 - λ). The smaller image is read bilinearly, without smoothing it first.

Helps: images with an object in a varied scene, where a box of CutMix may miss it.

Hurts: small images and fine texture, of which a small copy keeps little.
"""

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
        per: "sample" or "batch".
    """

    def __init__(self, low: float = 0.1, high: float = 0.8, per: Per = "sample") -> None:
        super().__init__(per)
        self.low, self.high = check_range("low", low, 0, 1), check_range("high", high, 0, 1)
        if self.low > self.high:
            raise InputError(f"low must not be above high, got low={low!r} and high={high!r}")

    def forward(self, batch: Batch, partner: Tensor) -> Tensor:
        scale = self.low + (self.high - self.low) * self._uniform(batch)
        return 1 - scale.square()


_PUBLISHED: dict[str, Setup] = {
    "cifar": Setup(
        settings={"low": 0.1, "high": 0.8},
        source="the paper, section 4.1: the scale is uniform in [0.1, 0.8]",
    ),
    "imagenet": Setup(
        settings={"low": 0.1, "high": 0.8},
        source="the paper, section 4.1: the scale is uniform in [0.1, 0.8]",
    ),
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
                "Scale and place are each sample's own.",
            ),
            why="So nothing of the object is lost, which is the paper's point.",
            checked="read",
            against="openmixup's resizemix.py, which is not the authors'.",
        ),
    )
)
