"""ζ-mixup: mix many samples, with weights that fall as a p-series from the own sample's.

Blends of two samples in equal parts may lie off the data's manifold. Here every sample keeps most
of the weight (0.8 of it at the default γ), and the others share the rest in a random order. The
labels are nearly hard, and what is mixed in is more a small disturbance in many directions.

The paper mixes the whole batch. Here ``k`` samples are mixed, since all beyond the eighth would
weigh less than 1 % together; a partner may come twice. A step reads k samples for each.

Helps: small data sets of images, according to its paper, whose samples should stay near where they
are.

Hurts: nothing that was measured here; a step reads k samples for each.
"""

from mixwell.coefficient import PSeries
from mixwell.methods.spec import Answer, Fidelity, Spec, register

ZETA_MIXUP = register(
    Spec(
        name="zeta_mixup",
        title="Multi-Sample ζ-mixup: Richer, More Realistic Synthetic Samples from a p-Series "
        "Interpolant",
        paper="Abhishek, Brown and Hamarneh, Journal of Big Data 2024, arXiv:2204.03323",
        equation="""
w_j = j^-γ / Σ_m m^-γ,   σ_1(i) = i,   σ_2, ..., σ_k: random permutations
x̃_i = Σ_j w_j x_σ_j(i)
L_i = -Σ_j w_j log p_i[y_σ_j(i)]
""",
        doc=__doc__,
        answers={"coefficient": Answer(PSeries, gamma=2.8, k=8)},
        tasks=("classification", "multilabel", "regression"),
        fidelity=Fidelity(
            same="The weights, exactly, at a batch of 8 and k = 8.",
            differs=(
                "k = 8 samples are mixed; the authors mix the whole batch. At γ = 2.8 the own "
                "sample's weight is .8095 instead of .8020.",
                "A partner may come twice.",
            ),
            why="What lies beyond the eighth would weigh less than 1 % together, and a step would "
            "read B samples for each.",
            checked="numerically",
            against="the authors' code (kakumarabhishek/zeta-mixup, utils.py).",
        ),
    )
)
