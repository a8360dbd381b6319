"""FMix: give regions of random shape to the partner, by a threshold on noise of low frequency.

A model can learn to see through boxes, which all look alike; regions of any shape vary more, and
still keep most pixels next to their own neighbours. The noise is the paper's, complex normal: the
published code takes the parts of each number for neighbouring real ones, by which its masks are
symmetric about a point.

Helps: where CutMix does, with more variety for long training.

Hurts: tasks in which straight parts of an object, or all of it, must be seen at once.
"""

from mixwell.interpolation import FMix
from mixwell.methods.spec import Answer, Fidelity, Setup, Spec, register

_PUBLISHED: dict[str, Setup] = {
    "cifar": Setup(
        settings={"alpha": 1.0, "decay_power": 3.0, "per": "batch"},
        source="the authors' code (ecs-vlc/FMix, fmix.py), its defaults",
    ),
}  # fmt: skip

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
        published=_PUBLISHED,
        fidelity=Fidelity(
            same="Noise of low frequency with δ = 3, cut at the height that leaves λ: as many "
            "components (4.28 against 4.14) and edges (.1055 against .1026) at λ = 1/2.",
            differs=(
                "Masks have no symmetry about a point: the own mask agrees with its reflection in "
                ".499 of the pixels, the authors' in .606.",
                "Each sample has its own λ and mask; the authors have one of each for a batch "
                "(per='batch', in the set-up).",
            ),
            why="The noise is the paper's, complex normal; their code takes the parts of each "
            "number for neighbouring real ones, which makes the symmetry.",
            checked="numerically",
            against="the authors' code (ecs-vlc/FMix, fmix.py), by statistics of the masks.",
        ),
    )
)
