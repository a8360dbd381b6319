"""torchvision: MixUp and CutMix of transforms.v2, replaced, in the loader's workers.

python examples/torchvision_collate.py --per sample --workers 2
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, default_collate, random_split
from torchvision.transforms import v2

from mixwell.compat.torchvision import CutMix, MixUp  # instead of torchvision.transforms.v2


class MixingCollate:
    """Makes a batch of samples and mixes it; a class, so that workers can be handed it."""

    def __init__(self, num_classes: int, per: Any) -> None:
        self.mix = v2.RandomChoice(
            [CutMix(num_classes=num_classes, per=per), MixUp(num_classes=num_classes, per=per)]
        )

    def __call__(self, samples: list[Any]) -> tuple[Tensor, Tensor]:
        """Return mixed images (B, 1, 8, 8) and dense targets (B, C)."""
        return self.mix(*default_collate(samples))


def main(argv: list[str] | None = None) -> float:
    """Train on handwritten digits; return the accuracy on those held out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--per", choices=["sample", "batch"], default="sample")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--workers", type=int, default=0)
    args = parser.parse_args(argv)

    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images / 16, dtype=torch.float32).view(-1, 1, 8, 8)
    train, test = random_split(TensorDataset(x, torch.tensor(labels)), [1297, 500])
    collate = MixingCollate(num_classes=10, per=args.per)
    loader = DataLoader(
        train, batch_size=64, shuffle=True, num_workers=args.workers, collate_fn=collate
    )

    model = nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(32 * 4 * 4, 64), nn.ReLU(), nn.Linear(64, 10)),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model.train()
    for _ in range(args.epochs):
        for x, target in loader:
            loss = F.cross_entropy(model(x), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    model.eval()
    with torch.no_grad():
        x, y = next(iter(DataLoader(test, batch_size=len(test))))
        accuracy = (model(x).argmax(1) == y).float().mean().item()
    print(f"per {args.per}: accuracy {accuracy:.1%} on {len(test)} digits")
    return accuracy


if __name__ == "__main__":
    main()
