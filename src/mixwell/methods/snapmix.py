"""SnapMix: for fine-grained classes, label a mix by how much of either object is in it.

A box's area says little about the label where classes differ in small parts. The boxes of the two
samples differ in size and place, and class activation maps say how much of each object is left and
taken; the two labels need not weigh 1 in sum. It needs a head that reads the means of the last
feature maps, and costs a forward pass more in every step.

Helps: fine-grained classes, for which it was made.

Hurts: the start of training, when activation maps say little; networks whose head reads no mean of
maps, which it can't be used with.
"""

from mixwell.coefficient import Beta
from mixwell.interpolation import SnapMix
from mixwell.labels import Semantic
from mixwell.methods.registry import Answer, Spec, register

SNAPMIX = register(
    Spec(
        name="snapmix",
        title="SnapMix: Semantically Proportional Mixing for Augmenting Fine-grained Data",
        paper="Huang, Wang and Tao, AAAI 2021, arXiv:2012.04846",
        equation="""
λ, λ' ~ Beta(α, α),   boxes b of area 1 - λ in x_i and b' of area 1 - λ' in x_σ(i)
x̃_i = x_i with x_σ(i)[b'] resized into b
ρ_a = 1 - Σ_b S(x_i),   ρ_b = Σ_b' S(x_σ(i)),   S = CAM of the sample's class / its sum
L_i = -ρ_a log p_i[y_i] - ρ_b log p_i[y_σ(i)]
""",
        doc=__doc__,
        answers={"interpolation": Answer(SnapMix), "labels": Answer(Semantic)},
        suggests={"coefficient": Answer(Beta, alpha=5.0)},
        tasks=("classification",),
    )
)
