"""Decoupled Mixup (DM): a loss for any mix that also rewards confidence in each class apart.

In the softmax of a mixed sample its two classes compete; the decoupled term removes the competitor,
so that discriminative features of both are learnt even where they stand out less than their share.
Static mixes reach what optimised mixes do, at no cost. ``decoupled`` is DM(CE), ``decoupled_bce``
its form for binary cross-entropy.

Helps: in accuracy and calibration a little over mixup here, at no cost in time; it is made for
long training on many classes.

Hurts: nothing that was measured; on long tails and with few images it changed little against
mixup.
"""

from mixwell.losses import DecoupledBCE, DecoupledCrossEntropy
from mixwell.methods.registry import Answer, Spec, register

_TITLE = "Harnessing Hard Mixed Samples with Decoupled Regularizer"
_PAPER = "Liu, Li, Wang, Tan, Wu and Li, NeurIPS 2023, arXiv:2203.10761v3"

DECOUPLED = register(
    Spec(
        name="decoupled",
        title=_TITLE,
        paper=_PAPER,
        equation="""
φ^{i,j}(z) = exp z_i / (exp z_i + Σ_{c ∉ {i,j}} exp z_c)
DM(CE) = MCE + η · [w_a · (-log φ^{a,b}) + w_b · (-log φ^{b,a})]
w = (λ^power, (1 - λ)^power), of both sides, of the heavier or of the lighter alone
""",
        doc=__doc__,
        answers={"loss": Answer(DecoupledCrossEntropy, eta=0.1, weighting="lambda")},
        tasks=("classification", "segmentation"),
    )
)

DECOUPLED_BCE = register(
    Spec(
        name="decoupled_bce",
        title=_TITLE,
        paper=_PAPER,
        equation="""
ŷ = h(λ) · a + h(1 - λ) · b,   h(λ) = min(1, (λ / t)^k)
DM(BCE) = Σ_c BCE(sigmoid(z_c), ŷ_c)
""",
        doc=__doc__,
        answers={"loss": Answer(DecoupledBCE, t=0.8, k=1.0)},
        tasks=("classification", "multilabel"),
    )
)
