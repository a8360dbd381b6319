"""A plain PyTorch loop: the method stands where the loss was.

python examples/plain_loop.py --method sk_mixup+decoupled --epochs 5
"""

from __future__ import annotations

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

import mixwell


def main(argv: list[str] | None = None) -> float:
    """Train on handwritten digits; return the accuracy on those held out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", default="sk_mixup+decoupled")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--lr", type=float, default=3e-3)
    args = parser.parse_args(argv)

    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images / 16, dtype=torch.float32).view(-1, 1, 8, 8)
    train, test = random_split(TensorDataset(x, torch.tensor(labels)), [1297, 500])
    loader = DataLoader(train, batch_size=64, shuffle=True)

    model = nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(32 * 4 * 4, 64), nn.ReLU(), nn.Linear(64, 10)),
    ).to(device)
    method = mixwell.create(args.method, num_classes=10)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)

    model.train()
    for epoch in range(args.epochs):
        for batch, (x, y) in enumerate(loader):
            method.set_progress((epoch + batch / len(loader)) / args.epochs)  # for schedules
            loss = method(model, x.to(device), y.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    model.eval()
    with torch.no_grad():
        x, y = next(iter(DataLoader(test, batch_size=len(test))))
        accuracy = (model(x.to(device)).argmax(1).cpu() == y).float().mean().item()
    print(f"{args.method}: accuracy {accuracy:.1%} on {len(test)} digits")
    return accuracy


if __name__ == "__main__":
    main()
