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
from mixwell.methods.registry import Answer, Spec, register

MIT = register(
    Spec(
        name="mit",
        title="On the Pitfall of Mixup for Uncertainty Calibration",
        paper="Wang, Li, Zhao, Heng and Zhang, CVPR 2023",
        equation="""
z¹ = f(λ¹ x_a + (1 - λ¹) x_b),   z² = f(λ² x_a + (1 - λ²) x_b),   |λ¹ - λ²| ≥ margin
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
    )
)
