"""Masks that a small network learns to make while the classifier is trained: AutoMix, SAMix."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import wraps
from typing import Any, ClassVar, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from mixwell.batch import Batch
from mixwell.checks import Range, check_range
from mixwell.errors import InputError
from mixwell.interpolation.base import Interpolation, image_size
from mixwell.mix import Mix, MixedTarget, MultiTarget, tensors
from mixwell.tasks import Task
from mixwell.view import find_maps, logits_of, tapped, unwrap, watch

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


# ------------------------------------------------------------------------- what makes the masks


class Mixer(nn.Module):
    """AutoMix's Mix Block: the mask of a pair, by cross-attention between its feature maps.

    .. code-block:: text

        z_λ = [z_i, λ],   z_{1-λ} = [z_σ(i), 1 - λ]           λ is one more channel
        P   = softmax(q(z_λ) q(z_{1-λ})ᵀ / √d')               each position of i to those of σ(i)
        M   = sigmoid(logit λ - up(P v(z_{1-λ})))

    with q and v 1 x 1 convolutions, v = 0 at first: it starts as mixup. (The paper's has no logit λ
    and starts at M = 1/2 for any λ.)

    Args:
        channels: d of the maps.
        hidden: d' of queries and keys.
    """

    upsampling = "nearest"

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self._make(channels, hidden)
        # Drawn the same on each process, and without the random state of anyone else.
        generator = torch.Generator("cpu").manual_seed(0)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                fan_in = parameter.shape[1]
                nn.init.normal_(parameter, std=fan_in**-0.5, generator=generator)
        *_, last = self.value.modules()
        assert isinstance(last, nn.Conv2d)
        nn.init.zeros_(last.weight)

    def _make(self, channels: int, hidden: int) -> None:
        self.query = _convolution(channels + 1, hidden)
        self.value = _convolution(channels + 1, 1)

    def _project(self, own: Tensor, other: Tensor, lam: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries and keys (B, d', h, w) and values (B, 1, h, w) of the two maps."""
        share = lam.expand(-1, 1, *own.shape[2:])
        other = torch.cat([other, 1 - share], 1)
        return self.query(torch.cat([own, share], 1)), self.query(other), self.value(other)

    def forward(self, maps: Tensor, partner: Tensor, lam: Tensor, size: Sequence[int]) -> Tensor:
        """Return the own samples' weights at each position: (B, 1, H, W), in (0, 1).

        Args:
            maps: (B, d, h, w) of the unmixed samples, float32.
            partner: (B,).
            lam: (B,), λ as it is asked for.
            size: (H, W).
        """
        lam = lam.to(maps.dtype).view(-1, 1, 1, 1)
        parts = self._project(maps, maps.index_select(0, partner), lam)
        query, key, value = (part.flatten(2).transpose(1, 2) for part in parts)
        attention = torch.softmax(query @ key.transpose(1, 2) / math.sqrt(query.shape[2]), 2)
        theirs = (attention @ value).transpose(1, 2).unflatten(2, maps.shape[2:])
        if self.upsampling == "nearest":
            theirs = F.interpolate(theirs, size)
        else:
            theirs = F.interpolate(theirs, size, mode=self.upsampling, align_corners=False)
        return torch.sigmoid(lam.logit(1e-3) - theirs)


class SmoothMixer(Mixer):
    """SAMix's Mixer: both maps in queries and keys, λ as their gain, two layers of values.

    .. code-block:: text

        λ̂   = (4/3 λ³ - 2 λ² + (k + 1) λ) / (k + 1/3),   k = 1/4
        z_λ = (1 + λ̂) z_i,   z_{1-λ} = (2 - λ̂) z_σ(i)
        P   = softmax(q([z_λ, z_{1-λ}]) k([z_λ, z_{1-λ}])ᵀ / √d')

    The masks are upsampled bilinearly.
    """

    upsampling = "bilinear"

    def _make(self, channels: int, hidden: int) -> None:
        self.query = _convolution(2 * channels, hidden)
        self.key = _convolution(2 * channels, hidden)
        self.value = nn.Sequential(
            _convolution(channels, hidden), nn.ReLU(), _convolution(hidden, 1)
        )

    def _project(self, own: Tensor, other: Tensor, lam: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        k = 0.25
        gain = (4 / 3 * lam**3 - 2 * lam**2 + (k + 1) * lam) / (k + 1 / 3)
        own, other = (1 + gain) * own, (2 - gain) * other
        both = torch.cat([own, other], 1)
        return self.query(both), self.key(both), self.value(other)


def _convolution(before: int, after: int) -> nn.Module:
    made: nn.Module = nn.utils.skip_init(
        nn.Conv2d, before, after, 1, dtype=torch.float32, device="cpu"
    )
    return made


# ------------------------------------------------------------------------- learning to make them


@dataclass
class _Workshop:
    """Where the masks are made.

    Attributes:
        teacher: the momentum copy of the model.
        layer: the layer of it whose output the mixer sees.
        mixer: what makes masks.
        optimizer: trains the mixer.
        updates: how often the teacher has followed the model.
    """

    teacher: nn.Module
    layer: str
    mixer: Mixer
    optimizer: torch.optim.Optimizer
    updates: int = 0


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
        self._workshop: _Workshop | None = None
        self._restored: dict[str, Any] = {}
        self._drawn: tuple[Tensor, Tensor] | None = None

    @_eagerly
    def shape(self, batch: Batch, mix: Mix) -> Mix:
        """Return the mix with the Mixer's masks, and λ corrected to their means."""
        size = image_size(type(self).__name__, batch)
        work = self._work(batch)
        with torch.no_grad():
            maps = _read(work.teacher, work.layer, _wide(batch.x))
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
        """Train the Mixer on the pairs of a step, and let the copy follow the model."""
        if self._drawn is None or batch.model is None:
            return
        assert isinstance(target, MixedTarget)
        (lam, maps), self._drawn = self._drawn, None
        work = self._work(batch)
        parameters = list(work.mixer.parameters())
        with torch.enable_grad():
            size = image_size(type(self).__name__, batch)
            mask = _mask(work.mixer, maps, mix.partner, lam, size)
            mixed = _blend(_wide(batch.x), mix.partner, lam, mask)
            logits = logits_of(work.teacher(mixed)).float()
            # What is not mixed teaches nothing about mixing.
            weight = ((lam > 0) & (lam < 1)).float()
            asked = MixedTarget(target.a, target.b, lam, weight)
            loss = self._recognition(logits, asked, batch.task)
            gamma = self.gamma * (1 - batch.progress.to(loss.device))
            loss = loss + gamma * _mean(self._constraint(mask, lam), weight)
            gradients = _averaged(torch.autograd.grad(loss, parameters))
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
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

    def _follow(self, work: _Workshop, model: nn.Module) -> None:
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

    def _work(self, batch: Batch) -> _Workshop:
        """Return the workshop, built at the first call."""
        work = self._workshop
        if work is not None and _device(work.mixer) != batch.device:
            self._restored, work = self.get_extra_state(), None
        if work is None:
            work = self._workshop = self._build(batch)
            self._restore()
        return work

    def _build(self, batch: Batch) -> _Workshop:
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
        teacher = _frozen_copy(unwrap(batch.model))
        x = _wide(batch.x)
        layer = self.stage or _stage(teacher, x)
        with torch.no_grad():
            channels = _read(teacher, layer, x).shape[1]
        mixer = self.mixer_type(channels, max(channels // 2, 1)).to(batch.device)
        optimizer = torch.optim.Adam(mixer.parameters(), lr=self.mixer_lr)
        return _Workshop(teacher, layer, mixer, optimizer)

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
        gamma: γ.
        epsilon: ε.
        momentum: m.
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


# ------------------------------------------------------------------------------------ workings

_HALVES = (torch.float16, torch.bfloat16)


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

    return pytree.tree_map_only(Tensor, blend, x)


def _wide(x: Any) -> Any:
    """Return ``x`` with what can be mixed in float32 at least, as the copy takes it."""

    def widen(leaf: Tensor) -> Tensor:
        return leaf.float() if leaf.dtype in (*_HALVES, torch.uint8) else leaf

    return pytree.tree_map_only(Tensor, widen, x)


def _frozen_copy(model: nn.Module) -> nn.Module:
    """Return a copy of a model, in float32 at least, that is not trained and always evaluates."""
    made = copy.deepcopy(model)
    for module in made.modules():
        # Wrappers (Accelerate, compilers) put a forward there that is the original model's.
        if not hasattr(module, "_orig_mod"):
            vars(module).pop("forward", None)
    if any(parameter.dtype in _HALVES for parameter in made.parameters()):
        made.float()  # a momentum of 0.999 would be rounded away
    return made.requires_grad_(False).eval()


def _stage(model: nn.Module, x: Any) -> str:
    """Return the last layer before a model's feature maps become smaller for the last time."""
    last = find_maps(model, x).layer
    areas: list[tuple[str, int]] = []

    def note(name: str, module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4:
            areas.append((name, output.shape[2] * output.shape[3]))

    watch(model, x, note)
    final = dict(areas)[last]
    before = areas[: max(place for place, (name, _) in enumerate(areas) if name == last)]
    larger = [name for name, area in before if area > final]
    # Whole stages rather than what is inside of a block.
    stages = [name for name in larger if _is_stage(model, name, last)]
    return (stages or larger or [last])[-1]


def _is_stage(model: nn.Module, name: str, last: str) -> bool:
    """Whether a layer is inside of nothing but sequences and what the last maps are inside of."""
    parts = name.split(".")
    around = [".".join(parts[:depth]) for depth in range(1, len(parts))]
    return all(
        last.startswith(f"{outer}.") or isinstance(model.get_submodule(outer), nn.Sequential)
        for outer in around
    )


class _Seen(Exception):
    """Ends a pass, of which no more is needed."""


def _read(model: nn.Module, layer: str, x: Any) -> Tensor:
    """Return the maps (B, d, h, w) that leave a layer, in float32."""
    seen: list[Any] = []

    def keep(value: Any) -> Any:
        seen.append(value)
        raise _Seen

    with suppress(_Seen), tapped(model, layer, keep, side="output"):
        model(x)
    maps = seen[0]
    size = len(tensors(x)[0])
    if not isinstance(maps, Tensor) or maps.ndim != 4 or len(maps) != size:
        shape = tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
        raise InputError(
            f"stage={layer!r} must give feature maps (B, d, h, w), got {shape}; choose a layer of "
            "a convolutional network before its maps are pooled"
        )
    return maps.float()


def _averaged(gradients: Sequence[Tensor]) -> Sequence[Tensor]:
    """Return the mean of the gradients over the processes of a distributed training."""
    group = torch.distributed
    if not (group.is_available() and group.is_initialized()) or group.get_world_size() == 1:
        return gradients
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    group.all_reduce(flat)
    flat = flat / group.get_world_size()
    parts = flat.split([gradient.numel() for gradient in gradients])
    return [part.view_as(gradient) for part, gradient in zip(parts, gradients, strict=True)]


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device
