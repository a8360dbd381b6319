"""Where a model looks: its gradient, its feature maps, its class activation."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from mixwell.errors import InputError
from mixwell.saliency import as_images, is_image, normalised
from mixwell.values import is_size
from mixwell.view.hooks import copied, inference, logits_of, run_on_copy, tapped, unwrap
from mixwell.view.maps import Maps

__all__ = ["activation", "gradient", "maps"]


def gradient(model: nn.Module, x: Any, loss: Callable[[Tensor], Tensor], mode: Any) -> Tensor:
    """Return the size of the loss's gradient at each pixel: (B, H, W), each summing to 1.

    The L2 norm over channels (and over several images of one size) of the gradient of each
    sample's loss with respect to its pixels; float32, without gradient. The model runs once; its
    modes, buffers, gradients and the random state stay as they were.

    Args:
        model: any model with a loss.
        x: (B, ..., H, W), or a pytree that holds it.
        loss: the samples' summed loss, of logits in float32.
        mode: "eval", or "train" for the batch's own statistics; see :func:`inference`.

    Raises:
        InputError: the inputs hold no image, or the loss has no gradient there.
    """
    as_images("saliency by gradient", x)  # which says what is wrong with them
    leaves, structure = pytree.tree_flatten(copied(x), is_leaf=is_size)
    images = []
    with inference(model, mode), torch.enable_grad(), _undistributed(model):
        for place, leaf in enumerate(leaves):
            if is_image(leaf):
                image = leaf if leaf.is_floating_point() else leaf.float()
                images.append(image.requires_grad_())
                leaves[place] = image.clone()  # which a model may change in place
        logits = logits_of(model(pytree.tree_unflatten(leaves, structure)))
        total = loss(logits.float())
        found = _gradients(total, images, model)
    gradients = [part for part in found if part is not None]
    if torch.is_inference_mode_enabled():
        raise InputError("saliency by gradient: in torch.inference_mode() no gradient can be had")
    if not gradients:
        raise InputError(
            f"saliency by gradient: the loss of {type(unwrap(model)).__name__} has no gradient "
            "with respect to its images; choose another way of looking"
        )
    # Scaled before it is squared: of a trained model it may be very small.
    joined = as_images("saliency by gradient", gradients)
    largest = joined.abs().amax((1, 2, 3), keepdim=True)
    scaled = joined / torch.where(largest > 0, largest, 1.0)
    return normalised(scaled.square().mean(1).sqrt().float())


def _gradients(total: Tensor, images: list[Tensor], model: nn.Module) -> Sequence[Tensor | None]:
    """Return the gradient with respect to each image; None where there is none."""
    if not total.requires_grad:
        return ()
    try:
        return torch.autograd.grad(total, images, allow_unused=True)
    except RuntimeError as error:
        if "use_reentrant" not in str(error):
            raise
        raise InputError(
            f"saliency by gradient: {type(unwrap(model)).__name__} has layers in checkpointed "
            "segments that allow no gradient of the input alone: checkpoint with "
            "use_reentrant=False, or look in another way (maps, attention)"
        ) from error


@contextlib.contextmanager
def _undistributed(model: nn.Module) -> Iterator[None]:
    """Run the model without what its wrappers wait for in a training step.

    DDP waits for gradients of parameters; Fabric lets no one but itself go backward through what
    its module returns, except in plain float32.
    """
    replaced: list[tuple[nn.Module, str, Callable[..., Any]]] = []
    for module in model.modules():
        if isinstance(module, nn.parallel.DistributedDataParallel):
            replaced.append((module, "forward", partial(module.module)))
        elif hasattr(module, "_register_backward_hook") and hasattr(module, "_forward_module"):
            replaced.append((module, "_register_backward_hook", lambda tensor: tensor))
    try:
        for module, name, instead in replaced:
            setattr(module, name, instead)
        yield
    finally:
        for module, name, _ in replaced:
            vars(module).pop(name, None)


def maps(model: nn.Module, x: Any, layer: str, mode: Any) -> Tensor:
    """Return what ``layer`` gives, the last time that it runs: (B, d, h, w) float32."""
    seen: list[Tensor] = []

    def keep(value: Tensor) -> Tensor:
        seen.append(value)
        return value

    with inference(model, mode), tapped(model, layer, keep, side="output"):
        run_on_copy(model, x)
    return seen[-1].float()


def activation(
    model: nn.Module, seen: Tensor, y: Tensor, found: Maps, check: Callable[[Tensor, int], None]
) -> Tensor:
    """Return the class activation maps of the samples' classes (arXiv:1512.04150).

    The maps as the head weighs their means for that class, less their least value, as SnapMix's
    code does it. Of soft and multi-label targets the classes' maps are summed by the targets.

    Args:
        model: a convolutional classifier.
        seen: (B, d, h, w), its last feature maps.
        y: class indices (B,), or (B, C).
        found: where the maps come from.
        check: raises an InputError unless y is of so many classes.

    Returns:
        (B, h, w) float32, each summing to 1.

    Raises:
        InputError: the head does not read the means of these maps, or has other classes than y.
    """
    inner = unwrap(model)
    module: Any = inner.get_submodule(found.head)
    channels = seen.shape[1]
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
    with torch.no_grad(), torch.autocast(seen.device.type, enabled=False):
        weight = module.weight
        weight = weight.full_tensor() if hasattr(weight, "full_tensor") else weight  # sharded
        of_class = weight.float().flatten(1)
        check(y, len(of_class))
        of_class = of_class[y.long()] if y.ndim == 1 else y.float() @ of_class
        weighed = torch.einsum("bd,bdhw->bhw", of_class, seen)
        return normalised(weighed - weighed.amin((-2, -1), keepdim=True))
