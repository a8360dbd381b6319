"""Lightning Fabric: devices, processes and precision, and still a loop of one's own.

python examples/fabric.py --method manifold_mixup --precision bf16-mixed
"""

from __future__ import annotations

import argparse

import torch
from lightning.fabric import Fabric
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

import mixwell


def main(argv: list[str] | None = None) -> float:
    """Train on handwritten digits; return the accuracy on those held out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", default="manifold_mixup")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--precision", default="bf16-mixed")
    args = parser.parse_args(argv)

    fabric = Fabric(devices=1, precision=args.precision)
    fabric.launch()
    fabric.seed_everything(fabric.global_rank, verbose=False)  # each process has its own draws
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images / 16, dtype=torch.float32).view(-1, 1, 8, 8)
    split = torch.Generator().manual_seed(0)  # alike in all processes
    train, test = random_split(TensorDataset(x, torch.tensor(labels)), [1297, 500], split)
    loader, held_out = fabric.setup_dataloaders(
        DataLoader(train, batch_size=64, shuffle=True), DataLoader(test, batch_size=len(test))
    )

    model = nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(32 * 4 * 4, 64), nn.ReLU(), nn.Linear(64, 10)),
    )
    method = mixwell.create(args.method, num_classes=10).to(fabric.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model, optimizer = fabric.setup(model, optimizer)

    model.train()
    for epoch in range(args.epochs):
        for batch, (x, y) in enumerate(loader):
            method.set_progress((epoch + batch / len(loader)) / args.epochs)
            loss = method(model, x, y)  # the model as Fabric returned it
            optimizer.zero_grad()
            fabric.backward(loss)
            optimizer.step()

    model.eval()
    with torch.no_grad():
        x, y = next(iter(held_out))
        accuracy = (model(x).argmax(1) == y).float().mean().item()
    fabric.print(f"{args.method}: accuracy {accuracy:.1%} on {len(test)} digits")
    return accuracy


if __name__ == "__main__":
    main()
