"""Local Mixup: mixes of samples that are far apart count less in the loss.

Between distant samples a mix may land on a third one's place, with a label that contradicts it.
Pairs are left to chance, and each mix's loss is weighted by how near its two samples are; with
``decay=0`` it is mixup. ``limit`` leaves pairs out altogether.

Distances are taken in units of the batch's mean, which is ours, so that one ``decay`` fits data of
any scale; ``relative=False`` takes them as the paper does. Where all pairs are about equally far
apart it is mixup.

Helps: low-dimensional data that fold, where mixes of distant samples land in another class.

Hurts: images as pixels: all pairs are about equally far apart, and it is mixup.
"""

from mixwell.labels import Local
from mixwell.methods.spec import Answer, Fidelity, Spec, register

LOCAL_MIXUP = register(
    Spec(
        name="local_mixup",
        title="Preventing Manifold Intrusion with Locality: Local Mixup",
        paper="Baena, Drumetz and Gripon, EUSIPCO 2022, arXiv:2201.04368",
        equation="""
d_i = ‖x_i - x_σ(i)‖,   w_i = exp(-decay · d_i) if d_i ≤ limit, else 0
x̃_i = λ_i x_i + (1 - λ_i) x_σ(i),   λ_i ~ Beta(α, α)
L = Σ_i w_i (λ_i ℓ(f(x̃_i), y_i) + (1 - λ_i) ℓ(f(x̃_i), y_σ(i))) / Σ_i w_i
""",
        doc=__doc__,
        answers={"labels": Answer(Local, decay=1.0, distance="input")},
        tasks=("classification", "multilabel", "regression"),
        fidelity=Fidelity(
            same="Each mix's loss is weighted by exp(-decay · d), or by whether d is within a "
            "limit, as in the paper's equations.",
            differs=(
                "Distances are in units of the batch's mean (relative=False takes them as they "
                "are), and the weighted mean is divided by the sum of the weights.",
            ),
            why="So one decay fits data of any scale, and the size of the loss doesn't follow it.",
            checked="not checked",
            against="no public code was found.",
        ),
    )
)
