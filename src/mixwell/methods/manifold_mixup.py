"""Manifold Mixup: mix the hidden features of a layer that is drawn anew for every batch.

It flattens the classes' representations. ``layer="auto"`` draws from the input and the first half
of the model's stages; give a layer's name, a list of names, "input" or "head" to choose.

Helps: where mixing inputs makes no sense (text, tables), since it can mix inside alone. Forecasts
of exchange rates: 0.0017 ± 0.0007 less RMSE than erm, of 0.0276, and 0.0006 ± 0.0004 more than
mixup.

Hurts: uniformity of the features, by design: it flattens each class. Regression: on UCI's concrete,
energy and kin8nm 14, 21 and 30 % more RMSE than erm. Short training on CIFAR-100's superclasses:
6.1 ± 0.8 points below erm, and a probe for the classes within 2.8 ± 0.4.
"""

from mixwell.coefficient import Beta
from mixwell.interpolation import Linear
from mixwell.methods.spec import PER_BATCH, Answer, Fidelity, Setup, Spec, register

_PUBLISHED: dict[str, Setup] = {
    "cifar10": Setup(
        settings={"alpha": 2.0, "per": "batch"},
        training={
            "network": "PreActResNet-152", "epochs": 200, "batch_size": 100,
            "optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "schedule": "step",
            "milestones": (100, 150), "gamma": 0.1,
        },
        source="the authors' README (vikasverma1077/manifold_mixup, supervised)",
    ),
}  # fmt: skip

MANIFOLD_MIXUP = register(
    Spec(
        name="manifold_mixup",
        title="Manifold Mixup: Better Representations by Interpolating Hidden States",
        paper="Verma, Lamb, Beckham, Najafi, Mitliagkas, Lopez-Paz and Bengio, ICML 2019, "
        "arXiv:1806.05236",
        equation="""
k ~ uniform over layers,   λ_i ~ Beta(α, α),   f = f_k ∘ g_k
h̃_i = λ_i g_k(x_i) + (1 - λ_i) g_k(x_σ(i))
L_i = -λ_i log p_i[y_i] - (1 - λ_i) log p_i[y_σ(i)],   p_i = softmax(f_k(h̃_i))
""",
        doc=__doc__,
        answers={"interpolation": Answer(Linear, layer="auto")},
        suggests={"coefficient": Answer(Beta, alpha=2.0)},
        published=_PUBLISHED,
        fidelity=Fidelity(
            same="One of the input and the first two of a residual network's four stages is drawn "
            "for a batch; α = 2.",
            differs=(
                PER_BATCH,
                "Of networks other than residual ones, layer='auto' takes the first half of what "
                "it finds as stages (mixwell.view.stages tells which): a transformer's blocks.",
            ),
            why="λ for each sample gives a steadier gradient; other networks have other stages.",
            checked="read",
            against="the authors' code (vikasverma1077/manifold_mixup, supervised).",
        ),
    )
)
