"""AutoMix: learn the masks beside the classifier.

A small network makes each pair's mask from feature maps of a momentum copy of the model, and learns
in every step to make masks in which the frozen copy sees both samples: mixed samples that match
their labels, at the cost of two passes of the copy and one back. The classifier is trained on clean
samples, too, as in the authors' code (which has a head of its own for these).

It needs a convolutional network. What it learns is in the method's ``state_dict()``, not in the
model's.

Differences: the masks start at mixup's, M = λ, instead of M = 1/2; the Mixer learns on the pairs of
the step by Adam, instead of pairs of its own by the classifier's optimizer; the constraint on λ is
of each mask; m does not rise to 1 at the end.

Helps: accuracy at long training, in the paper on nine image benchmarks.

Hurts: time and memory: a step takes these passes more. In the first hundreds of steps the masks are
still near mixup's. In equal time, 14 epochs beside 40 on CIFAR-10 with 500 images a class, it was
4.0 ± 0.5 points less accurate than cutmix+decoupled.
"""

from mixwell.coefficient import Beta
from mixwell.interpolation import AutoMix
from mixwell.methods.spec import PER_BATCH, Answer, Fidelity, Setup, Spec, register

_PUBLISHED: dict[str, Setup] = {
    "cifar100": Setup(
        settings={"alpha": 2.0, "per": "batch"},
        training={
            "model": "resnet18", "epochs": 400, "batch_size": 100, "optimizer": "sgd",
            "lr": 0.1, "momentum": 0.9, "nesterov": False, "weight_decay": 1e-4,
            "schedule": "cosine",
        },
        source="the authors' configuration for ResNet-18 (openmixup)",
    ),
}  # fmt: skip

AUTOMIX = register(
    Spec(
        name="automix",
        title="AutoMix: Unveiling the Power of Mixup for Stronger Classifiers",
        paper="Liu, Li, Wu, Liu, Chen, Wu and Li, ECCV 2022, arXiv:2103.13027",
        equation="""
z   = feature maps of k, the momentum copy of the model;
z_λ = [z_i, λ],   z_{1-λ} = [z_σ(i), 1 - λ]
M_i = sigmoid(logit λ - up(softmax(q(z_λ) q(z_{1-λ})ᵀ / √d') v(z_{1-λ})))
x̃_i = M_i ⊙ x_i + (1 - M_i) ⊙ x_σ(i),   λ_i ← mean(M_i)
L   = CE(f(x), y) + MCE(f(x̃); y_i, y_σ(i), λ_i)
Mixer (q, v): MCE(f_k(x̃); y_i, y_σ(i), λ) + γ max(|λ - mean M| - ε, 0)
θ_k ← m θ_k + (1 - m) θ
""",
        doc=__doc__,
        answers={"interpolation": Answer(AutoMix)},
        suggests={"coefficient": Answer(Beta, alpha=2.0)},
        clean=True,
        tasks=("classification", "multilabel"),
        published=_PUBLISHED,
        fidelity=Fidelity(
            same="The Mixer's network, the momentum copy (m = 0.999), the loss of the mask (γ = "
            "0.1, ε = 0.1) and α = 2, as configured; both losses of the classifier have the "
            "weight 1.",
            differs=(
                "The masks start at mixup's, M = λ, instead of 1/2.",
                "The Mixer learns on the step's own pairs by Adam; the authors draw other pairs "
                "for it and use the classifier's optimizer.",
                "One head serves clean and mixed samples; the authors have one for each.",
                "The constraint on λ is of each mask, and m does not rise to 1 at the end.",
                PER_BATCH,
            ),
            why="A method here works with a model and an optimizer that it doesn't know.",
            checked="read",
            against="the authors' code and configurations (openmixup, classifiers/automix.py).",
        ),
    )
)
