"""The recipe of DeiT: mixup or CutMix, one of the two for each batch.

Blends and boxes regularise in different ways, and vision transformers, which overfit early, are
trained with both: mixup with α = 0.8 and CutMix with α = 1, as often the one as the other. By
default all is drawn once for a batch, as there; ``per="sample"`` draws policy, λ and box for each
sample. DeiT smooths the labels too (``label_smoothing=0.1``) and pairs a batch with its reverse
(``pairing="Flip"``); here partners are a random permutation. To switch with another λ, give the
policies to another method: ``create("sk_mixup", interpolation="Switch")``.

Helps: vision transformers trained from scratch, for long.

Hurts: short training, and small networks that underfit already.
"""

import torch
from torch import Tensor

from mixwell.batch import Batch
from mixwell.coefficient import Coefficient
from mixwell.interpolation import Switch
from mixwell.methods.spec import Answer, Fidelity, Setup, Spec, register

__all__ = ["Redrawn"]


class Redrawn(Coefficient):
    """Leave λ to the policies: 1/2, until a :class:`Switch` with ``alphas`` draws it anew."""

    def __init__(self) -> None:
        super().__init__()

    def forward(self, batch: Batch, partner: Tensor) -> Tensor:
        return torch.full((len(batch),), 0.5, dtype=torch.float32, device=batch.device)


_PUBLISHED: dict[str, Setup] = {
    "imagenet": Setup(
        settings={
            "pairing": "Flip", "label_smoothing": 0.1, "per": "batch",
            "alphas": (0.8, 1.0), "probabilities": (0.5, 0.5),
        },
        training={
            "network": "DeiT-S", "epochs": 300, "batch_size": 1024, "optimizer": "adamw",
            "lr": 1e-3, "weight_decay": 0.05, "schedule": "cosine", "warmup_epochs": 5,
        },
        source="the paper, table 9",
    ),
}  # fmt: skip

DEIT_MIX = register(
    Spec(
        name="deit_mix",
        title="Training Data-efficient Image Transformers & Distillation through Attention",
        paper="Touvron, Cord, Douze, Massa, Sablayrolles and Jégou, ICML 2021, arXiv:2012.12877",
        equation="""
with probability 1/2    λ ~ Beta(0.8, 0.8),   x̃_i = λ x_i + (1 - λ) x_σ(i)
else                    λ ~ Beta(1, 1),       x̃_i = M ⊙ x_i + (1 - M) ⊙ x_σ(i),   λ ← mean(M)
L_i = -λ log p_i[y_i] - (1 - λ) log p_i[y_σ(i)]
""",
        doc=__doc__,
        answers={
            "interpolation": Answer(
                Switch,
                policies=("Linear", "CutMix"),
                probabilities=(0.5, 0.5),
                alphas=(0.8, 1.0),
                per="batch",
            ),
            "coefficient": Answer(Redrawn),
        },
        published=_PUBLISHED,
        fidelity=Fidelity(
            same="Mixup with α = 0.8 or CutMix with α = 1, each for half of the batches, with one "
            "λ, box and policy for a batch.",
            differs=(
                "Partners are a random permutation by default; there it is the batch's reverse "
                "(pairing='Flip', in the set-up).",
                "Labels are not smoothed by default (label_smoothing=0.1, in the set-up).",
            ),
            why="The reverse pairs at random only where batches are shuffled; smoothing is a "
            "setting of the loss.",
            checked="read",
            against="timm's Mixup, which DeiT trains with.",
        ),
    )
)
