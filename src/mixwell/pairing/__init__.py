"""Who mixes with whom? Each answer maps a batch to its partners σ: (B,) int64."""

from mixwell.pairing.base import Pairing
from mixwell.pairing.chance import Flip, PerfectMatching, Shuffle
from mixwell.pairing.classes import ClassBalanced, InterClass, InverseFrequency
from mixwell.pairing.distance import DistanceKernel, NearestNeighbour, Quantile
from mixwell.pairing.salient import SalientCycle
from mixwell.pairing.target import LabelKernel

__all__ = [
    "ClassBalanced",
    "DistanceKernel",
    "Flip",
    "InterClass",
    "InverseFrequency",
    "LabelKernel",
    "NearestNeighbour",
    "Pairing",
    "PerfectMatching",
    "Quantile",
    "SalientCycle",
    "Shuffle",
]
