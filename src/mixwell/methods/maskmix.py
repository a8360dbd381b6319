"""MaskMix: shuffle patches between two samples, a random subset of a grid's.

A box of CutMix cuts through the patches of a vision transformer, and shows it the partner in one
place only. The patches of this mask hold whole patches of the model, and lie all over the image. It
is the mask of MixPro, without its labels by attention. The paper rounds the number of own patches
up; here it is rounded to the nearest, so that λ keeps its mean.

Helps: vision transformers, whose patches stay whole.

Hurts: small objects, and images of few patches, where λ is coarse: choose ``patch`` smaller.
"""

from mixwell.interpolation import MaskMix
from mixwell.methods.spec import Answer, Fidelity, Spec, register

MASKMIX = register(
    Spec(
        name="maskmix",
        title="MixPro: Data Augmentation with MaskMix and Progressive Attention Labeling for "
        "Vision Transformer",
        paper="Zhao, Huang, Hu, Zhang and Liu, ICLR 2023, arXiv:2304.12043",
        equation="""
a grid of n patches,   M_i = 0 in round((1 - λ_i) n) of them at random, 1 elsewhere
x̃_i = M_i ⊙ x_i + (1 - M_i) ⊙ x_σ(i),   λ_i ← mean(M_i)
L_i = -λ_i log p_i[y_i] - (1 - λ_i) log p_i[y_σ(i)]
""",
        doc=__doc__,
        answers={"interpolation": Answer(MaskMix)},
        fidelity=Fidelity(
            same="A random subset of a grid's patches, 64 of 224 pixels wide, each of whole "
            "patches of the model.",
            differs=(
                "The number of own patches is rounded to the nearest; the paper rounds it up.",
                "The labels are by area; the paper's come to be by attention as training goes on.",
            ),
            why="Rounding up shifts λ's mean; for labels by attention compose with transmix.",
            checked="read",
            against="openmixup's mixpro.py; the authors' code was not at hand.",
        ),
    )
)
