"""The CPU's kernels in C, where there is a compiler (:mod:`mixwell.kernels.build`).

Nothing depends on them: without a compiler, or with ``MIXWELL_NATIVE=0``, torch's operations do
the same more slowly.
"""

from __future__ import annotations

import ctypes
import logging
import os
import subprocess
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mixwell.kernels import build, gate
from mixwell.modes import undisturbed

__all__ = [
    "Weights",
    "all_finite",
    "all_within",
    "beta_icdf",
    "contrast",
    "draw_boxes",
    "library",
    "mix",
    "multi_hot",
    "pair_distance",
    "paste",
    "takes",
    "two_class",
    "two_class_gradient",
    "two_hot",
]

_EXPONENT = {torch.float16: 0x7C00, torch.bfloat16: 0x7F80}
_LOG = logging.getLogger("mixwell")
_MIX = {
    torch.float32: "mix_float32",
    torch.float64: "mix_float64",
    torch.bfloat16: "mix_bfloat16",
    torch.float16: "mix_float16",
    torch.uint8: "mix_uint8",
}


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """Return the compiled kernels, or None where they can't be had (the log says why)."""
    if os.environ.get("MIXWELL_NATIVE", "1") == "0":
        return None
    try:
        loaded = ctypes.CDLL(str(build.built()))
    except (OSError, subprocess.SubprocessError, RuntimeError) as error:
        _LOG.info("mixing without compiled kernels: %s", error)
        return None
    try:
        _declare(loaded)
        right = _is_right(loaded)
    except AttributeError as error:
        _LOG.warning("mixing without compiled kernels: %s", error)
        return None
    if not right:
        _LOG.warning("mixing without compiled kernels: they were compiled wrongly")
    return loaded if right else None


def takes(dtype: torch.dtype) -> bool:
    """Whether the compiled kernels are there, for this dtype."""
    loaded = library()
    return loaded is not None and dtype in _MIX and hasattr(loaded, _MIX[dtype])


def _declare(loaded: ctypes.CDLL) -> None:
    """Tell the functions' arguments."""
    pointers, sizes, real = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double
    batch: list[Any] = [pointers, sizes, pointers, sizes, pointers, pointers]
    weights: list[Any] = [*[pointers] * 5, real, sizes, sizes, sizes]
    arguments: dict[str, list[Any]] = {
        "paste": [*batch, *[sizes] * 6],
        "pair_distance": [pointers, sizes, pointers, pointers, *[sizes] * 3],
        "two_class": [pointers, sizes, *weights, *[pointers] * 2, real, pointers, sizes, sizes],
        "two_class_gradient": [*[pointers] * 5, *[sizes] * 4],
        "contrast": [*[pointers, sizes], *[pointers] * 3, *[sizes] * 4, real, *[pointers] * 2],
        "multi_hot": [
            *[pointers, sizes],
            *[pointers] * 2,
            *[sizes] * 2,
            real,
            *[pointers] * 2,
            *[sizes] * 2,
        ],
        "two_hot": [
            *[pointers, sizes],
            *[pointers] * 3,
            real,
            real,
            *[sizes] * 2,
            real,
            *[pointers] * 2,
            *[sizes] * 2,
        ],
        "all_finite": [pointers, sizes],
        "all_finite_half": [pointers, sizes, sizes],
        "all_within": [pointers, sizes, sizes],
        "beta_icdf": [*[pointers] * 4, *[sizes] * 4],
        "draw_boxes": [*[pointers] * 4, *[sizes] * 3],
    }
    for name in _MIX.values():
        if name != "mix_float16" or hasattr(loaded, name):  # not every compiler has it
            arguments[name] = [*batch, *[sizes] * 4]
    for name, kinds in arguments.items():
        getattr(loaded, name).argtypes = kinds


@undisturbed
def _is_right(loaded: ctypes.CDLL) -> bool:
    """Compare with torch once: a compiler's mistake must not go into anybody's training."""
    partner = torch.tensor([1, 2, 0, 3])
    lam = torch.tensor([0.3125, 0.8125, 0.0, 0.5], dtype=torch.float32)
    base = torch.linspace(250, 3, 4 * 70, dtype=torch.float64).view(4, 70)
    for dtype, name in _MIX.items():
        if not hasattr(loaded, name):
            continue
        x = base.to(dtype)
        expected = torch.lerp(x.double()[partner], x.double(), lam.double()[:, None])
        expected = expected.round() if dtype == torch.uint8 else expected
        for out, weight in ((torch.empty_like(x), lam), (x, lam.double())):
            _call(loaded, out, x, partner, weight, slice(0, 70))
            if not torch.allclose(out.double(), expected, rtol=2.0**-8, atol=1e-4):
                return False
    image, pasted = base.float(), base.new_empty(4, 70, dtype=torch.float32)
    edges = torch.tensor([[1, 4, 2, 4]]).expand(4, 4).contiguous()
    loaded.paste(*_memory(pasted), *_memory(image), partner.data_ptr(), edges.data_ptr(), 4, 7, 40,
                 4, 0, 7)  # fmt: skip
    shares, middle = torch.empty_like(lam), lam.new_tensor([[0.5, 0.3]] * 4)
    drawn = torch.empty(4, 4, dtype=torch.int64)
    loaded.draw_boxes(drawn.data_ptr(), shares.data_ptr(), lam.data_ptr(), middle.data_ptr(),
                      4, 7, 10)  # fmt: skip
    if drawn[:2].tolist() != [[0, 6, 0, 7], [2, 5, 1, 5]] or shares[2] != 0.2:
        return False
    inside = torch.zeros(7, 10, dtype=torch.bool)
    inside[1:4, 2:4] = True
    if not torch.equal(pasted, torch.where(inside.flatten(), image[partner], image)):
        return False
    z, a, b = image / 50, torch.tensor([0, 5, 9, 69]), torch.tensor([3, 5, 69, 0])
    work, r, share = z.new_empty(4, 4), torch.empty_like(z), lam
    loaded.two_class(z.data_ptr(), 70, a.data_ptr(), b.data_ptr(), share.data_ptr(), None, None,
                     0.25, 0, 0, 70, r.data_ptr(), work.data_ptr(), 1, None, 0, 4)  # fmt: skip
    chosen = torch.stack([z[range(4), a], z[range(4), b]], 1)
    rest = z.scatter(1, torch.stack([a, b], 1), -torch.inf).logsumexp(1, keepdim=True)
    weight = torch.stack([share, 1 - share], 1)
    hard = torch.where((a == b)[:, None], 0.0, 0.25 * weight)
    loss = weight * (z.logsumexp(1, keepdim=True) - chosen) + hard * (rest - chosen).exp().log1p()
    if not torch.allclose(work[:, 0], loss.sum(1), rtol=1e-4):
        return False
    if not _losses_are_right(loaded, z, a, b, lam):
        return False
    # A table of one row, whose polynomials have the factors 1, 2, 3, ... hundredths.
    table = torch.arange(1, 39, dtype=torch.float64).view(1, 2, 19) / 100
    u, tau = (
        torch.tensor(v, dtype=torch.float64) for v in ([0.1, 0.7, 0.02, 0.999], [0.5, 3, 0.01, 40])
    )
    beta = torch.empty_like(u)
    loaded.beta_icdf(beta.data_ptr(), u.data_ptr(), tau.data_ptr(), table.data_ptr(), 1, 1, 0, 4)
    by_torch = beta.new_tensor([0.03742408125, 0.61037084207, 1.6068227151e-140, 0.6682897038])
    return torch.allclose(beta, by_torch, rtol=1e-9, atol=0)


def _losses_are_right(loaded: ctypes.CDLL, z: Tensor, a: Tensor, b: Tensor, lam: Tensor) -> bool:
    """Compare the losses of a few classes and of mixed classifiers, of (4, 70) logits."""
    work, r, weight = z.new_empty(4), torch.empty_like(z), torch.stack([lam, 1 - lam], 1)
    index = torch.stack([a, b], 1)
    loaded.multi_hot(z.data_ptr(), 70, index.data_ptr(), weight.data_ptr(), 2, 70, 1.0,
                     r.data_ptr(), work.data_ptr(), 0, 4)  # fmt: skip
    label = torch.zeros_like(z).scatter_add_(1, index, weight)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(z, label, reduction="none")
    right = torch.allclose(work, loss.sum(1), rtol=1e-4)
    if not (right and torch.allclose(r, z.sigmoid() - label, atol=1e-5)):
        return False
    loaded.two_hot(z.data_ptr(), 70, a.data_ptr(), b.data_ptr(), lam.data_ptr(), 0.8, 1.5, 0, 70,
                   1.0, None, work.data_ptr(), 0, 4)  # fmt: skip
    label = torch.zeros_like(z).scatter_add_(1, index, (weight / 0.8).pow(1.5).clamp_max(1))
    label.clamp_max_(1)  # the second row's classes are one
    loss = torch.nn.functional.binary_cross_entropy_with_logits(z, label, reduction="none")
    if not torch.allclose(work, loss.sum(1), rtol=1e-4):
        return False
    loaded.contrast(z.data_ptr(), 70, a.data_ptr(), b.data_ptr(), lam.data_ptr(), 4, 70, 1, 1,
                    1.0, r.data_ptr(), work.data_ptr())  # fmt: skip
    mixed = torch.zeros_like(z).scatter_add_(1, index, weight)
    s = z @ mixed.T
    loss = -s.log_softmax(0).diagonal() - s.log_softmax(1).diagonal()
    gradient = (s.softmax(0) + s.softmax(1) - 2 * torch.eye(4, dtype=z.dtype)) @ mixed
    right = torch.allclose(work, loss, rtol=1e-4, atol=1e-5)
    return right and torch.allclose(r, gradient, atol=1e-5)


def _raise(failed: int, what: str) -> None:
    if failed == 2:
        raise IndexError(what)
    if failed:
        raise MemoryError(what)


def _call(
    loaded: ctypes.CDLL, out: Tensor, x: Tensor, partner: Tensor, lam: Tensor, part: slice
) -> None:
    failed = getattr(loaded, _MIX[x.dtype])(
        *_memory(out), *_memory(x), partner.data_ptr(), lam.data_ptr(), lam.dtype == torch.float32,
        x.shape[0], part.start, part.stop,
    )  # fmt: skip
    _raise(failed, "partner")


def _memory(x: Tensor) -> tuple[int, int]:
    """Return a batch's address and the bytes from one sample to the next."""
    return x.data_ptr(), x.stride(0) * x.element_size()


def mix(out: Tensor, x: Tensor, partner: Tensor, lam: Tensor, part: slice) -> None:
    """Mix a part of all samples; other threads run meanwhile.

    Args:
        out: (B, ...), ``x`` itself or memory apart from it, with ``x``'s strides in a sample.
        x: (B, ...) of dense samples; each has one other as its partner if ``out`` is ``x``.
        partner: (B,) int64, contiguous.
        lam: (B,) float32 or float64, contiguous.
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
    pixel: int,
    part: slice,
) -> None:
    """Paste boxes of the partners in some lines of all samples.

    Args:
        out: as for :func:`mix`.
        x: (B, ...) likewise.
        partner: (B,) int64, contiguous.
        edges: (B, 4) int64, contiguous: top, bottom, left, right.
        height: lines of an image.
        width: bytes of a line.
        pixel: bytes of a position in it.
        part: the lines, counted through all channels.
    """
    loaded = library()
    assert loaded is not None
    failed = loaded.paste(
        *_memory(out), *_memory(x), partner.data_ptr(), edges.data_ptr(), x.shape[0], height, width,
        pixel, part.start, part.stop,
    )  # fmt: skip
    _raise(failed, "partner")


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
    work: Tensor | None,
    total: Tensor | None,
    rows: slice,
) -> None:
    """Compute the losses of some rows: ``two_class`` in mix.c.

    Args:
        z: (B, C) float32, its rows dense.
        a: (B,) int64, contiguous, as all that follows.
        b: (B,) int64.
        weights: of the two.
        r: (B, C) float32, or None where no gradient is wanted: gets that of ``total``; of ``work``
            what it is made of, by :func:`two_class_gradient`.
        work: (B, 4) float32, gets each loss and what its gradient needs; or None.
        total: () float32, where there is no ``work``: gets these rows' part of the mean.
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
        *(z.shape[1], _pointer(r), _pointer(work), 1 / z.shape[0], _pointer(total)),
        *(rows.start, rows.stop),
    )
    _raise(failed, "class")


def two_class_gradient(
    r: Tensor, a: Tensor, b: Tensor, work: Tensor, upstream: Tensor, rows: slice
) -> None:
    """Turn ``r`` (B, C) into some rows' gradient, times ``upstream`` (B,)."""
    loaded = library()
    assert loaded is not None
    parts = [part.data_ptr() for part in (r, a, b, work, upstream)]
    loaded.two_class_gradient(*parts, upstream.stride(0), r.shape[1], rows.start, rows.stop)


def multi_hot(
    z: Tensor,
    index: Tensor,
    share: Tensor,
    scale: float,
    r: Tensor | None,
    loss: Tensor,
    rows: slice,
) -> None:
    """Compute some rows' binary cross-entropies: ``multi_hot`` in mix.c.

    Args:
        z: (B, C) float32, its rows dense.
        index: (B, k) int64, contiguous, as all that follows.
        share: (B, k) float32.
        scale: of the gradient.
        r: (B, C) float32, gets the gradient; or None.
        loss: (B,) float32, gets the losses.
        rows: which.

    Raises:
        IndexError: a class that does not exist.
    """
    loaded = library()
    assert loaded is not None
    failed = loaded.multi_hot(
        *(z.data_ptr(), z.stride(0), index.data_ptr(), share.data_ptr(), index.shape[1]),
        *(z.shape[1], scale, _pointer(r), loss.data_ptr(), rows.start, rows.stop),
    )
    _raise(failed, "class")


def two_hot(
    z: Tensor,
    a: Tensor,
    b: Tensor,
    lam: Tensor,
    how: tuple[float, float, bool],
    scale: float,
    r: Tensor | None,
    loss: Tensor,
    rows: slice,
) -> None:
    """Compute the same of pairs: ``two_hot`` in mix.c.

    Args:
        z: (B, C) float32, its rows dense.
        a: (B,) int64, contiguous, as all that follows.
        b: (B,) int64.
        lam: (B,) float32.
        how: t and k of min(1, (λ / t)^k), and whether the own share alone is rescaled.
        scale: of the gradient.
        r: (B, C) float32, gets the gradient; or None.
        loss: (B,) float32, gets the losses.
        rows: which.
    """
    loaded = library()
    assert loaded is not None
    failed = loaded.two_hot(
        *(z.data_ptr(), z.stride(0), a.data_ptr(), b.data_ptr(), lam.data_ptr(), *how),
        *(z.shape[1], scale, _pointer(r), loss.data_ptr(), rows.start, rows.stop),
    )
    _raise(failed, "class")


def contrast(
    z: Tensor,
    a: Tensor,
    b: Tensor,
    lam: Tensor,
    axes: tuple[int, ...],
    scale: float,
    r: Tensor | None,
    loss: Tensor,
) -> None:
    """Compute samples' losses against their mixed classifiers: ``contrast`` in mix.c.

    Args:
        z: (B, C) float32, its rows dense.
        a: (B,) int64, contiguous, as all that follows.
        b: (B,) int64.
        lam: (B,) float32.
        axes: 1, over the classifiers; 0, over the samples.
        scale: of the gradient of their sum.
        r: (B, C) float32, gets the gradient; or None.
        loss: (B,) float32, gets the losses.

    Raises:
        IndexError: a class that does not exist.
    """
    loaded = library()
    assert loaded is not None
    failed = loaded.contrast(
        *(z.data_ptr(), z.stride(0), a.data_ptr(), b.data_ptr(), lam.data_ptr(), *z.shape),
        *(1 in axes, 0 in axes, scale, _pointer(r), loss.data_ptr()),
    )
    _raise(failed, "class")


def all_finite(x: Tensor) -> bool:
    """Whether no value is infinite or not a number; of any tensor."""
    loaded = library() if gate.may_read(x) and x.is_contiguous() else None
    if loaded is not None:
        if x.dtype == torch.float32:
            return bool(loaded.all_finite(x.data_ptr(), x.numel()))
        if x.dtype in _EXPONENT:
            return bool(loaded.all_finite_half(x.data_ptr(), x.numel(), _EXPONENT[x.dtype]))
    # A sum is finite where all are, and rarely else; of half precision, in single.
    total = x.sum(dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)
    return bool(total.isfinite()) or bool(x.isfinite().all())


def all_within(classes: Tensor, most: int) -> bool:
    """Whether all class indices (B,) lie in [0, most]; of tensors with a value each."""
    readable = gate.may_read(classes, dtypes=(torch.int64,)) and classes.is_contiguous()
    loaded = library() if readable else None
    if loaded is not None:
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
    failed = loaded.pair_distance(*_memory(x), *pointers, x.shape[0], part.start, part.stop)
    _raise(failed, "partner")


def beta_icdf(lam: Tensor, u: Tensor, tau: Tensor, table: Tensor, part: slice) -> None:
    """Write the inverse distribution function of Beta(τ, τ) at some of the probabilities.

    Args:
        lam: (n,) float64, contiguous, as all that follows.
        u: (n,) float64.
        tau: (n,) float64.
        table: (rows, 2 columns, 19) float64, of ``functional``.
        part: which.
    """
    loaded = library()
    assert loaded is not None
    pointers = [x.data_ptr() for x in (lam, u, tau, table)]
    rows, columns = table.shape[0], table.shape[1] // 2
    loaded.beta_icdf(*pointers, rows, columns, part.start, part.stop)


def draw_boxes(lam: Tensor, centre: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return CutMix's boxes, ``edges`` (B, 4) int64, and what they leave of the image, (B,).

    Args:
        lam: (B,) float32, contiguous.
        centre: (B, 2) float32, contiguous.
        height: of the image.
        width: of the image.
    """
    loaded = library()
    assert loaded is not None
    count = lam.shape[0]
    edges = torch.empty(count, 4, dtype=torch.int64, device=lam.device)
    share = torch.empty_like(lam)
    pointers = [x.data_ptr() for x in (edges, share, lam, centre)]
    loaded.draw_boxes(*pointers, count, height, width)
    return edges, share
