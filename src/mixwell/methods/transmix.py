"""TransMix: weigh the labels of a mixed image by the attention that a vision transformer pays.

A box of background counts as much as one with an object in CutMix, whose labels go by area. Here
they go by the class token's attention to the mixed image, which the pass that is trained gives for
nothing. It takes any mask: "transmix+fmix"; CutMix's by default.

It needs a plain vision transformer (timm's ViT, DeiT, EVA; Hugging Face's; torchvision's). Where
the classifier reads the mean of the patches rather than a class token, it is their mean attention.
The authors' code averages attention and area (``ratio=0.5``) and mixes one batch in five linearly.

Helps: the accuracy of vision transformers on ImageNet, in the paper at all scales that it tries,
and at no cost.

Hurts: models without such attention (Swin, convolutions): they are refused.
"""

from mixwell.interpolation import CutMix
from mixwell.labels import MixedAttention
from mixwell.methods.spec import Answer, Fidelity, Setup, Spec, register

_PUBLISHED: dict[str, Setup] = {
    "imagenet": Setup(
        settings={
            "interpolation": "Switch", "policies": ("Linear", "CutMix"),
            "probabilities": (0.2, 0.8), "alphas": (0.8, 1.0), "per": "batch",
            "ratio": 0.5,
        },
        training={
            "network": "DeiT-S", "batch_size": 1024, "optimizer": "adamw", "lr": 1e-3,
            "weight_decay": 0.03, "warmup_epochs": 20, "schedule": "cosine",
        },
        source="the authors' deit_s_transmix.yaml (Beckschen/TransMix)",
    ),
}  # fmt: skip

TRANSMIX = register(
    Spec(
        name="transmix",
        title="TransMix: Attend to Mix for Vision Transformers",
        paper="Chen, Sun, He, Torr, Yuille and Bai, CVPR 2022, arXiv:2111.09833",
        equation="""
x̃_i = M_i ⊙ x_i + (1 - M_i) ⊙ x_σ(i),   M of CutMix
A_i = attention of the class token to the patches of x̃_i, summing to 1: last block, mean of heads
λ_i = Σ_p A_ip ↓(M_i)_p
L_i = -λ_i log p_i[y_i] - (1 - λ_i) log p_i[y_σ(i)]
""",
        doc=__doc__,
        answers={"labels": Answer(MixedAttention)},
        suggests={"interpolation": Answer(CutMix)},
        tasks=("classification", "multilabel"),
        published=_PUBLISHED,
        fidelity=Fidelity(
            same="λ is the share of the class token's attention, of the last block and the mean of "
            "heads, that lies on the own sample; no gradient through it. With ratio=0.5 it agrees "
            "with the authors' code to .016.",
            differs=(
                "The ratio is 1 by default, the paper's; the authors' code averages attention and "
                "area (ratio=0.5).",
                "The mask is averaged over each patch; the authors take its nearest pixel.",
                "All batches get CutMix; the authors' configuration mixes one in five linearly.",
            ),
            why="The paper's equation has no average; a patch at the mask's edge belongs to both.",
            checked="numerically",
            against="the authors' code (Beckschen/TransMix, transmix.py).",
        ),
    )
)
