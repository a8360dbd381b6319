"""Losses forward and backward, their memory, and the similarity kernel's λ."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from mixwell import MixedTarget, functional
from mixwell.bench.timing import Contender
from mixwell.losses import (
    DecoupledBCE,
    DecoupledCrossEntropy,
    InfiniteClassLoss,
    MixedCrossEntropy,
)

__all__ = ["Peak", "kernel_lambda", "losses", "peak_memory"]


def losses(batch: int, num_classes: int, device: torch.device) -> list[Contender]:
    """Return the contenders: losses of (B, C) logits, with the gradient of the logits.

    The floor is the cross-entropy of one class index a sample. The published forms are those
    that the papers' formulas say, with dense (B, C) masks and labels.
    """
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(batch, num_classes, generator=generator).to(device).requires_grad_()
    a = torch.randint(num_classes, (batch,), generator=generator)
    b = (a + 1 + torch.randint(num_classes - 1, (batch,), generator=generator)) % num_classes
    target = MixedTarget(
        a.to(device), b.to(device), torch.rand(batch, generator=generator).to(device)
    )
    soft = target.dense(num_classes)

    def timed(name: str, kind: str, loss: Callable[[], Tensor]) -> Contender:
        return Contender(name, lambda: torch.autograd.grad(loss(), z), kind)

    def ours(name: str, loss: torch.nn.Module) -> Contender:
        return timed(name, "mixwell", lambda: loss(z, target))

    return [
        timed("cross_entropy, one index", "floor", lambda: F.cross_entropy(z, target.a)),
        timed("cross_entropy, dense labels", "reference", lambda: F.cross_entropy(z, soft)),
        timed(
            "dense labels, built each time", "reference",
            lambda: F.cross_entropy(z, target.dense(num_classes)),
        ),
        ours("MixedCrossEntropy", MixedCrossEntropy()),
        ours("DecoupledCrossEntropy", DecoupledCrossEntropy()),
        timed("DM(CE) as published", "reference", lambda: published_dm(z, target)),
        ours("DecoupledBCE", DecoupledBCE()),
        timed("DM(BCE) as published", "reference", lambda: published_dm_bce(z, target)),
        ours("InfiniteClassLoss", InfiniteClassLoss()),
        timed("ICM by one-hot product", "reference", lambda: published_icm(z, target)),
    ]  # fmt: skip


def published_dm(z: Tensor, target: MixedTarget, eta: float = 0.1) -> Tensor:
    """DM(CE) by its formula: φ^{i,j} is the softmax without class j, by a (B, C) mask."""
    own, partner = (F.one_hot(y, z.shape[1]).bool() for y in (target.a, target.b))
    lam = target.lam[:, None]
    mixed = lam * own + (1 - lam) * partner
    mce = -(mixed * z.log_softmax(1)).sum(1)
    without_partner = z.masked_fill(partner, torch.finfo(z.dtype).min).log_softmax(1)
    without_own = z.masked_fill(own, torch.finfo(z.dtype).min).log_softmax(1)
    decoupled = -(lam * own * without_partner + (1 - lam) * partner * without_own).sum(1)
    return (mce + eta * decoupled).mean()


def published_dm_bce(z: Tensor, target: MixedTarget, t: float = 0.8) -> Tensor:
    """DM(BCE) by its formula, k = 1, with a dense two-hot label."""
    own, partner = (F.one_hot(y, z.shape[1]) for y in (target.a, target.b))
    lam = target.lam[:, None]
    label = (lam / t).clamp_max(1) * own + ((1 - lam) / t).clamp_max(1) * partner
    return F.binary_cross_entropy_with_logits(z, label, reduction="sum") / len(z)


def published_icm(z: Tensor, target: MixedTarget) -> Tensor:
    """ICM by its formula: the mixed classifiers as dense rows, S = Z Ỹᵀ."""
    similarity = z @ target.dense(z.shape[1]).T
    diagonal = torch.arange(len(z), device=z.device)
    return F.cross_entropy(similarity, diagonal) + F.cross_entropy(similarity.T, diagonal)


# ----------------------------------------------------------------------------------------- memory


class Peak:
    """The most memory that a call held at once, in buffers of a given size.

    Attributes:
        buffers: bytes at the peak, divided by the size.
        count: the most allocations of that size or more that were alive at once; None where the
            device doesn't tell.
    """

    def __init__(self, buffers: float, count: int | None) -> None:
        self.buffers, self.count = buffers, count


def peak_memory(run: Callable[[], object], size: int, device: torch.device) -> Peak | None:
    """Return the peak memory of a call, or None where torch doesn't tell.

    What was allocated before the call doesn't count; what it returns does.

    Args:
        run: the call; made twice, as the first may allocate what stays.
        size: bytes of a buffer.
        device: that it runs on.
    """
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        torch.cuda.synchronize(device)
        return Peak((torch.cuda.max_memory_allocated(device) - before) / size, None)
    os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # or it says that there is no GPU
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        run()
    try:
        # What ops allocate inside themselves is in no table of the profiler, but among its events.
        events = trace.profiler.kineto_results.events()
        changes = [
            (event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"
        ]
    except AttributeError:
        return None
    held = most = alive = count = 0
    for _, change in sorted(changes, key=lambda item: item[0]):
        held += change
        most = max(most, held)
        if abs(change) >= size:
            alive += 1 if change > 0 else -1
            count = max(count, alive)
    return Peak(most / size, count)


# --------------------------------------------------------------------------------------- kernel's λ


def kernel_lambda(pairs: int, device: torch.device) -> list[Contender]:
    """Return the contenders: one λ ~ Beta(τ, τ) for each pair, τ as the similarity kernel has it.

    By ``torch.distributions.Beta``, the base, λ is 1/2 or worse where τ is small and its Gammas
    underflow. The two inverse distribution functions warp a given u instead.
    """
    generator = torch.Generator().manual_seed(0)
    distance = torch.rand(pairs, generator=generator).to(device) * 2
    tau = functional.kernel_tau(distance)
    u = torch.rand(pairs, generator=generator).to(device)
    contenders = [
        Contender(
            "torch Beta(τ, τ).sample()",
            lambda: torch.distributions.Beta(tau, tau).sample(),
            "floor",
        ),
        Contender("sample_beta(τ)", lambda: functional.sample_beta(tau), "mixwell"),
        Contender("beta_icdf(u, τ)", lambda: functional.beta_icdf(u, tau), "mixwell"),
    ]
    name, absent = "SciPy betaincinv(τ, τ, u)", "not installed"
    try:
        special = importlib.import_module("scipy.special")
    except ImportError:
        contenders.append(Contender(name, kind="peer", absent=absent))
    else:
        shape, probability = tau.double().cpu().numpy(), u.double().cpu().numpy()
        contenders.append(
            Contender(name, lambda: special.betaincinv(shape, shape, probability), "peer")
        )
    name = "torch-uncertainty beta_warping"
    try:
        module = importlib.import_module("torch_uncertainty.transforms.mixup")
    except ImportError:
        contenders.append(Contender(name, kind="peer", absent=absent))
    else:
        inverse = (1 / tau.double()).cpu().numpy()
        contenders.append(Contender(name, lambda: module.beta_warping(u.cpu(), inverse), "peer"))
    return contenders
