"""Masks that a small network learns to make while the classifier is trained: AutoMix, SAMix."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, ClassVar, TypeVar, cast

import torch
from torch import Tensor, nn

from mixwell.batch import Batch
from mixwell.checks import Range, check_range
from mixwell.errors import InputError
from mixwell.interpolation.base import Interpolation, image_size
from mixwell.interpolation.mixer import Mixer, SmoothMixer
from mixwell.interpolation.teacher import (
    Workshop,
    averaged,
    device_of,
    frozen_copy,
    last_stage,
    read_maps,
    wide,
)
from mixwell.mix import Mix, MixedTarget, MultiTarget
from mixwell.tasks import Task
from mixwell.values import map_tensors
from mixwell.view import logits_of, unwrap

__all__ = ["AutoMix", "SAMix"]

Result = TypeVar("Result")


def _eagerly(function: Callable[..., Result]) -> Callable[..., Result]:
    """As ``torch.compiler.disable``, which would import the compiler with this module."""

    @wraps(function)
    def call(*args: Any) -> Result:
        if not torch.compiler.is_compiling():
            return function(*args)
        return cast(Result, torch.compiler.disable(function)(*args))

    return call


class AutoMix(Interpolation):
    """Masks that are learnt beside the classifier (AutoMix, arXiv:2103.13027).

    A small network, the Mixer, makes a mask for each pair from the pair's feature maps in a slowly
    moving copy of the model. In each training step it learns to make masks such that this copy, k,
    sees both samples in their mix, each by its share of the λ that is asked for:

    .. code-block:: text

        L_gen = MCE(f_k(M ⊙ x_i + (1 - M) ⊙ x_σ(i)); y_i, y_σ(i), λ) + γ max(|λ - mean M| - ε, 0)
        θ_k  ← m θ_k + (1 - m) θ

    The model is trained on samples mixed by M as it is, with the mean of M for λ. Its parameters,
    gradients, buffers and modes and the random state are left alone, and nothing of this is in its
    checkpoints: copy, Mixer and optimizer are built in the first step, kept apart from the method's
    parameters, and saved and restored by its ``state_dict()``. Under ``torch.distributed`` the
    Mixer's gradients are averaged. A step costs two passes of the copy more, and one back.

    Args:
        stage: the layer of a convolutional network whose maps (B, d, h, w) the Mixer sees; by
            default the last before the maps become smaller for the last time (a ResNet's third
            stage), as in the paper.
        gamma: γ, which falls linearly to 0 with the training progress.
        epsilon: ε: as far as this a mask's mean may be from λ at no cost.
        momentum: m; less at first, (1 + t) / (10 + t) after t steps, so that the copy follows.
        margin: where λ or 1 - λ is no more than this, samples are mixed evenly.
        mixer_lr: the learning rate of the Mixer's optimizer, Adam.

    Attributes:
        generator_loss: L_gen of the last step, without gradient; None before.

    Raises:
        InputError: there is no model to look at, or it has no feature maps; the task has no classes
            of whole images.
    """

    needs_model = True
    learns = True
    mixer_type: type[Mixer] = Mixer

    ranges: ClassVar = {
        "gamma": Range(0.01, 1, log=True),
        "mixer_lr": Range(1e-4, 1e-2, log=True),
    }

    def __init__(
        self,
        stage: str | None = None,
        gamma: float = 0.1,
        epsilon: float = 0.1,
        momentum: float = 0.999,
        margin: float = 0.08,
        mixer_lr: float = 3e-3,
    ) -> None:
        super().__init__()
        if stage is not None and not isinstance(stage, str):
            raise InputError(f"stage must be the name of a layer, or None, got {stage!r}")
        self.stage = stage
        self.gamma = check_range("gamma", gamma)
        self.epsilon = check_range("epsilon", epsilon, 0, 1)
        self.momentum = check_range("momentum", momentum, 0, 1)
        self.margin = check_range("margin", margin, 0, 0.5)
        self.mixer_lr = check_range("mixer_lr", mixer_lr, open=True)
        self.generator_loss: Tensor | None = None
        self._workshop: Workshop | None = None
        self._restored: dict[str, Any] = {}
        self._drawn: tuple[Tensor, Tensor] | None = None

    @_eagerly
    def shape(self, batch: Batch, mix: Mix) -> Mix:
        """Return the mix with the Mixer's masks, and λ corrected to their means."""
        size = image_size(type(self).__name__, batch)
        work = self._work(batch)
        with torch.no_grad():
            maps = read_maps(work.teacher, work.layer, wide(batch.x))
            lam = mix.lam
            mask = _mask(work.mixer, maps, mix.partner, lam, size)
            evenly = ((lam <= self.margin) | (lam >= 1 - self.margin)).view(-1, 1, 1, 1)
            mask = torch.where(evenly, lam.to(mask.dtype).view(-1, 1, 1, 1), mask)
            precise = torch.float32 if mask.device.type == "mps" else torch.float64
            mean = mask.mean((1, 2, 3), dtype=precise)
        self._drawn = lam, maps
        return Mix(mix.partner, mean.to(lam.dtype), mask)

    @_eagerly
    def learn(self, batch: Batch, mix: Mix, target: MixedTarget | MultiTarget) -> None:
        """Train the Mixer on the pairs of a step, and let the copy follow the model.

        In inference mode neither learns.
        """
        if self._drawn is None or batch.model is None:
            return
        assert isinstance(target, MixedTarget)
        (lam, maps), self._drawn = self._drawn, None
        if torch.is_inference_mode_enabled():
            return  # nothing is learnt of tensors that can't be differentiated
        work = self._work(batch)
        parameters = list(work.mixer.parameters())
        with torch.enable_grad():
            size = image_size(type(self).__name__, batch)
            mask = _mask(work.mixer, maps, mix.partner, lam, size)
            mixed = _blend(wide(batch.x), mix.partner, lam, mask)
            logits = logits_of(work.teacher(mixed)).float()
            # What is not mixed teaches nothing about mixing.
            weight = ((lam > 0) & (lam < 1)).float()
            asked = MixedTarget(target.a, target.b, lam, weight)
            loss = self._recognition(logits, asked, batch.task)
            gamma = self.gamma * (1 - batch.progress.to(loss.device))
            loss = loss + gamma * _mean(self._constraint(mask, lam), weight)
            gradients = averaged(torch.autograd.grad(loss, parameters))
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        with torch.device("cpu"):  # where Adam counts, whatever the default: on a GPU it would wait
            work.optimizer.step()
        work.optimizer.zero_grad()
        self.generator_loss = loss.detach()
        self._follow(work, unwrap(batch.model))

    def _recognition(self, logits: Tensor, target: MixedTarget, task: Task) -> Tensor:
        """Return how badly the copy sees the two samples of each pair: a scalar."""
        return task.loss()(logits, target)

    def _constraint(self, mask: Tensor, lam: Tensor) -> Tensor:
        """Return how far each mask is from what λ asks for: (B,)."""
        return ((lam - mask.mean((1, 2, 3))).abs() - self.epsilon).clamp_min(0)

    def _follow(self, work: Workshop, model: nn.Module) -> None:
        """Move the copy toward the model."""
        share = 1 - min(self.momentum, (1 + work.updates) / (10 + work.updates))
        work.updates += 1
        with torch.no_grad():
            moving = [*work.teacher.parameters(), *work.teacher.buffers()]
            for old, new in zip(moving, [*model.parameters(), *model.buffers()], strict=True):
                if old.is_floating_point():
                    old.lerp_(new.to(old.dtype), share)
                else:
                    old.copy_(new)

    # --------------------------------------------------------------------------------- its state

    def _work(self, batch: Batch) -> Workshop:
        """Return the workshop, built at the first call."""
        work = self._workshop
        if work is not None and device_of(work.mixer) != batch.device:
            self._restored, work = self.get_extra_state(), None
        if work is None:
            work = self._workshop = self._build(batch)
            self._restore()
        return work

    @torch.inference_mode(False)  # it is trained later
    def _build(self, batch: Batch) -> Workshop:
        name = type(self).__name__
        if batch.model is None:
            raise InputError(
                f"{name} makes its masks from the model's features: call method(model, x, y), or "
                "preview(x, y, model=model)"
            )
        if not batch.task.has_classes or batch.task.by_position:
            raise InputError(
                f"{name} learns from the classes of whole images: it is for "
                f"task='classification' or 'multilabel', not for task={batch.task.name!r}"
            )
        teacher = frozen_copy(unwrap(batch.model))
        x = wide(batch.x)
        named = None if batch.view is None else batch.view.named_head
        layer = self.stage or last_stage(teacher, x, named)
        with torch.no_grad():
            channels = read_maps(teacher, layer, x).shape[1]
        mixer = self.mixer_type(channels, max(channels // 2, 1)).to(batch.device)
        optimizer = torch.optim.Adam(mixer.parameters(), lr=self.mixer_lr)
        return Workshop(teacher, layer, mixer, optimizer)

    def _restore(self) -> None:
        work, state = self._workshop, self._restored
        if work is None or not state:
            return
        work.teacher.load_state_dict(state["teacher"])
        work.mixer.load_state_dict(state["mixer"])
        # Optimizers keep the tensors that they are given.
        work.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        work.updates = state["updates"]
        self._restored = {}

    def get_extra_state(self) -> dict[str, Any]:
        """Return what :meth:`state_dict` saves: copy, Mixer and optimizer, {} before a step."""
        work = self._workshop
        if work is None:
            return self._restored
        return {
            "teacher": work.teacher.state_dict(),
            "mixer": work.mixer.state_dict(),
            "optimizer": work.optimizer.state_dict(),
            "updates": work.updates,
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take what :meth:`get_extra_state` returned: now, or where nothing is built yet, then."""
        self._restored = state
        if not state:
            self._workshop = None
        self._restore()


class SAMix(AutoMix):
    """Masks learnt against the other classes, too (SAMix, arXiv:2111.15454).

    It is :class:`AutoMix` with another Mixer and another loss. The mixed cross-entropy is the sum
    of that between the two classes, which asks for a smooth path from one to the other (local), and
    of that of the two against all others, which asks that the mix is told from these (global). They
    are balanced by η, and masks that take sides at each position are preferred:

    .. code-block:: text

        L_η   = MCE over the softmax of the two classes - η log(p_a + p_b)
        L_gen = L_η + γ [max(|λ - mean M| - ε, 0) - variance · Var M]

    In a multi-label task η weighs the classes that neither sample has.

    Args:
        eta: η ≥ 0; 1 is the mixed cross-entropy.
        variance: the weight of the masks' variance.
        stage: see :class:`AutoMix`, as for all that follow.
        gamma: γ, the weight of what keeps masks to their share.
        epsilon: ε, how far a mask's share may be from λ at no cost.
        momentum: m, of the copy that the mixer looks at.
        margin: where λ or 1 - λ is no more than this, samples are mixed evenly.
        mixer_lr: the learning rate of the Mixer's optimizer.
    """

    mixer_type = SmoothMixer

    ranges: ClassVar = {**AutoMix.ranges, "eta": Range(0.1, 1)}

    def __init__(
        self,
        eta: float = 0.5,
        variance: float = 2.0,
        stage: str | None = None,
        gamma: float = 0.1,
        epsilon: float = 0.1,
        momentum: float = 0.999,
        margin: float = 0.08,
        mixer_lr: float = 3e-3,
    ) -> None:
        super().__init__(stage, gamma, epsilon, momentum, margin, mixer_lr)
        self.eta = check_range("eta", eta)
        self.variance = check_range("variance", variance)

    def _recognition(self, logits: Tensor, target: MixedTarget, task: Task) -> Tensor:
        assert target.weight is not None
        loss = task.loss(reduction="none")(logits, target)
        if not task.one_class:
            present = (target.a > 0) | (target.b > 0)
            return _mean(torch.where(present, loss, self.eta * loss).mean(1), target.weight)
        against = torch.logsumexp(logits, 1) - _log_mass(logits, target)
        return _mean(loss - (1 - self.eta) * against, target.weight)

    def _constraint(self, mask: Tensor, lam: Tensor) -> Tensor:
        spread = mask.flatten(1).var(1, correction=0)
        return super()._constraint(mask, lam) - self.variance * spread


def _log_mass(logits: Tensor, target: MixedTarget) -> Tensor:
    """Return log Σ exp z_c over the classes of the two samples: (B,)."""
    if not target.is_index:
        there = (target.a > 0) | (target.b > 0)
        return torch.logsumexp(logits.masked_fill(~there, torch.finfo(logits.dtype).min), 1)
    z_a, z_b = (logits.gather(1, y[:, None])[:, 0] for y in (target.a, target.b))
    return torch.where(target.a == target.b, z_a, torch.logaddexp(z_a, z_b))


def _mean(value: Tensor, weight: Tensor) -> Tensor:
    return (value * weight).sum() / weight.sum().clamp_min(1)


def _mask(mixer: Mixer, maps: Tensor, partner: Tensor, lam: Tensor, size: Sequence[int]) -> Tensor:
    with torch.autocast(maps.device.type, enabled=False):
        made: Tensor = mixer(maps, partner, lam, size)
    return made


def _blend(x: Any, partner: Tensor, lam: Tensor, mask: Tensor) -> Any:
    """Return ``x`` mixed by masks, with gradient for these; what has no positions goes by λ."""

    def blend(leaf: Tensor) -> Tensor:
        other = leaf.index_select(0, partner)
        if leaf.ndim > 2:
            weight = mask.view(len(mask), *[1] * (leaf.ndim - 3), *mask.shape[2:])
        else:
            weight = lam.view(-1, *[1] * (leaf.ndim - 1))
        return other + weight.to(leaf.dtype) * (leaf - other)

    return map_tensors(blend, x)
