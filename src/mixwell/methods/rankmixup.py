"""RankMixup: no label for a mixed sample, but a rank: less confidence than for its sources.

How much of each class a mixed sample shows is not what its soft label says. RankMixup trains on
unmixed samples, and asks of the mixed ones only that the network be less sure of them:
``rankmixup`` by a margin (MRL), ``rankmixup_ndcg`` by ranking several mixes of each sample by
their λ (M-NDCG). ``weight`` is the factor of that term. A step runs 2B samples, or 4B with three
mixes.

The margin is between the largest logits, as in the authors' code; the paper writes probabilities
(``of="probabilities"``), between which none is as large as its 2. Too large a margin makes a
network underconfident. Labels that other methods change have no effect here, and are refused.

Helps: calibration, according to its paper, with no soft label that may be wrong.

Hurts: time: a step runs twice the samples (four times for ``rankmixup_ndcg``); with too large a
``weight`` or margin, confidence that was deserved.
"""

from mixwell.coefficient import Beta
from mixwell.labels import Soft
from mixwell.losses import MixupNDCG, MixupRanking
from mixwell.methods.spec import PER_BATCH, Answer, Fidelity, Setup, Spec, register

_TITLE = "RankMixup: Ranking-Based Mixup Training for Network Calibration"
_PAPER = "Noh, Park, Lee and Ham, ICCV 2023, arXiv:2308.11990"

_PUBLISHED: dict[str, Setup] = {
    "cifar10": Setup(
        settings={"alpha": 2.0, "margin": 2.0, "weight": 0.1, "per": "batch"},
        training={
            "model": "resnet50", "epochs": 200, "batch_size": 128, "optimizer": "sgd",
            "lr": 0.1, "momentum": 0.9, "nesterov": False, "weight_decay": 5e-4,
            "milestones": (80, 120), "gamma": 0.1,
        },
        source="the authors' README and configurations (cvlab-yonsei/RankMixup)",
    ),
    "tiny-imagenet": Setup(
        settings={"alpha": 1.0, "margin": 1.0, "weight": 0.1, "per": "batch"},
        training={
            "model": "resnet50", "epochs": 100, "optimizer": "sgd", "lr": 0.1,
            "momentum": 0.9, "nesterov": False, "weight_decay": 5e-4,
            "milestones": (40, 60), "gamma": 0.1,
        },
        source="the authors' README and configurations, by their comments "
        "(cvlab-yonsei/RankMixup)",
    ),
}  # fmt: skip

RANKMIXUP = register(
    Spec(
        name="rankmixup",
        title=_TITLE,
        paper=_PAPER,
        equation="""
x̃_i = λ_i x_i + (1 - λ_i) x_σ(i),   λ_i ~ Beta(α, α),   z = f(x),   z̃ = f(x̃)
MRL_i = max(0, max_c z̃_i[c] - max_c z_i[c] + m)
L_i = CE(z_i, y_i) + weight · MRL_i
""",
        doc=__doc__,
        answers={"labels": Answer(Soft), "loss": Answer(MixupRanking, margin=2.0)},
        suggests={"coefficient": Answer(Beta, alpha=2.0)},
        clean=True,
        weight=0.1,
        tasks=("classification",),
        published=_PUBLISHED,
        fidelity=Fidelity(
            same="Value and gradient of the loss, to 1e-9. The defaults are theirs for CIFAR-10.",
            differs=(PER_BATCH,),
            why="λ for each sample gives a steadier gradient.",
            checked="numerically",
            against="the authors' code (cvlab-yonsei/RankMixup, losses/rankmixup.py).",
        ),
    )
)

_PUBLISHED_NDCG: dict[str, Setup] = {
    "cifar10": Setup(
        settings={"alpha": 2.0, "mixes": 3, "weight": 0.1, "per": "batch"},
        training={
            "model": "resnet50", "epochs": 200, "batch_size": 128, "optimizer": "sgd",
            "lr": 0.1, "momentum": 0.9, "nesterov": False, "weight_decay": 5e-4,
            "milestones": (80, 120), "gamma": 0.1,
        },
        source="the authors' README and configurations (cvlab-yonsei/RankMixup)",
    ),
    "tiny-imagenet": Setup(
        settings={"alpha": 1.0, "mixes": 3, "weight": 0.1, "per": "batch"},
        training={
            "model": "resnet50", "epochs": 100, "optimizer": "sgd", "lr": 0.1,
            "momentum": 0.9, "nesterov": False, "weight_decay": 5e-4,
            "milestones": (40, 60), "gamma": 0.1,
        },
        source="the authors' README and configurations, by their comments "
        "(cvlab-yonsei/RankMixup)",
    ),
}  # fmt: skip

RANKMIXUP_NDCG = register(
    Spec(
        name="rankmixup_ndcg",
        title=_TITLE,
        paper=_PAPER,
        equation="""
p_1: confidence for x_i;   p_2, ..., p_Q: for Q - 1 mixes of it, in falling order of λ_q
DCG = Σ_q p_q / log₂(q + 1),   IDCG = Σ_q λ_q / log₂(q + 1),   λ_1 = 1
M-NDCG_i = 1 - min(DCG / IDCG, IDCG / DCG)
L_i = CE(f(x_i), y_i) + weight · M-NDCG_i
""",
        doc=__doc__,
        answers={"labels": Answer(Soft), "loss": Answer(MixupNDCG, mixes=3)},
        suggests={"coefficient": Answer(Beta, alpha=2.0)},
        clean=True,
        weight=0.1,
        tasks=("classification",),
        published=_PUBLISHED_NDCG,
        fidelity=Fidelity(
            same="Value and gradient of the loss, to 1e-9. The defaults are theirs for CIFAR-10.",
            differs=(
                "λ is drawn for each sample; the authors draw one for each of a batch's mixes "
                "(per='batch').",
            ),
            why="λ for each sample gives a steadier gradient.",
            checked="numerically",
            against="the authors' code (cvlab-yonsei/RankMixup, losses/rankmixup.py).",
        ),
    )
)
