"""TokenMix: take several blocks of tokens of the partner, and label by what is in them.

A vision transformer sees the whole image at once, so that CutMix's one box is an easy task for it:
here the partner's region is several blocks of whole tokens. Each label counts by the attention that
its unmixed image pays to what is left of it. The paper takes that from a trained teacher; without
one (``labels=ContentAttention(teacher=...)``) it is the model's own, by a pass without gradient in
evaluation mode.

The authors' code mixes half of the tokens of each image and 14 more; here (1 - λ) of them, with λ
of the coefficient (``coefficient=Constant(0.5)``).

Helps: the accuracy and the robustness to occlusion of vision transformers on ImageNet, in the
paper.

Hurts: time, by the pass of the unmixed images; models without such attention are refused.
"""

from mixwell.interpolation import TokenMix
from mixwell.labels import ContentAttention
from mixwell.methods.spec import Answer, Fidelity, Spec, register

TOKENMIX = register(
    Spec(
        name="tokenmix",
        title="TokenMix: Rethinking Image Mixing for Data Augmentation in Vision Transformers",
        paper="Liu, Liu, Zhou, Li and Liu, ECCV 2022, arXiv:2207.08409",
        equation="""
M_i = 0 on blocks of tokens, (1 - λ_i) h w of them in all, 1 elsewhere
x̃_i = M_i ⊙ x_i + (1 - M_i) ⊙ x_σ(i)
A_i = attention of the class token to the patches of x_i, summing to 1
s_a = Σ_p A_ip M_ip,   s_b = Σ_p A_σ(i)p (1 - M_ip)
L = Σ_i (-s_a log p_i[y_i] - s_b log p_i[y_σ(i)]) / Σ_i (s_a + s_b)
""",
        doc=__doc__,
        answers={"interpolation": Answer(TokenMix)},
        suggests={"labels": Answer(ContentAttention)},
        tasks=("classification", "multilabel"),
        fidelity=Fidelity(
            same="Blocks of whole tokens, and labels by the attention of the unmixed images to "
            "what is left of them.",
            differs=(
                "The model itself is asked for attention by default; the paper has a trained "
                "teacher (labels=ContentAttention(teacher=...)).",
                "(1 - λ) of the tokens are the partner's; the authors mix half of them and 14 more "
                "(coefficient=Constant(0.5)).",
                "A sample counts in the batch's mean by the sum of its labels' weights.",
                "Each label goes by its own sample's share; openmixup weighs the attention of one "
                "sample by the mask of the other.",
            ),
            why="A teacher is not always there; labels should weigh what is seen.",
            checked="read",
            against="openmixup's tokenmix.py; the authors' repository (Sense-X/TokenMix) holds no "
            "code of it.",
        ),
    )
)
