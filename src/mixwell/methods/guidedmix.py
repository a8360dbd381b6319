"""GuidedMixup: pair samples that are salient in different places, and weigh each pixel by saliency.

It keeps what is salient of both samples without an optimisation and, by the spectrum of the
images, without the model (Guided-SR); ``saliency="gradient"`` asks the model (Guided-AP), for a
forward and a backward pass more in every step. As the authors do, half of the batches stay as they
are (``p=0.5``; the authors take 0.8 with gradients): every mix is about even, and a network that
sees no others may learn little. ``per="sample"`` leaves half of each batch.

Helps: objects that are salient by themselves against their ground.

Hurts: cluttered images, whose saliency is not the object's.
"""

from mixwell.coefficient import Constant
from mixwell.interpolation import GuidedMix
from mixwell.methods.spec import Answer, Fidelity, Setup, Spec, register
from mixwell.pairing import SalientCycle

_PUBLISHED: dict[str, Setup] = {
    "cifar100": Setup(
        settings={"saliency": "spectral", "p": 0.5, "per": "batch"},
        training={
            "network": "PreActResNet-18", "epochs": 1200, "optimizer": "sgd", "lr": 0.1,
            "momentum": 0.9, "weight_decay": 1e-4, "milestones": (400, 800), "gamma": 0.1,
        },
        source="the authors' README, Guided-SR (3neutronstar/GuidedMixup)",
    ),
    "cifar100-gradient": Setup(
        settings={"saliency": "gradient", "p": 0.8, "per": "batch"},
        training={
            "network": "PreActResNet-18", "epochs": 1200, "optimizer": "sgd", "lr": 0.1,
            "momentum": 0.9, "weight_decay": 1e-4, "milestones": (400, 800), "gamma": 0.1,
        },
        source="the authors' README, Guided-AP (3neutronstar/GuidedMixup)",
    ),
    "tiny-imagenet": Setup(
        settings={"saliency": "spectral", "p": 0.5, "per": "batch"},
        training={
            "network": "PreActResNet-18", "epochs": 1200, "optimizer": "sgd", "lr": 0.2,
            "momentum": 0.9, "weight_decay": 1e-4, "milestones": (600, 900), "gamma": 0.1,
        },
        source="the authors' README, Guided-SR (3neutronstar/GuidedMixup)",
    ),
}  # fmt: skip

GUIDEDMIX = register(
    Spec(
        name="guidedmix",
        title="GuidedMixup: An Efficient Mixup Strategy Guided by Saliency Maps",
        paper="Kang and Kim, AAAI 2023, arXiv:2306.16612",
        equation="""
s_i = the modulus of x_i's spectral residual, blurred twice, or of the loss's gradient, blurred;
      summing to 1
σ: a cycle, greedy by greatest ‖s_i - s_σ(i)‖
M_i = λ s_i / (λ s_i + (1 - λ) s_σ(i)),   λ = 1/2
x̃_i = M_i ⊙ x_i + (1 - M_i) ⊙ x_σ(i),   λ_i ← mean(M_i)
L_i = -λ_i log p_i[y_i] - (1 - λ_i) log p_i[y_σ(i)]
""",
        doc=__doc__,
        answers={"pairing": Answer(SalientCycle), "interpolation": Answer(GuidedMix)},
        suggests={"coefficient": Answer(Constant, lam=0.5)},
        p=0.5,
        per="batch",
        published=_PUBLISHED,
        fidelity=Fidelity(
            same="The greedy pairing and the mask, exactly, given the maps; the spectral "
            "residual's modulus at full size, blurred twice by 7 x 7 pixels with σ = 3; half of "
            "the batches are left as they are.",
            differs=(
                "Other λ than 1/2, by another method or a coefficient, lean the mask to one "
                "sample.",
            ),
            why="It composes: at the default λ = 1/2 the mask is the paper's.",
            checked="numerically",
            against="the authors' code (3neutronstar/GuidedMixup, mixup.py, spectral_residual.py, "
            "pairing.pyx).",
        ),
    )
)
