"""Where a model, or an image by itself, is salient."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from mixwell.batch import Batch
from mixwell.checks import check_choice
from mixwell.errors import InputError
from mixwell.heads import find_head, inference, logits_of, tapped, unwrap, watch
from mixwell.mix import tensors

__all__ = [
    "Maps",
    "as_images",
    "check_blur",
    "find_maps",
    "normalised",
    "saliency",
    "saliency_of",
    "smooth",
    "smoothed",
    "spectral_residual",
]

_MAPS: WeakKeyDictionary[nn.Module, dict[Any, Maps]] = WeakKeyDictionary()


def normalised(saliency: Tensor) -> Tensor:
    """Return ``saliency`` (B, h, w), ≥ 0, divided by its sum; uniform where nothing is salient."""
    total = saliency.sum((-2, -1), keepdim=True)
    uniform = 1 / (saliency.shape[-2] * saliency.shape[-1])
    return torch.where(total > 0, saliency / torch.where(total > 0, total, 1.0), uniform)


def _is_image(leaf: Any) -> bool:
    if not isinstance(leaf, Tensor) or leaf.ndim < 3:
        return False
    return leaf.is_floating_point() or leaf.dtype == torch.uint8


def as_images(owner: str, x: Any) -> Tensor:
    """Return the images in ``x`` as one tensor (B, c, H, W), float32 at least, without gradient.

    Args:
        owner: who asks, for the message.
        x: a tensor (B, ..., H, W) or a pytree; the channels of several images follow each other.

    Raises:
        InputError: there is no image, or several are not of one size.
    """
    images = [leaf.detach() for leaf in tensors(x) if _is_image(leaf)]
    if len({image.shape[-2:] for image in images}) != 1:
        raise InputError(
            f"{owner} looks at pixels: x must hold images (B, ..., H, W) of one size, floating or "
            f"uint8, got {' and '.join(str(tuple(leaf.shape)) for leaf in tensors(x))}"
        )
    flat = [image.reshape(len(image), -1, *image.shape[-2:]) for image in images]
    flat = [image if image.dtype == torch.float64 else image.float() for image in flat]
    return flat[0] if len(flat) == 1 else torch.cat(flat, 1)


def saliency(owner: str, batch: Batch, kind: str) -> Tensor:
    """Return where the unmixed images of a batch are salient: (B, H, W), each summing to 1.

    Args:
        owner: who asks, for the message.
        batch: the batch, which remembers it for the step.
        kind: "spectral", :func:`spectral_residual` of the images alone, or "gradient", a look at
            the model (see :meth:`Batch.look <mixwell.batch.Batch.look>`).
    """
    if kind == "gradient":
        return batch.look(kind)
    return batch.once("spectral", lambda: spectral_residual(as_images(owner, batch.x)))


def smoothed(owner: str, batch: Batch, kind: str, blur: int, sigma: float) -> Tensor:
    """Return :func:`saliency` under a Gaussian: (B, H, W), each summing to 1.

    Args:
        owner: who asks, for the message.
        batch: the batch, which remembers it for the step.
        kind: as of :func:`saliency`.
        blur: the Gaussian's side in pixels, odd; 1 for none.
        sigma: its standard deviation in pixels; > 0.
    """

    def compute() -> Tensor:
        seen = saliency(owner, batch, kind)
        with torch.no_grad(), torch.autocast(seen.device.type, enabled=False):
            return normalised(smooth(seen[:, None], sigma, blur // 2)[:, 0])

    return batch.once(("smoothed", kind, blur, sigma), compute)


def check_blur(blur: Any) -> int:
    """Return ``blur`` if it is a positive odd number; raise an InputError if not."""
    if not isinstance(blur, int) or isinstance(blur, bool) or blur < 1 or blur % 2 == 0:
        raise InputError(
            f"blur must be an odd number of pixels from 1 on (1 for none), got {blur!r}"
        )
    return blur


# -------------------------------------------------------------------------- of an image by itself


def spectral_residual(x: Tensor, size: int = 64, sigma: float = 2.5) -> Tensor:
    """Return the spectral residual saliency: what of an image's spectrum is out of the ordinary.

    .. code-block:: text

        L = log |F(x)|,   R = L - h * L,   S = g * |F⁻¹[exp(R + i arg F(x))]|²

    with h the mean of 3 x 3 frequencies and g a Gaussian. It needs no model and no gradient.

    Args:
        x: (B, ..., H, W) of any dtype; what lies between is averaged (the channels).
        size: the longer side that a larger image is reduced to before its spectrum is taken, in
            pixels; the paper's 64 looks at objects of the usual size. A smaller one is not
            enlarged, as the frequencies that it then lacks would seem out of the ordinary.
        sigma: g's standard deviation in pixels of 64 to that side, as in the authors' code.

    Returns:
        (B, H, W) float32, ≥ 0, each summing to 1.

    Raises:
        InputError: ``x`` has less than three dimensions.

    Source: Hou and Zhang, "Saliency Detection: A Spectral Residual Approach", CVPR 2007. Its
    spectrum is periodic, and so is h here.
    """
    if x.ndim < 3:
        raise InputError(
            f"spectral_residual: x must be images (B, ..., H, W), got shape {tuple(x.shape)}"
        )
    height, width = x.shape[-2:]
    size = min(size, max(height, width))
    scale = size / max(height, width)
    small = max(1, round(height * scale)), max(1, round(width * scale))
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        grey = x.float().reshape(len(x), -1, height, width).mean(1, keepdim=True)
        grey = _resized(grey, small)
        spectrum = torch.fft.fft2(grey)
        amplitude = spectrum.abs()
        # What is less than float32 can tell from the largest is noise: it is cut off.
        floor = amplitude.amax((-2, -1), keepdim=True) * 1e-6
        log_amplitude = torch.maximum(amplitude, torch.where(floor > 0, floor, 1.0)).log()
        local = F.avg_pool2d(F.pad(log_amplitude, (1, 1, 1, 1), mode="circular"), 3, stride=1)
        # exp(R + i arg F) without the angle: e^R F / |F|.
        phase = spectrum / torch.where(amplitude > 0, amplitude, 1.0)
        residual = torch.fft.ifft2((log_amplitude - local).exp() * phase).abs().square()
        sigma = sigma * size / 64
        residual = smooth(residual, sigma, math.ceil(3 * sigma))
        return normalised(_resized(residual, (height, width))[:, 0])


def _resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps, size, mode="bilinear", align_corners=False, antialias=True)


def smooth(maps: Tensor, sigma: float, reach: int) -> Tensor:
    """Return ``maps`` (B, 1, H, W) under a Gaussian.

    Args:
        maps: the border's pixels go on outside of it.
        sigma: standard deviation in pixels; > 0.
        reach: where the Gaussian is cut off, in pixels from its centre.
    """
    place = torch.arange(-reach, reach + 1, device=maps.device, dtype=maps.dtype)
    gauss = torch.exp(-place.square() / (2 * sigma**2))
    gauss = gauss / gauss.sum()
    maps = F.pad(maps, (reach, reach, reach, reach), mode="replicate")
    return F.conv2d(F.conv2d(maps, gauss.view(1, 1, -1, 1)), gauss.view(1, 1, 1, -1))


# ------------------------------------------------------------------------------------- of a model


def saliency_of(
    kind: str,
    model: nn.Module,
    x: Any,
    y: Tensor,
    head: str | None = None,
    mode: str = "eval",
    task: str = "classification",
) -> Tensor:
    """Return where ``model`` looks in the unmixed samples ``x``: a look of ``Batch.look``.

    The model runs once, in evaluation mode; its modes, buffers, gradients and the random state stay
    as they were.

    Args:
        kind: "gradient": (B, H, W), the L2 norm over channels (and over several images of one
            size) of the gradient of each sample's loss with respect to its pixels; each sums to 1.
            "maps": (B, d, h, w), the last feature maps before the classifier head. "cam": (B, h,
            w), the class activation map of each sample's class (arXiv:1512.04150): the maps as the
            head weighs their means for that class, less their least value, as SnapMix's code does
            it; each sums to 1. Of soft and multi-label targets the classes' maps are summed by
            the targets.
        model: a classifier, or for "gradient" any model with a loss.
        x: (B, ..., H, W), or a pytree that holds it.
        y: targets, as :meth:`mixwell.Method.step` takes them.
        head: the head's name, where it should not be searched for: a linear layer, or a 1 x 1
            convolution.
        mode: "eval", or "train" for the batch's own statistics; see ``heads.inference``.
        task: what ``y`` is.

    Returns:
        Float32, without gradient.

    Raises:
        InputError: the model has no feature maps; its head does not read their means ("cam"); the
            inputs hold no image, or y no classes.
    """
    check_choice("kind", kind, ("gradient", "maps", "cam"))
    if kind == "gradient":
        return _gradient(model, x, y, mode, task)
    found = find_maps(model, x, head)
    maps = _read(model, x, found.layer, mode)
    return maps if kind == "maps" else _activation(model, maps, y, found, task)


def _gradient(model: nn.Module, x: Any, y: Tensor, mode: Any, task: str) -> Tensor:
    as_images("saliency by gradient", x)  # which says what is wrong with them
    leaves, structure = pytree.tree_flatten(x)
    images = []
    with inference(model, mode), torch.enable_grad(), _undistributed(model):
        for place, leaf in enumerate(leaves):
            if _is_image(leaf):
                image = leaf.detach()
                image = image if image.is_floating_point() else image.float()
                leaves[place] = image.requires_grad_()
                images.append(image)
        loss = _loss(logits_of(model(pytree.tree_unflatten(leaves, structure))), y, task)
        found = torch.autograd.grad(loss, images, allow_unused=True) if loss.requires_grad else ()
    gradients = [gradient for gradient in found if gradient is not None]
    if not gradients:
        raise InputError(
            f"saliency by gradient: the loss of {type(unwrap(model)).__name__} has no gradient "
            "with respect to its images; choose another way of looking"
        )
    # Scaled before it is squared: of a trained model it may be very small.
    gradient = as_images("saliency by gradient", gradients)
    largest = gradient.abs().amax((1, 2, 3), keepdim=True)
    scaled = gradient / torch.where(largest > 0, largest, 1.0)
    return normalised(scaled.square().mean(1).sqrt().float())


@contextlib.contextmanager
def _undistributed(model: nn.Module) -> Iterator[None]:
    """Run what DDP holds by itself: DDP would wait for gradients of parameters."""
    wrappers: list[Any] = [
        module
        for module in model.modules()
        if isinstance(module, nn.parallel.DistributedDataParallel)
    ]
    try:
        for wrapper in wrappers:
            wrapper.forward = partial(wrapper.module)
        yield
    finally:
        for wrapper in wrappers:
            del wrapper.forward


def _loss(logits: Tensor, y: Tensor, task: str) -> Tensor:
    """Return the clean samples' losses, summed: of each sample's own the gradient is then."""
    logits = logits.float()
    if task == "multilabel":
        return F.binary_cross_entropy_with_logits(logits, y.float(), reduction="sum")
    if task == "regression":
        return (logits.reshape(y.shape) - y).square().sum()
    if y.is_floating_point():
        return F.cross_entropy(logits, y.float(), reduction="sum")
    # Positions of no class (255, -100) have no loss.
    known = (y >= 0) & (y < logits.shape[1])
    losses = F.cross_entropy(logits, torch.where(known, y, 0).long(), reduction="none")
    return torch.where(known, losses, 0.0).sum()


@dataclass(frozen=True)
class Maps:
    """Where a model's last feature maps are.

    Attributes:
        layer: the name of the layer whose output they are.
        head: the name of the classifier head.
        pooled: whether the head reads their means: nothing with weights lies between.
    """

    layer: str
    head: str
    pooled: bool


def find_maps(model: nn.Module, x: Any, head: str | None = None, *, once: bool = False) -> Maps:
    """Return where the last feature maps before the classifier head are.

    Feature maps are what has the shape (B, d, h, w), h, w > 1, and comes out of a convolution, of
    a module that holds one, or of what follows these (a norm, an activation), unless it works on
    tokens: vision transformers have none.

    Args:
        model: any module.
        x: a batch of inputs, for one forward pass; its answer is remembered.
        head: the head's name, where it should not be searched for. The last 1 x 1 convolution is
            the head of a model without linear layers.
        once: pass over layers that run more than once, whose output can't be replaced.

    Raises:
        InputError: there is no head, or there are no such maps.
    """
    found = _MAPS.setdefault(unwrap(model), {})
    key = head, once, *(leaf.shape[1:] for leaf in tensors(x))
    if key not in found:
        found[key] = _search(model, x, head, once)
    return found[key]


def _search(model: nn.Module, x: Any, head: str | None, once: bool) -> Maps:
    inner = unwrap(model)
    size = len(tensors(x)[0])
    ran: list[tuple[str, nn.Module, int, bool]] = []

    def note(name: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        entering = args[0].ndim if args and isinstance(args[0], Tensor) else 0
        shape = output.shape if isinstance(output, Tensor) else ()
        spatial = len(shape) == 4 and shape[0] == size and min(shape[2:]) > 1
        ran.append((name, module, entering, spatial))

    watch(model, x, note)
    runs = Counter(name for name, *_ in ran)
    head = head or _head(model, x, ran)
    layer, pooled, tokens = "", True, False
    for name, module, entering, spatial in ran:
        if name == head:
            break
        if entering > 2 and _reads_tokens(module):
            tokens = True
        elif spatial and ((layer and not tokens) or _convolves(module)):
            if not once or runs[name] == 1:
                layer, pooled, tokens = name, True, False
        elif any(parameter.ndim > 1 for parameter in module.parameters(recurse=False)):
            pooled = False
    else:
        raise InputError(f"head={head!r} of {type(inner).__name__} is no part of its forward pass")
    if not layer or tokens:
        raise InputError(
            f"{type(inner).__name__} has no feature maps (B, d, h, w) with h, w > 1 before its "
            f"classifier head {head!r}, given inputs of shape "
            f"{' and '.join(str(tuple(leaf.shape)) for leaf in tensors(x))}: this way of mixing "
            "is for convolutional networks of images that are not too small"
        )
    return Maps(layer, head, pooled)


def _head(model: nn.Module, x: Any, ran: list[tuple[str, nn.Module, int, bool]]) -> str:
    """Return the last linear layer's name, or without one the last convolution's."""
    modules = {module: name for name, module, *_ in ran}
    linear = any(isinstance(module, nn.Linear) for module in modules)
    convolutions = [name for module, name in modules.items() if isinstance(module, nn.Conv2d)]
    return convolutions[-1] if convolutions and not linear else find_head(model, x)[0]


def _reads_tokens(module: nn.Module) -> bool:
    """Whether channels come last in what enters the module, where that has positions."""
    # Exactly these: subclasses for images turn the channels around.
    return type(module) is nn.Linear or (
        type(module) is nn.LayerNorm and len(module.normalized_shape) == 1
    )


def _convolves(module: nn.Module) -> bool:
    return any(isinstance(part, nn.Conv2d) for part in module.modules())


def _read(model: nn.Module, x: Any, layer: str, mode: Any) -> Tensor:
    """Return what ``layer`` gives, the last time that it runs."""
    seen: list[Tensor] = []

    def keep(value: Tensor) -> Tensor:
        seen.append(value)
        return value

    with inference(model, mode), tapped(model, layer, keep, side="output"):
        model(x)
    return seen[-1].float()


def _activation(model: nn.Module, maps: Tensor, y: Tensor, found: Maps, task: str) -> Tensor:
    """Return the class activation maps (B, h, w) of the samples' classes."""
    inner = unwrap(model)
    module: Any = inner.get_submodule(found.head)
    channels = maps.shape[1]
    linear = isinstance(module, (nn.Linear, nn.Conv2d)) and (
        tuple(module.weight.shape[1:]) in ((channels,), (channels, 1, 1))
    )
    if not linear or not found.pooled:
        raise InputError(
            f"class activation maps need a head that reads the means of the last feature maps, or "
            f"a 1 x 1 convolution: in {type(inner).__name__} the head {found.head!r} "
            f"({type(module).__name__}) does not read the {channels} channels of {found.layer!r}, "
            "or other layers with weights lie between"
        )
    if task not in ("classification", "multilabel"):
        raise InputError(f"class activation maps are of a sample's class: task={task!r} has none")
    with torch.no_grad(), torch.autocast(maps.device.type, enabled=False):
        of_class = module.weight.float().flatten(1)
        of_class = of_class[y.long()] if y.ndim == 1 else y.float() @ of_class
        activation = torch.einsum("bd,bdhw->bhw", of_class, maps)
        return normalised(activation - activation.amin((-2, -1), keepdim=True))
