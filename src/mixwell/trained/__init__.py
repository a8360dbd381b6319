"""A finished run in use: its network, what it does to its inputs, and calibrated predictions."""

from mixwell.trained.deployed import Deployed, export
from mixwell.trained.run import Estimate, TrainedRun, load_run

__all__ = ["Deployed", "Estimate", "TrainedRun", "export", "load_run"]
