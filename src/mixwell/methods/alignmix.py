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
from mixwell.methods.registry import Answer, Spec, register

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
    )
)
