"""SnapMix: for fine-grained classes, label a mix by how much of either object is in it.

A box's area says little about the label where classes differ in small parts. The boxes of the two
samples differ in size and place, and class activation maps say how much of each object is left and
taken; the two labels need not weigh 1 in sum, and a sample counts in the batch's mean by what they
sum to. Of pretrained networks the authors mix every batch, from scratch half of them (``p=0.5``).
It needs a head that reads the means of the last
feature maps, and costs a forward pass more in every step.

Helps: fine-grained classes, for which it was made.

Hurts: the start of training, when activation maps say little; networks whose head reads no mean of
maps, which it can't be used with.
"""

from mixwell.coefficient import Beta
from mixwell.interpolation import SnapMix
from mixwell.labels import Semantic
from mixwell.methods.spec import Answer, Fidelity, Setup, Spec, register

_PUBLISHED: dict[str, Setup] = {
    "cub": Setup(
        settings={"alpha": 5.0, "p": 1.0, "per": "batch"},
        training={
            "network": "ResNet-50, pretrained on ImageNet", "epochs": 200,
            "batch_size": 16, "optimizer": "sgd", "lr": 0.01, "momentum": 0.9,
            "weight_decay": 1e-4, "milestones": (80, 150, 180), "gamma": 0.1,
        },
        source="the authors' README and configuration (Shaoli-Huang/SnapMix): the rate is "
        "the new layer's, 0.001 the others'; from scratch they take p=0.5 and 300 epochs",
    ),
}  # fmt: skip

SNAPMIX = register(
    Spec(
        name="snapmix",
        title="SnapMix: Semantically Proportional Mixing for Augmenting Fine-grained Data",
        paper="Huang, Wang and Tao, AAAI 2021, arXiv:2012.04846",
        equation="""
λ, λ' ~ Beta(α, α),   boxes b of area 1 - λ in x_i and b' of area 1 - λ' in x_σ(i)
x̃_i = x_i with x_σ(i)[b'] resized into b
ρ_a = 1 - Σ_b S(x_i),   ρ_b = Σ_b' S(x_σ(i)),   S = CAM of the sample's class / its sum
L = Σ_i (-ρ_a log p_i[y_i] - ρ_b log p_i[y_σ(i)]) / Σ_i (ρ_a + ρ_b)
""",
        doc=__doc__,
        answers={"interpolation": Answer(SnapMix), "labels": Answer(Semantic)},
        suggests={"coefficient": Answer(Beta, alpha=5.0)},
        tasks=("classification",),
        published=_PUBLISHED,
        fidelity=Fidelity(
            same="Both boxes and both labels' weights, ρ, to .004: the map's minimum is taken "
            "before it is made larger.",
            differs=(
                "The loss is Σ_i w_i ℓ_i / Σ_i w_i with w_i = ρ_a + ρ_b; the authors take the mean "
                "of w_i ℓ_i. The ratio is the mean of w, 1.02.",
                "A pair of one class counts like any other; the authors count it twice over.",
                "λ and the boxes are each sample's own; the authors have one of each for a batch "
                "(per='batch', in the set-up).",
            ),
            why="So the size of the loss doesn't follow the model's maps.",
            checked="numerically",
            against="the authors' code (Shaoli-Huang/SnapMix, utils/mixmethod.py).",
        ),
    )
)
