"""How much of each? Each answer maps a batch and its partners to own-sample weights λ: (B,)."""

from mixwell.coefficient.base import Coefficient
from mixwell.coefficient.draws import Beta, Constant, SkewedBeta, TruncatedBeta
from mixwell.coefficient.many import Dirichlet, PSeries
from mixwell.coefficient.memory import FeatureMemory
from mixwell.coefficient.pairwise import ClassAware, SimilarityKernel
from mixwell.coefficient.schedule import Midpoint

__all__ = [
    "Beta",
    "ClassAware",
    "Coefficient",
    "Constant",
    "Dirichlet",
    "FeatureMemory",
    "Midpoint",
    "PSeries",
    "SimilarityKernel",
    "SkewedBeta",
    "TruncatedBeta",
]
