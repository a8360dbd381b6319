"""Empirical risk minimisation: ordinary training, nothing mixed. The baseline."""

from mixwell.methods.spec import Fidelity, Spec, register

ERM = register(
    Spec(
        name="erm",
        title="Principles of Risk Minimization for Learning Theory",
        paper="Vapnik, NeurIPS 1991",
        equation="L = CE(f(x), y)",
        doc=__doc__,
        mixes=False,
        fidelity=Fidelity(
            same="Plain training: the mean cross-entropy (or squared error) of the samples.",
            checked="numerically",
            against="torch's own cross-entropy.",
        ),
    )
)
