"""AlignMix: interpolate deep features that are first aligned in space by optimal transport.

Blended features of different places belong to no object; aligned ones keep the geometry of one
sample and the appearance of both. It needs a convolutional network, and transport between all
positions of its last maps, which costs little where these are few (4 x 4 or 7 x 7). Half of the
batches are mixed linearly at the input.

Helps: what is measured of features: it is made for classification by shape, and for localisation.

Hurts: networks whose last maps are few positions or many: of one there is nothing to align, of
hundreds the transport takes its time.
"""

from mixwell.coefficient import Beta
from mixwell.interpolation import AlignMix
from mixwell.methods.spec import PER_BATCH, Answer, Fidelity, Setup, Spec, register

_AS_THERE = {
    "alpha": 2.0, "per": "batch", "relative": False, "epsilon": 0.1, "iterations": 100,
}  # fmt: skip

_PUBLISHED: dict[str, Setup] = {
    "cifar": Setup(
        settings=_AS_THERE,
        training={"network": "PreActResNet-18", "epochs": 2000},
        source="the authors' README (shashankvkt/AlignMixup_CVPR22)",
    ),
    "tiny-imagenet": Setup(
        settings=_AS_THERE,
        training={"network": "PreActResNet-18", "epochs": 1200},
        source="the authors' README (shashankvkt/AlignMixup_CVPR22)",
    ),
    "imagenet": Setup(
        settings=_AS_THERE,
        training={"network": "ResNet-50", "epochs": 300, "batch_size": 1024},
        source="the authors' README (shashankvkt/AlignMixup_CVPR22)",
    ),
}  # fmt: skip

ALIGNMIX = register(
    Spec(
        name="alignmix",
        title="AlignMixup: Improving Representations By Interpolating Aligned Features",
        paper="Venkataramanan, Kijak, Amsaleg and Avrithis, CVPR 2022, arXiv:2103.15375",
        equation="""
λ_i ~ Beta(α, α),   f: the last feature maps, r positions of d channels
R = argmin Σ_kl R_kl ‖f_k(x_i) - f_l(x_σ(i))‖² - ε H(R),   rows and columns sum to 1
f̃_i = λ_i f(x_i) + (1 - λ_i) R f(x_σ(i))   or   λ_i Rᵀ f(x_i) + (1 - λ_i) f(x_σ(i))
      or, by chance, x̃_i = λ_i x_i + (1 - λ_i) x_σ(i)
L_i = -λ_i log p_i[y_i] - (1 - λ_i) log p_i[y_σ(i)]
""",
        doc=__doc__,
        answers={"interpolation": Answer(AlignMix)},
        suggests={"coefficient": Answer(Beta, alpha=2.0)},
        tasks=("classification", "multilabel", "regression"),
        published=_PUBLISHED,
        fidelity=Fidelity(
            same="Transport between the last feature maps' positions, features aligned by it, no "
            "gradient through the plan, and half of the batches mixed at the input.",
            differs=(
                "ε = 0.02 is in units of a pair's mean cost, and the plan is scaled once more in "
                "the direction in which it is used: the plans differ by 7 to 146 %. With "
                "relative=False, epsilon=0.1 and iterations=100 (the set-ups) they agree to "
                "between 3e-7 and 9.6 %: the authors stop at a threshold of 0.1 and scale one "
                "side.",
                PER_BATCH,
            ),
            why="Costs of networks differ by more than an order of magnitude, and an unfinished "
            "plan depends on where it stopped.",
            checked="numerically",
            against="the authors' code (shashankvkt/AlignMixup_CVPR22, utils/OT.py).",
        ),
    )
)
