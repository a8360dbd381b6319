"""Where a vision transformer looks: the attention that its class token pays to the patches.

It is computed from the queries and keys of the last block, which hooks read as they come by in an
ordinary forward pass: the model is not changed, and its fused attention stays fused. Known are
plain vision transformers, whose blocks all see all tokens: timm's (ViT, DeiT, also distilled, EVA
and other rotary ones), Hugging Face's (ViT, DeiT, DINOv2, CLIP), torchvision's, and others that are
built alike.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixwell.errors import InputError
from mixwell.mix import tensors
from mixwell.view.cache import known
from mixwell.view.hooks import Side, inference, run_on_copy, tapped, unwrap, watch

__all__ = ["attending", "attention_of", "token_grid"]

Shape = tuple[int, ...]
Pair = tuple[Tensor, Tensor]


@contextlib.contextmanager
def attending(model: nn.Module, x: Any, seen: list[Tensor]) -> Iterator[None]:
    """While in the context, read the attention of the forward pass that runs in it.

    When the context ends, (rows, h, w) is appended to ``seen``, h and w being the grid of patches:
    the class token's attention to the patches in the last block, the mean of its heads, without
    that to the class token itself and to register and distillation tokens, scaled to sum to 1;
    float32 at least, without gradient. Where the classifier reads the mean of the patches instead
    of a class token (timm's ``global_pool="avg"``), it is the mean of the patches' attention, which
    weighs them in that mean as the class token's does.

    Args:
        model: a vision transformer; wrappers (DDP, torch.compile) are looked through.
        x: a batch of images, for the forward pass in which the layers are found; the answer is
            remembered.
        seen: what is appended to.

    Raises:
        InputError: the model has no attention of the kind.
    """
    reader = _reader(model, x)
    kept: dict[str, Any] = {}

    def keep(what: str, value: Any) -> Any:
        kept[what] = value
        return value

    with contextlib.ExitStack() as stack:
        stack.enter_context(tapped(model, reader.patches, partial(keep, "patches"), side="output"))
        for child, side in reader.way.taps:
            name = f"{reader.layer}.{child}" if child else reader.layer
            stack.enter_context(tapped(model, name, partial(keep, child), side=side))
        yield
    seen.append(_attention(unwrap(model), reader, kept))


def attention_of(model: nn.Module, x: Any) -> Tensor:
    """Return the class token's attention (B, h, w) to ``x``, by a pass in evaluation mode.

    See :func:`attending`. The model stays as it was.
    """
    seen: list[Tensor] = []
    with inference(model), attending(model, x, seen):
        run_on_copy(model, x)
    return seen[0]


def token_grid(model: nn.Module, x: Any) -> tuple[int, int]:
    """Return (h, w), the grid of patches that a vision transformer divides ``x`` into."""
    return _reader(model, x).grid


# --------------------------------------------------------------------- layers that can be read


@dataclass(frozen=True)
class _Way:
    """How the queries and keys of a kind of attention layer are read.

    Attributes:
        taps: what is kept in a pass: names of its children ("" for the layer itself), and sides.
        read: returns from the layer, what was kept, and the slice of the tokens whose queries are
            wanted, queries (rows, heads, ·, d) and keys (rows, heads, tokens, d).
    """

    taps: tuple[tuple[str, Side], ...]
    read: Callable[[Any, dict[str, Any], slice], Pair]


def _heads(layer: Any) -> int:
    heads = getattr(layer, "num_heads", None) or getattr(layer, "num_attention_heads", None)
    return heads if isinstance(heads, int) else 0


def _normed(layer: Any, kept: dict[str, Any], queries: slice) -> Pair:
    """timm's: what leaves ``q_norm`` and ``k_norm``, by head, is rotated if the model does so."""
    q, k = kept["q_norm"], kept["k_norm"]
    rope = kept.get("", {}).get("rope")
    if rope is not None:
        from timm.layers.pos_embed_sincos import apply_rot_embed_cat

        half = {"half": True} if getattr(layer, "rotate_half", False) else {}
        first = layer.num_prefix_tokens
        q, k = (
            torch.cat([z[:, :, :first], apply_rot_embed_cat(z[:, :, first:], rope, **half)], 2)
            for z in (q, k)
        )
    return q[:, :, queries], k


def _apart(names: tuple[str, str]) -> Callable[..., Pair]:
    """Hugging Face's: a projection each for queries and keys."""

    def read(layer: Any, kept: dict[str, Any], queries: slice) -> Pair:
        q, k = (kept[name].unflatten(2, (_heads(layer), -1)).transpose(1, 2) for name in names)
        return q[:, :, queries], k

    return read


def _joint(layer: Any, kept: dict[str, Any], queries: slice) -> Pair:
    """DeiT's own: one projection to queries, keys and values."""
    q, k, _ = kept["qkv"].unflatten(2, (3, _heads(layer), -1)).permute(2, 0, 3, 1, 4).unbind(0)
    return q[:, :, queries], k


def _stacked(layer: nn.MultiheadAttention, kept: dict[str, Any], queries: slice) -> Pair:
    """torch's: no layer of it gives queries and keys, so they are computed again."""
    x, width = kept[""], layer.embed_dim
    weight, bias = layer.in_proj_weight, layer.in_proj_bias

    def project(z: Tensor, rows: slice) -> Tensor:
        z = F.linear(z.to(weight.dtype), weight[rows], None if bias is None else bias[rows])
        return z.unflatten(2, (layer.num_heads, -1)).transpose(1, 2)

    return project(x[:, queries], slice(width)), project(x, slice(width, 2 * width))


_PARTS = {
    *("qkv", "query", "key", "value", "q_proj", "k_proj", "v_proj", "q_norm", "k_norm"),
    *("norm", "gate", "proj", "o_proj", "out_proj"),
}
"""Children that leave ``softmax(q kᵀ / √d)`` what it is; with others a layer may mean more."""

_PLACES = ("rope", "rotary", "position", "freqs")


def _way(layer: nn.Module) -> _Way | None:
    """Return how an attention layer is read; None for other layers and what is not understood."""
    if isinstance(layer, nn.MultiheadAttention):
        known = layer.batch_first and layer.in_proj_weight is not None and layer.bias_k is None
        return _Way((("", "input"),), _stacked) if known else None
    children = dict(layer.named_children())
    own = {name for name, _ in layer.named_parameters(recurse=False)}
    extra = {name for name, child in children.items() if next(child.parameters(), None) is not None}
    if not _heads(layer) or not extra or extra - _PARTS:
        return None
    arguments = inspect.signature(layer.forward).parameters
    rotary = [name for name in arguments if any(word in name for word in _PLACES)]
    if {"q_norm", "k_norm"} <= children.keys() and own <= {"q_bias", "v_bias"}:
        taps: tuple[tuple[str, Side], ...] = (("q_norm", "output"), ("k_norm", "output"))
        if rotary == ["rope"] and hasattr(layer, "num_prefix_tokens"):
            return _Way((("", "keywords"), *taps), _normed)
        return None if rotary else _Way(taps, _normed)
    if own or rotary:
        return None
    for names in (("query", "key"), ("q_proj", "k_proj")):
        if set(names) <= children.keys():
            return _Way(tuple((name, "output") for name in names), _apart(names))
    if isinstance(children.get("qkv"), nn.Linear):
        return _Way((("qkv", "output"),), _joint)
    return None


# ------------------------------------------------------------------------- finding the last one


@dataclass(frozen=True)
class _Reader:
    """How the attention of a model is read, for images of one size.

    Attributes:
        layer: the name of the last attention layer.
        way: how it is read.
        patches: the name of the convolution whose output has the grid of patches.
        grid: (h, w).
        prefix: how many tokens come before the patches'.
    """

    layer: str
    way: _Way
    patches: str
    grid: tuple[int, int]
    prefix: int


def _reader(model: nn.Module, x: Any) -> _Reader:
    shapes = tuple(tuple(leaf.shape[1:]) for leaf in tensors(x))
    return known(model, ("attention", shapes), lambda: _find(model, x))


def _find(model: nn.Module, x: Any) -> _Reader:
    inner = unwrap(model)
    ways = {name: way for name, layer in inner.named_modules() if (way := _way(layer))}
    ran = _trace(model, x, ways)
    size = len(tensors(x)[0])
    read = [(name, shape) for name, shape in ran if name in ways]
    if not read:
        kinds = {type(inner.get_submodule(name)).__name__ for name, shape in ran if not shape}
        ran_too = f" ({', '.join(sorted(kinds))} ran)" if kinds else ""
        raise _refusal(inner, f"no attention layer that ran is known{ran_too}")
    layer, (*_, tokens, _) = read[-1]
    after = ran[max(i for i, (name, _) in enumerate(ran) if name == layer) + 1 :]
    unknown = [
        name for name, shape in after if not shape and not f"{layer}.".startswith(f"{name}.")
    ]
    if unknown:
        kind = type(inner.get_submodule(unknown[-1])).__name__
        raise _refusal(
            inner, f"its attention layer {unknown[-1]!r} is a {kind}, which is not known"
        )
    if any("relative_" in name or "rel_pos" in name for name, _ in inner.named_parameters()):
        raise _refusal(inner, "its attention depends on relative positions")
    if any(shape[0] != size or shape[-2] != tokens for _, shape in read):
        raise _refusal(inner, "its attention layers do not all see all tokens of an image")
    first = next(i for i, (name, _) in enumerate(ran) if name in ways)
    maps = [(name, shape[2:]) for name, shape in ran[:first] if len(shape) == 4]
    grids = [(name, size) for name, size in maps if size[0] * size[1] <= tokens]
    if not grids:
        raise _refusal(inner, "no convolution makes patches of the image")
    patches, (height, width) = grids[-1]
    reader = _Reader(layer, ways[layer], patches, (height, width), tokens - height * width)
    expected = _of_owner(inner, layer, "num_prefix_tokens", reader.prefix)
    if reader.prefix != expected:
        raise _refusal(inner, f"its {tokens} tokens are not {expected} and {height} x {width}")
    return reader


def _trace(model: nn.Module, x: Any, ways: dict[str, _Way]) -> list[tuple[str, Shape]]:
    """Return what ran in a forward pass, in order: convolutions and attention layers.

    With the shape of the output of convolutions, and of what is read of the layers in ``ways``; ()
    of other attention layers.
    """
    read = {
        f"{name}.{child}".rstrip("."): name
        for name, way in ways.items()
        for child, side in way.taps
        if side != "keywords"
    }
    ran: list[tuple[str, Shape]] = []

    def note(name: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        whole = read.get(name) == name  # torch's layer: what enters it is read
        if name in read:
            values = args[:2] if whole else [output]
            ran.extend((read[name], tuple(value.shape)) for value in values)
        elif name not in ways and isinstance(module, nn.Conv2d):
            ran.append((name, tuple(output.shape)))
        elif name not in ways and _is_attention(module):
            ran.append((name, ()))

    watch(model, x, note)
    return ran


def _is_attention(module: nn.Module) -> bool:
    kind = type(module).__name__.lower()
    return "attn" in kind or "attention" in kind


def _of_owner(model: nn.Module, layer: str, attribute: str, default: Any) -> Any:
    """Return an attribute of the innermost module around a layer that has it."""
    while layer:
        layer = layer.rpartition(".")[0]
        value = getattr(model.get_submodule(layer), attribute, None)
        if value is not None:
            return value
    return default


def _refusal(model: nn.Module, reason: str) -> InputError:
    return InputError(
        f"the attention of {type(model).__name__} can't be read: {reason}; this way of mixing "
        "needs a plain vision transformer (timm's ViT, DeiT or EVA, Hugging Face's ViT, DeiT or "
        "DINOv2, torchvision's)"
    )


# -------------------------------------------------------------------------------- the attention


def _attention(model: nn.Module, reader: _Reader, kept: dict[str, Any]) -> Tensor:
    height, width = kept["patches"].shape[-2:]
    layer: Any = model.get_submodule(reader.layer)
    pool = _of_owner(model, reader.layer, "global_pool", "token")
    has_class = reader.prefix > 0 and pool not in ("avg", "avgmax", "max")
    has_class = has_class and not _lacks_class_token(model, reader.layer)
    queries = slice(0, 1) if has_class else slice(reader.prefix, None)
    kept = {
        name: value.detach() if isinstance(value, Tensor) else value for name, value in kept.items()
    }
    with torch.no_grad(), torch.autocast(kept["patches"].device.type, enabled=False):
        q, k = reader.way.read(layer, kept, queries)
        if k.shape[2] != reader.prefix + height * width:
            raise InputError(
                f"layer {reader.layer!r} of {type(model).__name__} sees {k.shape[2]} tokens, not "
                f"{reader.prefix} and {height} x {width} patches: where patches are dropped "
                "(patch_drop_rate) their attention can't be read"
            )
        precise = torch.float64 if q.dtype == torch.float64 else torch.float32
        q, k = q.to(precise), k.to(precise)
        if q.shape[1] != k.shape[1]:  # heads may share keys
            k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
        scale = getattr(layer, "scale", None) or getattr(layer, "scaling", None)
        scores = q @ k.transpose(2, 3) * (scale or q.shape[3] ** -0.5)
        paid = scores.softmax(3)[..., reader.prefix :].mean((1, 2))
        return (paid / paid.sum(1, keepdim=True)).unflatten(1, (height, width))


def _lacks_class_token(model: nn.Module, layer: str) -> bool:
    """Whether the tokens before the patches are registers alone."""
    owner = layer
    while owner:
        owner = owner.rpartition(".")[0]
        module = model.get_submodule(owner)
        if hasattr(module, "cls_token"):
            return module.cls_token is None
    return False
