"""C-Mixup: for regression, mix samples whose targets are close.

Blends of samples with far targets get wrong labels; the partner is drawn with a Gaussian kernel
density on the target: from the whole training set where a step is given it
(``method(model, x, y, index=i, data=(X, Y))``, as ``mixwell train`` does with tables in memory),
from the batch otherwise. The bandwidth is in standard deviations, where
targets are standardised, or in the data's own units (``units="raw"``, with ``target_std``): the
paper's 1.75 for Airfoil is in decibels, and 0.248 of a standard deviation. For Exchange-Rate it is
0.05 of series that are each divided by their largest value (``units="largest"``, with
``target_largest``, too). On most data the authors mix hidden features (``layer="auto"``).

Helps: against mixup, on Airfoil: at the whole published set-up 0.52 ± 0.06 dB less error than
mixup, and 0.20 ± 0.04 less than manifold mixup, over 20 seeds (with its bandwidth alone 0.11 ± 0.10
more than mixup); on UCI's concrete and energy 0.21 ± 0.11 and 0.13 ± 0.04 less RMSE than mixup (of
6.8 and 2.5), over ten splits at its defaults. Against plain training, on exchange rates at the
published bandwidth: 0.0018 ± 0.0008 less RMSE of 0.0276, over ten seeds, and not less than mixup's.
According to its paper, tables and series whose targets vary smoothly with inputs.

Hurts: against plain training, on Airfoil, at every bandwidth and place that was tried: 0.75 ± 0.03
dB more error at the published set-up. And on all four tables of UCI that were run: concrete 0.63 ±
0.15 more RMSE (of 5.9), energy 0.30 ± 0.13 (of 2.1); on kin8nm it was worse than mixup, too.
"""

from mixwell.coefficient import Beta
from mixwell.losses import MixedMSE
from mixwell.methods.spec import PER_BATCH, Answer, Fidelity, Setup, Spec, register
from mixwell.pairing import LabelKernel

_PUBLISHED: dict[str, Setup] = {
    "airfoil": Setup(
        settings={"bandwidth": 0.248, "alpha": 2.0, "per": "batch", "layer": "auto"},
        training={"epochs": 100, "batch_size": 16, "optimizer": "adamw", "lr": 1e-2,
                  "weight_decay": 0.0},
        source="the authors' README and src/config.py (huaxiuyao/C-Mixup): bandwidth 1.75 "
        "decibels of a target whose standard deviation is 7.05, with use_manifold",
    ),
    "exchange-rate": Setup(
        settings={
            "bandwidth": 0.05, "units": "largest", "alpha": 1.5, "per": "batch", "layer": "auto",
        },
        training={"epochs": 100, "batch_size": 128, "optimizer": "adamw", "lr": 1e-3,
                  "weight_decay": 0.0},
        source="the authors' README, src/config.py and src/data/time_series.py "
        "(huaxiuyao/C-Mixup), with use_manifold; the bandwidth is of series that are each divided "
        "by their largest absolute value",
    ),
}  # fmt: skip

C_MIXUP = register(
    Spec(
        name="c_mixup",
        title="C-Mixup: Improving Generalization in Regression",
        paper="Yao, Wang, Zhang, Zou and Finn, NeurIPS 2022, arXiv:2210.05775",
        equation="""
P(σ(i) = j) ∝ exp(-(y_i - y_j)² / (2 h²))
x̃_i = λ_i x_i + (1 - λ_i) x_σ(i),   ỹ_i = λ_i y_i + (1 - λ_i) y_σ(i),   λ_i ~ Beta(α, α)
L_i = (f(x̃_i) - ỹ_i)²
""",
        doc=__doc__,
        answers={
            "pairing": Answer(LabelKernel, bandwidth=0.25, partners="data"),
            "loss": Answer(MixedMSE),
        },
        suggests={"coefficient": Answer(Beta, alpha=2.0)},
        tasks=("regression",),
        published=_PUBLISHED,
        fidelity=Fidelity(
            same="The kernel, P(σ(i) = j) ∝ exp(-(y_i - y_j)² / 2h²), to 9e-19 of scikit-learn's "
            "density, and mixing of inputs and targets by one λ.",
            differs=(
                "Partners come from the whole training set, as the authors', where a step is given "
                "it; otherwise from the batch. A sample is never its "
                "own partner (0.8 % of the authors' are).",
                "The bandwidth is in standard deviations by default, 0.25; the authors' is in the "
                "units that targets are read in: 1.75 decibels for Airfoil, which is 0.248 of 7.05 "
                "(units='raw'), and for Exchange-Rate shares of each series' largest value "
                "(units='largest'). Their loss is in these units, too; here it is of standardised "
                "targets, which weigh all series alike.",
                PER_BATCH,
                "The authors mix hidden features on most data (use_manifold 1): layer='auto', as "
                "in the set-ups.",
            ),
            why="A step sees one batch, if it is given no more, and targets in their own unit.",
            checked="numerically",
            against="the authors' code (huaxiuyao/C-Mixup, src/algorithm.py, src/data/airfoil.py).",
        ),
    )
)
