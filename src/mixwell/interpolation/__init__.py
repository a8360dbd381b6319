"""How, and where? Each answer shapes a mix and says at which layer of the model it applies."""

from mixwell.interpolation.aligned import AlignMix
from mixwell.interpolation.base import Interpolation
from mixwell.interpolation.centres import Centres
from mixwell.interpolation.fourier import FMix
from mixwell.interpolation.learnt import AutoMix, SAMix
from mixwell.interpolation.linear import Linear
from mixwell.interpolation.masks import (
    CutMix,
    GridMix,
    MaskMix,
    ResizeMix,
    SaliencyMix,
    SmoothMix,
)
from mixwell.interpolation.puzzle import PuzzleMix
from mixwell.interpolation.salient import AttentiveMix, GuidedMix, SnapMix
from mixwell.interpolation.switch import Switch
from mixwell.interpolation.tokens import TokenMix

__all__ = [
    "AlignMix",
    "AttentiveMix",
    "AutoMix",
    "Centres",
    "CutMix",
    "FMix",
    "GridMix",
    "GuidedMix",
    "Interpolation",
    "Linear",
    "MaskMix",
    "PuzzleMix",
    "ResizeMix",
    "SAMix",
    "SaliencyMix",
    "SmoothMix",
    "SnapMix",
    "Switch",
    "TokenMix",
]
