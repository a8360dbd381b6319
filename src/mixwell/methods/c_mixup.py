"""C-Mixup: for regression, mix samples whose targets are close.

Blends of samples with far targets get wrong labels; the partner is drawn with a Gaussian kernel
density on the target. The bandwidth is in units of the target as trained on (standardised, say),
or of the data (``units="raw"``): the paper's 1.75 decibels for Airfoil are 0.248 of its standard
deviation. Partners come from the batch. ``layer="auto"`` mixes hidden features, as the paper does
on most of its data.

Helps: tables and series whose targets vary smoothly with inputs, according to its paper.

Hurts: Airfoil here: with a network that fits the table well its error was nearly twice that of
plain training.
"""

from mixwell.coefficient import Beta
from mixwell.losses import MixedMSE
from mixwell.methods.registry import Answer, Spec, register
from mixwell.pairing import LabelKernel

C_MIXUP = register(
    Spec(
        name="c_mixup",
        title="C-Mixup: Improving Generalization in Regression",
        paper="Yao, Wang, Zhang, Zou and Finn, NeurIPS 2022, arXiv:2210.05775",
        equation="""
P(σ(i) = j) ∝ exp(-(y_i - y_j)² / (2 h²))
x̃_i = λ_i x_i + (1 - λ_i) x_σ(i),   ỹ_i = λ_i y_i + (1 - λ_i) y_σ(i),   λ_i ~ Beta(α, α)
L_i = (f(x̃_i) - ỹ_i)²
""",
        doc=__doc__,
        answers={"pairing": Answer(LabelKernel, bandwidth=0.25), "loss": Answer(MixedMSE)},
        suggests={"coefficient": Answer(Beta, alpha=2.0)},
        tasks=("regression",),
    )
)
