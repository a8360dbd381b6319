"""CutMix: paste a box of the partner, and weigh the labels by the areas.

Every sample has a box of its own, and λ is corrected to the share of pixels that is truly left
when the box is clipped at the border. The paper mixes every ImageNet batch and half of CIFAR's
(``p=0.5``).

Helps: images whose object fills much of the frame, and long training.

Hurts: small objects, which a box may leave out of the image while their label stays; grey digits,
where position is the class.
"""

from mixwell.interpolation import CutMix
from mixwell.methods.registry import Answer, Spec, register

CUTMIX = register(
    Spec(
        name="cutmix",
        title="CutMix: Regularization Strategy to Train Strong Classifiers with Localizable "
        "Features",
        paper="Yun, Han, Oh, Chun, Choe and Yoo, ICCV 2019, arXiv:1905.04899",
        equation="""
λ_i ~ Beta(α, α),   M_i = 0 in a box of area (1 - λ_i) H W with a uniform centre, 1 elsewhere
x̃_i = M_i ⊙ x_i + (1 - M_i) ⊙ x_σ(i),   λ_i ← mean(M_i)
L_i = -λ_i log p_i[y_i] - (1 - λ_i) log p_i[y_σ(i)]
""",
        doc=__doc__,
        answers={"interpolation": Answer(CutMix)},
    )
)
