"""UniMix: for long tails, more rare partners, and more of the rarer sample in each mix.

Mixup of long-tailed data mixes common classes with common ones. UniMix draws partners by the power
τ of their class's count, and moves λ toward the rarer class, by the two counts' ratio. It needs
``class_counts``. Partners come from the batch: a class that it lacks can't be drawn.

τ is the exponent for samples, as in the authors' code (-0.5 on CIFAR-10-LT, -0.1 on CIFAR-100-LT,
both with α = 0.8): 0 is mixup's partner, and the default, -1, draws all classes about alike. The
paper adds a loss for the shift of the prior (Bayias), which isn't part of this method.

Helps: long tails with many classes, beside a loss or a scaling for the shift of the prior.

Hurts: balanced data, where its λ is not mixup's: the two classes' counts still move it. Small
batches, which lack the rare classes.
"""

from mixwell.coefficient import ClassAware
from mixwell.methods.registry import Answer, Spec, register
from mixwell.pairing import InverseFrequency

UNIMIX = register(
    Spec(
        name="unimix",
        title="Towards Calibrated Model for Long-Tailed Visual Recognition from Prior Perspective",
        paper="Xu, Chai and Yuan, NeurIPS 2021, arXiv:2111.03874",
        equation="""
n_c: training samples of class c
P(σ(i) = j) ∝ n_{y_j}^τ
ξ_i = n_b / (n_a + n_b),   u_i ~ Beta(α, α),   λ_i = u_i + ξ_i, less 1 if it exceeds 1
L_i = -λ_i log p_i[y_i] - (1 - λ_i) log p_i[y_σ(i)]
""",
        doc=__doc__,
        answers={
            "pairing": Answer(InverseFrequency, tau=-1.0),
            "coefficient": Answer(ClassAware, alpha=0.8),
        },
        tasks=("classification",),
    )
)
