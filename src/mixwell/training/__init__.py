"""One run: its configuration, training with resume, and evaluation."""

from mixwell.training.config import RunConfig
from mixwell.training.prepare import Prepared, prepare
from mixwell.training.result import is_finished, read_result
from mixwell.training.run import train

__all__ = ["Prepared", "RunConfig", "is_finished", "prepare", "read_result", "train"]
