"""Draw the pictures of the methods, ``python docs/pictures.py [NAME ...]``.

They show photographs with a free licence that come with scikit-image and scikit-learn; whose they
are is told below the list of methods. Policies that ask the model where it looks ask a small
network that was trained to tell crops of these photographs apart.

The pictures have no ground of their own and a grey that can be read on a light and on a dark one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from pathlib import Path

import matplotlib
import torch
from matplotlib import pyplot as plt
from PIL import Image
from timm.models import VisionTransformer
from torch import Tensor, nn

import mixwell
from mixwell import InputError, MixedTarget, functional
from mixwell.losses import DecoupledBCE, DecoupledCrossEntropy, MixedCrossEntropy
from mixwell.mix import MultiMix

SIDE = 96
CLASSES = ("astronaut", "cat", "coffee", "rocket", "temple", "flower")
FOLDER = Path(__file__).parent / "images" / "methods"
COUNTS = [600.0, 300, 100, 60, 20, 10]
SHOWN = {"puzzlemix": {"blocks": 8}, "automix": {"mixer_lr": 0.02}, "samix": {"mixer_lr": 0.02}}
"""Settings that the pictures are drawn with, where the usual ones draw among several, or learn
their masks in more steps than are taken here."""
BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#8a8a8a"
INK = "#7b8490"
SHARES = matplotlib.colors.LinearSegmentedColormap.from_list("shares", [ORANGE, BLUE])
matplotlib.use("Agg")
plt.rcParams.update(
    {
        "savefig.transparent": True, "text.color": INK, "axes.labelcolor": INK,
        "axes.edgecolor": INK, "xtick.color": INK, "ytick.color": INK, "font.size": 10,
    }
)  # fmt: skip


@cache
def photographs() -> list[Tensor]:
    """Return the photographs, each (3, H, W) in [0, 1], in the order of the classes."""
    from skimage import data
    from sklearn.datasets import load_sample_image

    found = [data.astronaut(), data.cat(), data.coffee(), data.rocket()]
    found += [load_sample_image("china.jpg"), load_sample_image("flower.jpg")]
    return [torch.tensor(image).permute(2, 0, 1).float() / 255 for image in found]


# What is seen of each at the least: left, top and side of a square, in shares of the shorter side.
SUBJECTS = ((0.2, 0.0, 0.72), (0.33, 0.02, 0.8), (0.2, 0.0, 0.95), (0.35, 0.05, 0.8),
            (0.0, 0.0, 0.9), (0.28, 0.06, 0.85))  # fmt: skip


def pictures(size: int, seed: int, loose: float = 0.12) -> tuple[Tensor, Tensor]:
    """Return crops of the photographs, half of them mirrored: (N, 3, 96, 96), and their classes.

    Args:
        size: how many.
        seed: of the crops.
        loose: how far a crop may be from its subject, in shares of the shorter side.
    """
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(len(CLASSES), (size,), generator=generator)
    made = []
    for label in y.tolist():
        image = photographs()[label]
        height, width = image.shape[1:]
        shorter = min(height, width)
        left, top, side = (shorter * share for share in SUBJECTS[label])
        right, down, larger = (shorter * loose * torch.randn(3, generator=generator)).tolist()
        square = int(min(max(side + larger, 0.4 * shorter), shorter))
        x0 = int(min(max(left + right, 0), width - square))
        y0 = int(min(max(top + down, 0), height - square))
        crop = image[None, :, y0 : y0 + square, x0 : x0 + square]
        crop = nn.functional.interpolate(crop, (SIDE, SIDE), mode="bilinear", antialias=True)[0]
        made.append(crop.flip(2) if torch.rand((), generator=generator) < 0.5 else crop)
    return torch.stack(made), y


def convolutions() -> nn.Module:
    """Return a small convolutional network."""
    layers: list[nn.Module] = []
    width = 3
    for out in (16, 32, 64, 96):
        layers += [nn.Conv2d(width, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU()]
        layers.append(nn.MaxPool2d(2))
        width = out
    return nn.Sequential(
        *layers[:-1], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, len(CLASSES))
    )


def transformer() -> nn.Module:
    """Return a small vision transformer."""
    return VisionTransformer(
        img_size=SIDE, patch_size=8, embed_dim=96, depth=4, num_heads=3, num_classes=len(CLASSES)
    )


def trained(model: nn.Module, name: str = "erm", epochs: int = 8) -> tuple[nn.Module, nn.Module]:
    """Return the model after some epochs, and the method that it was trained with."""
    torch.manual_seed(0)
    x, y = pictures(600, 1)
    method = create(name)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(64):
            loss = method(model, x[batch], y[batch], index=batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model, method


@cache
def looking(network: Callable[[], nn.Module]) -> nn.Module:
    """Return the trained network that policies ask where it looks, made when it is first asked."""
    return trained(network())[0]


def create(name: str) -> mixwell.Method:
    """Return a method with what it needs to be told."""
    needed = {"class_counts": COUNTS} if "class_counts" in mixwell.describe(name).defaults else {}
    return mixwell.create(name, num_classes=len(CLASSES), **needed, **SHOWN.get(name, {}))


def model_for(name: str, method: mixwell.Method) -> nn.Module | None:
    """Return the network that a method asks where it looks; None where it asks none."""
    recipe = method.recipe
    if recipe is None or not recipe.looks_inside:
        return None
    if {"input", "auto"}.isdisjoint(recipe.interpolation.layers):  # no picture of it is drawn
        return None
    return looking(transformer if name in ("transmix", "tokenmix") else convolutions).eval()


def finish(name: str) -> None:
    """Write the figure that was drawn."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{name}.png"
    plt.savefig(path, dpi=110)
    with Image.open(path) as drawn:  # 256 colours: half the size, and no eye sees it
        drawn.quantize(256, method=Image.Quantize.FASTOCTREE).save(path, optimize=True)
    plt.close("all")


def mixed_inputs(name: str, method: mixwell.Method, model: nn.Module | None) -> None:
    """Draw pairs, where each position comes from, and the mix."""
    x, y = pictures(96, 2, loose=0.04)
    torch.manual_seed(3)
    made, _, mix = method.preview(x, y, model=model, index=torch.arange(len(x)))
    if isinstance(mix, MultiMix):
        sources = mix.partners
        order = mix.weights.max(1).values.argsort()
    else:
        sources = torch.stack([torch.arange(len(x)), mix.partner], 1)
        order = (mix.lam - 0.55).abs().argsort()
    mask = None if isinstance(mix, MultiMix) else mix.dense_mask()
    if name in ("puzzlemix", "automix", "samix"):  # of the even mixes those whose mask shows most
        assert mask is not None
        order = ((mix.lam - 0.5).abs().clamp(min=0.2) - mask.float().std((1, 2, 3))).argsort()
    chosen = varied(order.tolist(), y[sources])
    columns = sources.shape[1] + 1 + (mask is not None)
    _, axes = plt.subplots(
        2, 2 * columns + 1, figsize=(1.15 * (2 * columns + 0.3), 2.75), layout="constrained",
        width_ratios=[*[1] * columns, 0.25, *[1] * columns],
    )  # fmt: skip
    for axis in axes.flat:
        axis.axis("off")
    for place, sample in enumerate(chosen):
        row, column = divmod(place, 2)
        group = axes[row, column * (columns + 1) :][:columns]
        for axis, source in zip(group, sources[sample].tolist(), strict=False):
            axis.imshow(x[source].permute(1, 2, 0))
            axis.set_title(CLASSES[int(y[source])], fontsize=9)
        if mask is not None:
            group[-2].imshow(mask[sample, 0].float(), cmap=SHARES, vmin=0, vmax=1)
            group[-2].set_title("own: blue", fontsize=9)
            group[-2].axis("on")
            group[-2].set_xticks([])
            group[-2].set_yticks([])
        group[-1].imshow(made[sample].clamp(0, 1).permute(1, 2, 0))
        group[-1].set_title(f"λ = {float(mix.lam[sample]):.2f}", fontsize=9, fontweight="bold")
    finish(name)


def varied(order: list[int], classes: Tensor, count: int = 4) -> list[int]:
    """Return the first samples of an order whose sources show different classes, each pair once.

    Args:
        order: the samples, the best first.
        classes: (N, k) of each sample's sources.
        count: how many.
    """
    seen: set[frozenset[int]] = set()
    first, rest = [], []
    for sample in order:
        pair = frozenset(classes[sample].tolist())
        new = len(pair) > 1 and pair not in seen
        seen.add(pair)
        (first if new else rest).append(sample)
    return [*first, *rest][:count]


def by_similarity(name: str) -> None:
    """Draw a similar and a dissimilar pair, with their λ and how λ of such a pair is spread."""
    x, y = pictures(96, 2, loose=0.04)
    model = looking(convolutions).eval()
    method = create(name)
    torch.manual_seed(5)
    made, _, mix = method.preview(x, y, model=model)
    features = nn.Sequential(*list(model.children())[:-1])(x)
    tau = functional.similarity_tau(features, mix.partner)
    alike = y == y[mix.partner]
    far = torch.where(alike, torch.inf, tau).argsort()[:8]
    near = torch.where(alike, -torch.inf, -tau.log().abs() - (mix.lam - 0.5).abs())
    similar = torch.where(alike & (tau > 2), -(mix.lam - 0.5).abs(), -torch.inf).argmax()
    similar = similar if bool((alike & (tau > 2)).any()) else near.argmax()
    _, axes = plt.subplots(2, 4, figsize=(6.6, 3.3), layout="constrained",
                           width_ratios=[1, 1, 1, 1.6])  # fmt: skip
    for row, (sample, what) in enumerate(((int(similar), "similar"), (int(far[0]), "dissimilar"))):
        images = (x[sample], x[int(mix.partner[sample])], made[sample])
        lam = float(mix.lam[sample])
        titles = (
            f"{what}: {CLASSES[y[sample]]}",
            CLASSES[y[mix.partner[sample]]],
            f"λ = {lam:.2f}",
        )
        for axis, image, title in zip(axes[row], images, titles, strict=False):
            axis.imshow(image.clamp(0, 1).permute(1, 2, 0))
            axis.set_title(title, fontsize=9)
            axis.axis("off")
        draws = functional.sample_beta(tau[sample].expand(20_000))
        axes[row, 3].hist(draws, bins=40, range=(0, 1), density=True, color=BLUE)
        axes[row, 3].set_yticks([])
        axes[row, 3].spines[["top", "right", "left"]].set_visible(False)
        axes[row, 3].set_title(f"λ of such a pair, τ = {float(tau[sample]):.2g}", fontsize=9)
    finish(name)


def mixed_features(name: str) -> None:
    """Draw the features of three spirals in a plane in the network, and where they are moved."""
    torch.manual_seed(1)
    y = torch.arange(600) % 3
    radius = torch.rand(600).sqrt()
    angle = 2.5 * radius + y * 2 * torch.pi / 3 + 0.15 * torch.randn(600)
    x = torch.stack([radius * angle.cos(), radius * angle.sin()], 1)
    net = nn.Sequential(
        nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2), nn.Tanh(),
        nn.Linear(2, 3),
    )  # fmt: skip
    method = mixwell.create(name, num_classes=3, layer="head")
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(200):
        loss = method(net, x, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    seen: list[Tensor] = []
    handle = net[-1].register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    net(x)
    _, axes = plt.subplots(1, 2, figsize=(7, 3.3), layout="constrained", sharex=True,
                                sharey=True)  # fmt: skip
    handle.remove()
    first, last = seen[0], functional.mix(seen[0], method.step(net, x, y).mix)
    titles = ("features of the samples", "features as they are mixed")
    for axis, value, title in zip(axes, (first, last), titles, strict=True):
        axis.scatter(*value.T, c=[(BLUE, ORANGE, GREY)[c] for c in y], s=9, linewidths=0, alpha=0.8)
        axis.set_title(title, fontsize=10)
        axis.set_aspect("equal")
    finish(name)


def losses(name: str) -> None:
    """Draw the loss of an even mix over the logit of its first class."""
    logit = torch.linspace(-2, 10, 200)
    z = torch.zeros(200, 10)
    z[:, 1] = 4
    z[:, 0] = logit
    half = MixedTarget(torch.zeros(200).long(), torch.ones(200).long(), torch.full((200,), 0.5))
    _, axis = plt.subplots(figsize=(5.6, 3.1), layout="constrained")
    plain = MixedCrossEntropy(reduction="none")(z, half)
    axis.plot(logit, plain - plain.min(), color=GREY, label="mixed cross-entropy")
    if name == "decoupled":
        for eta, style in ((0.1, ":"), (1.0, "-")):
            loss = DecoupledCrossEntropy(eta=eta, reduction="none")(z, half)
            axis.plot(logit, loss - loss.min(), style, color=BLUE, label=f"DM, η = {eta}")
    else:
        loss = DecoupledBCE(reduction="none", over_classes="mean")(z, half)
        axis.plot(logit, loss - loss.min(), color=BLUE, label="DM(BCE)")
    axis.axvline(4, color=GREY, linewidth=0.8, linestyle="--")
    axis.text(3.9, axis.get_ylim()[1] * 0.9, "the other class's logit", fontsize=8, ha="right")
    axis.set_xlabel("logit of the first class, λ = 1/2")
    axis.set_ylabel("loss above its least")
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    finish(name)


def contrast(name: str) -> None:
    """Draw mixed digits against the mixed classifiers of their batch."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = torch.tensor(digits.data / 16, dtype=torch.float32)
    y = torch.tensor(digits.target)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(),
                        nn.Linear(64, 10))  # fmt: skip
    method = mixwell.create(name, num_classes=10)
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    for _ in range(60):
        for batch in torch.randperm(1400).split(100):
            loss = method(net, x[batch], y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        step = method.step(net, x[1400:], y[1400:])  # digits that it has not seen
    pairs: dict[tuple[int, int], int] = {}
    even = (step.target.lam - 0.6).abs().argsort().tolist()
    for sample in even:  # about evenly mixed, all of different classes, each pair once
        a, b = int(step.target.a[sample]), int(step.target.b[sample])
        if a != b and (b, a) not in pairs:
            pairs.setdefault((a, b), sample)
    chosen = torch.tensor(list(pairs.values())[:10])
    logits = step.logits[chosen]
    a, b, lam = step.target.a[chosen], step.target.b[chosen], step.target.lam[chosen]
    similarity = torch.lerp(logits[:, b], logits[:, a], lam).softmax(1)
    figure, axis = plt.subplots(figsize=(6.4, 4.6), layout="constrained")
    shown = axis.imshow(similarity, cmap="magma", vmin=0)
    names = [
        f"{float(own):.1f} · {int(i)} + {1 - float(own):.1f} · {int(j)}"
        for i, j, own in zip(a, b, lam, strict=True)
    ]
    axis.set_xticks(range(10), names, rotation=40, ha="right", fontsize=8)
    axis.set_yticks(range(10), names, fontsize=8)
    axis.set_xlabel("mixed classifiers")
    axis.set_ylabel("mixed samples")
    figure.colorbar(shown, label="softmax over classifiers")
    finish(name)


def schedule(name: str) -> None:
    """Draw the schedules of AM's λ."""
    t = torch.linspace(0, 1, 101)
    _, axis = plt.subplots(figsize=(5.6, 2.9), layout="constrained")
    for k, style in ((3.0, ":"), (5.0, "-"), (10.0, "--")):
        axis.plot(t, 0.5 + 0.5 * torch.exp(-k * t), style, color=BLUE, label=f"k = {k:g}")
    axis.axhline(0.5, color=GREY, linewidth=0.8)
    axis.text(0.01, 0.51, "the midpoint", fontsize=8)
    axis.set_xlabel("training progress t")
    axis.set_ylabel("own weight λ")
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    finish(name)


def regression(name: str) -> None:
    """Draw mixed points of a curve: far targets leave it, near ones stay by it."""
    torch.manual_seed(0)
    x = torch.rand(200, 1) * 6
    y = torch.sin(x[:, 0]) + 0.05 * torch.randn(200)
    _, axes = plt.subplots(1, 2, figsize=(7.4, 2.9), layout="constrained", sharey=True)
    for axis, (title, method) in zip(
        axes,
        (("mixup", mixwell.create("mixup", task="regression", alpha=2.0)),
         (f"{name}, bandwidth 0.1", mixwell.create(name, bandwidth=0.1))),
        strict=True,
    ):  # fmt: skip
        made, target, _ = method.preview(x, y)
        axis.scatter(x[:, 0], y, s=6, color=GREY, label="samples")
        axis.scatter(made[:, 0], target.dense(), s=8, color=BLUE, label="mixed")
        axis.set_title(title, fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False)
    finish(name)


def main(names: list[str]) -> None:
    """Draw the pictures of these methods; of all without names."""
    special = {
        "sk_mixup": by_similarity, "decoupled": losses, "decoupled_bce": losses,
        "am_mixup": schedule, "c_mixup": regression,
    }  # fmt: skip
    for name in names or mixwell.list_methods():
        print(name)
        if name in special:
            special[name](name)
            continue
        if name == "manifold_mixup":
            mixed_features(name)
            continue
        if name == "infinite_class":
            contrast(name)
            continue
        if name in ("automix", "samix"):  # what masks are learnt by must have learnt itself
            model, method = trained(deepcopy(looking(convolutions)), name, epochs=30)
            model.eval()
        else:
            method = create(name)
            model = model_for(name, method)
        try:
            mixed_inputs(name, method, model)
        except InputError as error:
            if name == "erm" or "regression" in mixwell.describe(name).tasks[:1]:
                continue
            if "inside the model" not in str(error):
                raise
            print(f"  {name} mixes feature maps: no picture")


if __name__ == "__main__":
    main(sys.argv[1:])
