"""Nearest-neighbour mixup: mix each sample with one of its nearest in the batch.

The farther two samples are apart, the less a straight line between them says about the function
that is learnt. The paper learns with a validation set, for each sample, with how many of its
nearest neighbours it may be mixed; this is the plain form, one ``k`` for all, among the samples of
the batch. ``distance`` compares "input", "features" or "label".

Helps: tables whose target is not linear between distant samples.

Hurts: small batches, where even the nearest is far; data without noise, which lose their extremes.
"""

from mixwell.coefficient import Beta
from mixwell.methods.spec import Answer, Fidelity, Spec, register
from mixwell.pairing import NearestNeighbour

KNN_MIXUP = register(
    Spec(
        name="knn_mixup",
        title="RegMix: Data Mixing Augmentation for Regression",
        paper="Hwang and Whang, 2021, arXiv:2106.03374",
        equation="""
σ(i) ~ uniform over the k nearest of x_i in the batch
x̃_i = λ_i x_i + (1 - λ_i) x_σ(i),   ỹ_i = λ_i y_i + (1 - λ_i) y_σ(i),   λ_i ~ Beta(α, α)
""",
        doc=__doc__,
        answers={"pairing": Answer(NearestNeighbour, k=4, distance="input")},
        suggests={"coefficient": Answer(Beta, alpha=2.0)},
        tasks=("regression", "classification", "multilabel"),
        fidelity=Fidelity(
            same="Partners are among the nearest neighbours, as the paper argues they should be.",
            differs=(
                "One k for all samples, 4 by default, among those of the batch; the paper learns "
                "with a validation set how many each sample may meet.",
            ),
            why="It is the plain form of the idea, as a control; no code was found.",
            checked="not checked",
            against="no public code was found.",
        ),
    )
)
