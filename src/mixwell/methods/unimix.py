"""UniMix: for long tails, more rare partners, and more of the rarer sample in each mix.

Mixup of long-tailed data mixes common classes with common ones. UniMix draws partners by the power
τ of their class's count, and moves λ toward the rarer class, by the two counts' ratio. It needs
``class_counts``. Partners come from the batch: a class that it lacks can't be drawn.

τ is the exponent for samples, as in the authors' code (-0.5 on CIFAR-10-LT, -0.1 on CIFAR-100-LT,
both with α = 0.8): 0 is mixup's partner, and the default, -1, draws all classes about alike. The
paper adds a loss for the shift of the prior (Bayias), which isn't part of this method.

Helps: long tails with many classes, beside a loss or a scaling for the shift of the prior. On
CIFAR-10's at 100 : 1 classes of fewer than 20 images went from erm's 2 to 15 %, at 2.2 ± 2.3 points
more accuracy in all, and ECE from 35 to 11 %.

Hurts: balanced data, where its λ is not mixup's: the two classes' counts still move it. Small
batches, which lack the rare classes.
"""

from mixwell.coefficient import ClassAware
from mixwell.methods.spec import Answer, Fidelity, Setup, Spec, register
from mixwell.pairing import InverseFrequency

_PUBLISHED: dict[str, Setup] = {
    "cifar10-lt": Setup(
        settings={"alpha": 0.8, "tau": -0.5},
        training={
            "network": "ResNet-32", "epochs": 200, "batch_size": 64, "optimizer": "sgd",
            "lr": 0.1, "momentum": 0.9, "weight_decay": 2e-4,
        },
        source="the authors' config/cifar10_100.py (XuZhengzhuo/Prior-LT), whose loss is "
        "Bayias",
    ),
    "cifar100-lt": Setup(
        settings={"alpha": 0.8, "tau": -0.1},
        training={
            "network": "ResNet-32", "epochs": 200, "batch_size": 64, "optimizer": "sgd",
            "lr": 0.1, "momentum": 0.9, "weight_decay": 2e-4,
        },
        source="the authors' config/cifar100_100.py (XuZhengzhuo/Prior-LT), whose loss is "
        "Bayias",
    ),
}  # fmt: skip

UNIMIX = register(
    Spec(
        name="unimix",
        title="Towards Calibrated Model for Long-Tailed Visual Recognition from Prior Perspective",
        paper="Xu, Chai and Yuan, NeurIPS 2021, arXiv:2111.03874",
        equation="""
n_c: training samples of class c
P(σ(i) = j) ∝ n_{y_j}^τ
ξ_i = n_b / (n_a + n_b),   u_i ~ Beta(α, α),   λ_i = u_i + ξ_i, less 1 if it exceeds 1
L_i = -λ_i log p_i[y_i] - (1 - λ_i) log p_i[y_σ(i)]
""",
        doc=__doc__,
        answers={
            "pairing": Answer(InverseFrequency, tau=-1.0),
            "coefficient": Answer(ClassAware, alpha=0.8),
        },
        tasks=("classification",),
        published=_PUBLISHED,
        fidelity=Fidelity(
            same="The shares of classes among partners, and λ: its quantiles and how it goes with "
            "ξ.",
            differs=(
                "τ is -1 by default, which draws all classes about alike; theirs is -0.5 and -0.1 "
                "(the set-ups).",
                "Partners come from the batch, not from a sampler of the training set.",
                "The loss for the shift of the prior (Bayias) is not part of it, nor that mixing "
                "may stop before the end (mix_stop_epoch; in their configurations it doesn't).",
            ),
            why="Bayias is a loss, which another method may bring; a step sees one batch.",
            checked="numerically",
            against="the authors' code (XuZhengzhuo/Prior-LT, core.py), by statistics.",
        ),
    )
)
