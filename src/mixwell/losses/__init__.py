"""What is the loss? Each answer maps logits (B, C) and a MixedTarget to a scalar."""

from mixwell.losses.base import Loss
from mixwell.losses.cross_entropy import MixedCrossEntropy
from mixwell.losses.decoupled import DecoupledBCE, DecoupledCrossEntropy
from mixwell.losses.inference import MixupInference
from mixwell.losses.infinite_class import InfiniteClassLoss
from mixwell.losses.multilabel import MixedBCE
from mixwell.losses.needs import Clean, Mixes, Need, Outcome, Rows, Twin
from mixwell.losses.ranking import MixupNDCG, MixupRanking
from mixwell.losses.regression import MixedL1, MixedMSE

__all__ = [
    "Clean",
    "DecoupledBCE",
    "DecoupledCrossEntropy",
    "InfiniteClassLoss",
    "Loss",
    "MixedBCE",
    "MixedCrossEntropy",
    "MixedL1",
    "MixedMSE",
    "Mixes",
    "MixupInference",
    "MixupNDCG",
    "MixupRanking",
    "Need",
    "Outcome",
    "Rows",
    "Twin",
]
