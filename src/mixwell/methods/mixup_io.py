"""MixupIO: mix the inputs only; the label is that of the heavier sample.

The control that shows how much of mixup's effect, on calibration above all, comes from its labels.

Helps: finding out whether a gain comes from mixed inputs or from mixed labels.

Hurts: as a method of its own, where the label of a nearly even mix is a coin toss.
"""

from mixwell.labels import HeavierSide
from mixwell.methods.registry import Answer, Spec, register

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
    )
)
