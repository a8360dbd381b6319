"""Draw the pictures of the methods, ``python docs/pictures.py [NAME ...]``.

They show images of the data set "shapes" at 64 pixels. Policies that ask the model where it looks
ask a small network that was trained on these images for a minute first.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import matplotlib
import torch
from matplotlib import pyplot as plt
from timm.models import VisionTransformer
from torch import Tensor, nn

import mixwell
from mixwell import InputError, MixedTarget, functional
from mixwell.data.shapes import CLASSES, shapes
from mixwell.losses import DecoupledBCE, DecoupledCrossEntropy, MixedCrossEntropy
from mixwell.mix import MultiMix

SIDE = 64
FOLDER = Path(__file__).parent / "images" / "methods"
COUNTS = [600.0, 500, 400, 300, 200, 100, 60, 40, 20, 10]
BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#8a8a8a"
matplotlib.use("Agg")


def pictures(size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return images (N, 3, 64, 64) in [0, 1] and their classes."""
    x, y = shapes(size, seed, SIDE)
    return x.float() / 255, y


def convolutions() -> nn.Module:
    """Return a small convolutional network."""
    layers: list[nn.Module] = []
    width = 3
    for out in (24, 48, 96, 96):
        layers += [nn.Conv2d(width, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU()]
        layers.append(nn.MaxPool2d(2))
        width = out
    return nn.Sequential(*layers[:-1], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 10))


def transformer() -> nn.Module:
    """Return a small vision transformer."""
    return VisionTransformer(
        img_size=SIDE, patch_size=8, embed_dim=96, depth=4, num_heads=3, num_classes=10
    )


def trained(model: nn.Module, name: str = "erm", epochs: int = 4) -> tuple[nn.Module, nn.Module]:
    """Return the model after some epochs, and the method that it was trained with."""
    torch.manual_seed(0)
    x, y = pictures(3000, 1)
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
    return mixwell.create(name, num_classes=10, **needed)


def finish(name: str) -> None:
    """Write the figure that was drawn."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    plt.savefig(FOLDER / f"{name}.png", dpi=80)
    plt.close("all")


def mixed_inputs(name: str, method: mixwell.Method, model: nn.Module) -> None:
    """Draw pairs, where each position comes from, and the mix."""
    x, y = pictures(256, 2)
    torch.manual_seed(3)
    made, _, mix = method.preview(x, y, model=model, index=torch.arange(len(x)))
    # Pairs of different classes, about evenly mixed: there is most to see.
    if isinstance(mix, MultiMix):
        sources = mix.partners
        order = (mix.weights.max(1).values).argsort()
    else:
        sources = torch.stack([torch.arange(len(x)), mix.partner], 1)
        order = ((mix.lam - 0.55).abs() + (y == y[mix.partner]).float()).argsort()
    mask = None if isinstance(mix, MultiMix) else mix.dense_mask()
    chosen = order[:4]
    columns = sources.shape[1] + 1 + (mask is not None)
    _, axes = plt.subplots(
        2, 2 * columns + 1, figsize=(1.15 * (2 * columns + 0.3), 2.75), layout="constrained",
        width_ratios=[*[1] * columns, 0.25, *[1] * columns],
    )  # fmt: skip
    for axis in axes.flat:
        axis.axis("off")
    for place, sample in enumerate(chosen.tolist()):
        row, column = divmod(place, 2)
        group = axes[row, column * (columns + 1) :][:columns]
        for axis, source in zip(group, sources[sample].tolist(), strict=False):
            axis.imshow(x[source].permute(1, 2, 0))
            axis.set_title(CLASSES[int(y[source])], fontsize=9)
        if mask is not None:
            group[-2].imshow(mask[sample, 0].float(), cmap="gray", vmin=0, vmax=1)
            group[-2].set_title("own weight", fontsize=9)
            group[-2].axis("on")
            group[-2].set_xticks([])
            group[-2].set_yticks([])
        group[-1].imshow(made[sample].clamp(0, 1).permute(1, 2, 0))
        group[-1].set_title(f"λ = {float(mix.lam[sample]):.2f}", fontsize=9, fontweight="bold")
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
    special = {"decoupled": losses, "decoupled_bce": losses, "am_mixup": schedule,
               "c_mixup": regression}  # fmt: skip
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
        if name in ("automix", "samix"):
            model, method = trained(convolutions(), name, epochs=1)
        else:
            model, method = looking(transformer if name in ("transmix", "tokenmix")
                                    else convolutions), create(name)  # fmt: skip
        try:
            mixed_inputs(name, method, model.eval())
        except InputError as error:
            if name == "erm" or "regression" in mixwell.describe(name).tasks[:1]:
                continue
            if "inside the model" not in str(error):
                raise
            print(f"  {name} mixes feature maps: no picture")


if __name__ == "__main__":
    main(sys.argv[1:])
