"""SmoothMix: blend the partner in under a Gaussian, so that there is no edge.

The straight edges of CutMix's boxes are in no real image, and a network may attend to them. The
paper draws the Gaussian's spread, σ ~ U(1/4, 1/2) of the side, and its centre, and λ follows. With
another method's λ (``sk_mixup+smoothmix``), or a ``coefficient``, the spread follows from that.

Helps: robustness to corrupted images, which the paper reports.

Hurts: as mixup does, where the two samples are blended: colours and contours of no real image.
"""

from torch import Tensor

from mixwell.batch import Batch
from mixwell.checks import Per, check_range
from mixwell.coefficient import Coefficient
from mixwell.errors import InputError
from mixwell.interpolation import SmoothMix
from mixwell.interpolation.masks import lam_of_spread
from mixwell.methods.spec import Answer, Fidelity, Spec, register

__all__ = ["SmoothSpread"]


class SmoothSpread(Coefficient):
    """The λ that a Gaussian of spread σ ~ U(low, high) in the image's middle leaves.

    Args:
        low: the least σ in sides of the image, > 0.
        high: the greatest.
        per: "sample" or "batch".
    """

    def __init__(self, low: float = 0.25, high: float = 0.5, per: Per = "sample") -> None:
        super().__init__(per)
        self.low, self.high = check_range("low", low, open=True), check_range("high", high)
        if self.low > self.high:
            raise InputError(f"low must not be above high, got low={low!r} and high={high!r}")

    def forward(self, batch: Batch, partner: Tensor) -> Tensor:
        return lam_of_spread(self.low + (self.high - self.low) * self._uniform(batch))


SMOOTHMIX = register(
    Spec(
        name="smoothmix",
        title="SmoothMix: a Simple Yet Effective Data Augmentation to Train Robust Classifiers",
        paper="Lee, Zaheer, Astrid and Lee, CVPR Workshops 2020",
        equation="""
σ_i ~ U(1/4, 1/2),   M_i = 1 - exp(-d²/2σ_i²),   d the distance to a uniform centre, in sides
x̃_i = M_i ⊙ x_i + (1 - M_i) ⊙ x_σ(i),   λ_i = mean(M_i)
L_i = -λ_i log p_i[y_i] - (1 - λ_i) log p_i[y_σ(i)]
""",
        doc=__doc__,
        answers={"interpolation": Answer(SmoothMix)},
        suggests={"coefficient": Answer(SmoothSpread, low=0.25, high=0.5)},
        fidelity=Fidelity(
            same="A Gaussian of spread σ ~ U(1/4, 1/2) of the side at a uniform centre.",
            differs=(
                "λ is the mean of the own sample's mask; openmixup's labels give the own sample "
                "the partner's share.",
                "Mask and λ are each sample's own.",
            ),
            why="A label should weigh what is seen.",
            checked="read",
            against="openmixup's smoothmix.py, which is not the authors'.",
        ),
    )
)
