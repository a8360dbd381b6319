"""Mixup of k samples: Dirichlet weights over a sample and k - 1 partners.

It spreads each mix over more classes, farther from any sample. Mixup's authors tried it and found
no further gain over pairs; over the whole of a batch it fails (94.7 % error on CIFAR-100, in
ζ-mixup's paper). Keep k and α small, and see ``zeta_mixup`` for weights that keep to the own
sample. It takes the mixed, the decoupled and the infinite-class losses, and linear mixing at the
input or any layer; masks and changed labels are for pairs.

Helps: where more of the space between classes should be unsure; according to its authors, not
beyond pairs.

Hurts: large k or α: means of many samples are all alike.
"""

from mixwell.coefficient import Dirichlet
from mixwell.methods.spec import Answer, Fidelity, Spec, register

MULTI_MIXUP = register(
    Spec(
        name="multi_mixup",
        title="mixup: Beyond Empirical Risk Minimization",
        paper="Zhang, Cisse, Dauphin and Lopez-Paz, ICLR 2018, arXiv:1710.09412 (a remark)",
        equation="""
w_i ~ Dirichlet(α, ..., α) over k samples,   σ_1(i) = i,   σ_2, ..., σ_k: random permutations
x̃_i = Σ_j w_ij x_σ_j(i)
L_i = -Σ_j w_ij log p_i[y_σ_j(i)]
""",
        doc=__doc__,
        answers={"coefficient": Answer(Dirichlet, alpha=1.0, k=3)},
        tasks=("classification", "multilabel", "regression"),
        fidelity=Fidelity(
            same="Weights ~ Dirichlet(α, ..., α), of inputs and labels alike, as mixup's paper "
            "remarks.",
            differs=("Three samples and α = 1 by default: the paper gives no settings.",),
            why="The remark is a sentence.",
            checked="read",
            against="the remark; no code for it was found.",
        ),
    )
)
