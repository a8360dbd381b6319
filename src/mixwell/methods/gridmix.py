"""GridMix: give each cell of a grid to one of the two samples by chance.

The partner is seen in many places instead of one box, so that no single region decides the class.
The paper also trains on the label of each cell, which takes a head that predicts cells; that is not
part of this. Here the number of cells varies; ``cells=4`` keeps it. (Public code by the same name,
after GridMask, cuts the same hole out of every cell instead.)

Helps: objects that fill the frame and are known by several of their parts.

Hurts: small objects, which one cell may hold alone, and classes that are told by shape as a whole.
"""

from mixwell.interpolation import GridMix
from mixwell.methods.spec import Answer, Fidelity, Spec, register

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
        fidelity=Fidelity(
            same="Cells of a grid go to one sample or the other by chance, and λ is the share of "
            "pixels, as the paper describes it.",
            differs=(
                "The loss of the cells' own labels is not part of it.",
                "The number of cells varies from 2 to 6 by default; cells=4 keeps it.",
            ),
            why="The loss of cells takes a head that predicts them.",
            checked="not checked",
            against="no authors' code was found; openmixup's method by that name is another.",
        ),
    )
)
