"""FMix: give regions of random shape to the partner, by a threshold on noise of low frequency.

A model can learn to see through boxes, which all look alike; regions of any shape vary more, and
still keep most pixels next to their own neighbours. The noise is the paper's, complex normal: the
published code takes the parts of each number for neighbouring real ones, by which its masks are
symmetric about a point.

Helps: where CutMix does, with more variety for long training.

Hurts: tasks in which straight parts of an object, or all of it, must be seen at once.
"""

from mixwell.interpolation import FMix
from mixwell.methods.registry import Answer, Spec, register

FMIX = register(
    Spec(
        name="fmix",
        title="FMix: Enhancing Mixed Sample Data Augmentation",
        paper="Harris, Marcu, Painter, Niranjan, Prügel-Bennett and Hare, 2020, arXiv:2002.12047",
        equation="""
Z(k) ~ complex normal / |k|^δ,   G = Re F⁻¹(Z),   δ = 3
M_i = 1 at the λ_i H W positions where G_i is extreme, 0 elsewhere
x̃_i = M_i ⊙ x_i + (1 - M_i) ⊙ x_σ(i),   λ_i ← mean(M_i)
L_i = -λ_i log p_i[y_i] - (1 - λ_i) log p_i[y_σ(i)]
""",
        doc=__doc__,
        answers={"interpolation": Answer(FMix, decay_power=3.0)},
    )
)
