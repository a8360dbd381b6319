"""Mixup: train on convex combinations of sample pairs and of their labels.

It regularises the network to behave linearly between samples. λ is drawn for each sample unless
``per="batch"`` asks for one. The paper takes α in [0.1, 0.4] on ImageNet and α = 1 on CIFAR.

Helps: where data are few and the network overfits: accuracy and calibration. On CIFAR-10 with 10,
50 and 100 images a class and 100 epochs it was 2.9 ± 1.3, 4.4 ± 1.3 and 4.8 ± 0.5 points more
accurate than erm, and its ECE 28 to 29 points lower; with 500 and 120 epochs 3.3 ± 0.8 points more
accurate, and nearer to people's doubt after temperature scaling (their KL lower by 0.074 ± 0.012).
Forecasts of exchange rates: 0.0023 ± 0.0009 less RMSE than erm, of 0.0276, over ten seeds.

Hurts: a network that fits its data well without overfitting: it is made underconfident (temperature
scaling mends that). In regression on Airfoil it cost much accuracy here, since far targets were
blended, and so on UCI's concrete, energy and kin8nm: 14, 20 and 35 % more RMSE than erm. Short
training: on CIFAR-10 with these 500 images a class and 40 epochs it was 1.7 points less accurate
than erm, though better calibrated; as trained it was nearer to people's doubt (their KL lower by
0.124 ± 0.014), after temperature scaling farther from it (by 0.047 ± 0.009); on CIFAR-100 with 100
images a class and 30 epochs 5.8 ± 0.4 less accurate, at an ECE of 2.6 % against 11.6. Long tails of
CIFAR-10: 5.1 ± 1.1 (10 : 1) and 6.6 ± 1.6 points (100 : 1) below erm; the rarest classes are told
on 1 of 10,000 of their images. Classes within classes: a probe for CIFAR-100's classes on features
of its superclasses 2.0 ± 0.5 points below erm's.
"""

from mixwell.interpolation import Linear
from mixwell.methods.spec import PER_BATCH, Answer, Fidelity, Setup, Spec, register

_PUBLISHED: dict[str, Setup] = {
    "cifar10": Setup(
        settings={"alpha": 1.0, "per": "batch"},
        training={
            "network": "PreActResNet-18", "epochs": 200, "batch_size": 128,
            "optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": False,
            "weight_decay": 1e-4, "schedule": "step", "milestones": (100, 150),
            "gamma": 0.1,
        },
        source="the authors' train.py and README (facebookresearch/mixup-cifar10)",
    ),
    "cifar100": Setup(
        settings={"alpha": 1.0, "per": "batch"},
        training={
            "network": "PreActResNet-18", "epochs": 200, "batch_size": 128,
            "optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": False,
            "weight_decay": 1e-4, "schedule": "step", "milestones": (100, 150),
            "gamma": 0.1,
        },
        source="the paper, section 3.2: as on CIFAR-10",
    ),
    "imagenet": Setup(
        settings={"alpha": 0.2, "per": "batch"},
        source="the paper, section 3.1: α in [0.1, 0.4], 0.2 for ResNet-50's table",
    ),
}  # fmt: skip

MIXUP = register(
    Spec(
        name="mixup",
        title="mixup: Beyond Empirical Risk Minimization",
        paper="Zhang, Cisse, Dauphin and Lopez-Paz, ICLR 2018, arXiv:1710.09412",
        equation="""
λ_i ~ Beta(α, α)
x̃_i = λ_i x_i + (1 - λ_i) x_σ(i)
L_i = -λ_i log p_i[y_i] - (1 - λ_i) log p_i[y_σ(i)]
""",
        doc=__doc__,
        answers={"interpolation": Answer(Linear, layer="input")},
        published=_PUBLISHED,
        fidelity=Fidelity(
            same="λ ~ Beta(α, α), inputs and labels mixed by it, partners by a random permutation.",
            differs=(PER_BATCH,),
            why="λ for each sample gives a steadier gradient.",
            checked="read",
            against="openmixup's mixup.py and the authors' train.py (facebookresearch/"
            "mixup-cifar10).",
        ),
    )
)
