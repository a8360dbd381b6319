"""Long tails: a few classes have most of the samples, and the test counts all alike.

python examples/long_tail.py --method remix+infinite_class --imbalance 50
"""

from __future__ import annotations

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

import mixwell
from mixwell.data.datasets import long_tailed


def main(argv: list[str] | None = None) -> float:
    """Train on a long tail of digits; return the accuracy on a balanced test set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", default="remix+infinite_class")
    parser.add_argument("--imbalance", type=float, default=50)
    parser.add_argument("--epochs", type=int, default=30)
    args = parser.parse_args(argv)

    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images / 16, dtype=torch.float32).view(-1, 1, 8, 8)
    train, test = random_split(TensorDataset(x, torch.tensor(labels)), [1297, 500])
    tail = long_tailed(train, args.imbalance)
    loader = DataLoader(tail, batch_size=32, shuffle=True, drop_last=True)

    model = nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(32 * 4 * 4, 64), nn.ReLU(), nn.Linear(64, 10)),
    )
    # Remix leans the label to the rarer class, and so has to know how rare each is.
    counts = {"class_counts": tail.class_counts} if "remix" in args.method else {}
    method = mixwell.create(args.method, num_classes=10, **counts)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    model.train()
    for epoch in range(args.epochs):
        for batch, (x, y) in enumerate(loader):
            method.set_progress((epoch + batch / len(loader)) / args.epochs)
            loss = method(model, x, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    model.eval()
    with torch.no_grad():
        x, y = next(iter(DataLoader(test, batch_size=len(test))))
        right = (model(x).argmax(1) == y).float()
    accuracy = right.mean().item()
    rare = right[y >= 5].mean().item()
    print(f"classes' samples: {tail.class_counts.tolist()}")
    print(f"{args.method}: accuracy {accuracy:.1%}, of the rarer five classes {rare:.1%}")
    return accuracy


if __name__ == "__main__":
    main()
