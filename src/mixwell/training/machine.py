"""The machine that a run is trained on: devices, memory, randomness, the lock of a folder."""

from __future__ import annotations

import contextlib
import platform
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mixwell.errors import InputError
from mixwell.training.config import RunConfig

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "device_name",
    "forget_peak_memory",
    "is_anywhere",
    "locked",
    "make_fabric",
    "peak_memory",
    "precision_notes",
    "random_state",
    "seed_all",
    "set_random_state",
]


def is_anywhere(config: RunConfig) -> bool:
    """Whether any machine has what the run is to be trained on."""
    on_one = config.accelerator in ("auto", "cpu") and config.devices == 1
    return on_one and config.precision == "32-true"


def make_fabric(config: RunConfig) -> Any:
    """Return what knows the device, the precision and the other processes."""
    from lightning.fabric import Fabric

    accelerator = "cuda" if config.accelerator == "gpu" else config.accelerator
    try:
        fabric = Fabric(
            accelerator=accelerator,
            devices=config.devices,
            precision=config.precision,  # type: ignore[arg-type]
            strategy="ddp_spawn" if config.devices > 1 else "auto",
        )
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"accelerator={config.accelerator!r} with devices={config.devices} and "
            f"precision={config.precision!r} can't be had here: {error}"
        ) from error
    if fabric._precision.precision != config.precision:  # Lightning falls back, with a warning
        raise InputError(
            f"precision={config.precision!r} is not to be had on {fabric.device.type}; "
            f"{fabric._precision.precision!r} is"
        )
    return fabric


def precision_notes(precision: str, device: torch.device) -> list[str]:
    """Return what a user should know of an arithmetic that a device can only imitate."""
    if precision != "bf16-mixed" or _has_bfloat16(device):
        return []
    kind = "processor" if device.type == "cpu" else "GPU"
    return [
        f"this {kind} has no bfloat16 arithmetic: with precision={precision!r} a step can take "
        "several times as long as with '32-true'"
    ]


def _has_bfloat16(device: torch.device) -> bool:
    """Whether a device has bfloat16 arithmetic of its own; True where torch can't tell."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return not torch.backends.mkldnn.is_available() or bool(
            torch.ops.mkldnn._is_mkldnn_bf16_supported()
        )
    return True


@contextlib.contextmanager
def locked(folder: Path, wait: float) -> Iterator[None]:
    """Keep a second process out of a folder; the system drops the lock if this one dies."""
    until = time.monotonic() + wait
    with (folder / ".lock").open("w") as file:
        while fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if time.monotonic() >= until:
                    raise InputError(
                        f"out={str(folder)!r}: another process is at work in this folder"
                    ) from error
            time.sleep(0.1)
        yield


def seed_all(seed: int) -> None:
    """Seed all random number generators, as a run does before it makes its network."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  (what others' code draws from)
    torch.manual_seed(seed)


def random_state() -> dict[str, Any]:
    """Return the state of all random number generators, as tensors and numbers."""
    version, words, gauss = random.getstate()
    kind, keys, *numbers = np.random.get_state()  # noqa: NPY002
    return {
        "python": [version, torch.tensor(words, dtype=torch.int64), gauss],
        "numpy": [kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), *numbers],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Put all random number generators in a state of :func:`random_state`."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    kind, keys, *numbers = state["numpy"]
    np.random.set_state((kind, keys.cpu().numpy().astype(np.uint32), *numbers))  # noqa: NPY002
    torch.set_rng_state(state["torch"].cpu())
    if torch.cuda.is_available():
        here = state["cuda"][: torch.cuda.device_count()]  # it may come from a larger machine
        torch.cuda.set_rng_state_all([value.cpu() for value in here])


def forget_peak_memory(device: torch.device) -> None:
    """Let :func:`peak_memory` be of what follows, on a GPU: a process's own stays what it was."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> float:
    """Return the most memory that training took, in MiB: the GPU's, else the whole process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        memory = psutil.Process().memory_info()
        return float(getattr(memory, "peak_wset", memory.rss)) / 2**20
    unit = 2**20 if sys.platform == "darwin" else 2**10  # of ru_maxrss: bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def device_name(device: torch.device) -> str:
    """Return what a device is called, in results."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()}, {torch.get_num_threads()} threads"
