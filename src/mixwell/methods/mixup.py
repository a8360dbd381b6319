"""Mixup: train on convex combinations of sample pairs and of their labels.

It regularises the network to behave linearly between samples. λ is drawn for each sample unless
``per="batch"`` asks for one. The paper takes α in [0.1, 0.4] on ImageNet and α = 1 on CIFAR.

Helps: where data are few and the network overfits: better calibration, and accuracy at five images
a class.

Hurts: a network that fits its data well without overfitting: it is made underconfident
(temperature scaling mends that). In regression on Airfoil it cost much accuracy here, since far
targets were blended.
"""

from mixwell.interpolation import Linear
from mixwell.methods.registry import Answer, Spec, register

MIXUP = register(
    Spec(
        name="mixup",
        title="mixup: Beyond Empirical Risk Minimization",
        paper="Zhang, Cisse, Dauphin and Lopez-Paz, ICLR 2018, arXiv:1710.09412",
        equation="""
λ_i ~ Beta(α, α)
x̃_i = λ_i x_i + (1 - λ_i) x_σ(i)
L_i = -λ_i log p_i[y_i] - (1 - λ_i) log p_i[y_σ(i)]
""",
        doc=__doc__,
        answers={"interpolation": Answer(Linear, layer="input")},
    )
)
