"""What is the loss? Each answer maps logits (B, C) and a MixedTarget to a scalar."""

from mixwell.losses.base import Loss
from mixwell.losses.cross_entropy import MixedCrossEntropy
from mixwell.losses.decoupled import DecoupledBCE, DecoupledCrossEntropy
from mixwell.losses.infinite_class import InfiniteClassLoss
from mixwell.losses.regression import MixedL1, MixedMSE

__all__ = [
    "DecoupledBCE",
    "DecoupledCrossEntropy",
    "InfiniteClassLoss",
    "Loss",
    "MixedCrossEntropy",
    "MixedL1",
    "MixedMSE",
]
