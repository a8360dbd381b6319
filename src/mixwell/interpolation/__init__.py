"""How, and where? Each answer shapes a mix and says at which layer of the model it applies."""

from mixwell.interpolation.base import Interpolation
from mixwell.interpolation.linear import Linear
from mixwell.interpolation.masks import CutMix

__all__ = ["CutMix", "Interpolation", "Linear"]
