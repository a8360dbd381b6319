"""Transfer: the backbone is trained and frozen, and a new head learns new classes by mixing.

python examples/transfer.py --method sk_mixup --shots 10
"""

from __future__ import annotations

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset, random_split

import mixwell
from mixwell.data.datasets import few_shot


def fit(model: nn.Module, method: mixwell.Method, train: Dataset, epochs: int) -> None:
    """Train those parameters that are not frozen."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=3e-3)
    for _ in range(epochs):
        for x, y in DataLoader(train, batch_size=32, shuffle=True):
            loss = method(model, x, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def main(argv: list[str] | None = None) -> float:
    """Learn 0 to 4 from all, then 5 to 9 from a few of each; return the accuracy on the latter."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", default="sk_mixup")
    parser.add_argument("--shots", type=int, default=10, help="samples of each new class")
    parser.add_argument("--epochs", type=int, default=40)
    args = parser.parse_args(argv)

    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images / 16, dtype=torch.float32).view(-1, 1, 8, 8)
    y = torch.tensor(labels)
    old = TensorDataset(x[y < 5], y[y < 5])
    new = TensorDataset(x[y >= 5], y[y >= 5] - 5)
    rest, test = random_split(new, [len(new) - 400, 400])

    backbone = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()
    )
    fit(nn.Sequential(backbone, nn.Linear(512, 5)), mixwell.create("erm"), old, epochs=5)

    for parameter in backbone.parameters():
        parameter.requires_grad = False
    model = nn.Sequential(backbone, nn.Linear(512, 5))
    # Mixed at the head's input: the frozen backbone runs once, on the samples as they are.
    method = mixwell.create(args.method, num_classes=5, layer="head")
    fit(model, method, few_shot(rest, args.shots), args.epochs)

    model.eval()
    with torch.no_grad():
        x, y = next(iter(DataLoader(test, batch_size=len(test))))
        accuracy = (model(x).argmax(1) == y).float().mean().item()
    print(f"{args.method}: accuracy {accuracy:.1%}, from {args.shots} of each new class")
    return accuracy


if __name__ == "__main__":
    main()
