"""The fast forms: kernels for CPUs and GPUs, the gate to them, and their plain forms in torch."""

from mixwell.kernels import operators
from mixwell.kernels.gate import must_be_plain
from mixwell.kernels.memory import Recycler, recycled
from mixwell.kernels.mixing import draw_boxes, mix, mix_otherwise, pair_distance, plain

__all__ = [
    "Recycler",
    "draw_boxes",
    "mix",
    "mix_otherwise",
    "must_be_plain",
    "operators",
    "pair_distance",
    "plain",
    "recycled",
]
