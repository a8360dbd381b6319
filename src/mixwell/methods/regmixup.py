"""RegMixup: mixup as a regularizer beside the loss of clean samples.

With a large α most mixed samples lie near the midpoint, far from the clean ones, and the network
learns to be unsure there: better calibration and out-of-distribution detection at no loss of
accuracy. A step runs 2B samples. ``weight`` is the factor of the mixed term.

Helps: all measures at once on Fashion-MNIST here, and outliers: best at telling them by
confidence.

Hurts: time: a step runs twice the samples.
"""

from mixwell.coefficient import Beta
from mixwell.methods.registry import Answer, Spec, register

REGMIXUP = register(
    Spec(
        name="regmixup",
        title="RegMixup: Mixup as a Regularizer Can Surprisingly Improve Accuracy and Out "
        "Distribution Robustness",
        paper="Pinto, Yang, Lim, Torr and Dokania, NeurIPS 2022, arXiv:2206.14502",
        equation="""
λ_i ~ Beta(α, α),   α in 10..20
L = CE(f(x), y) + weight · MCE(f(x̃), y, y_σ, λ)
""",
        doc=__doc__,
        suggests={"coefficient": Answer(Beta, alpha=10.0)},
        clean=True,
    )
)
