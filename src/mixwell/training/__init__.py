"""One run: its configuration, training with resume, and evaluation."""

from mixwell.training.config import RunConfig
from mixwell.training.result import is_finished, read_result
from mixwell.training.run import train

__all__ = ["RunConfig", "is_finished", "read_result", "train"]
