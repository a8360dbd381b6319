"""Infinite Class Mixup (ICM): mix the classifiers, and contrast them within the batch.

Mixup enforces linearity between classes on probabilities only. ICM gives each mixed sample a
classifier of its own, the same blend of its two classes' weights, and asks each sample to find
its classifier among the batch's (class axis) and each classifier its sample (pair axis). It
applies to any mix: "cutmix+infinite_class", "regmixup+infinite_class" (RegICM),
"remix+infinite_class", where classifiers are mixed by Remix's λ. The authors take α = 0.2, and 20
for RegICM: ``published="cifar100"``. Testing uses the ordinary classifier. A batch of one sample
has nothing to contrast with: it trains on the mixed cross-entropy, with a warning.

Helps: long tails: the most accurate of all methods here, by 3 points over erm on Fashion-MNIST, on
CIFAR-10 at 100 : 1 by 7.3 ± 1.7 over erm and 13.9 ± 0.9 over mixup; classes of fewer than 20 images
went from 2 to 38 %, those of more than 100 from 66 to 50. Few images: with 10, 50 and 100 a class
of CIFAR-10 3.2 ± 1.9, 4.6 ± 1.2 and 4.6 ± 0.7 points over erm, as mixup (within 0.3 points); with
500 and 120 epochs 3.3 ± 0.3, as mixup, and the nearest to people's doubt after temperature scaling.

Hurts: the largest classes of a long tail, as these numbers say. Calibration as trained, where the
network overfits: it leaves it overconfident. Small batches, which hold few classifiers to contrast
with. Short training: on CIFAR-10 with 500 images a class and 40 epochs it was as accurate as mixup,
2.0 points below erm, and told outliers worse; on CIFAR-100 with 100 and 30 epochs as mixup, 5.5 ±
0.9 below erm, at an ECE of 13.1 % against mixup's 2.6 and erm's 11.6, and beside regmixup 1.6 ± 0.5
points less accurate than regmixup is with its own mix.
"""

from mixwell.losses import InfiniteClassLoss
from mixwell.methods.spec import PER_BATCH, Answer, Fidelity, Setup, Spec, register

_PUBLISHED: dict[str, Setup] = {
    "cifar": Setup(
        settings={"alpha": 0.2, "axis": "both", "per": "batch"},
        beside={
            "regmixup": {"alpha": 20.0, "weight": 1.0, "combine": "sum", "per": "batch"},
            "mixup": {"alpha": 0.2, "per": "batch"},
            "remix": {"alpha": 0.2, "per": "sample"},
        },
        training={
            "model": "resnet34", "epochs": 200, "batch_size": 128, "optimizer": "sgd",
            "lr": 0.1, "momentum": 0.9, "nesterov": False, "weight_decay": 5e-4,
            "milestones": (50, 100, 150), "gamma": 0.2,
        },
        source="the authors' README, mixup_cifar.py and mixup_utils.py (psmmettes/icm); with "
        "regmixup, RegICM; their function for Remix draws λ for each sample",
    ),
}  # fmt: skip

INFINITE_CLASS = register(
    Spec(
        name="infinite_class",
        title="Infinite Class Mixup",
        paper="Mensink and Mettes, BMVC 2023, arXiv:2305.10293",
        equation="""
w̃_j = λ_j w_{a_j} + (1 - λ_j) w_{b_j},   λ the labels'
S_ij = f_i · w̃_j + b̃_j = λ_j z_i[a_j] + (1 - λ_j) z_i[b_j]
ICM = CE(S, diagonal) + CE(Sᵀ, diagonal)
""",
        doc=__doc__,
        answers={"loss": Answer(InfiniteClassLoss, axis="both")},
        tasks=("classification",),
        published=_PUBLISHED,
        fidelity=Fidelity(
            same="Both axes and each alone, with the bias: loss to 4e-7, gradient to 1e-5 (in "
            "single precision), also from features. RegICM, CE + γ · ICM, exactly, with γ = 1.",
            differs=(
                "α is 1 by default; the authors take 0.2, and 20 for RegICM: take the set-up.",
                PER_BATCH,
                "Remix-ICM mixes classifiers by the labels' λ, as the paper says. Its training "
                "script isn't public, and a function that is mixes them by the images' λ, which it "
                "draws for each sample (as the set-up has it).",
            ),
            why="One default α serves all mixes that it composes with.",
            checked="numerically",
            against="the authors' code (psmmettes/icm, resnet.py, mixup_cifar.py).",
        ),
    )
)
