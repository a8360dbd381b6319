"""One run: its configuration, training with resume, and evaluation."""

from mixwell.training.config import RunConfig
from mixwell.training.run import is_finished, read_result, train

__all__ = ["RunConfig", "is_finished", "read_result", "train"]
