"""Seeded training ends where it ended before: what every method draws, and in which order.

The numbers are of version a73edf8, before the engine's second form; ``python
tests/methods/test_seeded.py NAME...`` writes those of the named cases anew, where a change of what
is drawn is meant.
"""

import json
import math
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import mixwell
from mixwell.methods.registry import accepts

CLASSES = 4
GOLDEN = Path(__file__).parents[1] / "golden" / "seeded_steps.json"

VARIANTS = {
    "sk_mixup, remembered": ("sk_mixup", {"distance": "remembered", "capacity": 20}),
    "sk_mixup, at the head": ("sk_mixup", {"layer": "head"}),
    "sk_mixup, batch statistics": ("sk_mixup", {"feature_mode": "train"}),
    "sk_mixup, p": ("sk_mixup", {"p": 0.5}),
    "mixup, a layer": ("mixup", {"layer": "3"}),
    "mixup, two layers": ("mixup", {"layer": ["input", "3"]}),
    "mixup, near": ("mixup", {"pairing": "NearestNeighbour", "k": 2}),
    "regmixup+am_mixup": ("regmixup+am_mixup", {}),
    "sk_mixup+decoupled": ("sk_mixup+decoupled", {}),
    "cutmix+infinite_class": ("cutmix+infinite_class", {}),
    "manifold_mixup+am_mixup": ("manifold_mixup+am_mixup", {}),
    "mit+cutmix": ("mit+cutmix", {}),
    "mit+manifold_mixup": ("mit+manifold_mixup", {}),
    "rankmixup_ndcg+cutmix": ("rankmixup_ndcg+cutmix", {}),
    "rankmixup+manifold_mixup": ("rankmixup+manifold_mixup", {}),
    "randomix, per sample": ("randomix", {"per": "sample"}),
    "snapmix, per batch": ("snapmix", {"per": "batch"}),
    "mixup, several classes": ("mixup", {"task": "multilabel"}),
    "cutmix, class maps": ("cutmix", {"task": "segmentation"}),
    "decoupled, class maps": ("decoupled", {"task": "segmentation"}),
    "mixup, real targets": ("mixup", {"task": "regression"}),
    "sk_mixup, real targets": ("sk_mixup", {"task": "regression", "target_tau_std": 1.0}),
}


def cases():
    return [*mixwell.list_methods(), *VARIANTS]


def network(task, name):
    if {"transmix", "tokenmix"} & set(name.split("+")):
        timm = pytest.importorskip("timm")
        return timm.models.VisionTransformer(
            img_size=16, patch_size=4, embed_dim=16, depth=2, num_heads=2, num_classes=CLASSES
        )
    if task == "segmentation":
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, CLASSES, 1)
        )
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Sequential(nn.Conv2d(8, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(12, 12, 3, padding=1), nn.ReLU()),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2),
        nn.Linear(12, 1 if task == "regression" else CLASSES),
    )  # fmt: skip


def targets(task, size):
    if task == "multilabel":
        return (torch.rand(size, CLASSES) < 0.5).double()
    if task == "segmentation":
        return torch.randint(CLASSES, (size, 16, 16))
    if task == "regression":
        return torch.randn(size, dtype=torch.float64)
    return torch.randint(CLASSES, (size,))


def draws_of_torch():
    """Return what torch's own generators and layers draw: versions of it differ."""
    torch.manual_seed(0)
    drawn = [
        nn.Conv2d(3, 8, 3).weight.flatten(), nn.functional.dropout(torch.ones(40), 0.2),
        torch.rand(5), torch.randn(5), torch.randperm(10), torch.randint(9, (5,)),
        torch._standard_gamma(torch.full((5,), 0.7)), torch.empty(5).exponential_(),
    ]  # fmt: skip
    return [float(value.detach().double().cos().sum()) for value in drawn]


def train(case):
    """Return what three steps came to: their losses, and the weights seen from four sides."""
    name, options = VARIANTS.get(case, (case, {}))
    options = dict(options)
    if accepts(name, "class_counts"):
        options["class_counts"] = [40, 20, 10, 5]
    task = options.get("task", mixwell.describe(name).tasks[0])
    torch.manual_seed(0)
    method = mixwell.create(name, num_classes=None if task == "regression" else CLASSES, **options)
    model = network(task, name).double()
    parameters = list(model.parameters())
    size = 10
    x, y = torch.rand(size, 3, 16, 16, dtype=torch.float64), targets(task, size)
    losses = []
    for step in range(3):
        method.set_progress(step / 3)
        loss = method(model, x, y, index=torch.arange(size))
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    parameter -= 0.1 * gradient
        losses.append(float(loss.detach()))
    weights = torch.cat(
        [value.detach().flatten().double() for value in model.state_dict().values()]
    )
    place = torch.arange(1, len(weights) + 1, dtype=torch.float64)
    sides = [float((weights * torch.cos(place * k)).sum()) for k in range(4)]
    return losses + sides


@pytest.mark.cases(quick=21)
@pytest.mark.parametrize("case", cases())
def test_seeded_training_ends_where_it_did(case):
    known = json.loads(GOLDEN.read_text())
    if not torch.allclose(torch.tensor(draws_of_torch()), torch.tensor(known["torch draws"])):
        pytest.skip("this version of torch draws other numbers than that which these are of")
    expected = known[case]
    found = train(case)
    for value, before in zip(found, expected, strict=True):
        assert math.isclose(value, before, rel_tol=1e-6, abs_tol=1e-7), f"{found}, not {expected}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    known = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    known["torch draws"] = draws_of_torch()
    for case in sys.argv[1:] or cases():
        known[case] = train(case)
    GOLDEN.write_text(json.dumps(known, indent=1) + "\n")
