"""Attentive CutMix: paste the cells that the model attends to most.

A random box often takes background alone, and the label then names what is not there. The paper
asks a pretrained network where to look; here it is the model that is trained, for a forward pass
more in every step. The paper pastes 6 of 7 x 7 cells; any other coefficient may decide how many.

Helps: objects that fill a small part of the image.

Hurts: the start of training, when the model that is asked knows nothing yet.
"""

from mixwell.coefficient import Constant
from mixwell.interpolation import AttentiveMix
from mixwell.methods.spec import Answer, Fidelity, Spec, register

ATTENTIVEMIX = register(
    Spec(
        name="attentivemix",
        title="Attentive CutMix: An Enhanced Data Augmentation Approach for Deep Learning Based "
        "Image Classification",
        paper="Walawalkar, Shen, Liu and Savvides, ICASSP 2020, arXiv:2003.13048",
        equation="""
A = mean over channels of the last feature maps of x_σ(i), h x w cells
M_i = 0 in the round((1 - λ) h w) cells of greatest A, 1 elsewhere,   λ = 43/49
x̃_i = M_i ⊙ x_i + (1 - M_i) ⊙ x_σ(i),   λ_i ← mean(M_i)
L_i = -λ_i log p_i[y_i] - (1 - λ_i) log p_i[y_σ(i)]
""",
        doc=__doc__,
        answers={"interpolation": Answer(AttentiveMix)},
        suggests={"coefficient": Answer(Constant, lam=43 / 49)},
        fidelity=Fidelity(
            same="The partner's 6 most attended of 7 x 7 cells are pasted to the same places, and "
            "λ is the share of pixels that is left.",
            differs=(
                "The model that is trained is asked where to look; the paper asks a pretrained "
                "ResNet-50.",
                "The grid is that of the model's last feature maps, whatever its size; with 7 x 7 "
                "it is the paper's.",
            ),
            why="A second network would have to be chosen and carried along.",
            checked="read",
            against="openmixup's form of it; the authors' code was not at hand.",
        ),
    )
)
