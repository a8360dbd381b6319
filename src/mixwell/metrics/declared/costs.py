"""What a run costs, as it tells itself."""

from __future__ import annotations

from mixwell.metrics.measure import Measure

__all__ = ["MEASURES"]

MEASURES = (
    Measure("seconds_per_step", "time of a training step",
            "training time of a step, median over epochs", tasks=(), unit="ms", factor=1000.0,
            digits=1, column="ms / step", group="cost"),
    Measure("peak_memory_mb", "peak memory", "peak memory: of the GPU, or of the run's process",
            tasks=(), unit="MiB", digits=0, column="MiB", group="cost"),
)  # fmt: skip
