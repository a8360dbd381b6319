"""SAMix: learn masks that tell the mix from other classes, too.

AutoMix with another Mixer (both samples in queries and keys, λ as a gain of the features, values of
two layers, smooth masks) and another loss for it: between the two mixed classes, and, weighted by
η, of these two against all others.

It needs a convolutional network. What it learns is in the method's ``state_dict()``, not in the
model's.

Differences, beside AutoMix's: the authors' code gives the other classes the weight η where their
labels are 0, which leaves a softmax's cross-entropy as it was; here η weighs the part of it that is
against other classes, as the paper describes it. Its batch normalisation between the two layers of
values is left out, so that a pair's mask depends on that pair alone. The self-supervised form and
the one that is trained beforehand are not here.

Helps: accuracy at long training, in the paper beyond AutoMix's.

Hurts: time and memory, as AutoMix. In equal time, 15 epochs beside 40 on CIFAR-10 with 500 images a
class, it was 3.1 ± 0.8 points less accurate than cutmix+decoupled.
"""

from mixwell.coefficient import Beta
from mixwell.interpolation import SAMix
from mixwell.methods.spec import PER_BATCH, Answer, Fidelity, Spec, register

SAMIX = register(
    Spec(
        name="samix",
        title="Boosting Discriminative Visual Representation Learning with Scenario-Agnostic Mixup",
        paper="Li, Liu, Wang, Wu, Liu and Li, 2021, arXiv:2111.15454",
        equation="""
λ̂   = (4/3 λ³ - 2 λ² + (k + 1) λ) / (k + 1/3),   z_λ = (1 + λ̂) z_i,   z_{1-λ} = (2 - λ̂) z_σ(i)
M_i = sigmoid(logit λ - up(softmax(q([z_λ, z_{1-λ}]) k([z_λ, z_{1-λ}])ᵀ / √d') v(z_{1-λ})))
L_η = -λ log p_a / (p_a + p_b) - (1 - λ) log p_b / (p_a + p_b) - η log(p_a + p_b)
Mixer: L_η(f_k(x̃)) + γ [max(|λ - mean M| - ε, 0) - 2 Var M]
L   = CE(f(x), y) + MCE(f(x̃); y_i, y_σ(i), λ_i),   λ_i ← mean(M_i)
""",
        doc=__doc__,
        answers={"interpolation": Answer(SAMix)},
        suggests={"coefficient": Answer(Beta, alpha=2.0)},
        clean=True,
        tasks=("classification", "multilabel"),
        fidelity=Fidelity(
            same="The Mixer's network, both losses and their weights; α = 2, m = 0.999, γ = 0.1, "
            "ε = 0.1 as configured.",
            differs=(
                "AutoMix's differences.",
                "η weighs what is against the other classes; in the authors' code it weighs labels "
                "that are 0, which changes nothing.",
                "The batch normalisation between the two layers of values is left out.",
                "The self-supervised form and the one that is trained beforehand are not here.",
                PER_BATCH,
            ),
            why="The paper describes the loss so; without the normalisation a pair's mask depends "
            "on that pair alone.",
            checked="read",
            against="the authors' code and configurations (openmixup, classifiers/automix.py).",
        ),
    )
)
