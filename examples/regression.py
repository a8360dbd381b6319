"""Regression: mixing inputs and real targets, here of partners with close targets.

python examples/regression.py --method c_mixup --epochs 100
"""

from __future__ import annotations

import argparse

import torch
from sklearn.datasets import load_diabetes
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import mixwell


def main(argv: list[str] | None = None) -> float:
    """Predict the progress of diabetes; return R² on the patients held out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", default="c_mixup")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--lr", type=float, default=3e-3)
    args = parser.parse_args(argv)

    torch.manual_seed(0)
    values, progress = load_diabetes(return_X_y=True)
    x = torch.tensor(values, dtype=torch.float32)
    y = torch.tensor(progress, dtype=torch.float32)
    order = torch.randperm(len(y))
    train, test = order[:342], order[342:]
    # Distances and bandwidths are in the targets' units: both sides are standardised.
    x = (x - x[train].mean(0)) / x[train].std(0)
    y = (y - y[train].mean()) / y[train].std()
    loader = DataLoader(TensorDataset(x[train], y[train]), batch_size=32, shuffle=True)

    model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 1))
    method = mixwell.create(args.method, task="regression")
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0.1)

    model.train()
    for _ in range(args.epochs):
        for batch in loader:
            loss = method(model, *batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    model.eval()
    with torch.no_grad():
        error = (model(x[test])[:, 0] - y[test]).square().mean()
    r2 = 1 - (error / y[test].var(correction=0)).item()
    print(f"{args.method}: R² {r2:.3f} on {len(test)} patients")
    return r2


if __name__ == "__main__":
    main()
