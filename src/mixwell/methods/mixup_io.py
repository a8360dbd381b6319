"""MixupIO: mix the inputs only; the label is that of the heavier sample.

The control that shows how much of mixup's effect, on calibration above all, comes from its labels.

Helps: finding out whether a gain comes from mixed inputs or from mixed labels.

Hurts: as a method of its own, where the label of a nearly even mix is a coin toss.
"""

from mixwell.labels import HeavierSide
from mixwell.methods.spec import PER_BATCH, Answer, Fidelity, Setup, Spec, register

_PUBLISHED: dict[str, Setup] = {
    "cifar": Setup(
        settings={"alpha": 0.2, "per": "batch"},
        beside={"mixup": {"alpha": 0.2, "per": "batch"}},
        training={
            "model": "resnet34", "epochs": 200, "batch_size": 128, "optimizer": "sgd",
            "lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-4,
            "schedule": "step", "milestones": (100, 150), "gamma": 0.1,
        },
        source="a baseline of SK, its authors' configurations for ResNet-34 "
        "(qbouniot/sim_kernel_mixup)",
    ),
}  # fmt: skip

MIXUP_IO = register(
    Spec(
        name="mixup_io",
        title="On the Pitfall of Mixup for Uncertainty Calibration",
        paper="Wang, Li, Zhao, Heng and Zhang, CVPR 2023",
        equation="""
x̃_i = λ_i x_i + (1 - λ_i) x_σ(i)
L_i = -log p_i[y_i] if λ_i ≥ 1/2, else -log p_i[y_σ(i)]
""",
        doc=__doc__,
        answers={"labels": Answer(HeavierSide)},
        published=_PUBLISHED,
        fidelity=Fidelity(
            same="Inputs are mixed, and the label is the heavier sample's.",
            differs=("At λ = 1/2 exactly the label is the own one.", PER_BATCH),
            why="One of the two has to be taken.",
            checked="numerically",
            against="SK's authors' code for it (qbouniot/sim_kernel_mixup, MixupIO).",
        ),
    )
)
