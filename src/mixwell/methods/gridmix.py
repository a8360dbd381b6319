"""GridMix: give each cell of a grid to one of the two samples by chance.

The partner is seen in many places instead of one box, so that no single region decides the class.
The paper also trains on the label of each cell, which takes a head that predicts cells; that is not
part of this. Here the number of cells varies; ``cells=4`` keeps it. (Public code by the same name,
after GridMask, cuts the same hole out of every cell instead.)

Helps: objects that fill the frame and are known by several of their parts.

Hurts: small objects, which one cell may hold alone, and classes that are told by shape as a whole.
"""

from mixwell.interpolation import GridMix
from mixwell.methods.registry import Answer, Spec, register

GRIDMIX = register(
    Spec(
        name="gridmix",
        title="GridMix: Strong Regularization through Local Context Mapping",
        paper="Baek, Bang and Shim, Pattern Recognition 109, 2021",
        equation="""
a grid of n x n cells,   M_i = 1 in a cell with probability λ_i, else 0
x̃_i = M_i ⊙ x_i + (1 - M_i) ⊙ x_σ(i),   λ_i ← mean(M_i)
L_i = -λ_i log p_i[y_i] - (1 - λ_i) log p_i[y_σ(i)]
""",
        doc=__doc__,
        answers={"interpolation": Answer(GridMix, cells=(2, 6))},
    )
)
