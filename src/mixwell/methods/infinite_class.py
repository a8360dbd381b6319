"""Infinite Class Mixup (ICM): mix the classifiers, and contrast them within the batch.

Mixup enforces linearity between classes on probabilities only. ICM gives each mixed sample a
classifier of its own, the same blend of its two classes' weights, and asks each sample to find
its classifier among the batch's (class axis) and each classifier its sample (pair axis). It
applies to any mix: "cutmix+infinite_class", "regmixup+infinite_class" (RegICM),
"remix+infinite_class". Testing uses the ordinary classifier. A batch of one sample has nothing to
contrast with: it trains on the mixed cross-entropy, with a warning.

Helps: long tails (the most accurate of all methods here, by 3 points over erm on Fashion-MNIST)
and very few images.

Hurts: calibration as trained, where the network overfits: it leaves it overconfident. Small
batches, which hold few classifiers to contrast with.
"""

from mixwell.losses import InfiniteClassLoss
from mixwell.methods.registry import Answer, Spec, register

INFINITE_CLASS = register(
    Spec(
        name="infinite_class",
        title="Infinite Class Mixup",
        paper="Mensink and Mettes, BMVC 2023, arXiv:2305.10293",
        equation="""
w̃_j = λ_j w_{a_j} + (1 - λ_j) w_{b_j}
S_ij = f_i · w̃_j + b̃_j = λ_j z_i[a_j] + (1 - λ_j) z_i[b_j]
ICM = CE(S, diagonal) + CE(Sᵀ, diagonal)
""",
        doc=__doc__,
        answers={"loss": Answer(InfiniteClassLoss, axis="both")},
        tasks=("classification",),
    )
)
