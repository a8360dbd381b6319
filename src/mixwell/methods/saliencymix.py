"""SaliencyMix: paste a box around the partner's most salient pixel.

A random box of CutMix may hold nothing of the object whose label it carries. This one is centred
on what stands out. Saliency is by the images' spectrum, which needs no model, or by the gradient of
the loss (``saliency="gradient"``, one more pass forward and backward). The published code takes
OpenCV's fine-grained saliency, one box for a whole batch, and on CIFAR half of the batches
(``p=0.5``); here each sample has a box of its own, and all are mixed by default.

Helps: objects that stand out from a plain scene.

Hurts: textures and cluttered scenes, where the most salient pixel is not the object's; and boxes
that always show the same part leave the rest unlearnt.
"""

from mixwell.interpolation import SaliencyMix
from mixwell.methods.spec import Answer, Fidelity, Setup, Spec, register

_PUBLISHED: dict[str, Setup] = {
    "cifar": Setup(
        settings={"alpha": 1.0, "p": 0.5, "per": "batch"},
        training={
            "model": "resnet18", "epochs": 200, "batch_size": 128, "optimizer": "sgd",
            "lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4,
            "milestones": (60, 120, 160), "gamma": 0.2,
        },
        source="the authors' README and saliencymix.py (afm-shahab-uddin/SaliencyMix)",
    ),
}  # fmt: skip

SALIENCYMIX = register(
    Spec(
        name="saliencymix",
        title="SaliencyMix: A Saliency Guided Data Augmentation Strategy for Better Regularization",
        paper="Uddin, Monira, Shin, Chung and Bae, ICLR 2021, arXiv:2006.01791",
        equation="""
c_i = argmax saliency(x_σ(i)),   M_i = 0 in a box of area (1 - λ_i) H W centred on c_i, 1 elsewhere
x̃_i = M_i ⊙ x_i + (1 - M_i) ⊙ x_σ(i),   λ_i ← mean(M_i)
L_i = -λ_i log p_i[y_i] - (1 - λ_i) log p_i[y_σ(i)]
""",
        doc=__doc__,
        answers={"interpolation": Answer(SaliencyMix, saliency="spectral")},
        published=_PUBLISHED,
        fidelity=Fidelity(
            same="A box of area 1 - λ around the partner's most salient pixel, clipped, and λ "
            "corrected.",
            differs=(
                "Saliency is by the images' spectrum or the loss's gradient; the authors take "
                "OpenCV's fine-grained saliency.",
                "Each sample has its own λ and box; the authors have one of each for a batch, "
                "around a pixel of the first sample's partner, and skip half of the batches "
                "(p=0.5, per='batch', as in the set-up). Here all are mixed by default.",
            ),
            why="It needs neither OpenCV nor the processor; a box for one sample says nothing of "
            "the others.",
            checked="read",
            against="the authors' code (afm-shahab-uddin/SaliencyMix, saliencymix.py).",
        ),
    )
)
