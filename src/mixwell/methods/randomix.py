"""RandoMix: mixup, CutMix, ResizeMix or FMix, drawn at random.

Each way of mixing makes a network robust to something else; drawing one of several gives it the
variety of all. Mixup is drawn half of the time. By default one is drawn for a batch, with one λ;
``per="sample"`` draws for each sample. ``policies`` and ``probabilities`` choose others. ResizeMix
takes its scale from λ here, as all policies share one.

Helps: robustness and long training, where a single policy's pattern wears out.

Hurts: where one of the policies does: choose the ``policies``.
"""

from mixwell.coefficient import Beta
from mixwell.interpolation import Switch
from mixwell.methods.spec import Answer, Fidelity, Spec, register

RANDOMIX = register(
    Spec(
        name="randomix",
        title="RandoMix: A Mixed Sample Data Augmentation Method with Multiple Mixed Modes",
        paper="Liu, Shen, Zhao and Nie, Multimedia Tools and Applications 2024, arXiv:2205.08728",
        equation="""
mixup, CutMix, ResizeMix or FMix with probability 1/2, 1/6, 1/6, 1/6,   λ ~ Beta(α, α)
L_i = -λ_i log p_i[y_i] - (1 - λ_i) log p_i[y_σ(i)]
""",
        doc=__doc__,
        answers={
            "interpolation": Answer(
                Switch,
                policies=("Linear", "CutMix", "ResizeMix", "FMix"),
                probabilities=(1 / 2, 1 / 6, 1 / 6, 1 / 6),
                per="batch",
            )
        },
        suggests={"coefficient": Answer(Beta, alpha=1.0, per="batch")},
        fidelity=Fidelity(
            same="Mixup, CutMix, ResizeMix or FMix, drawn for a batch with weights 3, 1, 1, 1, and "
            "one λ ~ Beta(1, 1) for it, as the paper describes it.",
            differs=("ResizeMix takes its scale from that λ.",),
            why="All policies share one λ, so that others' λ compose.",
            checked="not checked",
            against="no authors' code was found.",
        ),
    )
)
