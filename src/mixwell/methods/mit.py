"""Mixup inference in training (MIT): learn hard labels from two mixes of each pair.

Soft labels penalise confidence, and leave a network that is harder to calibrate afterwards. MIT
mixes each pair twice, on either side of the midpoint, solves the two outputs for the logits of the
samples themselves, and trains these with their own labels: mixed inputs, no mixed labels. A step
runs 2B samples. ``margin`` keeps the two mixes apart; the nearer they are, the more the solution
magnifies what separates them from a straight line.

This is the paper's MIT-L, which solves at the last layer, and works with any network; its MIT-A
solves and mixes again between all blocks of a ResNet. λ is drawn for each pair; ``per="batch"``
draws one for all, as the authors do. Other ways to mix (CutMix, at a layer) and other λ compose;
other labels don't, since it has no use for them.

Helps: calibration after temperature scaling, according to its paper, and where soft labels leave a
network unsure.

Hurts: time: a step runs twice the samples. Networks far from linear between two samples, whose
solved logits are noisy.
"""

from mixwell.coefficient import Beta
from mixwell.labels import Soft
from mixwell.losses import MixupInference
from mixwell.methods.spec import PER_BATCH, Answer, Fidelity, Setup, Spec, register

_PUBLISHED: dict[str, Setup] = {
    "cifar": Setup(
        settings={"alpha": 0.5, "margin": 0.5, "per": "batch"},
        training={
            "network": "ResNet-32", "epochs": 350, "batch_size": 128, "optimizer": "sgd",
            "lr": 0.1, "momentum": 0.9, "nesterov": False, "weight_decay": 1e-4,
            "milestones": (150, 250), "gamma": 0.1,
        },
        source="the defaults of the authors' main.py "
        "(dengbaowang/Mixup-Inference-in-Training); their demonstration of MIT-L takes the "
        "margin 0",
    ),
}  # fmt: skip

MIT = register(
    Spec(
        name="mit",
        title="On the Pitfall of Mixup for Uncertainty Calibration",
        paper="Wang, Li, Zhao, Heng and Zhang, CVPR 2023",
        equation="""
λ¹ ~ Beta(α, α);   λ² ~ Beta(α, α), given that |λ¹ - λ²| ≥ margin and 1/2 is between the two
z¹ = f(λ¹ x_a + (1 - λ¹) x_b),   z² = f(λ² x_a + (1 - λ²) x_b)
ẑ_a = ((1 - λ²) z¹ - (1 - λ¹) z²) / (λ¹ - λ²),   ẑ_b = (λ¹ z² - λ² z¹) / (λ¹ - λ²)
L_i = (CE(ẑ_a, y_a) + CE(ẑ_b, y_b)) / 2
""",
        doc=__doc__,
        answers={
            "labels": Answer(Soft),
            "loss": Answer(MixupInference, alpha=1.0, margin=0.5),
        },
        suggests={"coefficient": Answer(Beta, alpha=1.0)},
        tasks=("classification",),
        published=_PUBLISHED,
        fidelity=Fidelity(
            same="The solution for the two samples' logits and the loss: value to 2e-7, gradient "
            "to 7e-9. It is MIT-L.",
            differs=(
                "The second λ is drawn given the first, at least the margin away; the authors draw "
                "both, one on each side of 1/2, until they are. The gap's mean is .625 here and "
                ".666 there, at α = 1.",
                "The first mix is the own sample's heavier one in half of the pairs, in theirs "
                "always.",
                PER_BATCH,
                "α is 1 by default and the margin 0.5, theirs 0.5 and 0.5 (the set-up); MIT-A is "
                "not there.",
            ),
            why="So λ stays the coefficient's, and other methods' λ compose.",
            checked="numerically",
            against="the authors' code (dengbaowang/Mixup-Inference-in-Training, main.py).",
        ),
    )
)
