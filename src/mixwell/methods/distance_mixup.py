"""C-Mixup's control: the partner is drawn with a kernel on inputs or features, not on labels.

C-Mixup's paper finds labels to be the better guide than inputs or hidden representations, and this
is what it compares with. It has not been measured in this project's studies.
``distance="features"`` takes an extra pass without gradient. The bandwidth is in units of the
batch's root mean square distance, which is ours.

Helps: as a control of C-Mixup; on tables where near inputs have near targets.

Hurts: inputs whose columns are not of one scale: standardise them first.
"""

from mixwell.coefficient import Beta
from mixwell.methods.spec import Answer, Fidelity, Spec, register
from mixwell.pairing import DistanceKernel

DISTANCE_MIXUP = register(
    Spec(
        name="distance_mixup",
        title="C-Mixup: Improving Generalization in Regression",
        paper="Yao, Wang, Zhang, Zou and Finn, NeurIPS 2022, arXiv:2210.05775",
        equation="""
d_ij = ‖x_i - x_j‖, or of features, in units of the batch's root mean square
P(σ(i) = j) ∝ exp(-d_ij² / (2 h²))
x̃_i = λ_i x_i + (1 - λ_i) x_σ(i),   ỹ_i = λ_i y_i + (1 - λ_i) y_σ(i),   λ_i ~ Beta(α, α)
""",
        doc=__doc__,
        answers={"pairing": Answer(DistanceKernel, bandwidth=0.5, distance="input")},
        suggests={"coefficient": Answer(Beta, alpha=2.0)},
        tasks=("regression", "classification", "multilabel"),
        fidelity=Fidelity(
            same="A Gaussian kernel on the distance of inputs or of features draws the partner, as "
            "in the comparison of C-Mixup's paper.",
            differs=(
                "The unit of the bandwidth (the batch's root mean square distance), its default of "
                "0.5 and the partners from the batch are this library's.",
            ),
            why="No code for this comparison was found, and features have no scale of their own.",
            checked="not checked",
            against="no public code of it was found.",
        ),
    )
)
