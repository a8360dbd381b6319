"""Quantile pairs: mix only samples that are nearer than a quantile of the batch's distances.

The control of Similarity Kernel Mixup: choosing whom to mix instead of how much. Partners are
drawn from those nearer than the quantile ``q`` (``side="below"``), the sample itself among them, or
from those farther (``"above"``); far pairs are there to show what they cost. It narrows whom a
sample meets, which SK avoids. The distance is between features of the unmixed samples, from an
extra pass without gradient, in regression between labels.

Helps: as a control: whether it is the choice of pairs, rather than of λ, that helps.

Hurts: variety: each sample meets fewer others. Features cost an extra pass.
"""

from mixwell.methods.spec import PER_BATCH, Answer, Fidelity, Spec, register
from mixwell.pairing import Quantile

QUANTILE_MIXUP = register(
    Spec(
        name="quantile_mixup",
        title="Tailoring Mixup to Data for Calibration",
        paper="Bouniot, Mozharovskyi and d'Alché-Buc, ICLR 2025, arXiv:2311.01434v3",
        equation="""
d_ij = ‖f(x_i) - f(x_j)‖²,   Q_q: the quantile of d_ij over all i and j
σ(i) ~ uniform over {j: d_ij ≤ Q_q}          (≥ for side="above")
x̃_i = λ_i x_i + (1 - λ_i) x_σ(i),   λ_i ~ Beta(α, α)
""",
        doc=__doc__,
        answers={"pairing": Answer(Quantile, q=0.5, side="below", distance="features")},
        tasks=("classification", "multilabel", "regression"),
        in_regression={"distance": "label"},
        fidelity=Fidelity(
            same="Partners are drawn uniformly from those nearer, or farther, than a quantile of "
            "the batch's distances between features. A sample is at distance 0 from itself, which "
            "counts in the quantile, and may be its own partner.",
            differs=(
                'The side is "below" by default, the authors\' "above".',
                "In batches of more than 512 samples the quantile is that of 65,536 random pairs.",
                PER_BATCH,
            ),
            why="Near pairs are what SK is compared with; all pairs of a large batch need its "
            "square.",
            checked="numerically",
            against="the authors' code (qbouniot/sim_kernel_mixup, QuantileMixup), by statistics.",
        ),
    )
)
