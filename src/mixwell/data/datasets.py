"""Wrappers and samplers for any map-style dataset: positions, long tails, few shots, balance.

They need torch alone, and take torchvision's, Hugging Face's, ``TensorDataset`` or your own.
"""

from mixwell.data.indexed import Indexed, IndexedDataset
from mixwell.data.labelled import ScarceSubset, class_indices, few_shot, long_tailed
from mixwell.data.samplers import ClassBalancedSampler, InverseFrequencySampler

__all__ = [
    "ClassBalancedSampler",
    "Indexed",
    "IndexedDataset",
    "InverseFrequencySampler",
    "ScarceSubset",
    "class_indices",
    "few_shot",
    "long_tailed",
]
