"""The CPU's kernels in C, where there is a compiler: built once a machine, then kept.

Nothing depends on them: without a compiler, or with ``MIXWELL_NATIVE=0``, torch's operations do
the same more slowly. The library is kept in ``MIXWELL_CACHE``, else in the user's cache folder.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = [
    "Weights",
    "all_finite",
    "all_within",
    "library",
    "mix",
    "pair_distance",
    "paste",
    "takes",
    "two_class",
    "two_class_gradient",
]

_EXPONENT = {torch.float16: 0x7C00, torch.bfloat16: 0x7F80}
_PLAIN = (Tensor, torch.nn.Parameter)
_LOG = logging.getLogger("mixwell")
_NAMES = {
    torch.float32: "float32",
    torch.float64: "float64",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
    torch.uint8: "uint8",
}


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """Return the compiled kernels, or None where they can't be had (the log says why)."""
    if os.environ.get("MIXWELL_NATIVE", "1") == "0":
        return None
    try:
        loaded = ctypes.CDLL(str(_built()))
    except (OSError, subprocess.SubprocessError, RuntimeError) as error:
        _LOG.info("mixing without compiled kernels: %s", error)
        return None
    return loaded if _is_right(loaded) else None


def takes(dtype: torch.dtype) -> bool:
    """Whether the compiled kernels are there, for this dtype."""
    loaded = library()
    return loaded is not None and dtype in _NAMES and hasattr(loaded, f"mix_{_NAMES[dtype]}")


def _built() -> Path:
    """Return the library's file, compiling it if it isn't kept yet."""
    source = Path(__file__).with_name("mix.c")
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    compiler = compiler or shutil.which("clang")
    if compiler is None or platform.system() == "Windows":
        raise RuntimeError("there is no C compiler")
    # Made for this processor: a home folder may be seen by others.
    made_for = f"{platform.machine()} {compiler} {_processor()}".encode()
    sources = source.read_bytes() + Path(__file__).read_bytes()
    key = hashlib.sha256(sources + made_for).hexdigest()[:16]
    folder = Path(os.environ.get("MIXWELL_CACHE") or _cache_folder())
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():
        raise RuntimeError(f"{folder} belongs to another user")
    kept = folder / f"mix-{key}.so"
    if kept.is_file():
        return kept
    with tempfile.TemporaryDirectory(dir=folder) as work:
        made = Path(work) / "mix.so"
        common = [
            *compiler.split(),
            "-O3",
            "-shared",
            "-fPIC",
            "-std=gnu11",
            "-fno-tree-loop-distribute-patterns",
            "-fno-math-errno",
            "-fno-trapping-math",
            str(source),
            "-lm",
            "-o",
        ]
        tuned = "-march=native" if platform.machine() in ("x86_64", "AMD64") else "-mcpu=native"
        for extra in ([tuned, "-DHALF"], [tuned], []):
            done = subprocess.run(
                [*common, str(made), *extra], capture_output=True, text=True, timeout=60
            )
            if done.returncode == 0:
                os.replace(made, kept)
                return kept
    raise RuntimeError(f"{compiler} failed: {done.stderr.strip()[-300:]}")


def _processor() -> str:
    """Return what tells processors of different abilities apart."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = ("model name", "flags", "Features", "CPU part")
    return " ".join(sorted({line for line in lines if line.startswith(names)}))


def _cache_folder() -> Path:
    if platform.system() == "Darwin":
        return Path.home() / "Library" / "Caches" / "mixwell"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mixwell"


def _is_right(loaded: ctypes.CDLL) -> bool:
    """Compare with torch once: a compiler's mistake must not go into anybody's training."""
    pointers, sizes = ctypes.c_void_p, ctypes.c_int64
    for name in ("paste", *(f"mix_{dtype}" for dtype in _NAMES.values())):
        if hasattr(loaded, name):
            kinds = [pointers, sizes, pointers, sizes, pointers, pointers]
            getattr(loaded, name).argtypes = [*kinds, *[sizes] * (5 if name == "paste" else 3)]
    real = ctypes.c_double
    weights: list[Any] = [*[pointers] * 5, real, sizes, sizes, sizes]
    loaded.two_class.argtypes = [pointers, sizes, *weights, *[pointers] * 3, sizes, sizes]
    parts: list[Any] = [*[pointers] * 5, sizes, real, sizes, sizes, sizes]
    loaded.two_class_gradient.argtypes = parts
    loaded.all_finite.argtypes = [pointers, sizes]
    loaded.all_finite_half.argtypes = [pointers, sizes, sizes]
    loaded.pair_distance.argtypes = [pointers, sizes, pointers, pointers, sizes, sizes, sizes]
    loaded.all_within.argtypes = [pointers, sizes, sizes]
    partner, lam = torch.tensor([1, 0]), torch.tensor([0.3125, 0.8125], dtype=torch.float64)
    for dtype in (torch.float32, torch.uint8):
        x = torch.stack([torch.linspace(250, 3, 64), torch.linspace(0, 190, 64)]).to(dtype)
        out = torch.empty_like(x)
        _call(loaded, out, x, partner, lam, slice(0, 64))
        expected = torch.lerp(x.double()[partner], x.double(), lam[:, None])
        expected = expected.round() if dtype == torch.uint8 else expected
        if not torch.allclose(out.double(), expected, atol=1e-4):
            _LOG.warning("mixing without compiled kernels: they were compiled wrongly")
            return False
    return True


def _call(
    loaded: ctypes.CDLL, out: Tensor, x: Tensor, partner: Tensor, lam: Tensor, part: slice
) -> None:
    mix = getattr(loaded, f"mix_{_NAMES[x.dtype]}")
    how = (partner.data_ptr(), lam.data_ptr())
    if mix(*_memory(out), *_memory(x), *how, x.shape[0], part.start, part.stop):
        raise MemoryError("mixing")


def _memory(x: Tensor) -> tuple[int, int]:
    """Return a batch's address and the bytes from one sample to the next."""
    return x.data_ptr(), x.stride(0) * x.element_size()


def mix(out: Tensor, x: Tensor, partner: Tensor, lam: Tensor, part: slice) -> None:
    """Mix a part of all samples; other threads run meanwhile.

    Args:
        out: (B, ...), ``x`` itself or memory apart from it, with ``x``'s strides in a sample.
        x: (B, ...) of dense samples; each has one other as its partner if ``out`` is ``x``.
        partner: (B,) int64, contiguous.
        lam: (B,) float64, contiguous.
        part: the elements, in the order of memory.
    """
    loaded = library()
    assert loaded is not None
    _call(loaded, out, x, partner, lam, part)


def paste(
    out: Tensor,
    x: Tensor,
    partner: Tensor,
    edges: Tensor,
    height: int,
    width: int,
    part: slice,
) -> None:
    """Paste boxes of the partners in some lines of all samples.

    Args:
        out: as for :func:`mix`.
        x: (B, ...) likewise.
        partner: (B,) int64, contiguous.
        edges: (B, 4) int64, contiguous: top, bottom, left, right, the latter two in bytes.
        height: lines of an image.
        width: bytes of a line.
        part: the lines, counted through all channels.
    """
    loaded = library()
    assert loaded is not None
    failed = loaded.paste(
        *_memory(out), *_memory(x), partner.data_ptr(), edges.data_ptr(), x.shape[0], height, width,
        part.start, part.stop,
    )  # fmt: skip
    if failed:
        raise MemoryError("mixing")


class Weights(NamedTuple):
    """What the two classes of each sample weigh: α and η of kernels/two_class.py.

    Attributes:
        lam: (B,) float32, α = (λ, 1 - λ); unused if there is an alpha.
        alpha: (B, 2) float32, or None.
        eta: (B, 2) float32, or None; of an alpha.
        pull: without alpha, η is this times α,
        uniform: or times 1,
        one_sided: and 0 for the partner's class.
    """

    lam: Tensor
    alpha: Tensor | None = None
    eta: Tensor | None = None
    pull: float = 0.0
    uniform: bool = False
    one_sided: bool = False


def _pointer(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()


def two_class(
    z: Tensor,
    a: Tensor,
    b: Tensor,
    weights: Weights,
    r: Tensor | None,
    work: Tensor,
    mean: Tensor | None,
    rows: slice,
) -> None:
    """Compute the losses of some rows: ``two_class`` in mix.c.

    Args:
        z: (B, C) float32, its rows dense.
        a: (B,) int64, contiguous, as all that follows.
        b: (B,) int64.
        weights: of the two.
        r: (B, C) float32, or None where no gradient is wanted.
        work: (B, 4) float32, gets the loss and what its gradient needs.
        mean: () float32, gets the mean of these rows; or None.
        rows: which.

    Raises:
        IndexError: a class that does not exist.
    """
    loaded = library()
    assert loaded is not None
    lam, alpha, eta, *how = weights
    failed = loaded.two_class(
        *(z.data_ptr(), z.stride(0), a.data_ptr(), b.data_ptr()),
        *(lam.data_ptr(), _pointer(alpha), _pointer(eta), *how),
        *(z.shape[1], _pointer(r), work.data_ptr(), _pointer(mean), rows.start, rows.stop),
    )
    if failed:
        raise IndexError("class") if failed == 2 else MemoryError("loss")


def two_class_gradient(
    r: Tensor, a: Tensor, b: Tensor, work: Tensor, upstream: Tensor, scale: float, rows: slice
) -> None:
    """Turn ``r`` (B, C) into some rows' gradient, of ``scale`` times ``upstream``, () or (B,)."""
    loaded = library()
    assert loaded is not None
    parts = [part.data_ptr() for part in (r, a, b, work, upstream)]
    step = upstream.stride(0) if upstream.ndim else 0
    loaded.two_class_gradient(*parts, step, scale, r.shape[1], rows.start, rows.stop)


def all_finite(x: Tensor) -> bool:
    """Whether no value is infinite or not a number; of any tensor."""
    if x.device.type == "cpu" and x.is_contiguous() and type(x) in _PLAIN:
        loaded = library()
        if loaded is not None and x.dtype == torch.float32:
            return bool(loaded.all_finite(x.data_ptr(), x.numel()))
        if loaded is not None and x.dtype in _EXPONENT:
            return bool(loaded.all_finite_half(x.data_ptr(), x.numel(), _EXPONENT[x.dtype]))
    # A sum is finite where all are, and rarely else; of half precision, in single.
    total = x.sum(dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)
    return bool(total.isfinite()) or bool(x.isfinite().all())


def all_within(classes: Tensor, most: int) -> bool:
    """Whether all class indices (B,) lie in [0, most]; of tensors with a value each."""
    loaded = library() if classes.device.type == "cpu" and classes.dtype == torch.int64 else None
    if loaded is not None and classes.is_contiguous() and type(classes) in _PLAIN:
        return bool(loaded.all_within(classes.data_ptr(), classes.shape[0], most))
    low, high = torch.aminmax(classes)
    return int(low) >= 0 and int(high) <= most


def pair_distance(x: Tensor, partner: Tensor, sums: Tensor, part: slice) -> None:
    """Add to ``sums`` (B,) float64 the squared distances of a part of the samples' elements.

    Args:
        x: (B, n) float32, its rows dense.
        partner: (B,) int64, contiguous.
        sums: (B,) float64, contiguous.
        part: the elements.
    """
    loaded = library()
    assert loaded is not None
    pointers = (partner.data_ptr(), sums.data_ptr())
    if loaded.pair_distance(*_memory(x), *pointers, x.shape[0], part.start, part.stop):
        raise MemoryError("distances")
