"""What is trained on: data sets by name, split by seed, and made scarce as protocols ask."""

from mixwell.data.catalogue import available
from mixwell.data.dataset import Dataset
from mixwell.data.division import long_tail_counts
from mixwell.data.inputs import Inputs
from mixwell.data.loading import is_plugged, load, takes
from mixwell.data.sampled import SampledSplit
from mixwell.data.splits import FolderSplit, Split, TensorSplit
from mixwell.data.toys import toy

__all__ = [
    "Dataset",
    "FolderSplit",
    "Inputs",
    "SampledSplit",
    "Split",
    "TensorSplit",
    "available",
    "is_plugged",
    "load",
    "long_tail_counts",
    "takes",
    "toy",
]
